"""How an authority goes on and how it ends, at the edge: every field converted, every bad one named."""

from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState
from certd.model.names import AuthorityName, purged_id
from certd.services.authority_changes import Change
from certd.services.authority_deletion import Deletion
from certd.services.authority_reissue import Reissue
from certd.v1 import authority_pb2, authority_service_pb2
from tests.api.edge_failure import failure_of
from tests.api.edge_messages import AUTHORITY_NAME, REQUEST_ID, call, create_authority, refused
from tests.api.edge_server import AUTHORITY, NOW, Edge

CA = AuthorityName("default", "web-ca")
DAY = timedelta(days=1)
_VERBS = [
    authority_service_pb2.DeleteAuthorityRequest,
    authority_service_pb2.UndeleteAuthorityRequest,
    authority_service_pb2.ReissueAuthorityCertificateRequest,
]


def test_a_deletion_comes_in_whole(edge: Edge) -> None:
    call(
        edge,
        authority_service_pb2.DeleteAuthorityRequest(
            name=AUTHORITY_NAME,
            window=Duration(seconds=7 * 86400),
            allow_live_certificates=True,
            etag="5f0c-3",
            request_id=REQUEST_ID,
            validate_only=True,
        ),
    )
    _, change, deletion = edge.told.last
    assert (change.name, change.etag, change.key.request_id, change.validate_only) == (
        CA,
        "5f0c-3",
        REQUEST_ID.lower(),
        True,
    )
    assert deletion == Deletion(window=7 * DAY, allow_live_certificates=True)
    call(edge, authority_service_pb2.DeleteAuthorityRequest(name=AUTHORITY_NAME))
    assert edge.told.last[1:] == (Change(name=CA), Deletion(window=30 * DAY))


def test_a_new_certificate_is_asked_for_in_whole(edge: Edge) -> None:
    request = authority_service_pb2.ReissueAuthorityCertificateRequest(
        name=AUTHORITY_NAME, lifetime=Duration(seconds=86400), allow_broken_certificates=True
    )
    call(edge, request)
    assert edge.told.last[1:] == (Change(name=CA), Reissue(lifetime=DAY, allow_broken_certificates=True))
    call(edge, authority_service_pb2.ReissueAuthorityCertificateRequest(name=AUTHORITY_NAME))
    assert edge.told.last[1:] == (Change(name=CA), Reissue())


def test_an_undeletion_comes_in_whole(edge: Edge) -> None:
    call(edge, authority_service_pb2.UndeleteAuthorityRequest(name=AUTHORITY_NAME, etag="5f0c-3"))
    assert edge.told.last[0] == "undelete"
    assert edge.told.last[2] == Change(name=CA, etag="5f0c-3")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        *((verb(name="web-ca"), "name") for verb in _VERBS),
        *((verb(name=AUTHORITY_NAME, etag="x" * 129), "etag") for verb in _VERBS),
        *((verb(name=AUTHORITY_NAME, request_id="1"), "request_id") for verb in _VERBS),
        (_VERBS[0](name=AUTHORITY_NAME, window=Duration(seconds=-1)), "window"),
        (_VERBS[0](name=AUTHORITY_NAME, window=Duration(seconds=86400 * 8, nanos=1)), "window"),
        (_VERBS[2](name=AUTHORITY_NAME, lifetime=Duration(seconds=0)), "lifetime"),
    ],
)
def test_what_is_wrong_is_named(edge: Edge, request_: Message, field: str) -> None:
    assert [violation[0] for violation in refused(edge, request_).violations] == [field]


def test_when_it_was_deleted_goes_out(edge: Edge) -> None:
    deleted = replace(AUTHORITY, delete_time=NOW, purge_time=NOW + 30 * DAY)
    edge.authorities.view = replace(edge.authorities.view, authority=deleted, state=AuthorityState.DELETED)
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert answer.state == authority_pb2.Authority.DELETED
    assert answer.delete_time.ToDatetime(NOW.tzinfo) == NOW
    assert answer.purge_time.ToDatetime(NOW.tzinfo) == NOW + 30 * DAY
    edge.authorities.view = replace(edge.authorities.view, authority=AUTHORITY, state=AuthorityState.PURGED)
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert answer.state == authority_pb2.Authority.PURGED
    assert not answer.HasField("delete_time")


def test_no_new_one_is_called_as_one_that_was_purged(edge: Edge) -> None:
    request = create_authority()
    request.authority_id = purged_id("0" * 32)
    assert [violation[0] for violation in refused(edge, request).violations] == ["authority_id"]


@pytest.mark.parametrize("reason", [Reason.AUTHORITY_ENABLED, Reason.DELETION_PROTECTED, Reason.CERTIFICATE_IN_USE])
def test_refusals_are_of_the_state_of_things(edge: Edge, reason: Reason) -> None:
    edge.told.error = CertdError(reason, "no", resource=AUTHORITY_NAME)
    with pytest.raises(grpc.RpcError) as raised:
        call(edge, authority_service_pb2.DeleteAuthorityRequest(name=AUTHORITY_NAME))
    failure = failure_of(raised.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert failure.resource == ("certd.v1.Authority", AUTHORITY_NAME)
