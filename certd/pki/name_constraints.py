"""Name constraints (RFC 5280, sections 4.2.1.10, 6.1.3 and 7): which names may stand below an authority.

Every constraint of every authority above a certificate applies to it, as section 6.1.4 (g) has it. Where the RFC is
silent and verifiers differ, the stricter reading holds, for a certificate that one of them refuses helps nobody:

* A wildcard is permitted when every name that it stands for is, and excluded when one of them is.
* Directory names are permitted as OpenSSL compares them, which knows the case of ASCII letters alone, and excluded as
  section 7.1 has it.
* The attribute emailAddress of a subject counts even beside alternative names of that kind.
* A CN that looks like a host counts as a DNS name where no alternative name is one.
* A URI without a host, or with an address for one, fails every constraint of its kind, excluded ones too.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.pki import der, distinguished_name, names
from certd.pki.distinguished_name import ComparableName
from certd.pki.names import InvalidNameError, SubjectAlternativeNames

OBJECT_IDENTIFIER = "2.5.29.30"
HIGHEST_COUNT = 1000
"""Of subtrees in one extension."""

# RFC 5280, section 4.2.1.6: the tags of a GeneralName, implicit, but explicit around the choice that a Name is.
_EMAIL_ADDRESS = 0x81
_DNS_NAME = 0x82
_DIRECTORY_NAME = 0xA4
_URI = 0x86
_IP_ADDRESS = 0x87

_KINDS = {
    "dns_names": "DNS names",
    "ip_ranges": "IP addresses",
    "uri_hosts": "hosts of URIs",
    "email_addresses": "e-mail addresses",
    "directory_names": "directory names",
}
# What OpenSSL takes for a DNS name in a CN, addresses of IPv4 among them, and wildcards, which it leaves out.
_HOST_LIKE = re.compile(
    r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtrees:
    """Parts of the spaces of names, by kind."""

    dns_names: tuple[str, ...] = ()
    """Domains: each stands for itself and everything below it, the empty string for every DNS name."""
    ip_ranges: tuple[str, ...] = ()
    """In CIDR notation."""
    uri_hosts: tuple[str, ...] = ()
    """Hosts; with a leading dot everything below the domain, and not the domain itself."""
    email_addresses: tuple[str, ...] = ()
    """Mailboxes; hosts; with a leading dot every host below the domain."""
    directory_names: tuple[bytes, ...] = ()
    """DER of names: each stands for itself and what begins with its relative distinguished names."""

    def __len__(self) -> int:
        return sum(len(getattr(self, kind)) for kind in _KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameConstraints:
    """A name of a kind that has permitted subtrees lies in one of them; no name lies in an excluded one."""

    permitted: Subtrees = field(default_factory=Subtrees)
    excluded: Subtrees = field(default_factory=Subtrees)


# What is a constraint, and its normal form.


def normalise(constraints: NameConstraints, *, field: str) -> NameConstraints:
    """Returns every subtree in its normal form, each once, in the order given.

    FIELD_INVALID with a violation for every subtree that is none (`{field}.permitted.dns_names[0]`), for none, or
    past 1,000 of them.
    """
    count = len(constraints.permitted) + len(constraints.excluded)
    if not 0 < count <= HIGHEST_COUNT:
        raise field_invalid(field, f"must have 1 to {HIGHEST_COUNT} subtrees, and has {count}")
    violations: list[Violation] = []
    normal = NameConstraints(
        permitted=_normalise_subtrees(constraints.permitted, f"{field}.permitted", violations),
        excluded=_normalise_subtrees(constraints.excluded, f"{field}.excluded", violations),
    )
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        message = f"{violations[0].field}: {violations[0].description}{more}"
        raise CertdError(Reason.FIELD_INVALID, message, violations=tuple(violations))
    return normal


def _normalise_subtrees(subtrees: Subtrees, path: str, violations: list[Violation]) -> Subtrees:
    def every(kind: str, values: tuple[str, ...], rule: Callable[[str], str]) -> tuple[str, ...]:
        normal: dict[str, None] = {}
        for index, value in enumerate(values):
            try:
                normal[rule(value)] = None
            except InvalidNameError as error:
                violations.append(Violation(f"{path}.{kind}[{index}]", f"{names.excerpt(value)} {error}"))
        return tuple(normal)

    for index, name in enumerate(subtrees.directory_names):
        where = f"{path}.directory_names[{index}]"
        try:
            violations += distinguished_name.violations(name, where)
        except CertdError as error:
            violations += error.violations
    return Subtrees(
        dns_names=every("dns_names", subtrees.dns_names, _domain),
        ip_ranges=every("ip_ranges", subtrees.ip_ranges, _ip_range),
        uri_hosts=every("uri_hosts", subtrees.uri_hosts, _host),
        email_addresses=every("email_addresses", subtrees.email_addresses, _mailbox_or_host),
        directory_names=tuple(dict.fromkeys(subtrees.directory_names)),
    )


def _domain(text: str) -> str:
    if text.startswith("."):
        raise InvalidNameError("begins with a dot; a domain stands for itself and everything below it without one")
    return text and _exact_host(text)


def _exact_host(text: str) -> str:
    host = names.parse_dns_name(text)
    if names.is_wildcard(host):
        raise InvalidNameError("has a wildcard; a subtree needs none")
    return host


def _host(text: str) -> str:
    return f".{_exact_host(text[1:])}" if text.startswith(".") else _exact_host(text)


def _mailbox_or_host(text: str) -> str:
    return names.parse_email_address(text) if "@" in text else _host(text)


def _ip_range(text: str) -> str:
    # The library would take a second address for a mask, or for its inverse, whichever it looks like.
    address, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):
        raise InvalidNameError("is not a range of addresses such as 192.0.2.0/24 or 2001:db8::/32")
    try:
        return str(ip_network(f"{names.parse_ip_address(address)}{slash}{length}"))
    except ValueError as error:
        raise InvalidNameError(
            "is not a range of addresses such as 192.0.2.0/24 or 2001:db8::/32, without bits past its length"
        ) from error


# The extension.


def encode(constraints: NameConstraints) -> bytes:
    """Returns the value of the extension (RFC 5280, section 4.2.1.10) for constraints in their normal form."""
    parts = [(0, constraints.permitted), (1, constraints.excluded)]
    return der.sequence(
        *(der.encode(der.context(number), _encode_subtrees(subtrees)) for number, subtrees in parts if subtrees)
    )


def _encode_subtrees(subtrees: Subtrees) -> bytes:
    bases = [
        *(der.encode(_DNS_NAME, name.encode("ascii")) for name in subtrees.dns_names),
        *(der.encode(_IP_ADDRESS, _address_and_mask(ip_network(text))) for text in subtrees.ip_ranges),
        *(der.encode(_URI, host.encode("ascii")) for host in subtrees.uri_hosts),
        *(der.encode(_EMAIL_ADDRESS, address.encode("ascii")) for address in subtrees.email_addresses),
        *(der.encode(_DIRECTORY_NAME, name) for name in subtrees.directory_names),
    ]
    return b"".join(map(der.sequence, bases))


def _address_and_mask(network: IPv4Network | IPv6Network) -> bytes:
    return network.network_address.packed + network.netmask.packed


_UNKNOWN = "is not an extension of name constraints that certd can apply: it"


def decode(value: bytes) -> NameConstraints:
    """Parses the value of the extension; whatever certd could not apply is refused, as a verifier has to do.

    FIELD_INVALID with the field `name_constraints` for other kinds of names than those of Subtrees, for minimum or
    maximum, for a base that is no name or range of its kind. A DNS name with a leading dot, which RFC 5280 does not
    know and many authorities have, is kept: it stands for what is below it.
    """
    try:
        return _decode(value)
    except (der.MalformedError, UnicodeDecodeError, InvalidNameError, CertdError) as error:
        problem = f"{_UNKNOWN} {error.message if isinstance(error, CertdError) else error}"
        raise field_invalid("name_constraints", problem) from error


def _decode(value: bytes) -> NameConstraints:
    outer = der.Reader(value)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    permitted, excluded = (_decode_subtrees(reader, der.context(number)) for number in (0, 1))
    reader.finish()
    if not permitted and not excluded:
        raise der.MalformedError("has no subtrees")
    return NameConstraints(permitted=permitted, excluded=excluded)


def _decode_subtrees(reader: der.Reader, tag: int) -> Subtrees:
    found: dict[int, list[bytes]] = {
        kind: [] for kind in (_DNS_NAME, _IP_ADDRESS, _URI, _EMAIL_ADDRESS, _DIRECTORY_NAME)
    }
    if reader.peek() == tag:
        subtrees = reader.enter(tag)
        while subtrees.more:
            subtree = subtrees.enter(der.SEQUENCE)
            kind, base = subtree.read_any()
            if subtree.more:
                raise der.MalformedError("has a subtree with a minimum or a maximum")
            if kind not in found:
                raise der.MalformedError("has a kind of names other than DNS, IP, URI, e-mail and directory names")
            found[kind].append(base)
    return Subtrees(
        dns_names=tuple(_foreign(base, _foreign_domain) for base in found[_DNS_NAME]),
        ip_ranges=tuple(map(_network_text, found[_IP_ADDRESS])),
        uri_hosts=tuple(_foreign(base, _host) for base in found[_URI]),
        email_addresses=tuple(_foreign(base, _mailbox_or_host) for base in found[_EMAIL_ADDRESS]),
        directory_names=tuple(map(_directory_name, found[_DIRECTORY_NAME])),
    )


def _foreign(base: bytes, rule: Callable[[str], str]) -> str:
    text = base.decode("ascii")
    try:
        return rule(text)
    except InvalidNameError as error:
        raise InvalidNameError(f"has {names.excerpt(text)}, which {error}") from error


def _foreign_domain(text: str) -> str:
    return text and _host(text)


def _network_text(base: bytes) -> str:
    half = len(base) // 2
    if len(base) not in {8, 32}:
        raise der.MalformedError("has a range of addresses that is neither of IPv4 nor of IPv6")
    mask = int.from_bytes(base[half:])
    length = mask.bit_count()
    bits = 8 * half
    if mask != (1 << bits) - (1 << (bits - length)) or int.from_bytes(base[:half]) & ~mask:
        raise der.MalformedError("has a range of addresses whose mask has gaps, or bits past its length")
    return f"{ip_address(base[:half])}/{length}"


def _directory_name(name: bytes) -> bytes:
    distinguished_name.decode(name, field="directory_name")
    return name


def of_certificate(certificate: bytes) -> NameConstraints | None:
    """Returns the constraints of a certificate, DER, that decodes otherwise; None when it has none.

    FIELD_INVALID as `decode`.
    """
    try:
        value = _extension_value(certificate)
    except der.MalformedError as error:
        raise field_invalid("certificate", f"is not the DER of a certificate: it {error}") from error
    return None if value is None else decode(value)


def _extension_value(certificate: bytes) -> bytes | None:
    tbs = der.Reader(certificate).enter(der.SEQUENCE).enter(der.SEQUENCE)
    extensions: der.Reader | None = None
    while tbs.more:
        if tbs.peek() == der.context(3):
            extensions = tbs.enter(der.context(3)).enter(der.SEQUENCE)
        else:
            tbs.read_any()
    identifier = der.object_identifier(OBJECT_IDENTIFIER)
    while extensions is not None and extensions.more:
        extension = extensions.enter(der.SEQUENCE)
        if extension.read_whole(der.OBJECT_IDENTIFIER) == identifier:
            if extension.peek() == der.BOOLEAN:
                extension.read(der.BOOLEAN)
            return extension.read(der.OCTET_STRING)
    return None


# The judgement.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Space:
    """Subtrees, arranged so that a name is found without a look at each of them.

    Excluded ones are found more widely than permitted ones where verifiers may differ.
    """

    comparable: Callable[[bytes], ComparableName]
    kinds: frozenset[str]
    """Fields of Subtrees that are not empty."""
    domains: frozenset[str]
    domains_below: frozenset[str]
    """Without their leading dot."""
    parents: Mapping[str, str]
    """Each of the excluded domains by what is left without its first label: wildcards stand for it too."""
    networks: tuple[IPv4Network | IPv6Network, ...]
    uri_hosts: frozenset[str]
    uri_hosts_below: frozenset[str]
    email_addresses: frozenset[str]
    """Mailboxes and hosts."""
    email_hosts_below: frozenset[str]
    directory_names: Mapping[ComparableName, bytes]


@lru_cache(maxsize=512)
def _space(subtrees: Subtrees, *, excluded: bool) -> _Space:
    domains, domains_below = _divided(subtrees.dns_names)
    uri_hosts, uri_hosts_below = _divided(subtrees.uri_hosts)
    email_addresses, email_hosts_below = _divided(subtrees.email_addresses)
    comparable = distinguished_name.comparable if excluded else distinguished_name.narrowly_comparable
    return _Space(
        comparable=comparable,
        kinds=frozenset(kind for kind in _KINDS if getattr(subtrees, kind)),
        domains=domains,
        domains_below=domains_below,
        parents={domain.partition(".")[2]: domain for domain in domains if excluded},
        networks=tuple(map(ip_network, subtrees.ip_ranges)),
        uri_hosts=uri_hosts,
        uri_hosts_below=uri_hosts_below,
        email_addresses=email_addresses,
        email_hosts_below=email_hosts_below,
        directory_names={comparable(name): name for name in subtrees.directory_names},
    )


def _divided(bases: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the bases without a leading dot, and those with one, less that dot."""
    below = [base[1:] for base in bases if base.startswith(".")]
    return frozenset(base for base in bases if not base.startswith(".")), frozenset(below)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A name that constraints may apply to."""

    kind: str
    """Field of Subtrees."""
    shown: str
    where: str
    find: Callable[[_Space], str | None]
    """Returns the subtree that it lies in, or None; InvalidNameError when it cannot be compared."""


def check(
    constraints: Sequence[NameConstraints], *, subject: bytes, names: SubjectAlternativeNames
) -> tuple[Violation, ...]:
    """Returns every name that breaks one of the constraints, which are those of all authorities above it.

    Constraints and names are in their normal form, `subject` is the DER of a name. The fields are `subject` and
    `subject_alternative_names.dns_names[0]`. FIELD_INVALID when the subject is no name.
    """
    if not constraints:
        return ()
    found: dict[Violation, None] = {}
    for judged in (*_judged_names(names), *_judged_subject(subject, names)):
        for one in constraints:
            problem = _problem(judged, _space(one.permitted, excluded=False), _space(one.excluded, excluded=True))
            if problem is not None:
                found[Violation(judged.where, f"{judged.shown} {problem}")] = None
    return tuple(found)


def _problem(judged: _Judged, permitted: _Space, excluded: _Space) -> str | None:
    kind = judged.kind
    try:
        if kind in permitted.kinds and judged.find(permitted) is None:
            return f"lies outside the permitted {_KINDS[kind]} of the authority, or of one above it"
        if kind in excluded.kinds and (subtree := judged.find(excluded)) is not None:
            return f"lies in the excluded {subtree} of the authority, or of one above it"
    except InvalidNameError as error:
        return f"{error}, and the authority, or one above it, constrains {_KINDS[kind]}"
    return None


def _judged_names(alternative: SubjectAlternativeNames) -> Iterable[_Judged]:
    finders: tuple[tuple[str, str, tuple[str, ...], Callable[[str, _Space], str | None]], ...] = (
        ("dns_names", "dns_names", alternative.dns_names, _find_dns_name),
        ("ip_ranges", "ip_addresses", alternative.ip_addresses, _find_ip_address),
        ("uri_hosts", "uris", alternative.uris, _find_uri),
        ("email_addresses", "email_addresses", alternative.email_addresses, _find_email_address),
    )
    for kind, where, values, find in finders:
        for index, value in enumerate(values):
            yield _Judged(
                kind=kind,
                shown=names.excerpt(value),
                where=f"subject_alternative_names.{where}[{index}]",
                find=partial(find, value),
            )


def _judged_subject(subject: bytes, alternative: SubjectAlternativeNames) -> Iterable[_Judged]:
    if subject == distinguished_name.EMPTY:
        return
    yield _Judged(
        kind="directory_names",
        shown=names.excerpt(distinguished_name.to_text(subject)),
        where="subject",
        find=partial(_find_directory_name, subject),
    )
    for value in distinguished_name.values(subject, distinguished_name.EMAIL_ADDRESS):
        yield _Judged(
            kind="email_addresses",
            shown=f"emailAddress {names.excerpt(value)}",
            where="subject",
            find=partial(_find_email_attribute, value),
        )
    for value in () if alternative.dns_names else distinguished_name.common_names(subject):
        if _HOST_LIKE.fullmatch(value):
            yield _Judged(
                kind="dns_names",
                shown=f"CN {names.excerpt(value)}, which readers take for a DNS name,",
                where="subject",
                find=partial(_find_dns_name, value.lower()),
            )


def _find_dns_name(name: str, space: _Space) -> str | None:
    parent = name[2:] if names.is_wildcard(name) else None
    for suffix in _suffixes(name if parent is None else parent):
        if suffix in space.domains:
            return names.excerpt(suffix)
        if suffix in space.domains_below and suffix != name:
            return names.excerpt(f".{suffix}")
    if "" in space.domains:
        return "every DNS name"
    if parent is not None and parent in space.parents:
        return names.excerpt(space.parents[parent])
    return None


def _suffixes(name: str) -> Iterable[str]:
    """Yields a domain and every one above it, the root left out."""
    while name:
        yield name
        name = name.partition(".")[2]


def _find_ip_address(text: str, space: _Space) -> str | None:
    address = ip_address(text)
    return next((str(network) for network in space.networks if address in network), None)


def _find_uri(uri: str, space: _Space) -> str | None:
    host = names.host_of_uri(uri)
    if host is None:
        raise InvalidNameError("has no host")
    if names.normalise_ip_address(host.strip("[]")) is not None:
        raise InvalidNameError("has an IP address for a host")
    return _find_host(host, space.uri_hosts, space.uri_hosts_below)


def _find_host(host: str, exact: frozenset[str], below: frozenset[str]) -> str | None:
    if host in exact:
        return names.excerpt(host)
    return next((names.excerpt(f".{suffix}") for suffix in _suffixes(host.partition(".")[2]) if suffix in below), None)


def _find_email_address(address: str, space: _Space) -> str | None:
    if address in space.email_addresses:
        return names.excerpt(address)
    return _find_host(address.rpartition("@")[2], space.email_addresses, space.email_hosts_below)


def _find_email_attribute(value: str, space: _Space) -> str | None:
    return _find_email_address(names.parse_email_address(value), space)


def _find_directory_name(subject: bytes, space: _Space) -> str | None:
    name = space.comparable(subject)
    for length in range(len(name) + 1):
        found = space.directory_names.get(name[:length])
        if found is not None:
            return names.excerpt(distinguished_name.to_text(found))
    return None
