"""SearchCertificates and RevokeCertificate at the edge: what reaches the services, which broken fields are named."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.certificate_filter import (
    AllOf,
    AnyOf,
    CertificateFilter,
    CreatedWithin,
    EndsWithin,
    HasName,
    HasSerial,
    InDomain,
    InState,
    IsManaged,
    Labelled,
    Not,
    OfKey,
    OfKeySpec,
    UnderProfile,
)
from certd.model.names import AuthorityName, CertificateName
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.services.revocation import NewRevocation
from certd.v1 import certificate_pb2, x509_pb2
from certd.v1.certificate_filter_pb2 import CertificateFilter as Filter
from certd.v1.certificate_service_pb2 import RevokeCertificateRequest, SearchCertificatesRequest
from certd.v1.certificate_service_pb2_grpc import CertificateServiceStub
from tests.api.edge_failure import Failure, failure_of
from tests.api.edge_server import NOW, Edge, running_edge

CA = "tenants/default/authorities/web-ca"
LEAF = f"{CA}/certificates/0A:1B"
REQUEST_ID = "0B2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"


@pytest.fixture(scope="module")
def shared_edge() -> Iterator[Edge]:
    with running_edge() as running:
        yield running


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    shared_edge.told.calls.clear()
    shared_edge.told.error = None
    return shared_edge


def stub(edge: Edge) -> Any:
    return edge.stub(CertificateServiceStub)


def refusal(call: Any, request: Any) -> Failure:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=20)
    return failure_of(refused.value)


def searched(edge: Edge, wanted: Filter | None = None, **changes: Any) -> CertificateFilter | None:
    """Returns the condition that reached the service."""
    request = SearchCertificatesRequest(**({"parent": CA, "filter": wanted} | changes))
    stub(edge).SearchCertificates(request, timeout=20)
    filtered: CertificateFilter | None = edge.told.last[2]
    return filtered


def at(moment: datetime, *, nanos: int = 0) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    message.nanos += nanos
    return message


def both(*some: Filter) -> Filter:
    return Filter(and_filters=Filter.Filters(filters=some))


def named(**names: tuple[str, ...]) -> HasName:
    return HasName(SubjectAlternativeNames(**names))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Filter(name="WWW.example.internal"), named(dns_names=("www.example.internal",))),
        (Filter(name="*.example.internal"), named(dns_names=("*.example.internal",))),
        (Filter(name="2001:DB8::0:1"), named(ip_addresses=("2001:db8::1",))),
        (Filter(name="10.0.0.1"), named(ip_addresses=("10.0.0.1",))),
        (Filter(name="spiffe://Example/web"), None),
        (Filter(name="spiffe://example/web"), named(uris=("spiffe://example/web",))),
        (Filter(name="jane@Example.com"), named(email_addresses=("jane@example.com",))),
        (Filter(domain="Example.Internal"), InDomain("example.internal")),
        (Filter(domain="com"), InDomain("com")),
        (Filter(serial_number="00:0A:1B"), HasSerial("0a1b")),
        (Filter(state=certificate_pb2.Certificate.LOST), InState(CertificateState.LOST)),
        (Filter(profile="tenants/default/profiles/server"), UnderProfile("server")),
        (Filter(key_spec=x509_pb2.EC_P384), OfKeySpec(KeySpec.EC_P384)),
        (Filter(public_key_sha256=bytes(32)), OfKey(bytes(32))),
        (Filter(managed=False), IsManaged(managed=False)),
        (Filter(label=Filter.Label(key='a"b')), Labelled('a"b', None)),
        (Filter(label=Filter.Label(key="team", value="")), Labelled("team", "")),
        (Filter(not_after=Filter.TimeRange(from_time=at(NOW))), EndsWithin(begin=NOW, end=None)),
        (
            # Rows have microseconds: at 1.5 µs or later is at 2 µs or later, before 1.5 µs is before 2 µs.
            Filter(create_time=Filter.TimeRange(from_time=at(NOW, nanos=1), until_time=at(NOW, nanos=1500))),
            CreatedWithin(begin=NOW + timedelta(microseconds=1), end=NOW + timedelta(microseconds=2)),
        ),
        (
            Filter(not_filter=Filter(or_filters=Filter.Filters(filters=[Filter(managed=True), Filter(domain="a")]))),
            Not(AnyOf((IsManaged(managed=True), InDomain("a")))),
        ),
        (both(Filter(managed=True)), AllOf((IsManaged(managed=True),))),
    ],
)
def test_conditions_reach_the_service_in_their_normal_form(
    edge: Edge, given: Filter, expected: CertificateFilter | None
) -> None:
    if expected is None:
        assert refusal(stub(edge).SearchCertificates, SearchCertificatesRequest(parent=CA, filter=given)).violations
        return
    assert searched(edge, given) == expected


def test_a_search_without_conditions_finds_everything(edge: Edge) -> None:
    assert searched(edge, parent="tenants/default/authorities/-") is None
    assert edge.told.last[1] == AuthorityName("default", "-")
    page = stub(edge).SearchCertificates(SearchCertificatesRequest(parent=CA, page_size=7, page_token="t"), timeout=20)
    assert (edge.told.last[3].size, edge.told.last[3].token) == (7, "t")
    assert [one.name for one in page.certificates] == [f"{CA}/certificates/0a1b"]
    assert page.next_page_token == "next"
    assert not page.certificates[0].chain


def deep(levels: int) -> Filter:
    wanted = Filter(managed=True)
    for _level in range(levels - 1):
        wanted = Filter(not_filter=wanted)
    return wanted


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (Filter(), ["filter"]),
        (Filter(not_filter=Filter()), ["filter.not_filter"]),
        (both(), ["filter.and_filters.filters"]),
        (Filter(or_filters=Filter.Filters()), ["filter.or_filters.filters"]),
        (Filter(name="two words"), ["filter.name"]),
        (Filter(name=""), ["filter.name"]),
        (Filter(name="a" * 3000), ["filter.name"]),
        (Filter(domain="*.example.internal"), ["filter.domain"]),
        (Filter(domain="exa mple"), ["filter.domain"]),
        (Filter(serial_number="xyz"), ["filter.serial_number"]),
        (Filter(state=certificate_pb2.Certificate.STATE_UNSPECIFIED), ["filter.state"]),
        (Filter(state=77), ["filter.state"]),  # type: ignore[arg-type]  # A value that a newer client may know.
        (Filter(profile="server"), ["filter.profile"]),
        (Filter(profile="tenants/other/profiles/server"), ["filter.profile"]),
        (Filter(key_spec=x509_pb2.KEY_SPEC_UNSPECIFIED), ["filter.key_spec"]),
        (Filter(public_key_sha256=b"short"), ["filter.public_key_sha256"]),
        (Filter(not_after=Filter.TimeRange()), ["filter.not_after"]),
        (Filter(not_after=Filter.TimeRange(from_time=at(NOW), until_time=at(NOW))), ["filter.not_after"]),
        (Filter(create_time=Filter.TimeRange(until_time=Timestamp(seconds=-1))), ["filter.create_time.until_time"]),
        (
            Filter(create_time=Filter.TimeRange(from_time=Timestamp(seconds=253_402_300_799, nanos=999_999_999))),
            ["filter.create_time.from_time"],
        ),
        (Filter(label=Filter.Label()), ["filter.label.key"]),
        (Filter(label=Filter.Label(key="a\n")), ["filter.label.key"]),
        (Filter(label=Filter.Label(key="a", value="b" * 257)), ["filter.label.value"]),
        (deep(9), ["filter"]),
        (both(*(Filter(managed=True) for _ in range(32))), ["filter"]),
        (
            both(Filter(domain="*"), Filter(managed=True), both(Filter(serial_number="g"), Filter())),
            [
                "filter.and_filters.filters[0].domain",
                "filter.and_filters.filters[2].and_filters.filters[0].serial_number",
                "filter.and_filters.filters[2].and_filters.filters[1]",
            ],
        ),
    ],
)
def test_every_broken_condition_is_named(edge: Edge, given: Filter, fields: list[str]) -> None:
    failure = refusal(stub(edge).SearchCertificates, SearchCertificatesRequest(parent=CA, filter=given))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert [field for field, _ in failure.violations] == fields
    assert all(description for _, description in failure.violations)
    assert not edge.told.calls


def test_the_largest_trees_are_taken(edge: Edge) -> None:
    assert searched(edge, deep(8)) is not None
    assert searched(edge, both(*(Filter(managed=True) for _ in range(31)))) is not None


def test_the_other_fields_of_a_search_are_named_with_its_conditions(edge: Edge) -> None:
    request = SearchCertificatesRequest(
        parent="web-ca", filter=Filter(profile="tenants/default/profiles/server"), page_size=1001, page_token="t" * 1025
    )
    assert [field for field, _ in refusal(stub(edge).SearchCertificates, request).violations] == [
        "parent",
        "page_size",
        "page_token",
    ]


def test_a_revocation_reaches_the_service(edge: Edge) -> None:
    since = NOW - timedelta(days=1)
    revoked = stub(edge).RevokeCertificate(
        RevokeCertificateRequest(
            name=LEAF,
            reason=certificate_pb2.KEY_COMPROMISE,
            invalidity_time=at(since),
            request_id=REQUEST_ID,
            validate_only=True,
        ),
        timeout=20,
    )
    _caller, new, key, validate_only = edge.told.last
    name = CertificateName("default", "web-ca", "0a1b")
    assert new == NewRevocation(name=name, reason=RevocationReason.KEY_COMPROMISE, invalidity_time=since)
    assert (key.request_id, validate_only) == (REQUEST_ID.lower(), True)
    assert (revoked.state, revoked.revocation_reason) == (
        certificate_pb2.Certificate.REVOKED,
        certificate_pb2.KEY_COMPROMISE,
    )
    assert (revoked.revoke_time.ToDatetime(UTC), revoked.invalidity_time.ToDatetime(UTC)) == (NOW, since)


@pytest.mark.parametrize("reason", list(RevocationReason))
def test_every_reason_passes_there_and_back(edge: Edge, reason: RevocationReason) -> None:
    prefix = "REVOCATION_REASON_" if reason is RevocationReason.UNSPECIFIED else ""
    number = certificate_pb2.RevocationReason.Value(prefix + reason.name)
    revoked = stub(edge).RevokeCertificate(RevokeCertificateRequest(name=LEAF, reason=number), timeout=20)
    assert edge.told.last[1].reason is reason
    assert edge.told.last[2:] == (None, False)
    assert revoked.revocation_reason == number


def test_every_broken_field_of_a_revocation_is_named(edge: Edge) -> None:
    request = RevokeCertificateRequest(
        name=CA,
        reason=6,  # type: ignore[arg-type]  # The hold of RFC 5280.
        invalidity_time=Timestamp(seconds=1, nanos=1),
        request_id="1",
    )
    failure = refusal(stub(edge).RevokeCertificate, request)
    assert failure.reason == "FIELD_INVALID"
    assert [field for field, _ in failure.violations] == ["name", "reason", "invalidity_time", "request_id"]
    assert "KEY_COMPROMISE" in dict(failure.violations)["reason"]
    assert not edge.told.calls


def test_what_is_revoked_already_is_told_with_time_and_reason(edge: Edge) -> None:
    metadata = {"revoke_time": NOW.isoformat(), "reason": "SUPERSEDED"}
    edge.told.error = CertdError(Reason.ALREADY_REVOKED, "it is revoked", metadata=metadata, resource=LEAF)
    failure = refusal(stub(edge).RevokeCertificate, RevokeCertificateRequest(name=LEAF))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_REVOKED")
    assert failure.metadata == metadata
