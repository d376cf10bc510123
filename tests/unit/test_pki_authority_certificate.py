"""The certificate that an outside parent made: every check of it refuses what breaks it, and names it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from certd.errors import Reason
from certd.pki import name_constraints
from certd.pki.authority_certificate import LONGEST_CERTIFICATE, accept, standing_of
from certd.pki.encoding import LONGEST_CHAIN
from certd.pki.name_constraints import NameConstraints, Subtrees
from tests.outside_parent import certify, key_usage, name, outside_authority, pem_of
from tests.unit.outside_certificates import AWAITING, KEY, MIDDLE, NOW, ROOT, SUBJECT, UNKNOWN, accepted, made, refused


def test_a_good_certificate_is_accepted_as_it_is() -> None:
    certificate = made()
    found = accepted(certificate, *MIDDLE.chain)
    assert (found.certificate, found.chain) == (certificate, MIDDLE.chain)
    assert found.not_after == NOW + timedelta(days=1000)
    assert (found.path_length, found.warnings) == (1, ())


def test_pem_and_der_are_both_read() -> None:
    certificate = made(ROOT)
    for given in ((pem_of(certificate), pem_of(ROOT.der)), (certificate, ROOT.der)):
        assert accept(*given, awaiting=AWAITING, now=NOW).chain == (ROOT.der,)


@pytest.mark.parametrize(
    ("certificate", "chain", "reason", "field", "says"),
    [
        (b"nonsense", b"", Reason.IMPORT_NOT_PEM, "certificate", "neither PEM nor DER"),
        (b"0\x82", b"", Reason.IMPORT_NOT_PEM, "certificate", "neither PEM nor DER"),
        (b"x" * (LONGEST_CERTIFICATE + 1), b"", Reason.FIELD_INVALID, "certificate", "longer than 32768"),
        (pem_of(ROOT.der, MIDDLE.der), b"", Reason.IMPORT_NOT_PEM, "certificate", "has 2 certificates"),
        (None, b"nonsense", Reason.IMPORT_NOT_PEM, "chain", "neither PEM nor DER"),
        (None, b"x" * (LONGEST_CHAIN + 1), Reason.FIELD_INVALID, "chain", "longer than 2097152"),
        (None, b"", Reason.IMPORT_NOT_PEM, "chain", "neither PEM nor DER"),
        (None, pem_of(ROOT.der) + b"-----BEGIN CERTIFICATE-----\n", Reason.IMPORT_NOT_PEM, "chain", "PEM block"),
        (
            None,
            KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            Reason.FIELD_INVALID,
            "chain",
            "private key",
        ),
    ],
)
def test_what_is_no_certificate_is_refused(
    certificate: bytes | None, chain: bytes, reason: Reason, field: str, says: str
) -> None:
    given = made(ROOT) if certificate is None else certificate
    refused(reason, lambda: accept(given, chain, awaiting=AWAITING, now=NOW), field=field, says=says)


def test_a_certificate_that_does_not_decode_is_refused() -> None:
    # Two extensions of one kind.
    broken = made(ROOT).replace(bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d13"), 1)
    refused(Reason.IMPORT_NOT_PEM, lambda: accepted(broken, ROOT.der), field="certificate", says="decodes")


def test_another_key_is_refused() -> None:
    other = made(public_key=ec.generate_private_key(ec.SECP256R1()).public_key())
    refused(
        Reason.IMPORT_KEY_MISMATCH,
        lambda: accepted(other, *MIDDLE.chain),
        field="certificate",
        says="another key than the authority's in the token",
    )


@pytest.mark.parametrize(
    "subject",
    [
        name("Issuing CA"),
        x509.Name(list(reversed(list(SUBJECT)))),
        # Equal to people and to readers, not byte for byte.
        x509.Name([x509.NameAttribute(one.oid, one.value, x509.name._ASN1Type.PrintableString) for one in SUBJECT]),
    ],
)
def test_another_subject_is_refused(subject: x509.Name) -> None:
    refused(
        Reason.IMPORT_KEY_MISMATCH,
        lambda: accepted(made(subject=subject), *MIDDLE.chain),
        field="certificate",
        says="byte for byte",
    )


def test_a_self_signed_certificate_is_refused() -> None:
    own = certify(None, now=NOW, subject=SUBJECT, public_key=KEY.public_key(), signing_key=KEY, path_length=1)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(own.public_bytes(Encoding.DER), ROOT.der),
        field="certificate",
        says="is self-signed",
    )


DISTRIBUTION_POINTS = [
    x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example/a.crl")], None, None, None)
]
ACCESS = x509.AccessDescription(
    AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://pki.example/ca.cer")
)
REPOSITORY = x509.AccessDescription(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.48.5"), x509.UniformResourceIdentifier("http://pki.example/")
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"without": [x509.BasicConstraints]}, "no critical basic constraints"),
        ({"authority": False}, "no critical basic constraints"),
        ({"extensions": [(x509.BasicConstraints(True, 1), False)]}, "no critical basic constraints"),
        ({"without": [x509.KeyUsage]}, "no key usage"),
        ({"without": [x509.SubjectKeyIdentifier]}, "no subject key identifier"),
        ({"extensions": [(x509.SubjectKeyIdentifier(b""), False)]}, "no subject key identifier"),
        ({"extensions": [(UNKNOWN, True)]}, "critical extension 1.3.6.1.4.1.55555.1"),
        ({"extensions": [(x509.PolicyConstraints(0, None), True)]}, "policyConstraints"),
        ({"extensions": [(x509.AuthorityInformationAccess([ACCESS]), True)]}, "authorityInfoAccess"),
        ({"extensions": [(x509.CRLDistributionPoints(DISTRIBUTION_POINTS), True)]}, "cRLDistributionPoints"),
        ({"extensions": [(x509.FreshestCRL(DISTRIBUTION_POINTS), True)]}, "freshestCRL"),
    ],
)
def test_extensions_that_an_authority_cannot_have_are_refused(changes: dict[str, Any], says: str) -> None:
    certificate = made(**changes)
    refused(Reason.IMPORT_NOT_COMPATIBLE, lambda: accepted(certificate, *MIDDLE.chain), field="certificate", says=says)


def test_a_key_usage_without_cert_sign_is_refused() -> None:
    certificate = made(extensions=[(key_usage(cert_sign=False), True)])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(certificate, *MIDDLE.chain),
        field="certificate",
        says="keyCertSign",
    )


@pytest.mark.parametrize(
    "extension",
    [
        x509.InhibitAnyPolicy(0),
        x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)]),
        x509.SubjectAlternativeName([x509.DNSName("ca.example.internal")]),
        x509.IssuerAlternativeName([x509.DNSName("ca.example.internal")]),
        x509.SubjectInformationAccess([REPOSITORY]),
        x509.SubjectKeyIdentifier(b"1" * 20),
    ],
)
def test_extensions_that_may_be_critical_are_accepted(extension: x509.ExtensionType) -> None:
    assert accepted(made(extensions=[(extension, True)]), *MIDDLE.chain).warnings == ()


def test_what_readers_may_stumble_over_is_told() -> None:
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    found = accepted(made(extensions=[(key_usage(crl_sign=False), True), (usages, False)]), *MIDDLE.chain)
    assert [warning.field for warning in found.warnings] == ["certificate", "certificate"]
    assert "cRLSign" in found.warnings[0].message
    assert "1.3.6.1.5.5.7.3.1" in found.warnings[1].message


@pytest.mark.parametrize(
    ("written", "holds", "says"),
    [
        (None, 1, "has no path length"),
        (3, 1, "has the path length 3; the authority was created for 1"),
        (0, 0, "has the path length 0 where 1 was asked for"),
    ],
)
def test_the_lower_path_length_holds(written: int | None, holds: int, says: str) -> None:
    found = accepted(made(path_length=written), *MIDDLE.chain)
    assert found.path_length == holds
    assert [warning.field for warning in found.warnings] == ["certificate"]
    assert says in found.warnings[0].message


def test_the_path_lengths_above_leave_what_they_leave() -> None:
    root = outside_authority("Root", now=NOW, path_length=2)
    middle = outside_authority("Middle", root, now=NOW, path_length=1)
    found = accepted(made(middle), *middle.chain)
    assert found.path_length == 0
    assert [warning.field for warning in found.warnings] == ["chain[0]"]


def test_a_path_length_above_that_leaves_no_room_is_refused() -> None:
    root = outside_authority("Root", now=NOW, path_length=1)
    middle = outside_authority("Middle", root, now=NOW)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(middle), *middle.chain),
        field="chain[1]",
        says="has the path length 1, and 2 authorities stand below it",
    )


def test_a_self_issued_certificate_above_is_no_level() -> None:
    """A root that has a new key, which the old one certified."""
    old = outside_authority("Root", now=NOW, path_length=1)
    new = outside_authority("Root", old, now=NOW)
    found = accepted(made(new), *new.chain)
    assert (found.chain, found.path_length) == (new.chain, 0)


def test_a_hierarchy_has_five_levels() -> None:
    issuer = ROOT
    for level in range(3):
        issuer = outside_authority(f"Level {level}", issuer, now=NOW)
    found = accepted(made(issuer), *issuer.chain)
    assert found.path_length == 0
    assert "5 levels" in found.warnings[-1].message
    deeper = outside_authority("Level 3", issuer, now=NOW)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: accepted(made(deeper), *deeper.chain),
        field="chain",
        says="has 5 certificates",
    )


def test_a_longer_life_than_the_key_was_made_for_is_told() -> None:
    found = accepted(made(ends=timedelta(days=2000)), *MIDDLE.chain)
    assert [warning.field for warning in found.warnings] == ["certificate"]
    assert "1825 days" in found.warnings[0].message


def constraints(permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None = None) -> Any:
    return (x509.NameConstraints(permitted, excluded), True)


def test_the_subject_lies_within_the_constraints_above() -> None:
    for text in ("Example", "Other"):
        allowed = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])
        issuer = outside_authority("Bound", ROOT, now=NOW, extensions=[constraints([x509.DirectoryName(allowed)])])
        certificate = made(issuer)
        if text == "Example":
            assert accepted(certificate, *issuer.chain).warnings == ()
        else:
            refused(
                Reason.NAME_CONSTRAINT_VIOLATED,
                lambda i=issuer, c=certificate: accepted(c, *i.chain),  # type: ignore[misc]
                field="certificate",
                says="has a subject that an authority above it may not certify",
            )


def test_an_alternative_name_lies_within_the_constraints_above() -> None:
    issuer = outside_authority("Bound", ROOT, now=NOW, extensions=[constraints([x509.DNSName("example.internal")])])
    certificate = made(issuer, extensions=[(x509.SubjectAlternativeName([x509.DNSName("ca.example.com")]), False)])
    refused(
        Reason.NAME_CONSTRAINT_VIOLATED,
        lambda: accepted(certificate, *issuer.chain),
        field="certificate",
        says="subject_alternative_names.dns_names[0]",
    )


def test_constraints_that_cannot_be_enforced_are_refused() -> None:
    odd = constraints([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))])
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: accepted(made(extensions=[odd]), *MIDDLE.chain),
        field="certificate",
        says="name constraints of a kind that certd cannot enforce",
    )
    issuer = outside_authority("Odd", ROOT, now=NOW, extensions=[odd])
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: accepted(made(issuer), *issuer.chain),
        field="chain[0]",
        says="name constraints of a kind",
    )


def test_other_constraints_than_asked_for_are_told_and_hold() -> None:
    asked = NameConstraints(permitted=Subtrees(dns_names=("example.internal",)))
    awaiting = replace(AWAITING, name_constraints=asked)
    same = made(extensions=[constraints([x509.DNSName("example.internal")])])
    assert accepted(same, *MIDDLE.chain, awaiting=awaiting).warnings == ()
    other = made(extensions=[constraints([x509.DNSName("example.org")])])
    for certificate, chosen, says in (
        (other, awaiting, "others where some were asked for"),
        (made(), awaiting, "none where some were asked for"),
        (other, AWAITING, "others where none were asked for"),
    ):
        (warning,) = accepted(certificate, *MIDDLE.chain, awaiting=chosen).warnings
        assert (warning.field, says in warning.message) == ("certificate", True)
    assert standing_of(other, MIDDLE.chain).name_constraints == (
        NameConstraints(permitted=Subtrees(dns_names=("example.org",))),
    )


def test_standing_holds_every_constraint_above_and_the_identifier_as_it_is() -> None:
    root = outside_authority("Root", now=NOW, extensions=[constraints(None, [x509.DNSName("bad.example")])])
    certificate = made(root, extensions=[(x509.SubjectKeyIdentifier(b"odd"), False)])
    standing = standing_of(certificate, root.chain)
    assert standing.subject_key_identifier == b"odd"
    assert standing.name_constraints == (name_constraints.of_certificate(root.der),)
