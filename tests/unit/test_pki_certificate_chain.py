"""The chain above an authority: whatever breaks it is refused, and the certificate that does is named."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from certd.errors import Reason
from certd.pki.authority_certificate import accept
from certd.pki.key_spec import public_key_der
from tests.outside_parent import OutsideAuthority, certify, key_usage, name, outside_authority, pem_of
from tests.unit.outside_certificates import AWAITING, KEY, MIDDLE, NOW, ROOT, UNKNOWN, accepted, made, refused


def test_a_chain_out_of_order_is_sorted_with_a_warning() -> None:
    lower = outside_authority("Lower", MIDDLE, now=NOW)
    root, middle, first = reversed(lower.chain)
    found = accepted(made(lower), middle, root, first)
    assert found.chain == lower.chain
    assert [(warning.field, "sorted" in warning.message) for warning in found.warnings] == [("chain", True)]


def test_a_missing_issuer_is_named() -> None:
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(), ROOT.der),
        field="certificate",
        says="CN=Outside Middle is missing",
    )
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(), MIDDLE.der),
        field="chain[0]",
        says="CN=Outside Root is missing",
    )


def test_what_does_not_belong_to_the_chain_is_refused() -> None:
    other = outside_authority("Other Root", now=NOW)
    certificate = made()
    for chain, field, says in [
        ((*MIDDLE.chain, other.der), "chain[2]", "is not between certificate and its root"),
        ((MIDDLE.der, ROOT.der, ROOT.der), "chain[2]", "is the same as chain[1]"),
        ((certificate, *MIDDLE.chain), "chain[0]", "is certificate itself"),
    ]:
        refused(Reason.IMPORT_CHAIN_INVALID, lambda c=chain: accepted(certificate, *c), field=field, says=says)  # type: ignore[misc]


def test_a_leaf_in_the_chain_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certify(ROOT, now=NOW, subject=name("leaf"), public_key=key.public_key(), authority=False)
    issuer = OutsideAuthority(certificate=leaf, key=key, above=(ROOT,))
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(issuer), *issuer.chain),
        field="chain[0]",
        says="no basic constraints with CA:TRUE",
    )
    unfit = outside_authority("Unfit", ROOT, now=NOW, extensions=[(key_usage(cert_sign=False), True)])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(unfit), *unfit.chain),
        field="chain[0]",
        says="its key usage has no keyCertSign",
    )


def test_a_signature_of_another_key_is_refused() -> None:
    forged = made(signing_key=ec.generate_private_key(ec.SECP256R1()))
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(forged, *MIDDLE.chain),
        field="chain[0]",
        says="its key did not make that signature",
    )
    # Higher up, too.
    other = OutsideAuthority(certificate=ROOT.certificate, key=ec.generate_private_key(ec.SECP256R1()))
    middle = outside_authority("Outside Middle", other, now=NOW, without=[x509.AuthorityKeyIdentifier])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(middle), *middle.chain),
        field="chain[1]",
        says="but its key did not make that signature",
    )


def test_key_identifiers_agree() -> None:
    wrong = made(extensions=[(x509.AuthorityKeyIdentifier(b"0" * 20, None, None), False)])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(wrong, *MIDDLE.chain),
        field="chain[0]",
        says="its key identifier is not the one that stands there",
    )
    by_serial = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(name("Outside Root"))], 4711)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(extensions=[(by_serial, False)]), *MIDDLE.chain),
        field="chain[0]",
        says="key identifier",
    )


def test_of_two_keys_of_one_name_the_one_that_signed_is_found() -> None:
    twin = outside_authority("Outside Middle", ROOT, now=NOW)
    certificate = made(without=[x509.AuthorityKeyIdentifier])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(certificate, twin.der, *MIDDLE.chain),
        field="chain[0]",
        says="is not between",
    )


def test_names_chain_byte_for_byte() -> None:
    printable = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "Outside Middle", x509.name._ASN1Type.PrintableString)]
    )
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(issuer_name=printable), *MIDDLE.chain),
        field="chain[0]",
        says="in another encoding",
    )


@pytest.mark.parametrize(
    ("begins", "ends", "says"),
    [(-10, -1, "ended at 2029-12-31T00:00:00Z"), (1, 10, "is not valid before 2030-01-02T00:00:00Z")],
)
def test_what_is_not_valid_now_is_refused(begins: int, ends: int, says: str) -> None:
    period: dict[str, Any] = {"begins": timedelta(days=begins), "ends": timedelta(days=ends)}
    refused(Reason.IMPORT_EXPIRED, lambda: accepted(made(**period), *MIDDLE.chain), field="certificate", says=says)
    certificate = certify(ROOT, now=NOW, subject=name("M"), public_key=KEY.public_key(), **period)
    old = OutsideAuthority(certificate=certificate, key=KEY, above=(ROOT,))
    other = ec.generate_private_key(ec.SECP256R1())
    awaiting = replace(AWAITING, public_key=public_key_der(other.public_key()))
    refused(
        Reason.IMPORT_EXPIRED,
        lambda: accepted(made(old, public_key=other.public_key()), *old.chain, awaiting=awaiting),
        field="chain[0]",
        says=says,
    )


def test_nothing_outlives_the_chain() -> None:
    short = outside_authority("Short", ROOT, now=NOW, ends=timedelta(days=10))
    found = accepted(made(short), *short.chain)
    assert found.not_after == NOW + timedelta(days=10)
    assert [warning.field for warning in found.warnings] == ["chain[0]"]
    assert "2030-01-11T00:00:00Z" in found.warnings[0].message


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "RSA key of 1024 bits"),
        (lambda: ec.generate_private_key(ec.SECP224R1()), "of only 224 bits"),
    ],
)
def test_weak_keys_in_the_chain_are_refused(key: Callable[[], Any], says: str) -> None:
    weak = outside_authority("Weak", ROOT, now=NOW, key=key())
    refused(Reason.IMPORT_NOT_COMPATIBLE, lambda: accepted(made(weak), *weak.chain), field="chain[0]", says=says)


def test_a_critical_extension_above_that_nobody_knows_is_refused() -> None:
    odd = outside_authority("Odd", ROOT, now=NOW, extensions=[(UNKNOWN, True)])
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: accepted(made(odd), *odd.chain),
        field="chain[0]",
        says="critical extension 1.3.6.1.4.1.55555.1",
    )
    bound = outside_authority("Bound", ROOT, now=NOW, extensions=[(x509.PolicyConstraints(0, None), True)])
    assert accepted(made(bound), *bound.chain).warnings == ()


def openssl(folder: Path, *arguments: str | Path) -> None:
    run = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def signed_with(digest: str, folder: Path, *, self_signed: bool) -> bytes:
    """Returns the DER of an authority that openssl signed with an old hash, the key of which is KEY2 in the folder."""
    openssl(folder, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "old.key")
    (folder / "ext.cnf").write_text("[v3]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n")
    openssl(folder, "req", "-new", "-key", "old.key", "-subj", "/CN=Old", "-out", "old.csr")
    signer = ["-signkey", "old.key"] if self_signed else ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"]
    extensions = ["-extfile", "ext.cnf", "-extensions", "v3"]
    openssl(
        folder, "x509", "-req", "-in", "old.csr", f"-{digest}", "-days", "9000", *extensions, *signer, "-out", "old.pem"
    )
    return x509.load_pem_x509_certificate((folder / "old.pem").read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_old_hashes_are_for_the_self_signature_of_a_root_alone(tmp_path: Path, digest: str) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = outside_authority("RSA Root", now=NOW, key=key)
    (tmp_path / "root.pem").write_bytes(pem_of(root.der))
    (tmp_path / "root.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for self_signed in (False, True):
        der = signed_with(digest, tmp_path, self_signed=self_signed)
        own = load_pem_private_key((tmp_path / "old.key").read_bytes(), None)
        assert isinstance(own, rsa.RSAPrivateKey)
        above = () if self_signed else (root,)
        old = OutsideAuthority(certificate=x509.load_der_x509_certificate(der), key=own, above=above)
        certificate = made(old)
        if self_signed:
            assert accepted(certificate, *old.chain).chain == old.chain
        else:
            refused(
                Reason.IMPORT_NOT_COMPATIBLE,
                lambda o=old, c=certificate: accepted(c, *o.chain),  # type: ignore[misc]
                field="chain[0]",
                says="signed with MD5, SHA-1",
            )


def test_an_issuer_that_does_not_decode_is_refused_at_once() -> None:
    """The library would not look at it until somebody asks for it."""
    bent = made().replace(b"Outside Middle", b"\xff" * 14)
    refused(
        Reason.IMPORT_NOT_PEM,
        lambda: accept(bent, pem_of(*MIDDLE.chain), awaiting=AWAITING, now=NOW),
        field="certificate",
        says="of a certificate that decodes",
    )
