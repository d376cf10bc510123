"""OpenSSH's own form of private keys (PROTOCOL.key of OpenSSH), as `ssh-keygen` writes it since 2018."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.pki.private_numbers import (
    PrivateKey,
    RsaNumbers,
    UnusableKeyError,
    ec_key,
    ed25519_key,
    rsa_key,
    unfit_kind,
)

_MAGIC = b"openssh-key-v1\x00"
_NOT_ENCRYPTED = b"none"
_CURVES: dict[bytes, ec.EllipticCurve] = {
    b"nistp256": ec.SECP256R1(),
    b"nistp384": ec.SECP384R1(),
    b"nistp521": ec.SECP521R1(),
}
_LONGEST_PADDING = 8
"""Octets, the block of the cipher `none`. OpenSSH writes fewer; other programs write a whole block of them."""
_DAMAGED = "write it again, or convert it first: ssh-keygen -p -N '' -m PKCS8 -f KEY"


def parse_openssh_key(data: bytes) -> PrivateKey:
    """Parses what stands, in base64, in a block `OPENSSH PRIVATE KEY`; raises UnusableKeyError."""
    if not data.startswith(_MAGIC):
        raise UnusableKeyError("has an OpenSSH block that does not begin as one", _DAMAGED)
    outer = _Reader(data[len(_MAGIC) :])
    cipher, _, _ = outer.string(), outer.string(), outer.string()
    if cipher != _NOT_ENCRYPTED:
        raise UnusableKeyError(
            "is encrypted",
            "decrypt a copy of it first: ssh-keygen -p -N '' -f COPY, for openssl pkey does not read this form",
        )
    count = outer.number()
    if count != 1:
        raise UnusableKeyError(f"has {count} private keys in one OpenSSH block", "give the one of the certificate")
    public, private = outer.string(), _Reader(outer.string())
    outer.finish()
    # Two equal numbers, by which OpenSSH sees whether a passphrase was the right one.
    if private.number() != private.number():
        raise _damaged()
    key = _key(private)
    private.string()
    private.finish_padding()
    encoded = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    if base64.b64decode(encoded) != public:
        raise UnusableKeyError("is inconsistent: the public key in it is not that of its private one", _DAMAGED)
    return key


def _key(reader: "_Reader") -> PrivateKey:
    kind = reader.string()
    if kind == b"ssh-rsa":
        n, e, d, qinv, p, q = (reader.integer() for _ in range(6))
        return rsa_key(RsaNumbers(n=n, e=e, d=d, p=p, q=q, qinv=qinv))
    if kind == b"ssh-ed25519":
        public, both = reader.string(), reader.string()
        if both[32:] != public:
            raise _damaged()
        return ed25519_key(both[:32], public)
    if kind.startswith(b"ecdsa-sha2-"):
        curve = _CURVES.get(reader.string())
        if curve is None or kind != b"ecdsa-sha2-nistp%d" % curve.key_size:
            raise unfit_kind("an EC key on another curve")
        point = reader.string()
        return ec_key(_octets(reader.integer()), curve, point)
    if kind == b"ssh-dss":
        raise unfit_kind("a DSA key")
    if kind.startswith(b"sk-"):
        raise UnusableKeyError(
            "is a reference to a key in a security device, which does not give it away",
            "import a certificate whose key is in a file",
            unfit=True,
        )
    raise unfit_kind("an OpenSSH key of another kind")


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _damaged() -> UnusableKeyError:
    return UnusableKeyError("has an OpenSSH block that is cut off or damaged", _DAMAGED)


class _Reader:
    """Reads the types of RFC 4251, section 5."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise _damaged()
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self) -> int:
        return int.from_bytes(self._take(4))

    def string(self) -> bytes:
        return self._take(self.number())

    def integer(self) -> int:
        """Returns a positive mpint; one that is negative or not in its shortest form is damage."""
        content = self.string()
        if not content or content[0] & 0x80 or (content[0] == 0 and not content[1:2] > b"\x7f"):
            raise _damaged()
        return int.from_bytes(content)

    def finish(self) -> None:
        if self._at != len(self._data):
            raise UnusableKeyError("has something after the end of its OpenSSH key", "give the key alone")

    def finish_padding(self) -> None:
        """Checks that nothing is left but 1, 2, 3 and so on, to the end of a block."""
        rest = self._data[self._at :]
        if rest != bytes(range(1, len(rest) + 1)) or len(rest) > _LONGEST_PADDING or len(self._data) % _LONGEST_PADDING:
            raise UnusableKeyError("has something after the end of its OpenSSH key", "give the key alone")
