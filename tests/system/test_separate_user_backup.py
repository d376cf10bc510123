"""A backup of a server with two users: root makes it, of files that neither of them reads all of."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from certd import config
from certd.backup import making, restoring
from certd.clock import SystemClock
from certd.pki.encrypted_file import Recipient
from certd.token.journal import Journal
from tests.daemon import installed, run_program
from tests.system.separate_users import (
    DAEMON_USER,
    START_SECONDS,
    TOKEN_USER,
    Python,
    as_other_users,
    give,
    public_folder,
    python,
    separate,
)

__all__ = ["public_folder", "python"]

pytestmark = as_other_users


def test_root_makes_a_backup_of_both_users_files_and_restores_it(public_folder: Path, python: Python) -> None:
    """The daemon's user reads no token, and is told who does."""
    made, keys = installed(public_folder / "daemon-user"), public_folder / "keys"
    made.data.parent.chmod(0o755)
    separate(made, keys, public_folder / "token.sock")
    private = X25519PrivateKey.generate()
    recipient = Recipient(private.public_key().public_bytes_raw())
    public, file = public_folder / "recovery.pem", public_folder / "certd.backup"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    refused = public_folder / "refused.log"
    for command in (("backup", made.data / "certd.backup", "--recovery-public-key", public), ("audit", "verify")):
        process = python.start(DAEMON_USER, refused, *command, "--config", made.config)
        process.communicate(timeout=START_SECONDS)
        assert process.returncode == 1
        told = refused.read_text()
        assert str(keys) in told
        assert "root" in told
        refused.unlink()
    assert not (made.data / "certd.backup").exists()

    making.make(config.load(made.config), made.config, file, to=recipient, clock=SystemClock())
    assert {path.stat().st_uid for path in keys.rglob("*")} == {TOKEN_USER}, "it leaves nothing of root's"
    assert run_program("certd", "audit", "verify", "--config", made.config).returncode == 0
    order = restoring.Order(
        file=file, secret=private, data=public_folder / "restored", database_url=None, token=None, journal=None
    )
    done = restoring.restore(order, clock=SystemClock())
    assert (done.missing, done.token_unknown, done.taken_out) == ([], "", ("token.socket",))
    assert done.books.lost == 0
    restored = config.load(done.config_file)
    assert (restored.token.socket, restored.token.pin_file) == (None, public_folder / "restored" / "token-pin")
    ended = run_program("certd", "audit", "verify", "--config", done.config_file)
    assert ended.returncode == 0, ended.stdout


def test_root_looks_over_a_server_of_one_user_and_leaves_it_to_that_user(public_folder: Path, python: Python) -> None:
    made = installed(public_folder / "one-user")
    made.data.parent.chmod(0o755)
    give(made.data, DAEMON_USER)
    log = public_folder / "doctor.log"
    process = python.start(0, log, "doctor", "--json", "--config", made.config)
    output, _ = process.communicate(timeout=START_SECONDS)
    found = {one["check"]: one for one in map(json.loads, output.splitlines())}
    assert [one for one in found.values() if one["severity"] == "ERROR"] == [], log.read_text()
    assert {path.stat().st_uid for path in made.data.rglob("*")} == {DAEMON_USER}


def test_root_recovers_a_wrapping_key_as_the_token_process_s_user(public_folder: Path, python: Python) -> None:
    made, keys = installed(public_folder / "recovering"), public_folder / "recovering-keys"
    made.data.parent.chmod(0o755)
    separate(made, keys, public_folder / "token.sock")
    recovery_key = public_folder / "recovery.key"
    recovery_key.touch(mode=0o600)
    private = X25519PrivateKey.generate()
    recovery_key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    journal = Journal(keys / "token-journal", SystemClock())
    # A process that serves has the first journal, so that there is another one.
    journal.open()
    try:
        log = public_folder / "recover.log"
        arguments = ("recover-wrapping-key", "--recovery-key", recovery_key, "--config", made.config)
        process = python.start(0, log, *arguments)
        output, _ = process.communicate(timeout=START_SECONDS)
    finally:
        journal.close()
    assert process.returncode == 0, output + log.read_text()
    assert (keys / "token-journal" / "2").is_dir()
    assert {path.stat().st_uid for path in keys.rglob("*")} == {TOKEN_USER}
    assert {path.stat().st_uid for path in made.data.rglob("*")} == {DAEMON_USER}
