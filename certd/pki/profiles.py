"""Profiles: what may be issued. Profile first, then request, then CSR.

Lifetimes of what TLS servers use: 90 days unless asked otherwise, as public authorities now teach everybody's
automation; 824 days at most, because Apple's systems refuse TLS server certificates of more than 825 days also from
roots that their owner added, and the backdate counts. Authorities have ten and five years, forty at most: what the API
promises.
"""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from certd.pki import extensions
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.profile import (
    EVERY_EXTENSION,
    CommonNameRule,
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    Profile,
    SubjectPresence,
    SubjectRules,
    UriRules,
    key_usages_for,
)
from certd.pki.profile_rules import SPIFFE_PREFIX
from certd.pki.profile_violations import profile_violations

__all__ = [
    "BUILT_IN",
    "SYSTEM",
    "CommonNameRule",
    "CustomExtension",
    "DnsNameRules",
    "EmailAddressRules",
    "IpAddressRules",
    "NameRules",
    "Profile",
    "SubjectPresence",
    "SubjectRules",
    "UriRules",
    "key_usages_for",
    "profile_violations",
]

_SIGNING = frozenset({KeyUsage.DIGITAL_SIGNATURE})
# RSA keys may still be asked to decrypt in the key exchange of TLS 1.2; the bit is left out for the others.
_SIGNING_AND_ENCIPHERMENT = _SIGNING | {KeyUsage.KEY_ENCIPHERMENT}
_AUTHORITY_KEY_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_YEAR = 365 * _DAY
_ANY_HOST = NameRules(
    dns_names=DnsNameRules(allow_any=True, allow_wildcards=True), ip_addresses=IpAddressRules(allow_any=True), fewest=1
)
_CALLED_BY_SUBJECT = SubjectRules(presence=SubjectPresence.REQUIRED, common_name=CommonNameRule.ANY)
# P-521 and Ed25519 leaves fail the handshake of gRPC's TLS library.
_KEYS_OF_PEERS = frozenset(KeySpec) - {KeySpec.EC_P521, KeySpec.ED25519}

END_ENTITY = Profile(
    profile_id="end-entity",
    description="TLS servers and clients: any well-formed DNS name, wildcard or IP address, every kind of key.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=_MINUTE,
    longest_lifetime=824 * _DAY,
    key_usages=_SIGNING_AND_ENCIPHERMENT,
    extended_key_usages=(extensions.SERVER_AUTHENTICATION, extensions.CLIENT_AUTHENTICATION),
    names=_ANY_HOST,
)
SERVER = Profile(
    profile_id="server",
    description="TLS servers: any well-formed DNS name, wildcard or IP address.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=_MINUTE,
    longest_lifetime=824 * _DAY,
    key_usages=_SIGNING_AND_ENCIPHERMENT,
    extended_key_usages=(extensions.SERVER_AUTHENTICATION,),
    names=_ANY_HOST,
)
CLIENT = Profile(
    profile_id="client",
    description="TLS clients: any well-formed name except SPIFFE ids.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=_MINUTE,
    longest_lifetime=824 * _DAY,
    key_usages=_SIGNING,
    extended_key_usages=(extensions.CLIENT_AUTHENTICATION,),
    names=NameRules(
        dns_names=DnsNameRules(allow_any=True),
        ip_addresses=IpAddressRules(allow_any=True),
        uris=UriRules(allow_any=True),
        email_addresses=EmailAddressRules(allow_any=True),
        fewest=1,
    ),
)
CODE_SIGNING = Profile(
    profile_id="code-signing",
    description="Signers of code, called by their subject; without alternative names.",
    default_lifetime=_YEAR,
    shortest_lifetime=_MINUTE,
    longest_lifetime=3 * _YEAR,
    key_usages=_SIGNING,
    extended_key_usages=(extensions.CODE_SIGNING,),
    subject=_CALLED_BY_SUBJECT,
)
OCSP_SIGNING = Profile(
    profile_id="ocsp-signing",
    description="OCSP responders of the authority that issues it, short-lived, for nobody asks about their revocation.",
    default_lifetime=7 * _DAY,
    shortest_lifetime=_HOUR,
    longest_lifetime=90 * _DAY,
    key_usages=_SIGNING,
    extended_key_usages=(extensions.OCSP_SIGNING,),
    subject=_CALLED_BY_SUBJECT,
    # RFC 6960, section 4.2.2.2.1: who trusts the responder for as long as it lives need not ask it about itself.
    custom_extensions=(CustomExtension(oid=extensions.OCSP_NO_CHECK, value=extensions.NULL_VALUE),),
)
EMAIL = Profile(
    profile_id="email",
    description="S/MIME: signs and decrypts mail of any well-formed e-mail address.",
    default_lifetime=_YEAR,
    shortest_lifetime=_MINUTE,
    longest_lifetime=824 * _DAY,
    # RFC 8551, section 4.4.2: RSA keys transport keys, EC keys agree on them.
    key_usages=_SIGNING_AND_ENCIPHERMENT | {KeyUsage.KEY_AGREEMENT},
    extended_key_usages=(extensions.EMAIL_PROTECTION,),
    names=NameRules(email_addresses=EmailAddressRules(allow_any=True), fewest=1),
    # Mail programs show people's names and check addresses.
    subject=SubjectRules(common_name=CommonNameRule.ANY),
)
SUBORDINATE_CA = Profile(
    profile_id="subordinate-ca",
    description="An authority below another.",
    default_lifetime=5 * _YEAR,
    shortest_lifetime=_HOUR,
    longest_lifetime=40 * _YEAR,
    authority=True,
    highest_path_length=3,
    key_usages=_AUTHORITY_KEY_USAGES,
    subject=_CALLED_BY_SUBJECT,
)
ROOT_CA = Profile(
    profile_id="root-ca",
    description="A root: the self-signed certificate of an authority.",
    default_lifetime=10 * _YEAR,
    shortest_lifetime=_HOUR,
    longest_lifetime=40 * _YEAR,
    authority=True,
    self_signed=True,
    highest_path_length=4,
    key_usages=_AUTHORITY_KEY_USAGES,
    subject=_CALLED_BY_SUBJECT,
)
BLANK = Profile(
    profile_id="blank",
    description="What the CSR and the request ask for: names, usages and extensions, except those of authorities.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=_MINUTE,
    longest_lifetime=824 * _DAY,
    key_usages=frozenset(),
    names=NameRules(
        dns_names=DnsNameRules(allow_any=True, allow_wildcards=True),
        ip_addresses=IpAddressRules(allow_any=True),
        uris=UriRules(allow_any=True),
        email_addresses=EmailAddressRules(allow_any=True),
    ),
    subject=SubjectRules(common_name=CommonNameRule.ANY),
    passed_extensions=(EVERY_EXTENSION,),
    allow_subject_override=True,
    allow_names_override=True,
)
IDENTITY = Profile(
    profile_id="identity",
    description="A caller of certd: exactly one SPIFFE id, both ends of TLS.",
    default_lifetime=30 * _DAY,
    shortest_lifetime=_MINUTE,
    longest_lifetime=30 * _DAY,
    key_specs=_KEYS_OF_PEERS,
    key_usages=_SIGNING_AND_ENCIPHERMENT,
    extended_key_usages=(extensions.SERVER_AUTHENTICATION, extensions.CLIENT_AUTHENTICATION),
    names=NameRules(uris=UriRules(prefixes=(SPIFFE_PREFIX,)), fewest=1, most=1),
    subject=SubjectRules(presence=SubjectPresence.DROPPED),
)
LISTENER = Profile(
    profile_id="listener",
    description="certd's own listeners.",
    default_lifetime=90 * _DAY,
    shortest_lifetime=_MINUTE,
    longest_lifetime=90 * _DAY,
    key_specs=_KEYS_OF_PEERS,
    key_usages=_SIGNING_AND_ENCIPHERMENT,
    extended_key_usages=(extensions.SERVER_AUTHENTICATION, extensions.CLIENT_AUTHENTICATION),
    names=NameRules(dns_names=DnsNameRules(allow_any=True), ip_addresses=IpAddressRules(allow_any=True), fewest=1),
)
SYSTEM_ROOT = Profile(
    profile_id="system-root",
    description="The system authority, which issues identities and nothing that a tenant asks for.",
    default_lifetime=10 * _YEAR,
    shortest_lifetime=_HOUR,
    longest_lifetime=40 * _YEAR,
    authority=True,
    self_signed=True,
    key_usages=_AUTHORITY_KEY_USAGES,
    subject=_CALLED_BY_SUBJECT,
)


def _by_id(*profiles: Profile) -> Mapping[str, Profile]:
    return MappingProxyType({profile.profile_id: profile for profile in profiles})


BUILT_IN = _by_id(END_ENTITY, SERVER, CLIENT, CODE_SIGNING, OCSP_SIGNING, EMAIL, SUBORDINATE_CA, ROOT_CA, BLANK)
"""What every tenant has."""
SYSTEM = _by_id(IDENTITY, LISTENER, SYSTEM_ROOT)
"""What the system authority issues; no tenant reaches them."""
