"""Vocabulary of extensions (RFC 5280, section 4.2): key usages, and what extended ones and extensions are called."""

import enum
from collections.abc import Set as AbstractSet
from typing import Final

from cryptography import x509

SERVER_AUTHENTICATION = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTHENTICATION = "1.3.6.1.5.5.7.3.2"

# As RFC 5280, RFC 6962, RFC 6960 and RFC 7633 call them, and those of Netscape and Microsoft that requests still carry.
_EXTENSION_NAMES: Final = {
    "1.3.6.1.4.1.311.20.2": "Microsoft certificate template name",
    "1.3.6.1.4.1.311.21.7": "Microsoft certificate template",
    "1.3.6.1.4.1.11129.2.4.2": "signed certificate timestamps",
    "1.3.6.1.4.1.11129.2.4.3": "certificate transparency poison",
    "1.3.6.1.5.5.7.1.1": "authorityInfoAccess",
    "1.3.6.1.5.5.7.1.3": "qcStatements",
    "1.3.6.1.5.5.7.1.11": "subjectInfoAccess",
    "1.3.6.1.5.5.7.1.24": "TLS feature",
    "1.3.6.1.5.5.7.48.1.5": "OCSP no check",
    "2.5.29.9": "subjectDirectoryAttributes",
    "2.5.29.14": "subjectKeyIdentifier",
    "2.5.29.15": "keyUsage",
    "2.5.29.16": "privateKeyUsagePeriod",
    "2.5.29.17": "subjectAltName",
    "2.5.29.18": "issuerAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.30": "nameConstraints",
    "2.5.29.31": "cRLDistributionPoints",
    "2.5.29.32": "certificatePolicies",
    "2.5.29.33": "policyMappings",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.36": "policyConstraints",
    "2.5.29.37": "extKeyUsage",
    "2.5.29.46": "freshestCRL",
    "2.5.29.54": "inhibitAnyPolicy",
    "2.16.840.1.113730.1.1": "Netscape certificate type",
    "2.16.840.1.113730.1.13": "Netscape comment",
}


def extension_text(oid: str) -> str:
    """Returns the dotted OID of an extension with its name, where it has a well-known one."""
    name = _EXTENSION_NAMES.get(oid)
    return oid if name is None else f"{oid} ({name})"


class KeyUsage(enum.StrEnum):
    """A bit of the key usage extension. The same names as the proto's `KeyUsage`."""

    DIGITAL_SIGNATURE = "DIGITAL_SIGNATURE"
    CONTENT_COMMITMENT = "CONTENT_COMMITMENT"
    KEY_ENCIPHERMENT = "KEY_ENCIPHERMENT"
    DATA_ENCIPHERMENT = "DATA_ENCIPHERMENT"
    KEY_AGREEMENT = "KEY_AGREEMENT"
    KEY_CERT_SIGN = "KEY_CERT_SIGN"
    CRL_SIGN = "CRL_SIGN"
    ENCIPHER_ONLY = "ENCIPHER_ONLY"
    DECIPHER_ONLY = "DECIPHER_ONLY"


def key_usage_extension(usages: AbstractSet[KeyUsage]) -> x509.KeyUsage:
    """Returns the extension with the bits of `usages`; ValueError when encipherOnly stands without keyAgreement."""
    return x509.KeyUsage(
        digital_signature=KeyUsage.DIGITAL_SIGNATURE in usages,
        content_commitment=KeyUsage.CONTENT_COMMITMENT in usages,
        key_encipherment=KeyUsage.KEY_ENCIPHERMENT in usages,
        data_encipherment=KeyUsage.DATA_ENCIPHERMENT in usages,
        key_agreement=KeyUsage.KEY_AGREEMENT in usages,
        key_cert_sign=KeyUsage.KEY_CERT_SIGN in usages,
        crl_sign=KeyUsage.CRL_SIGN in usages,
        encipher_only=KeyUsage.ENCIPHER_ONLY in usages,
        decipher_only=KeyUsage.DECIPHER_ONLY in usages,
    )


def key_usages_of(extension: x509.KeyUsage) -> frozenset[KeyUsage]:
    """Returns the usages whose bits are set."""
    bits = {
        KeyUsage.DIGITAL_SIGNATURE: extension.digital_signature,
        KeyUsage.CONTENT_COMMITMENT: extension.content_commitment,
        KeyUsage.KEY_ENCIPHERMENT: extension.key_encipherment,
        KeyUsage.DATA_ENCIPHERMENT: extension.data_encipherment,
        KeyUsage.KEY_AGREEMENT: extension.key_agreement,
        KeyUsage.KEY_CERT_SIGN: extension.key_cert_sign,
        KeyUsage.CRL_SIGN: extension.crl_sign,
    }
    if extension.key_agreement:
        # Without keyAgreement these two bits mean nothing, and the library refuses to tell them.
        bits[KeyUsage.ENCIPHER_ONLY] = extension.encipher_only
        bits[KeyUsage.DECIPHER_ONLY] = extension.decipher_only
    return frozenset(usage for usage, is_set in bits.items() if is_set)
