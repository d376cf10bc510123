"""Renewal of a client's files: one program at a time, the old pair whole until the new one is."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certd.client.credentials import read_credentials
from certd.client.renewal import is_due, read_settled, renew, renew_when_due
from certd.credential_files import CredentialFiles
from certd.errors import CertdError, Reason
from certd.pki.credential_request import new_credential_request
from certd.v1.access_service_pb2 import RenewIdentityRequest
from certd.v1.identity_pb2 import IdentityCredential
from certd.v1.x509_pb2 import EncodedCertificate

_DAYS = 30


class Server:
    """Certifies every key, and counts."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.requests: list[bytes] = []

    def certificate(
        self,
        csr: bytes,
        *,
        age: timedelta = timedelta(0),
        uris: tuple[str, ...] = ("spiffe://test.internal/identities/a",),
    ) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Root")])
        begin = datetime.now(UTC) - age
        return (
            x509.CertificateBuilder()
            .issuer_name(name)
            .subject_name(x509.Name([]))
            .public_key(x509.load_der_x509_csr(csr).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=_DAYS))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=True
            )
            .sign(self.key, hashes.SHA256())
        )

    def renew(self, request: RenewIdentityRequest) -> IdentityCredential:
        self.requests.append(request.csr)
        return _answer(self.certificate(request.csr))


def _answer(made: x509.Certificate) -> IdentityCredential:
    return IdentityCredential(
        certificate=EncodedCertificate(
            der=made.public_bytes(Encoding.DER), pem=made.public_bytes(Encoding.PEM).decode()
        )
    )


@pytest.fixture
def server() -> Server:
    return Server()


def filled(folder: Path, server: Server, *, age: int = 0, uris: tuple[str, ...] | None = None) -> CredentialFiles:
    made = new_credential_request()
    known = {} if uris is None else {"uris": uris}
    certificate = server.certificate(made.csr, age=timedelta(days=age), **known)
    folder.mkdir(exist_ok=True)
    files = CredentialFiles(certificate=folder / "client.pem", private_key=folder / "client.key")
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.private_key.write_bytes(made.private_key)
    (folder / "root.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return files


def contents(files: CredentialFiles) -> tuple[bytes, bytes]:
    return files.certificate.read_bytes(), files.private_key.read_bytes()


def fit(files: CredentialFiles) -> bool:
    certificate, key = contents(files)
    return x509.load_pem_x509_certificate(certificate).public_key() == load_pem_private_key(key, None).public_key()


@pytest.mark.parametrize(("age", "due"), [(0, False), (19, False), (21, True), (29, True), (31, False)])
def test_a_renewal_is_due_in_the_last_third_of_the_lifetime(
    tmp_path: Path, server: Server, age: int, *, due: bool
) -> None:
    files = filled(tmp_path, server, age=age)
    found = read_credentials(
        certificate=files.certificate, private_key=files.private_key, trust_bundle=tmp_path / "root.pem"
    )
    assert is_due(found, datetime.now(UTC)) is due


@pytest.mark.parametrize(
    "uris", [("https://test.internal/a",), ("spiffe://test.internal/a", "spiffe://test.internal/b")]
)
def test_what_is_no_certificate_of_an_identity_is_never_due(
    tmp_path: Path, server: Server, uris: tuple[str, ...]
) -> None:
    files = filled(tmp_path, server, age=25, uris=uris)
    assert renew_when_due(files, server.renew, trust_bundle=tmp_path / "root.pem") is None
    assert server.requests == []


def test_of_many_programs_at_once_one_renews(tmp_path: Path, server: Server) -> None:
    files = filled(tmp_path, server, age=25)
    start = threading.Barrier(8)
    failures = []

    def run() -> None:
        start.wait()
        for _ in range(5):
            try:
                renew_when_due(files, server.renew, trust_bundle=tmp_path / "root.pem")
                read_settled(files, trust_bundle=tmp_path / "root.pem")
            except BlockingIOError:
                pass
            except CertdError as error:
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(server.requests) == 1
    assert fit(files)
    assert not files.staged_key.exists()


def test_a_refused_renewal_leaves_the_old_pair_and_nothing_else(tmp_path: Path, server: Server) -> None:
    files = filled(tmp_path, server)
    before = contents(files)

    def refuse(_: RenewIdentityRequest) -> IdentityCredential:
        assert contents(files) == before
        raise CertdError(Reason.STATE_FORBIDS, "refused")

    with pytest.raises(CertdError, match="refused"):
        renew(files, refuse, trust_bundle=tmp_path / "root.pem")
    assert contents(files) == before
    assert not files.staged_key.exists()


def test_a_certificate_for_another_key_is_not_taken(tmp_path: Path, server: Server) -> None:
    files = filled(tmp_path, server)
    before = contents(files)
    other = _answer(server.certificate(new_credential_request().csr))
    for answer in (other, IdentityCredential()):
        with pytest.raises(CertdError) as caught:
            renew(files, lambda _, answer=answer: answer, trust_bundle=tmp_path / "root.pem")  # type: ignore[misc]
        assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert contents(files) == before
    assert not files.staged_key.exists()


def test_nothing_is_asked_for_where_nothing_can_be_written(tmp_path: Path, server: Server) -> None:
    files = filled(tmp_path / "folder", server)
    # A folder in the place of the key that is to wait; also who may write everywhere cannot write it.
    files.staged_key.mkdir()
    (files.staged_key / "file").touch()
    with pytest.raises(CertdError) as caught:
        renew(files, server.renew, trust_bundle=tmp_path / "folder" / "root.pem")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert server.requests == []
    assert fit(files)


def test_a_renewal_gives_a_new_key(tmp_path: Path, server: Server) -> None:
    files = filled(tmp_path, server)
    before = contents(files)
    renew(files, server.renew, trust_bundle=tmp_path / "root.pem")
    after = contents(files)
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert fit(files)
