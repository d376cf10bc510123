"""The list of keys whose private halves everybody knows: from the configuration to the refusal."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import DNSName

from certd import main
from certd.config import Config, Prepare
from certd.errors import CertdError, Reason
from certd.pki.weak_keys import use_known_keys
from certd.prepare.known_keys import known_keys_of
from certd.services.steps import no_step
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.prepare.asking import ask, item, made, running_preparer, terms_of, told
from tests.services.conftest import configuration, csr_for, running_world
from tests.softhsm import make_token
from tests.unit.memory_authority import MemoryAuthority, csr, der_of

_KNOWN = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(autouse=True)
def known_keys_are_off_again() -> Iterator[None]:
    yield
    use_known_keys(None)


@pytest.fixture(scope="module")
def token_settings(tmp_path_factory: pytest.TempPathFactory) -> TokenSettings:
    return make_token(tmp_path_factory.mktemp("token"))


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A list with one key that we have, among others."""
    numbers = [_KNOWN.public_key().public_numbers().x, *range(500)]
    digests = sorted(
        hashlib.sha256(number.to_bytes((number.bit_length() + 7) // 8)).digest()[:15] for number in numbers
    )
    path = tmp_path / "blocklist.dat"
    path.write_bytes(b"".join(digest + b"\x01" for digest in digests))
    return path


def known_csr() -> bytes:
    return der_of(csr(_KNOWN, san=[DNSName("www.example.internal")]))


def with_list(config: Config, path: Path, processes: int) -> Config:
    return config.model_copy(update={"prepare": Prepare(processes=processes, known_weak_keys=str(path))})  # type: ignore[arg-type]  # Parsed.


def test_a_process_refuses_what_stands_in_its_list(known: Path, authority: MemoryAuthority) -> None:
    with running_preparer(1, f"--known-weak-keys={known}") as preparer:
        (answer,) = ask(preparer, terms_of(authority), [item(known_csr())])
        assert told(answer).reason is Reason.KEY_TOO_WEAK
        made(*ask(preparer, terms_of(authority), [item()]))
    with running_preparer(1) as without:
        made(*ask(without, terms_of(authority), [item(known_csr())]))


@pytest.mark.parametrize("processes", [0, 1])
def test_a_listed_key_is_certified_by_nobody(
    tmp_path: Path, token_settings: TokenSettings, known: Path, processes: int
) -> None:
    config = with_list(configuration(tmp_path, token_settings), known, processes)
    with running_world(config, FakeClock()) as world:
        assert len(world.core.preparer.process_ids) == processes
        world.create_root()
        with pytest.raises(CertdError) as refused:
            world.issue(authority="root", csr=known_csr())
        assert refused.value.reason is Reason.KEY_TOO_WEAK
        assert [violation.field for violation in refused.value.violations] == ["csr.public_key"]
        assert world.issue(authority="root", csr=csr_for("www.example.internal")).der


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _turn_round(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"".join(data[at : at + 16] for at in range(len(data) - 16, -16, -16)))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut_off, _turn_round, _empty, Path.unlink])
def test_a_list_that_is_none_stops_the_start_before_anything_is_opened(
    tmp_path: Path, token_settings: TokenSettings, known: Path, damage: Callable[[Path], object]
) -> None:
    damage(known)
    with pytest.raises(CertdError, match="again") as refused:
        known_keys_of(known)
    assert refused.value.reason is Reason.FIELD_INVALID
    with pytest.raises(CertdError) as refused:
        main.assemble(with_list(configuration(tmp_path, token_settings), known, 1), clock=FakeClock(), step=no_step)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in refused.value.violations] == ["prepare.known_weak_keys"]
    assert str(known) in refused.value.message
    assert not (tmp_path / "certd.db").exists()
