"""A CSR held against a profile: every finding at once, and what would be issued when there is none."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import Reason
from certd.model.access import Role
from certd.model.authority import AuthorityState
from certd.model.names import AuthorityName, ProfileName
from certd.pki import distinguished_name
from certd.pki.extensions import SERVER_AUTHENTICATION
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profile import DnsNameRules, NameRules
from certd.pki.profiles import BUILT_IN
from certd.services.profile_changes import GivenProfile
from certd.services.profile_check import CheckedRequest, RequestToCheck
from certd.store import blocked_keys, schema
from certd.store.store import Transaction
from tests.services.conftest import ADMINISTRATOR, STRANGER, World, csr_for
from tests.services.profile_books import DAY, GIVEN, SERVER, WEB, Books, open_books, refused

CA = AuthorityName("default", "ca")


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with open_books(f"sqlite:///{tmp_path}/certd.db") as opened:
        opened.create()
        yield opened


def check(books: Books, csr: bytes, **changes: Any) -> CheckedRequest:
    values: dict[str, Any] = {"name": WEB} | changes
    return books.checks.check(ADMINISTRATOR, RequestToCheck(csr=csr, **values))


def found(checked: CheckedRequest) -> list[tuple[Reason, str]]:
    return [(finding.reason, finding.field) for finding in checked.findings]


def csr_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *names: x509.GeneralName) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_without_findings_there_is_what_would_be_issued(books: Books) -> None:
    checked = check(books, csr_for("www.example.internal"), lifetime=10 * DAY)
    assert checked.findings == ()
    assert checked.warnings == ()
    assert checked.profile_name == WEB
    certificate = x509.load_der_x509_certificate(checked.certificate or b"")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["www.example.internal"]
    assert certificate.not_valid_after_utc == books.clock.now() + 10 * DAY - timedelta(seconds=1)


def test_every_finding_is_told_and_not_the_first_alone(books: Books) -> None:
    books.update(GivenProfile(key_specs=frozenset({KeySpec.RSA_3072})), "key_specs")
    csr = csr_of(
        ec.generate_private_key(ec.SECP256R1()),
        x509.DNSName("www.example.internal"),
        x509.DNSName("www.example.test"),
        x509.RFC822Name("a@example.internal"),
    )
    checked = check(
        books,
        csr,
        lifetime=90 * DAY,
        subject=distinguished_name.parse_text("CN=x"),
        names=SubjectAlternativeNames(dns_names=("other.example.internal",)),
    )
    assert found(checked) == [
        (Reason.PROFILE_FORBIDS, "subject"),
        (Reason.PROFILE_FORBIDS, "subject_alternative_names"),
        (Reason.PROFILE_FORBIDS, "csr.public_key"),
        (Reason.NAME_NOT_ALLOWED, "csr.subject_alternative_names.dns_names[1]"),
        (Reason.NAME_NOT_ALLOWED, "csr.subject_alternative_names.email_addresses[0]"),
        (Reason.PROFILE_FORBIDS, "lifetime"),
    ]
    assert all(finding.description for finding in checked.findings)
    assert "leave it out" in checked.findings[0].description
    assert checked.certificate is None


@pytest.mark.parametrize(
    ("csr", "expected"),
    [
        (lambda: b"nonsense", (Reason.CSR_MALFORMED, "csr")),
        (lambda: csr_for("a.example.internal")[:-9], (Reason.CSR_MALFORMED, "csr")),
        (lambda: b"\x30" * ((32 << 10) + 1), (Reason.CSR_MALFORMED, "csr")),
        (lambda: _with_another_signature(csr_for("a.example.internal")), (Reason.CSR_SIGNATURE_INVALID, "csr")),
        (
            lambda: csr_of(ec.generate_private_key(ec.SECP256K1()), x509.DNSName("a.example.internal")),
            (Reason.KEY_TOO_WEAK, "csr.public_key"),
        ),
        (
            lambda: csr_of(ec.generate_private_key(ec.SECP256R1()), x509.DNSName("a_b.example.internal")),
            (Reason.NAME_NOT_ALLOWED, "csr.subject_alternative_names.dns_names[0]"),
        ),
    ],
)
def test_a_csr_that_is_none_is_a_finding(books: Books, csr: Callable[[], bytes], expected: tuple[Reason, str]) -> None:
    checked = check(books, csr())
    assert found(checked) == [expected]
    assert checked.certificate is None


def _with_another_signature(csr: bytes) -> bytes:
    return csr[:-1] + bytes([csr[-1] ^ 1])


def test_a_key_that_was_compromised_is_a_finding(books: Books) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def block(tx: Transaction, tenant: str) -> None:
        digest = hashlib.sha256(public_key).digest()
        blocked_keys.block(tx, tenant, digest, authority_uid="ca", serial="0a", now=books.clock.now())

    csr = csr_of(key, x509.DNSName("a.example.internal"))
    books.store.write("test.block", lambda tx: block(tx, "other"))
    assert found(check(books, csr)) == []
    books.store.write("test.block", lambda tx: block(tx, "default"))
    checked = check(books, csr)
    assert found(checked) == [(Reason.KEY_TOO_WEAK, "csr.public_key")]
    assert "make another one" in checked.findings[0].description
    assert checked.certificate is None


def test_what_the_request_may_say_stands_in_place_of_the_csr(books: Books) -> None:
    books.update(
        GivenProfile(allow_subject_override=True, allow_names_override=True),
        "allow_subject_override",
        "allow_names_override",
    )
    subject = distinguished_name.parse_text("CN=other.example.internal")
    checked = check(
        books,
        csr_for("www.example.internal"),
        subject=subject,
        names=SubjectAlternativeNames(dns_names=("other.example.internal",)),
    )
    assert found(checked) == []
    assert [warning.field for warning in checked.warnings] == ["subject_alternative_names"]
    certificate = x509.load_der_x509_certificate(checked.certificate or b"")
    assert certificate.subject.public_bytes() == subject
    # What is wrong with it is wrong in the request, not in the CSR.
    checked = check(
        books,
        csr_for("www.example.internal"),
        subject=distinguished_name.parse_text("CN=nobody"),
        names=SubjectAlternativeNames(dns_names=("www.example.test",)),
    )
    assert found(checked) == [(Reason.NAME_NOT_ALLOWED, "subject_alternative_names.dns_names[0]")]


def test_what_is_dropped_is_a_warning(books: Books) -> None:
    checked = check(books, csr_for("www.example.internal", subject="somebody else"))
    assert found(checked) == []
    assert [warning.field for warning in checked.warnings] == ["csr.subject"]


def test_a_profile_that_is_to_be_made_is_checked_in_place_of_the_stored_one(books: Books) -> None:
    csr = csr_for("www.example.test")
    assert found(check(books, csr)) == [(Reason.NAME_NOT_ALLOWED, "csr.subject_alternative_names.dns_names[0]")]
    given = replace(GIVEN, names=NameRules(dns_names=DnsNameRules(suffixes=("example.test",))))
    for name in (WEB, ProfileName("default", "not-yet"), SERVER):
        checked = check(books, csr, name=name, profile=given)
        assert found(checked) == []
        assert checked.profile_name == name
    error = refused(
        lambda: check(books, csr, profile=replace(given, longest_lifetime=None)), Reason.FIELD_INVALID, "is required"
    )
    assert [violation.field for violation in error.violations] == ["profile.longest_lifetime"]
    assert books.get().profile.names == GIVEN.names


def test_every_built_in_profile_can_be_checked(books: Books) -> None:
    for profile_id in BUILT_IN:
        checked = check(
            books,
            csr_for("www.example.internal", subject="www.example.internal"),
            name=ProfileName("default", profile_id),
        )
        assert bool(checked.findings) == (checked.certificate is None)
        assert all(finding.description for finding in checked.findings)
    assert found(check(books, csr_for("www.example.test"), name=SERVER)) == []


def test_what_does_not_exist_is_refused(books: Books) -> None:
    csr = csr_for("www.example.internal")
    for changes, reason, resource in (
        ({"name": ProfileName("default", "none")}, Reason.PROFILE_NOT_FOUND, "tenants/default/profiles/none"),
        ({"name": ProfileName("none", "web")}, Reason.TENANT_NOT_FOUND, "tenants/none"),
    ):
        error = refused(lambda changes=changes: check(books, csr, **changes), reason, "does not exist")  # type: ignore[misc]  # mypy infers no type for a default.
        assert error.resource == resource


def test_a_check_needs_to_read_the_profile_and_the_authority(books: Books) -> None:
    csr = csr_for("www.example.internal")
    asked = RequestToCheck(name=WEB, csr=csr)
    with_authority = replace(asked, authority=CA)
    for one in (asked, with_authority, replace(asked, profile=GIVEN)):
        refused(lambda one=one: books.checks.check(STRANGER, one), Reason.PERMISSION_MISSING, "lacks profile.read")  # type: ignore[misc]  # mypy infers no type for a default.
    books.grant(STRANGER.principal, Role.REQUESTER)
    assert books.checks.check(STRANGER, asked).findings == ()
    error = refused(
        lambda: books.checks.check(STRANGER, with_authority), Reason.PERMISSION_MISSING, "lacks authority.read"
    )
    assert error.resource == str(CA)


def test_nothing_is_written(books: Books) -> None:
    before = len(books.events())
    check(books, csr_for("www.example.internal"))
    assert len(books.events()) == before
    with books.store.read("test.certificates") as tx:
        assert tx.execute(schema.certificates.select()).first() is None


def check_with(world: World, csr: bytes, **changes: Any) -> CheckedRequest:
    values: dict[str, Any] = {"name": SERVER, "authority": CA} | changes
    return world.core.profile_checks.check(ADMINISTRATOR, RequestToCheck(csr=csr, **values))


def test_the_bounds_of_an_authority_are_findings(ca: World) -> None:
    csr = csr_for("www.example.internal")
    checked = check_with(ca, csr)
    assert found(checked) == []
    issuer = ca.core.authorities.get(ADMINISTRATOR, CA).authority
    assert x509.load_der_x509_certificate(checked.certificate or b"").issuer.public_bytes() == issuer.subject
    ca.clock.advance(timedelta(days=5 * 365 - 10))
    checked = check_with(ca, csr, lifetime=30 * DAY)
    assert found(checked) == [(Reason.LIFETIME_EXCEEDS_AUTHORITY, "lifetime")]
    assert "ask for a shorter lifetime" in checked.findings[0].description
    # Without the authority nothing is in the way, and a default lifetime is cut with a warning.
    assert found(check_with(ca, csr, lifetime=30 * DAY, authority=None)) == []
    checked = check_with(ca, csr)
    assert found(checked) == []
    assert [warning.field for warning in checked.warnings] == ["lifetime"]


def test_an_authority_that_does_not_issue_is_a_finding_beside_the_others(ca: World) -> None:
    ca.clock.advance(timedelta(days=5 * 365 + 1))
    checked = check_with(ca, csr_for("www.example.internal"), subject=distinguished_name.parse_text("CN=x"))
    assert found(checked)[:2] == [(Reason.AUTHORITY_NOT_ENABLED, "authority"), (Reason.PROFILE_FORBIDS, "subject")]
    assert AuthorityState.EXPIRED in checked.findings[0].description
    assert checked.certificate is None


def test_an_authority_of_another_tenant_or_of_none_is_not_found(ca: World) -> None:
    for name in (AuthorityName("other", "ca"), AuthorityName("default", "none")):
        error = refused(
            lambda name=name: check_with(ca, csr_for("www.example.internal"), authority=name),  # type: ignore[misc]  # mypy infers no type for a default.
            Reason.AUTHORITY_NOT_FOUND,
            "not",
        )
        assert error.resource == str(name)


def test_what_passes_the_check_is_issued_and_what_does_not_is_not(ca: World) -> None:
    assert SERVER_AUTHENTICATION in BUILT_IN["server"].extended_key_usages
    good = csr_for("www.example.internal")
    assert found(check_with(ca, good)) == []
    assert ca.issue(csr=good).der is not None
    bad = csr_of(ec.generate_private_key(ec.SECP256R1()), x509.RFC822Name("a@example.internal"))
    ((reason, _),) = found(check_with(ca, bad))
    refused(lambda: ca.issue(csr=bad), reason, "allows no e-mail address")
