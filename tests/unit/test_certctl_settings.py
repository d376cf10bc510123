from pathlib import Path

import pytest

from certd.cli.certctl.settings import read_file, resolve, resolve_tenant, settings_file
from certd.errors import CertdError

FILE = {"address": "file:1", "certificate": "/f/c", "private_key": "/f/k", "trust_bundle": "/f/r"}
WHERE = Path("/home/someone/.config/certd/certctl.toml")


def test_flags_win_over_environment_and_that_over_the_file() -> None:
    environment = {"CERTCTL_ADDRESS": "environment:2", "CERTCTL_PRIVATE_KEY": "/e/k"}
    settings = resolve({"address": "flag:3"}, environment, FILE, WHERE)
    assert settings.address == "flag:3"
    assert settings.private_key == Path("/e/k")
    assert settings.certificate == Path("/f/c")


@pytest.mark.parametrize("key", ["address", "certificate", "private_key", "trust_bundle"])
def test_what_is_missing_is_named_with_every_place_for_it(key: str) -> None:
    file = {k: v for k, v in FILE.items() if k != key}
    with pytest.raises(CertdError) as caught:
        resolve({}, {}, file, WHERE)
    for place in (f"--{key.replace('_', '-')}", f"CERTCTL_{key.upper()}", str(WHERE)):
        assert place in caught.value.message


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":8443", "localhost:0", "localhost:70000", "http://a:1", "a:b"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(CertdError, match="host:port"):
        resolve({"address": address}, {}, FILE, WHERE)


def test_an_ipv6_address_passes() -> None:
    assert resolve({"address": "[::1]:8443"}, {}, FILE, WHERE).address == "[::1]:8443"


def test_relative_paths_are_of_the_files_directory(tmp_path: Path) -> None:
    file = tmp_path / "certctl.toml"
    file.write_text('address = "localhost:8443"\ncertificate = "admin.pem"\nprivate_key = "/abs/key.pem"\n')
    assert read_file(file) == {
        "address": "localhost:8443",
        "certificate": str(tmp_path / "admin.pem"),
        "private_key": "/abs/key.pem",
    }


def test_no_file_is_no_settings_unless_it_was_named(tmp_path: Path) -> None:
    assert read_file(tmp_path / "none.toml") == {}
    with pytest.raises(CertdError, match="does not exist"):
        read_file(tmp_path / "none.toml", required=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("adress = 'a:1'", "unknown key adress"),
        ("address = 1", "must be a text"),
        ("address =", "not TOML"),
        ("\xff", "TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "certctl.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(CertdError, match=problem) as caught:
        read_file(file)
    assert str(file) in caught.value.message


def test_the_file_is_below_home_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert settings_file({}) == WHERE
    assert settings_file({"CERTCTL_CONFIG": "~/other.toml"}) == Path("/home/someone/other.toml")


def test_the_tenant_follows_the_same_order() -> None:
    assert resolve_tenant(None, {}, {}) == "default"
    assert resolve_tenant(None, {}, {"tenant": "file"}) == "file"
    assert resolve_tenant(None, {"CERTCTL_TENANT": "environment"}, {"tenant": "file"}) == "environment"
    assert resolve_tenant("tenants/flag", {"CERTCTL_TENANT": "environment"}, {}) == "flag"
