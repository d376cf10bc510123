"""Who an agent is on the server: key, certificate and the roots of the server, in the state directory.

The names are those of `certctl enroll`, so that what was enrolled by the one can be used by the other.
"""

import fcntl
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from certd.agent import folders
from certd.agent.errors import AgentError
from certd.client.credentials import Credentials
from certd.client.renewal import Renew, is_due, learn_roots, read_settled, renew_when_due
from certd.credential_files import CredentialFiles, install, stage_key, write
from certd.errors import CertdError, Reason
from certd.pki.credential_request import CredentialRequest, credential_request_of, new_credential_request
from certd.pki.encoding import certificate_pem, parse_certificates
from certd.pki.enrollment_code import EnrollmentCode, key_sha256
from certd.v1.identity_pb2 import IdentityCredential

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """The files in a state directory."""

    folder: Path

    @property
    def files(self) -> CredentialFiles:
        """Certificate and key."""
        return CredentialFiles(certificate=self.folder / "identity.pem", private_key=self.folder / "identity.key")

    @property
    def trust_bundle(self) -> Path:
        """Roots that vouch for the server."""
        return self.folder / "root.pem"

    def read(self) -> Credentials | None:
        """Returns the credentials; None when nobody has enrolled. CREDENTIAL_INVALID for files that do not fit."""
        if not self.files.certificate.exists():
            return None
        return read_settled(self.files, trust_bundle=self.trust_bundle)

    def change(self) -> tuple[tuple[int, int], ...]:
        """Returns what is another one when somebody has replaced certificate, key or roots."""
        return tuple(map(_state, (self.files.certificate, self.files.private_key, self.trust_bundle)))


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials, with what their certificate says."""

    credentials: Credentials
    spread: float = field(default_factory=lambda: random.random() / 60)  # noqa: S311  # It spreads agents in time.
    """Part of the lifetime by which this agent renews later than others that enrolled with it."""

    @property
    def spiffe_id(self) -> str:
        """The name; empty when there is none."""
        certificate = self._certificate()
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return ""
        return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")

    @property
    def lifetime(self) -> timedelta:
        """Of the certificate, as a whole."""
        certificate = self._certificate()
        return certificate.not_valid_after_utc - certificate.not_valid_before_utc

    def renew_time(self) -> datetime:
        """Returns when it is to be renewed: when two thirds of its life are over."""
        certificate = self._certificate()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return end - (end - begin) * (1 / 3 - self.spread)

    def is_due(self, now: datetime) -> bool:
        """Returns whether it is to be renewed now."""
        return now >= self.renew_time() and is_due(self.credentials, now)

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.credentials.certificate_chain)[0]


def prepare(state_directory: Path) -> None:
    """Makes the state directory where it is missing; raises AgentError when others can read it."""
    with folders.opened(state_directory, make=folders.PRIVATE) as folder:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            raise AgentError(f"{state_directory} belongs to another user; run the agent as that one, or name another")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise AgentError(f"{state_directory} is open to others: run chmod 700 {state_directory}")


@contextmanager
def alone(state_directory: Path) -> Iterator[None]:
    """Holds the lock of a running agent; raises AgentError when another one runs."""
    with _lock(state_directory) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(f"another agent runs with {state_directory}; each needs one of its own") from error
        yield


def is_running(state_directory: Path) -> bool:
    """Returns whether an agent runs."""
    if not (state_directory / _LOCK).exists():
        return False
    with _lock(state_directory) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def _lock(state_directory: Path) -> Iterator[int]:
    try:
        descriptor = os.open(state_directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AgentError(f"{state_directory / _LOCK} cannot be opened: {(error.strerror or '').lower()}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def renew(found: IdentityFiles, call: Renew, *, now: datetime) -> bool:
    """Renews the certificate of the identity when it is due, with a new key; returns whether it did.

    A crash at any moment leaves the old pair or the new one. Raises AgentError when the files cannot be written, and
    what the call raises.
    """
    try:
        return renew_when_due(found.files, call, trust_bundle=found.trust_bundle, now=now) is not None
    except BlockingIOError:
        return False
    except OSError as error:
        raise AgentError(f"the identity's files cannot be written: {(error.strerror or str(error)).lower()}") from error


def enroll(
    state_directory: Path,
    code: EnrollmentCode,
    call: Callable[[EnrollmentCode, bytes], tuple[IdentityCredential, bytes]],
) -> IdentityCredential:
    """Gets the identity that a code is for, with a key that is made here; returns what was answered.

    Repeated with the same code after an interruption, it ends what was begun: the key is on the disk before the code is
    sent. An identity that was there is replaced when the new one has come.

    Args:
        state_directory: gets the files.
        code: the code.
        call: sends code and CSR; returns the answer and the PEM of the roots.
    """
    prepare(state_directory)
    found = IdentityFiles(state_directory)
    with folders.opened(state_directory) as folder:
        # As for a renewal (client/renewal.py), which a running agent may be about to make.
        fcntl.flock(folder, fcntl.LOCK_EX)
        _check_same_server(found, code)
        try:
            return _enroll(found, code, call)
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
            raise AgentError(f"{state_directory} cannot be written: {problem}") from error


def _enroll(
    found: IdentityFiles,
    code: EnrollmentCode,
    call: Callable[[EnrollmentCode, bytes], tuple[IdentityCredential, bytes]],
) -> IdentityCredential:
    made = _request(found.files)
    credential, trust_bundle = call(code, made.csr)
    if not found.trust_bundle.exists():
        write(found.trust_bundle, trust_bundle, mode=0o644)
    learn_roots(found.trust_bundle, [root.pem for root in credential.system_roots])
    install(found.files, certificate_pem(credential.certificate.der).encode())
    return credential


def _request(files: CredentialFiles) -> CredentialRequest:
    """Returns key and CSR: those of an interrupted run, or new ones, which are on the disk."""
    if files.staged_key.exists():
        return credential_request_of(files.staged_key.read_bytes())
    made = new_credential_request()
    stage_key(files, made.private_key)
    return made


def _check_same_server(found: IdentityFiles, code: EnrollmentCode) -> None:
    try:
        trusted = found.trust_bundle.read_bytes()
    except FileNotFoundError:
        return
    if code.root_sha256 not in {key_sha256(root) for root in parse_certificates(trusted)}:
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{found.trust_bundle} is of another server than the code; remove it with identity.pem and identity.key to"
            " move this machine to that server",
        )
