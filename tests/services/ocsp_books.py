"""What is answered about certificates, for tests: asked for as others ask, and verified as others verify."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from certd.model.authority import Authority
from certd.model.job import JobKind
from certd.model.names import AuthorityName
from certd.pki import der
from certd.pki.ocsp_request import parse_request
from certd.services.authorities import existing_authority
from certd.services.certificates import CertificateView
from certd.services.ocsp_jobs import subject_of
from certd.store import jobs, ocsp_responders, ocsp_responses
from certd.store.ocsp_responders import Responder
from certd.store.ocsp_responses import StoredAnswer
from tests.services.conftest import World
from tests.services.revocation_books import CA
from tests.waiting import eventually

_NONCE = "1.3.6.1.5.5.7.48.1.2"


def authority(world: World, name: AuthorityName = CA) -> Authority:
    with world.core.store.read("test") as tx:
        return existing_authority(tx, name)


def issuer(world: World, name: AuthorityName = CA) -> x509.Certificate:
    certificate = authority(world, name).certificate
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate)


def serial_of(view: CertificateView) -> int:
    return int(view.name.rpartition("/")[2], 16)


def request(
    issuer_certificate: x509.Certificate,
    serials: Sequence[int],
    *,
    algorithm: hashes.HashAlgorithm | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """Returns the DER of a request about certificates of one issuer."""
    singles = []
    for serial in serials:
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            *_hashes(issuer_certificate, algorithm or hashes.SHA1()),  # As RFC 5019 has it.
            abs(serial) or 1,
            algorithm or hashes.SHA1(),
        )
        outer = der.Reader(builder.build().public_bytes(Encoding.DER)).enter(der.SEQUENCE).enter(der.SEQUENCE)
        single = outer.read(der.SEQUENCE)
        if serial < 1:
            named = der.Reader(der.Reader(single).read(der.SEQUENCE)).read(der.SEQUENCE)
            single = der.sequence(der.sequence(_with_serial(named, serial)))
        singles.append(single)
    extensions = b""
    if nonce is not None:
        extension = der.sequence(der.object_identifier(_NONCE), der.octet_string(der.octet_string(nonce)))
        extensions = der.encode(der.context(2), der.sequence(extension))
    return der.sequence(der.sequence(der.sequence(*singles), extensions))


def _with_serial(named: bytes, serial: int) -> bytes:
    reader = der.Reader(named)
    kept = [reader.read_whole(der.SEQUENCE), reader.read_whole(der.OCTET_STRING), reader.read_whole(der.OCTET_STRING)]
    return b"".join(kept) + der.integer(serial)


def _hashes(certificate: x509.Certificate, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    encoded = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = der.Reader(encoded).enter(der.SEQUENCE)
    key.read(der.SEQUENCE)
    return _digest(algorithm, certificate.subject.public_bytes()), _digest(algorithm, key.read(der.BIT_STRING)[1:])


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def ask(world: World, content: bytes, name: AuthorityName = CA, *, key_number: int = 1) -> bytes:
    """Returns the OCSPResponse."""
    answers = world.core.publication.answering.answers
    future = answers.submit(authority(world, name).uid, key_number, parse_request(content), content)
    return future.result(30).body


def load(response: bytes, issuer_certificate: x509.Certificate) -> ocsp.OCSPResponse:
    """Returns a successful response whose signature, by the issuer or by whom it delegated, is right."""
    loaded = ocsp.load_der_ocsp_response(response)
    assert loaded.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, loaded.response_status
    signer = issuer_certificate
    if loaded.certificates:
        (signer,) = loaded.certificates
        signer.verify_directly_issued_by(issuer_certificate)
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
        assert not signer.extensions.get_extension_for_class(x509.OCSPNoCheck).critical
    key, digest = signer.public_key(), loaded.signature_hash_algorithm
    assert digest is not None
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(loaded.signature, loaded.tbs_response_bytes, ec.ECDSA(digest))
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(loaded.signature, loaded.tbs_response_bytes, padding.PKCS1v15(), digest)
    return loaded


def answer(world: World, view: CertificateView, **options: Any) -> ocsp.OCSPResponse:
    """Returns what is answered about a certificate of `ca`."""
    content = request(issuer(world), [serial_of(view)], **options)
    return load(ask(world, content), issuer(world))


def status(world: World, view: CertificateView) -> ocsp.OCSPCertStatus:
    return answer(world, view).certificate_status


def run_job(world: World, name: AuthorityName = CA, key_number: int = 1) -> None:
    """Does the job of a responder, as the scheduler does."""
    world.core.publication.answering.presigning.advance(subject_of(authority(world, name).uid, key_number))


def due_time(world: World, name: AuthorityName = CA, key_number: int = 1) -> Any:
    subject = subject_of(authority(world, name).uid, key_number)
    with world.core.store.read("test") as tx:
        return jobs.due_time(tx, JobKind.ADVANCE_OCSP_RESPONDER, subject)


def responders(world: World, name: AuthorityName = CA) -> list[Responder]:
    with world.core.store.read("test") as tx:
        return ocsp_responders.of_key(tx, authority(world, name).uid, 1)


def stored(world: World, view: CertificateView) -> StoredAnswer | None:
    with world.core.store.read("test") as tx:
        return ocsp_responses.get(tx, (authority(world).uid, 1, view.name.rpartition("/")[2]))


def eventually_stored(world: World, view: CertificateView) -> StoredAnswer:
    """Returns the answer that is stored soon after it was given."""
    eventually(lambda: stored(world, view) is not None)
    found = stored(world, view)
    assert found is not None
    return found


def forget_memory(world: World) -> None:
    """As a daemon does that starts."""
    world.core.publication.answering.answers.memory.clear()


HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
