"""The roots by which the token process knows consumers: who writes them, and what the operator does."""

import os
import shlex
from pathlib import Path

import pytest

from certd.pki.encoding import certificate_pem, parse_certificates
from tests.daemon import Installation, initialise, installed, run_program, running
from tests.token.consumers import make_root
from tests.waiting import eventually

TOKEN_USER = 61001


@pytest.fixture
def made(tmp_path: Path) -> Installation:
    return installed(tmp_path)


def _pinned(made: Installation) -> Path:
    return made.data / "system-roots.pem"


def _roots(file: Path) -> list[bytes]:
    return parse_certificates(file.read_bytes())


def _trust(made: Installation, file: Path) -> tuple[int, str, str]:
    ended = run_program("certd", "token", "trust-root", file, "--config", made.config)
    return ended.returncode, ended.stdout, ended.stderr


def test_init_pins_the_root_that_it_made_and_completes_what_is_missing(tmp_path: Path) -> None:
    made = initialise(tmp_path)
    pinned = _pinned(made)
    assert _roots(pinned) == _roots(made.trust_bundle)
    assert pinned.stat().st_mode & 0o777 == 0o644
    before = pinned.stat().st_mtime_ns
    again = ("--data-dir", made.data, "--credentials-dir", made.credentials)
    kept = run_program("certd", "init", *again)
    assert f"kept  {pinned}" in kept.stdout.splitlines(), kept.stderr
    assert "trust-root" not in kept.stdout
    assert pinned.stat().st_mtime_ns == before
    pinned.unlink()
    assert f"made  {pinned}" in run_program("certd", "init", *again).stdout.splitlines()
    assert _roots(pinned) == _roots(made.trust_bundle)


def test_the_daemon_pins_what_is_missing_and_nothing_else(made: Installation) -> None:
    """As after an upgrade, or when somebody has removed it, or pinned a root that is none of the system's."""
    pinned = _pinned(made)
    pinned.unlink()
    with running(made):
        eventually(pinned.exists)
        assert _roots(pinned) == _roots(made.trust_bundle)
        pinned.write_text(certificate_pem(make_root().certificate))
        eventually(lambda: _roots(pinned) == _roots(made.trust_bundle))


def test_a_new_system_authority_is_pinned_beside_the_old_one(made: Installation) -> None:
    (old,) = _roots(made.trust_bundle)
    ended = run_program("certd", "rotate-system-authority", "--config", made.config)
    assert ended.returncode == 0, ended.stderr
    (new,) = parse_certificates(ended.stdout.encode())
    assert set(_roots(_pinned(made))) == {old, new}
    # Nothing is left to do.
    assert "trust-root" not in ended.stderr


def test_where_the_file_cannot_be_written_the_rotation_says_what_to_do(made: Installation) -> None:
    pinned = _pinned(made)
    pinned.unlink()
    pinned.mkdir()
    ended = run_program("certd", "rotate-system-authority", "--config", made.config)
    assert ended.returncode == 0, ended.stderr
    assert "certd token trust-root" in ended.stderr
    assert len(parse_certificates(ended.stdout.encode())) == 1


def test_the_operator_pins_a_root_once(made: Installation, tmp_path: Path) -> None:
    pinned = _pinned(made)
    root = make_root().certificate
    file = tmp_path / "next root.pem"
    file.write_text(certificate_pem(root))
    assert _trust(made, file)[:2] == (0, f"made  {pinned}\n")
    assert _roots(pinned) == [*_roots(made.trust_bundle), root]
    assert _trust(made, file)[:2] == (0, f"kept  {pinned}\n")
    assert _roots(pinned) == [*_roots(made.trust_bundle), root]


def test_what_is_no_root_is_not_pinned(made: Installation, tmp_path: Path) -> None:
    before = _pinned(made).read_bytes()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    for file in (garbage, made.credentials / "admin.pem", made.data / "server.key"):
        code, _, errors = _trust(made, file)
        assert code == 1
        assert str(file) in errors
    assert _trust(made, tmp_path / "nothing")[0] == 2
    assert _pinned(made).read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others takes root")
def test_root_pins_for_the_user_of_the_token_process(made: Installation) -> None:
    pinned = _pinned(made)
    pinned.unlink()
    os.chown(made.data / "token-pin", TOKEN_USER, TOKEN_USER)
    assert _trust(made, made.trust_bundle)[:2] == (0, f"made  {pinned}\n")
    status = pinned.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (TOKEN_USER, TOKEN_USER, 0o644)


def test_a_file_of_its_own_place_is_pinned_there(made: Installation, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "roots.pem"
    text = made.config.read_text()
    made.config.write_text(
        text.replace('# system_roots = "/var/lib/certd/system-roots.pem"', f'system_roots = "{elsewhere}"')
    )
    code, _, errors = _trust(made, made.trust_bundle)
    assert code == 1
    assert str(elsewhere.parent) in errors
    elsewhere.parent.mkdir()
    assert _trust(made, made.trust_bundle)[:2] == (0, f"made  {elsewhere}\n")
    assert _roots(elsewhere) == _roots(made.trust_bundle)


def test_who_installs_units_is_told_to_pin_the_root(made: Installation, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    text = made.config.read_text()
    text = text.replace('# socket = "/run/certd/token.sock"', 'socket = "/run/certd-token/token.sock"')
    text = text.replace("# allowed_users", "allowed_users").replace(
        '# system_roots = "/var/lib/certd/', f'system_roots = "{made.data}/'
    )
    for name in ("token", "token-pin"):
        (made.data / name).rename(keys / name)
    for name in ("token/softhsm2.conf", "token-pin"):
        text = text.replace(str(made.data / name), str(keys / name))
    made.config.write_text(text)
    program = tmp_path / "certd"
    program.write_text("#!/bin/sh\n")
    install = ("certd", "install-units", "--config", made.config, "--executable", program, "--directory", tmp_path)
    # Whoever may write it says who consumers are.
    refused = run_program(*install)
    assert refused.returncode == 1
    assert "token.system_roots" in refused.stderr
    made.config.write_text(text.replace(f"{made.data}/system-roots.pem", f"{keys}/system-roots.pem"))
    ended = run_program(*install)
    assert ended.returncode == 0, ended.stderr
    assert f"certd token trust-root root.pem --config {shlex.quote(str(made.config))}" in ended.stdout
