"""Certificates of authorities that another authority certifies: what is taken over from them, and what is narrowed."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certd.errors import CertdError, Reason, Violation
from certd.pki.authority_certificate import LONGEST_CERTIFICATE
from certd.pki.certificate_chain import (
    check_algorithms,
    check_authority,
    check_critical_extensions,
    check_validity,
    is_root,
    parse,
    parse_bundle,
)
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.key_spec import key_identifier, load_public_key_der
from certd.pki.name_constraints import NameConstraints

_FIELD = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedCertificate:
    """A certificate whose key is to be certified once more."""

    subject: bytes
    """DER."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    subject_key_identifier: bytes
    path_length: int | None
    """None: no bound."""
    name_constraints: NameConstraints | None
    not_after: datetime


def certified_certificate(certificate: bytes, *, now: datetime) -> CertifiedCertificate:
    """Reads what is to be certified, from PEM or DER.

    Its holder has proved to have the key: by the signature on it if it is self-signed, else to whoever issued it.
    FIELD_INVALID and IMPORT_NOT_PEM when it is no certificate; IMPORT_NOT_COMPATIBLE, IMPORT_CHAIN_INVALID and
    IMPORT_EXPIRED when nobody could stand below it.
    """
    found = parse_bundle(certificate, field=_FIELD, longest=LONGEST_CERTIFICATE)
    if len(found) != 1:
        problem = f"has {len(found)} certificates, where the one that is to be certified is wanted"
        raise CertdError(
            Reason.IMPORT_NOT_PEM, f"{_FIELD} {problem}; send that alone", violations=(Violation(_FIELD, problem),)
        )
    element = parse(found[0], field=_FIELD)
    if element.self_issued and not is_root(element):
        raise element.refuse(
            Reason.IMPORT_CHAIN_INVALID,
            "has the name of its issuer, and was not signed with its own key",
            "send the self-signed certificate of that key, which proves that its holder has it",
        )
    check_algorithms(element, trust_anchor=is_root(element))
    check_critical_extensions(element)
    check_authority(element)
    check_validity(element, now)
    identifier = element.find(x509.SubjectKeyIdentifier)
    return CertifiedCertificate(
        subject=element.subject,
        public_key=element.public_key,
        subject_key_identifier=(key_identifier(element.public_key) if identifier is None else identifier.value.digest),
        path_length=element.path_length,
        name_constraints=element.name_constraints,
        not_after=element.parsed.not_valid_after_utc,
    )


def narrowed_path_length(wanted: int | None, bound: int) -> tuple[int, tuple[Warning, ...]]:
    """Returns the path length of a cross-certificate, and what was narrowed.

    Args:
        wanted: of the certificate that is certified; None: none.
        bound: the highest that the signing authority may grant.
    """
    if wanted is not None and wanted <= bound:
        return wanted, ()
    had = "no path length" if wanted is None else f"the path length {wanted}"
    return bound, (
        Warning(_FIELD, f"has {had}; the cross-certificate has {bound}, the most that its issuer may grant"),
    )


def is_signed_by(certificate: bytes, public_key: bytes) -> bool:
    """Returns whether the signature of a certificate (DER) was made with the key of a SubjectPublicKeyInfo (DER)."""
    parsed = x509.load_der_x509_certificate(certificate)
    key = load_public_key_der(public_key)
    data, signature = parsed.tbs_certificate_bytes, parsed.signature
    try:
        algorithm = parsed.signature_hash_algorithm
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif algorithm is None:
            return False
        elif isinstance(key, rsa.RSAPublicKey):
            parameters = parsed.signature_algorithm_parameters
            if not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
                return False
            key.verify(signature, data, parameters, algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(algorithm))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
