"""A renewal adds the roots that the server names to the trust bundle, and takes none away."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.client.renewal import renew
from certd.credential_files import CredentialFiles
from certd.pki.credential_request import new_credential_request
from certd.v1.access_service_pb2 import RenewIdentityRequest
from certd.v1.identity_pb2 import IdentityCredential
from certd.v1.x509_pb2 import EncodedCertificate


def certificate(key: ec.EllipticCurvePublicKey | None = None, name: str = "root") -> x509.Certificate:
    signer = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.public_key(key or signer.public_key()).sign(signer, hashes.SHA256())


def encoded(one: x509.Certificate) -> EncodedCertificate:
    return EncodedCertificate(der=one.public_bytes(Encoding.DER), pem=one.public_bytes(Encoding.PEM).decode())


def renewed(folder: Path, *roots: x509.Certificate) -> list[x509.Certificate]:
    """Renews with an answer that names these roots, and returns what the trust bundle holds then."""
    made = new_credential_request()
    files = CredentialFiles(certificate=folder / "client.pem", private_key=folder / "client.key")
    files.certificate.write_bytes(certificate().public_bytes(Encoding.PEM))
    files.private_key.write_bytes(made.private_key)

    def answer(request: RenewIdentityRequest) -> IdentityCredential:
        key = x509.load_der_x509_csr(request.csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return IdentityCredential(certificate=encoded(certificate(key)), system_roots=[encoded(root) for root in roots])

    renew(files, answer, trust_bundle=folder / "root.pem")
    return x509.load_pem_x509_certificates((folder / "root.pem").read_bytes())


def test_a_root_that_is_new_is_added_and_the_others_stay(tmp_path: Path) -> None:
    old, new, elsewhere = certificate(name="old"), certificate(name="new"), certificate(name="elsewhere")
    bundle = tmp_path / "root.pem"
    # Without the line feed at the end, as some editors leave it.
    bundle.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (old, elsewhere)).rstrip())
    bundle.chmod(0o644)
    assert renewed(tmp_path, old, new) == [old, elsewhere, new]
    assert bundle.stat().st_mode & 0o777 == 0o644
    before = bundle.read_bytes()
    assert renewed(tmp_path, new) == [old, elsewhere, new]
    assert bundle.read_bytes() == before


def test_an_answer_without_roots_changes_nothing(tmp_path: Path) -> None:
    old = certificate(name="old")
    (tmp_path / "root.pem").write_bytes(old.public_bytes(Encoding.PEM))
    assert renewed(tmp_path) == [old]
