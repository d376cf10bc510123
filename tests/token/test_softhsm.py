"""The token that `certd init` makes: whole or not at all, with PINs that stood in no argument."""

import os
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.token.client import PinUser, start_child
from certd.token.settings import TokenSettings
from certd.token.softhsm import SoftHsmToken, create_softhsm_token, find_module
from tests.token.material import make_authority, make_certificate, verifies

USER_PIN = b"a-user-pin"
SO_PIN = b"an-officer-pin"


def settings_of(token: SoftHsmToken, pin_file: Path) -> TokenSettings:
    pin_file.touch(mode=0o600)
    pin_file.write_bytes(USER_PIN)
    return TokenSettings(module=find_module(), label="made", pin_file=pin_file, softhsm_conf=token.configuration)


def test_it_is_made_once_and_has_the_real_pins(tmp_path: Path) -> None:
    directory = tmp_path / "softhsm"
    # What a crash left behind.
    leftover = tmp_path / ".softhsm.unfinished"
    (leftover / "tokens").mkdir(parents=True)
    (leftover / "softhsm2.conf").write_text("half-made")
    token = create_softhsm_token(directory, label="made", user_pin=USER_PIN, so_pin=SO_PIN)
    assert {path.name for path in tmp_path.iterdir()} == {"softhsm"}
    assert {path.name for path in directory.iterdir()} == {"softhsm2.conf", "tokens"}
    assert directory.stat().st_mode & 0o777 == 0o700
    made = sorted(directory.rglob("*"))
    client = start_child(settings_of(token, tmp_path / "pin"))
    try:
        assert client.wait_ready(20), client.problem
        authority = make_authority(client)
        item = authority.item(make_certificate())
        assert verifies(authority, item, client.sign([item], timeout=20)[0])
        client.set_pin(user=PinUser.SECURITY_OFFICER, old_pin=SO_PIN, new_pin=SO_PIN)
    finally:
        client.stop()
    again = create_softhsm_token(directory, label="made", user_pin=b"another-pin", so_pin=b"another-pin")
    assert again == token
    assert set(made) <= set(directory.rglob("*"))


@pytest.mark.parametrize(("user_pin", "so_pin"), [(b"1", SO_PIN), (USER_PIN, b"1")])
def test_a_pin_that_is_refused_leaves_no_token(tmp_path: Path, user_pin: bytes, so_pin: bytes) -> None:
    directory = tmp_path / "softhsm"
    with pytest.raises(CertdError) as caught:
        create_softhsm_token(directory, label="made", user_pin=user_pin, so_pin=so_pin)
    assert [violation.field for violation in caught.value.violations] == ["new_pin"]
    assert not directory.exists()
    # The next attempt, with better PINs, succeeds.
    assert create_softhsm_token(directory, label="made", user_pin=USER_PIN, so_pin=SO_PIN).configuration.exists()


def test_without_softhsm_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CertdError, match="apt install softhsm2"):
        find_module(("/nowhere/libsofthsm2.so",), architectures=tmp_path)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(CertdError, match="softhsm2-util is not installed") as caught:
        create_softhsm_token(tmp_path / "softhsm", label="made", user_pin=USER_PIN, so_pin=SO_PIN)
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE


def test_what_the_tool_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(CertdError, match="softhsm2-util could not") as caught:
        create_softhsm_token(tmp_path / "softhsm", label="x" * 40, user_pin=USER_PIN, so_pin=SO_PIN)
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
