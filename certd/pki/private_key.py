"""Private keys that an outsider made, in every encoding that tools write, not encrypted.

Exactly one key and nothing else is accepted, and each encoding in one way. Every refusal names the failing check and
what to do, and never tells a byte of what was given: the errors are made here, outside of the handling of others.
"""

import base64
import binascii
import re
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certd.errors import CertdError, Reason, Violation
from certd.pki import der
from certd.pki.encoding import is_pem
from certd.pki.key_spec import KeySpec, key_spec_of, public_key_der
from certd.pki.openssh_key import parse_openssh_key
from certd.pki.private_numbers import (
    CURVES,
    PrivateKey,
    RsaNumbers,
    UnusableKeyError,
    ec_key,
    ed25519_key,
    rsa_key,
    unfit_kind,
)

__all__ = ["LONGEST_PRIVATE_KEY", "PrivateKey", "parse_private_key", "private_key_info"]

LONGEST_PRIVATE_KEY = 16 << 10
"""Bytes, of PEM or DER."""

_FIELD = "private_key"
_ENCODINGS = "PKCS#8, PKCS#1, SEC1 or OpenSSH as PEM, or PKCS#8, PKCS#1 or SEC1 as DER"
_GIVE = f"give one private key that is not encrypted, as {_ENCODINGS}"
_ALONE = "give the private key alone, in one block"
_DAMAGED = "export the key again from where it was made, for this file is damaged"
_DECRYPT = "decrypt it first: openssl pkey -in KEY -out DECRYPTED"

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_BEGIN, _END = b"-----BEGIN ", b"-----END "
_MOST_BLOCKS = 16
"""Of which one can be a key. What begins again and again is looked through to its end again and again."""
_LONGEST_LABEL = 40
_PUBLIC_LABELS = frozenset({"PUBLIC KEY", "RSA PUBLIC KEY", "SSH2 PUBLIC KEY"})
_CERTIFICATE_LABELS = frozenset(
    {"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}
)
_PARAMETERS = "EC PARAMETERS"
_SEC1 = "EC PRIVATE KEY"

_RSA = "1.2.840.113549.1.1.1"
_EC = "1.2.840.10045.2.1"
_ED25519 = "1.3.101.112"
_UNFIT_ALGORITHMS = {
    "1.2.840.10040.4.1": "a DSA key",
    "1.2.840.113549.1.1.10": "an RSA key that is bound to RSASSA-PSS",
    "1.2.840.113549.1.3.1": "a Diffie-Hellman key",
    "1.3.101.110": "an X25519 key",
    "1.3.101.111": "an X448 key",
    "1.3.101.113": "an Ed448 key",
}
_PUBLIC_KEY_TAG = 0x81
"""[1] IMPLICIT BIT STRING (RFC 5958, section 2)."""
_DSA_NUMBERS = 6
_RSA_NUMBERS = 9


def parse_private_key(data: bytes, *, field: str = _FIELD) -> PrivateKey:
    """Parses a private key: PKCS#8, PKCS#1, SEC1 or OpenSSH as PEM, or PKCS#8, PKCS#1 or SEC1 as DER; at most 16 KiB.

    PEM may have text before it, and an EC key its EC PARAMETERS beside it. KEY_TOO_WEAK for a key of a kind or size
    that is not accepted, or that anybody can find; FIELD_INVALID with `field` when it is not one whole, consistent
    private key that is not encrypted.
    """
    try:
        return _parse(data)
    except UnusableKeyError as error:
        unusable = error
    except der.MalformedError:
        unusable = UnusableKeyError("does not decode", _DAMAGED)
    # Outside of the handler, so that no error before it, nor what that quotes, hangs on to this one.
    reason = Reason.KEY_TOO_WEAK if unusable.unfit else Reason.FIELD_INVALID
    raise CertdError(
        reason, f"{field} {unusable.problem}; {unusable.remedy}", violations=(Violation(field, unusable.problem),)
    )


def private_key_info(data: bytes, *, field: str = _FIELD) -> tuple[bytearray, bytes, KeySpec]:
    """Parses a private key as `parse_private_key`; returns PrivateKeyInfo and SubjectPublicKeyInfo, both DER, and spec.

    The first is the caller's to wipe.
    """
    key = parse_private_key(data, field=field)
    public_key = key.public_key()
    spec = key_spec_of(public_key)
    if spec is None:
        raise AssertionError("a key that was accepted has a spec")
    info = bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    return info, public_key_der(public_key), spec


def _parse(data: bytes) -> PrivateKey:
    if len(data) > LONGEST_PRIVATE_KEY:
        raise UnusableKeyError(f"is longer than {LONGEST_PRIVATE_KEY} bytes", _ALONE)
    if not data.strip():
        raise UnusableKeyError("is empty", _GIVE)
    if is_pem(data):
        return _from_pem(data)
    if data.startswith(b"\x30"):
        return _from_der(data)
    for beginning, what, remedy in _OTHER_FILES:
        if data.startswith(beginning):
            raise UnusableKeyError(f"is {what}", remedy)
    raise UnusableKeyError("is neither PEM nor DER of a private key", _GIVE)


_KEYSTORE = "take the key out of it first, as PEM: openssl pkcs12 -in STORE -nocerts -nodes"
_OTHER_FILES = (
    (b"ssh-", "a public key", _GIVE),
    (b"ecdsa-sha2-", "a public key", _GIVE),
    (b"PuTTY-User-Key-File", "a key file of PuTTY", "convert it first: puttygen KEY -O private-openssh-new"),
    (
        b"\xfe\xed\xfe\xed",
        "a Java keystore",
        f"convert it first: keytool -importkeystore -deststoretype PKCS12; then {_KEYSTORE}",
    ),
    (b"{", "JSON", _GIVE),
)
"""What people take for private keys: how it begins, what it is, and what to do."""


def _from_pem(data: bytes) -> PrivateKey:
    if (begun := data.count(_BEGIN)) > _MOST_BLOCKS:
        raise UnusableKeyError(f"has {begun} PEM blocks", _ALONE)
    matches = list(_BLOCK.finditer(data))
    if not len(matches) == data.count(_BEGIN) == data.count(_END):
        raise UnusableKeyError("has a PEM block without its beginning or its end", _DAMAGED)
    if data[matches[-1].end() :].strip():
        raise UnusableKeyError("has something after its last PEM block", _ALONE)
    blocks = [(match[1].decode("ascii"), match[2]) for match in matches]
    for label, body in blocks:
        _check_block(label, body)
    keys = [block for block in blocks if block[0] in _KEY_LABELS]
    parameters = [body for label, body in blocks if label == _PARAMETERS]
    if not keys:
        raise UnusableKeyError("has EC parameters and no private key", _GIVE)
    if len(keys) > 1:
        raise UnusableKeyError(f"has {len(keys)} private keys", "give the one of the certificate alone")
    label, body = keys[0]
    if len(parameters) > 1 or (parameters and label != _SEC1):
        raise UnusableKeyError("has EC parameters that belong to no key in it", _ALONE)
    curve = _curve(_from_base64(parameters[0])) if parameters else None
    decoded = _from_base64(body)
    if label == _SEC1:
        return _sec1(_content(decoded), curve)
    return _PARSERS[label](decoded)


def _check_block(label: str, body: bytes) -> None:
    """Raises unless a PEM block is one that may stand here."""
    # RFC 1421, section 4.6.1.1, as OpenSSL writes it; base64 has no colon.
    if label.startswith("ENCRYPTED ") or b"Proc-Type: 4,ENCRYPTED" in body:
        raise UnusableKeyError("is encrypted", _DECRYPT)
    if label in _PUBLIC_LABELS:
        raise UnusableKeyError("has a public key", _GIVE)
    if label in _CERTIFICATE_LABELS:
        raise UnusableKeyError("has a certificate or a request for one", f"leave that out: {_ALONE}")
    if label == "DSA PRIVATE KEY":
        raise unfit_kind("a DSA key")
    if label not in _KEY_LABELS and label != _PARAMETERS:
        raise UnusableKeyError(f"has a PEM block with the unknown label {label[:_LONGEST_LABEL]}", _GIVE)


def _from_base64(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        pass
    raise UnusableKeyError("has a PEM block that is not base64", _DAMAGED)


def _from_der(data: bytes) -> PrivateKey:
    """Parses what tells by its first elements which encoding it has."""
    tags = _tags(_content(data))
    if tags[:3] == [der.INTEGER, der.SEQUENCE, der.OCTET_STRING]:
        return _pkcs8(data)
    if tags[:2] == [der.INTEGER, der.OCTET_STRING]:
        return _sec1(_content(data), None)
    if len(tags) >= _RSA_NUMBERS and tags[:_RSA_NUMBERS] == [der.INTEGER] * _RSA_NUMBERS:
        return _pkcs1(data)
    if tags == [der.INTEGER] * _DSA_NUMBERS:
        raise unfit_kind("a DSA key")
    if tags == [der.SEQUENCE, der.OCTET_STRING]:
        raise UnusableKeyError("is encrypted", f"{_DECRYPT} (with -inform DER)")
    if tags in ([der.SEQUENCE, der.BIT_STRING], [der.INTEGER] * 2):
        raise UnusableKeyError("is a public key", _GIVE)
    if tags == [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]:
        raise UnusableKeyError("is a certificate or a request for one", _GIVE)
    if tags[:2] == [der.INTEGER, der.SEQUENCE]:
        raise UnusableKeyError("is PKCS#12", _KEYSTORE)
    raise UnusableKeyError("is no private key in DER", _GIVE)


def _content(data: bytes) -> der.Reader:
    """Returns a reader of the one SEQUENCE that `data` must be."""
    outer = der.Reader(data)
    content = outer.enter(der.SEQUENCE)
    if outer.more:
        raise UnusableKeyError("has something after the end of its key", _ALONE)
    return content


def _tags(reader: der.Reader) -> list[int]:
    tags = []
    while reader.more:
        tags.append(reader.read_any()[0])
    return tags


def _pkcs8(data: bytes) -> PrivateKey:
    """Parses a PrivateKeyInfo (RFC 5208) or OneAsymmetricKey (RFC 5958)."""
    reader = _content(data)
    version = reader.read_integer()
    algorithm = reader.enter(der.SEQUENCE)
    kind = der.dotted(algorithm.read_object_identifier())
    parameters = algorithm.read_whole(algorithm.peek() or 0) if algorithm.more else None
    algorithm.finish()
    private_key = reader.read(der.OCTET_STRING)
    # Attributes say something about the key that no tool that certd knows of asks for.
    if reader.peek() == der.context(0):
        reader.read(der.context(0))
    public = _whole_octets(reader.read(_PUBLIC_KEY_TAG)) if version == 1 and reader.more else None
    if reader.more:
        raise UnusableKeyError("has something after the end of its key", _ALONE)
    if version not in {0, 1}:
        raise UnusableKeyError("is PKCS#8 of an unknown version", _GIVE)
    key: PrivateKey
    if kind == _RSA and parameters in {None, _NULL}:
        key = _pkcs1(private_key)
    elif kind == _EC:
        key = _sec1(_content(private_key), _curve(parameters), public)
    elif kind == _ED25519 and parameters is None:
        inner = der.Reader(private_key)
        key = ed25519_key(inner.read(der.OCTET_STRING), public)
        inner.finish()
    else:
        raise unfit_kind(_UNFIT_ALGORITHMS.get(kind, f"a key of the kind {kind}"))
    return key


_NULL = b"\x05\x00"


def _pkcs1(data: bytes) -> PrivateKey:
    """Parses an RSAPrivateKey (RFC 8017, appendix A.1.2)."""
    reader = _content(data)
    version = reader.read_integer()
    if version == 1:
        raise unfit_kind("an RSA key of more than two primes")
    n, e, d, p, q, dp, dq, qinv = (reader.read_integer() for _ in range(_RSA_NUMBERS - 1))
    if version or reader.more:
        raise UnusableKeyError("has something that belongs to no RSA key", _DAMAGED)
    return rsa_key(RsaNumbers(n=n, e=e, d=d, p=p, q=q, qinv=qinv, exponents=(dp, dq)))


def _sec1(reader: der.Reader, curve: ec.EllipticCurve | None, public: bytes | None = None) -> PrivateKey:
    """Parses an ECPrivateKey (RFC 5915).

    Args:
        reader: of its content.
        curve: that stands beside it; None where none does.
        public: the public key that stands beside it.
    """
    if reader.read_integer() != 1:
        raise UnusableKeyError("is an EC key of an unknown version", _DAMAGED)
    value = reader.read(der.OCTET_STRING)
    if reader.peek() == der.context(0):
        inner = reader.enter(der.context(0))
        own = _curve(inner.read_whole(inner.peek() or 0))
        inner.finish()
        if curve is not None and own is not curve:
            raise UnusableKeyError("names two different curves", _DAMAGED)
        curve = own
    if reader.peek() == der.context(1):
        inner = reader.enter(der.context(1))
        own_public = _whole_octets(inner.read(der.BIT_STRING))
        inner.finish()
        if public not in {None, own_public}:
            raise UnusableKeyError("has two different public keys", _DAMAGED)
        public = own_public
    if reader.more:
        raise UnusableKeyError("has something after the end of its key", _ALONE)
    if curve is None:
        raise UnusableKeyError("does not name its curve", "give it as PKCS#8: openssl pkey -in KEY -out KEY.pem")
    return ec_key(value, curve, public)


def _curve(parameters: bytes | None) -> ec.EllipticCurve:
    """Returns the curve of ECParameters (RFC 5480, section 2.1.1)."""
    reader = der.Reader(parameters or b"")
    if reader.peek() == der.SEQUENCE:
        raise UnusableKeyError(
            "has explicit EC parameters, of a curve that anybody may have made up",
            "name the curve instead: openssl ec -in KEY -param_enc named_curve -out KEY.pem",
        )
    if reader.peek() != der.OBJECT_IDENTIFIER:
        raise UnusableKeyError("does not name its curve", _DAMAGED)
    name = der.dotted(reader.read_object_identifier())
    reader.finish()
    curve = CURVES.get(name)
    if curve is None:
        raise unfit_kind(f"an EC key on the curve {name}")
    return curve


def _whole_octets(bits: bytes) -> bytes:
    """Returns what a BIT STRING holds, which fills octets."""
    if bits[:1] != b"\x00":
        raise UnusableKeyError("has a public key in it that does not decode", _DAMAGED)
    return bits[1:]


_PARSERS: dict[str, Callable[[bytes], PrivateKey]] = {
    "PRIVATE KEY": _pkcs8,
    "RSA PRIVATE KEY": _pkcs1,
    "OPENSSH PRIVATE KEY": parse_openssh_key,
}
"""By the label of the PEM block, but for SEC1, whose curve may stand in another."""
_KEY_LABELS = frozenset({*_PARSERS, _SEC1})
