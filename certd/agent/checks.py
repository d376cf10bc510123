"""Whether a bundle may be served: the key is the certificate's, the chain ends at a root, and now is within all of it.

The server is believed in what version is to be served, and in nothing that can be checked here.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from certd.agent.bundle import Bundle
from certd.agent.errors import AgentError
from certd.clock import rfc3339
from certd.errors import CertdError
from certd.pki.encoding import parse_certificates

_LONGEST_ROOTS: Final = 2 << 20
_MOST_ABOVE: Final = 16
"""Certificates of a chain. Deeper ones hardly anybody verifies."""


def check(bundle: Bundle, now: datetime) -> None:
    """Raises AgentError, which says what is wrong, unless a bundle may be served."""
    certificate = bundle.parsed()
    _check_size(bundle)
    _check_key(certificate, bundle.private_key_info)
    try:
        path = [certificate, *map(x509.load_der_x509_certificate, bundle.chain)]
        roots = [x509.load_der_x509_certificate(root) for root in bundle.roots]
    except ValueError as error:
        raise AgentError("the chain has something that is no certificate") from error
    for place, lower in enumerate(path[:-1]):
        if not _issued(lower, path[place + 1]):
            raise AgentError(f"the chain is broken: {_subject(path[place + 1])} did not sign {_subject(lower)}")
    if path[-1] not in roots:
        above = next((root for root in roots if _issued(path[-1], root)), None)
        if above is None:
            raise AgentError(
                f"the chain ends at {_subject(path[-1])}, which no trusted root vouches for; name the PEM of its root"
                " in trust_roots when it is the right one"
            )
        path.append(above)
    for place, each in enumerate(path):
        what = "the certificate" if place == 0 else f"{_subject(each)} in the chain"
        if now < each.not_valid_before_utc:
            raise AgentError(f"{what} begins at {rfc3339(each.not_valid_before_utc)}; see whether this clock is right")
        if now >= each.not_valid_after_utc:
            raise AgentError(f"{what} ended at {rfc3339(each.not_valid_after_utc)}")


def read_roots(path: Path) -> tuple[bytes, ...]:
    """Returns the certificates (DER) in a file of roots; raises AgentError."""
    try:
        with path.open("rb") as file:
            return tuple(parse_certificates(file.read(_LONGEST_ROOTS + 1), field=str(path)))
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except CertdError as error:
        raise AgentError(error.message) from error


def _check_size(bundle: Bundle) -> None:
    if len(bundle.chain) > _MOST_ABOVE:
        raise AgentError(f"the chain has more than {_MOST_ABOVE} certificates")
    if sum(map(len, (bundle.certificate, *bundle.chain, *bundle.roots))) > _LONGEST_ROOTS:
        raise AgentError(f"certificate, chain and roots are more than {_LONGEST_ROOTS} bytes")


def _check_key(certificate: x509.Certificate, private_key_info: bytes) -> None:
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        own = load_der_private_key(private_key_info, None).public_key().public_bytes(*encoding)
        certified = certificate.public_key().public_bytes(*encoding)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AgentError("the private key cannot be read") from error
    if own != certified:
        raise AgentError("the private key does not belong to the certificate")


def _issued(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:128] or "a certificate without a subject"


def subjects(certificates: Sequence[bytes]) -> list[str]:
    """Returns the subjects of certificates (DER), for people."""
    return [_subject(x509.load_der_x509_certificate(each)) for each in certificates]
