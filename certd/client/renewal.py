"""Renewal of the certificate that a client connects with: a new key, put in place of the old one atomically.

Several programs may use the same files. One renews at a time, which the lock on the folder of the private key sees to;
what one that died had begun is ended or undone by the next that takes the lock.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from certd.client.credentials import Credentials, read_credentials
from certd.client.failure import CallFailed
from certd.credential_files import CredentialFiles, install, settle, stage_key, write
from certd.errors import CertdError, Reason
from certd.pki.credential_request import CredentialRequest, credential_request_of, new_credential_request
from certd.pki.encoding import certificate_pem
from certd.v1.access_service_pb2 import RenewIdentityRequest
from certd.v1.identity_pb2 import IdentityCredential

Renew = Callable[[RenewIdentityRequest], IdentityCredential]
"""Calls RenewIdentity as the identity whose certificate is in the files."""

_SPIFFE = "spiffe://"


def read_settled(files: CredentialFiles, *, trust_bundle: Path) -> Credentials:
    """Does what `read_credentials` does, also where a renewal is under way or was interrupted."""

    def read() -> Credentials:
        return read_credentials(certificate=files.certificate, private_key=files.private_key, trust_bundle=trust_bundle)

    try:
        return read()
    except CertdError:
        if not files.staged_key.exists():
            raise
    # What cannot be ended, for want of rights, is for the reading to tell.
    with suppress(OSError), _alone(files):
        settle(files)
    return read()


def is_due(credentials: Credentials, now: datetime) -> bool:
    """Returns whether a third of the lifetime, or less, is left of a certificate that can still be renewed.

    Only that of an identity, which has one SPIFFE id for a name, can be.
    """
    certificate = x509.load_pem_x509_certificates(credentials.certificate_chain)[0]
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now < end <= now + (end - begin) / 3 and _is_identity(certificate)


def renew(files: CredentialFiles, call: Renew, *, trust_bundle: Path) -> IdentityCredential:
    """Renews the certificate in the files, and returns what was answered.

    Waits for another program that renews the same one. FIELD_INVALID when the files cannot be written, which is found
    out before anything is issued; CREDENTIAL_INVALID when the answer is for another key; and what the call raises.
    """
    try:
        with _alone(files):
            return _renew(files, call, trust_bundle)
    except OSError as error:
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{error.filename or files.private_key} cannot be written ({(error.strerror or str(error)).lower()}): let"
            " your user write the folders of certificate and private key, for a renewal replaces both",
        ) from error


def renew_when_due(
    files: CredentialFiles, call: Renew, *, trust_bundle: Path, now: datetime | None = None
) -> IdentityCredential | None:
    """Renews the certificate when a third of its lifetime is left; None when it is not due, or another renews it.

    Raises OSError when the files cannot be written, and what the call raises.
    """
    with _alone(files, wait=False):
        # Another may have renewed since this program read the files.
        credentials = read_credentials(
            certificate=files.certificate, private_key=files.private_key, trust_bundle=trust_bundle
        )
        if is_due(credentials, now or datetime.now(UTC)):
            return _renew(files, call, trust_bundle)
    return None


def _renew(files: CredentialFiles, call: Renew, trust_bundle: Path) -> IdentityCredential:
    settle(files, keep=True)
    made = _request(files)
    # What was answered and could not be put in place is answered again for the same key, and costs no other.
    keep = False
    try:
        answer = _called(call, made.csr)
        keep = True
        # First, for what comes next may be known by them alone.
        learn_roots(trust_bundle, [root.pem for root in answer.system_roots])
        # What was checked, and not what is said to be the same.
        install(files, certificate_pem(answer.certificate.der).encode())
    except CallFailed as failure:
        # Perhaps the answer was lost.
        keep = not failure.answered
        raise
    finally:
        # After a refusal the key that was made is in nobody's way.
        settle(files, keep=keep)
    return answer


def _called(call: Renew, csr: bytes) -> IdentityCredential:
    answer = call(RenewIdentityRequest(csr=csr))
    _check(answer, csr)
    return answer


def _request(files: CredentialFiles) -> CredentialRequest:
    """Returns key and CSR: those of a try that came to nothing, or new ones, which are on the disk."""
    with suppress(OSError, CertdError):
        return credential_request_of(files.staged_key.read_bytes())
    made = new_credential_request()
    stage_key(files, made.private_key)
    return made


def learn_roots(trust_bundle: Path, roots: Sequence[str]) -> None:
    """Adds the roots (PEM) that the server names and the trust bundle lacks: those of the next system authority.

    What stands in it stays, for it may hold roots from elsewhere. The server is trusted with this: it was reached by a
    root that is in there. Raises CREDENTIAL_INVALID for what is no certificate.
    """
    content = trust_bundle.read_bytes()
    known = set(x509.load_pem_x509_certificates(content))
    try:
        new = [root for root in roots if x509.load_pem_x509_certificate(root.encode()) not in known]
    except ValueError as error:
        raise CertdError(
            Reason.CREDENTIAL_INVALID, "the server answered with a root that cannot be read; nothing was replaced"
        ) from error
    if new:
        path = trust_bundle.resolve()
        parts = (content.rstrip(), *(root.strip().encode() for root in new), b"")
        write(path, b"\n".join(parts), mode=stat.S_IMODE(path.stat().st_mode))


def _check(answer: IdentityCredential, csr: bytes) -> None:
    try:
        certified = x509.load_der_x509_certificate(answer.certificate.der).public_key()
    except ValueError:
        certified = None
    if certified != x509.load_der_x509_csr(csr).public_key():
        raise CertdError(
            Reason.CREDENTIAL_INVALID, "the server answered with a certificate for another key; the old one stays"
        )


def _is_identity(certificate: x509.Certificate) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return len(names) == len(uris) == 1 and uris[0].startswith(_SPIFFE)


@contextmanager
def _alone(files: CredentialFiles, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock under which the files are replaced; raises BlockingIOError when it is held and not waited for."""
    folder = os.open(files.private_key.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(folder)
