"""A certificate and its private key as two files that are replaced while both are in use.

Two files cannot be renamed in one step. So the new key waits beside the old one, the new certificate decides, and
whoever starts next ends what a crash interrupted. In order:

1. `stage_key`: the new key lies beside the old one, on disk.
2. The certificate for it is issued, by whoever issues.
3. `install`: the certificate is replaced, from here on the new key counts, then the key.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFiles:
    """Where the two lie. Symbolic links are followed, so that they stay links."""

    certificate: Path
    """PEM, the chain after it."""
    private_key: Path
    """PEM, unencrypted, mode 0600."""

    @property
    def staged_key(self) -> Path:
        """The key that waits for its certificate."""
        real = self.private_key.resolve()
        return real.with_name(f"{real.name}.next")


def stage_key(files: CredentialFiles, private_key: bytes) -> None:
    """Puts the new key (PEM) beside the old one; raises OSError, best before anything is issued for it."""
    write(files.staged_key, private_key, mode=0o600)


def install(files: CredentialFiles, certificate: bytes) -> None:
    """Puts the certificate (PEM, chain after it) of the staged key and that key in place of the old ones.

    The certificate's file keeps its mode. Raises OSError; `settle` then ends or undoes what was begun.
    """
    path = files.certificate.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    write(path, certificate, mode=mode)
    _take_staged(files)


def settle(files: CredentialFiles, *, keep: bool = False) -> None:
    """Ends a replacement that was interrupted: takes the staged key when the certificate is of it, else removes it.

    With `keep` it stays, for another try. Raises OSError. To be called by the program that replaces the files, before
    it uses them.
    """
    if not files.staged_key.exists():
        return
    try:
        staged = load_pem_private_key(files.staged_key.read_bytes(), None).public_key()
        certified = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0].public_key()
    except (ValueError, TypeError, IndexError, FileNotFoundError):
        # Nothing that could be used together: no certificate of this key was put in place.
        if not keep:
            files.staged_key.unlink()
        return
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if staged.public_bytes(*encoding) == certified.public_bytes(*encoding):
        _take_staged(files)
    elif not keep:
        files.staged_key.unlink()


def write(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces the file in one step, so that a crash leaves the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # What a crash left, or somebody who would read along.
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _take_staged(files: CredentialFiles) -> None:
    real = files.private_key.resolve()
    files.staged_key.replace(real)
    _sync_folder(real.parent)


def _sync_folder(folder: Path) -> None:
    """Writes to disk that a file was renamed; without it, a power cut may leave either order of two renames."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
