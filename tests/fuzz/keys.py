"""Keys to ask certificates for: good ones of every kind, and keys that nobody should certify."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.pki import der

NULL = der.encode(der.NULL, b"")
_RSA = der.object_identifier("1.2.840.113549.1.1.1")
_EC = der.object_identifier("1.2.840.10045.2.1")
_P256 = der.object_identifier("1.2.840.10045.3.1.7")
_HIGHEST_RSA_MODULUS = 16384
_GOOD_RSA = ((2048, 65537, 0), (2048, 65537, 1), (2048, 65537, 2), (3072, 65537, 0), (4096, 65537, 0))
_BAD_RSA = ((1024, 65537, 0), (1536, 65537, 0), (2047, 65537, 0), (2048, 3, 0))
"""Bits, exponent and number."""
_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and who signs for it."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    algorithm: bytes
    """DER of the AlgorithmIdentifier of `sign`."""
    sign: Callable[[bytes], bytes]
    lasting: bool = False
    """Whether it comes again in this run, so that it must not be reported as compromised."""


def _identifier(oid: str, *parameters: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), *parameters)


_ECDSA = {
    "1.2.840.10045.4.3.2": hashes.SHA256(),
    "1.2.840.10045.4.3.3": hashes.SHA384(),
    "1.2.840.10045.4.3.4": hashes.SHA512(),
    "1.2.840.10045.4.1": hashes.SHA1(),
}
_PKCS1 = {
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
    "1.2.840.113549.1.1.5": hashes.SHA1(),
}


def good_key(draw: random.Random) -> Key:
    """Returns a key that certd certifies: new, but for RSA, which takes long."""
    kind = draw.randrange(12)
    if kind < 7:
        return _ec_key(draw, ec.generate_private_key(ec.SECP256R1()))
    if kind < 8:
        return _ec_key(draw, ec.generate_private_key(draw.choice((ec.SECP384R1(), ec.SECP521R1()))))
    if kind < 10:
        private_key = ed25519.Ed25519PrivateKey.generate()
        return Key(_spki(private_key.public_key()), _identifier("1.3.101.112"), private_key.sign)
    return _rsa_key(draw, _rsa(*draw.choice(_GOOD_RSA)))


def _ec_key(draw: random.Random, private_key: ec.EllipticCurvePrivateKey, public_key: bytes | None = None) -> Key:
    oid = draw.choice(("1.2.840.10045.4.3.2",) * 20 + tuple(_ECDSA))
    return Key(
        public_key or _spki(private_key.public_key()),
        _identifier(oid),
        lambda data: private_key.sign(data, ec.ECDSA(_ECDSA[oid])),
    )


def _rsa_key(draw: random.Random, private_key: rsa.RSAPrivateKey, public_key: bytes | None = None) -> Key:
    oid = draw.choice(("1.2.840.113549.1.1.11",) * 20 + tuple(_PKCS1))
    return Key(
        public_key or _spki(private_key.public_key()),
        _identifier(oid, NULL),
        lambda data: private_key.sign(data, padding.PKCS1v15(), _PKCS1[oid]),
        lasting=True,
    )


def _spki(public_key: object) -> bytes:
    encoded: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]  # Of every kind.
    return encoded


def make_lasting_keys() -> None:
    """Makes the keys that come again. It takes long, and nothing else runs meanwhile, no clock of a call either."""
    for arguments in (*_GOOD_RSA, *_BAD_RSA):
        _rsa(*arguments)
    _dsa()


@cache
def _rsa(bits: int, exponent: int, _number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


@cache
def _dsa() -> dsa.DSAPrivateKey:
    return dsa.generate_private_key(1024)


def bad_key(draw: random.Random) -> Key:
    """Returns a key that certd must refuse, or take as what it is: odd kinds, odd encodings, no keys at all."""
    return draw.choice(_BAD)(draw)


def _foreign_kind(draw: random.Random) -> Key:
    kind = draw.randrange(4)
    if kind == 0:
        private_dsa = _dsa()
        return Key(
            _spki(private_dsa.public_key()),
            _identifier("2.16.840.1.101.3.4.3.2"),
            lambda data: private_dsa.sign(data, hashes.SHA256()),
            lasting=True,
        )
    if kind == 1:
        private_ed448 = ed448.Ed448PrivateKey.generate()
        return Key(_spki(private_ed448.public_key()), _identifier("1.3.101.113"), private_ed448.sign)
    exchange = draw.choice((x25519.X25519PrivateKey, x448.X448PrivateKey)).generate().public_key()
    return Key(_spki(exchange), _identifier("1.3.101.112"), lambda _data: draw.randbytes(64))


def _foreign_curve(draw: random.Random) -> Key:
    curve = draw.choice((ec.SECP256K1(), ec.SECP224R1(), ec.SECP192R1(), ec.BrainpoolP256R1(), ec.BrainpoolP512R1()))
    return _ec_key(draw, ec.generate_private_key(curve))


def _explicit_curve(draw: random.Random) -> Key:
    """P-256 by its parameters, or a curve of the caller's own that calls itself so (CVE-2020-0601)."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    point = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    generator = point if draw.random() < 0.4 else _G
    parameters = der.sequence(
        der.integer(1),
        der.sequence(der.object_identifier("1.2.840.10045.1.1"), der.integer(_P)),
        der.sequence(der.octet_string((_P - 3).to_bytes(32)), der.octet_string(_B.to_bytes(32))),
        der.octet_string(generator),
        der.integer(_N),
        *((der.integer(1),) if draw.random() < 0.5 else ()),
    )
    return _ec_key(draw, private_key, der.sequence(der.sequence(_EC, parameters), der.bit_string(point)))


def _odd_point(draw: random.Random) -> Key:
    private_key = ec.generate_private_key(ec.SECP256R1())
    numbers = private_key.public_key().public_numbers()
    x, y = numbers.x.to_bytes(32), numbers.y.to_bytes(32)
    compressed = bytes([2 + (numbers.y & 1)]) + x
    point = draw.choice((
        compressed,
        compressed,
        bytes([6 + (numbers.y & 1)]) + x + y,
        b"\x04" + x + bytes(31) + b"\x01",
        b"\x04" + y + x,
        b"\x04" + _P.to_bytes(32) + y,
        b"\x04" + bytes(64),
        b"\x00",
        b"",
        b"\x04" + x,
        b"\x04" + x + y + b"\x00",
        b"\x05" + x,
    ))  # fmt: skip
    return _ec_key(draw, private_key, der.sequence(der.sequence(_EC, _P256), der.bit_string(point)))


def _odd_rsa(draw: random.Random) -> Key:
    kind = draw.randrange(9)
    if kind < 3:
        return _rsa_key(draw, _rsa(*draw.choice(_BAD_RSA)))
    private_key = _rsa(*_GOOD_RSA[0])
    numbers = private_key.public_key().public_numbers()
    modulus, exponent = numbers.n, numbers.e
    match kind:
        case 3:
            bits = draw.choice((16, 512, 2048, 4096, 8192, _HIGHEST_RSA_MODULUS, 4 * _HIGHEST_RSA_MODULUS))
            modulus = draw.getrandbits(bits) | 1 << (bits - 1) | 1
        case 4:
            exponent = draw.choice((0, 1, 2, 3, 4, 65536, 65539, 1 << 64 | 1, modulus - 2, draw.getrandbits(4096) | 1))
        case 5:
            modulus = draw.choice((0, 1, modulus - 1, modulus * 2, modulus + 2, -modulus))
        case 6:
            # Primes that lie close together, or one prime twice.
            prime = private_key.private_numbers().p
            modulus = prime * draw.choice((prime, prime + 2, 3))
        case _:
            pass
    content = der.sequence(der.integer(modulus), der.integer(exponent))
    identifier = draw.choice((
        der.sequence(_RSA, NULL),
        der.sequence(_RSA, NULL),
        der.sequence(_RSA),
        _identifier("1.2.840.113549.1.1.10"),
        _identifier("1.2.840.113549.1.1.10", der.sequence()),
        _identifier("1.2.840.113549.1.1.7"),
        der.sequence(_RSA, der.integer(7)),
    ))  # fmt: skip
    return _rsa_key(draw, private_key, der.sequence(identifier, der.bit_string(content)))


def _odd_wrapping(draw: random.Random) -> Key:
    """A good key in an encoding that is not quite the one."""
    key = good_key(draw)
    private_key = ec.generate_private_key(ec.SECP256R1())
    point = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    public_key = draw.choice((
        key.public_key + b"\x00",
        der.sequence(der.sequence(_EC, NULL), der.bit_string(point)),
        der.sequence(der.sequence(_EC), der.bit_string(point)),
        der.sequence(der.sequence(_EC, _P256, NULL), der.bit_string(point)),
        der.sequence(der.sequence(_EC, _P256), der.encode(der.BIT_STRING, b"\x03" + point)),
        der.sequence(der.sequence(_RSA, NULL), der.bit_string(point)),
        der.sequence(_identifier("1.3.101.112", NULL), der.bit_string(bytes(32))),
        der.sequence(_identifier("1.3.101.112"), der.bit_string(bytes(32))),
        der.sequence(_identifier("1.3.101.112"), der.bit_string(draw.randbytes(draw.choice((31, 32, 33))))),
        der.sequence(_identifier("2.16.840.1.101.3.4.3.18"), der.bit_string(draw.randbytes(1952))),
    ))  # fmt: skip
    return Key(public_key, key.algorithm, key.sign, lasting=key.lasting)


_BAD: tuple[Callable[[random.Random], Key], ...] = (
    *(_foreign_kind, _foreign_curve, _explicit_curve, _odd_point, _odd_point, _odd_rsa, _odd_rsa, _odd_wrapping),
)
