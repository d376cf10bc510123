"""What `certd init` makes on disk around the composition's own bootstrap; every step completes what is missing."""

import json
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certd.credential_files import write
from certd.errors import CertdError, Reason
from certd.pki.credential_request import credential_request_of, new_credential_request
from certd.pki.description import describe
from certd.pki.encoding import parse_certificates

_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of the first administrator."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The certificate with its chain, PEM."""
        return self.folder / "admin.pem"

    @property
    def private_key(self) -> Path:
        """The private key, PEM, mode 0600."""
        return self.folder / "admin.key"

    @property
    def trust_bundle(self) -> Path:
        """The system root, PEM."""
        return self.folder / "root.pem"

    @property
    def settings(self) -> Path:
        """Where certctl finds the three files and the server."""
        return self.folder / "certctl.toml"

    def settings_text(self, address: str) -> str:
        """Returns the text of certctl.toml for a server at `host:port`."""
        entries = {
            "address": address,
            "certificate": str(self.certificate),
            "private_key": str(self.private_key),
            "trust_bundle": str(self.trust_bundle),
        }
        # A JSON string is a TOML string, but for DEL, which no path here holds.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
        return "\n".join(["# Where certctl finds the server and its credentials, written by certd init.", *lines, ""])


def absolute(path: Path) -> Path:
    """Returns the path with `~` and the working folder resolved."""
    return path.expanduser().absolute()


def default_server_names() -> tuple[str, ...]:
    """Returns the names of this machine that the server certificate carries unless told otherwise."""
    own = socket.gethostname().lower()
    # A host name that is no DNS name could not stand in a certificate.
    own_names = (own,) if _HOST_NAME.fullmatch(own) and own != "localhost" else ()
    return ("localhost", "127.0.0.1", "::1", *own_names)


def reachable(host: str, port: int) -> str:
    """Returns the address by which a client on this machine reaches a listener."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # Compared, not bound.
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def names_of(certificate: Path) -> tuple[str, ...]:
    """Returns the names of a server certificate that was made before; none when there is no file."""
    if not certificate.exists():
        return ()
    names = describe(parse_certificates(certificate.read_bytes())[0]).subject_alternative_names
    return (*names.dns_names, *names.ip_addresses)


def validity_text(certificates: Sequence[Path]) -> str:
    """Returns until when each certificate is valid, and how it is renewed."""
    ends = [describe(parse_certificates(path.read_bytes())[0]).not_after_time for path in certificates]
    lines = [f"  {end:%Y-%m-%d %H:%M} UTC  {path}" for end, path in zip(ends, certificates, strict=True)]
    return "\n".join(
        [
            "Valid until (the daemon renews its own in time; certd init renews both, with the daemon stopped):",
            *lines,
        ]
    )


def make_private_folder(folder: Path) -> bool:
    """Makes the folder for its owner alone; returns whether it was missing.

    Raises:
        CertdError: FIELD_INVALID when it cannot be made or others may enter it.
    """
    try:
        if folder.is_dir():
            if folder.stat().st_mode & 0o077:
                message = f"{folder} is open to other users but will hold secrets: run chmod 700 {folder}"
                raise CertdError(Reason.FIELD_INVALID, message)
            return False
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise CertdError(Reason.FIELD_INVALID, f"{folder} cannot be made: {error.strerror}") from error
    return True


def write_if_different(path: Path, content: bytes) -> bool:
    """Writes the file, mode 0600, unless it holds the content already; returns whether it wrote."""
    if path.exists() and path.read_bytes() == content:
        return False
    write(path, content, mode=0o600)
    return True


def secret_file(path: Path) -> bytes:
    """Returns the content of the file, mode 0600, which gets 128 random bits as hexadecimal digits when missing."""
    if not path.exists():
        write(path, secrets.token_hex(16).encode(), mode=0o600)
    return path.read_bytes()


def csr_of(private_key: Path) -> tuple[bytes, bool]:
    """Returns a CSR (DER) of the key in the file, which is made when missing, and whether it was.

    Raises:
        CertdError: FIELD_INVALID when the file holds no usable key.
    """
    if not private_key.exists():
        made = new_credential_request()
        write(private_key, made.private_key, mode=0o600)
        return made.csr, True
    try:
        return credential_request_of(private_key.read_bytes()).csr, False
    except (CertdError, OSError) as error:
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{private_key} holds no unencrypted EC private key that can be read; move it away and repeat certd init",
        ) from error
