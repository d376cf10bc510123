"""Subjects and names under the rules of a profile: what is dropped, what is missing, what the request overrides."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from certd.errors import Reason
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.certificate_request import request_of
from certd.pki.csr import ParsedCsr, RequestedExtension, parse_csr
from certd.pki.description import describe
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared
from certd.pki.profiles import (
    BLANK,
    CLIENT,
    EMAIL,
    END_ENTITY,
    SUBORDINATE_CA,
    CommonNameRule,
    DnsNameRules,
    EmailAddressRules,
    NameRules,
    Profile,
    SubjectPresence,
    SubjectRules,
    UriRules,
)
from tests.unit.memory_authority import MemoryAuthority, csr, der_of, prepare_leaf, refused_with, root

_NONE = SubjectAlternativeNames()
_EMAIL_ADDRESS = "1.2.840.113549.1.9.1"
_O = "2.5.4.10"
_CN = "2.5.4.3"


@pytest.fixture(scope="module")
def authority() -> MemoryAuthority:
    return root()


def _with(profile: Profile = END_ENTITY, **rules: Any) -> Profile:
    return replace(profile, subject=SubjectRules(**rules))


def _told(prepared: Prepared) -> list[tuple[str, str]]:
    return [(one.field, one.message) for one in prepared.warnings if one.field != "certificate"]


def test_dropped_subject(authority: MemoryAuthority) -> None:
    prepared = prepare_leaf(authority, subject="CN=a,O=b", profile=_with(presence=SubjectPresence.DROPPED))
    assert prepared.subject_text == ""
    assert _told(prepared) == [("subject", "dropped: profile end-entity issues without a subject")]


def test_required_subject(authority: MemoryAuthority) -> None:
    profile = _with(presence=SubjectPresence.REQUIRED)
    assert prepare_leaf(authority, subject="O=b", profile=profile).subject_text == "O=b"
    # A CN that is dropped leaves nothing.
    for subject in ("", "CN=other.example"):
        error = refused_with(
            lambda asked=subject: prepare_leaf(authority, subject=asked, profile=profile),  # type: ignore[misc]  # Bound early.
            Reason.NAME_NOT_ALLOWED,
        )
        assert error.violations[0].field == "subject"


def test_common_name_by_rule(authority: MemoryAuthority) -> None:
    subject = "CN=Anything,O=b"
    kept = prepare_leaf(authority, subject=subject, profile=_with(common_name=CommonNameRule.ANY))
    assert (kept.subject_text, _told(kept)) == (subject, [])
    for rule, why in (
        (CommonNameRule.NONE, "profile end-entity issues without one"),
        (CommonNameRule.AMONG_NAMES, "it is not among the alternative names"),
    ):
        dropped = prepare_leaf(authority, subject=subject, profile=_with(common_name=rule))
        assert dropped.subject_text == "O=b"
        assert _told(dropped) == [("subject", f"dropped CN 'Anything': {why}")]
    none = prepare_leaf(authority, subject="CN=www.example.internal", profile=_with(common_name=CommonNameRule.NONE))
    assert none.subject_text == ""


@pytest.mark.parametrize(
    ("common_name", "names"),
    [
        ("jane@Example.internal", SubjectAlternativeNames(email_addresses=("jane@example.internal",))),
        ("https://a.example/x", SubjectAlternativeNames(uris=("https://a.example/x",))),
        ("2001:DB8::1", SubjectAlternativeNames(ip_addresses=("2001:db8::1",))),
    ],
)
def test_common_name_among_names_of_any_kind(
    authority: MemoryAuthority, common_name: str, names: SubjectAlternativeNames
) -> None:
    prepared = prepare_leaf(authority, subject=f"CN={common_name}", names=names, profile=CLIENT)
    assert (prepared.subject_text, _told(prepared)) == (f"CN={common_name}", [])


def test_common_name_becomes_a_name_of_a_kind_that_there_are_rules_for(authority: MemoryAuthority) -> None:
    only_mail = replace(CLIENT, names=NameRules(email_addresses=EmailAddressRules(allow_any=True)))
    prepared = prepare_leaf(authority, subject="CN=jane,O=b", names=_NONE, profile=only_mail)
    assert prepared.names == _NONE
    assert _told(prepared) == [("subject", "dropped CN 'jane': it is not among the alternative names")]
    own_hosts = replace(CLIENT, names=NameRules(dns_names=DnsNameRules(suffixes=("internal",))))
    assert prepare_leaf(authority, subject="CN=a.internal", names=_NONE, profile=own_hosts).names.dns_names == (
        "a.internal",
    )
    error = refused_with(
        lambda: prepare_leaf(authority, subject="CN=a.example", names=_NONE, profile=own_hosts),
        Reason.NAME_NOT_ALLOWED,
    )
    assert error.violations[0].field == "subject_alternative_names.dns_names[0]"


def _mailbox(address: str) -> bytes:
    return der.sequence(der.object_identifier(_EMAIL_ADDRESS), der.encode(der.IA5_STRING, address.encode()))


def test_mailbox_in_the_subject_is_one_of_the_names(authority: MemoryAuthority) -> None:
    """OpenSSL and mail programs look there as well."""
    organisation = der.sequence(der.object_identifier(_O), der.encode(der.UTF8_STRING, b"b"))
    for attributes in ([[_mailbox("joe@b.example"), organisation]], [[organisation], [_mailbox("joe@b.example")]]):
        subject = der.sequence(*map(der.set_of, attributes))
        names = SubjectAlternativeNames(email_addresses=("jane@b.example",))
        prepared = prepare_leaf(authority, subject_der=subject, names=names, profile=EMAIL)
        assert prepared.subject_text == "O=b"
        assert _told(prepared) == [
            ("subject", "dropped emailAddress 'joe@b.example': it is not among the alternative names")
        ]
        own = SubjectAlternativeNames(email_addresses=("joe@B.example",))
        kept = prepare_leaf(authority, subject_der=subject, names=own, profile=EMAIL)
        assert _told(kept) == []
        assert describe(kept.lint_certificate).subject == subject
    ca = der.sequence(der.set_of([organisation]), der.set_of([_mailbox("ca@b.example")]))
    prepared = prepare_leaf(authority, subject_der=ca, names=_NONE, profile=SUBORDINATE_CA)
    assert describe(prepared.lint_certificate).subject == ca


def test_allowed_attributes(authority: MemoryAuthority) -> None:
    profile = _with(allowed_attributes=(_CN, _O), common_name=CommonNameRule.ANY)
    prepared = prepare_leaf(authority, subject="CN=a+OU=x,O=b,OU=y,1.2.3=z", profile=profile)
    assert prepared.subject_text == "CN=a,O=b"
    assert _told(prepared) == [
        ("subject", "dropped 1.2.3: profile end-entity does not allow it"),
        ("subject", "dropped OU: profile end-entity does not allow it"),
    ]


def test_required_attributes(authority: MemoryAuthority) -> None:
    profile = _with(required_attributes=(_O, "2.5.4.6"), common_name=CommonNameRule.ANY)
    assert prepare_leaf(authority, subject="CN=a,O=b,C=DE", profile=profile).subject_text == "CN=a,O=b,C=DE"
    error = refused_with(lambda: prepare_leaf(authority, subject="CN=a", profile=profile), Reason.NAME_NOT_ALLOWED)
    assert [one.description.partition(":")[0] for one in error.violations] == ["must have O", "must have C"]


def test_directory_subtrees(authority: MemoryAuthority) -> None:
    profile = _with(directory_subtrees=(dn.parse_text("O=Example,C=DE"),), common_name=CommonNameRule.ANY)
    assert prepare_leaf(authority, subject="CN=a,O=example,C=DE", profile=profile).subject_text
    assert prepare_leaf(authority, profile=profile).subject_text == ""
    error = refused_with(
        lambda: prepare_leaf(authority, subject="O=Example,CN=a,C=DE", profile=profile), Reason.NAME_NOT_ALLOWED
    )
    assert [one.field for one in error.violations] == ["subject"]


def test_names_and_subject_are_told_together(authority: MemoryAuthority) -> None:
    profile = replace(_with(presence=SubjectPresence.REQUIRED), names=NameRules(dns_names=DnsNameRules(names=("b",))))
    names = SubjectAlternativeNames(dns_names=("a", "b", "c"))
    error = refused_with(lambda: prepare_leaf(authority, names=names, profile=profile), Reason.NAME_NOT_ALLOWED)
    assert [one.field for one in error.violations] == [
        "subject",
        "subject_alternative_names.dns_names[0]",
        "subject_alternative_names.dns_names[2]",
    ]


@pytest.mark.parametrize("count", [1, 4])
def test_count_of_names(authority: MemoryAuthority, count: int) -> None:
    profile = replace(
        END_ENTITY,
        names=NameRules(dns_names=DnsNameRules(allow_any=True), uris=UriRules(allow_any=True), fewest=2, most=3),
    )
    names = SubjectAlternativeNames(dns_names=tuple(f"h{index}" for index in range(count)))
    error = refused_with(lambda: prepare_leaf(authority, names=names, profile=profile), Reason.NAME_NOT_ALLOWED)
    assert [one.field for one in error.violations] == ["subject_alternative_names"]


# The trust domain of certd's own identities.


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        ("spiffe://certd.internal/identities/admin", True),
        ("SPIFFE://certd.internal/identities/admin", True),
        ("spiffe://certd.internal", True),
        ("spiffe://certd.internal.example/identities/admin", False),
        ("spiffe://other.internal/identities/admin", False),
        ("https://certd.internal/identities/admin", False),
    ],
)
def test_reserved_trust_domain(authority: MemoryAuthority, uri: str, refused: bool) -> None:  # noqa: FBT001  # A column.
    prefixes = ("spiffe://", "https://certd.internal/")
    profile = replace(END_ENTITY, names=NameRules(uris=UriRules(prefixes=prefixes)))
    guarded = replace(authority, issuer=replace(authority.issuer, reserved_trust_domain="certd.internal"))
    names = SubjectAlternativeNames(uris=(uri,))
    subject = "O=Example"
    if not refused:
        prepare_leaf(guarded, names=names, subject=subject, profile=profile)
        return
    if uri.endswith("/admin"):
        prepare_leaf(authority, names=names, subject=subject, profile=profile)
    error = refused_with(
        lambda: prepare_leaf(guarded, names=names, subject=subject, profile=profile), Reason.NAME_NOT_ALLOWED
    )
    assert "certd's own identities" in error.violations[-1].description


# What the request overrides.

_PARSED = parse_csr(
    der_of(
        csr(
            subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.internal")]),
            san=[x509.DNSName("www.example.internal"), x509.DNSName("b")],
            extensions=[x509.OCSPNoCheck()],
        )
    )
)
_SUBJECT = dn.parse_text("CN=other.example.internal")
_NAMES = SubjectAlternativeNames(dns_names=("Other.example.internal",))


def _bare(**parts: Any) -> ParsedCsr:
    return replace(_PARSED, **parts)


def test_without_override_the_csr_stands() -> None:
    request, told = request_of(_PARSED, profile=END_ENTITY, subject=None, names=None)
    assert (request.subject, request.names, request.public_key) == (_PARSED.subject, _PARSED.names, _PARSED.public_key)
    assert request.extensions == (RequestedExtension(oid="1.3.6.1.5.5.7.48.1.5", critical=False, value=b"\x05\x00"),)
    assert told == ()


def test_override_is_named() -> None:
    request, told = request_of(_PARSED, profile=BLANK, subject=_SUBJECT, names=_NAMES)
    assert request.subject == _SUBJECT
    assert request.names.dns_names == ("other.example.internal",)
    assert [(one.field, one.message) for one in told] == [
        ("subject", "overrides that of the CSR, 'CN=www.example.internal'"),
        ("subject_alternative_names", "overrides those of the CSR, 2 names"),
    ]


def test_override_by_nothing() -> None:
    request, told = request_of(_PARSED, profile=BLANK, subject=dn.EMPTY, names=_NONE)
    assert (request.subject, request.names) == (dn.EMPTY, _NONE)
    assert len(told) == 2


def test_override_that_changes_nothing_is_none() -> None:
    assert request_of(_PARSED, profile=BLANK, subject=_PARSED.subject, names=_PARSED.names)[1] == ()
    bare = _bare(subject=dn.EMPTY, names=_NONE)
    assert request_of(bare, profile=BLANK, subject=_SUBJECT, names=_NAMES)[1] == ()


def test_override_of_a_subject_that_is_no_name() -> None:
    _, told = request_of(_bare(subject=b"\x30\x02\x05\x00"), profile=BLANK, subject=_SUBJECT, names=None)
    assert told[0].message == "overrides that of the CSR, which is no name"


@pytest.mark.parametrize(
    ("subject", "names", "allowed", "fields"),
    [
        (_SUBJECT, None, {}, ["subject"]),
        (None, _NAMES, {}, ["subject_alternative_names"]),
        (_SUBJECT, _NAMES, {}, ["subject", "subject_alternative_names"]),
        (_SUBJECT, _NAMES, {"allow_subject_override": True}, ["subject_alternative_names"]),
        (_SUBJECT, _NAMES, {"allow_names_override": True}, ["subject"]),
        (dn.EMPTY, _NONE, {}, ["subject", "subject_alternative_names"]),
    ],
)
def test_override_that_is_not_allowed(
    subject: bytes | None, names: SubjectAlternativeNames | None, allowed: dict[str, Any], fields: list[str]
) -> None:
    profile = replace(END_ENTITY, **allowed)
    error = refused_with(
        lambda: request_of(_PARSED, profile=profile, subject=subject, names=names), Reason.PROFILE_FORBIDS
    )
    assert [violation.field for violation in error.violations] == fields
    assert error.metadata == {"profile": "end-entity"}


def test_override_by_a_name_that_is_none() -> None:
    names = SubjectAlternativeNames(dns_names=("ok", "a b"))
    error = refused_with(lambda: request_of(_PARSED, profile=BLANK, subject=None, names=names), Reason.NAME_NOT_ALLOWED)
    assert [violation.field for violation in error.violations] == ["subject_alternative_names.dns_names[1]"]
