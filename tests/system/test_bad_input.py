"""Bad input to a real daemon: one precise error each, nothing changed, never a defect."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf.duration_pb2 import Duration

from certd.client.failure import CallFailed
from certd.config import load, token_settings
from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec, default_signature_algorithm
from certd.pki.preparation import assemble
from certd.token.client import start_child
from certd.v1.certificate_service_pb2 import IssueCertificateRequest
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    ExportManagedCertificateRequest,
    PassphraseProtection,
    RecipientProtection,
    RequestManagedCertificateRequest,
)
from certd.v1.server_service_pb2 import GetServerInfoRequest
from certd.v1.x509_pb2 import SubjectAlternativeNames
from tests.daemon import RunningDaemon, run_program
from tests.system.books import database_of, defects, rows, unchanged
from tests.system.calls import NAME, Caller, administrator, calling, make_csr, must, refused
from tests.system.jobs import at_work
from tests.token.material import Authority
from tests.waiting import eventually

CA = "tenants/default/authorities/bad-ca"
MANAGED = "tenants/default/managedCertificates/bad-web"
DAY = 86_400


class Ended(Protocol):
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Server:
    """A daemon with an authority that lives two days, and a managed certificate."""

    daemon: RunningDaemon
    caller: Caller

    @property
    def database(self) -> Path:
        return database_of(self.daemon.installation)

    def refuses(self, method: Callable[..., object], request: object) -> CallFailed:
        """Makes a call that must be refused and leave nothing behind."""
        with unchanged(self.database):
            return refused(method, request)  # type: ignore[arg-type]  # Every request is a message.


@pytest.fixture(scope="session")
def authority(daemon: RunningDaemon) -> str:
    must(
        daemon,
        *("authority", "create", "bad-ca", "--type", "root", "--subject", "CN=Short Lived,O=Example"),
        *("--lifetime", "2d"),
    )
    must(daemon, "managed", "request", "bad-web", "--authority", "bad-ca", "--dns", NAME, "--lifetime", "1d")
    return CA


@pytest.fixture(scope="module")
def server(daemon: RunningDaemon, authority: str) -> Iterator[Server]:
    assert authority
    already = len(daemon.installation.log.read_text())
    # What other tests left to the scheduler is done before the books are watched, and nothing is due while they are.
    database = database_of(daemon.installation)
    # An authority has its responder a minute after it came to be.
    eventually(lambda: not at_work(database, within=timedelta(minutes=30)), within=180, pause=0.2)
    with calling(administrator(daemon)) as caller:
        yield Server(daemon, caller)
    assert not defects(daemon.installation.log.read_text()[already:])


def _wrongly_signed() -> bytes:
    csr = bytearray(make_csr())
    # In the middle of the name, which the signature covers.
    at = csr.index(NAME.encode())
    csr[at : at + 3] = b"vvv"
    return bytes(csr)


CSRS: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "truncated DER": (lambda: make_csr()[:-20], Reason.CSR_MALFORMED),
    "truncated PEM": (lambda: make_csr(encoding=Encoding.PEM)[:-60], Reason.CSR_MALFORMED),
    "bytes after it": (lambda: make_csr() + b"\0", Reason.CSR_MALFORMED),
    "huge": (lambda: make_csr(encoding=Encoding.PEM) + b"\n" * (33 << 10), Reason.CSR_MALFORMED),
    "huge and random": (lambda: secrets.token_bytes(33 << 10), Reason.CSR_MALFORMED),
    "wrongly signed": (_wrongly_signed, Reason.CSR_SIGNATURE_INVALID),
    "no name": (lambda: make_csr(x509.DNSName("not a name")), Reason.NAME_NOT_ALLOWED),
    "a name too long": (lambda: make_csr(x509.DNSName("a" * 64 + ".example")), Reason.NAME_NOT_ALLOWED),
    "an identity": (
        lambda: make_csr(x509.UniformResourceIdentifier("spiffe://certd.internal/identities/admin")),
        Reason.NAME_NOT_ALLOWED,
    ),
}


@pytest.mark.parametrize("case", CSRS)
def test_a_bad_csr_is_one_precise_error(server: Server, tmp_path: Path, case: str) -> None:
    make, reason = CSRS[case]
    csr = make()
    failure = server.refuses(server.caller.stubs.issue_certificate, IssueCertificateRequest(parent=CA, csr=csr))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", reason)
    (violation,) = failure.violations
    # What the profile forbids is named by the name's place in the certificate that was to be.
    assert violation.field.startswith("csr")
    file = tmp_path / "request.csr"
    file.write_bytes(csr)
    with unchanged(server.database):
        ended = server.daemon.certctl("certificate", "issue", "--authority", "bad-ca", "--csr", file)
    assert_one_line(ended, reason)


def assert_one_line(ended: Ended, reason: Reason) -> None:
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"certctl: {reason}: ")


@pytest.mark.parametrize(
    "dns_name", ["not a name", "-a.example", "a..example", "*.*.example", "", "1.2.3.4", "ä.example"]
)
def test_a_name_that_is_no_name_is_refused(server: Server, dns_name: str) -> None:
    request = RequestManagedCertificateRequest(
        parent="tenants/default",
        managed_certificate_id="never",
        managed_certificate=ManagedCertificate(
            authority=CA, subject_alternative_names=SubjectAlternativeNames(dns_names=[NAME, dns_name])
        ),
    )
    failure = server.refuses(server.caller.stubs.request_managed_certificate, request)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", Reason.NAME_NOT_ALLOWED)
    # The good one is not among the violations.
    (violation,) = failure.violations
    assert violation.field == "managed_certificate.subject_alternative_names.dns_names[1]"


def test_a_lifetime_past_the_authority_s_end_is_refused(server: Server) -> None:
    stubs = server.caller.stubs
    lifetime = Duration(seconds=3 * DAY)
    issue = IssueCertificateRequest(parent=CA, csr=make_csr(), lifetime=lifetime)
    managed = RequestManagedCertificateRequest(
        parent="tenants/default",
        managed_certificate_id="never",
        managed_certificate=ManagedCertificate(
            authority=CA, subject_alternative_names=SubjectAlternativeNames(dns_names=[NAME]), lifetime=lifetime
        ),
    )
    for method, request in ((stubs.issue_certificate, issue), (stubs.request_managed_certificate, managed)):
        failure = server.refuses(method, request)
        assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", Reason.LIFETIME_EXCEEDS_AUTHORITY)
    with unchanged(server.database):
        ended = server.daemon.certctl(
            *("authority", "create", "never", "--type", "subordinate", "--issuer", "bad-ca"),
            *("--subject", "CN=Never", "--lifetime", "3d"),
        )
    assert_one_line(ended, Reason.LIFETIME_EXCEEDS_AUTHORITY)


@pytest.mark.parametrize("length", [0, 7, 1025])
def test_a_passphrase_out_of_bounds_is_refused_and_not_shown(server: Server, tmp_path: Path, length: int) -> None:
    passphrase = b"Zq" * (length // 2) + b"Z" * (length % 2)
    request = ExportManagedCertificateRequest(name=MANAGED, passphrase=PassphraseProtection(passphrase=passphrase))
    failure = server.refuses(server.caller.stubs.export_managed_certificate, request)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", Reason.FIELD_INVALID)
    assert [violation.field for violation in failure.violations] == ["passphrase.passphrase"]
    assert "8" in failure.message
    assert "1,024" in failure.message or "1024" in failure.message
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_bytes(passphrase)
    for more in ((), ("--server-side",)):
        with unchanged(server.database):
            ended = server.daemon.certctl(
                *("managed", "export", "bad-web", "--passphrase-file", file, "--out-dir", tmp_path / "out", *more)
            )
        assert_one_line(ended, Reason.FIELD_INVALID)
        assert "ZqZ" not in ended.stderr + failure.message
    assert not (tmp_path / "out").exists()


def test_a_recipient_key_that_is_none_is_refused(server: Server) -> None:
    for public_key in (b"", bytes(31), bytes(33)):
        request = ExportManagedCertificateRequest(name=MANAGED, recipient=RecipientProtection(public_key=public_key))
        failure = server.refuses(server.caller.stubs.export_managed_certificate, request)
        assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", Reason.FIELD_INVALID)
        assert [violation.field for violation in failure.violations] == ["recipient.public_key"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A client certificate and its key."""

    certificate: bytes
    private_key: bytes
    """PEM, both."""


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _template(key: ec.EllipticCurvePrivateKey, issuer: x509.Name, spiffe_id: str) -> x509.CertificateBuilder:
    """Returns a certificate that is, but for its signature, what the system authority gives an identity."""
    now = datetime.now(UTC).replace(microsecond=0)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
    )


ADMINISTRATOR = "spiffe://certd.internal/identities/admin"


def _signed_in_the_token(server: Server, authority_id: str) -> Credential:
    """An identity of the administrator that a key in the token signed, past the daemon and its books."""
    ((key_id, policy, public_key, spec, der),) = rows(
        server.database,
        "SELECT k.key_id, k.policy, k.public_key, a.key_spec, a.certificate FROM authorities a "
        "JOIN authority_keys k ON k.authority_uid = a.uid WHERE a.authority_id = ?",
        [authority_id],
    )
    authority = Authority(key_id, KeySpec(spec), policy, public_key)
    algorithm = default_signature_algorithm(authority.spec)
    key = ec.generate_private_key(ec.SECP256R1())
    # A mold signed by a key of the same kind names the same algorithm.
    mold = _template(key, x509.load_der_x509_certificate(der).subject, ADMINISTRATOR).sign(
        ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()
    )
    assert authority.spec is KeySpec.EC_P384
    tbs = mold.tbs_certificate_bytes
    client = start_child(token_settings(load(server.daemon.installation.config)))
    try:
        assert client.wait_ready(30), client.problem
        (signature,) = client.sign([authority.item(tbs, signature_algorithm=algorithm)], timeout=30)
    finally:
        client.stop()
    assert not isinstance(signature, CertdError), signature
    leaf = x509.load_der_x509_certificate(assemble(tbs, algorithm, signature))
    leaf.verify_directly_issued_by(x509.load_der_x509_certificate(der))
    return Credential(leaf.public_bytes(Encoding.PEM), _key_pem(key))


def _self_signed(_server: Server) -> Credential:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _template(key, x509.Name([]), ADMINISTRATOR).sign(key, hashes.SHA256())
    return Credential(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def _servers_own(server: Server) -> Credential:
    data = server.daemon.installation.data
    return Credential((data / "server.pem").read_bytes(), (data / "server.key").read_bytes())


def call_as(server: Server, credential: Credential | None) -> CallFailed:
    root = server.daemon.installation.trust_bundle.read_bytes()
    pair = {} if credential is None else {"certificate": credential.certificate, "private_key": credential.private_key}
    with calling(Caller(server.daemon.grpc, root=root, **pair)) as caller:
        return server.refuses(caller.stubs.get_server_info, GetServerInfoRequest())


HANDSHAKES: dict[str, Callable[[Server], Credential | None]] = {
    "no certificate": lambda _server: None,
    "a foreign certificate": _self_signed,
    "an identity of a tenant's authority": lambda server: _signed_in_the_token(server, "bad-ca"),
}


@pytest.mark.parametrize("case", HANDSHAKES)
def test_who_is_not_vouched_for_by_the_system_root_does_not_get_through_the_handshake(
    server: Server, tmp_path: Path, case: str
) -> None:
    credential = HANDSHAKES[case](server)
    failure = call_as(server, credential)
    # The server answers nothing at all: not even that it is certd.
    assert (failure.code, failure.answered) == ("UNAVAILABLE", False)
    if credential is None:
        return
    certificate, private_key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(credential.certificate)
    private_key.write_bytes(credential.private_key)
    flags = ("--certificate", certificate, "--private-key", private_key, "--timeout", "1s")
    ended = server.daemon.certctl(*flags, "server", "info")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "knows your client certificate" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda server: _signed_in_the_token(server, "system"), "not in the books"),
        (_servers_own, "exactly one URI name"),
    ],
    ids=["an identity that nobody issued", "the server's own certificate"],
)
def test_the_system_root_s_signature_alone_makes_no_caller(
    server: Server, make: Callable[[Server], Credential], finding: str
) -> None:
    failure = call_as(server, make(server))
    assert (failure.code, failure.reason) == ("UNAUTHENTICATED", Reason.CREDENTIAL_INVALID)
    assert finding in failure.message


def test_the_administrator_is_a_caller(server: Server) -> None:
    """The positive control: the same call with a credential that is in the books."""
    info = server.caller.stubs.get_server_info(GetServerInfoRequest(), timeout=30)
    assert info.token.ready


def test_an_unknown_key_stops_the_start_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "certd.toml"
    text = server.daemon.installation.config.read_text()
    config.write_text(text.replace("[token]", "[token]\nlabbel = 'certd'\n", 1) + "\n[listeners]\ngrpc = 'x'\n")
    with unchanged(server.database):
        ended = run_program("certd", "serve", "--config", config)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("certd: ")]
    assert line.startswith("certd: FIELD_INVALID: ")
    assert "token.labbel: there is no such key" in line
    assert "listeners: there is no such key" in line


def test_a_second_daemon_on_the_file_is_refused_in_one_line(server: Server) -> None:
    made = server.daemon.installation
    with unchanged(server.database):
        ended = run_program("certd", "serve", "--config", made.config)
    assert (ended.returncode, ended.stdout) == (1, "")
    error, remedy = ended.stderr.splitlines()
    assert error.startswith("certd: STORE_UNAVAILABLE: another certd uses ")
    assert str(database_of(made)) in error
    # What an older database needs would lead astray here.
    assert remedy == "  remedy: see [database] of certd.toml"
    # The first one never noticed.
    assert server.caller.serving()
    must(server.daemon, "certificate", "list", "--limit", "1")
