"""Who calls too often is told when to come again, and what the gate refuses is counted under who called."""

import grpc
import pytest

from certd.api import peer
from certd.errors import CertdError, Reason
from certd.services.rates import Rates
from certd.v1 import authority_service_pb2, authority_service_pb2_grpc
from tests.api.edge_credentials import Identity
from tests.api.edge_failure import failure_of
from tests.api.edge_server import ALICE, REVOKED_CLIENT, UNKNOWN_CLIENT, Edge, running_edge

_METHOD = "/certd.v1.AuthorityService/GetAuthority"
_GET = authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/web-ca")


def test_who_calls_too_often_is_told_when_to_come_again_and_reaches_no_service() -> None:
    with running_edge(rates=Rates(calls_per_second=0.01, burst=3)) as edge:
        stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
        for _ in range(3):
            stub.GetAuthority(_GET, timeout=20)
        with pytest.raises(grpc.RpcError) as raised:
            stub.GetAuthority(_GET, timeout=20)
        failure = failure_of(raised.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert failure.retry_after is not None
        assert 50 < failure.retry_after <= 200
        assert len(edge.told.calls) == 3
        assert edge.refusals.noted == [(ALICE, _METHOD, Reason.RATE_LIMITED, "127.0.0.1")]


@pytest.mark.parametrize(
    ("client", "reason"),
    [(UNKNOWN_CLIENT, Reason.CREDENTIAL_INVALID), (REVOKED_CLIENT, Reason.CREDENTIAL_REVOKED)],
    ids=["unknown", "revoked"],
)
def test_callers_who_are_not_known_are_counted_without_a_name(edge: Edge, client: Identity, reason: Reason) -> None:
    with pytest.raises(grpc.RpcError):
        edge.stub(authority_service_pb2_grpc.AuthorityServiceStub, client).GetAuthority(_GET, timeout=20)
    assert edge.refusals.noted == [("", _METHOD, reason, "127.0.0.1")]


def test_what_a_service_refuses_is_counted_under_the_caller(edge: Edge) -> None:
    edge.told.error = CertdError(Reason.PERMISSION_MISSING, "not yours")
    with pytest.raises(grpc.RpcError):
        edge.stub(authority_service_pb2_grpc.AuthorityServiceStub).GetAuthority(_GET, timeout=20)
    assert edge.refusals.noted == [(ALICE, _METHOD, Reason.PERMISSION_MISSING, "127.0.0.1")]


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:80", "::1"),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(told: str, address: str) -> None:
    assert peer.address_of(told) == address
