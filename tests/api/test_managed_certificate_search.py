"""SearchManagedCertificates at the edge: which condition reaches the service, which broken fields are named."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from certd.api.managed_certificate_filter import filter_message, parse_filter
from certd.model.managed_certificate import ManagedCertificateState, ManagedCertificateType
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import TenantName
from certd.model.request_limits import RequestLimits
from certd.pki.key_spec import KeySpec
from certd.v1 import x509_pb2
from certd.v1.managed_certificate_filter_pb2 import ManagedCertificateFilter as Filter
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import SearchManagedCertificatesRequest
from tests.api.edge_messages import call, refused
from tests.api.edge_server import NOW, Edge

DEFAULT = "tenants/default"


def at(moment: datetime, *, nanos: int = 0) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    message.nanos += nanos
    return message


CONDITIONS = [
    (Filter(), ManagedCertificateFilter()),
    (
        Filter(states=[ManagedCertificate.EXPIRED, ManagedCertificate.ACTIVE, ManagedCertificate.EXPIRED]),
        ManagedCertificateFilter(states=frozenset({ManagedCertificateState.ACTIVE, ManagedCertificateState.EXPIRED})),
    ),
    (
        Filter(type=ManagedCertificate.IMPORTED, key_spec=x509_pb2.RSA_2048),
        ManagedCertificateFilter(type=ManagedCertificateType.IMPORTED, key_spec=KeySpec.RSA_2048),
    ),
    (
        Filter(authority=f"{DEFAULT}/authorities/ca", profile=f"{DEFAULT}/profiles/server"),
        ManagedCertificateFilter(authority=f"{DEFAULT}/authorities/ca", profile="server"),
    ),
    (Filter(alternative_name="WWW.Example"), ManagedCertificateFilter(alternative_name="www.example")),
    (Filter(alternative_name="2001:DB8::0:1"), ManagedCertificateFilter(alternative_name="2001:db8::1")),
    # Read as an address, not as a URI of the scheme fe80.
    (Filter(alternative_name="fe80:0::1"), ManagedCertificateFilter(alternative_name="fe80::1")),
    (
        Filter(alternative_name="spiffe://example/web"),
        ManagedCertificateFilter(alternative_name="spiffe://example/web"),
    ),
    (Filter(alternative_name="Jane@Example.COM"), ManagedCertificateFilter(alternative_name="Jane@example.com")),
    (Filter(domain="Example.Internal"), ManagedCertificateFilter(domain="example.internal")),
    (Filter(labels={"team": "web", "any": ""}), ManagedCertificateFilter(labels={"team": "web", "any": ""})),
    (
        Filter(not_after_before=at(NOW), issued_before=at(NOW, nanos=1)),
        ManagedCertificateFilter(not_after_before=NOW, issued_before=NOW + timedelta(microseconds=1)),
    ),
    (Filter(renewal_blocked=True, used=False), ManagedCertificateFilter(renewal_blocked=True, used=False)),
]


@pytest.mark.parametrize(("given", "expected"), CONDITIONS)
def test_conditions_reach_the_service_in_their_normal_form(
    edge: Edge, given: Filter, expected: ManagedCertificateFilter
) -> None:
    call(edge, SearchManagedCertificatesRequest(parent=DEFAULT, filter=given))
    assert edge.told.last[1:3] == (TenantName("default"), expected)


@pytest.mark.parametrize("wanted", [expected for _, expected in CONDITIONS])
def test_a_condition_that_is_written_back_is_read_as_the_same(wanted: ManagedCertificateFilter) -> None:
    message = filter_message(wanted, tenant="default")
    assert parse_filter("filter", message, tenant="default", limits=RequestLimits()) == wanted


def test_a_search_without_conditions_finds_everything(edge: Edge) -> None:
    answer = call(edge, SearchManagedCertificatesRequest(parent=DEFAULT, page_size=7, page_token="t"))
    _, _, wanted, asked = edge.told.last
    assert (wanted, asked.size, asked.token) == (ManagedCertificateFilter(), 7, "t")
    assert [one.name for one in answer.managed_certificates] == [f"{DEFAULT}/managedCertificates/web"]
    assert not answer.managed_certificates[0].chain
    assert answer.next_page_token == "next"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"states": [ManagedCertificate.STATE_UNSPECIFIED, 99]}, ["states[0]", "states[1]"]),
        ({"type": 99}, ["type"]),
        ({"key_spec": 99}, ["key_spec"]),
        ({"authority": "ca", "profile": "server"}, ["authority", "profile"]),
        (
            {"authority": "tenants/other/authorities/ca", "profile": "tenants/other/profiles/server"},
            ["authority", "profile"],
        ),
        ({"authority": f"{DEFAULT}/authorities/-"}, ["authority"]),
        ({"alternative_name": "not a name"}, ["alternative_name"]),
        ({"alternative_name": "a" * 3000}, ["alternative_name"]),
        ({"domain": "*.example.internal"}, ["domain"]),
        ({"labels": {"": "web", "team": "w" * 257}}, ["labels['']", "labels['team']"]),
        ({"labels": {f"l{number}": "" for number in range(51)}}, ["labels"]),
        (
            {"not_after_before": Timestamp(), "issued_before": Timestamp(seconds=-1)},
            ["not_after_before", "issued_before"],
        ),
    ],
)
def test_every_condition_that_breaks_a_rule_is_named(edge: Edge, given: dict[str, Any], expected: list[str]) -> None:
    failure = refused(edge, SearchManagedCertificatesRequest(parent=DEFAULT, filter=Filter(**given)))
    assert failure.reason == "FIELD_INVALID"
    assert [field for field, _ in failure.violations] == [f"filter.{field}" for field in expected]


def test_a_parent_that_is_none_is_named_beside_its_conditions(edge: Edge) -> None:
    wanted = Filter(authority="tenants/other/authorities/ca", domain="*")
    failure = refused(edge, SearchManagedCertificatesRequest(parent="default", filter=wanted, page_size=-1))
    assert [field for field, _ in failure.violations] == ["parent", "filter.domain", "page_size"]
