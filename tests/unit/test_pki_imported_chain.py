"""Chains of imported certificates: sorted and cleaned with a warning, and refused when a link is none."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki.encoding import pem
from certd.pki.imported_certificate import (
    MOST_IN_CHAIN,
    check,
)
from certd.pki.key_spec import KeySpec
from tests.outside_parent import OutsideAuthority, certify, name, outside_authority, pem_of
from tests.unit.imported_certificates import (
    ISSUER,
    KEY,
    LEAF,
    MIDDLE,
    NOW,
    ROOT,
    RSA,
    flipped,
    imported,
    leaf,
    refused,
    usage,
    warned,
)


def test_a_certificate_of_an_authority_needs_its_chain() -> None:
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(LEAF, b"", now=NOW),
        field="certificate",
        says="certificate (CN=www.example.com) is not self-signed, and there is no chain; give the certificate of its"
        " issuer (CN=Outside Issuer), and those above that, as certificate_chain",
    )
    # Its own name as issuer does not make it self-signed.
    of_itself = outside_authority("www.example.com", now=NOW)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(leaf(of_itself), b"", now=NOW),
        field="certificate",
        says="is not self-signed",
    )


def test_a_self_signed_certificate_takes_no_chain() -> None:
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(leaf(None), pem_of(ROOT.der), now=NOW),
        field="certificate_chain[0]",
        says="certificate_chain[0] (CN=Outside Root) is above nothing: certificate (CN=www.example.com) is self-signed",
    )


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(3)))
def test_a_chain_out_of_order_is_sorted_with_a_warning(order: list[int]) -> None:
    found = imported(LEAF, *(ISSUER.chain[index] for index in order))
    assert found.chain == ISSUER.chain
    expected = (
        []
        if order == [0, 1, 2]
        else [("certificate_chain", "was not in order from the issuer upwards, and was sorted")]
    )
    assert warned(found) == expected


def test_what_is_there_twice_is_left_out_with_a_warning() -> None:
    found = imported(LEAF, ISSUER.der, LEAF, MIDDLE.der, ISSUER.der, LEAF)
    assert found.chain == (ISSUER.der, MIDDLE.der)
    assert warned(found) == [
        ("certificate_chain[1]", "is the certificate itself, and was left out"),
        ("certificate_chain[3]", "is the same as certificate_chain[0], and was left out"),
        ("certificate_chain[4]", "is the certificate itself, and was left out"),
    ]
    # A bundle of nothing but the certificate is that of a self-signed one, of which nothing is left.
    own = leaf(None)
    assert warned(check(own, pem_of(own), now=NOW)) == [
        ("certificate_chain[0]", "is the certificate itself, and was left out")
    ]
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(LEAF, pem_of(LEAF), now=NOW),
        field="certificate",
        says="is not self-signed, and there is no chain",
    )


def test_strangers_are_refused_by_name() -> None:
    other = outside_authority("Stranger", now=NOW)
    below = outside_authority("Stranger's Issuer", other, now=NOW)
    for chain, field, says in [
        ((*ISSUER.chain, other.der), "certificate_chain[3]", "(CN=Stranger) is not between certificate and its root"),
        ((other.der, *ISSUER.chain), "certificate_chain[0]", "(CN=Stranger) is not between certificate and its root"),
        (
            (ISSUER.der, MIDDLE.der, other.der),
            "certificate_chain[2]",
            "(CN=Stranger) did not sign certificate_chain[1]",
        ),
        # A hole in the chain.
        ((ISSUER.der, ROOT.der), "certificate_chain[1]", "(CN=Outside Root) did not sign certificate_chain[0]"),
        ((MIDDLE.der, ROOT.der), "certificate", "CN=Outside Issuer is missing"),
        (below.chain, "certificate", "has no issuer in the chain: CN=Outside Issuer is missing"),
    ]:
        refused(Reason.IMPORT_CHAIN_INVALID, lambda c=chain: imported(LEAF, *c), field=field, says=says)  # type: ignore[misc]


def test_who_did_not_sign_is_no_issuer() -> None:
    namesake = outside_authority("Outside Issuer", MIDDLE, now=NOW)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(LEAF, *namesake.chain),
        field="certificate_chain[0]",
        says="has the name of the issuer of certificate (CN=www.example.com), but its key identifier is not",
    )
    unmarked = leaf(without=(x509.KeyUsage, x509.AuthorityKeyIdentifier))
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(unmarked, *namesake.chain),
        field="certificate_chain[0]",
        says="but its key did not make that signature",
    )


def test_who_may_not_sign_is_no_issuer() -> None:
    no_authority = certify(ROOT, now=NOW, subject=name("Not an Issuer"), public_key=KEY.public_key(), authority=False)
    below = OutsideAuthority(certificate=no_authority, key=KEY, above=(ROOT,))
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(leaf(below, key=RSA), *below.chain),
        field="certificate_chain[0]",
        says="is no authority's: it has no basic constraints with CA:TRUE",
    )
    bits = usage("crl_sign", "digital_signature")
    unfit = outside_authority("Lists only", ROOT, now=NOW, extensions=[bits])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(leaf(unfit), *unfit.chain),
        field="certificate_chain[0]",
        says="may not sign certificates: its key usage has no keyCertSign",
    )


def test_path_lengths_hold() -> None:
    root = outside_authority("Short Root", now=NOW, path_length=0)
    issuer = outside_authority("Issuer", root, now=NOW)
    assert imported(leaf(root), root.der).chain == (root.der,)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(leaf(issuer), *issuer.chain),
        field="certificate_chain[1]",
        says="has the path length 0, and 1 authorities stand between it and certificate",
    )


def test_an_authority_with_a_weak_key_is_refused() -> None:
    weak = outside_authority("Weak", ROOT, now=NOW, key=rsa.generate_private_key(65537, 1024))
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: imported(leaf(weak), *weak.chain),
        field="certificate_chain[0]",
        says="has an RSA key of 1024 bits",
    )


def test_a_bundle_of_all_the_authorities_of_the_world_is_refused_at_once() -> None:
    # All of one name and each by another key: sorting these would verify a thousand signatures.
    key = ec.generate_private_key(ec.SECP256R1())
    many = [outside_authority("Outside Issuer", now=NOW, key=key).der for _ in range(MOST_IN_CHAIN + 1)]
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(LEAF, *many),
        field="certificate_chain",
        says=f"has {MOST_IN_CHAIN + 1} certificates, more than {MOST_IN_CHAIN}",
    )
    # Copies count once.
    assert imported(LEAF, *([ISSUER.der] * (MOST_IN_CHAIN + 1))).chain == (ISSUER.der,)


def test_another_family_than_its_issuers_is_worth_a_warning() -> None:
    assert warned(imported(leaf(key=RSA))) == [
        ("certificate", "has a key of the family RSA that an authority with one of the family EC certified")
    ]
    authority = outside_authority("RSA Root", now=NOW, key=RSA)
    assert warned(imported(leaf(authority), authority.der)) == [
        ("certificate", "has a key of the family EC that an authority with one of the family RSA certified")
    ]
    assert imported(leaf(authority, key=rsa.generate_private_key(65537, 2048)), authority.der).warnings == ()


def test_an_edwards_key_is_imported() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    made = certify(ISSUER, now=NOW, subject=name("ed"), public_key=key.public_key(), authority=False)
    found = imported(made.public_bytes(Encoding.DER))
    assert found.key_spec is KeySpec.ED25519
    assert [message for _, message in warned(found)] == [
        "has a key of the family Edwards that an authority with one of the family EC certified"
    ]


# Whatever is changed, what is accepted is what the issuer signed.


_FLIPS = settings(max_examples=300, deadline=None)
# The library only warns of them.
_ODD_SERIALS = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")


@_ODD_SERIALS
@_FLIPS
@given(st.integers(0, 8 * len(LEAF) - 1))
def test_a_flipped_bit_of_the_certificate_is_refused(bit: int) -> None:
    with pytest.raises(CertdError):
        imported(flipped(LEAF, bit), *ISSUER.chain)


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_signature_is_of_whole_octets(bits: int) -> None:
    """The library reads one whose last bits are zero, and said to be unused, as if nothing was said."""
    even = next(made for made in iter(leaf, b"") if not made[-1] & ((1 << bits) - 1))
    assert imported(even).key_spec is KeySpec.EC_P256
    signature = x509.load_der_x509_certificate(even).signature
    odd = even[: -len(signature) - 1] + bytes([bits]) + signature
    refused(
        Reason.IMPORT_NOT_PEM,
        lambda: imported(odd),
        field="certificate",
        says="is not the DER of a certificate that decodes",
    )


@_ODD_SERIALS
@_FLIPS
@given(st.integers(0, 8 * len(ISSUER.der) - 1))
def test_a_flipped_bit_of_the_chain_is_refused(bit: int) -> None:
    """With the next one above it: alone, what only names that one is not held against anything."""
    chain = "".join(pem("CERTIFICATE", one) for one in (flipped(ISSUER.der, bit), MIDDLE.der))
    with pytest.raises(CertdError):
        check(LEAF, chain.encode(), now=NOW)
