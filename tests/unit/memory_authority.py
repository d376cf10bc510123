"""Authorities whose keys are in memory: the signing seam of `pki` tests."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.pki import distinguished_name
from certd.pki.csr import RequestedExtension
from certd.pki.key_spec import (
    KeySpec,
    SignatureAlgorithm,
    default_signature_algorithm,
    generate_private_key,
    hash_of,
    key_identifier,
    public_key_der,
)
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import CertificateRequest, Issuer, Prepared, Validity, assemble, prepare
from certd.pki.profiles import END_ENTITY, ROOT_CA, SUBORDINATE_CA, Profile
from certd.pki.status_locations import StatusLocations

NOW = datetime(2026, 3, 4, 5, 6, 7, 890_123, tzinfo=UTC)
SERIAL = (1 << 126) | 0x1234
LOCATIONS = StatusLocations(
    issuer_urls=("http://pki.example.internal/ca/u1/1.cer",),
    responder_urls=("http://pki.example.internal/ocsp/u1/1",),
    crl_stems=("http://pki.example.internal/crl/u1/1", "http://crl.example.com/crl/u1/1"),
)
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAuthority:
    """An authority that can sign."""

    issuer: Issuer
    private_key: PrivateKey
    certificate: bytes

    def sign(self, prepared: Prepared) -> bytes:
        """Returns the certificate."""
        algorithm = self.issuer.signature_algorithm
        return assemble(prepared.tbs, algorithm, sign(self.private_key, algorithm, prepared.tbs))


def sign(private_key: PrivateKey, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
    """Signs as the token would."""
    digest = hash_of(algorithm)
    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return private_key.sign(data)
    assert digest is not None
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(data, padding.PKCS1v15(), digest)
    return private_key.sign(data, ec.ECDSA(digest))


def _authority(
    *,
    text: str,
    spec: KeySpec,
    algorithm: SignatureAlgorithm | None,
    path_length: int,
    parent: MemoryAuthority | None,
    now: datetime,
) -> MemoryAuthority:
    private_key = generate_private_key(spec)
    public_key = public_key_der(private_key.public_key())
    subject = distinguished_name.parse_text(text)
    own = Issuer(
        name=subject,
        public_key=public_key,
        subject_key_identifier=key_identifier(public_key),
        key_spec=spec,
        signature_algorithm=algorithm or default_signature_algorithm(spec),
        not_after=None,
        path_length=path_length,
    )
    prepared = prepare(
        issuer=parent.issuer if parent else own,
        request=CertificateRequest(
            public_key=public_key, subject=subject, names=SubjectAlternativeNames(), path_length=path_length
        ),
        profile=SUBORDINATE_CA if parent else ROOT_CA,
        validity=Validity(),
        serial=SERIAL + path_length,
        now=now,
    )
    self_signed = MemoryAuthority(issuer=own, private_key=private_key, certificate=b"")
    finished = Issuer(
        name=subject,
        public_key=public_key,
        subject_key_identifier=own.subject_key_identifier,
        key_spec=spec,
        signature_algorithm=own.signature_algorithm,
        not_after=prepared.not_after,
        path_length=path_length,
        locations=LOCATIONS,
    )
    return MemoryAuthority(issuer=finished, private_key=private_key, certificate=(parent or self_signed).sign(prepared))


def root(
    spec: KeySpec = KeySpec.EC_P256,
    *,
    algorithm: SignatureAlgorithm | None = None,
    path_length: int = 2,
    text: str = "CN=Example Root,O=Example",
    now: datetime = NOW,
) -> MemoryAuthority:
    """Makes a root."""
    return _authority(text=text, spec=spec, algorithm=algorithm, path_length=path_length, parent=None, now=now)


def subordinate(
    parent: MemoryAuthority,
    spec: KeySpec = KeySpec.EC_P256,
    *,
    algorithm: SignatureAlgorithm | None = None,
    path_length: int = 0,
    now: datetime = NOW,
) -> MemoryAuthority:
    """Makes an authority below another."""
    text = "CN=Example Issuing CA,O=Example,C=DE"
    return _authority(text=text, spec=spec, algorithm=algorithm, path_length=path_length, parent=parent, now=now)


def public_key(spec: KeySpec = KeySpec.EC_P256) -> bytes:
    """Returns the public half of a new key."""
    return public_key_der(generate_private_key(spec).public_key())


def prepare_leaf(
    authority: MemoryAuthority,
    *,
    key: bytes | None = None,
    subject: str = "",
    subject_der: bytes | None = None,
    names: SubjectAlternativeNames | None = None,
    profile: Profile = END_ENTITY,
    lifetime: timedelta | None = None,
    not_after: datetime | None = None,
    extensions: tuple[RequestedExtension, ...] = (),
    path_length: int | None = None,
    serial: int = SERIAL,
    now: datetime = NOW,
) -> Prepared:
    """Prepares a leaf for one DNS name unless told otherwise."""
    return prepare(
        issuer=authority.issuer,
        request=CertificateRequest(
            public_key=key or public_key(),
            subject=distinguished_name.parse_text(subject) if subject_der is None else subject_der,
            names=SubjectAlternativeNames(dns_names=("www.example.internal",)) if names is None else names,
            extensions=extensions,
            path_length=path_length,
        ),
        profile=profile,
        validity=Validity(lifetime=lifetime, not_after=not_after),
        serial=serial,
        now=now,
    )


def csr(
    private_key: PrivateKey | None = None,
    *,
    subject: x509.Name | None = None,
    san: list[x509.GeneralName] | None = None,
    extensions: list[x509.ExtensionType] | None = None,
) -> x509.CertificateSigningRequest:
    """Makes a certification request."""
    key = private_key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    if san is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    for extension in extensions or []:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def der_of(request: x509.CertificateSigningRequest) -> bytes:
    """Returns the DER of a request."""
    return request.public_bytes(Encoding.DER)


def refused_with(call: Callable[[], object], reason: Reason) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    return caught.value
