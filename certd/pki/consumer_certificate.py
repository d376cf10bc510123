"""The identity certificate of a consumer, held against the roots that are pinned, by the token process before a lease.

Identities are issued by a root itself, so there is no path to build. Names are compared as the bytes that stand there,
and the reader is the strict one: what another parser may understand differently is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from certd.errors import CertdError, Reason, field_invalid
from certd.pki import der
from certd.pki.encoding import parse_certificates
from certd.pki.key_spec import algorithm_identifier, verify_signature
from certd.pki.tbs import ToBeSignedCertificate, parse_tbs_certificate

_ALTERNATIVE_NAMES = "2.5.29.17"
_URI = 0x86
"""Tag of uniformResourceIdentifier, [6] IMPLICIT IA5String (RFC 5280, section 4.2.1.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedRoot:
    """A root that is trusted because somebody said so."""

    certificate: bytes
    """DER."""
    name: bytes
    """DER of its subject, as it stands there."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A consumer's key, and the certificate that says whose it is."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    serial: int
    """Of the certificate."""


@dataclass(frozen=True, slots=True)
class _Signed:
    tbs: bytes
    parsed: ToBeSignedCertificate
    signature: bytes

    def by(self, public_key: bytes) -> bool:
        """Returns whether the key signed it; it must parse."""
        return verify_signature(public_key, self.parsed.signature_algorithm, signature=self.signature, data=self.tbs)


def parse_root(certificate: bytes, *, field: str) -> PinnedRoot:
    """Parses the DER of a root; FIELD_INVALID with `field` when it is none: an authority's, signed by its own key."""
    try:
        signed = _parse(certificate)
        is_root = signed.parsed.issuer == signed.parsed.subject and signed.by(signed.parsed.public_key)
    except (der.MalformedError, CertdError) as error:
        raise field_invalid(field, f"holds a certificate that does not parse: {_text(error)}") from error
    if not signed.parsed.authority or not is_root:
        raise field_invalid(field, "holds a certificate that is no root: it must be an authority's, and self-signed")
    return PinnedRoot(
        certificate=certificate,
        name=signed.parsed.subject,
        public_key=signed.parsed.public_key,
        not_before=signed.parsed.not_before,
        not_after=signed.parsed.not_after,
    )


def parse_roots(content: bytes, *, field: str) -> tuple[PinnedRoot, ...]:
    """Parses a PEM bundle of roots, or the DER of one; FIELD_INVALID as `parse_root`, and when it is neither."""
    return tuple(parse_root(certificate, field=field) for certificate in parse_certificates(content, field=field))


def check_consumer_certificate(
    certificate: bytes, *, roots: Sequence[PinnedRoot], consumer: str, now: datetime
) -> Consumer:
    """Returns whose key may sign for the consumer, by a certificate that a pinned root has issued.

    LEASE_REFUSED with the check that failed: it parses; a root whose name is its issuer signed it; both are valid at
    `now`; it is no authority's; it has one URI, which is `consumer`.
    """
    try:
        signed = _parse(certificate)
        parsed = signed.parsed
        uris = _uris(parsed)
    except (der.MalformedError, CertdError) as error:
        raise refuse(f"the certificate does not parse: {_text(error)}") from error
    named = [root for root in roots if root.name == parsed.issuer]
    if not named:
        raise refuse("the issuer of the certificate is none of the pinned roots; if it is the system's, pin its root")
    root = next((root for root in named if signed.by(root.public_key)), None)
    if root is None:
        raise refuse("the signature of the certificate is not that of the pinned root that it names")
    if not root.not_before <= now <= root.not_after:
        raise refuse("the pinned root is not valid at this time")
    if not parsed.not_before <= now <= parsed.not_after:
        raise refuse("the certificate is not valid at this time; renew it")
    if parsed.authority:
        raise refuse("the certificate is an authority's")
    if len(uris) != 1:
        raise refuse(f"the certificate has {len(uris)} URIs, and the one of an identity has one")
    if uris[0] != consumer.encode():
        raise refuse("the certificate is another identity's than that for which the key is sealed")
    return Consumer(public_key=parsed.public_key, serial=parsed.serial)


def refuse(finding: str) -> CertdError:
    """Returns the refusal of a lease."""
    return CertdError(Reason.LEASE_REFUSED, f"The token process refuses the lease: {finding}.")


def _parse(certificate: bytes) -> _Signed:
    """Parses a Certificate (RFC 5280, section 4.1); raises MalformedError or FIELD_INVALID."""
    outer = der.Reader(certificate)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    tbs = reader.read_whole(der.SEQUENCE)
    algorithm = reader.read_whole(der.SEQUENCE)
    signature = reader.read(der.BIT_STRING)
    reader.finish()
    parsed = parse_tbs_certificate(tbs)
    if algorithm != algorithm_identifier(parsed.signature_algorithm):
        raise der.MalformedError("says two signature algorithms")
    if signature[:1] != b"\x00":
        raise der.MalformedError("has a signature that does not fill whole octets")
    return _Signed(tbs, parsed, signature[1:])


def _uris(parsed: ToBeSignedCertificate) -> list[bytes]:
    extension = parsed.extensions.get(_ALTERNATIVE_NAMES)
    if extension is None:
        return []
    outer = der.Reader(extension.value)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    names = []
    while reader.more:
        names.append(reader.read_any())
    return [content for tag, content in names if tag == _URI]


def _text(error: der.MalformedError | CertdError) -> str:
    return error.violations[0].description if isinstance(error, CertdError) else f"it {error}"
