"""What code execution in the daemon would find and could do: no PIN, no private key, no signature past a key's policy.

The memory is that of a real daemon after it did its work; the attempts go, as frames, to a token process on the very
token of that daemon. That a separate user keeps even the files out of reach stands in `test_separate_user`.
"""

import dataclasses
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)

from certd.client.connection import Client
from certd.client.export import export_to_one_time_key, export_under_passphrase
from certd.config import load, token_settings
from certd.errors import CertdError, Reason
from certd.internal.token_pb2 import AuthorityKeyPolicy, SignItem, SignRequest, TokenRequest
from certd.pki.key_spec import KeySpec, default_signature_algorithm
from certd.pki.sealing import Purpose, SealContext, export_info, hpke_decrypt
from certd.token import lock
from certd.token.client import TokenClient, start_child
from certd.token.policy import SignatureKind
from certd.token.settings import TokenSettings
from certd.v1.managed_certificate_service_pb2 import ExportManagedCertificateRequest, PassphraseProtection
from tests.daemon import Installation, RunningDaemon, installed, running
from tests.system.books import books, database_of, defects, rows
from tests.system.calls import NAME, administrator, calling, make_csr, must, refused
from tests.system.leasing import credentials_of_administrator, leased_keys
from tests.system.memory import number_needles, private_key_needles, scan
from tests.system.softhsm_objects import SecretObject, secret_objects
from tests.token.material import Authority, make_certificate, run_python, verifies

PASSPHRASE = b"correct horse battery staple"
AUTHORITIES = {"isolated-ca": KeySpec.EC_P256, "isolated-rsa": KeySpec.RSA_2048, "isolated-ed": KeySpec.ED25519}
MANAGED = {"isolated-ec": KeySpec.EC_P256, "isolated-rsa": KeySpec.RSA_2048, "isolated-ed": KeySpec.ED25519}

needs_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="reading the memory of another process takes root on Linux",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Worked:
    """A daemon that has done everything it can."""

    daemon: RunningDaemon
    settings: TokenSettings
    subscriber_keys: dict[str, bytes]
    """DER of the PKCS#8 PrivateKeyInfo of each managed certificate, as exported, or as leased."""

    @property
    def installation(self) -> Installation:
        return self.daemon.installation

    @property
    def database(self) -> Path:
        return database_of(self.installation)

    def authority(self, authority_id: str) -> Authority:
        """Returns the key of an authority as the daemon knows it."""
        ((key_id, policy, public_key, spec),) = rows(
            self.database,
            "SELECT k.key_id, k.policy, k.public_key, a.key_spec FROM authorities a "
            "JOIN authority_keys k ON k.authority_uid = a.uid WHERE a.authority_id = ?",
            [authority_id],
        )
        return Authority(key_id, KeySpec(spec), policy, public_key)

    def subject(self, authority_id: str) -> x509.Name:
        ((der,),) = rows(self.database, "SELECT certificate FROM authorities WHERE authority_id = ?", [authority_id])
        return x509.load_der_x509_certificate(der).subject


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worked]:
    made = installed(tmp_path_factory.mktemp("isolation"))
    with running(made) as daemon:
        must(daemon, "authority", "create", "isolated-root", "--type", "root", "--subject", "CN=Isolated Root")
        for authority, spec in AUTHORITIES.items():
            must(
                daemon,
                *("authority", "create", authority, "--type", "subordinate", "--issuer", "isolated-root"),
                *("--key", spec, "--subject", f"CN={authority}", "--lifetime", "1y"),
            )
        for _ in range(3):
            must(daemon, "certificate", "issue", "--authority", "isolated-ca", "--csr", "-", stdin=make_csr())
        must(
            daemon,
            *("managed", "request", "isolated-kept", "--authority", "isolated-ca", "--dns", NAME, "--not-exportable"),
        )
        exported, leased = dict(_exported(daemon)), leased_keys(daemon, (*MANAGED, "isolated-kept"))
        assert exported.items() <= leased.items()
        yield Worked(daemon, token_settings(load(made.config)), leased)
    assert not defects(made.log.read_text())


def _exported(daemon: RunningDaemon) -> Iterator[tuple[str, bytes]]:
    """Requests managed certificates and exports each in both ways."""
    with Client(daemon.grpc, credentials_of_administrator(daemon)) as client:
        for managed, spec in MANAGED.items():
            must(daemon, *("managed", "request", managed, "--authority", "isolated-ca", "--dns", NAME, "--key", spec))
            name = f"tenants/default/managedCertificates/{managed}"
            exported = export_to_one_time_key(client, name)
            response = export_under_passphrase(client, name, passphrase=PASSPHRASE)
            key = load_pem_private_key(response.encrypted_private_key_pem.encode(), PASSPHRASE)
            again = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            assert again == exported.private_key_info
            yield managed, exported.private_key_info


@pytest.fixture(scope="module")
def secrets_of_token(worked: Worked) -> list[SecretObject]:
    """Every key in the token, out of SoftHSM's own files: PKCS#11 gives none of them."""
    tokens = worked.installation.data / "token" / "tokens"
    return secret_objects(tokens, (worked.installation.data / "token-pin").read_bytes())


def needles_of(worked: Worked, secrets_of_token: list[SecretObject]) -> dict[str, bytes]:
    needles = {
        "PIN": (worked.installation.data / "token-pin").read_bytes(),
        "PIN of the security officer": (worked.installation.data / "token-so-pin").read_bytes(),
    }
    for managed, private_key_info in worked.subscriber_keys.items():
        needles |= private_key_needles(managed, private_key_info)
    for secret in secrets_of_token:
        for part, value in secret.parts.items():
            needles |= number_needles(f"{secret.key_id.hex()} {part}", int.from_bytes(value))
    return needles


@needs_root
def test_the_keys_out_of_the_token_s_files_are_those_of_the_authorities(
    worked: Worked, secrets_of_token: list[SecretObject]
) -> None:
    """Without this a mistake in reading the files would let the search below look for nothing."""
    private = {secret.key_id: secret for secret in secrets_of_token if not secret.wrapping}
    known = rows(worked.database, "SELECT key_id, public_key FROM authority_keys")
    assert len(known) == 2 + len(AUTHORITIES)
    assert private.keys() == {key_id for key_id, _ in known}
    for key_id, encoded in known:
        public_key, parts = load_der_public_key(encoded), private[key_id].parts
        if isinstance(public_key, rsa.RSAPublicKey):
            assert int.from_bytes(parts["p"]) * int.from_bytes(parts["q"]) == public_key.public_numbers().n
        elif isinstance(public_key, ed25519.Ed25519PublicKey):
            seed = ed25519.Ed25519PrivateKey.from_private_bytes(parts["value"][-32:])
            assert seed.public_key() == public_key
        else:
            assert isinstance(public_key, ec.EllipticCurvePublicKey)
            derived = ec.derive_private_key(int.from_bytes(parts["value"]), public_key.curve)
            assert derived.public_key() == public_key
    wrapping = {secret.key_id: secret for secret in secrets_of_token if secret.wrapping}
    assert wrapping.keys() == {key_id for (key_id,) in rows(worked.database, "SELECT key_id FROM wrapping_keys")}
    assert [len(secret.parts["value"]) for secret in wrapping.values()] == [32]


@needs_root
def test_the_daemon_s_memory_holds_neither_pin_nor_private_keys(
    worked: Worked, secrets_of_token: list[SecretObject]
) -> None:
    own = load_pem_private_key((worked.installation.data / "server.key").read_bytes(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    # The daemon's own TLS key is its own by design: the one scalar that is there, and that this scanner finds.
    own_needles = number_needles("own", own.private_numbers().private_value)
    needles = needles_of(worked, secrets_of_token)
    looked = scan(worked.daemon.pid, needles | own_needles)
    assert looked.found & own_needles.keys(), "the scanner does not find what is there"
    assert not looked.found & needles.keys()
    assert not looked.unread
    assert looked.scanned_bytes > 64 << 20


@needs_root
def test_every_secret_would_be_found_where_it_is(worked: Worked, secrets_of_token: list[SecretObject]) -> None:
    """The positive control of each needle: a process that holds them all."""
    needles = needles_of(worked, secrets_of_token)
    keeper = "import os, sys; held = os.read(0, 1 << 20); print('holding', flush=True); os.read(0, 1)"
    with subprocess.Popen([sys.executable, "-c", keeper], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            held = b"\0".join(needles.values())
            assert len(held) < 1 << 16, "a pipe takes so much at once"
            process.stdin.write(held)
            process.stdin.flush()
            assert process.stdout.readline() == b"holding\n"
            assert scan(process.pid, needles).found == needles.keys()
        finally:
            process.kill()


_READ_KEYS = """
import sys
import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

module, label, pin_file = sys.argv[1:]

def outcome(work):
    try:
        work()
    except pkcs11.PKCS11Error as error:
        return type(error).__name__
    return "GIVEN"

token = pkcs11.lib(module).get_token(token_label=label)
with token.open(rw=True, user_pin=open(pin_file).read()) as session:
    wrapper = session.generate_key(KeyType.AES, 256, capabilities=MechanismFlag.WRAP)
    readable = session.generate_key(
        KeyType.AES, 256, template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
    )
    stored = []
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
        stored += session.get_objects({Attribute.CLASS: kind, Attribute.TOKEN: True})
    for name, key in [("readable", readable), *((bytes(key[Attribute.ID]).hex(), key) for key in stored)]:
        secret = Attribute.PRIVATE_EXPONENT if key.key_type is KeyType.RSA else Attribute.VALUE
        print(
            name,
            outcome(lambda: key[secret]),
            outcome(lambda: wrapper.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)),
            outcome(lambda: key.__setitem__(Attribute.EXTRACTABLE, True)),
            outcome(lambda: key.__setitem__(Attribute.LABEL, "another policy")),
        )
"""


def test_the_token_gives_no_key_away_even_to_who_has_the_pin(worked: Worked) -> None:
    settings = worked.settings
    with lock.held(settings.lock):
        printed = run_python(
            _READ_KEYS,
            str(settings.module),
            settings.label,
            str(settings.pin_file),
            configuration=settings.softhsm_conf,
        )
    answers = {name: tuple(outcomes) for name, *outcomes in map(str.split, printed.splitlines())}
    # The positive control: a key that may be read is read, wrapped and labelled by the same calls.
    read, wrapped, _, labelled = answers.pop("readable")
    assert (read, wrapped, labelled) == ("GIVEN", "GIVEN", "GIVEN")
    assert len(answers) == 2 + len(AUTHORITIES) + 1
    for read, wrapped, extractable, labelled in answers.values():
        assert (read, wrapped) == ("AttributeSensitive", "KeyUnextractable")
        assert "GIVEN" not in {extractable, labelled}


@pytest.fixture(scope="module")
def attacker(worked: Worked) -> Iterator[TokenClient]:
    """Frames to the daemon's token, as whoever runs code in the daemon can send them."""
    client = start_child(worked.settings)
    try:
        assert client.wait_ready(30), client.problem
        yield client
    finally:
        client.stop()


def sign(client: TokenClient, authority: Authority, to_be_signed: bytes, **changes: object) -> bytes | CertdError:
    changes = {"signature_algorithm": default_signature_algorithm(authority.spec), **changes}
    (result,) = client.sign([authority.item(to_be_signed, **changes)], timeout=30)
    return result


@pytest.mark.parametrize(
    ("authority_id", "changes", "rule"),
    [
        ("isolated-ca", {"authority": True, "path_length": 0}, "may not exist"),
        ("isolated-ca", {"certificate_sign": True}, "may not exist"),
        ("isolated-ca", {"issuer": x509.Name([])}, "byte for byte"),
        ("isolated-ca", {"lifetime": timedelta(days=366, seconds=1)}, "lives longer than"),
        ("isolated-root", {"authority": True, "path_length": 1}, "path length below 1"),
        ("isolated-root", {"authority": True}, "path length below 1"),
    ],
    ids=["an authority", "keyCertSign alone", "a foreign issuer", "past the limit", "a deeper path", "no path length"],
)
def test_a_key_of_the_daemon_signs_nothing_past_its_policy(
    worked: Worked, attacker: TokenClient, authority_id: str, changes: dict[str, Any], rule: str
) -> None:
    authority = worked.authority(authority_id)
    algorithm = default_signature_algorithm(authority.spec)
    lawful: dict[str, Any] = {"issuer": worked.subject(authority_id), "algorithm": algorithm}
    result = sign(attacker, authority, make_certificate(**{**lawful, **changes}))
    assert isinstance(result, CertdError), "it was signed"
    assert (result.reason, rule in result.message) == (Reason.TOKEN_POLICY_FORBIDS, True), result.message
    # Within the policy it signs, and this is what an attacker in the daemon keeps.
    item = authority.item(make_certificate(**lawful), signature_algorithm=algorithm)
    assert verifies(authority, item, attacker.sign([item], timeout=30)[0])


@pytest.mark.parametrize("kind", [SignatureKind.CHECKPOINT, 0, 99])
def test_a_key_of_the_daemon_signs_no_unknown_kind(worked: Worked, attacker: TokenClient, kind: int) -> None:
    authority = worked.authority("isolated-ca")
    item = SignItem(
        key_id=authority.key_id,
        policy=authority.policy,
        kind=kind,  # type: ignore[arg-type]  # Numbers that no kind has are the point.
        signature_algorithm=default_signature_algorithm(authority.spec),
        to_be_signed=make_certificate(issuer=worked.subject("isolated-ca")),
    )
    answer = attacker._call(TokenRequest(sign=SignRequest(items=[item])), 30)
    (result,) = answer.sign.results
    assert not result.signature
    assert result.failure.reason == Reason.TOKEN_POLICY_FORBIDS
    assert f"unknown kind {int(kind)}" in result.failure.message


def test_a_digest_is_not_signed(worked: Worked, attacker: TokenClient) -> None:
    result = sign(attacker, worked.authority("isolated-ca"), hashlib.sha256(b"anything").digest())
    assert isinstance(result, CertdError)
    assert result.reason is Reason.FIELD_INVALID


def _wider(policy: bytes) -> bytes:
    message = AuthorityKeyPolicy.FromString(policy)
    message.path_length = 4
    return message.SerializeToString(deterministic=True)


def test_a_policy_cannot_be_altered(worked: Worked, attacker: TokenClient) -> None:
    authority = worked.authority("isolated-ca")
    below = make_certificate(issuer=worked.subject("isolated-ca"), authority=True, path_length=0)
    result = sign(attacker, authority, below, policy=_wider(authority.policy))
    assert isinstance(result, CertdError)
    assert (result.reason, "sealed with the key" in result.message) == (Reason.TOKEN_POLICY_FORBIDS, True)
    # Nor can the key be declared anew.
    with pytest.raises(CertdError) as caught:
        attacker.create_authority_key(key_id=authority.key_id, key_spec=authority.spec, policy=_wider(authority.policy))
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


@dataclasses.dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed key in its row, and what it is bound to."""

    blob: bytes
    wrapping_key_id: bytes
    context: SealContext


def sealed_key(worked: Worked, managed: str) -> Sealed:
    ((blob, wrapping_key_id, tenant, certificate, version, public_key),) = rows(
        worked.database,
        "SELECT s.blob, w.key_id, t.uid, m.uid, v.number, v.public_key FROM managed_certificates m "
        "JOIN managed_certificate_versions v ON v.managed_certificate_uid = m.uid "
        "JOIN sealed_keys s ON s.managed_certificate_uid = m.uid AND s.version = v.number "
        "JOIN tenants t ON t.tenant_id = m.tenant "
        "JOIN wrapping_keys w ON w.tenant = m.tenant AND w.number = v.wrapping_key_number "
        "WHERE m.managed_certificate_id = ?",
        [managed],
    )
    context = SealContext(
        tenant=tenant,
        certificate=certificate,
        version=version,
        purpose=Purpose.CUSTODY,
        exportable=True,
        public_key_sha256=hashlib.sha256(public_key).digest(),
    )
    return Sealed(blob, wrapping_key_id, context)


def open_sealed(client: TokenClient, sealed: Sealed) -> bytes:
    recipient = X25519PrivateKey.generate()
    message = client.export_to_recipient(
        wrapping_key_id=sealed.wrapping_key_id,
        sealed_key=sealed.blob,
        context=sealed.context,
        recipient_public_key=recipient.public_key().public_bytes_raw(),
    )
    return hpke_decrypt(message, private_key=recipient, info=export_info(sealed.context))


def test_a_sealed_key_opens_in_its_own_row(worked: Worked, attacker: TokenClient) -> None:
    """The positive control of the next: with the context of its row it opens."""
    opened = open_sealed(attacker, sealed_key(worked, "isolated-ec"))
    assert opened == worked.subscriber_keys["isolated-ec"]
    assert isinstance(load_der_private_key(opened, None), ec.EllipticCurvePrivateKey)


@pytest.mark.parametrize(
    "change",
    [{"tenant": "another"}, {"certificate": "another"}, {"version": 2}, {"public_key_sha256": bytes(32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_sealed_key_opens_in_no_other_context(worked: Worked, attacker: TokenClient, change: dict[str, Any]) -> None:
    own = sealed_key(worked, "isolated-ec")
    with pytest.raises(CertdError, match="does not open") as caught:
        open_sealed(attacker, dataclasses.replace(own, context=dataclasses.replace(own.context, **change)))
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


Move = tuple[list[str], list[str]]
"""Statements that change rows, and those that change them back."""


def _exchange(database: Path) -> Move:
    """The sealed keys of two managed certificates change their rows."""
    blobs = dict(
        rows(
            database,
            "SELECT m.managed_certificate_id, hex(s.blob) FROM sealed_keys s "
            "JOIN managed_certificates m ON m.uid = s.managed_certificate_uid",
        )
    )

    def put(target: str, source: str) -> str:
        return (
            f"UPDATE sealed_keys SET blob = X'{blobs[source]}' WHERE managed_certificate_uid = "
            f"(SELECT uid FROM managed_certificates WHERE managed_certificate_id = '{target}')"
        )

    one, other = "isolated-ec", "isolated-ed"
    return [put(one, other), put(other, one)], [put(one, one), put(other, other)]


def _renumber(_database: Path) -> Move:
    """Every first version becomes a second one."""

    def statements(old: int, new: int) -> list[str]:
        return [
            f"UPDATE managed_certificate_versions SET number = {new} WHERE number = {old}",
            f"UPDATE sealed_keys SET version = {new} WHERE version = {old}",
            f"UPDATE managed_certificates SET current_version = {new} WHERE current_version = {old}",
        ]

    return statements(1, 2), statements(2, 1)


def _rename_tenant(_database: Path) -> Move:
    """The tenant becomes another one of the same name."""
    return ["UPDATE tenants SET uid = 'x' || uid"], ["UPDATE tenants SET uid = substr(uid, 2)"]


def _allow_export(_database: Path) -> Move:
    """A key that was requested as not exportable is said to be."""
    where = "WHERE managed_certificate_id = 'isolated-kept'"
    statement = "UPDATE managed_certificates SET exportable = {} " + where
    return [statement.format(1)], [statement.format(0)]


@pytest.mark.parametrize(
    ("managed", "move"),
    [
        ("isolated-ec", _exchange),
        ("isolated-ec", _renumber),
        ("isolated-ec", _rename_tenant),
        ("isolated-kept", _allow_export),
    ],
    ids=["row", "version", "tenant", "exportable"],
)
def test_who_writes_the_database_opens_no_key(worked: Worked, managed: str, move: Callable[[Path], Move]) -> None:
    there, back = move(worked.database)
    before = books(worked.database)
    request = ExportManagedCertificateRequest(
        name=f"tenants/default/managedCertificates/{managed}", passphrase=PassphraseProtection(passphrase=PASSPHRASE)
    )
    with calling(administrator(worked.daemon)) as caller:
        _execute(worked.database, there)
        try:
            failure = refused(caller.stubs.export_managed_certificate, request)
        finally:
            _execute(worked.database, back)
        assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", Reason.TOKEN_POLICY_FORBIDS)
        assert "does not open" in failure.message
        # All is as it was but for the event, durable before the token process moves, and when it says that it was.
        after = books(worked.database)
        for table, more in (("events", 1), ("managed_certificates", 0)):
            assert after.pop(table)[0] == before.pop(table)[0] + more
        assert after == before
        if managed != "isolated-kept":
            assert caller.stubs.export_managed_certificate(request, timeout=60).encrypted_private_key_pem


def _execute(database: Path, statements: list[str]) -> None:
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for one in statements:
            assert connection.execute(one).rowcount > 0, one
