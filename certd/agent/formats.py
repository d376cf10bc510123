"""What stands in the files of a bundle."""

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from certd.agent.bundle import Bundle
from certd.agent.config import File
from certd.agent.errors import AgentError
from certd.errors import CertdError
from certd.pki.encoding import certificate_pem, pem

_LONGEST_PASSPHRASE: Final = 1024
_OTHERS: Final = 0o007


def content(bundle: Bundle, file: File) -> bytes:
    """Returns what is to stand in a file; raises AgentError, for a passphrase that is none for example."""
    if file.format == "pkcs7":
        # Late, as that of PKCS#12: agents that write neither do without what these load.
        from certd.pki.pkcs7 import certificates_only

        return certificates_only((bundle.certificate, *bundle.chain))
    if file.format.startswith("pkcs12"):
        return _pkcs12(bundle, file)
    return _FORMATS[file.format](bundle)


def passphrase(path: Path) -> bytes:
    """Returns the passphrase in a file, without one trailing newline; AgentError for one that everybody may read."""
    try:
        with path.open("rb") as file:
            found = file.read(_LONGEST_PASSPHRASE + 2)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if stat.S_IMODE(mode) & _OTHERS:
        raise AgentError(f"{path} can be read by everybody on the machine: run chmod 600 {path}")
    return found.removesuffix(b"\n")


def _pkcs12(bundle: Bundle, file: File) -> bytes:
    from certd.pki.pkcs12 import encrypt

    if file.passphrase_file is None:
        raise AgentError(f"{file.path} has no passphrase_file")
    try:
        return encrypt(
            bundle.private_key_info,
            (bundle.certificate, *bundle.chain),
            passphrase(file.passphrase_file),
            friendly_name=bundle.name,
            legacy=file.format == "pkcs12-legacy",
        )
    except CertdError as error:
        raise AgentError(f"{file.path} cannot be made with {file.passphrase_file}: {error.message}") from error


def _pem(certificates: Iterable[bytes]) -> bytes:
    return "".join(certificate_pem(each) for each in certificates).encode()


def _key_pem(bundle: Bundle) -> bytes:
    return pem("PRIVATE KEY", bundle.private_key_info).encode()


_FORMATS: Final[dict[str, Callable[[Bundle], bytes]]] = {
    "certificate": lambda bundle: _pem((bundle.certificate,)),
    "chain": lambda bundle: _pem(bundle.served_chain),
    "fullchain": lambda bundle: _pem((bundle.certificate, *bundle.served_chain)),
    "private-key": _key_pem,
    "combined": lambda bundle: _pem((bundle.certificate, *bundle.served_chain)) + _key_pem(bundle),
    "ca": lambda bundle: _pem(bundle.roots),
    "certificate-der": lambda bundle: bundle.certificate,
    "private-key-der": lambda bundle: bundle.private_key_info,
}
