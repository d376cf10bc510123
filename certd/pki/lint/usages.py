"""Lints of what a key is for: key usage, and the purposes of extended key usage."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certd.pki.extensions import (
    CLIENT_AUTHENTICATION,
    CODE_SIGNING,
    EMAIL_PROTECTION,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    OCSP_SIGNING,
    SERVER_AUTHENTICATION,
    KeyUsage,
)
from certd.pki.lint.judged import Lint, LintCopy

TIME_STAMPING = "1.3.6.1.5.5.7.3.8"

_SIGNING = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_AGREEMENT_ONLY = frozenset({KeyUsage.ENCIPHER_ONLY, KeyUsage.DECIPHER_ONLY})
_ENCIPHERMENT = frozenset({KeyUsage.KEY_ENCIPHERMENT, KeyUsage.DATA_ENCIPHERMENT})
_AGREEMENT = _AGREEMENT_ONLY | {KeyUsage.KEY_AGREEMENT}
_SIGNATURES = frozenset({KeyUsage.DIGITAL_SIGNATURE, KeyUsage.CONTENT_COMMITMENT})
# RFC 5280, section 4.2.1.12: any one of these makes the purpose possible.
_USAGES_OF_PURPOSES = {
    SERVER_AUTHENTICATION: frozenset({KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT, KeyUsage.KEY_AGREEMENT}),
    CLIENT_AUTHENTICATION: frozenset({KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_AGREEMENT}),
    CODE_SIGNING: frozenset({KeyUsage.DIGITAL_SIGNATURE}),
    EMAIL_PROTECTION: _SIGNATURES | {KeyUsage.KEY_ENCIPHERMENT, KeyUsage.KEY_AGREEMENT},
    TIME_STAMPING: _SIGNATURES,
    OCSP_SIGNING: _SIGNATURES,
}


def rfc5280_4_2_1_3_key_usage(copy: LintCopy) -> str | None:
    """Authorities alone have key usages that sign certificates and CRLs, and they have one; it is critical."""
    usages = copy.key_usages
    if usages is None:
        return "key usage of an authority is missing" if copy.authority else None
    if not copy.tbs.extensions[KEY_USAGE].critical:
        return "key usage is not critical"
    if copy.authority:
        return None if KeyUsage.KEY_CERT_SIGN in usages else "key usage of an authority lacks keyCertSign"
    if usages & _SIGNING:
        return "key usage has keyCertSign or cRLSign and the certificate is no authority's"
    return None


def rfc5280_4_2_1_3_agreement(copy: LintCopy) -> str | None:
    """EncipherOnly and decipherOnly do not stand together. The library does not read them without keyAgreement."""
    both = (copy.key_usages or frozenset()) >= _AGREEMENT_ONLY
    return "key usage has encipherOnly and decipherOnly, which contradict each other" if both else None


def rfc5280_4_2_1_3_named_bits(copy: LintCopy) -> str | None:
    """Key usage ends with its last bit that is set, as DER has it (appendix B)."""
    value = copy.tbs.extensions[KEY_USAGE].value
    unused, last = value[2], value[-1]
    return None if last >> unused & 1 else "key usage has zero bits at its end, which DER leaves out"


def rfc5280_4_2_1_3_crl_sign(copy: LintCopy) -> str | None:
    """An authority that publishes CRLs has cRLSign, and every authority of certd may come to."""
    if not copy.authority or copy.key_usages is None or KeyUsage.CRL_SIGN in copy.key_usages:
        return None
    return "key usage of an authority lacks cRLSign, so that nobody will accept its CRLs"


def rfc4055_1_2_key_usage(copy: LintCopy) -> str | None:
    """RSA keys sign and encipher; they do not agree."""
    if not isinstance(copy.key, rsa.RSAPublicKey) or not (copy.key_usages or frozenset()) & _AGREEMENT:
        return None
    return "key usage has keyAgreement, which an RSA key cannot do"


def rfc5480_3_key_usage(copy: LintCopy) -> str | None:
    """EC keys sign and agree; they do not encipher."""
    if not isinstance(copy.key, ec.EllipticCurvePublicKey) or not (copy.key_usages or frozenset()) & _ENCIPHERMENT:
        return None
    return "key usage has keyEncipherment or dataEncipherment, which an EC key cannot do"


def rfc8410_5_key_usage(copy: LintCopy) -> str | None:
    """Ed25519 keys sign, and do nothing else."""
    if not isinstance(copy.key, ed25519.Ed25519PublicKey) or (copy.key_usages or _SIGNATURES) <= _SIGNATURES | _SIGNING:
        return None
    return "key usage has more than signatures, which is all that an Ed25519 key can do"


def rfc5280_4_2_1_12_extended_key_usage(copy: LintCopy) -> str | None:
    """Extended key usage names each purpose once. The library does not read an empty one."""
    return "extended key usage has a purpose twice" if len(set(copy.purposes)) < len(copy.purposes) else None


def rfc5280_4_2_1_12_authority(copy: LintCopy) -> str | None:
    """Extended key usage is for certificates of end entities; many verifiers take an authority's for a constraint."""
    return "extended key usage of an authority limits what is below it, for some verifiers" if copy.authority else None


def rfc5280_4_2_1_12_consistency(copy: LintCopy) -> str | None:
    """Each purpose is one that the key usages allow."""
    if copy.key_usages is None or copy.authority:
        return None
    for purpose in copy.purposes:
        fitting = _USAGES_OF_PURPOSES.get(purpose)
        if fitting is not None and not fitting & copy.key_usages:
            return f"key usage has no bit that the purpose {purpose} needs, so that the certificate cannot serve it"
    return None


def rfc3161_2_3_time_stamping(copy: LintCopy) -> str | None:
    """A time-stamping authority has that purpose alone, and the extension is critical."""
    if TIME_STAMPING not in copy.purposes:
        return None
    extension = copy.find(x509.ExtendedKeyUsage)
    if len(copy.purposes) == 1 and extension is not None and extension.critical:
        return None
    return "time stamping is not the only purpose, or not critical, so that no client accepts its time stamps"


LINTS = (
    Lint(rfc5280_4_2_1_3_key_usage),
    Lint(rfc5280_4_2_1_3_agreement, KEY_USAGE),
    Lint(rfc5280_4_2_1_3_named_bits, KEY_USAGE),
    Lint(rfc5280_4_2_1_3_crl_sign, KEY_USAGE, is_warning=True),
    Lint(rfc4055_1_2_key_usage, KEY_USAGE),
    Lint(rfc5480_3_key_usage, KEY_USAGE),
    Lint(rfc8410_5_key_usage, KEY_USAGE),
    Lint(rfc5280_4_2_1_12_extended_key_usage, EXTENDED_KEY_USAGE),
    Lint(rfc5280_4_2_1_12_authority, EXTENDED_KEY_USAGE, is_warning=True),
    Lint(rfc5280_4_2_1_12_consistency, EXTENDED_KEY_USAGE, is_warning=True),
    Lint(rfc3161_2_3_time_stamping, EXTENDED_KEY_USAGE, is_warning=True),
)
