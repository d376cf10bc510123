"""A certificate, parsed, so that no client needs an X.509 parser."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from certd.errors import field_invalid
from certd.pki import der, distinguished_name, information_access
from certd.pki.extensions import (
    AUTHORITY_INFORMATION_ACCESS,
    AUTHORITY_KEY_IDENTIFIER,
    CRL_DISTRIBUTION_POINTS,
    SUBJECT_KEY_IDENTIFIER,
    KeyUsage,
    key_usages_of,
)
from certd.pki.key_spec import KeySpec, SignatureAlgorithm, algorithm_of_identifier, key_spec_of
from certd.pki.lint import LintCopy, names_of
from certd.pki.names import SubjectAlternativeNames

_KEY_IDENTIFIER_TAG = 0x80
"""[0] IMPLICIT OCTET STRING."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedExtension:
    """An extension as it stands in a certificate."""

    oid: str
    critical: bool
    value: bytes
    """DER of what the OCTET STRING holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a certificate says. Mirrors the proto's `CertificateDescription`."""

    subject: bytes
    """DER of the distinguished name."""
    subject_text: str
    issuer_text: str
    serial_number: str
    """In even-length lower-case hexadecimal."""
    not_before_time: datetime
    not_after_time: datetime
    subject_alternative_names: SubjectAlternativeNames
    key_spec: KeySpec | None
    """None for a kind or size that certd does not issue for."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    signature_algorithm: SignatureAlgorithm | None
    """None for one that certd does not use."""
    key_usages: tuple[KeyUsage, ...]
    """In the order of the bits."""
    extended_key_usages: tuple[str, ...]
    authority: bool
    path_length: int | None
    subject_key_identifier: bytes
    """Empty when there is none."""
    authority_key_identifier: bytes
    """Empty when there is none."""
    sha256_fingerprint: bytes
    extensions: tuple[DescribedExtension, ...]
    crl_urls: tuple[str, ...]
    """Of the CRL distribution points."""
    ocsp_urls: tuple[str, ...]
    """Of the responders in authority information access."""


def describe(certificate: bytes) -> Description:
    """Parses the DER of a certificate; FIELD_INVALID when it is none, or has an extension that does not decode."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extensions = parsed.extensions
        subject, issuer = parsed.subject.public_bytes(), parsed.issuer.public_bytes()
        algorithm, public_key = _raw_parts(certificate)
        # The library reads some that it does not write, for example with a number below zero.
        encoded = [extension.value.public_bytes() for extension in extensions]
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType) as error:
        raise field_invalid("certificate", "is not the DER of a certificate that decodes") from error
    values = {type(extension.value): extension.value for extension in extensions}
    key_usage = values.get(x509.KeyUsage)
    usages = key_usages_of(key_usage) if isinstance(key_usage, x509.KeyUsage) else frozenset()
    extended = values.get(x509.ExtendedKeyUsage)
    constraints = values.get(x509.BasicConstraints)
    names = values.get(x509.SubjectAlternativeName)
    subject_key = values.get(x509.SubjectKeyIdentifier)
    authority_key = values.get(x509.AuthorityKeyIdentifier)
    raw = {extension.oid.dotted_string: value for extension, value in zip(extensions, encoded, strict=True)}
    key_identifier = authority_key.key_identifier if isinstance(authority_key, x509.AuthorityKeyIdentifier) else None
    return Description(
        subject=subject,
        subject_text=distinguished_name.to_text(subject),
        issuer_text=distinguished_name.to_text(issuer),
        serial_number=_hexadecimal(parsed.serial_number),
        not_before_time=parsed.not_valid_before_utc,
        not_after_time=parsed.not_valid_after_utc,
        subject_alternative_names=(
            names_of(names) if isinstance(names, x509.SubjectAlternativeName) else SubjectAlternativeNames()
        ),
        key_spec=_key_spec(parsed),
        public_key=public_key,
        signature_algorithm=algorithm_of_identifier(algorithm),
        key_usages=tuple(usage for usage in KeyUsage if usage in usages),
        extended_key_usages=(
            tuple(usage.dotted_string for usage in extended) if isinstance(extended, x509.ExtendedKeyUsage) else ()
        ),
        authority=isinstance(constraints, x509.BasicConstraints) and constraints.ca,
        path_length=constraints.path_length if isinstance(constraints, x509.BasicConstraints) else None,
        subject_key_identifier=subject_key.digest if isinstance(subject_key, x509.SubjectKeyIdentifier) else b"",
        authority_key_identifier=key_identifier or b"",
        sha256_fingerprint=hashlib.sha256(certificate).digest(),
        extensions=tuple(
            DescribedExtension(
                oid=extension.oid.dotted_string,
                critical=extension.critical,
                value=value,
            )
            for extension, value in zip(extensions, encoded, strict=True)
        ),
        crl_urls=information_access.crl_urls(raw.get(CRL_DISTRIBUTION_POINTS, b"")),
        ocsp_urls=information_access.responder_urls(raw.get(AUTHORITY_INFORMATION_ACCESS, b"")),
    )


def describe_copy(copy: LintCopy, *, key_spec: KeySpec) -> Description:
    """Describes what the lints have read and will be signed: as `describe` the certificate, without a fingerprint."""
    tbs = copy.tbs
    values = {oid: extension.value for oid, extension in tbs.extensions.items()}
    usages = copy.key_usages or frozenset()
    authority_key = values.get(AUTHORITY_KEY_IDENTIFIER)
    subject_key = values.get(SUBJECT_KEY_IDENTIFIER)
    return Description(
        subject=tbs.subject,
        subject_text=distinguished_name.to_text(tbs.subject),
        issuer_text=_issuer_text(tbs.issuer),
        serial_number=_hexadecimal(tbs.serial),
        not_before_time=tbs.not_before,
        not_after_time=tbs.not_after,
        subject_alternative_names=copy.names,
        key_spec=key_spec,
        public_key=tbs.public_key,
        signature_algorithm=tbs.signature_algorithm,
        key_usages=tuple(usage for usage in KeyUsage if usage in usages),
        extended_key_usages=copy.purposes,
        authority=copy.authority,
        path_length=tbs.path_length,
        subject_key_identifier=b"" if subject_key is None else der.Reader(subject_key).read(der.OCTET_STRING),
        authority_key_identifier=b"" if authority_key is None else _key_identifier(authority_key),
        sha256_fingerprint=b"",
        extensions=tuple(
            DescribedExtension(oid=oid, critical=extension.critical, value=extension.value)
            for oid, extension in tbs.extensions.items()
        ),
        crl_urls=information_access.crl_urls(values.get(CRL_DISTRIBUTION_POINTS, b"")),
        ocsp_urls=information_access.responder_urls(values.get(AUTHORITY_INFORMATION_ACCESS, b"")),
    )


@lru_cache(maxsize=256)
def _issuer_text(name: bytes) -> str:
    return distinguished_name.to_text(name)


@lru_cache(maxsize=256)
def _key_identifier(value: bytes) -> bytes:
    """Returns the keyIdentifier of an AuthorityKeyIdentifier (RFC 5280, section 4.2.1.1), empty when it has none."""
    reader = der.Reader(value).enter(der.SEQUENCE)
    tag, content = reader.read_any() if reader.more else (0, b"")
    return content if tag == _KEY_IDENTIFIER_TAG else b""


def _hexadecimal(serial: int) -> str:
    text = f"{serial:x}"
    return text if len(text) % 2 == 0 else f"0{text}"


def _key_spec(certificate: x509.Certificate) -> KeySpec | None:
    try:
        return key_spec_of(certificate.public_key())
    except (UnsupportedAlgorithm, ValueError):
        return None


def _raw_parts(certificate: bytes) -> tuple[bytes, bytes]:
    """Returns the AlgorithmIdentifier of the signature and the SubjectPublicKeyInfo, as they stand there."""
    outer = der.Reader(certificate).enter(der.SEQUENCE)
    tbs = outer.enter(der.SEQUENCE)
    algorithm = outer.read_whole(der.SEQUENCE)
    if tbs.peek() == der.context(0):
        tbs.read(der.context(0))
    tbs.read(der.INTEGER)
    for _ in ("signature", "issuer", "validity", "subject"):
        tbs.read(der.SEQUENCE)
    return algorithm, tbs.read_whole(der.SEQUENCE)
