"""Certification requests (RFC 2986): what a stranger asks to have certified, and the proof that the key is theirs."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certd.errors import CertdError, Reason, Violation
from certd.pki import der
from certd.pki import names as alternative_names
from certd.pki.encoding import is_pem
from certd.pki.extensions import SUBJECT_ALTERNATIVE_NAME, UNDECODABLE
from certd.pki.key_spec import ACCEPTED_KEYS, KeySpec, key_spec_of, public_key_der
from certd.pki.names import SubjectAlternativeNames
from certd.pki.tbs import parse_certification_request_info
from certd.pki.weak_keys import weakness

LONGEST_CSR = 32 << 10
"""Bytes, of PEM or DER."""

_FIELD = "csr"
# RFC 2985, section 5.4.2, and what Microsoft's tools wrote before it.
_EXTENSION_REQUESTS = (
    der.object_identifier("1.2.840.113549.1.9.14"),
    der.object_identifier("1.3.6.1.4.1.311.2.1.14"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedExtension:
    """An extension that a certification request asks for."""

    oid: str
    """Dotted."""
    critical: bool
    value: bytes
    """DER of what the OCTET STRING holds, as it stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCsr:
    """A certification request whose signature verified under its own key."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo, in the one encoding that certd writes into certificates."""
    key_spec: KeySpec
    subject: bytes
    """DER of the distinguished name, byte for byte."""
    names: SubjectAlternativeNames
    """In their normal form."""
    extensions: tuple[RequestedExtension, ...]
    """What it asks for besides the alternative names, in its order."""


def check_length(data: bytes, *, longest: int = LONGEST_CSR) -> None:
    """Raises CSR_MALFORMED for a request of more than `longest` bytes."""
    if len(data) > longest:
        raise _malformed(f"is longer than {longest} bytes")


def parse_csr(data: bytes) -> ParsedCsr:
    """Parses and verifies a certification request, PEM or DER by content, of at most 32 KiB.

    CSR_MALFORMED when it is none, or cut off, or too long; KEY_TOO_WEAK for a key of a kind or size not accepted;
    CSR_SIGNATURE_INVALID when its signature does not verify; NAME_NOT_ALLOWED with every alternative name that is none.
    """
    request = _load(data)
    public_key, key_spec = _accepted_key(request)
    _verify(request)
    try:
        info = request.tbs_certrequest_bytes
        subject, _ = parse_certification_request_info(info)
        extensions = request.extensions
    except (CertdError, *UNDECODABLE) as error:
        raise _malformed("has a subject or extensions that do not decode") from error
    names = SubjectAlternativeNames()
    only_names = True
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = _names(extension.value)
        else:
            only_names = False
    # The library reads the first extension request and forgets how a value was written.
    plain = only_names and sum(map(info.count, _EXTENSION_REQUESTS)) <= 1
    return ParsedCsr(
        public_key=public_key_der(public_key),
        key_spec=key_spec,
        subject=subject,
        names=names,
        extensions=() if plain else _requested_extensions(info),
    )


def _requested_extensions(info: bytes) -> tuple[RequestedExtension, ...]:
    """Returns what a CertificationRequestInfo asks for besides the alternative names, byte for byte; CSR_MALFORMED."""
    try:
        found = _read_extensions(info)
    except der.MalformedError as error:
        raise _malformed("has a subject or extensions that do not decode") from error
    return tuple(extension for extension in found if extension.oid != SUBJECT_ALTERNATIVE_NAME)


def _read_extensions(info: bytes) -> list[RequestedExtension]:
    reader = der.Reader(info).enter(der.SEQUENCE)
    for tag in (der.INTEGER, der.SEQUENCE, der.SEQUENCE):
        reader.read(tag)
    attributes = reader.enter(der.context(0))
    requests: list[der.Reader] = []
    while attributes.more:
        attribute = attributes.enter(der.SEQUENCE)
        if attribute.read_whole(der.OBJECT_IDENTIFIER) in _EXTENSION_REQUESTS:
            values = attribute.enter(der.SET)
            requests.append(values.enter(der.SEQUENCE))
            values.finish()
    if len(requests) > 1:
        raise _malformed("has more than one extension request, of which a reader sees the one or the other")
    found: list[RequestedExtension] = []
    while requests and requests[0].more:
        extension = requests[0].enter(der.SEQUENCE)
        oid = der.dotted(extension.read_object_identifier())
        critical = extension.read_true()
        found.append(RequestedExtension(oid=oid, critical=critical, value=extension.read(der.OCTET_STRING)))
        extension.finish()
    return found


def key_problem(public_key: PublicKeyTypes) -> str | None:
    """Returns why a subject's key is not accepted, with the remedy, or None."""
    if key_spec_of(public_key) is None:
        return f"is of a kind or size that is not accepted; use {ACCEPTED_KEYS}"
    return weakness(public_key)


def _malformed(problem: str) -> CertdError:
    return CertdError(
        Reason.CSR_MALFORMED,
        f"{_FIELD} {problem}; send one PKCS#10 request as PEM or DER",
        violations=(Violation(_FIELD, problem),),
    )


def _load(data: bytes) -> x509.CertificateSigningRequest:
    check_length(data)
    pem = is_pem(data)
    if pem and b"PRIVATE KEY-----" in data:
        raise _malformed("comes with a private key: that key is no longer private, make another one")
    if pem and data.count(b"-----BEGIN ") != 1:
        raise _malformed("has more than one PEM block")
    try:
        return x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise _malformed("is not a whole PKCS#10 request") from error


def _accepted_key(request: x509.CertificateSigningRequest) -> tuple[PublicKeyTypes, KeySpec]:
    try:
        public_key = request.public_key()
    except UnsupportedAlgorithm as error:
        raise _weak(f"is of a kind that is not accepted; use {ACCEPTED_KEYS}") from error
    except ValueError as error:
        raise _malformed("has a public key that does not decode") from error
    problem, key_spec = key_problem(public_key), key_spec_of(public_key)
    if problem is not None or key_spec is None:
        raise _weak(problem or f"is not accepted; use {ACCEPTED_KEYS}")
    return public_key, key_spec


def _weak(problem: str) -> CertdError:
    field = f"{_FIELD}.public_key"
    return CertdError(
        Reason.KEY_TOO_WEAK, f"the key of the {_FIELD} {problem}", violations=(Violation(field, problem),)
    )


def _verify(request: x509.CertificateSigningRequest) -> None:
    try:
        # The library would say of these that they do not verify, and nobody would know why.
        if isinstance(request.signature_hash_algorithm, hashes.MD5 | hashes.SHA1):
            raise _unproven("is signed over a broken hash, SHA-1 or MD5, where SHA-256 or a longer one is needed")
        valid = request.is_signature_valid
    except UnsupportedAlgorithm as error:
        raise _unproven("is signed with an algorithm that is not accepted") from error
    except UNDECODABLE as error:
        raise _malformed("has a signature algorithm that does not decode") from error
    if not valid:
        raise _unproven("has a signature that does not verify under its own key")


def _unproven(problem: str) -> CertdError:
    return CertdError(
        Reason.CSR_SIGNATURE_INVALID,
        f"{_FIELD} {problem}; make it again with the private key that it is for",
        violations=(Violation(_FIELD, problem),),
    )


def _names(extension: x509.SubjectAlternativeName) -> SubjectAlternativeNames:
    """Returns the names in their normal form; a kind of name that no certificate of certd carries is refused."""
    kinds: dict[type[x509.GeneralName], list[str]] = {
        x509.DNSName: [],
        x509.IPAddress: [],
        x509.UniformResourceIdentifier: [],
        x509.RFC822Name: [],
    }
    field = f"{_FIELD}.subject_alternative_names"
    for name in extension:
        values = kinds.get(type(name))
        if values is None:
            rule = f"has a name of the kind {type(name).__name__}; DNS, IP, URI and e-mail names are known"
            raise CertdError(Reason.NAME_NOT_ALLOWED, f"{field} {rule}", violations=(Violation(field, rule),))
        values.append(str(name.value))
    dns_names, ip_addresses, uris, email_addresses = map(tuple, kinds.values())
    names = SubjectAlternativeNames(
        dns_names=dns_names, ip_addresses=ip_addresses, uris=uris, email_addresses=email_addresses
    )
    return alternative_names.normalise(names, field=field)
