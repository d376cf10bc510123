"""Rules of the CA/Browser Forum that make sense where trust is private: every one is a warning.

Left out is what serves public trust alone: who was asked about a name, which policies and URLs have to be there, that
host names are registered, and what a serial number, which certd draws itself, has of chance.
"""

from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import rsa

from certd.pki import names
from certd.pki.distinguished_name import COMMON_NAME
from certd.pki.extensions import (
    ANY_EXTENDED_KEY_USAGE,
    CODE_SIGNING,
    EMAIL_PROTECTION,
    EXTENDED_KEY_USAGE,
    OCSP_SIGNING,
    SERVER_AUTHENTICATION,
    KeyUsage,
)
from certd.pki.lint.judged import Lint, LintCopy
from certd.pki.lint.usages import TIME_STAMPING

LONGEST_SERVER_LIFETIME = timedelta(days=398)
_SECOND = timedelta(seconds=1)
_FOREIGN_TO_SERVERS = frozenset({CODE_SIGNING, EMAIL_PROTECTION, TIME_STAMPING, OCSP_SIGNING})
_SMALLEST_CODE_SIGNING_KEY = 3072
"""Bits of an RSA modulus."""
_OWN_NAME = "localhost"
"""Of every machine (RFC 6761, section 6.3)."""


def _is_server(copy: LintCopy) -> bool:
    return SERVER_AUTHENTICATION in copy.purposes and not copy.authority


def cabf_br_6_3_2_validity_period(copy: LintCopy) -> str | None:
    """A server's certificate lives 398 days at most, as browsers have long had it; both ends count."""
    if not _is_server(copy) or copy.tbs.not_after - copy.tbs.not_before + _SECOND <= LONGEST_SERVER_LIFETIME:
        return None
    return f"the certificate of a server lives longer than {LONGEST_SERVER_LIFETIME.days} days; renew more often"


def cabf_br_7_1_2_7_12_alternative_name(copy: LintCopy) -> str | None:
    """A server's certificate has a DNS name or an IP address: no client looks at the CN any more (RFC 9525)."""
    if not _is_server(copy) or copy.names.dns_names or copy.names.ip_addresses or copy.names.uris:
        return None
    return "the certificate of a server has no DNS name, IP address or URI, so that no client will accept it"


def cabf_br_7_1_4_3_common_name(copy: LintCopy) -> str | None:
    """A CN in a server's certificate is one of its alternative names, for nobody else has checked it."""
    if not _is_server(copy):
        return None
    for name in copy.attribute_values(COMMON_NAME):
        if name not in copy.names.dns_names and names.normalise_ip_address(name) not in copy.names.ip_addresses:
            return "the CN of a server's certificate is not among its DNS names and IP addresses"
    return None


def cabf_br_7_1_4_2_1_internal_name(copy: LintCopy) -> str | None:
    """A name of a single label means another machine in every network; `localhost` means one's own."""
    if not _is_server(copy):
        return None
    for name in copy.names.dns_names:
        if "." not in name and name != _OWN_NAME:
            return f"the name {names.excerpt(name)} has a single label and means another machine in every network"
    return None


def cabf_br_7_1_2_7_10_purposes(copy: LintCopy) -> str | None:
    """A certificate is not for everything, and a server's not for what other systems trust in their own way."""
    if ANY_EXTENDED_KEY_USAGE in copy.purposes:
        return "extended key usage has anyExtendedKeyUsage, with which a stolen key serves every purpose"
    if _is_server(copy) and not _FOREIGN_TO_SERVERS.isdisjoint(copy.purposes):
        return "a server's certificate is also for code, mail, time stamps or OCSP; give each a certificate of its own"
    return None


def cabf_br_7_1_2_7_11_key_usage(copy: LintCopy) -> str | None:
    """TLS has no use for dataEncipherment, which lets a server's key decrypt what it never should."""
    if _is_server(copy) and KeyUsage.DATA_ENCIPHERMENT in (copy.key_usages or frozenset()):
        return "key usage of a server has dataEncipherment, for which TLS has no use"
    return None


def cabf_smime_7_1_4_2_1_mailbox(copy: LintCopy) -> str | None:
    """A certificate for mail has the address among its alternative names (RFC 8550, section 3)."""
    if EMAIL_PROTECTION not in copy.purposes or copy.authority or copy.names.email_addresses:
        return None
    return "a certificate for mail has no e-mail address among its alternative names"


def cabf_cs_6_1_5_2_key_size(copy: LintCopy) -> str | None:
    """RSA keys that sign code have 3072 bits, for what they signed outlives them."""
    if CODE_SIGNING not in copy.purposes or not isinstance(copy.key, rsa.RSAPublicKey):
        return None
    small = copy.key.key_size < _SMALLEST_CODE_SIGNING_KEY
    return f"an RSA key that signs code has less than {_SMALLEST_CODE_SIGNING_KEY} bits" if small else None


LINTS = tuple(
    Lint(check, EXTENDED_KEY_USAGE, is_warning=True)
    for check in (
        cabf_br_6_3_2_validity_period,
        cabf_br_7_1_2_7_12_alternative_name,
        cabf_br_7_1_4_3_common_name,
        cabf_br_7_1_4_2_1_internal_name,
        cabf_br_7_1_2_7_10_purposes,
        cabf_br_7_1_2_7_11_key_usage,
        cabf_smime_7_1_4_2_1_mailbox,
        cabf_cs_6_1_5_2_key_size,
    )
)
