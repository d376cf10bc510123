"""What is to be certified, by whom, and for how long."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """The authority that will sign."""

    name: bytes
    """DER of its subject, copied byte for byte."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo of the key that will sign."""
    subject_key_identifier: bytes
    """As its certificate has it; for a root in the making `key_identifier` of its key."""
    key_spec: KeySpec
    signature_algorithm: SignatureAlgorithm
    not_after: datetime | None
    """End of its certificate; None for a root in the making."""
    path_length: int | None
    """Of its certificate; None when that has no constraint."""
    authority_information_url: str | None = None
    """Where its certificate can be fetched; None leaves the extension out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What is to be certified."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    subject: bytes
    """DER of the distinguished name; EMPTY when there is none."""
    names: SubjectAlternativeNames
    ignored_extension_oids: tuple[str, ...] = ()
    """Extensions that the CSR asked for and that are not passed on."""
    path_length: int | None = None
    """Of an authority."""


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001  # The API's word.
    """Something that was dropped, overridden or truncated."""

    field: str
    """Path of the request's field, or of a part of the CSR such as `csr.extensions`."""
    message: str
    """What happened, and why, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """How long a certificate shall live; with neither, as long as the profile says."""

    lifetime: timedelta | None = None
    """From now, in whole seconds; the certificate ends one second early, for both ends count."""
    not_after: datetime | None = None
    """Exact end, inclusive, aware, to the second."""
