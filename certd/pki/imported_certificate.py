"""A certificate that was made elsewhere and is imported with its chain: whether both will do.

They are refused when no consumer could use them. Control of the names, trust in the root and revocation are not looked
at: who imports answers for those. What is unwise, or was put right, is told in a warning.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from certd.errors import CertdError, Reason, Violation
from certd.pki import names as alternative_names
from certd.pki.certificate_chain import (
    Element,
    check_algorithms,
    check_validity,
    in_order,
    is_root,
    parse,
    parse_bundle,
)
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.csr import key_problem
from certd.pki.description import Description, describe
from certd.pki.extensions import (
    ANY_EXTENDED_KEY_USAGE,
    CLIENT_AUTHENTICATION,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    KeyUsage,
    extended_key_usage_text,
    key_usage_text,
)
from certd.pki.key_spec import ACCEPTED_KEYS, KeySpec, key_spec_of, public_key_der
from certd.pki.names import SubjectAlternativeNames

LONGEST_CERTIFICATE = 32 << 10
"""Bytes, of PEM or DER."""
MOST_IN_CHAIN = 32
"""Certificates, each counted once. No chain that anybody made is as long, and sorting one costs the square of this."""

_CERTIFICATE, _CHAIN = "certificate", "certificate_chain"
_LONGEST_OCSP_URL = 1000
_NO_NAME = b"\x30\x00"
"""DER of a distinguished name without attributes."""
_RSA_PSS = "1.2.840.113549.1.1.10"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCertificate:
    """A certificate and its chain that will do."""

    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    """DER, from the issuer upwards; empty for a self-signed certificate."""
    subject: bytes
    """DER of the name, as it stands there."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo, in the one encoding that certd writes."""
    key_spec: KeySpec
    names: SubjectAlternativeNames
    """In their normal form where they have one; the CN, if it is a DNS name or IP address, when there are none."""
    not_before: datetime
    not_after: datetime
    warnings: tuple[Warning, ...]


def check(certificate: bytes, chain: bytes, *, now: datetime) -> ImportedCertificate:
    """Checks a certificate, of at most 32 KiB, and its chain, of at most 2 MiB, both as PEM or DER.

    The chain is what is above the certificate, in any order, and may end before the root; it is empty for a self-signed
    certificate.

    FIELD_INVALID and IMPORT_NOT_PEM when they are no certificates, or not exactly one; KEY_TOO_WEAK for a key that is
    not accepted; IMPORT_NOT_COMPATIBLE, IMPORT_EXPIRED and IMPORT_CHAIN_INVALID when consumers would refuse them. The
    message names the certificate, the check and the remedy.
    """
    own = _own(certificate)
    names = _names(own)
    if not len(names) and not _common_names(own):
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has no name: neither a DNS name, an IP address, a URI or an e-mail address, nor a CN",
            "have it issued with the names under which it will be used",
        )
    _check_ocsp_urls(own)
    key_spec, public_key = _key(own)
    check_algorithms(own, trust_anchor=False)
    check_validity(own, now)
    bundle, dropped = _bundle(chain, own)
    above = _above(own, bundle)
    for element in above:
        check_algorithms(element, trust_anchor=is_root(element))
        check_validity(element, now)
    _check_path_lengths(own, above)
    return ImportedCertificate(
        certificate=own.der,
        chain=tuple(element.der for element in above),
        subject=own.subject,
        public_key=public_key,
        key_spec=key_spec,
        names=names,
        not_before=own.parsed.not_valid_before_utc,
        not_after=own.parsed.not_valid_after_utc,
        warnings=(*dropped, *_order_warnings(bundle, above), *_family_warnings(own, above)),
    )


def names_of(certificate: bytes) -> SubjectAlternativeNames:
    """Returns the names of an imported certificate (DER), as `check` does."""
    return _names(parse(certificate, field=_CERTIFICATE))


def check_reimport(old: bytes, new: ImportedCertificate) -> tuple[Warning, ...]:
    """Checks that consumers of one certificate can go on with another, so that nobody loses an ability when it changes.

    Args:
        old: DER of the certificate that is current.
        new: what takes its place.

    Kind and size of the key stay; key usages and extended key usages may become more; at least one name stays. Two
    exceptions, each with a warning: keyEncipherment may go where the key is not RSA, for it says nothing there, and
    clientAuth may go, for public authorities certify it no more. IMPORT_NOT_COMPATIBLE with everything that is missing.
    """
    before, after = describe(old), describe(new.certificate)
    violations: list[Violation] = []
    if before.key_spec is not after.key_spec:
        was, is_ = _kind(before), _kind(after)
        violations.append(Violation(_CERTIFICATE, f"has a key of the kind {is_} where the current version has {was}"))
    usages, extended = _missing_usages(before, after)
    warnings: list[Warning] = []
    if KeyUsage.KEY_ENCIPHERMENT in usages and new.key_spec not in _RSA_KEYS:
        usages.remove(KeyUsage.KEY_ENCIPHERMENT)
        warnings.append(
            _dropped(f"the key usage {key_usage_text(KeyUsage.KEY_ENCIPHERMENT)}, which means nothing here")
        )
    if CLIENT_AUTHENTICATION in extended:
        extended.remove(CLIENT_AUTHENTICATION)
        text = extended_key_usage_text(CLIENT_AUTHENTICATION)
        warnings.append(_dropped(f"the extended key usage {text}; consumers that use it as a client will be refused"))
    violations += [_lacks(f"the key usage {key_usage_text(usage)}") for usage in usages]
    violations += [_lacks(f"the extended key usage {extended_key_usage_text(oid)}") for oid in extended]
    held, kept = _all_names(parse(old, field=_CERTIFICATE)), _all_names(parse(new.certificate, field=_CERTIFICATE))
    if held and not held & kept:
        shown = ", ".join(sorted(held)[:_NAMES_SHOWN]) + (", …" if len(held) > _NAMES_SHOWN else "")
        violations.append(_lacks(f"any of its names: {shown}"))
    if violations:
        raise CertdError(
            Reason.IMPORT_NOT_COMPATIBLE,
            f"{_CERTIFICATE} ({after.subject_text}) cannot take the place of the current version, because it"
            f" {', and '.join(violation.description for violation in violations)}; have it issued with what the current"
            " one has, or import it under another id",
            violations=tuple(violations),
        )
    return (*warnings, *_restricted(before, after))


_RSA_KEYS = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096})
_NAMES_SHOWN = 5


def _own(certificate: bytes) -> Element:
    found = parse_bundle(certificate, field=_CERTIFICATE, longest=LONGEST_CERTIFICATE)
    if len(found) != 1:
        problem = f"has {len(found)} certificates"
        raise CertdError(
            Reason.IMPORT_NOT_PEM,
            f"{_CERTIFICATE} {problem}; send one there, and those above it as {_CHAIN}",
            violations=(Violation(_CERTIFICATE, problem),),
        )
    own = parse(found[0], field=_CERTIFICATE)
    if own.parsed.version is not x509.Version.v3:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE, "is X.509 of version 1", "have it issued as version 3, with extensions"
        )
    if own.issuer == _NO_NAME:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has an empty issuer (RFC 5280, section 4.1.2.4)",
            "have it issued by an authority with a name",
        )
    try:
        describe(own.der)
    except CertdError as error:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has a name or an extension that cannot be shown",
            f"have it issued again with plain names ({error.message})",
        ) from error
    return own


def _key(own: Element) -> tuple[KeySpec, bytes]:
    """Returns kind and size of the key and its SubjectPublicKeyInfo; KEY_TOO_WEAK when it is not accepted."""
    try:
        key = own.parsed.public_key()
        spec, problem = key_spec_of(key), key_problem(key)
    except (UnsupportedAlgorithm, ValueError):
        spec, problem = None, None
    if own.parsed.public_key_algorithm_oid.dotted_string == _RSA_PSS:
        # The library reads such a key as one for everything, which is another public key than this one.
        spec, problem = None, f"has an RSA key that is bound to RSASSA-PSS; use a key that is {ACCEPTED_KEYS}"
    if spec is None or problem is not None:
        finding, _, remedy = (problem or f"has a key of an unknown kind; use {ACCEPTED_KEYS}").partition("; ")
        raise own.refuse(Reason.KEY_TOO_WEAK, f"has a key that cannot be imported: it {finding}", remedy)
    return spec, public_key_der(key)


def _check_ocsp_urls(own: Element) -> None:
    access = own.find(x509.AuthorityInformationAccess)
    for description in () if access is None else access.value:
        location = description.access_location
        if (
            description.access_method == AuthorityInformationAccessOID.OCSP
            and isinstance(location, x509.UniformResourceIdentifier)
            and len(location.value) > _LONGEST_OCSP_URL
        ):
            raise own.refuse(
                Reason.IMPORT_NOT_COMPATIBLE,
                f"has an OCSP URL of {len(location.value)} characters, more than {_LONGEST_OCSP_URL}",
                "have it issued with a shorter one",
            )


def _bundle(chain: bytes, own: Element) -> tuple[list[Element], list[Warning]]:
    """Returns the chain as it was sent, each certificate once, and what was dropped from it."""
    found = parse_bundle(chain, field=_CHAIN) if chain.strip() else []
    seen = {own.der: _CERTIFICATE}
    kept: list[tuple[str, bytes]] = []
    dropped: list[Warning] = []
    for index, certificate in enumerate(found):
        field = f"{_CHAIN}[{index}]"
        first = seen.setdefault(certificate, field)
        if first == field:
            kept.append((field, certificate))
        else:
            what = "the certificate itself" if first == _CERTIFICATE else f"the same as {first}"
            dropped.append(Warning(field, f"is {what}, and was left out"))
    if len(kept) > MOST_IN_CHAIN:
        problem = f"has {len(kept)} certificates, more than {MOST_IN_CHAIN}"
        raise CertdError(
            Reason.IMPORT_CHAIN_INVALID,
            f"{_CHAIN} {problem}; send only those above the certificate, from its issuer to the root",
            violations=(Violation(_CHAIN, problem),),
        )
    return [parse(certificate, field=field) for field, certificate in kept], dropped


def _above(own: Element, bundle: Sequence[Element]) -> tuple[Element, ...]:
    """Returns the chain in order, every signature verified; IMPORT_CHAIN_INVALID."""
    if is_root(own):
        if bundle:
            raise bundle[0].refuse(
                Reason.IMPORT_CHAIN_INVALID,
                f"is above nothing: {_CERTIFICATE} ({own.text}) is self-signed",
                "leave the chain out",
            )
        return ()
    if not bundle:
        raise own.refuse(
            Reason.IMPORT_CHAIN_INVALID,
            "is not self-signed, and there is no chain",
            f"give the certificate of its issuer ({_issuer_text(own)}), and those above that, as {_CHAIN}",
        )
    return in_order(own, bundle, to_root=False)


def _issuer_text(own: Element) -> str:
    return alternative_names.excerpt(own.parsed.issuer.rfc4514_string()).strip("'\"")


def _check_path_lengths(own: Element, above: Sequence[Element]) -> None:
    """Holds the path lengths against what is below (RFC 5280, section 6.1.4): every consumer does."""
    below = 0
    for element in above:
        if element.path_length is not None and element.path_length < below:
            raise element.refuse(
                Reason.IMPORT_CHAIN_INVALID,
                f"has the path length {element.path_length}, and {below} authorities stand between it and {own.field}",
                "have it issued again, or choose an issuer under which an authority may stand",
            )
        # A certificate that an authority issues to itself, for a new key, is no further level.
        below += not element.self_issued


def _order_warnings(bundle: Sequence[Element], above: Sequence[Element]) -> Iterator[Warning]:
    if [element.field for element in bundle] != [element.field for element in above]:
        yield Warning(_CHAIN, "was not in order from the issuer upwards, and was sorted")


def _family_warnings(own: Element, above: Sequence[Element]) -> Iterator[Warning]:
    # ACM refuses a key of another family than its issuer's. RFC 5280 asks for nothing of the kind, and consumers verify
    # RSA signatures on EC keys every day; only ones that know a single family are in for a surprise.
    if not above:
        return
    family, issuing = _family(own), _family(above[0])
    if family != issuing:
        yield Warning(
            _CERTIFICATE,
            f"has a key of the family {family} that an authority with one of the family {issuing} certified",
        )


def _family(element: Element) -> str:
    key = element.parsed.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "EC"
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    return "Edwards" if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) else "another"


def _common_names(own: Element) -> list[str]:
    values = (attribute.value for attribute in own.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return [value for value in values if isinstance(value, str) and value.strip()]


def _names(own: Element) -> SubjectAlternativeNames:
    found = own.names
    if not len(found):
        common = _common_names(own)
        return SubjectAlternativeNames(
            dns_names=_unique(filter(None, map(alternative_names.normalise_dns_name, common))),
            ip_addresses=_unique(filter(None, map(alternative_names.normalise_ip_address, common))),
        )
    return SubjectAlternativeNames(
        dns_names=_unique(alternative_names.normalise_dns_name(name) or name for name in found.dns_names),
        ip_addresses=_unique(alternative_names.normalise_ip_address(name) or name for name in found.ip_addresses),
        uris=_unique(_normal_uri(name) for name in found.uris),
        email_addresses=_unique(_normal_email_address(name) for name in found.email_addresses),
    )


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _normal_uri(text: str) -> str:
    try:
        return alternative_names.parse_uri(text)
    except alternative_names.InvalidNameError:
        return text


def _normal_email_address(text: str) -> str:
    try:
        return alternative_names.parse_email_address(text)
    except alternative_names.InvalidNameError:
        return text


def _all_names(element: Element) -> set[str]:
    """Returns every name, in one set; the CN counts only where there are no others, as consumers have it (RFC 9525)."""
    names = _names(element)
    found = {*names.dns_names, *names.ip_addresses, *names.uris, *names.email_addresses}
    return found or {name.casefold() for name in _common_names(element)}


def _missing_usages(before: Description, after: Description) -> tuple[list[KeyUsage], list[str]]:
    """Returns key usages and extended key usages that the later one lacks; who has no extension lacks none."""
    usages: list[KeyUsage] = []
    if _has(after, KEY_USAGE):
        usages = [usage for usage in before.key_usages if usage not in after.key_usages]
    extended: list[str] = []
    if _has(after, EXTENDED_KEY_USAGE) and ANY_EXTENDED_KEY_USAGE not in after.extended_key_usages:
        extended = [usage for usage in before.extended_key_usages if usage not in after.extended_key_usages]
    return usages, extended


def _has(description: Description, oid: str) -> bool:
    return any(extension.oid == oid for extension in description.extensions)


def _restricted(before: Description, after: Description) -> Iterator[Warning]:
    """Tells of extensions that come or go whole: nothing that was listed is missing, yet readers may see a change."""
    for oid, what in ((KEY_USAGE, "key usage"), (EXTENDED_KEY_USAGE, "extended key usage")):
        if _has(after, oid) and not _has(before, oid):
            yield Warning(
                _CERTIFICATE,
                f"has the extension {what}, which restricts it to what stands there; the current"
                " version has none and is not restricted",
            )
        if _has(before, oid) and not _has(after, oid):
            yield Warning(
                _CERTIFICATE, f"has no extension {what}, where the current version has one; some consumers ask for it"
            )


def _kind(description: Description) -> str:
    return description.key_spec or "another"


def _lacks(what: str) -> Violation:
    return Violation(_CERTIFICATE, f"lacks {what}")


def _dropped(what: str) -> Warning:
    return Warning(_CERTIFICATE, f"lacks, other than the current version, {what}")
