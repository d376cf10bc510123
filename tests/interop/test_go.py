"""Go's crypto/x509, which checks other things than openssl does, accepts every chain."""

import shutil
from pathlib import Path

import pytest

from certd.pki.key_spec import KeySpec
from tests.interop.hierarchy import HOST, WILDCARD_HOST, Hierarchy, run

GO = shutil.which("go") or "/usr/local/go/bin/go"

pytestmark = pytest.mark.skipif(not Path(GO).exists(), reason="there is no Go on this machine")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """verify.go, which needs the standard library alone."""
    built = tmp_path_factory.mktemp("go") / "verify"
    ended = run(GO, "build", "-o", built, Path(__file__).with_name("verify.go"))
    assert ended.returncode == 0, ended.stdout
    return built


@pytest.mark.parametrize("host", [HOST, WILDCARD_HOST, "192.0.2.7", "2001:db8::7"])
def test_go_verifies_every_chain(program: Path, hierarchy: Hierarchy, host: str) -> None:
    leaves = [*hierarchy.leaves.values(), hierarchy.exported.certificate]
    ended = run(program, hierarchy.root, hierarchy.subordinate, host, *leaves)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.splitlines() == [f"{leaf}: OK" for leaf in leaves]


def test_go_refuses_what_it_should(program: Path, hierarchy: Hierarchy) -> None:
    leaf = hierarchy.leaves[KeySpec.EC_P256]
    ended = run(program, hierarchy.root, hierarchy.subordinate, "apps.example.internal", leaf)
    assert ended.returncode == 1
    assert "not apps.example.internal" in ended.stdout
    ended = run(program, hierarchy.subordinate, hierarchy.root, "www.example.internal", leaf)
    assert ended.returncode == 1
