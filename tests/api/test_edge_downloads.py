"""Codes for downloads at the edge: every field converted, every bad one named."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from certd.model.names import WILDCARD, ManagedCertificateName
from certd.services.download_codes import NewDownloadCode
from certd.services.paging import PageRequest
from certd.v1.managed_certificate_service_pb2 import (
    CreateDownloadCodeRequest,
    DeleteDownloadCodeRequest,
    DeleteDownloadCodeResponse,
    DownloadCode,
    ListDownloadCodesRequest,
    ListDownloadCodesResponse,
)
from tests.api.edge_downloads import CODE, EXPIRES, NAME, ROW, USED
from tests.api.edge_messages import MANAGED_NAME, REQUEST_ID, call, moment_of, refused
from tests.api.edge_server import Edge


def _shown(**changes: Any) -> DownloadCode:
    shown: dict[str, Any] = {
        "name": str(NAME),
        "path": f"/v1/{MANAGED_NAME}",
        "creator": "spiffe://example/identities/alice",
        "create_time": moment_of(ROW.create_time),
        "expire_time": moment_of(EXPIRES),
        "source_networks": ["192.0.2.0/24"],
        "reason": "a new router",
    }
    return DownloadCode(**(shown | changes))


def _create(**changes: Any) -> CreateDownloadCodeRequest:
    return CreateDownloadCodeRequest(**({"name": MANAGED_NAME} | changes))


def test_a_code_is_asked_for_with_what_stands_in_the_request(edge: Edge) -> None:
    request = _create(
        lifetime=Duration(seconds=90), source_networks=["192.0.2.0/24", "2001:db8::/32"], reason="a new router"
    )
    answer = call(edge, request)
    name = ManagedCertificateName.parse("name", MANAGED_NAME)
    assert edge.told.last[1] == NewDownloadCode(
        name=name,
        lifetime=timedelta(seconds=90),
        source_networks=("192.0.2.0/24", "2001:db8::/32"),
        reason="a new router",
    )
    assert answer == _shown(code=CODE.text())
    call(edge, _create())
    assert edge.told.last[1] == NewDownloadCode(name=name)


def test_codes_are_listed_by_page_without_what_they_are(edge: Edge) -> None:
    everywhere = "tenants/default/managedCertificates/-"
    answer = call(edge, ListDownloadCodesRequest(parent=everywhere, page_size=5, page_token="token"))
    assert edge.told.last[1:] == (ManagedCertificateName("default", WILDCARD), PageRequest(5, "token"))
    assert answer == ListDownloadCodesResponse(
        download_codes=[_shown(), _shown(use_time=moment_of(USED), source_networks=[])], next_page_token="next"
    )
    assert not answer.download_codes[0].HasField("use_time")
    assert CODE.text() not in str(answer)
    call(edge, ListDownloadCodesRequest(parent=MANAGED_NAME))
    assert edge.told.last[1:] == (NAME.managed_certificate, PageRequest(100, ""))


def test_a_code_is_withdrawn_by_its_name(edge: Edge) -> None:
    request = DeleteDownloadCodeRequest(name=str(NAME), request_id=REQUEST_ID)
    assert call(edge, request) == DeleteDownloadCodeResponse()
    _, deleted, key = edge.told.last
    assert (deleted, key.request_id) == (NAME, REQUEST_ID.lower())


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (ListDownloadCodesRequest(parent="tenants/-/managedCertificates/web", page_size=-1), {"parent", "page_size"}),
        (ListDownloadCodesRequest(parent="tenants/default"), {"parent"}),
        (DeleteDownloadCodeRequest(name=f"{MANAGED_NAME}/downloadCodes/-", request_id="x"), {"name", "request_id"}),
        (DeleteDownloadCodeRequest(name=str(NAME).upper()), {"name"}),
        (DeleteDownloadCodeRequest(name=f"{NAME}0"), {"name"}),
        (DeleteDownloadCodeRequest(name=MANAGED_NAME), {"name"}),
    ],
)
def test_every_bad_name_is_named(edge: Edge, request_: Message, fields: set[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields


def test_a_code_that_is_given_for_its_name_is_not_repeated(edge: Edge) -> None:
    failure = refused(edge, DeleteDownloadCodeRequest(name=f"{MANAGED_NAME}/downloadCodes/{CODE.text()}"))
    assert CODE.text() not in repr(failure)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"name": "web", "reason": "line\nbreak"}, {"name", "reason"}),
        ({"reason": "x" * 257}, {"reason"}),
        ({"lifetime": Duration()}, {"lifetime"}),
        ({"lifetime": Duration(seconds=60, nanos=1)}, {"lifetime"}),
        ({"lifetime": Duration(seconds=-60)}, {"lifetime"}),
    ],
)
def test_every_bad_field_is_named(edge: Edge, changes: dict[str, Any], fields: set[str]) -> None:
    failure = refused(edge, _create(**changes))
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields
