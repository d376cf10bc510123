"""The token process under its own user: what is out of reach for code that runs as the daemon's user.

Three users that have no name on the machine: of the token process, of the daemon, and of a stranger. Their files lie
outside of pytest's folder, which only its own user may enter.
"""

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from certd.pki.encoding import parse_certificates
from certd.pki.lease import lease_statement, sign_lease
from certd.pki.sealing import hpke_decrypt
from tests.daemon import RunningDaemon, installed
from tests.system.calls import must
from tests.system.code_in_the_daemon import sealed_key_of
from tests.system.separate_users import (
    DAEMON_USER,
    START_SECONDS,
    STRANGER,
    TOKEN_USER,
    Python,
    as_other_users,
    public_folder,
    python,
    separate,
)
from tests.token.material import make_certificate
from tests.waiting import eventually

__all__ = ["public_folder", "python"]

STOP_SECONDS = 60.0

pytestmark = as_other_users


@dataclass(frozen=True, slots=True)
class Separated:
    """A daemon and a token process, each under a user of its own."""

    daemon: RunningDaemon
    token_pid: int
    keys: Path
    """Folder of the token process: PIN, token, configuration."""
    socket: Path


@pytest.fixture(scope="module")
def separated(public_folder: Path, python: Python) -> Iterator[Separated]:
    made = installed(public_folder / "daemon-user")
    made.data.parent.chmod(0o755)
    keys = public_folder / "keys"
    run = public_folder / "run"
    run.mkdir()
    run.chmod(0o755)
    os.chown(run, TOKEN_USER, TOKEN_USER)
    socket = run / "token.sock"
    separate(made, keys, socket)
    logs = public_folder / "token.log"
    token = python.start(TOKEN_USER, logs, "token", "serve", "--config", keys / "certd.toml")
    try:
        eventually(lambda: socket.exists() or token.poll() is not None, within=START_SECONDS)
        assert token.poll() is None, logs.read_text()
        process = python.start(DAEMON_USER, made.log, "serve", "--config", made.config)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("READY "), made.log.read_text() + logs.read_text()
            ready = json.loads(line.removeprefix("READY "))
            daemon = RunningDaemon(
                installation=made,
                process=process,  # type: ignore[arg-type]  # Of text instead of bytes; the tests read neither.
                grpc=ready["grpc"],
                http=ready["http"],
                metrics=ready["metrics"],
                enrollment=ready["enrollment"],
                pid=ready["daemon_pid"],
                token_pid=token.pid,
            )
            yield Separated(daemon, token.pid, keys, socket)
            assert daemon.stop() == 0, made.log.read_text()[-4000:]
        finally:
            process.kill()
            process.communicate()
    finally:
        token.terminate()
        token.communicate(timeout=STOP_SECONDS)


def user_of(process_id: int) -> int:
    (line,) = [line for line in Path(f"/proc/{process_id}/status").read_text().splitlines() if line.startswith("Uid:")]
    users = {int(user) for user in line.split()[1:]}
    assert len(users) == 1
    return users.pop()


def test_issuing_works_between_two_users(separated: Separated) -> None:
    daemon = separated.daemon
    assert (user_of(daemon.pid), user_of(separated.token_pid)) == (DAEMON_USER, TOKEN_USER)
    must(daemon, "authority", "create", "apart-root", "--type", "root", "--subject", "CN=Apart Root")
    must(
        daemon,
        *("authority", "create", "apart-ca", "--type", "subordinate", "--issuer", "apart-root"),
        *("--subject", "CN=Apart CA"),
    )
    requested = must(
        daemon, *("managed", "request", "apart", "--authority", "apart-ca", "--dns", "www.example.internal")
    )
    assert "ACTIVE" in requested


def test_the_server_says_that_the_users_are_separate(separated: Separated) -> None:
    info = json.loads(must(separated.daemon, "server", "info", "-o", "json"))
    assert info["isolation"] == "SEPARATE_USER"
    assert info["token"]["ready"] is True


_REACH = """
import os, sys

def outcome(work):
    try:
        work()
    except PermissionError:
        return "refused"
    except OSError as error:
        return type(error).__name__
    return "reached"

own, *others = sys.argv[1:]
print("own", outcome(lambda: open(own).close()))
for path in others:
    print(path, outcome((lambda: os.listdir(path)) if path.endswith("/") else (lambda: open(path, "rb").close())))
"""


def test_the_daemon_s_user_reaches_neither_pin_nor_token_nor_memory(separated: Separated, python: Python) -> None:
    keys, token = separated.keys, Path(f"/proc/{separated.token_pid}")
    pin, tokens = keys / "token-pin", keys / "token"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (keys, tokens, pin)] == [0o700, 0o700, 0o600]
    (object_file, *_) = tokens.glob("tokens/*/token.object")
    others = [str(pin), str(keys / "token-so-pin"), f"{keys}/", f"{tokens}/", str(object_file)]
    others += [str(token / name) for name in ("mem", "environ", "maps")]
    own = str(separated.daemon.installation.config)
    # The positive control: the same program, as the user that owns them, reaches the files; as root, the memory too.
    memory = [others[5]] if may_trace() else []
    controls = (
        (DAEMON_USER, others, "refused"),
        (STRANGER, others, "refused"),
        (TOKEN_USER, others[:5], "reached"),
        (0, [others[0], *memory], "reached"),
    )
    for user, paths, expected in controls:
        ended = python.run(user, _REACH, own, *paths)
        assert ended.returncode == 0, ended.stderr
        answers = dict(line.rsplit(" ", 1) for line in ended.stdout.splitlines())
        assert (answers.pop("own") == "reached") is (user in {DAEMON_USER, 0})
        assert answers == dict.fromkeys(paths, expected), user


def may_trace() -> bool:
    """Whether this process has CAP_SYS_PTRACE, which root in a container may lack."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> 19 & 1)


def test_not_even_its_own_user_reads_the_token_process_s_memory(separated: Separated, python: Python) -> None:
    """It makes itself not dumpable, so the kernel keeps everybody but root from its memory."""
    memory = f"/proc/{separated.token_pid}/mem"
    ended = python.run(TOKEN_USER, _REACH, separated.keys / "token-pin", memory)
    assert ended.stdout.splitlines() == ["own reached", f"{memory} refused"]
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and scope.read_text().strip() != "0":
        # Here the kernel keeps every process from its siblings already.
        return
    # The positive control: a process of that user which did not do so.
    command = [str(python.executable), "-c", "input()"]
    with subprocess.Popen(
        command, env=python.environment(), user=TOKEN_USER, group=TOKEN_USER, extra_groups=[], stdin=subprocess.PIPE
    ) as plain:
        memory = f"/proc/{plain.pid}/mem"
        try:
            eventually(lambda: "reached" in python.run(TOKEN_USER, _OPEN, memory).stdout)
        finally:
            plain.kill()


_OPEN = "import sys; open(sys.argv[1], 'rb').close(); print('reached')"


_CONNECT = """
import sys
from pathlib import Path
from certd.errors import CertdError
from certd.token.client import connect

client = connect(Path(sys.argv[1]))
if client.wait_ready(float(sys.argv[2])):
    print("ready", client.describe().label)
else:
    print(client.problem)
    try:
        client.describe()
    except CertdError as error:
        print(error.reason)
client.stop()
"""


def test_the_socket_serves_the_daemon_s_user_and_no_third(separated: Separated, python: Python) -> None:
    allowed = python.run(DAEMON_USER, _CONNECT, separated.socket, "30")
    assert allowed.stdout == "ready certd\n", allowed.stderr
    for user in (STRANGER, 0):
        refused = python.run(user, _CONNECT, separated.socket, "2")
        problem, reason = refused.stdout.splitlines()
        assert f"does not serve the user with id {user}" in problem
        assert reason == "TOKEN_UNAVAILABLE"
    # The daemon goes on as before.
    assert json.loads(must(separated.daemon, "server", "info", "-o", "json"))["token"]["ready"] is True


_SIGN = """
import sqlite3, sys
from pathlib import Path
from certd.errors import CertdError
from certd.pki.key_spec import SignatureAlgorithm
from certd.token.client import SignItem, connect
from certd.token.policy import SignatureKind

socket, database, *asked = sys.argv[1:]
books = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
key_id, policy = books.execute(
    "SELECT k.key_id, k.policy FROM authorities a JOIN authority_keys k ON k.authority_uid = a.uid "
    "WHERE a.authority_id = 'signing-ca'"
).fetchone()
client = connect(Path(socket))
assert client.wait_ready(30), client.problem
for to_be_signed in asked:
    item = SignItem(
        key_id=key_id,
        policy=policy,
        kind=SignatureKind.CERTIFICATE,
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        to_be_signed=bytes.fromhex(to_be_signed),
    )
    (result,) = client.sign([item], timeout=30)
    print(result.reason if isinstance(result, CertdError) else "signed")
client.stop()
"""


def test_code_in_the_daemon_gets_no_authority_and_no_foreign_issuer_signed(
    separated: Separated, python: Python
) -> None:
    """As its user, with all that its books hold, past all of its own checks."""
    daemon = separated.daemon
    must(daemon, "authority", "create", "signing-root", "--type", "root", "--subject", "CN=Signing Root")
    must(
        daemon,
        *("authority", "create", "signing-ca", "--type", "subordinate", "--issuer", "signing-root"),
        *("--subject", "CN=Signing CA"),
    )
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Signing CA")])
    foreign = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Apart CA")])
    asked = [
        make_certificate(issuer=issuer),
        make_certificate(issuer=issuer, authority=True, path_length=0),
        make_certificate(issuer=issuer, certificate_sign=True),
        make_certificate(issuer=foreign),
        make_certificate(issuer=issuer, lifetime=timedelta(days=40 * 365)),
        hashlib.sha256(b"anything").digest(),
    ]
    database = daemon.installation.data / "certd.db"
    ended = python.run(DAEMON_USER, _SIGN, separated.socket, database, *(each.hex() for each in asked))
    assert ended.returncode == 0, ended.stderr
    first, *others = ended.stdout.split()
    # Within the policy of the key it signs, and this is what is left to an attacker.
    assert first == "signed"
    assert len(others) == len(asked) - 1
    assert "signed" not in others
    assert set(others[:4]) == {"TOKEN_POLICY_FORBIDS"}


def certd_as(python: Python, user: int, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs `certd` as a user, to its end."""
    program = "import sys; sys.argv[0] = 'certd'; from certd.cli.server import main; main()"
    return python.run(user, program, *arguments)


def lease_as_the_daemon(separated: Separated, python: Python) -> tuple[dict[str, str], X25519PrivateKey, bytes]:
    """Has the first administrator sign for a key, and tries with that as the daemon's user.

    Returns what came of it, and by what the message to the administrator opens: key and info.
    """
    made = separated.daemon.installation
    database = made.data / "certd.db"
    _, _, context = sealed_key_of(database, "leased")
    recipient, now = X25519PrivateKey.generate(), datetime.now(UTC)
    consumer = "spiffe://certd.internal/identities/admin"
    statement = lease_statement(
        tenant=context.tenant,
        certificate=context.certificate,
        version=context.version,
        consumer=consumer,
        public_key=recipient.public_key().public_bytes_raw(),
        sign_time=now,
    )
    private_key = load_pem_private_key(made.private_key.read_bytes(), None)
    options = {
        "socket": str(separated.socket),
        "database": str(database),
        "managed": "leased",
        "consumer": consumer,
        "certificate": parse_certificates(made.certificate.read_bytes())[0].hex(),
        "recipient": recipient.public_key().public_bytes_raw().hex(),
        "sign_time": now.isoformat(),
        "signature": sign_lease(private_key, statement).hex(),
    }
    program = "from tests.system.code_in_the_daemon import lease_and_reseal; lease_and_reseal()"
    ended = python.run(DAEMON_USER, program, json.dumps(options))
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), recipient, statement


def test_code_in_the_daemon_leases_nothing_by_itself_and_reseals_nothing_for_more(
    separated: Separated, python: Python
) -> None:
    daemon = separated.daemon
    must(daemon, "authority", "create", "lease-root", "--type", "root", "--subject", "CN=Lease Root")
    must(daemon, *("managed", "request", "leased", "--authority", "lease-root", "--dns", "leased.example.internal"))
    pinned = separated.keys / "system-roots.pem"
    # Nobody has pinned a root yet, and the daemon is not who can.
    assert not pinned.exists()
    before, _, _ = lease_as_the_daemon(separated, python)
    assert before["lease by the consumer"] == "LEASE_REFUSED"
    root = separated.socket.parent.parent / "root.pem"
    root.write_bytes(daemon.installation.trust_bundle.read_bytes())
    root.chmod(0o644)
    refused = certd_as(python, DAEMON_USER, "token", "trust-root", root, "--config", daemon.installation.config)
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr
    assert not pinned.exists()
    trusted = certd_as(python, TOKEN_USER, "token", "trust-root", root, "--config", separated.keys / "certd.toml")
    assert (trusted.returncode, trusted.stdout) == (0, f"made  {pinned}\n"), trusted.stderr
    outcomes, recipient, statement = lease_as_the_daemon(separated, python)
    # The positive control: with the consumer's own signature the consumer gets it, and can open it.
    message = bytes.fromhex(outcomes.pop("lease by the consumer"))
    assert load_der_private_key(hpke_decrypt(message, private_key=recipient, info=statement), None) is not None
    leases = {name: outcome for name, outcome in outcomes.items() if name.startswith("lease")}
    assert leases == dict.fromkeys(leases, "LEASE_REFUSED")
    assert len(leases) == 6
    others = {name: outcome for name, outcome in outcomes.items() if name not in leases}
    assert others.pop("export of the copy") in {"NOT_EXPORTABLE", "TOKEN_POLICY_FORBIDS"}
    assert others == dict.fromkeys(others, "TOKEN_POLICY_FORBIDS")
    assert len(others) == 6
