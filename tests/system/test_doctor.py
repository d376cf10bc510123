"""certd doctor: each thing that is wrong is found, and nothing where nothing is."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from certd import config
from certd.clock import SystemClock
from certd.doctor import machine
from certd.doctor.examine import examine
from certd.doctor.findings import Finding, Severity
from certd.services import backup_notes
from certd.services.backup_notes import BackupNote
from certd.token.client import start_child
from tests.daemon import Installation, installed, run_program


class _At:
    """A clock that stands still."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


def _found(installation: Installation, *, ahead: timedelta = timedelta(0)) -> dict[str, Finding]:
    """Returns what is found, by check; the worst of each."""
    settings = config.load(installation.config)
    clock = _At(SystemClock().now() + ahead)
    order = list(Severity)
    found: dict[str, Finding] = {}
    for one in examine(settings, installation.config, clock=clock, everything=True, progress=lambda *_: None):
        assert one.what
        assert one.why
        assert one.remedy
        if one.check not in found or order.index(one.severity) < order.index(found[one.check].severity):
            found[one.check] = one
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A server that does not run; tests leave it as it was."""
    return installed(tmp_path_factory.mktemp("server"))


def test_a_new_server_has_no_errors(server: Installation) -> None:
    found = _found(server)
    assert [one for one in found.values() if one.severity is Severity.ERROR] == []
    assert {name: one.severity for name, one in found.items()} == {
        "isolation": Severity.WARNING,
        "backup": Severity.WARNING,
        "daemon": Severity.INFO,
    }


def test_ends_that_come_near_are_found_before_they_come(server: Installation) -> None:
    # The server's certificate lasts 90 days, and the system authority twenty years.
    found = _found(server, ahead=timedelta(days=70))
    assert found["server-certificate"].severity is Severity.WARNING
    assert "authority-end" not in found
    assert _found(server, ahead=timedelta(days=84))["server-certificate"].severity is Severity.ERROR
    assert _found(server, ahead=timedelta(days=17 * 365))["authority-end"].severity is Severity.WARNING
    assert _found(server, ahead=timedelta(days=20 * 365 - 10))["authority-end"].severity is Severity.ERROR


def test_a_clock_that_is_behind_is_found(server: Installation) -> None:
    found = _found(server, ahead=-timedelta(days=1))["clock"]
    assert found.severity is Severity.ERROR
    assert "NTP" in found.remedy


@pytest.mark.parametrize("name", ["token-pin", "token-so-pin", "certd.db", "token"])
def test_what_others_can_read_is_found(server: Installation, name: str) -> None:
    path = server.data / name
    before = path.stat().st_mode
    path.chmod(before | 0o044)
    try:
        settings = config.load(server.config)
        (found,) = (
            one for one in machine.look(settings, server.config, SystemClock().now()) if one.check == "secret-files"
        )
    finally:
        path.chmod(before)
    assert found.severity is Severity.ERROR
    assert f"chmod {'700' if path.is_dir() else '600'} {path}" in found.remedy


def test_backups_are_missed(server: Installation) -> None:
    settings, now = config.load(server.config), SystemClock().now()

    def note(age: timedelta, *, has_token: bool = True) -> list[Finding]:
        made = BackupNote(time=now - age, seq=1, sha256="", size=1, opened_by="passphrase", has_token=has_token)
        backup_notes.leave(server.data, made)
        return list(machine.backups(settings, None, now))

    try:
        assert note(timedelta(days=1)) == []
        (old,) = note(timedelta(days=8))
        assert "8 days old" in old.what
        assert list(machine.backups(settings, now, now)) == []
        (bare,) = note(timedelta(days=1), has_token=False)
        assert bare.severity is Severity.INFO
    finally:
        for path in server.data.glob("last-backup*"):
            path.unlink()
    (none,) = machine.backups(settings, None, now)
    assert "no backup" in none.what


def _change(statement: str) -> Callable[[Installation], None]:
    def change(installation: Installation) -> None:
        with closing(sqlite3.connect(installation.data / "certd.db")) as connection:
            connection.execute(statement)
            connection.commit()

    return change


_LONG_AGO = int((datetime.now(UTC) - timedelta(days=2)).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("change", "check", "severity"),
    [
        pytest.param(
            _change("UPDATE events SET resource = 'another' WHERE seq = 5"), "events", Severity.ERROR, id="an event"
        ),
        pytest.param(_change("DELETE FROM events WHERE seq = 3"), "events", Severity.ERROR, id="no event"),
        pytest.param(
            _change("UPDATE authority_keys SET key_id = X'00112233445566778899AABBCCDDEEFF'"),
            "missing-keys",
            Severity.ERROR,
            id="a key that the token lacks",
        ),
        pytest.param(
            _change(f"INSERT INTO jobs VALUES ('reseal-keys', 'x', {_LONG_AGO}, {_LONG_AGO}, 12, NULL)"),
            "jobs",
            Severity.WARNING,
            id="a job",
        ),
        pytest.param(
            _change(
                "INSERT INTO revocation_lists"
                " SELECT uid, 1, 0, 5, 5, 1, 2, 0, 0, NULL, '[]', NULL, '', 0 FROM authorities"
            ),
            "crl",
            Severity.ERROR,
            id="a CRL that has ended",
        ),
        pytest.param(
            _change(
                "INSERT INTO import_keys SELECT tenant_id, 'key', x'00', 7, x'00', x'00', x'00', 'x', x'00', 1, 2"
                " FROM tenants"
            ),
            "sealed-keys",
            Severity.ERROR,
            id="a key under no wrapping key",
        ),
        pytest.param(
            _change("UPDATE schema_compatibility SET schema_number = 6"), "database", Severity.ERROR, id="an old schema"
        ),
        pytest.param(
            _change(
                "INSERT INTO grants (grant_id, principal, role, scope) VALUES ('wide', 'spiffe://x/*', 'issuer', '*')"
            ),
            "wide-grant",
            Severity.WARNING,
            id="a wide grant",
        ),
    ],
)
def test_what_is_wrong_in_the_books_is_found(
    installation: Installation, change: Callable[[Installation], None], check: str, severity: Severity
) -> None:
    change(installation)
    assert _found(installation)[check].severity is severity


def test_a_key_that_the_database_does_not_name_is_found(installation: Installation) -> None:
    client = start_child(config.token_settings(config.load(installation.config)))
    try:
        assert client.wait_ready(120), client.problem
        client.ensure_wrapping_key(key_id=bytes(range(16)))
    finally:
        client.stop()
    found = _found(installation)["orphaned-keys"]
    assert found.severity is Severity.INFO
    assert bytes(range(16)).hex() in found.what


def test_a_token_that_does_not_open_is_found_and_the_command_fails(installation: Installation) -> None:
    (installation.data / "token-pin").write_text("wrong")
    ended = run_program("certd", "doctor", "--json", "--config", installation.config)
    assert ended.returncode == 1, ended.stderr
    found = {one["check"]: one for one in map(json.loads, ended.stdout.splitlines())}
    assert found["token"]["severity"] == "ERROR"
    text = run_program("certd", "doctor", "--config", installation.config)
    assert text.returncode == 1
    assert "ERROR token: " in text.stdout
    assert "  remedy: " in text.stdout
