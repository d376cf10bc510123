"""What a lint looks at: the copy of the certificate, read once, and what its issuer is known to be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certd.pki import der, distinguished_name
from certd.pki.extensions import EXTENDED_KEY_USAGE, KEY_USAGE, KeyUsage
from certd.pki.key_spec import SignatureAlgorithm, load_public_key_der
from certd.pki.names import SubjectAlternativeNames
from certd.pki.tbs import ToBeSignedCertificate

_ExtensionType = TypeVar("_ExtensionType", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class LintCopy:
    """The certificate to judge, and what its issuer is known to be."""

    certificate: x509.Certificate
    tbs: ToBeSignedCertificate
    """The same as our own strict reader reads it; it holds the extensions as bytes."""
    extensions: Mapping[type[x509.ExtensionType], x509.Extension[x509.ExtensionType]]
    """As the library reads them."""
    key: PublicKeyTypes
    """Of the subject."""
    authority: bool
    """Whether basic constraints say so."""
    key_usages: frozenset[KeyUsage] | None
    """None when the extension is missing."""
    purposes: tuple[str, ...]
    """Extended key usages, dotted; empty when the extension is missing or is."""
    names: SubjectAlternativeNames
    """Of the kinds that certd knows, as they stand there."""
    issuer_name: bytes
    issuer_key_identifier: bytes
    public_key: bytes
    """DER of the SubjectPublicKeyInfo that was to be certified."""
    signature_algorithm: SignatureAlgorithm
    self_issued: bool = False
    """Whether it is for another key of the issuer, under the issuer's own name."""

    def find(self, extension: type[_ExtensionType]) -> x509.Extension[_ExtensionType] | None:
        """Returns an extension, or None."""
        return cast("x509.Extension[_ExtensionType] | None", self.extensions.get(extension))

    def attribute_values(self, attribute_type: str) -> tuple[str, ...]:
        """Returns the values of the subject's attributes of a type, case folded."""
        return tuple(
            value
            for relative in distinguished_name.comparable(self.tbs.subject)
            for oid, value in relative
            if oid == attribute_type
        )


Check: TypeAlias = Callable[[LintCopy], str | None]


@dataclass(frozen=True, slots=True)
class Lint:
    """A check, which returns the problem or None."""

    check: Check
    extension: str | None = None
    """Dotted identifier of the extension whose presence makes the check worth a run; None for every certificate."""
    is_warning: bool = False
    """Whether a certificate that fails is issued all the same, with a warning."""

    @property
    def name(self) -> str:
        """The rule: document and section, and what it is about."""
        return self.check.__name__


def judged(
    certificate: x509.Certificate,
    tbs: ToBeSignedCertificate,
    *,
    issuer_name: bytes,
    issuer_key_identifier: bytes,
    public_key: bytes,
    signature_algorithm: SignatureAlgorithm,
    self_issued: bool = False,
) -> LintCopy:
    """Reads what several lints need once.

    Raises one of `UNDECODABLE` when the extensions do not decode, and FIELD_INVALID when the key does not.
    """
    extensions = {type(extension.value): extension for extension in certificate.extensions}
    usages = tbs.extensions.get(KEY_USAGE)
    purposes = tbs.extensions.get(EXTENDED_KEY_USAGE)
    constraints = extensions.get(x509.BasicConstraints)
    alternative = extensions.get(x509.SubjectAlternativeName)
    return LintCopy(
        certificate=certificate,
        tbs=tbs,
        extensions=extensions,
        key=load_public_key_der(tbs.public_key),
        authority=constraints is not None and cast("x509.BasicConstraints", constraints.value).ca,
        key_usages=None if usages is None else _key_usages(usages.value),
        purposes=() if purposes is None else _purposes(purposes.value),
        names=_NO_NAMES if alternative is None else names_of(cast("x509.SubjectAlternativeName", alternative.value)),
        issuer_name=issuer_name,
        issuer_key_identifier=issuer_key_identifier,
        public_key=public_key,
        signature_algorithm=signature_algorithm,
        self_issued=self_issued,
    )


_NO_NAMES = SubjectAlternativeNames()
_BITS = tuple(KeyUsage)
"""In the order of RFC 5280, section 4.2.1.3, as the enumeration has them."""


@lru_cache(maxsize=256)
def _key_usages(value: bytes) -> frozenset[KeyUsage]:
    bits = der.Reader(value).read(der.BIT_STRING)[1:]
    return frozenset(
        usage
        for bit, usage in enumerate(_BITS)
        if bits[bit // 8 : bit // 8 + 1] > b"" and bits[bit // 8] << bit % 8 & 0x80
    )


@lru_cache(maxsize=256)
def _purposes(value: bytes) -> tuple[str, ...]:
    reader = der.Reader(value).enter(der.SEQUENCE)
    purposes: list[str] = []
    while reader.more:
        purposes.append(der.dotted(reader.read_object_identifier()))
    return tuple(purposes)


def names_of(extension: x509.SubjectAlternativeName) -> SubjectAlternativeNames:
    """Returns the names of the kinds that certd knows, as they stand there."""
    dns_names: list[str] = []
    ip_addresses: list[str] = []
    uris: list[str] = []
    email_addresses: list[str] = []
    for name in extension:
        if isinstance(name, x509.DNSName):
            dns_names.append(name.value)
        elif isinstance(name, x509.IPAddress):
            ip_addresses.append(str(name.value))
        elif isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
        elif isinstance(name, x509.RFC822Name):
            email_addresses.append(name.value)
    return SubjectAlternativeNames(
        dns_names=tuple(dns_names),
        ip_addresses=tuple(ip_addresses),
        uris=tuple(uris),
        email_addresses=tuple(email_addresses),
    )
