"""Vocabulary of extensions (RFC 5280, section 4.2): key usages, and what extended ones are called."""

import enum
from collections.abc import Set as AbstractSet

from cryptography import x509

SERVER_AUTHENTICATION = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTHENTICATION = "1.3.6.1.5.5.7.3.2"


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
