"""Subject and names that the request puts in place of the CSR's, where the profile lets it."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from certd.errors import Reason
from certd.model.names import ProfileName
from certd.pki import distinguished_name
from certd.pki.names import SubjectAlternativeNames
from certd.services.certificates import CertificateView
from tests.services.batches import batch_item, issue_batch, key, made, nothing_written, outcomes, refused
from tests.services.conftest import ADMINISTRATOR, World, csr_for
from tests.services.profile_books import GIVEN

BOTH = ProfileName("default", "both")
SUBJECT_ONLY = ProfileName("default", "subject-only")
SUBJECT = distinguished_name.parse_text("CN=other.example.internal,O=Example")
NAMES = SubjectAlternativeNames(dns_names=("Other.EXAMPLE.internal", "www.example.internal"))


@pytest.fixture
def ca(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    both = replace(GIVEN, allow_subject_override=True, allow_names_override=True)
    for name, given in ((BOTH, both), (SUBJECT_ONLY, replace(both, allow_names_override=False))):
        world.core.profiles.create(ADMINISTRATOR, name, given, key=None, validate_only=False)
    return world


def issue(world: World, *, validate_only: bool = False, **changes: Any) -> CertificateView:
    item = batch_item(**({"csr": csr_for("www.example.internal", subject="www.example.internal")} | changes))
    return world.core.certificates.issue(ADMINISTRATOR, item.new, key=item.key, validate_only=validate_only, timeout=30)


def names_of(view: CertificateView) -> list[str]:
    leaf = x509.load_der_x509_certificate(view.der or b"")
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(found.get_values_for_type(x509.DNSName))


@pytest.mark.parametrize("validate_only", [False, True])
def test_both_are_replaced_and_told(ca: World, *, validate_only: bool) -> None:
    view = issue(ca, profile=BOTH, subject=SUBJECT, names=NAMES, validate_only=validate_only)
    leaf = x509.load_der_x509_certificate(view.der or b"")
    assert leaf.subject.public_bytes() == SUBJECT
    assert names_of(view) == ["other.example.internal", "www.example.internal"]
    assert [warning.field for warning in view.warnings] == ["subject", "subject_alternative_names"]
    assert "CN=www.example.internal" in view.warnings[0].message
    assert view.certificate.subject_text == distinguished_name.to_text(SUBJECT)


def test_one_is_replaced_and_the_other_is_that_of_the_csr(ca: World) -> None:
    view = issue(ca, profile=SUBJECT_ONLY, subject=distinguished_name.parse_text("O=Example"))
    assert names_of(view) == ["www.example.internal"]
    assert [warning.field for warning in view.warnings] == ["subject"]
    view = issue(
        ca, profile=BOTH, names=SubjectAlternativeNames(dns_names=("www.example.internal", "b.example.internal"))
    )
    assert x509.load_der_x509_certificate(view.der or b"").subject.rfc4514_string() == "CN=www.example.internal"
    assert [warning.field for warning in view.warnings] == ["subject_alternative_names"]


def test_what_stands_in_the_csr_already_is_no_override(ca: World) -> None:
    same = SubjectAlternativeNames(dns_names=("WWW.example.internal",))
    view = issue(ca, profile=BOTH, subject=distinguished_name.parse_text("CN=www.example.internal"), names=same)
    assert view.warnings == ()
    assert names_of(view) == ["www.example.internal"]


def test_a_csr_without_names_gets_those_of_the_request(ca: World) -> None:
    view = issue(ca, profile=BOTH, csr=csr_for(), names=NAMES)
    assert names_of(view) == ["other.example.internal", "www.example.internal"]
    assert view.warnings == ()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("changes", "reason", "fields"),
    [
        (
            {"subject": SUBJECT, "names": NAMES, "profile": None},
            Reason.PROFILE_FORBIDS,
            ["subject", "subject_alternative_names"],
        ),
        ({"names": NAMES, "profile": SUBJECT_ONLY}, Reason.PROFILE_FORBIDS, ["subject_alternative_names"]),
        (
            {"names": SubjectAlternativeNames(dns_names=("a.example.internal", "bad..name", "-x.example.internal"))},
            Reason.NAME_NOT_ALLOWED,
            ["subject_alternative_names.dns_names[1]", "subject_alternative_names.dns_names[2]"],
        ),
        (
            {"names": SubjectAlternativeNames(dns_names=("www.example.com",))},
            Reason.NAME_NOT_ALLOWED,
            ["subject_alternative_names.dns_names[0]"],
        ),
        # What the request does not replace is the CSR's.
        (
            {"subject": SUBJECT, "csr": csr_for("www.example.com")},
            Reason.NAME_NOT_ALLOWED,
            ["csr.subject_alternative_names.dns_names[0]"],
        ),
        ({"names": SubjectAlternativeNames()}, Reason.NAME_NOT_ALLOWED, ["subject_alternative_names"]),
    ],
)
def test_what_may_not_be_is_refused_with_the_fields_of_the_request(
    ca: World, changes: dict[str, Any], reason: Reason, fields: list[str], *, batch: bool
) -> None:
    item = batch_item(**({"profile": BOTH} | changes))
    with nothing_written(ca):
        if batch:
            error, other = issue_batch(ca, [item, batch_item(csr=b"no csr")])
            assert outcomes([error, other]) == [reason, Reason.CSR_MALFORMED]
        else:
            asked: dict[str, Any] = {"csr": item.new.csr, "profile": BOTH} | changes
            error = refused(lambda: issue(ca, **asked), reason)
    assert not isinstance(error, CertificateView)
    assert [violation.field for violation in error.violations] == fields


def test_items_of_a_batch_have_overrides_of_their_own(ca: World) -> None:
    csr = csr_for("www.example.internal")
    items = [
        batch_item(csr=csr, profile=BOTH, names=SubjectAlternativeNames(dns_names=(f"{n}.example.internal",)))
        for n in range(25)
    ]
    items.append(batch_item(csr=csr, profile=BOTH))
    views = made(issue_batch(ca, items))
    assert [names_of(view) for view in views[:25]] == [[f"{n}.example.internal"] for n in range(25)]
    assert names_of(views[25]) == ["www.example.internal"]
    assert [len(view.warnings) for view in views] == [1] * 25 + [0]


def test_another_override_is_another_request(ca: World) -> None:
    """The hash of the request is the edge's to make; here two that differ in it have the same id."""
    first = key(b"without")
    made(issue_batch(ca, [batch_item(profile=BOTH, key=first)]))
    (error,) = issue_batch(ca, [batch_item(profile=BOTH, names=NAMES, key=key(b"with", first.request_id))])
    assert outcomes([error]) == [Reason.REQUEST_ID_REUSED]
