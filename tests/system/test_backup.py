"""Backups: made of a daemon that works, refused when damaged, and a server again."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from certd import config
from certd.backup import journal_archive, making, restoring
from certd.clock import SystemClock
from certd.config import Config
from certd.errors import CertdError
from certd.pki.encrypted_file import PART_BYTES, Passphrase, Recipient
from certd.services.journal_verification import JournalWalk
from certd.store import events
from certd.store.reader import Reader
from certd.token.journal import Journal
from certd.token.settings import TokenSettings
from tests.daemon import Installation, RunningDaemon, installed, run_program, running
from tests.softhsm import make_token
from tests.waiting import eventually

_KEY = X25519PrivateKey.generate()
_TO = Recipient(_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _certd(*arguments: str | Path, expected: int = 0) -> str:
    ended = run_program("certd", *arguments)
    assert ended.returncode == expected, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def _recovery_files(folder: Path) -> tuple[Path, Path]:
    """Returns files of the private and of the public recovery key."""
    private, public = folder / "recovery.key", folder / "recovery.pem"
    private.touch(mode=0o600)
    private.write_bytes(_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _order(file: Path, data: Path, **fields: object) -> restoring.Order:
    given: dict[str, object] = {"secret": _KEY, "database_url": None, "token": None, "journal": None, **fields}
    return restoring.Order(file=file, data=data, **given)  # type: ignore[arg-type]  # As they are named.


def _ok(daemon: RunningDaemon, *arguments: str | Path) -> str:
    ended = daemon.certctl(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _issue(daemon: RunningDaemon, folder: Path, name: str) -> str:
    """Issues a certificate and returns its serial."""
    key, csr, out = (folder / f"{name}.{ending}" for ending in ("key", "csr", "pem"))
    subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", csr, "-subj", "/", "-addext", f"subjectAltName=DNS:{name}.example.internal"),
        ],
        check=True,
        capture_output=True,
    )
    _ok(daemon, "certificate", "issue", "--authority", "web-ca", "--csr", csr, "--out", out)
    shown = subprocess.run(
        ["openssl", "x509", "-in", out, "-noout", "-serial"], check=True, capture_output=True, text=True
    )
    return shown.stdout.strip().partition("=")[2].lower()


def _states(data: Path) -> dict[str, str]:
    with closing(sqlite3.connect(data / "certd.db")) as connection:
        return dict(connection.execute("SELECT serial, state FROM certificates"))


def _crl_numbers(data: Path) -> dict[str, int]:
    with closing(sqlite3.connect(data / "certd.db")) as connection:
        return dict(connection.execute("SELECT authority_uid || '/' || partition, number FROM revocation_lists"))


@pytest.mark.timeout(1500)
def test_a_backup_of_a_daemon_under_load_is_a_server_again_elsewhere(
    installation: Installation, tmp_path: Path
) -> None:
    private, public = _recovery_files(tmp_path)
    file, elsewhere = tmp_path / "certd.backup", tmp_path / "elsewhere"
    issued: list[str] = []
    with running(installation) as daemon:
        _ok(daemon, "authority", "create", "web-root", "--type", "root", "--subject", "CN=Web Root")
        _ok(
            *(daemon, "authority", "create", "web-ca", "--type", "subordinate", "--issuer", "web-root"),
            *("--subject", "CN=Web CA"),
        )
        _ok(daemon, "managed", "request", "web", "--authority", "web-ca", "--dns", "web.example.internal")
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                issued.append(_issue(daemon, tmp_path, f"load{len(issued)}"))

        loading = threading.Thread(target=load)
        loading.start()
        try:
            eventually(lambda: issued, within=120)
            output = _certd("backup", file, "--recovery-public-key", public, "--config", installation.config)
        finally:
            stop.set()
            loading.join()
        assert f"certd backup --verify {file}" in output
        late = _issue(daemon, tmp_path, "late")
        eventually(lambda: _made_events(installation.data), within=60)
        numbers = eventually(lambda: _all_positive(_crl_numbers(installation.data)), within=120)
    assert file.stat().st_mode & 0o777 == 0o600
    output = _certd("backup", "--verify", file, "--recovery-key", private)
    assert "is whole" in output

    output = _certd(
        *("restore", file, "--data-dir", elsewhere, "--recovery-key", private),
        *("--journal", installation.data / "token-journal"),
    )
    assert f"certd serve --config {elsewhere / 'certd.toml'}" in output
    before, after = _states(installation.data), _states(elsewhere)
    assert set(after) == set(before)
    # What the backup did not have is lost, and all else as it was.
    assert after[late] == "LOST"
    assert {serial for serial, state in after.items() if state == "LOST"} == {
        serial for serial in before if after[serial] != before[serial]
    }
    assert set(issued) <= set(after)

    restored = Installation(data=elsewhere, credentials=installation.credentials)
    with running(restored) as daemon:
        assert _issue(daemon, tmp_path, "afterwards") not in before
        passphrase = tmp_path / "pass.txt"
        passphrase.touch(mode=0o600)
        passphrase.write_text("eight characters")
        out = tmp_path / "out"
        _ok(daemon, "managed", "export", "web", "--passphrase-file", passphrase, "--format", "pkcs8", "--out-dir", out)
        # Whoever has a CRL of before takes the new ones for newer.
        found = eventually(
            lambda: all(_crl_numbers(elsewhere).get(name, 0) > number for name, number in numbers.items()), within=120
        )
        assert found
        _check_findings(restored)
    _check_record(restored)


def _check_findings(restored: Installation) -> None:
    lines = run_program("certd", "doctor", "--json", "--config", restored.config).stdout.splitlines()
    findings = [json.loads(line) for line in lines]
    assert [one for one in findings if one["severity"] == "ERROR"] == []
    assert "isolation" in {one["check"] for one in findings}


def _check_record(restored: Installation) -> None:
    reader = Reader.open(config.load(restored.config).database.url)
    with reader.read("test") as tx:
        assert events.verify_all(tx) == []
        assert "books.restored" in {one.event.type for one in events.page(tx, after_seq=0, limit=1000)}
    reader.close()


def _made_events(data: Path) -> list[object]:
    with closing(sqlite3.connect(data / "certd.db")) as connection:
        return connection.execute("SELECT seq FROM events WHERE type = 'backup.made'").fetchall()


def _all_positive(numbers: dict[str, int]) -> dict[str, int] | None:
    return numbers if numbers and all(numbers.values()) else None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installation, Path]:
    """A server that does not run, and its backup."""
    folder = tmp_path_factory.mktemp("made")
    installation = installed(folder)
    file = folder / "certd.backup"
    making.make(config.load(installation.config), installation.config, file, to=_TO, clock=SystemClock())
    return installation, file


def _refusal(order: restoring.Order) -> CertdError:
    with pytest.raises(CertdError) as caught:
        restoring.restore(order, clock=SystemClock())
    assert not order.data.exists()
    assert not order.data.with_name(f".{order.data.name}.restoring").exists()
    return caught.value


def test_a_backup_that_is_damaged_leaves_nothing(made: tuple[Installation, Path], tmp_path: Path) -> None:
    content = made[1].read_bytes()
    begin = content.index(b"}") + 1
    places = [3, begin - 20, *range(begin, len(content), PART_BYTES // 8), len(content) - 1]
    damaged = [content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :] for place in places]
    damaged += [content[:-1], content[: len(content) // 2], content[:begin], b"", content + b"x"]
    for number, data in enumerate(damaged):
        file = tmp_path / f"{number}.backup"
        file.write_bytes(data)
        _refusal(_order(file, tmp_path / "data"))


def test_another_secret_and_a_folder_that_is_used_are_refused(made: tuple[Installation, Path], tmp_path: Path) -> None:
    assert (
        "another" not in _refusal(_order(made[1], tmp_path / "data", secret=Passphrase(b"not the passphrase"))).message
    )
    _refusal(_order(made[1], tmp_path / "data", secret=X25519PrivateKey.generate()))
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    with pytest.raises(CertdError, match="not empty"):
        restoring.restore(_order(made[1], used), clock=SystemClock())
    assert [path.name for path in used.iterdir()] == ["file"]


def test_nothing_is_overwritten(made: tuple[Installation, Path]) -> None:
    installation, file = made
    before = file.read_bytes()
    with pytest.raises(CertdError, match="exists already"):
        making.make(config.load(installation.config), installation.config, file, to=_TO, clock=SystemClock())
    assert file.read_bytes() == before


@pytest.mark.parametrize("stage", ["database", "token", "journal"])
def test_a_backup_that_is_killed_leaves_no_file(made: tuple[Installation, Path], tmp_path: Path, stage: str) -> None:
    installation, _ = made
    before = {path.name for path in installation.data.iterdir()}
    program = f"""
import os, signal, sys
from pathlib import Path
from certd import config
from certd.backup import making
from certd.clock import SystemClock
from certd.config import Config
from certd.pki.encrypted_file import Recipient

def die(what, done, of):
    if what == {stage!r}:
        os.kill(os.getpid(), signal.SIGKILL)

file = Path(sys.argv[1])
making.make(config.load(file), file, Path(sys.argv[2]), to=Recipient(bytes.fromhex({_TO.public_key.hex()!r})),
            clock=SystemClock(), progress=die)
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", program, installation.config, folder / "certd.backup"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert list(folder.iterdir()) == []
    # SQLite's own, and the lock of the token.
    usual = {"certd.db-shm", "certd.db-wal", "token-pin.lock"}
    assert {path.name for path in installation.data.iterdir()} - before <= usual


def _another_token(installation: Installation, folder: Path) -> tuple[TokenSettings, Config]:
    """Makes a token, and a configuration that has it in place of another."""
    token, settings = make_token(folder), config.load(installation.config)
    text = installation.config.read_text()
    for before, after in (
        (f'label = "{settings.token.label}"', f'label = "{token.label}"'),
        (f'pin_file = "{settings.token.pin_file}"', f'pin_file = "{token.pin_file}"'),
        (f'softhsm_conf = "{settings.token.softhsm_conf}"', f'softhsm_conf = "{token.softhsm_conf}"'),
    ):
        assert before in text
        text = text.replace(before, after)
    other = folder / "other.toml"
    other.write_text(text)
    return token, config.load(other)


def test_a_restore_beside_another_token_says_which_keys_it_lacks(
    made: tuple[Installation, Path], tmp_path: Path
) -> None:
    token, other = _another_token(made[0], tmp_path)
    done = restoring.restore(_order(made[1], tmp_path / "data", token=other), clock=SystemClock())
    (missing,) = done.missing
    assert missing.startswith("authority key ")
    assert missing.endswith(": tenants/-/authorities/system, key 1")
    restored = config.load(done.config_file)
    assert restored.token.pin_file == token.pin_file
    assert config.token_settings(restored).journal == tmp_path / "data" / "token-journal"
    assert not (tmp_path / "data" / "token").exists()


def test_a_journal_that_does_not_go_on_from_the_backup_is_refused(
    made: tuple[Installation, Path], tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    shutil.copytree(made[0].data / "token-journal", journal)
    segment = next(journal.rglob("*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))
    error = _refusal(_order(made[1], tmp_path / "data", journal=journal))
    assert "--journal" in error.message


def _write_journal(folder: Path, count: int) -> None:
    journal = Journal(folder, SystemClock(), segment_bytes=1000)
    journal.open()
    for number in range(count):
        journal.record("export", key="00" * 16, index=number)
        assert journal.commit() is None
    journal.close()


def test_a_journal_whose_beginning_was_archived_since_gets_it_from_the_backup(
    made: tuple[Installation, Path], tmp_path: Path
) -> None:
    journal, archived, file = tmp_path / "journal", tmp_path / "archived", tmp_path / "certd.backup"
    _write_journal(journal, 20)
    written = tmp_path / "certd.toml"
    written.write_text(made[0].config.read_text().replace("\n[token]\n", f'\n[token]\njournal = "{journal}"\n'))
    settings = config.load(written)
    assert config.token_settings(settings).journal == journal
    making.make(settings, written, file, to=_TO, clock=SystemClock())
    assert list(journal_archive.archive(journal, archived, before=datetime.now(UTC)))
    _write_journal(journal, 20)
    restoring.restore(_order(file, tmp_path / "data", journal=journal), clock=SystemClock())
    walk = JournalWalk([tmp_path / "data" / "token-journal"], {}, pytest.fail)
    assert len([record for _, record in walk.records() if record.kind == "export"]) == 40
    # What is younger than the backup must be there.
    assert list(journal_archive.archive(journal, archived, before=datetime.now(UTC)))
    error = _refusal(_order(file, tmp_path / "late", journal=journal))
    assert "in none of the folders" in error.message


@pytest.mark.timeout(1500)
def test_wrapping_keys_in_escrow_open_in_another_token_what_was_sealed(
    installation: Installation, tmp_path: Path
) -> None:
    private, public = _recovery_files(tmp_path)
    text = installation.config.read_text()
    assert "\n[token]\n" in text
    installation.config.write_text(text.replace("\n[token]\n", f'\n[token]\nrecovery_public_key = "{public}"\n'))
    with running(installation) as daemon:
        _ok(daemon, "authority", "create", "web-root", "--type", "root", "--subject", "CN=Web Root")
        _ok(
            *(daemon, "authority", "create", "web-ca", "--type", "subordinate", "--issuer", "web-root"),
            *("--subject", "CN=Web CA"),
        )
        _ok(daemon, "managed", "request", "web", "--authority", "web-ca", "--dns", "web.example.internal")
        # Of what is made in escrow, too.
        assert "encrypted to the recovery key" in _ok(daemon, "wrapping-key", "rotate")
        eventually(lambda: _key_states(installation.data) == ["PRIMARY", "RETIRED"], within=120)
    file = tmp_path / "certd.backup"
    settings = config.load(installation.config)
    making.make(settings, installation.config, file, to=_TO, clock=SystemClock())
    _, other = _another_token(installation, tmp_path)
    done = restoring.restore(_order(file, tmp_path / "restored", token=other), clock=SystemClock())
    assert len([one for one in done.missing if one.startswith("wrapping key ")]) == 2
    restored = Installation(data=tmp_path / "restored", credentials=installation.credentials)

    wrong = tmp_path / "wrong.key"
    wrong.touch(mode=0o600)
    wrong.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    recover = ("recover-wrapping-key", "--config", restored.config, "--recovery-key")
    assert "does not open the wrapping key" in _certd(*recover, wrong, expected=1)
    output = _certd(*recover, private)
    assert "tenants/default/wrappingKeys/2: recovered; it opens what is sealed under it" in output
    assert "tenants/default/wrappingKeys/1: recovered; nothing is sealed under it" in output
    assert output.count("is in the token") == 0
    assert _certd(*recover, private).count("is in the token") == 2

    # The key of the system authority has no escrow: another one takes its place, and only when that is asked for.
    back_in = ("recover-admin", "--config", restored.config, "--credentials-dir", tmp_path / "new administrator")
    assert "rotate-system-authority --key-lost" in _certd(*back_in, expected=1)
    output = _certd("rotate-system-authority", "--config", restored.config, "--key-lost")
    assert "the new system authority issues from now on" in output
    # Nothing of the jobs that fail in this token.
    assert "job" not in output
    _certd(*back_in)

    passphrase = tmp_path / "pass.txt"
    passphrase.touch(mode=0o600)
    passphrase.write_text("eight characters")
    with running(restored) as daemon:
        out = ("--out-dir", tmp_path / "out")
        # With a certificate of the authority that is lost, whose root is all that this caller knows of the server.
        _ok(daemon, "managed", "export", "web", "--passphrase-file", passphrase, "--format", "pkcs8", *out)
        assert restored.trust_bundle.read_text().count("BEGIN CERTIFICATE") == 1
        _ok(daemon, "identity", "renew")
        assert restored.trust_bundle.read_text().count("BEGIN CERTIFICATE") == 2
        recovered = replace(daemon, installation=replace(restored, credentials=tmp_path / "new administrator"))
        _ok(recovered, "server", "info")


def _key_states(data: Path) -> list[str]:
    with closing(sqlite3.connect(data / "certd.db")) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM wrapping_keys ORDER BY state")]
