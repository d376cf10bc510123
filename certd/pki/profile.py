"""A profile: what it says, and the rules on names and subjects that are part of it."""

import enum
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache

from certd.pki import extensions
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeyFamily, KeySpec
from certd.pki.names import HIGHEST_COUNT

FEWEST_WILDCARD_LABELS = 2
"""What every wildcard leaves to its right, whatever the profile says: none stands for a whole top-level domain."""
EVERY_EXTENSION = "*"
"""Alone among the passed extensions: every one that may pass."""


class SubjectPresence(enum.StrEnum):
    """Whether there is a subject. The same names as the proto's `SubjectRules.Presence`."""

    OPTIONAL = "OPTIONAL"
    """It is taken when there is one."""
    REQUIRED = "REQUIRED"
    """It must not be empty."""
    DROPPED = "DROPPED"
    """It is left out with a warning, for the alternative names say everything."""


class CommonNameRule(enum.StrEnum):
    """What may stand as common name. The same names as the proto's `SubjectRules.CommonNameRule`."""

    AMONG_NAMES = "AMONG_NAMES"
    """One of the alternative names; any other is dropped with a warning. Without alternative names one that is a DNS
    name or an IP address becomes one: requests from before alternative names still look like that."""
    ANY = "ANY"
    NONE = "NONE"
    """It is dropped with a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsNameRules:
    """Which DNS names are allowed."""

    allow_any: bool = False
    """Every well-formed DNS name."""
    names: tuple[str, ...] = ()
    """These names, wildcards among them too."""
    suffixes: tuple[str, ...] = ()
    """Every name below these domains at any depth, not the domains themselves."""
    allow_wildcards: bool = False
    """Wildcards whose remaining name is one of `suffixes` or is itself allowed."""
    fewest_wildcard_labels: int = FEWEST_WILDCARD_LABELS
    """Fewest labels to the right of a wildcard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IpAddressRules:
    """Which IP addresses are allowed."""

    allow_any: bool = False
    ranges: tuple[str, ...] = ()
    """In CIDR notation without host bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UriRules:
    """Which URIs are allowed."""

    allow_any: bool = False
    """Every absolute URI except SPIFFE ids."""
    prefixes: tuple[str, ...] = ()
    """URIs that begin with one of these, each with at least scheme, host and the slash after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailAddressRules:
    """Which e-mail addresses are allowed."""

    allow_any: bool = False
    domains: tuple[str, ...] = ()
    """Addresses at exactly these hosts."""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRules:
    """Which alternative names are allowed; none of a kind whose rules are None."""

    dns_names: DnsNameRules | None = None
    ip_addresses: IpAddressRules | None = None
    uris: UriRules | None = None
    email_addresses: EmailAddressRules | None = None
    fewest: int = 0
    """Of all kinds together."""
    most: int = HIGHEST_COUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRules:
    """What becomes of the subject that was asked for."""

    presence: SubjectPresence = SubjectPresence.OPTIONAL
    common_name: CommonNameRule = CommonNameRule.AMONG_NAMES
    allowed_attributes: tuple[str, ...] = ()
    """Dotted identifiers of the types that may stand there, others are dropped with a warning; none means every one."""
    required_attributes: tuple[str, ...] = ()
    """Dotted identifiers of the types that must stand there."""
    directory_subtrees: tuple[bytes, ...] = ()
    """DER of names, with the relative distinguished names of one of which the subject must begin; none means any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomExtension:
    """An extension with a fixed value."""

    oid: str
    """Dotted."""
    critical: bool = False
    value: bytes
    """DER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What may be issued under a name."""

    profile_id: str
    version: int = 1
    description: str = ""
    default_lifetime: timedelta
    """Used when neither a lifetime nor an end is asked for."""
    shortest_lifetime: timedelta
    longest_lifetime: timedelta
    backdate: timedelta = timedelta(minutes=5)
    """How far not_before lies before now, for clocks that run behind; not_after does not move."""
    authority: bool = False
    """Whether its certificates are those of authorities."""
    self_signed: bool = False
    """Whether it is for an authority's own certificate and nothing else. Certd's own profiles alone have it."""
    highest_path_length: int = 0
    """Of an authority."""
    key_specs: frozenset[KeySpec] = frozenset(KeySpec)
    """Keys that may be certified."""
    key_usages: frozenset[KeyUsage]
    """Less those that the subject's key cannot have. None at all leaves them to the CSR, where that may pass them."""
    extended_key_usages: tuple[str, ...] = ()
    """Dotted identifiers; none for authorities. None at all leaves them to the CSR, where that may pass them."""
    names: NameRules = field(default_factory=NameRules)
    subject: SubjectRules = field(default_factory=SubjectRules)
    passed_extensions: tuple[str, ...] = ()
    """Dotted identifiers of extensions that are taken from the CSR; `*` alone stands for every one that may pass."""
    policies: tuple[str, ...] = ()
    """Dotted identifiers of certificate policies."""
    tls_features: tuple[int, ...] = ()
    """Numbers of TLS extensions that the server must offer (RFC 7633)."""
    custom_extensions: tuple[CustomExtension, ...] = ()
    allow_subject_override: bool = False
    """Whether the request may replace the subject of the CSR."""
    allow_names_override: bool = False
    """Whether the request may replace the alternative names of the CSR."""

    @property
    def restricted(self) -> bool:
        """Whether it needs an authority operator: it yields authorities, OCSP responders or what a CSR chooses.

        Application policies of its own count too: on Windows they may say any purpose, also that of OCSP responders.
        """
        return (
            self.authority
            or extensions.OCSP_SIGNING in self.extended_key_usages
            or bool(self.passed_extensions)
            or any(custom.oid == extensions.APPLICATION_POLICIES for custom in self.custom_extensions)
        )

    @property
    def decided_extensions(self) -> frozenset[str]:
        """Dotted identifiers of the extensions that it decides itself, so that they do not pass."""
        decided = {
            extensions.KEY_USAGE: self.authority or bool(self.key_usages),
            extensions.EXTENDED_KEY_USAGE: self.authority or bool(self.extended_key_usages),
            extensions.CERTIFICATE_POLICIES: bool(self.policies),
            extensions.TLS_FEATURE: bool(self.tls_features),
        }
        return frozenset(
            (*(oid for oid, is_decided in decided.items() if is_decided), *(one.oid for one in self.custom_extensions))
        )


def lets_pass(passed_extensions: tuple[str, ...], oid: str) -> bool:
    """Returns whether `passed_extensions` of a profile name an extension, alone or with all others."""
    return oid in passed_extensions or EVERY_EXTENSION in passed_extensions


# RFC 4055, section 1.2, RFC 5480, section 3, and RFC 8410, section 5: what a key of the family cannot do.
_IMPOSSIBLE = {
    KeyFamily.RSA: {KeyUsage.KEY_AGREEMENT, KeyUsage.ENCIPHER_ONLY, KeyUsage.DECIPHER_ONLY},
    KeyFamily.EC: {KeyUsage.KEY_ENCIPHERMENT, KeyUsage.DATA_ENCIPHERMENT},
    KeyFamily.ED25519: {
        KeyUsage.KEY_ENCIPHERMENT,
        KeyUsage.DATA_ENCIPHERMENT,
        KeyUsage.KEY_AGREEMENT,
        KeyUsage.ENCIPHER_ONLY,
        KeyUsage.DECIPHER_ONLY,
    },
}


def key_usages_for(profile: Profile, family: KeyFamily) -> frozenset[KeyUsage]:
    """Returns the key usages of a certificate for a key of `family`: the profile's, less those that it cannot have."""
    return possible_key_usages(profile.key_usages, family)


@lru_cache(maxsize=256)
def possible_key_usages(usages: frozenset[KeyUsage], family: KeyFamily) -> frozenset[KeyUsage]:
    """Returns `usages` less those that a key of `family` cannot have."""
    return usages - _IMPOSSIBLE[family]
