"""A caller is who they are when their message has come, not only when their call began."""

import threading
from collections.abc import Iterator

import grpc
import pytest

from certd.api import interceptors
from certd.errors import CertdError, Reason
from certd.v1 import authority_service_pb2
from tests.api.edge_failure import failure_of
from tests.api.edge_server import CLIENT, Edge, running_edge
from tests.waiting import eventually

_METHOD = "/certd.v1.AuthorityService/GetAuthority"
_GET = authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/web-ca").SerializeToString()


@pytest.fixture
def edge() -> Iterator[Edge]:
    with running_edge() as running:
        yield running


class _LateMessage:
    """A message that comes when it is told to, after the headers of its call."""

    def __init__(self) -> None:
        self._sent = threading.Event()

    def send(self) -> None:
        self._sent.set()

    def messages(self) -> Iterator[bytes]:
        self._sent.wait(60)
        yield _GET


def _is_waiting(edge: Edge) -> bool:
    """Whether a call was let in and waits for its message."""
    return bool(edge.server._pool.arrivals._waiting)


def test_who_is_revoked_while_their_message_is_on_its_way_is_refused(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "AT_ONCE", 0.0)
    message = _LateMessage()
    call = edge.channel().stream_unary(_METHOD, bytes, bytes).future(message.messages(), timeout=60)
    eventually(lambda: _is_waiting(edge))
    edge.access.callers[CLIENT.der] = CertdError(Reason.CREDENTIAL_REVOKED, "the client certificate 01 was revoked")
    message.send()
    with pytest.raises(grpc.RpcError) as raised:
        call.result()
    assert failure_of(raised.value).reason == "CREDENTIAL_REVOKED"
    assert not edge.told.calls


def test_who_is_not_is_answered(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "AT_ONCE", 0.0)
    message = _LateMessage()
    call = edge.channel().stream_unary(_METHOD, bytes, bytes).future(message.messages(), timeout=60)
    eventually(lambda: _is_waiting(edge))
    message.send()
    call.result()
    assert len(edge.told.calls) == 1
