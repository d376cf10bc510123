"""Alternative names of a certificate's subject (RFC 5280, section 4.2.1.6): what is a name, and its normal form.

Internal names are names: a single label such as `localhost` is allowed, for certd's trust is private. SPIFFE ids follow
the SPIFFE ID specification strictly.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.pki.internationalised_names import a_label_problem, is_a_label

HIGHEST_COUNT = 100
"""Of names in one certificate."""
LONGEST_DNS_NAME = 253
"""Octets in text form (RFC 1035, section 2.3.4)."""
LONGEST_LABEL = 63
LONGEST_URI = 2048
"""Octets; the SPIFFE ID specification's bound, taken for every URI."""
LONGEST_EMAIL_ADDRESS = 254
"""Octets (RFC 5321, section 4.5.3.1.3, less the angle brackets)."""
LONGEST_LOCAL_PART = 64
LONGEST_TRUST_DOMAIN = 255

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# RFC 5322, section 3.2.3: dot-atom. Quoted local parts are left out; nobody who can choose has one.
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# RFC 3986, section 2: unreserved, reserved and percent-encoded characters.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):((?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)")
_PERCENT_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
# RFC 9110, sections 4.2.1 and 4.2.2; RFC 6455, section 3; RFC 1738, section 3.2.
_SCHEMES_WITH_HOST = frozenset({"http", "https", "ws", "wss", "ftp"})
_AUTHORITY = re.compile(r"//([^/?#]*)")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")
# Of a URI whose authority is known to be well-formed: user and port are left out.
_HOST_OF_URI = re.compile(r"[a-z0-9+.-]+://(?:[^/?#@]*@)?(\[[^\]]+\]|[^/?#:@]+)")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_SPIFFE = "spiffe://"
_HIGHEST_PORT = 65535
_EXCERPT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectAlternativeNames:
    """Names by kind, each in its normal form and in the order asked for."""

    dns_names: tuple[str, ...] = ()
    """A-labels in lower case; a wildcard only as the whole leftmost label."""
    ip_addresses: tuple[str, ...] = ()
    """IPv4 or IPv6 in the text form of Python's `ipaddress`."""
    uris: tuple[str, ...] = ()
    """Absolute; scheme and host in lower case, percent-encoding in upper case."""
    email_addresses: tuple[str, ...] = ()
    """Mailboxes of RFC 5321 in ASCII; the domain in lower case."""

    def __len__(self) -> int:
        return len(self.dns_names) + len(self.ip_addresses) + len(self.uris) + len(self.email_addresses)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE id: `spiffe://{trust domain}{path}`."""

    trust_domain: str
    path: str
    """Empty, or segments each behind a slash."""

    def __str__(self) -> str:
        return f"{_SPIFFE}{self.trust_domain}{self.path}"


class InvalidNameError(ValueError):
    """A name that is none; the message says why."""


def check_count(names: SubjectAlternativeNames, *, field: str, highest: int = HIGHEST_COUNT) -> None:
    """Raises NAME_NOT_ALLOWED when there are more than `highest` names."""
    if len(names) > highest:
        rule = f"has {len(names)} names; a certificate has at most {highest}, divide them"
        raise CertdError(Reason.NAME_NOT_ALLOWED, f"{field} {rule}", violations=(Violation(field, rule),))


def normalise(names: SubjectAlternativeNames, *, field: str) -> SubjectAlternativeNames:
    """Returns every name in its normal form, each once, in the order given.

    NAME_NOT_ALLOWED with a violation for every name that is none (`{field}.dns_names[0]`), or past 100 names.
    """
    check_count(names, field=field)
    violations: list[Violation] = []

    def every(kind: str, values: tuple[str, ...], rule: Callable[[str], str]) -> tuple[str, ...]:
        normal: dict[str, None] = {}
        for index, value in enumerate(values):
            try:
                normal[rule(value)] = None
            except InvalidNameError as error:
                violations.append(Violation(f"{field}.{kind}[{index}]", f"{excerpt(value)} {error}"))
        return tuple(normal)

    normal = SubjectAlternativeNames(
        dns_names=every("dns_names", names.dns_names, parse_dns_name),
        ip_addresses=every("ip_addresses", names.ip_addresses, parse_ip_address),
        uris=every("uris", names.uris, parse_uri),
        email_addresses=every("email_addresses", names.email_addresses, parse_email_address),
    )
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        message = f"{violations[0].field}: {violations[0].description}{more}"
        raise CertdError(Reason.NAME_NOT_ALLOWED, message, violations=tuple(violations))
    return normal


def excerpt(value: str) -> str:
    """Returns a stranger's text, quoted, shortened and in printable ASCII, fit for a message."""
    shown = ascii(value[:_EXCERPT])
    return shown if len(value) <= _EXCERPT else f"{shown}…"


def normalise_dns_name(text: str) -> str | None:
    """Returns a DNS name in its normal form; None when it is none."""
    try:
        return parse_dns_name(text)
    except InvalidNameError:
        return None


def normalise_ip_address(text: str) -> str | None:
    """Returns an IP address in its normal form; None when it is none."""
    try:
        return parse_ip_address(text)
    except InvalidNameError:
        return None


def is_wildcard(dns_name: str) -> bool:
    """Returns whether a DNS name in its normal form stands for every name below another."""
    return dns_name.startswith("*.")


def host_of_uri(uri: str) -> str | None:
    """Returns the host of a URI in its normal form, an IPv6 address in its brackets; None when it has none."""
    match = _HOST_OF_URI.match(uri)
    return None if match is None else match[1]


def is_spiffe_id(uri: str) -> bool:
    """Returns whether a URI in its normal form is a SPIFFE id."""
    return uri.startswith(_SPIFFE)


def parse_spiffe_id(text: str) -> SpiffeId:
    """Parses a SPIFFE id, strictly.

    No upper case in the trust domain, no port, user, query, fragment, percent-encoding, empty or dot segment, trailing
    slash; at most 2,048 octets, the trust domain 255. FIELD_INVALID otherwise.
    """
    try:
        return _spiffe_id(text)
    except InvalidNameError as error:
        raise field_invalid("spiffe_id", f"{excerpt(text)} {error}") from error


def _spiffe_id(text: str) -> SpiffeId:
    if not text.startswith(_SPIFFE):
        raise InvalidNameError(f"must begin with {_SPIFFE}")
    if len(text) > LONGEST_URI:
        raise InvalidNameError(f"is longer than {LONGEST_URI} octets")
    trust_domain, slash, path = text.removeprefix(_SPIFFE).partition("/")
    if not _TRUST_DOMAIN.fullmatch(trust_domain) or len(trust_domain) > LONGEST_TRUST_DOMAIN:
        raise InvalidNameError("needs a trust domain of lower-case letters, digits, dots, hyphens and underscores")
    for segment in path.split("/") if slash else ():
        if not _PATH_SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            raise InvalidNameError(
                "has a path segment that is empty, of dots, or not of letters, digits, '.', '-', '_'"
            )
    return SpiffeId(trust_domain, slash + path)


@lru_cache(maxsize=4096)
def parse_dns_name(text: str) -> str:
    """Returns the normal form of a DNS name in preferred syntax (RFC 1034, section 3.5; RFC 5890 for its A-labels).

    InvalidNameError when it is none. Cached as the other kinds are, because issuing looks at the same names three
    times: at the edge, at admission and in the lint.
    """
    if not text.isascii():
        raise InvalidNameError("has characters outside ASCII; write it in A-labels (xn--…)")
    name = text.lower()
    if not 0 < len(name) <= LONGEST_DNS_NAME:
        raise InvalidNameError(f"must have 1 to {LONGEST_DNS_NAME} octets")
    labels = name.split(".")
    if labels[0] == "*":
        del labels[0]
        if len(labels) < 2:
            raise InvalidNameError("is a wildcard with fewer than two labels after it")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise InvalidNameError(_label_problem(label))
        if is_a_label(label) and (problem := a_label_problem(label)) is not None:
            raise InvalidNameError(problem)
    if labels[-1].isdigit():
        raise InvalidNameError("ends in a label of digits; an IP address belongs among the IP addresses")
    return name


def _label_problem(label: str) -> str:
    if not label:
        return "has an empty label; write it without leading, trailing and double dots"
    if len(label) > LONGEST_LABEL:
        return f"has a label of more than {LONGEST_LABEL} octets"
    if "*" in label:
        return "has a wildcard that is not its whole leftmost label"
    return "has a label with other characters than letters, digits and inner hyphens"


@lru_cache(maxsize=4096)
def parse_ip_address(text: str) -> str:
    """Returns the normal form of an IP address; InvalidNameError when it is none."""
    try:
        address = ip_address(text)
    except ValueError as error:
        raise InvalidNameError("is neither an IPv4 nor an IPv6 address") from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise InvalidNameError("has a zone, which means nothing on another machine")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # Go takes both forms for one address, but holds this one against no constraint of IPv4.
        raise InvalidNameError(f"is IPv4 written as IPv6; write it as {address.ipv4_mapped}")
    return str(address)


@lru_cache(maxsize=4096)
def parse_uri(text: str) -> str:
    """Returns the normal form of an absolute URI (RFC 3986, section 6.2.2.1); InvalidNameError when it is none."""
    match = _URI.fullmatch(text)
    if match is None:
        raise InvalidNameError("is not an absolute URI of RFC 3986 in ASCII")
    if len(text) > LONGEST_URI:
        raise InvalidNameError(f"is longer than {LONGEST_URI} octets")
    scheme, rest = match[1].lower(), _PERCENT_ENCODED.sub(lambda octet: octet[0].upper(), match[2])
    if scheme == "spiffe":
        return str(_spiffe_id(f"{scheme}:{rest}"))
    authority = _AUTHORITY.match(rest)
    if authority is None:
        if scheme in _SCHEMES_WITH_HOST:
            raise InvalidNameError(f"has no host, as every {scheme} URI does; write {scheme}://host/path")
        _check_parts(rest)
        return f"{scheme}:{rest}"
    user, at, host_and_port = authority[1].rpartition("@")
    after = rest[authority.end() :]
    if "@" in user or "[" in user or "]" in user:
        raise InvalidNameError("has @ or brackets before its host that are not percent-encoded")
    _check_parts(after)
    return f"{scheme}://{user}{at}{_host_and_port(host_and_port)}{after}"


def _check_parts(text: str) -> None:
    """RFC 3986, section 3: brackets stand around addresses alone, and one # begins the fragment."""
    if "[" in text or "]" in text or text.count("#") > 1:
        raise InvalidNameError("has brackets outside its host, or a second #, that are not percent-encoded")


def _host_and_port(text: str) -> str:
    """RFC 5280, section 4.2.1.6: the host of a URI is a fully qualified name or an IP address."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise InvalidNameError("has no host after //")
    host, port = match[1].lower(), match[2] or ""
    if port and int(port[1:]) > _HIGHEST_PORT:
        raise InvalidNameError(f"has a port past {_HIGHEST_PORT}")
    if host.startswith("["):
        if ":" not in host:
            raise InvalidNameError("has brackets around what is no IPv6 address")
        return f"[{parse_ip_address(host[1:-1])}]{port}"
    host = normalise_ip_address(host) or parse_dns_name(host)
    if is_wildcard(host):
        raise InvalidNameError("has a wildcard for a host")
    return host + port


@lru_cache(maxsize=4096)
def parse_email_address(text: str) -> str:
    """Returns the normal form of a mailbox (RFC 5321, section 4.1.2), without quotes and in ASCII.

    InvalidNameError when it is none.
    """
    local_part, at, domain = text.rpartition("@")
    if not at or not text.isascii() or not _LOCAL_PART.fullmatch(local_part):
        raise InvalidNameError("is not a mailbox of RFC 5321 in ASCII")
    if len(local_part) > LONGEST_LOCAL_PART or len(text) > LONGEST_EMAIL_ADDRESS:
        raise InvalidNameError(
            f"is longer than {LONGEST_EMAIL_ADDRESS} octets, or {LONGEST_LOCAL_PART} of them before the @"
        )
    domain = parse_dns_name(domain)
    if is_wildcard(domain):
        raise InvalidNameError("has a wildcard for a domain")
    return f"{local_part}@{domain}"
