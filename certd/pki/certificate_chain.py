"""Certificates that an outsider made: one and its chain, parsed, put in order, each link verified (RFC 5280, 6.1).

Every complaint names the certificate by its place in what was sent and by its subject, and says what to do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.pki import der, distinguished_name, name_constraints
from certd.pki.encoding import LONGEST_CHAIN, parse_certificates
from certd.pki.extensions import extension_text
from certd.pki.lint import names_of
from certd.pki.name_constraints import NameConstraints
from certd.pki.names import SubjectAlternativeNames

_UNFIT_HASHES = (hashes.MD5, hashes.SHA1)
_FEWEST_RSA_BITS = 2048
_MOST_RSA_BITS = 16384
_FEWEST_CURVE_BITS = 256
_LOWEST_RSA_EXPONENT = 3
"""Authorities of that age exist, and with sound padding nothing is wrong with them."""
_LONGEST_RSA_EXPONENT = 33
"""Bits; more only make every verification slow."""
_LONGEST_TEXT = 128
WELL_KNOWN = frozenset(
    {
        "1.3.6.1.5.5.7.1.11",
        "2.5.29.9",
        "2.5.29.14",
        "2.5.29.15",
        "2.5.29.17",
        "2.5.29.18",
        "2.5.29.19",
        "2.5.29.30",
        "2.5.29.32",
        "2.5.29.33",
        "2.5.29.35",
        "2.5.29.36",
        "2.5.29.37",
        "2.5.29.54",
    }
)
"""Extensions that every reader knows, so that a certificate above an authority may have them critical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A certificate of an outsider, parsed, in its place."""

    field: str
    """Where it stands in the request: `certificate` or `chain[2]`."""
    der: bytes
    parsed: x509.Certificate
    extensions: x509.Extensions
    subject: bytes
    """DER of the name, as it stands there."""
    issuer: bytes
    """DER of the name, as it stands there."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo, as it stands there."""
    text: str
    """The subject, for people."""

    @property
    def constraints(self) -> x509.BasicConstraints | None:
        """Its basic constraints."""
        extension = self.find(x509.BasicConstraints)
        return None if extension is None else extension.value

    @property
    def path_length(self) -> int | None:
        """Of its basic constraints; None for no bound."""
        return None if self.constraints is None else self.constraints.path_length

    @property
    def self_issued(self) -> bool:
        """Whether issuer and subject are the same name, however it is encoded."""
        return same_name(self.subject, self.issuer)

    @property
    def names(self) -> SubjectAlternativeNames:
        """Its alternative names of the kinds that certd knows."""
        extension = self.find(x509.SubjectAlternativeName)
        return SubjectAlternativeNames() if extension is None else names_of(extension.value)

    @property
    def name_constraints(self) -> NameConstraints | None:
        """What it lets stand below it; raises IMPORT_NOT_COMPATIBLE for a form that certd cannot hold names against."""
        try:
            return name_constraints.of_certificate(self.der)
        except CertdError as error:
            raise self.refuse(
                Reason.IMPORT_NOT_COMPATIBLE,
                "has name constraints of a kind that certd cannot enforce",
                f"have it issued with DNS, IP, URI, e-mail or directory names only ({error.message})",
            ) from error

    def find(
        self, kind: type[x509.extensions.ExtensionTypeVar]
    ) -> x509.Extension[x509.extensions.ExtensionTypeVar] | None:
        """Returns an extension; None when there is none."""
        try:
            return self.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None

    def refuse(self, reason: Reason, problem: str, remedy: str) -> CertdError:
        """Returns the error for this certificate."""
        return CertdError(
            reason,
            f"{self.field} ({self.text}) {problem}; {remedy}",
            violations=(Violation(self.field, problem),),
        )


def same_name(one: bytes, other: bytes) -> bool:
    """Returns whether two names are the same to a relying party (RFC 5280, section 7.1)."""
    try:
        return one == other or distinguished_name.comparable(one) == distinguished_name.comparable(other)
    except CertdError:
        return False


def parse_bundle(data: bytes, *, field: str, longest: int = LONGEST_CHAIN) -> list[bytes]:
    """Returns the DER of the certificates in a PEM bundle, or of the one that `data` is.

    FIELD_INVALID when it is too long or holds a private key; IMPORT_NOT_PEM when it is no certificates.
    """
    if len(data) > longest:
        raise field_invalid(field, f"is longer than {longest} bytes; send certificates alone")
    if b"PRIVATE KEY-----" in data:
        raise field_invalid(field, "contains a private key: that key is no longer private; send certificates alone")
    try:
        return parse_certificates(data, field=field)
    except CertdError as error:
        problem = error.violations[0].description
        raise CertdError(
            Reason.IMPORT_NOT_PEM,
            f"{field} {problem}; send certificates as PEM, or one as DER",
            violations=(Violation(field, problem),),
        ) from error


def parse(certificate: bytes, *, field: str) -> Element:
    """Parses the DER of a certificate; IMPORT_NOT_PEM when it does not decode."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        issuer, subject, public_key = _raw_parts(certificate)
        text = distinguished_name_text(parsed)
        extensions = parsed.extensions
        # The library decodes these when they are asked for first; later nobody expects that they do not decode.
        _ = parsed.issuer, parsed.not_valid_before_utc, parsed.not_valid_after_utc, parsed.serial_number
        _check_signature_octets(certificate, parsed)
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as e:
        problem = "is not the DER of a certificate that decodes"
        raise CertdError(
            Reason.IMPORT_NOT_PEM,
            f"{field} {problem}: it breaks RFC 5280 somewhere; have it issued again",
            violations=(Violation(field, problem),),
        ) from e
    return Element(
        field=field,
        der=certificate,
        parsed=parsed,
        extensions=extensions,
        subject=subject,
        issuer=issuer,
        public_key=public_key,
        text=text,
    )


def _check_signature_octets(certificate: bytes, parsed: x509.Certificate) -> None:
    """ValueError when the signature is not of whole octets: the library passes over the bits said to be unused.

    The signature is the last element (RFC 5280, section 4.1), and one octet before its value counts those bits.
    """
    if certificate[-len(parsed.signature) - 1] != 0:
        raise ValueError("the signature has unused bits")


def distinguished_name_text(certificate: x509.Certificate) -> str:
    """Returns the subject for people, cut where it is long."""
    text = certificate.subject.rfc4514_string() or "no subject"
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def check_algorithms(element: Element, *, trust_anchor: bool) -> None:
    """IMPORT_NOT_COMPATIBLE for a key that is weak or a signature that anybody may forge.

    Nobody relies on the signature of a trust anchor on itself, so that may be of any kind.
    """
    problem = _key_problem(element.parsed)
    if problem is not None:
        raise element.refuse(Reason.IMPORT_NOT_COMPATIBLE, problem, "use authorities with sound keys")
    if not trust_anchor and _is_unfit(element):
        raise element.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "is signed with MD5, SHA-1 or an algorithm that certd does not know",
            "have it issued again with SHA-256 or better",
        )


def check_critical_extensions(element: Element) -> None:
    """IMPORT_NOT_COMPATIBLE for a critical extension that no reader needs to know, whose chains readers may refuse."""
    for extension in element.extensions:
        if extension.critical and extension.oid.dotted_string not in WELL_KNOWN:
            raise element.refuse(
                Reason.IMPORT_NOT_COMPATIBLE,
                f"has the critical extension {extension_text(extension.oid.dotted_string)}, which readers refuse",
                "use an authority whose certificate has it non-critical",
            )


def check_authority(element: Element) -> None:
    """IMPORT_CHAIN_INVALID for what stands in a chain and may not sign certificates."""
    constraints, usage = element.constraints, element.find(x509.KeyUsage)
    if constraints is None or not constraints.ca:
        raise element.refuse(
            Reason.IMPORT_CHAIN_INVALID,
            "is no authority's: it has no basic constraints with CA:TRUE",
            "leave it out, and send the certificates from the issuer up to the root",
        )
    if usage is not None and not usage.value.key_cert_sign:
        raise element.refuse(
            Reason.IMPORT_CHAIN_INVALID,
            "may not sign certificates: its key usage has no keyCertSign",
            "have it issued with keyCertSign, or use another issuer",
        )


def check_validity(element: Element, now: datetime) -> None:
    """IMPORT_EXPIRED when the certificate is not valid at `now`."""
    begin, end = element.parsed.not_valid_before_utc, element.parsed.not_valid_after_utc
    if now < begin:
        raise element.refuse(
            Reason.IMPORT_EXPIRED,
            f"is not valid before {time_text(begin)}",
            f"wait, or set the clock of this server, where it is {time_text(now)}",
        )
    if now > end:
        raise element.refuse(
            Reason.IMPORT_EXPIRED, f"ended at {time_text(end)}", "have it issued again, with a chain that is valid"
        )


def time_text(moment: datetime) -> str:
    """Returns a time as RFC 3339 has it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def in_order(certificate: Element, bundle: Sequence[Element], *, to_root: bool = True) -> tuple[Element, ...]:
    """Returns the chain of `certificate`, its issuer first and a self-signed root last, every signature verified.

    Args:
        certificate: below the chain.
        bundle: the chain, in any order.
        to_root: whether it must end in a root; otherwise it may end before, if nothing that was sent is left over.

    IMPORT_CHAIN_INVALID when something is missing, stands twice, does not belong there, or did not sign.
    """
    _check_for_strangers(certificate, bundle)
    rest = list(bundle)
    chain: list[Element] = []
    below = certificate
    while not (chain and is_root(below)):
        if chain and not to_root and not any(same_name(element.subject, below.issuer) for element in rest):
            break
        above = _issuer_of(below, rest)
        rest.remove(above)
        chain.append(above)
        below = above
    if rest:
        last = f"{chain[-1].field} ({chain[-1].text})"
        if is_root(below):
            where, remedy = f"is not between {certificate.field} and its root, {last}", "leave it out"
        else:
            where = f"did not sign {last}, the last above {certificate.field}, and nothing between the two is there"
            remedy = "leave it out, or send what is between"
        raise rest[0].refuse(Reason.IMPORT_CHAIN_INVALID, where, remedy)
    return tuple(chain)


def is_root(element: Element) -> bool:
    """Returns whether a certificate is signed by its own key.

    Old signatures cannot be verified any more, and on a trust anchor they need not: nobody trusts it for that.
    """
    if element.subject != element.issuer or not _identifiers_agree(element, element):
        return False
    if _is_unfit(element):
        return True
    try:
        element.parsed.verify_directly_issued_by(element.parsed)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _is_unfit(element: Element) -> bool:
    """Returns whether its signature is of an algorithm that proves nothing, or that is not known."""
    try:
        return isinstance(element.parsed.signature_hash_algorithm, _UNFIT_HASHES)
    except UnsupportedAlgorithm:
        return True


def _check_for_strangers(certificate: Element, bundle: Sequence[Element]) -> None:
    seen = {certificate.der: certificate.field}
    for element in bundle:
        first = seen.setdefault(element.der, element.field)
        if first == certificate.field:
            raise element.refuse(
                Reason.IMPORT_CHAIN_INVALID,
                f"is {certificate.field} itself",
                "leave it out: the chain begins with the issuer",
            )
        if first != element.field:
            raise element.refuse(Reason.IMPORT_CHAIN_INVALID, f"is the same as {first}", "send each once")
        check_authority(element)


def _issuer_of(below: Element, among: Iterable[Element]) -> Element:
    """Returns the certificate whose key signed `below`."""
    named = [element for element in among if element.subject == below.issuer]
    if not named:
        raise _no_issuer(below, among)
    problems = [(element, _link_problem(below, element)) for element in named]
    for element, problem in problems:
        if problem is None:
            return element
    element, problem = problems[0]
    raise element.refuse(
        Reason.IMPORT_CHAIN_INVALID,
        f"has the name of the issuer of {below.field} ({below.text}), but {problem}",
        "send the certificate of the key that signed it",
    )


def _no_issuer(below: Element, among: Iterable[Element]) -> CertdError:
    for element in among:
        if same_name(element.subject, below.issuer):
            return element.refuse(
                Reason.IMPORT_CHAIN_INVALID,
                f"has the name of the issuer of {below.field} ({below.text}), but in another encoding",
                "names must chain byte for byte: have that one issued again by this authority",
            )
    issuer = below.parsed.issuer.rfc4514_string()
    return below.refuse(
        Reason.IMPORT_CHAIN_INVALID,
        f"has no issuer in the chain: {issuer[:_LONGEST_TEXT]} is missing",
        "send every certificate from the issuer up to the self-signed root, which is last",
    )


def _link_problem(below: Element, above: Element) -> str | None:
    """Returns why `above`, which has the right name, is not the issuer of `below`; None when it is."""
    if not _identifiers_agree(below, above):
        return "its key identifier is not the one that stands there"
    try:
        below.parsed.verify_directly_issued_by(above.parsed)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return "its key did not make that signature"
    return None


def _identifiers_agree(below: Element, above: Element) -> bool:
    """Compares the authority key identifier (RFC 5280, 4.2.1.1) with what it points at, where both are there."""
    pointer, target = below.find(x509.AuthorityKeyIdentifier), above.find(x509.SubjectKeyIdentifier)
    if pointer is None:
        return True
    identifier, serial = pointer.value.key_identifier, pointer.value.authority_cert_serial_number
    key_agrees = identifier is None or target is None or identifier == target.value.digest
    return key_agrees and (serial is None or serial == above.parsed.serial_number)


def _key_problem(certificate: x509.Certificate) -> str | None:
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return "has a key that certd does not know"
    if isinstance(key, rsa.RSAPublicKey):
        return _rsa_problem(key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.curve.key_size
        return f"has a key on {key.curve.name}, of only {bits} bits" if bits < _FEWEST_CURVE_BITS else None
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return None
    return "has a key that is neither RSA, EC nor Edwards"


def _rsa_problem(key: rsa.RSAPublicKey) -> str | None:
    exponent = key.public_numbers().e
    if not _FEWEST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS:
        return f"has an RSA key of {key.key_size} bits, not of {_FEWEST_RSA_BITS} to {_MOST_RSA_BITS}"
    if exponent < _LOWEST_RSA_EXPONENT or exponent.bit_length() > _LONGEST_RSA_EXPONENT or exponent % 2 == 0:
        return "has an RSA exponent that is not an odd number from 3 to 2^33"
    return None


def _raw_parts(certificate: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns issuer, subject and SubjectPublicKeyInfo, byte for byte; ValueError when they are not there."""
    tbs = der.Reader(certificate).enter(der.SEQUENCE).enter(der.SEQUENCE)
    if tbs.peek() == der.context(0):
        tbs.read(der.context(0))
    tbs.read(der.INTEGER)
    tbs.read(der.SEQUENCE)
    issuer = tbs.read_whole(der.SEQUENCE)
    tbs.read(der.SEQUENCE)
    return issuer, tbs.read_whole(der.SEQUENCE), tbs.read_whole(der.SEQUENCE)
