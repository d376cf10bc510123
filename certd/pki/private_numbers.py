"""Private keys from the numbers that stand in a file, each checked to be a key and to belong together.

The library's own check of an RSA key looks for primes, holds the interpreter for a quarter of a second, and its words
are not ours. What is checked here costs milliseconds and tells as much: the relations between the numbers, and a
signature, which verifies only when the factors behave as primes do.
"""

from dataclasses import dataclass

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.pki.key_spec import ACCEPTED_KEYS
from certd.pki.weak_keys import weakness

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

CURVES: dict[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
    "1.3.132.0.35": ec.SECP521R1(),
}
"""By their object identifiers."""

_MAKE_AGAIN = "export the key again from where it was made, for this file is damaged"
_PROBE = b"certd"


class UnusableKeyError(Exception):
    """What was given as a private key is none, or none that can be imported. It never tells a byte of it.

    Args:
        problem: the rest of a sentence about it.
        remedy: what to do, as an order.
        unfit: whether the key itself is of a kind or a strength that is not accepted.
    """

    def __init__(self, problem: str, remedy: str, *, unfit: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.unfit = unfit


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaNumbers:
    """The numbers of an RSA key (RFC 8017, section 3.2), as they stand in a file."""

    n: int
    e: int
    d: int
    p: int
    q: int
    qinv: int
    exponents: tuple[int, int] | None = None
    """d modulo p - 1 and q - 1, where the file has them."""

    def __repr__(self) -> str:
        return "RsaNumbers(…)"


def unfit_kind(kind: str) -> UnusableKeyError:
    """Returns the error for a key of a kind that is not accepted."""
    return UnusableKeyError(f"is {kind}, which is not accepted", f"use a key that is {ACCEPTED_KEYS}", unfit=True)


def rsa_key(numbers: RsaNumbers) -> rsa.RSAPrivateKey:
    """Returns an RSA key whose numbers belong together; raises UnusableKeyError."""
    n, e = numbers.n, numbers.e
    # First what is public and bounds the cost of everything after.
    if n.bit_length() not in {2048, 3072, 4096}:
        raise unfit_kind(f"an RSA key of {n.bit_length()} bits")
    if not all(0 < number <= n for number in (e, numbers.d, numbers.p, numbers.q, numbers.qinv)):
        raise UnusableKeyError("has an RSA number that is not between 0 and the modulus", _MAKE_AGAIN)
    if numbers.p * numbers.q != n or 1 in {numbers.p, numbers.q}:
        raise UnusableKeyError("is inconsistent: p times q is not its modulus", _MAKE_AGAIN)
    public = _public_key(e, n)
    below_p, below_q = numbers.p - 1, numbers.q - 1
    exponents = (numbers.d % below_p, numbers.d % below_q)
    if numbers.d * e % below_p != 1 or numbers.d * e % below_q != 1:
        raise UnusableKeyError("is inconsistent: its private exponent does not undo its public one", _MAKE_AGAIN)
    if numbers.exponents not in {None, exponents} or numbers.qinv * numbers.q % numbers.p != 1:
        raise UnusableKeyError("is inconsistent: its CRT numbers do not follow from p, q and d", _MAKE_AGAIN)
    private = rsa.RSAPrivateNumbers(
        p=numbers.p,
        q=numbers.q,
        d=numbers.d,
        dmp1=exponents[0],
        dmq1=exponents[1],
        iqmp=numbers.qinv,
        public_numbers=public.public_numbers(),
    )
    key = _signing_key(private, public)
    if key is None:
        raise UnusableKeyError(
            "is inconsistent: what it signs does not verify, so that p or q is no prime", _MAKE_AGAIN
        )
    return key


def ec_key(value: bytes, curve: ec.EllipticCurve, point: bytes | None) -> ec.EllipticCurvePrivateKey:
    """Returns an EC key; raises UnusableKeyError.

    Args:
        value: the private number, most significant octet first.
        curve: one of `CURVES`.
        point: the public key that stands beside it, in either form of SEC 1, section 2.3.3; None where there is none.
    """
    try:
        key = ec.derive_private_key(int.from_bytes(value), curve)
    except (ValueError, InternalError):
        key = None
    if key is None:
        raise UnusableKeyError("has an EC number that is not between 0 and the order of its curve", _MAKE_AGAIN)
    public = key.public_key()
    _check_strength(public)
    forms = [public.public_bytes(Encoding.X962, form) for form in _POINT_FORMS]
    if point is not None and point not in forms:
        raise UnusableKeyError("is inconsistent: the public key in it is not that of its private number", _MAKE_AGAIN)
    return key


_POINT_FORMS = (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)


def ed25519_key(value: bytes, public: bytes | None) -> ed25519.Ed25519PrivateKey:
    """Returns an Ed25519 key (RFC 8032, section 5.1.5); raises UnusableKeyError.

    Args:
        value: the private key, 32 octets.
        public: the public key that stands beside it; None where there is none.
    """
    if len(value) != 32:
        raise UnusableKeyError("has an Ed25519 key that is not of 32 octets", _MAKE_AGAIN)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(value)
    _check_strength(key.public_key())
    if public not in {None, key.public_key().public_bytes_raw()}:
        raise UnusableKeyError("is inconsistent: the public key in it is not that of its private one", _MAKE_AGAIN)
    return key


def _public_key(e: int, n: int) -> rsa.RSAPublicKey:
    try:
        public = rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, InternalError):
        public = None
    if public is None:
        raise UnusableKeyError("has an RSA exponent or modulus that no key has", _MAKE_AGAIN)
    _check_strength(public)
    return public


def _signing_key(private: rsa.RSAPrivateNumbers, public: rsa.RSAPublicKey) -> rsa.RSAPrivateKey | None:
    """Returns the key when a signature that it makes verifies; None otherwise."""
    try:
        key = private.private_key(unsafe_skip_rsa_key_validation=True)
        signature = key.sign(_PROBE, padding.PKCS1v15(), hashes.SHA256())
        public.verify(signature, _PROBE, padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InternalError, InvalidSignature, UnsupportedAlgorithm):
        return None
    return key


def _check_strength(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> None:
    """Raises UnusableKeyError for a key that anybody can find."""
    problem = weakness(public)
    if problem is not None:
        finding, _, remedy = problem.partition("; ")
        raise UnusableKeyError(finding, remedy, unfit=True)
