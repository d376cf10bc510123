"""Lints of extensions as such: their values, whether they are critical, and what no certificate has."""

from typing import Final

from cryptography import x509

from certd.pki import der
from certd.pki.extensions import (
    BASIC_CONSTRAINTS,
    CERTIFICATE_POLICIES,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    SUBJECT_ALTERNATIVE_NAME,
    decode,
    extension_text,
)
from certd.pki.lint.judged import Lint, LintCopy
from certd.pki.lint.path import INHIBIT_ANY_POLICY, POLICY_CONSTRAINTS
from certd.pki.lint.policies import POLICY_MAPPINGS

_POISON = "1.3.6.1.4.1.11129.2.4.3"
_PROXY = "1.3.6.1.5.5.7.1.14"
_PROCESSED: Final = frozenset(
    {
        BASIC_CONSTRAINTS,
        CERTIFICATE_POLICIES,
        EXTENDED_KEY_USAGE,
        INHIBIT_ANY_POLICY,
        KEY_USAGE,
        NAME_CONSTRAINTS,
        POLICY_CONSTRAINTS,
        POLICY_MAPPINGS,
        SUBJECT_ALTERNATIVE_NAME,
    }
)
"""What every verifier knows (RFC 5280, section 4.2)."""


def rfc5280_4_2_value(copy: LintCopy) -> str | None:
    """The value of every extension is one element of DER."""
    # The library has decoded the extensions that it knows.
    if x509.UnrecognizedExtension not in copy.extensions:
        return None
    for oid, extension in copy.tbs.extensions.items():
        try:
            decode(oid, extension.value)
        except der.MalformedError as error:
            return f"the value of the extension {extension_text(oid)} is not one element of DER: it {error}"
    return None


def rfc5280_4_2_critical(copy: LintCopy) -> str | None:
    """A critical extension is one that every verifier knows, or the certificate is refused by those that do not."""
    for oid, extension in copy.tbs.extensions.items():
        if extension.critical and oid not in _PROCESSED:
            return f"the extension {extension_text(oid)} is critical, and verifiers that do not know it will refuse"
    return None


def rfc6962_3_1_precertificate(copy: LintCopy) -> str | None:
    """A certificate has no poison, which makes a precertificate that nobody may accept."""
    poisoned = _POISON in copy.tbs.extensions
    return "the certificate has the poison of certificate transparency" if poisoned else None


def rfc3820_3_8_proxy(copy: LintCopy) -> str | None:
    """No authority signs a proxy certificate: its issuer is the end entity that it stands for."""
    return "the certificate is a proxy certificate" if _PROXY in copy.tbs.extensions else None


LINTS = (
    Lint(rfc5280_4_2_value),
    Lint(rfc5280_4_2_critical, is_warning=True),
    Lint(rfc6962_3_1_precertificate, _POISON),
    Lint(rfc3820_3_8_proxy, _PROXY),
)
