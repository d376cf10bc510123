"""The certificate that an outside parent made for an authority of ours, with its chain: whether both will do.

A certificate is refused when chains through it would break, or when it is for something else than the authority. What
is narrower or wider than what was asked for is told in a warning, and the narrower bound holds.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from certd.errors import CertdError, Reason, Violation
from certd.pki import name_constraints
from certd.pki import names as alternative_names
from certd.pki.certificate_chain import (
    WELL_KNOWN,
    Element,
    check_algorithms,
    check_authority,
    check_critical_extensions,
    check_validity,
    in_order,
    is_root,
    parse,
    parse_bundle,
    time_text,
)
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.description import describe
from certd.pki.extensions import extension_text
from certd.pki.name_constraints import NameConstraints
from certd.pki.names import SubjectAlternativeNames

LONGEST_CERTIFICATE = 32 << 10
"""Bytes, of PEM or DER."""

_CERTIFICATE, _CHAIN = "certificate", "chain"
_ALLOWED_CRITICAL = WELL_KNOWN - {"2.5.29.36"}
"""What an authority's certificate may have critical: not where to fetch things, and not policyConstraints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaiting:
    """An authority that awaits its certificate."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo of the key in the token."""
    subject: bytes
    """DER of the name that was asked for."""
    path_length: int
    """That was asked for; the policy of its key allows no higher one."""
    name_constraints: NameConstraints | None
    """That were asked for."""
    longest_lifetime: timedelta
    """Of what the policy of its key lets it sign."""
    highest_path_length: int
    """Of a root; how deep a hierarchy may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A certificate and its chain that will do."""

    certificate: bytes
    chain: tuple[bytes, ...]
    """DER, from the issuer up to the root."""
    not_after: datetime
    """When the first of them ends."""
    path_length: int
    """The lowest of all bounds."""
    warnings: tuple[Warning, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the certificates of an authority and of those above it mean for what it signs."""

    subject_key_identifier: bytes | None = None
    """As its certificate has it; None when it has none."""
    name_constraints: tuple[NameConstraints, ...] = ()
    """Its own and those of every authority above it."""


def accept(certificate: bytes, chain: bytes, *, awaiting: Awaiting, now: datetime) -> Accepted:
    """Checks what an outside parent made, both as PEM or DER.

    FIELD_INVALID and IMPORT_NOT_PEM when it is no certificate; IMPORT_KEY_MISMATCH when it is not for this key or this
    name; IMPORT_NOT_COMPATIBLE, IMPORT_CHAIN_INVALID, IMPORT_EXPIRED, NAME_CONSTRAINT_VIOLATED when chains through it
    would break. The message names the certificate, the check and the remedy.
    """
    own = _own(certificate, awaiting)
    check_own_extensions(own)
    check_algorithms(own, trust_anchor=False)
    bundle = _bundle(chain, awaiting)
    for element in bundle:
        check_critical_extensions(element)
        check_algorithms(element, trust_anchor=is_root(element))
    above = in_order(own, bundle)
    for element in (own, *above):
        check_validity(element, now)
    path_length, warnings = _path_length(own, above, awaiting)
    not_after, more = _end(own, above, awaiting)
    _check_name_constraints(own, above)
    return Accepted(
        certificate=own.der,
        chain=tuple(element.der for element in above),
        not_after=not_after,
        path_length=path_length,
        warnings=(*_order_warnings(bundle, above), *warnings, *more, *_extension_warnings(own, awaiting)),
    )


@functools.lru_cache(maxsize=1024)
def standing_of(certificate: bytes, chain: tuple[bytes, ...]) -> Standing:
    """Returns what follows from the certificate (DER) of an authority and from those above it; kept, for none changes.

    Raises FIELD_INVALID for name constraints that certd cannot enforce, which it installs in no authority.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    identifier: bytes | None
    try:
        identifier = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        identifier = None
    found = map(name_constraints.of_certificate, (certificate, *chain))
    return Standing(subject_key_identifier=identifier, name_constraints=tuple(one for one in found if one is not None))


def _own(certificate: bytes, awaiting: Awaiting) -> Element:
    found = parse_bundle(certificate, field=_CERTIFICATE, longest=LONGEST_CERTIFICATE)
    if len(found) != 1:
        problem = f"has {len(found)} certificates"
        raise CertdError(
            Reason.IMPORT_NOT_PEM,
            f"{_CERTIFICATE} {problem}; send the authority's alone, and those above it as the chain",
            violations=(Violation(_CERTIFICATE, problem),),
        )
    own = parse(found[0], field=_CERTIFICATE)
    if own.public_key != awaiting.public_key:
        raise own.refuse(
            Reason.IMPORT_KEY_MISMATCH,
            "is for another key than the authority's in the token",
            "have the CSR of this authority certified (GetAuthorityCsr)",
        )
    if own.subject != awaiting.subject:
        raise own.refuse(
            Reason.IMPORT_KEY_MISMATCH,
            "has another subject than the CSR, or the same in another encoding",
            "it must be copied byte for byte; tell the parent to keep the subject of the CSR as it is",
        )
    try:
        describe(own.der)
    except CertdError as error:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has an issuer or an extension that cannot be shown",
            f"have it issued again by a parent with plain names ({error.message})",
        ) from error
    if own.self_issued:
        raise own.refuse(
            Reason.IMPORT_CHAIN_INVALID,
            "is self-signed, or its issuer has the name of this authority",
            "have it certified by a parent with a name of its own, or create a ROOT instead",
        )
    return own


def check_own_extensions(own: Element) -> None:
    """IMPORT_NOT_COMPATIBLE and IMPORT_CHAIN_INVALID for what no authority of ours can sign under."""
    extension = own.find(x509.BasicConstraints)
    if extension is None or not extension.value.ca or not extension.critical:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has no critical basic constraints with CA:TRUE (RFC 5280, section 4.2.1.9)",
            "have it issued as a certificate of an authority",
        )
    usage = own.find(x509.KeyUsage)
    if usage is None:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has no key usage (RFC 5280, section 4.2.1.3)",
            "have it issued with keyCertSign and cRLSign",
        )
    check_authority(own)
    identifier = own.find(x509.SubjectKeyIdentifier)
    if identifier is None or not identifier.value.digest:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "has no subject key identifier (RFC 5280, section 4.2.1.2)",
            "have it issued with one, so that what the authority signs can point at it",
        )
    for other in own.extensions:
        if other.critical and other.oid.dotted_string not in _ALLOWED_CRITICAL:
            raise own.refuse(
                Reason.IMPORT_NOT_COMPATIBLE,
                f"has the critical extension {extension_text(other.oid.dotted_string)}",
                "have it issued without that, or with it non-critical",
            )


def _bundle(chain: bytes, awaiting: Awaiting) -> list[Element]:
    found = parse_bundle(chain, field=_CHAIN)
    if len(found) > awaiting.highest_path_length:
        problem = f"has {len(found)} certificates, where a hierarchy of {awaiting.highest_path_length + 1} has fewer"
        raise CertdError(
            Reason.IMPORT_CHAIN_INVALID,
            f"{_CHAIN} {problem}; send those between the authority and its root, of at most"
            f" {awaiting.highest_path_length}, or choose a parent that is nearer to its root",
            violations=(Violation(_CHAIN, problem),),
        )
    return [parse(certificate, field=f"{_CHAIN}[{index}]") for index, certificate in enumerate(found)]


def _order_warnings(bundle: Sequence[Element], above: Sequence[Element]) -> tuple[Warning, ...]:
    if [element.der for element in bundle] == [element.der for element in above]:
        return ()
    return (Warning(_CHAIN, "was not in order from the issuer up to the root, and was sorted"),)


def _path_length(own: Element, above: Sequence[Element], awaiting: Awaiting) -> tuple[int, tuple[Warning, ...]]:
    """Returns how many authorities may stand below this one (RFC 5280, section 6.1.4): the lowest of all bounds."""
    asked, written = awaiting.path_length, own.path_length
    warnings = []
    lowest = asked
    if written is None or written > asked:
        said = "has no path length" if written is None else f"has the path length {written}"
        warnings.append(
            Warning(
                _CERTIFICATE, f"{said}; the authority was created for {asked}, and its key signs no deeper hierarchy"
            )
        )
    elif written < asked:
        lowest = written
        warnings.append(
            Warning(_CERTIFICATE, f"has the path length {written} where {asked} was asked for; {written} holds")
        )
    below = 1
    for element in above:
        if element.path_length is not None:
            room = element.path_length - below
            if room < 0:
                raise element.refuse(
                    Reason.IMPORT_CHAIN_INVALID,
                    f"has the path length {element.path_length}, and {below} authorities stand below it",
                    "choose a parent under which an authority may stand",
                )
            if room < lowest:
                lowest = room
                warnings.append(
                    Warning(element.field, f"its path length {element.path_length} leaves this authority one of {room}")
                )
        # A certificate that an authority issues to itself, for a new key, is no further level.
        below += not element.self_issued
    deepest = awaiting.highest_path_length - len(above)
    if deepest < lowest:
        lowest = deepest
        levels = awaiting.highest_path_length + 1
        warnings.append(
            Warning(_CHAIN, f"leaves this authority the path length {deepest} of the {levels} levels that may be")
        )
    return lowest, tuple(warnings)


def _end(own: Element, above: Sequence[Element], awaiting: Awaiting) -> tuple[datetime, tuple[Warning, ...]]:
    """Returns when the chain ends, which is the end of whatever the authority signs."""
    warnings = []
    not_after = own.parsed.not_valid_after_utc
    lifetime = not_after - own.parsed.not_valid_before_utc
    for element in above:
        end = element.parsed.not_valid_after_utc
        if end < not_after:
            not_after = end
            warnings.append(
                Warning(
                    element.field,
                    f"ends at {time_text(end)}, before the certificate of the authority does; nothing that it issues"
                    " outlives that",
                )
            )
    if lifetime > awaiting.longest_lifetime:
        warnings.append(
            Warning(
                _CERTIFICATE,
                f"lives for {lifetime.days} days; the key of the authority was created for less, and signs nothing that"
                f" lives longer than {awaiting.longest_lifetime.days} days",
            )
        )
    return not_after, tuple(warnings)


def _extension_warnings(own: Element, awaiting: Awaiting) -> Iterable[Warning]:
    usage, extended = own.find(x509.KeyUsage), own.find(x509.ExtendedKeyUsage)
    if usage is not None and not usage.value.crl_sign:
        yield Warning(
            _CERTIFICATE, "has no cRLSign in its key usage, so that readers refuse revocation lists signed by it"
        )
    if extended is not None:
        usages = ", ".join(each.dotted_string for each in extended.value)
        yield Warning(
            _CERTIFICATE, f"has the extended key usages {usages}; many readers accept no others in what it issues"
        )
    if own.name_constraints != awaiting.name_constraints:
        held = "none" if own.name_constraints is None else "others"
        asked = "none were" if awaiting.name_constraints is None else "some were"
        yield Warning(_CERTIFICATE, f"has name constraints: {held} where {asked} asked for; what it has holds")


def _check_name_constraints(own: Element, above: Sequence[Element]) -> None:
    """Holds the names of each certificate against the constraints of those above it (RFC 5280, section 6.1.4)."""
    constraints = [element.name_constraints for element in above]
    _ = own.name_constraints
    for index, element in enumerate((own, *above)):
        held = [one for one in constraints[index:] if one is not None]
        # What an authority issued to itself is not held against constraints, unless it stands at the end of the path.
        if not held or (element.self_issued and element is not own):
            continue
        broken = name_constraints.check(held, subject=element.subject, names=_normal_names(element))
        if broken:
            what = broken[0]
            raise element.refuse(
                Reason.NAME_CONSTRAINT_VIOLATED,
                f"has a {what.field} that an authority above it may not certify: {what.description}",
                "choose another subject, or a parent whose name constraints allow it",
            )


def _normal_names(element: Element) -> SubjectAlternativeNames:
    try:
        return alternative_names.normalise(element.names, field="subject_alternative_names")
    except CertdError as error:
        raise element.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            f"has an alternative name that cannot be held against name constraints: {error.message}",
            "have it issued without that name",
        ) from error
