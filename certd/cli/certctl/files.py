"""Files that certctl reads and writes."""

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certd.errors import CertdError, Reason
from certd.pki.export_form import ExportForm, check_passphrase
from certd.pki.pkcs8 import PASSPHRASE_BYTES

STANDARD_STREAM: Final = "-"
CSR_BYTES: Final = 32 << 10
TEXT_BYTES: Final = 4 << 20
PUBLIC_MODE: Final = 0o644
SECRET_MODE: Final = 0o600
_PRIVATE_KEY: Final = b"PRIVATE KEY-----"
"""How the line before a key in PEM ends, of whatever kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file to write."""

    path: Path
    content: bytes
    mode: int = PUBLIC_MODE

    def __repr__(self) -> str:
        return f"Output({self.path})"


def read_csr(path: str) -> bytes:
    """Reads a CSR from a file, or from standard input for `-`; FIELD_INVALID when there is none, or it is too large."""
    data = _read(path, CSR_BYTES, "CSR")
    if len(data) > CSR_BYTES:
        raise CertdError(
            Reason.CSR_MALFORMED, f"{path} is longer than a CSR may be, {CSR_BYTES} bytes; name another file"
        )
    if _PRIVATE_KEY in data:
        raise CertdError(
            Reason.CSR_MALFORMED, f"{path} holds a private key, which belongs to nobody else; name the file of the CSR"
        )
    return data


def read_certificates(path: str, *, longest: int, what: str) -> bytes:
    """Reads certificates, PEM or DER, from a file, or from standard input for `-`; FIELD_INVALID as `read_csr`."""
    data = _read(path, longest, what)
    if len(data) > longest:
        raise CertdError(Reason.FIELD_INVALID, f"{path} is longer than a {what} may be, {longest} bytes")
    return data


def read_text(path: str, *, what: str) -> str:
    """Reads a text of UTF-8 from a file, or from standard input for `-`; FIELD_INVALID when it is none, or too long."""
    data = _read(path, TEXT_BYTES, what)
    if len(data) > TEXT_BYTES:
        raise CertdError(
            Reason.FIELD_INVALID, f"{path} is longer than a {what} may be, {TEXT_BYTES} bytes; name another file"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CertdError(Reason.FIELD_INVALID, f"the {what} file {path} is no text of UTF-8") from error


def read_passphrase(path: str, form: ExportForm = ExportForm.PKCS8) -> tuple[bytes, str | None]:
    """Reads a passphrase from a file, or from standard input for `-`, and drops one trailing newline.

    Returns it with a warning when others can read the file. FIELD_INVALID when its length is out of bounds.
    """
    passphrase = _read(path, PASSPHRASE_BYTES.stop + 1, "passphrase").removesuffix(b"\n")
    check_passphrase(form, passphrase, "passphrase-file")
    return passphrase, _open_to_others(path)


def read_passphrase_of_another(path: str) -> tuple[bytes, str | None]:
    """Reads the passphrase under which somebody else encrypted something, as short as that has it.

    From a file, or from standard input for `-`, without one trailing newline. Returns it with a warning when others can
    read the file. FIELD_INVALID when it is too long.
    """
    longest = PASSPHRASE_BYTES.stop - 1
    passphrase = _read(path, longest + 1, "passphrase").removesuffix(b"\n")
    if len(passphrase) > longest:
        raise CertdError(Reason.FIELD_INVALID, f"{path} is longer than a passphrase may be, {longest} bytes")
    return passphrase, _open_to_others(path)


def read_private_key(path: str, *, longest: int, what: str) -> tuple[bytes, str | None]:
    """Reads what holds a private key from a file, or from standard input for `-`.

    Returns it with a warning when others can read the file. FIELD_INVALID when there is none, or it is too long.
    """
    data = _read(path, longest, what)
    if len(data) > longest:
        raise CertdError(Reason.FIELD_INVALID, f"{path} is longer than a {what} may be, {longest} bytes")
    return data, _open_to_others(path)


def read_secret_line(path: str, *, longest: int, what: str) -> tuple[str, str | None]:
    """Reads a secret of one line of ASCII from a file, or from standard input for `-`, without blanks around it.

    Returns it with a warning when others can read the file. FIELD_INVALID when it is none, or longer than `longest`.
    """
    data = _read(path, longest + 2, what).strip()
    if not 0 < len(data) <= longest or not data.isascii() or len(data.split()) != 1:
        raise CertdError(Reason.FIELD_INVALID, f"{path} does not hold one {what}, alone")
    return data.decode("ascii"), _open_to_others(path)


def _open_to_others(path: str) -> str | None:
    """Returns a warning when others can read a file; None for standard input."""
    if path == STANDARD_STREAM:
        return None
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & 0o077 and stat.S_ISREG(Path(path).stat().st_mode):
        return f"others can read {path} (mode {mode:04o}); chmod 600 {path}"
    return None


def _read(path: str, limit: int, what: str) -> bytes:
    """Reads at most one byte more than `limit`, so that a caller sees that there is more."""
    try:
        if path == STANDARD_STREAM:
            return sys.stdin.buffer.read(limit + 1)
        with Path(path).open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise CertdError(
            Reason.FIELD_INVALID, f"the {what} file {path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error


def write(outputs: Sequence[Output]) -> None:
    """Writes files so that each is either its old or its whole new self, also after a power cut.

    All are written beside their places first and renamed only when all are complete, the last one last. FIELD_INVALID
    when a directory is missing or cannot be written.
    """
    waiting: list[tuple[Path, Path]] = []
    try:
        for output in outputs:
            # A link is followed, and stays.
            _refuse_what_is_no_file(output.path)
            path = output.path.resolve()
            waiting.append((_write_beside(output, path), path))
        while waiting:
            beside, path = waiting[0]
            beside.replace(path)
            waiting.pop(0)
        for directory in {output.path.resolve().parent for output in outputs}:
            _synchronise(directory)
    except OSError as error:
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{error.filename or 'the output'} cannot be written: {(error.strerror or str(error)).lower()}",
        ) from error
    finally:
        for beside, _ in waiting:
            with contextlib.suppress(OSError):
                beside.unlink()


def check_writable(paths: Sequence[Path]) -> None:
    """Raises FIELD_INVALID when a file could not be written, to be asked before anything is made for it."""
    for path in paths:
        if str(path) == STANDARD_STREAM:
            raise CertdError(Reason.FIELD_INVALID, "only files are written; -o pem prints to standard output")
        _refuse_what_is_no_file(path)
        place = path.resolve()
        if not place.parent.is_dir():
            raise CertdError(Reason.FIELD_INVALID, f"{path} cannot be written: there is no directory {place.parent}")
        if not os.access(place.parent, os.W_OK | os.X_OK):
            raise CertdError(Reason.FIELD_INVALID, f"{path} cannot be written: {place.parent} is closed to you")


def check_directory(path: Path) -> None:
    """Raises FIELD_INVALID when files could not be written in a directory, which need not exist yet."""
    place = path.resolve()
    standing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not standing.is_dir():
        raise CertdError(Reason.FIELD_INVALID, f"{path} can hold no files: {standing} is no directory")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise CertdError(Reason.FIELD_INVALID, f"{path} can hold no files: {standing} is closed to you")


def _refuse_what_is_no_file(path: Path) -> None:
    # Of the path as given: what a link under /proc resolves to, as that of /dev/stdout, does not exist.
    if path.exists() and not path.is_file():
        raise CertdError(Reason.FIELD_INVALID, f"{path} is no regular file; -o pem prints to standard output")


def make_directory(path: Path) -> None:
    """Makes a directory, and those above it, where they do not exist."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CertdError(
            Reason.FIELD_INVALID, f"the directory {path} cannot be made: {(error.strerror or str(error)).lower()}"
        ) from error


def _write_beside(output: Output, path: Path) -> Path:
    # mkstemp makes the file with mode 0600, so that a secret is never readable in between.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(output.content)
            file.flush()
            os.fchmod(file.fileno(), output.mode)
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _synchronise(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
