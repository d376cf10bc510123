"""A new version of an imported certificate takes nothing from the consumers of the one before."""

from collections.abc import Callable, Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from certd.errors import CertdError, Reason
from certd.pki.imported_certificate import (
    check,
    check_reimport,
)
from tests.outside_parent import Extension, name, outside_authority, pem_of
from tests.unit.imported_certificates import (
    ISSUER,
    KEY,
    NOW,
    RSA,
    dns,
    extended,
    imported,
    leaf,
    usage,
)

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
FULL = (
    dns("www.example.com", "example.com"),
    usage("digital_signature", "key_encipherment"),
    extended(SERVER, CLIENT),
)


def reimported(
    old: bytes, extensions: Sequence[Extension], *, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = RSA
) -> list[str]:
    """Returns the warnings of a new version with these extensions."""
    new = check(leaf(key=key, extensions=extensions), pem_of(*ISSUER.chain), now=NOW)
    return [warning.message for warning in check_reimport(old, new)]


def not_compatible(call: Callable[[], object], *problems: str) -> str:
    with pytest.raises(CertdError) as caught:
        call()
    error = caught.value
    assert error.reason is Reason.IMPORT_NOT_COMPATIBLE
    assert [violation.description for violation in error.violations] == list(problems)
    assert {violation.field for violation in error.violations} == {"certificate"}
    for problem in problems:
        assert problem in error.message
    assert "; " in error.message
    return error.message


def test_the_same_again_with_another_key_is_compatible() -> None:
    old = leaf(key=RSA, extensions=FULL)
    assert reimported(old, FULL, key=rsa.generate_private_key(65537, 2048)) == []
    other = outside_authority("Another Root", now=NOW)
    assert check_reimport(old, imported(leaf(other, key=RSA, extensions=FULL), other.der)) == ()


def test_usages_may_grow() -> None:
    old = leaf(key=RSA, extensions=FULL)
    more = (
        dns("other.example.com", "www.example.com"),
        usage("digital_signature", "key_encipherment", "content_commitment"),
        extended(SERVER, CLIENT, ExtendedKeyUsageOID.CODE_SIGNING),
    )
    assert reimported(old, more) == []
    anything = (*FULL[:2], extended(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))
    assert reimported(old, anything) == []


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            rsa.generate_private_key(65537, 3072),
            "has a key of the kind RSA_3072 where the current version has RSA_2048",
        ),
        (KEY, "has a key of the kind EC_P256 where the current version has RSA_2048"),
    ],
)
def test_kind_and_size_of_the_key_stay(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, says: str) -> None:
    old = leaf(key=RSA, extensions=FULL)
    not_compatible(lambda: reimported(old, FULL, key=key), says)


def test_everything_that_is_missing_is_named() -> None:
    old = leaf(
        key=RSA,
        extensions=(
            dns("old.example.com"),
            usage("digital_signature", "key_encipherment", "content_commitment"),
            extended(SERVER, ExtendedKeyUsageOID.EMAIL_PROTECTION, x509.ObjectIdentifier("1.3.6.1.4.1.55555.9")),
        ),
    )
    new = (dns("new.example.com"), usage("digital_signature"), extended(SERVER))
    message = not_compatible(
        lambda: reimported(old, new),
        "lacks the key usage contentCommitment",
        "lacks the key usage keyEncipherment",
        "lacks the extended key usage 1.3.6.1.5.5.7.3.4 (emailProtection)",
        "lacks the extended key usage 1.3.6.1.4.1.55555.9",
        "lacks any of its names: old.example.com",
    )
    assert message.startswith("certificate (CN=www.example.com) cannot take the place of the current version")


def test_key_encipherment_may_go_from_an_ec_certificate() -> None:
    old = leaf(key=KEY, extensions=FULL)
    new = (FULL[0], usage("digital_signature"), FULL[2])
    assert reimported(old, new, key=KEY) == [
        "lacks, other than the current version, the key usage keyEncipherment, which means nothing here"
    ]
    old = leaf(key=RSA, extensions=FULL)
    not_compatible(lambda: reimported(old, new), "lacks the key usage keyEncipherment")


def test_client_authentication_may_go_with_a_warning() -> None:
    old = leaf(key=RSA, extensions=FULL)
    (warning,) = reimported(old, (*FULL[:2], extended(SERVER)))
    assert "lacks, other than the current version, the extended key usage 1.3.6.1.5.5.7.3.2 (clientAuth)" in warning
    assert "consumers that use it as a client will be refused" in warning
    not_compatible(
        lambda: reimported(old, (*FULL[:2], extended(CLIENT))),
        "lacks the extended key usage 1.3.6.1.5.5.7.3.1 (serverAuth)",
    )


def test_an_extension_that_comes_or_goes_whole_is_worth_a_warning() -> None:
    bare, full = leaf(key=RSA, extensions=FULL[:1]), leaf(key=RSA, extensions=FULL)
    restricted = "which restricts it to what stands there; the current version has none and is not restricted"
    assert reimported(bare, FULL) == [
        f"has the extension key usage, {restricted}",
        f"has the extension extended key usage, {restricted}",
    ]
    gone = "where the current version has one; some consumers ask for it"
    assert reimported(full, FULL[:1]) == [
        f"has no extension key usage, {gone}",
        f"has no extension extended key usage, {gone}",
    ]


def test_one_name_stays() -> None:
    old = leaf(key=RSA, extensions=FULL)
    assert reimported(old, (dns("EXAMPLE.com", "new.example.com"), *FULL[1:])) == []
    not_compatible(
        lambda: reimported(old, (dns("new.example.com"), *FULL[1:])),
        "lacks any of its names: example.com, www.example.com",
    )
    many = leaf(key=RSA, extensions=(dns(*(f"n{number}.example" for number in range(9))), *FULL[1:]))
    not_compatible(
        lambda: reimported(many, FULL),
        "lacks any of its names: n0.example, n1.example, n2.example, n3.example, n4.example, …",
    )
    # Where there is no other, the CN counts, as consumers of then have it.
    by_cn = leaf(subject=name("Pump 7"), key=RSA, extensions=FULL[1:])
    new = check(leaf(subject=name("pump 7"), key=RSA, extensions=FULL[1:]), pem_of(*ISSUER.chain), now=NOW)
    assert check_reimport(by_cn, new) == ()
    not_compatible(lambda: reimported(by_cn, FULL), "lacks any of its names: pump 7")
