"""The certification request of an authority (RFC 2986): what it asks an outside parent to certify.

The bytes are written here, signed in the token and put together here, because the library's builder wants the key.
"""

from cryptography import x509

from certd.pki import der
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import SignatureAlgorithm, algorithm_identifier, key_identifier

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
"""PKCS #9 attribute that holds the extensions which are asked for (RFC 2985, section 5.4.2)."""
_NAME_CONSTRAINTS = "2.5.29.30"
_TRUE = der.encode(der.BOOLEAN, b"\xff")
_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})


def request_info(*, subject: bytes, public_key: bytes, path_length: int, name_constraints: bytes | None) -> bytes:
    """Returns the DER of the CertificationRequestInfo, which is what the key signs.

    Args:
        subject: DER of the distinguished name, copied byte for byte.
        public_key: DER of the SubjectPublicKeyInfo, copied byte for byte.
        path_length: that is asked for.
        name_constraints: value of the extension that is asked for; None for none.
    """
    key_usage = key_usage_extension(_USAGES)
    identifier = x509.SubjectKeyIdentifier(key_identifier(public_key))
    extensions = [
        _extension("2.5.29.19", x509.BasicConstraints(ca=True, path_length=path_length).public_bytes(), critical=True),
        _extension("2.5.29.15", key_usage.public_bytes(), critical=True),
        _extension("2.5.29.14", identifier.public_bytes(), critical=False),
    ]
    if name_constraints is not None:
        extensions.append(_extension(_NAME_CONSTRAINTS, name_constraints, critical=True))
    attribute = der.sequence(der.object_identifier(_EXTENSION_REQUEST), der.set_of([der.sequence(*extensions)]))
    # The attributes are a SET OF under an implicit tag; there is one, so that there is nothing to sort.
    return der.sequence(der.integer(0), subject, public_key, der.encode(der.context(0), attribute))


def assemble(info: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """Returns the DER of the CertificationRequest made of its info and the signature of that."""
    return der.sequence(info, algorithm_identifier(algorithm), der.bit_string(signature))


def _extension(oid: str, value: bytes, *, critical: bool) -> bytes:
    return der.sequence(der.object_identifier(oid), _TRUE if critical else b"", der.octet_string(value))
