"""Lease statements: their bytes, and who can have signed one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError
from certd.pki.key_spec import KeySpec, generate_private_key, public_key_der
from certd.pki.lease import lease_statement, sign_lease, verify_lease_signature

FIELDS: dict[str, Any] = {
    "tenant": "t",
    "certificate": "cert",
    "version": 7,
    "consumer": "spiffe://certd.internal/identities/web",
    "public_key": bytes(range(32)),
    "sign_time": datetime(2030, 1, 1, 0, 0, 0, 250_001, tzinfo=UTC),
}
STATEMENT = b"a statement"
SIGNERS = (KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.RSA_2048)


def test_a_statement_is_what_the_api_says() -> None:
    microseconds = 1_893_456_000_250_001
    expected = b"".join(
        len(field).to_bytes(4) + field
        for field in (
            b"certd.lease.v1",
            b"t",
            b"cert",
            b"\0\0\0\0\0\0\0\x07",
            b"spiffe://certd.internal/identities/web",
            bytes(range(32)),
            microseconds.to_bytes(8),
        )
    )
    assert lease_statement(**FIELDS) == expected
    elsewhere = FIELDS["sign_time"].astimezone(timezone(timedelta(hours=-5)))
    assert lease_statement(**{**FIELDS, "sign_time": elsewhere}) == expected


@given(
    *[
        st.fixed_dictionaries(
            {
                "tenant": st.text(max_size=3),
                "certificate": st.text(max_size=3),
                "version": st.integers(1, 2**64 - 1),
                "consumer": st.text(max_size=3),
                "public_key": st.binary(min_size=32, max_size=32),
                "sign_time": st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
            }
        )
    ]
    * 2
)
def test_no_two_statements_are_the_same_bytes(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (lease_statement(**one) == lease_statement(**other)) is (one == other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0),
        ("version", 2**64),
        ("public_key", bytes(31)),
        ("public_key", bytes(33)),
        ("sign_time", datetime(1969, 12, 31, tzinfo=UTC)),
    ],
)
def test_a_field_out_of_its_bounds_is_named(field: str, value: object) -> None:
    with pytest.raises(CertdError) as caught:
        lease_statement(**{**FIELDS, field: value})
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("spec", SIGNERS)
def test_the_key_that_signed_verifies_and_no_other(spec: KeySpec) -> None:
    key = generate_private_key(spec)
    public_key = public_key_der(key.public_key())
    signature = sign_lease(key, STATEMENT)
    assert verify_lease_signature(public_key, statement=STATEMENT, signature=signature)
    assert not verify_lease_signature(public_key, statement=STATEMENT + b".", signature=signature)
    for at in range(len(signature)):
        bent = bytearray(signature)
        bent[at] ^= 1
        assert not verify_lease_signature(public_key, statement=STATEMENT, signature=bytes(bent))
    for another in SIGNERS:
        stranger = public_key_der(generate_private_key(another).public_key())
        assert not verify_lease_signature(stranger, statement=STATEMENT, signature=signature)


OTHER_WAYS: dict[str, tuple[KeySpec, Callable[[Any], bytes]]] = {
    "P-256 with SHA-384": (KeySpec.EC_P256, lambda key: key.sign(STATEMENT, ec.ECDSA(hashes.SHA384()))),
    "P-384 with SHA-256": (KeySpec.EC_P384, lambda key: key.sign(STATEMENT, ec.ECDSA(hashes.SHA256()))),
    "RSA with SHA-512": (KeySpec.RSA_2048, lambda key: key.sign(STATEMENT, padding.PKCS1v15(), hashes.SHA512())),
    "RSA-PSS": (
        KeySpec.RSA_2048,
        lambda key: key.sign(STATEMENT, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    ),
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_a_key_signs_in_one_way(way: str) -> None:
    spec, sign = OTHER_WAYS[way]
    key = generate_private_key(spec)
    public_key = public_key_der(key.public_key())
    assert not verify_lease_signature(public_key, statement=STATEMENT, signature=sign(key))


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 1024),
    ],
    ids=["Ed25519", "P-521", "RSA-1024"],
)
def test_keys_that_identities_do_not_have_sign_nothing(key: PrivateKeyTypes) -> None:
    with pytest.raises(CertdError) as caught:
        sign_lease(key, STATEMENT)
    assert [violation.field for violation in caught.value.violations] == ["private_key"]
    match key:
        case ed25519.Ed25519PrivateKey():
            signature = key.sign(STATEMENT)
        case ec.EllipticCurvePrivateKey():
            signature = key.sign(STATEMENT, ec.ECDSA(hashes.SHA512()))
        case rsa.RSAPrivateKey():
            signature = key.sign(STATEMENT, padding.PKCS1v15(), hashes.SHA256())
        case _:
            raise AssertionError(key)
    assert not verify_lease_signature(public_key_der(key.public_key()), statement=STATEMENT, signature=signature)


def test_what_is_no_key_verifies_nothing() -> None:
    assert not verify_lease_signature(b"no key", statement=STATEMENT, signature=b"")
