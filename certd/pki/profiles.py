"""Profiles: what may be issued. Profile first, then request, then CSR.

Lifetimes of `end-entity`: 90 days unless asked otherwise, as public authorities now teach everybody's automation; 824
days at most, because Apple's systems refuse TLS server certificates of more than 825 days also from roots that their
owner added, and the backdate counts. Authorities have ten and five years, forty at most: what the API promises.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from certd.pki.extensions import CLIENT_AUTHENTICATION, SERVER_AUTHENTICATION, KeyUsage
from certd.pki.key_spec import KeyFamily, KeySpec
from certd.pki.names import HIGHEST_COUNT


class NameKind(enum.StrEnum):
    """A kind of alternative name that a profile may allow."""

    DNS = "DNS name"
    WILDCARD = "wildcard DNS name"
    IP = "IP address"
    URI = "URI"
    SPIFFE = "SPIFFE id"
    EMAIL = "e-mail address"


class SubjectRule(enum.StrEnum):
    """What becomes of the subject that was asked for."""

    REQUIRED = "REQUIRED"
    """It is taken byte for byte and must not be empty: the name of an authority."""
    COMMON_NAMES_CHECKED = "COMMON_NAMES_CHECKED"
    """It is taken byte for byte, less every CN that is not among the alternative names, with a warning."""
    DROPPED = "DROPPED"
    """It is left out with a warning, for the alternative names say everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What may be issued under a name."""

    profile_id: str
    description: str
    default_lifetime: timedelta
    """Used when neither a lifetime nor an end is asked for."""
    shortest_lifetime: timedelta
    longest_lifetime: timedelta
    backdate: timedelta = timedelta(minutes=5)
    """How far not_before lies before now, for clocks that run behind; not_after does not move."""
    authority: bool = False
    """Whether its certificates are those of authorities."""
    self_signed: bool = False
    """Whether it is for an authority's own certificate and nothing else."""
    highest_path_length: int = 0
    """Of an authority."""
    key_usages: Mapping[KeyFamily, frozenset[KeyUsage]]
    """By what the subject's key can do."""
    extended_key_usages: tuple[str, ...] = ()
    """Dotted identifiers; none for authorities."""
    allowed_key_specs: frozenset[KeySpec] = frozenset(KeySpec)
    name_kinds: frozenset[NameKind] = frozenset()
    """Kinds of alternative names that are allowed."""
    fewest_names: int = 0
    most_names: int = HIGHEST_COUNT
    subject: SubjectRule
    restricted: bool = False
    """Whether it needs an authority operator."""


_SIGNING = frozenset({KeyUsage.DIGITAL_SIGNATURE})
_LEAF_KEY_USAGES = MappingProxyType(
    {
        # RSA keys may still be asked to decrypt in the key exchange of TLS 1.2; EC and Ed25519 keys cannot (RFC 8410).
        KeyFamily.RSA: _SIGNING | {KeyUsage.KEY_ENCIPHERMENT},
        KeyFamily.EC: _SIGNING,
        KeyFamily.ED25519: _SIGNING,
    }
)
_AUTHORITY_KEY_USAGES = MappingProxyType(
    dict.fromkeys(KeyFamily, frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}))
)
_TLS = (SERVER_AUTHENTICATION, CLIENT_AUTHENTICATION)
_DAY = timedelta(days=1)
_YEAR = 365 * _DAY
# P-521 and Ed25519 leaves fail the handshake of gRPC's TLS library.
_KEYS_OF_PEERS = frozenset(KeySpec) - {KeySpec.EC_P521, KeySpec.ED25519}

END_ENTITY = Profile(
    profile_id="end-entity",
    description="TLS servers and clients: any well-formed DNS name, wildcard or IP address, every kind of key.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=timedelta(minutes=1),
    longest_lifetime=824 * _DAY,
    key_usages=_LEAF_KEY_USAGES,
    extended_key_usages=_TLS,
    name_kinds=frozenset({NameKind.DNS, NameKind.WILDCARD, NameKind.IP}),
    fewest_names=1,
    subject=SubjectRule.COMMON_NAMES_CHECKED,
)
ROOT_CA = Profile(
    profile_id="root-ca",
    description="A root: the self-signed certificate of an authority.",
    default_lifetime=10 * _YEAR,
    shortest_lifetime=timedelta(hours=1),
    longest_lifetime=40 * _YEAR,
    authority=True,
    self_signed=True,
    highest_path_length=4,
    key_usages=_AUTHORITY_KEY_USAGES,
    most_names=0,
    subject=SubjectRule.REQUIRED,
    restricted=True,
)
SUBORDINATE_CA = Profile(
    profile_id="subordinate-ca",
    description="An authority below another.",
    default_lifetime=5 * _YEAR,
    shortest_lifetime=timedelta(hours=1),
    longest_lifetime=40 * _YEAR,
    authority=True,
    highest_path_length=3,
    key_usages=_AUTHORITY_KEY_USAGES,
    most_names=0,
    subject=SubjectRule.REQUIRED,
    restricted=True,
)
IDENTITY = Profile(
    profile_id="identity",
    description="A caller of certd: exactly one SPIFFE id, both ends of TLS.",
    default_lifetime=30 * _DAY,
    shortest_lifetime=timedelta(minutes=1),
    longest_lifetime=30 * _DAY,
    key_usages=_LEAF_KEY_USAGES,
    extended_key_usages=_TLS,
    allowed_key_specs=_KEYS_OF_PEERS,
    name_kinds=frozenset({NameKind.SPIFFE}),
    fewest_names=1,
    most_names=1,
    subject=SubjectRule.DROPPED,
    restricted=True,
)
SERVER = Profile(
    profile_id="server",
    description="certd's own listeners.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=timedelta(minutes=1),
    longest_lifetime=90 * _DAY,
    key_usages=_LEAF_KEY_USAGES,
    extended_key_usages=_TLS,
    allowed_key_specs=_KEYS_OF_PEERS,
    name_kinds=frozenset({NameKind.DNS, NameKind.IP}),
    fewest_names=1,
    subject=SubjectRule.COMMON_NAMES_CHECKED,
    restricted=True,
)
SYSTEM_ROOT = Profile(
    profile_id="system-root",
    description="The system authority, which issues identities and nothing that a tenant asks for.",
    default_lifetime=10 * _YEAR,
    shortest_lifetime=timedelta(hours=1),
    longest_lifetime=40 * _YEAR,
    authority=True,
    self_signed=True,
    key_usages=_AUTHORITY_KEY_USAGES,
    most_names=0,
    subject=SubjectRule.REQUIRED,
    restricted=True,
)

BUILT_IN: Mapping[str, Profile] = MappingProxyType({p.profile_id: p for p in (END_ENTITY, ROOT_CA, SUBORDINATE_CA)})
"""What every tenant has."""
SYSTEM: Mapping[str, Profile] = MappingProxyType({p.profile_id: p for p in (IDENTITY, SERVER, SYSTEM_ROOT)})
"""What the system authority issues; no tenant reaches them."""
