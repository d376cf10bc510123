"""Keys whose private half anybody can find: weak RSA moduli, points that are no keys, keys that are on a list.

Every test reads the public key alone and is bounded: an RSA modulus costs a fifth of a millisecond once, then nothing,
for the verdict is kept; an EC key costs nothing, for the library checks its point when it is parsed.

The keys that Debian's OpenSSL made from 2006 to 2008 (CVE-2008-0166) bear no mark of their own. A list alone tells them
from others, as it does keys that were published by mistake. It has megabytes and grows from day to day, so it is no
part of certd: `use_known_keys` takes the one that the badkeys project keeps.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from mmap import mmap

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certd.errors import field_invalid
from certd.pki.key_spec import RSA_PUBLIC_EXPONENT

FERMAT_ROUNDS = 100
"""What the CA/Browser Forum asks for (Baseline Requirements, section 6.1.1.3); the keys that were found need one."""

_HIGHEST_EXPONENT = 1 << 32
"""Higher ones have no use and make every verification slow."""
_HIGHEST_SMALL_PRIME = 10_000
_HIGHEST_ROCA_PRIME = 701
"""The library behind CVE-2017-15361 made keys of 1984 to 3936 bits with the primes up to this one, larger ones with
more: what these primes tell is enough for both."""
_RECORD = 16
"""Octets of one key in a list: 15 of a SHA-256, and the number of the list that it came from."""
_DIGEST = 15
_ED25519_PRIME = (1 << 255) - 19
# The y of the eight points whose order divides 8 (RFC 7748, section 7, is about their kin): their secret has no part in
# a signature, so that anybody can sign for them.
_ED25519_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _ED25519_PRIME - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        _ED25519_PRIME - 2707385501144840649318225287225658788936804267575313519463743609750303402022,
    }
)


class KnownKeys:
    """A sorted list of public keys whose private ones are known, in the format of badkeys' `blocklist.dat`.

    Each record is the first 15 octets of the SHA-256 of an RSA modulus, of an EC point's x or of an Ed25519 key, as
    a number without leading zeros, and one octet for the list that it came from.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | mmap) -> None:
        """Takes the list. FIELD_INVALID when it is empty, cut off or not sorted at its ends."""
        if not len(data) or len(data) % _RECORD or data[:_DIGEST] > data[-_RECORD:-1]:
            raise field_invalid("known_keys", "is not a sorted list of 16-octet records; fetch it again")
        self._data = data

    def __contains__(self, number: object) -> bool:
        """Returns whether the key whose distinguishing number this is stands in the list."""
        if not isinstance(number, int):
            return False
        wanted = hashlib.sha256(number.to_bytes((number.bit_length() + 7) // 8)).digest()[:_DIGEST]
        low, high = 0, len(self._data) // _RECORD
        while low < high:
            middle = (low + high) // 2
            if self._data[middle * _RECORD : middle * _RECORD + _DIGEST] < wanted:
                low = middle + 1
            else:
                high = middle
        return self._data[low * _RECORD : low * _RECORD + _DIGEST] == wanted


_known_keys: KnownKeys | None = None


def use_known_keys(keys: KnownKeys | None) -> None:
    """Has every key looked up in a list from now on; None ends it. Called once, where a process is put together."""
    global _known_keys  # noqa: PLW0603  # The list belongs to the process, as the verdicts that are kept do.
    _known_keys = keys


def weakness(public_key: PublicKeyTypes) -> str | None:
    """Returns what makes a key worthless, as the rest of a sentence about it with the remedy; None when nothing does.

    Whether its kind and size are accepted is not looked at here.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        # The library has refused what is not on the curve, and the point at infinity; the groups have prime order.
        return None if _known_keys is None else _known_problem(public_key.public_numbers().x)
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        if not RSA_PUBLIC_EXPONENT <= numbers.e < _HIGHEST_EXPONENT or numbers.e % 2 == 0:
            return "has an RSA exponent that is not an odd number from 65537 to 2^32; make a key with exponent 65537"
        return _modulus_weakness(numbers.n) or _known_problem(numbers.n)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        raw = public_key.public_bytes_raw()
        return _ed25519_weakness(raw) or _known_problem(int.from_bytes(raw))
    return None


def _known_problem(number: int) -> str | None:
    if _known_keys is None or number not in _known_keys:
        return None
    return "is on the list of keys whose private half is public; make another key, on a system of today"


@lru_cache(maxsize=4096)
def _modulus_weakness(modulus: int) -> str | None:
    if math.gcd(modulus, _small_primes_product()) != 1:
        return f"has a modulus with a factor below {_HIGHEST_SMALL_PRIME}, so that it is damaged; make another key"
    if _has_roca_fingerprint(modulus):
        return (
            "was made by a library that leaves its private key to be computed (ROCA, CVE-2017-15361); "
            "make another key, outside the smart card or module that made this one"
        )
    if _has_close_factors(modulus):
        return "has prime factors so close to each other that anybody finds them; make another key"
    return None


@lru_cache(maxsize=1)
def _small_primes_product() -> int:
    return math.prod(_primes(_HIGHEST_SMALL_PRIME))


def _primes(end: int) -> Iterator[int]:
    """Yields the primes below `end`."""
    composite = bytearray(end)
    for number in range(2, end):
        if not composite[number]:
            yield number
            composite[number * number :: number] = b"\x01" * len(range(number * number, end, number))


@lru_cache(maxsize=1)
def _roca_subgroups() -> tuple[tuple[int, frozenset[int]], ...]:
    """Returns the primes that tell something, each with the powers of 65537 modulo it.

    A prime factor of a ROCA key is a power of 65537 modulo the product of the first primes, and so is the modulus. For
    many of these primes 65537 has few powers, which other moduli miss as often as not.
    """
    subgroups: list[tuple[int, frozenset[int]]] = []
    for prime in _primes(_HIGHEST_ROCA_PRIME + 1):
        powers: set[int] = set()
        power = 1
        while power not in powers:
            powers.add(power)
            power = power * RSA_PUBLIC_EXPONENT % prime
        if len(powers) < prime - 1:
            subgroups.append((prime, frozenset(powers)))
    return tuple(subgroups)


def _has_roca_fingerprint(modulus: int) -> bool:
    return all(modulus % prime in powers for prime, powers in _roca_subgroups())


def _has_close_factors(modulus: int) -> bool:
    """Returns whether Fermat's method finds the factors: with a mean of theirs near the root, its square less n is one.

    Squares end in 0, 1, 4 or 9 modulo 16, which spares three roots of four.
    """
    mean = math.isqrt(modulus)
    if mean * mean == modulus:
        return True
    mean += 1
    difference = mean * mean - modulus
    for _ in range(FERMAT_ROUNDS):
        if difference & 15 in {0, 1, 4, 9}:
            root = math.isqrt(difference)
            if root * root == difference:
                return True
        difference += 2 * mean + 1
        mean += 1
    return False


def _ed25519_weakness(raw: bytes) -> str | None:
    height = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if height >= _ED25519_PRIME or height in _ED25519_SMALL_ORDER:
        return "is a point of small order or not in its one encoding, so that it proves nothing; make another key"
    return None
