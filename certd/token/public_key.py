"""Public keys as tokens give them away: numbers and points, in the attributes of PKCS#11."""

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certd.pki.key_spec import KeySpec

CURVE_PARAMETERS: dict[KeySpec, bytes] = {
    # SoftHSM wants the object identifier for Ed25519 too, and so do newer versions of the standard.
    KeySpec.EC_P256: bytes.fromhex("06082a8648ce3d030107"),
    KeySpec.EC_P384: bytes.fromhex("06052b81040022"),
    KeySpec.EC_P521: bytes.fromhex("06052b81040023"),
    KeySpec.ED25519: bytes.fromhex("06032b6570"),
}
"""CKA_EC_PARAMS: the DER of the curve's object identifier."""
_CURVES: dict[bytes, ec.EllipticCurve] = {
    CURVE_PARAMETERS[KeySpec.EC_P256]: ec.SECP256R1(),
    CURVE_PARAMETERS[KeySpec.EC_P384]: ec.SECP384R1(),
    CURVE_PARAMETERS[KeySpec.EC_P521]: ec.SECP521R1(),
}
_OCTET_STRING = 0x04
_LONG_LENGTH = 0x81
_ED25519_BYTES = 32

LoadedKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def from_modulus(modulus: bytes, exponent: bytes) -> rsa.RSAPublicKey:
    """Returns an RSA key from CKA_MODULUS and CKA_PUBLIC_EXPONENT; raises ValueError when they make none."""
    return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()


def from_point(parameters: bytes, point: bytes) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    """Returns a key from CKA_EC_PARAMS and CKA_EC_POINT; raises ValueError when they make none."""
    point = _unwrap(point)
    curve = _CURVES.get(parameters)
    if curve is not None:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    if len(point) != _ED25519_BYTES:
        raise ValueError("a curve that certd does not use")
    return ed25519.Ed25519PublicKey.from_public_bytes(point)


def _unwrap(point: bytes) -> bytes:
    """Takes off the OCTET STRING that the standard wants around the point and that some modules leave out.

    An uncompressed point begins with the tag of an OCTET STRING by accident; the length that follows tells them apart.
    """
    header = 3 if point[1:2] == bytes([_LONG_LENGTH]) else 2
    wrapped = point[:1] == bytes([_OCTET_STRING]) and point[header - 1 : header] == bytes(
        [(len(point) - header) & 0xFF]
    )
    return point[header:] if wrapped else point
