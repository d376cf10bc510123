"""Weak keys are made here as the faulty libraries made them, and none of them passes; good keys do."""

import base64
import hashlib
import math
import random
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certd.errors import CertdError, Reason
from certd.pki import der, weak_keys
from certd.pki.csr import key_problem, parse_csr
from certd.pki.key_spec import KeySpec, generate_private_key
from certd.pki.weak_keys import KnownKeys, use_known_keys, weakness

_RANDOM = random.Random(2017)  # Weak keys may be predictable.
_RSA = rsa.generate_private_key(65537, 2048)

# Made by Debian's OpenSSL 0.9.8 (CVE-2008-0166); found in the tests of badkeys, and in every list of such keys.
_DEBIAN_KEY = (
    "MIIBCgKCAQEAwJZTDExKND/DiP+LbhTIi2F0hZZt0PdX897LLwPf3+b1GOCUj1OHBZvVqhJPJtOPE53W68I0NgVhaJdY6bFOA/cUUIFnN0y/ZOJOJsPN"
    "le1aXQTjxAS+FXu4CQ6a2pzcU+9+gGwed7XxAkIVCiTprfmRCI2vIKdb61S8kf5D3YdVRH/Tq977nxyYeosEGYJFBOIT+N0mqca37S8hA9hCJyD3p0AM"
    "40dD5M5ARAxpAT7+oqOXkPzfzLtCTaHYJK3+WAce121Br4NuQJPqYPVxniUPohT4YxFTqB7vwX2C4/gZ2ldpHtlgJVAHT96nOsnlz+EPa5GtwxtALD43"
    "CwOlWQIDAQAB"
)
# Made by a smart card with the library of CVE-2017-15361; found in the same place.
_ROCA_KEY = (
    "MIIBCgKCAQEAkTKtIR/MDftNrkgyashkwifks5Swm9HEkw4ZcCijyQdpTStInk9pdUrq4zjG6tk5xX9AaYXLu47fmiBVzClGvAXTZbpn6JbG1IERUs+i"
    "0pBRT5CzUu7vJ/63L72NzVvJFaT0SUE5zByhCjJE+pflMnX1e1UptOdnN5AHeY4RKkugVse3XO2xMs3yH3vTyZdtnaOIFRU0d6E7PrsgRtEAqFHcAGmP"
    "Uw0ZOW8A++8sS/FlnrxMf9lVa1/8k/A8otPfrNIipfAoq0MKJ+oxE2wML1DDxIGTGmNaN3gPANJyeuca7ptA+NGq5oU1x3pWMXgSvrVSXUooNk8xIkrK"
    "xSz3LQIDAQAB"
)


@pytest.fixture
def known_keys_are_off_again() -> Iterator[None]:
    yield
    use_known_keys(None)


def _rsa_key(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _pkcs1(text: str) -> rsa.RSAPublicKey:
    reader = der.Reader(base64.b64decode(text)).enter(der.SEQUENCE)
    modulus = reader.read_integer()
    return _rsa_key(modulus, reader.read_integer())


def _is_prime(number: int) -> bool:
    if math.gcd(number, math.prod(range(3, 1000, 2))) != 1:
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(8):
        power = pow(_RANDOM.randrange(2, number - 1), odd, number)
        if power not in {1, number - 1} and not any(pow(power, 1 << i, number) == number - 1 for i in range(1, twos)):
            return False
    return True


def _next_prime(number: int) -> int:
    return next(candidate for candidate in range(number | 1, number + 100_000, 2) if _is_prime(candidate))


def _roca_prime(bits: int) -> int:
    """Returns a prime as that library made it: k·M + (65537^a mod M), M the product of the first 126 primes."""
    product = math.prod(weak_keys._primes(702))
    while True:
        k = _RANDOM.randrange(3 << (bits - 2), 1 << bits) // product
        candidate = k * product + pow(65537, _RANDOM.randrange(1 << 256), product)
        if candidate.bit_length() == bits and _is_prime(candidate):
            return candidate


@pytest.mark.parametrize("spec", KeySpec)
def test_new_keys_are_good(spec: KeySpec) -> None:
    assert weakness(generate_private_key(spec).public_key()) is None


def test_moduli_are_not_taken_for_roca_by_chance() -> None:
    moduli = [_RANDOM.getrandbits(2048) | 1 << 2047 | 1 for _ in range(2000)]
    assert not any(map(weak_keys._has_roca_fingerprint, moduli))
    assert not any(map(weak_keys._has_close_factors, moduli[:50]))


def test_roca() -> None:
    made = _rsa_key(_roca_prime(1024) * _roca_prime(1024))
    for key in (made, _pkcs1(_ROCA_KEY)):
        assert key.key_size == 2048
        found = key_problem(key)
        assert found is not None
        assert "CVE-2017-15361" in found


@pytest.mark.parametrize("distance", [2, 1 << 300, 1 << 515])
def test_close_primes(distance: int) -> None:
    first = _next_prime(3 << 1022 | _RANDOM.getrandbits(1000))
    found = key_problem(_rsa_key(first * _next_prime(first + distance)))
    assert found is not None
    assert "close to each other" in found


def test_square() -> None:
    prime = _next_prime(3 << 1022)
    found = key_problem(_rsa_key(prime * prime))
    assert found is not None
    assert "close to each other" in found


def test_primes_a_good_distance_apart() -> None:
    first = _next_prime(3 << 1022)
    assert key_problem(_rsa_key(first * _next_prime(first + (1 << 600)))) is None


@pytest.mark.parametrize("factor", [3, 5, 7919, 9973])
def test_small_factors(factor: int) -> None:
    modulus = next(
        n for n in range((1 << 2047) // factor * factor + factor, 1 << 2048, factor) if n % 2 and n.bit_length() == 2048
    )
    found = key_problem(_rsa_key(modulus))
    assert found is not None
    assert "factor below" in found


@pytest.mark.parametrize("exponent", [3, 17, 65535, (1 << 32) + 1, (1 << 256) + 297])
def test_exponents(exponent: int) -> None:
    found = key_problem(_rsa_key(_RSA.public_key().public_numbers().n, exponent))
    assert found is not None
    assert "65537" in found


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        rsa.generate_private_key(65537, 2056).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ec.generate_private_key(ec.SECP192R1()).public_key(),
    ],
)
def test_kinds_and_sizes(key: PublicKeyTypes) -> None:
    found = key_problem(key)
    assert found is not None
    assert "not accepted" in found


@pytest.mark.parametrize(
    "encoded",
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    ],
)
def test_ed25519_points_of_small_order(encoded: str) -> None:
    found = key_problem(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(encoded)))
    assert found is not None
    assert "small order" in found


_EC_ALGORITHM = der.sequence(der.object_identifier("1.2.840.10045.2.1"), der.object_identifier("1.2.840.10045.3.1.7"))
_RSA_ALGORITHM = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), b"\x05\x00")
_MODULUS = _RSA.public_key().public_numbers().n


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        (_EC_ALGORITHM, b"\x00"),
        (_EC_ALGORITHM, b"\x04" + bytes(64)),
        (_EC_ALGORITHM, b"\x04" + b"\xff" * 64),
        (_EC_ALGORITHM, b"\x02" + b"\xff" * 32),
        (_EC_ALGORITHM, b"\x04"),
        (_EC_ALGORITHM, b""),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS), der.integer(0))),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS), der.integer(1))),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS), der.integer(-3))),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS), der.integer(65536))),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS), der.integer(_MODULUS + 2))),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS - 1), der.integer(65537))),
        (_RSA_ALGORITHM, der.sequence(der.integer(0), der.integer(65537))),
        (_RSA_ALGORITHM, der.sequence(der.integer(-_MODULUS), der.integer(65537))),
        (_RSA_ALGORITHM, der.sequence(der.integer(_MODULUS << 15_000 | 1), der.integer(65537))),
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_with_a_reason(algorithm: bytes, key: bytes) -> None:
    info = der.sequence(der.integer(0), der.sequence(), der.sequence(algorithm, der.bit_string(key)), b"\xa0\x00")
    signed_by = der.sequence(der.object_identifier("1.2.840.113549.1.1.11"), b"\x05\x00")
    with pytest.raises(CertdError) as caught:
        parse_csr(der.sequence(info, signed_by, der.bit_string(b"x" * 256)))
    assert caught.value.reason in {Reason.CSR_MALFORMED, Reason.KEY_TOO_WEAK}
    assert caught.value.violations


def _list_of(*numbers: int) -> KnownKeys:
    digests = (hashlib.sha256(n.to_bytes((n.bit_length() + 7) // 8)).digest()[:15] for n in numbers)
    return KnownKeys(b"".join(digest + b"\x01" for digest in sorted(digests)))


@pytest.mark.usefixtures("known_keys_are_off_again")
def test_keys_on_the_list() -> None:
    debian = _pkcs1(_DEBIAN_KEY)
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    listed: tuple[PublicKeyTypes, ...] = (debian, point, edwards)
    assert [weakness(key) for key in listed] == [None, None, None]
    numbers = (debian.public_numbers().n, point.public_numbers().x, int.from_bytes(edwards.public_bytes_raw()))
    use_known_keys(_list_of(*numbers, *range(1000)))
    for key in listed:
        found = key_problem(key)
        assert found is not None
        assert "on the list" in found
    assert weakness(_RSA.public_key()) is None
    assert weakness(ec.generate_private_key(ec.SECP256R1()).public_key()) is None


def test_list_finds_every_number_and_no_other() -> None:
    known = _list_of(*range(0, 200, 2))
    assert [number for number in range(201) if number in known] == list(range(0, 200, 2))
    assert "0" not in known


@pytest.mark.parametrize("data", [b"", b"x" * 15, b"x" * 17, b"b" * 16 + b"a" * 16])
def test_what_is_no_list(data: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        KnownKeys(data)
    assert caught.value.reason is Reason.FIELD_INVALID


def test_library_checks_points() -> None:
    # `weakness` relies on it.
    with pytest.raises(ValueError, match="infinity"):
        load_der_public_key(der.sequence(_EC_ALGORITHM, der.bit_string(b"\x00")))
