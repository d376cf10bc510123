"""Drafts of certificates, good and bad, that lints are tried on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from certd.pki import distinguished_name as dn
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import SignatureAlgorithm, key_identifier, public_key_der
from certd.pki.lint import LintCopy, judged
from certd.pki.tbs import parse_tbs_certificate

NOW = datetime(2026, 3, 4, tzinfo=UTC)
ISSUER_KEY = ec.generate_private_key(ec.SECP256R1())
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
ISSUER = dn.parse_text("CN=Example CA,O=Example")
SUBJECT = dn.parse_text("CN=www.example.internal")
ISSUER_IDENTIFIER = key_identifier(public_key_der(ISSUER_KEY.public_key()))

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Extensions = Mapping[str, tuple[x509.ExtensionType, bool]]

BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
EXTENDED_KEY_USAGE = "2.5.29.37"
SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
AUTHORITY_INFORMATION_ACCESS = "1.3.6.1.5.5.7.1.1"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"


def access(method: x509.ObjectIdentifier, location: x509.GeneralName) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess([x509.AccessDescription(method, location)])


def url(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def san(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(names)


def purposes(*oids: str) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, oids))


def raw(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def _leaf_extensions() -> Extensions:
    found: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage_extension({KeyUsage.DIGITAL_SIGNATURE}), True),
        (purposes("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"), False),
        (x509.AuthorityKeyIdentifier(ISSUER_IDENTIFIER, None, None), False),
        (access(AuthorityInformationAccessOID.CA_ISSUERS, url("http://pki.example/ca.cer")), False),
        (san(x509.DNSName("www.example.internal")), False),
    )
    return {extension.oid.dotted_string: (extension, critical) for extension, critical in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the certificate says; the defaults are a good leaf. A subject key identifier is added unless left out."""

    issuer: bytes = ISSUER
    subject: bytes = SUBJECT
    serial: int = 7
    not_before: datetime = NOW
    not_after: datetime = NOW + timedelta(days=1)
    key: Key = EC_KEY
    certified_key: Key | None = None
    """The key that was to be certified, where it is another."""
    hash: hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA256)
    extensions: Extensions = field(default_factory=_leaf_extensions)
    has_key_identifier: bool = True

    def with_(self, extension: x509.ExtensionType, *, critical: bool = False) -> "Draft":
        return replace(self, extensions={**self.extensions, extension.oid.dotted_string: (extension, critical)})

    def without(self, *oids: str) -> "Draft":
        return replace(self, extensions={oid: value for oid, value in self.extensions.items() if oid not in oids})

    def flipped(self, oid: str) -> "Draft":
        """Returns the draft with an extension that is critical when it was not."""
        extension, critical = self.extensions[oid]
        return self.with_(extension, critical=not critical)

    def usages(self, *usages: KeyUsage) -> "Draft":
        return self.with_(key_usage_extension(set(usages)), critical=True)

    def for_(self, *oids: str) -> "Draft":
        return self.with_(purposes(*oids))

    def sign(self) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name.from_bytes(self.issuer),
            subject_name=x509.Name.from_bytes(self.subject),
            public_key=self.key.public_key(),
            serial_number=self.serial,
            not_valid_before=self.not_before,
            not_valid_after=self.not_after,
        )
        for extension, critical in self.extensions.values():
            builder = builder.add_extension(extension, critical)
        if self.has_key_identifier and SUBJECT_KEY_IDENTIFIER not in self.extensions:
            identifier = x509.SubjectKeyIdentifier(key_identifier(public_key_der(self.key.public_key())))
            builder = builder.add_extension(identifier, critical=False)
        return builder.sign(ISSUER_KEY, self.hash)

    def facts(self) -> dict[str, bytes]:
        """What `lint.check` is told beside the certificate."""
        return {
            "issuer_name": ISSUER,
            "issuer_key_identifier": ISSUER_IDENTIFIER,
            "public_key": public_key_der((self.certified_key or self.key).public_key()),
        }

    def copy(self) -> LintCopy:
        certificate = self.sign()
        tbs = parse_tbs_certificate(certificate.tbs_certificate_bytes)
        facts = self.facts()
        return judged(
            certificate,
            tbs,
            issuer_name=facts["issuer_name"],
            issuer_key_identifier=facts["issuer_key_identifier"],
            public_key=facts["public_key"],
            signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        )


LEAF = Draft()
AUTHORITY = (
    replace(LEAF, subject=dn.parse_text("CN=Below"))
    .without(EXTENDED_KEY_USAGE, SUBJECT_ALTERNATIVE_NAME)
    .with_(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    .usages(KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN)
)
ROOT = replace(AUTHORITY, subject=ISSUER, key=ISSUER_KEY)
