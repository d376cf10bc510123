"""Codes for downloads at the edge: every field converted, every bad one named."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from certd.model.names import ManagedCertificateName
from certd.services.download_codes import NewDownloadCode
from certd.v1.managed_certificate_service_pb2 import CreateDownloadCodeRequest, DownloadCode
from tests.api.edge_downloads import CODE, EXPIRES
from tests.api.edge_messages import MANAGED_NAME, call, moment_of, refused
from tests.api.edge_server import Edge


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
    assert answer == DownloadCode(code=CODE.text(), expire_time=moment_of(EXPIRES), path=f"/v1/{MANAGED_NAME}")
    call(edge, _create())
    assert edge.told.last[1] == NewDownloadCode(name=name)


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
