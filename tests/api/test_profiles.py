"""ProfileService at the edge: what comes in is converted whole, refused with every field, and goes out whole."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from certd.errors import CertdError, Reason
from certd.model.names import AuthorityName, ProfileName, TenantName
from certd.pki import distinguished_name
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profile import (
    CommonNameRule,
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    SubjectPresence,
    UriRules,
)
from certd.pki.profiles import BUILT_IN, END_ENTITY
from certd.services.paging import Page, PageRequest
from certd.services.profile_changes import FIELDS, GivenProfile, GivenSubject, made_of
from certd.services.profile_check import CheckedRequest, Finding, RequestToCheck
from certd.services.profiles import ProfileView
from certd.v1 import profile_pb2, profile_service_pb2, x509_pb2
from tests.api.edge_failure import failure_of
from tests.api.edge_messages import AUTHORITY_NAME, REQUEST_ID, call, distinguished_name_of, moment_of, refused
from tests.api.edge_server import ALICE, LEAF, NOW, WARNING, Edge

WEB = ProfileName("default", "web")
DAY = 86400
MESSAGE = profile_pb2.Profile(
    description="Web servers — ü",
    default_lifetime=Duration(seconds=30 * DAY),
    shortest_lifetime=Duration(seconds=3600),
    longest_lifetime=Duration(seconds=90 * DAY),
    backdate=Duration(seconds=0),
    highest_path_length=0,
    key_specs=[x509_pb2.RSA_2048, x509_pb2.EC_P256],
    key_usages=[x509_pb2.DIGITAL_SIGNATURE, x509_pb2.KEY_AGREEMENT],
    extended_key_usages=["1.3.6.1.5.5.7.3.1", "1.2.3.4"],
    names=profile_pb2.NameRules(
        dns_names=profile_pb2.DnsNameRules(
            allow_any=True,
            names=["a.example"],
            suffixes=["example.internal"],
            allow_wildcards=True,
            fewest_wildcard_labels=3,
        ),
        ip_addresses=profile_pb2.IpAddressRules(ranges=["10.0.0.0/8"]),
        uris=profile_pb2.UriRules(prefixes=["spiffe://example.internal/w/"]),
        email_addresses=profile_pb2.EmailAddressRules(domains=["example.com"], addresses=["a@b.example"]),
        fewest=1,
        most=9,
    ),
    subject=profile_pb2.SubjectRules(
        presence=profile_pb2.SubjectRules.REQUIRED,
        common_name=profile_pb2.SubjectRules.NONE,
        allowed_attributes=["O", "1.3.6.1.4.1.55555.1"],
        required_attributes=["O"],
        directory_subtrees=[distinguished_name_of(("C", "DE"), ("O", "Example"))],
    ),
    passed_extensions=["1.3.6.1.5.5.7.1.24"],
    policies=["1.2.3.5"],
    tls_features=[5],
    custom_extensions=[profile_pb2.CustomExtension(oid="1.2.3.9", critical=True, value=b"\x05\x00")],
    allow_subject_override=True,
    allow_names_override=True,
)
GIVEN = GivenProfile(
    description="Web servers — ü",
    default_lifetime=timedelta(days=30),
    shortest_lifetime=timedelta(hours=1),
    longest_lifetime=timedelta(days=90),
    backdate=timedelta(0),
    authority=False,
    highest_path_length=0,
    key_specs=frozenset({KeySpec.RSA_2048, KeySpec.EC_P256}),
    key_usages=frozenset({KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_AGREEMENT}),
    extended_key_usages=("1.3.6.1.5.5.7.3.1", "1.2.3.4"),
    names=NameRules(
        dns_names=DnsNameRules(
            allow_any=True,
            names=("a.example",),
            suffixes=("example.internal",),
            allow_wildcards=True,
            fewest_wildcard_labels=3,
        ),
        ip_addresses=IpAddressRules(ranges=("10.0.0.0/8",)),
        uris=UriRules(prefixes=("spiffe://example.internal/w/",)),
        email_addresses=EmailAddressRules(domains=("example.com",), addresses=("a@b.example",)),
        fewest=1,
        most=9,
    ),
    subject=GivenSubject(
        presence=SubjectPresence.REQUIRED,
        common_name=CommonNameRule.NONE,
        allowed_attributes=("2.5.4.10", "1.3.6.1.4.1.55555.1"),
        required_attributes=("2.5.4.10",),
        directory_subtrees=(distinguished_name.parse_text("O=Example,C=DE"),),
    ),
    passed_extensions=("1.3.6.1.5.5.7.1.24",),
    policies=("1.2.3.5",),
    tls_features=(5,),
    custom_extensions=(CustomExtension(oid="1.2.3.9", critical=True, value=b"\x05\x00"),),
    allow_subject_override=True,
    allow_names_override=True,
)


def create(**changes: Any) -> profile_service_pb2.CreateProfileRequest:
    values: dict[str, Any] = {"parent": "tenants/default", "profile_id": "web", "profile": MESSAGE} | changes
    return profile_service_pb2.CreateProfileRequest(**values)


def update(mask: list[str] | None = None, **changes: Any) -> profile_service_pb2.UpdateProfileRequest:
    profile = profile_pb2.Profile(**{"name": str(WEB), **changes})
    return profile_service_pb2.UpdateProfileRequest(
        profile=profile, update_mask=None if mask is None else FieldMask(paths=mask)
    )


def check(**changes: Any) -> profile_service_pb2.CheckProfileRequest:
    return profile_service_pb2.CheckProfileRequest(**{"name": str(WEB), "csr": b"csr", **changes})


def test_create_profile(edge: Edge) -> None:
    call(edge, create(request_id=REQUEST_ID, validate_only=True))
    caller, name, given, key, validate_only = edge.told.last
    assert (caller.principal, name, validate_only) == (ALICE, WEB, True)
    assert given == GIVEN
    assert key.request_id == REQUEST_ID.lower()


def test_what_is_not_said_stays_unsaid(edge: Edge) -> None:
    call(
        edge,
        create(
            profile=profile_pb2.Profile(
                longest_lifetime=Duration(seconds=DAY),
                names=profile_pb2.NameRules(),
                subject=profile_pb2.SubjectRules(),
            )
        ),
    )
    _, _, given, key, validate_only = edge.told.last
    assert (key, validate_only) == (None, False)
    for field in ("default_lifetime", "shortest_lifetime", "backdate", "key_specs", "key_usages"):
        assert getattr(given, field) is None
    assert given.names == NameRules()
    assert given.subject == GivenSubject()
    empty = profile_pb2.NameRules(dns_names=profile_pb2.DnsNameRules(), uris=profile_pb2.UriRules())
    call(edge, create(profile=profile_pb2.Profile(names=empty, longest_lifetime=Duration(seconds=1))))
    assert edge.told.last[2].names == NameRules(dns_names=DnsNameRules(), uris=UriRules())


def test_output_only_fields_are_ignored(edge: Edge) -> None:
    profile = profile_pb2.Profile()
    profile.CopyFrom(MESSAGE)
    profile.MergeFrom(
        profile_pb2.Profile(
            name="nonsense", built_in=True, version=7, restricted=True, etag="x", create_time=moment_of(NOW)
        )
    )
    call(edge, create(profile=profile))
    assert edge.told.last[2] == GIVEN


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parent": "tenants/Default"}, "parent"),
        ({"profile_id": "Web"}, "profile_id"),
        ({"profile_id": ""}, "profile_id"),
        ({"profile": None}, "profile"),
        ({"request_id": "7"}, "request_id"),
    ],
)
def test_a_malformed_create_is_refused(edge: Edge, changes: dict[str, Any], field: str) -> None:
    failure = refused(edge, create(**changes))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert field in [path for path, _ in failure.violations]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"description": "x" * 257}, "profile.description"),
        ({"description": "a\nb"}, "profile.description"),
        ({"default_lifetime": Duration(seconds=0)}, "profile.default_lifetime"),
        ({"shortest_lifetime": Duration(seconds=-1)}, "profile.shortest_lifetime"),
        ({"longest_lifetime": Duration(seconds=1, nanos=1)}, "profile.longest_lifetime"),
        ({"longest_lifetime": Duration(seconds=315_576_000_000)}, "profile.longest_lifetime"),
        ({"backdate": Duration(seconds=86401)}, "profile.backdate"),
        ({"backdate": Duration(seconds=-1)}, "profile.backdate"),
        ({"backdate": Duration(nanos=1)}, "profile.backdate"),
        ({"key_specs": [99]}, "profile.key_specs[0]"),
        ({"key_specs": [x509_pb2.EC_P256, 0]}, "profile.key_specs[1]"),
        ({"key_usages": [x509_pb2.CRL_SIGN, x509_pb2.CRL_SIGN]}, "profile.key_usages[1]"),
        ({"subject": profile_pb2.SubjectRules(presence=9)}, "profile.subject.presence"),  # type: ignore[arg-type]  # A value that does not exist.
        ({"subject": profile_pb2.SubjectRules(common_name=9)}, "profile.subject.common_name"),  # type: ignore[arg-type]  # As above.
        (
            {"subject": profile_pb2.SubjectRules(allowed_attributes=["CN", "nonsense"])},
            "profile.subject.allowed_attributes[1]",
        ),
        (
            {"subject": profile_pb2.SubjectRules(required_attributes=["nonsense"])},
            "profile.subject.required_attributes[0]",
        ),
        (
            {"subject": profile_pb2.SubjectRules(directory_subtrees=[distinguished_name_of(("C", "DEU"))])},
            "profile.subject.directory_subtrees[0]",
        ),
    ],
)
def test_a_malformed_profile_is_refused_everywhere(edge: Edge, changes: dict[str, Any], field: str) -> None:
    profile = profile_pb2.Profile(**({"longest_lifetime": Duration(seconds=DAY)} | changes))
    for request in (create(profile=profile), update(["*"], **changes), check(profile=profile)):
        failure = refused(edge, request)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
        assert [path for path, _ in failure.violations] == [field]
        assert failure.violations[0][1]


def test_every_malformed_field_is_named_at_once(edge: Edge) -> None:
    profile = profile_pb2.Profile(
        description="\0",
        backdate=Duration(nanos=1),
        key_specs=[x509_pb2.KEY_SPEC_UNSPECIFIED],
        subject=profile_pb2.SubjectRules(presence=9),  # type: ignore[arg-type]  # A value that does not exist.
    )
    failure = refused(edge, create(parent="x", profile=profile))
    assert [path for path, _ in failure.violations] == [
        "parent",
        "profile.description",
        "profile.backdate",
        "profile.key_specs[0]",
        "profile.subject.presence",
    ]


def test_get_profile(edge: Edge) -> None:
    call(edge, profile_service_pb2.GetProfileRequest(name=str(WEB)))
    assert edge.told.last[1:] == (WEB, None)
    call(edge, profile_service_pb2.GetProfileRequest(name=str(WEB), version=3))
    assert edge.told.last[1:] == (WEB, 3)
    edge.told.calls.clear()
    failure = refused(edge, profile_service_pb2.GetProfileRequest(name="tenants/default/web", version=-1))
    assert [path for path, _ in failure.violations] == ["name", "version"]


def test_a_profile_goes_out_whole(edge: Edge) -> None:
    made = made_of(replace(GIVEN, passed_extensions=("1.2.3.6",)), profile_id="web", version=4)
    edge.profiles.view = ProfileView(name=WEB, profile=made, create_time=NOW, update_time=NOW + timedelta(hours=1))
    answer = call(edge, profile_service_pb2.GetProfileRequest(name=str(WEB)))
    expected = profile_pb2.Profile()
    expected.CopyFrom(MESSAGE)
    expected.passed_extensions[:] = ["1.2.3.6"]
    expected.name = str(WEB)
    expected.version = 4
    expected.restricted = True
    expected.create_time.CopyFrom(moment_of(NOW))
    expected.update_time.CopyFrom(moment_of(NOW + timedelta(hours=1)))
    expected.etag = "web-4"
    assert answer == expected


@pytest.mark.parametrize("profile_id", sorted(BUILT_IN))
def test_a_built_in_profile_goes_out_and_comes_in_again_as_it_was(edge: Edge, profile_id: str) -> None:
    profile = BUILT_IN[profile_id]
    edge.profiles.view = ProfileView(name=ProfileName("default", profile_id), profile=profile, built_in=True)
    answer = call(edge, profile_service_pb2.GetProfileRequest(name=f"tenants/default/profiles/{profile_id}"))
    assert (answer.built_in, answer.version, answer.restricted) == (True, 1, profile.restricted)
    assert not answer.HasField("create_time")
    assert not answer.HasField("update_time")
    call(edge, create(profile=answer))
    if not profile.self_signed:
        assert made_of(edge.told.last[2], profile_id=profile_id) == profile


def test_list_profiles(edge: Edge) -> None:
    request = profile_service_pb2.ListProfilesRequest(parent="tenants/default", page_size=7, page_token="token")
    answer = call(edge, request)
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(7, "token"))
    assert [each.name for each in answer.profiles] == ["tenants/default/profiles/end-entity"]
    assert answer.next_page_token == "next"
    edge.told.calls.clear()
    failure = refused(edge, profile_service_pb2.ListProfilesRequest(parent="x", page_size=1001, page_token="x" * 1025))
    assert [path for path, _ in failure.violations] == ["parent", "page_size", "page_token"]


def test_an_update_without_a_mask_changes_what_is_set(edge: Edge) -> None:
    answer = call(edge, update(description="x", backdate=Duration(), etag="e", version=3, built_in=True))
    _, change, key, validate_only = edge.told.last
    assert (change.name, change.etag, key, validate_only) == (WEB, "e", None, False)
    assert change.fields == {"description", "backdate"}
    assert change.given == GivenProfile(description="x", backdate=timedelta(0))
    assert answer.name == "tenants/default/profiles/end-entity"
    # An empty mask is none.
    call(edge, update([], policies=["1.2.3"]))
    assert edge.told.last[1].fields == {"policies"}


def test_an_update_with_a_mask_changes_what_it_names(edge: Edge) -> None:
    request = update(["policies", "authority", "description", "names"], description="x", longest_lifetime=Duration())
    request.request_id, request.validate_only = REQUEST_ID, True
    call(edge, request)
    _, change, key, validate_only = edge.told.last
    assert change.fields == {"policies", "authority", "description", "names"}
    assert change.given == GivenProfile(description="x", policies=(), authority=False, names=None)
    assert (key.request_id, validate_only) == (REQUEST_ID.lower(), True)


def test_a_star_replaces_everything(edge: Edge) -> None:
    profile = profile_pb2.Profile(name=str(WEB))
    profile.MergeFrom(MESSAGE)
    call(edge, profile_service_pb2.UpdateProfileRequest(profile=profile, update_mask=FieldMask(paths=["*"])))
    _, change, _, _ = edge.told.last
    assert (change.given, change.fields) == (GIVEN, FIELDS)


def test_what_the_server_decides_may_stand_in_a_mask_and_changes_nothing(edge: Edge) -> None:
    decided = ["name", "version", "built_in", "restricted", "etag", "create_time", "update_time"]
    call(edge, update([*decided, "description"], description="x", longest_lifetime=Duration(nanos=1)))
    assert edge.told.last[1].fields == {"description"}
    call(edge, update(decided, longest_lifetime=Duration(nanos=1)))
    assert edge.told.last[1].fields == frozenset()


@pytest.mark.parametrize(
    ("mask", "fields"),
    [
        (["descripton"], ["update_mask.paths[0]"]),
        (["description", "names.dns_names", ""], ["update_mask.paths[1]", "update_mask.paths[2]"]),
        (["*", "description"], ["update_mask.paths[0]"]),
        (["longestLifetime"], ["update_mask.paths[0]"]),
        (["profile.description"], ["update_mask.paths[0]"]),
    ],
)
def test_a_path_that_is_no_field_is_refused(edge: Edge, mask: list[str], fields: list[str]) -> None:
    failure = refused(edge, update(mask, description="x"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert [path for path, _ in failure.violations] == fields


def test_a_malformed_update_is_refused(edge: Edge) -> None:
    request = update(["description"], name="nonsense", description="\n", etag="x" * 129)
    request.request_id = "7"
    failure = refused(edge, request)
    assert [path for path, _ in failure.violations] == [
        "profile.name",
        "profile.etag",
        "request_id",
        "profile.description",
    ]
    failure = refused(edge, profile_service_pb2.UpdateProfileRequest())
    assert [path for path, _ in failure.violations] == ["profile", "profile.name"]


def test_delete_profile(edge: Edge) -> None:
    request = profile_service_pb2.DeleteProfileRequest(name=str(WEB), etag="e", request_id=REQUEST_ID)
    assert call(edge, request) == Empty()
    caller, name, etag, key, validate_only = edge.told.last
    assert (caller.principal, name, etag, validate_only) == (ALICE, WEB, "e", False)
    assert key.request_id == REQUEST_ID.lower()
    call(edge, profile_service_pb2.DeleteProfileRequest(name=str(WEB), validate_only=True))
    assert edge.told.last[2:] == ("", None, True)
    edge.told.calls.clear()
    failure = refused(edge, profile_service_pb2.DeleteProfileRequest(name="x", etag="\0", request_id="7"))
    assert [path for path, _ in failure.violations] == ["name", "etag", "request_id"]


def test_check_profile(edge: Edge) -> None:
    call(edge, check())
    assert edge.told.last[1] == RequestToCheck(name=WEB, csr=b"csr")
    names = x509_pb2.SubjectAlternativeNames(dns_names=["WWW.example.internal"])
    call(
        edge,
        check(
            profile=MESSAGE,
            lifetime=Duration(seconds=60),
            subject=distinguished_name_of(("CN", "x")),
            subject_alternative_names=names,
            authority=AUTHORITY_NAME,
        ),
    )
    assert edge.told.last[1] == RequestToCheck(
        name=WEB,
        profile=GIVEN,
        csr=b"csr",
        lifetime=timedelta(minutes=1),
        subject=distinguished_name.parse_text("CN=x"),
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
        authority=AuthorityName("default", "web-ca"),
    )


def test_a_malformed_check_is_refused(edge: Edge) -> None:
    failure = refused(
        edge,
        check(
            name="x",
            csr=b"",
            lifetime=Duration(),
            subject=distinguished_name_of(("nonsense", "x")),
            subject_alternative_names=x509_pb2.SubjectAlternativeNames(dns_names=["a b"]),
            authority="x",
        ),
    )
    assert [path for path, _ in failure.violations] == [
        "name",
        "csr",
        "lifetime",
        "subject.relative_distinguished_names[0].attributes[0].type",
        "subject_alternative_names.dns_names[0]",
        "authority",
    ]


def test_what_was_found_goes_out(edge: Edge) -> None:
    edge.profile_checks.found = CheckedRequest(
        profile_name=WEB,
        findings=(
            Finding(reason=Reason.KEY_TOO_WEAK, field="csr.public_key", description="is weak; make another"),
            Finding(reason=Reason.LINT_FAILED, field="", description="breaks a rule"),
        ),
        warnings=(WARNING,),
    )
    answer = call(edge, check())
    kind = profile_service_pb2.CheckProfileResponse
    assert answer == kind(
        findings=[
            kind.Finding(reason="KEY_TOO_WEAK", field="csr.public_key", description="is weak; make another"),
            kind.Finding(reason="LINT_FAILED", description="breaks a rule"),
        ],
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
    )


def test_what_would_be_issued_goes_out_without_a_name(edge: Edge) -> None:
    edge.profile_checks.found = CheckedRequest(profile_name=WEB, findings=(), certificate=LEAF.der)
    answer = call(edge, check())
    assert not answer.findings
    assert (answer.certificate.name, answer.certificate.profile) == ("", str(WEB))
    assert answer.certificate.certificate.der == LEAF.der
    assert list(answer.certificate.description.subject_alternative_names.dns_names) == ["www.example.internal"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.PROFILE_EXISTS, grpc.StatusCode.ALREADY_EXISTS),
        (Reason.PROFILE_IN_USE, grpc.StatusCode.FAILED_PRECONDITION),
        (Reason.PROFILE_NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (Reason.ETAG_MISMATCH, grpc.StatusCode.ABORTED),
        (Reason.QUOTA_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Reason.STATE_FORBIDS, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_refusals_of_the_service_arrive(edge: Edge, reason: Reason, code: grpc.StatusCode) -> None:
    edge.told.error = CertdError(reason, "why; the remedy", metadata={"a": "b"}, resource=str(WEB))
    for request in (create(), update(description="x"), profile_service_pb2.DeleteProfileRequest(name=str(WEB))):
        with pytest.raises(grpc.RpcError) as raised:
            call(edge, request)
        failure = failure_of(raised.value)
        assert (failure.code, failure.reason, failure.message) == (code, reason, "why; the remedy")
        assert failure.resource == ("certd.v1.Profile", str(WEB))
        assert failure.metadata == {"a": "b"}
        assert failure.retry_after is None
        assert (failure.quota is not None) == (reason is Reason.QUOTA_EXCEEDED)


def test_a_page_is_no_larger_than_clients_take(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    names = NameRules(dns_names=DnsNameRules(suffixes=tuple(f"{'x' * 60}.{n}.example" for n in range(1000))))
    view = replace(edge.profiles.view, profile=replace(END_ENTITY, names=names))
    asked: list[int] = []

    def page(_caller: object, _parent: object, request: PageRequest) -> Page[ProfileView]:
        asked.append(request.size)
        return Page((view,) * request.size, "next")

    monkeypatch.setattr(edge.profiles, "page", page)
    answer = call(edge, profile_service_pb2.ListProfilesRequest(parent="tenants/default", page_size=100))
    assert 1 <= len(answer.profiles) < 100
    assert answer.ByteSize() < 4 << 20
    assert asked[0] == 100
