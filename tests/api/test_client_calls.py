"""The client against a server of our own: tries, deadlines, and what a failure tells."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from certd.client.connection import Client, Waiting
from certd.client.credentials import read_credentials
from certd.client.failure import CallFailed
from certd.errors import CertdError, Reason, Violation
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    CreateAuthorityRequest,
    GetAuthorityRequest,
    ListAuthoritiesRequest,
    ListAuthoritiesResponse,
)
from certd.v1.managed_certificate_service_pb2 import ExportManagedCertificateRequest, ExportManagedCertificateResponse
from certd.v1.server_service_pb2 import GetServerInfoRequest, ServerInfo
from tests.fakes_server import (
    CredentialFiles,
    Failing,
    FakeServer,
    Issued,
    make_leaf,
    make_root,
    running,
    write_credentials,
)

NAME = "tenants/default/authorities/web-ca"


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost", "127.0.0.1")


@pytest.fixture
def files(tmp_path: Path, root: Issued) -> CredentialFiles:
    return write_credentials(tmp_path / "credentials", make_leaf(root, "client.internal"), root)


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


def client_of(address: str, files: CredentialFiles, **more: Any) -> Client:
    credentials = read_credentials(
        certificate=files.certificate, private_key=files.private_key, trust_bundle=files.trust_bundle
    )
    return Client(address, credentials, **more)


@pytest.fixture
def client(fake: FakeServer, files: CredentialFiles) -> Iterator[Client]:
    with client_of(fake.address, files) as made:
        yield made


def unavailable(**more: Any) -> Failing:
    return Failing(code=grpc.StatusCode.UNAVAILABLE, reason="TOKEN_UNAVAILABLE", **more)


def failure_of(client: Client) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        client.call(client.stubs.get_authority, GetAuthorityRequest(name=NAME))
    return caught.value


def test_a_call_is_tried_until_it_succeeds_with_one_request_id(fake: FakeServer, client: Client) -> None:
    fake.answer("CreateAuthority", unavailable(), unavailable(), Authority(name=NAME))
    request = CreateAuthorityRequest(authority_id="web-ca")
    assert client.call(client.stubs.create_authority, request).name == NAME
    ids = {request.request_id for request in fake.requests("CreateAuthority")}
    assert len(fake.requests("CreateAuthority")) == 3
    assert len(ids) == 1
    UUID(ids.pop())
    # The caller's own message stays as it was, so that using it again is another request.
    assert not request.request_id


def test_a_given_request_id_is_kept_and_told_on_failure(fake: FakeServer, client: Client) -> None:
    given = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"
    fake.answer("CreateAuthority", Failing(code=grpc.StatusCode.ALREADY_EXISTS, reason="REQUEST_ID_REUSED"))
    with pytest.raises(CallFailed) as caught:
        client.call(client.stubs.create_authority, CreateAuthorityRequest(request_id=given))
    assert caught.value.metadata["request_id"] == given
    assert [request.request_id for request in fake.requests("CreateAuthority")] == [given]


def test_the_servers_delay_is_honoured(fake: FakeServer, files: CredentialFiles) -> None:
    fake.answer(
        "GetServerInfo",
        Failing(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", retry_after=timedelta(milliseconds=300)
        ),
        ServerInfo(version="1"),
    )
    waits: list[Waiting] = []
    began = time.monotonic()
    with client_of(fake.address, files, on_wait=waits.append) as client:
        assert client.call(client.stubs.get_server_info, GetServerInfoRequest()).version == "1"
    assert time.monotonic() - began >= 0.3
    assert [wait.failure.reason for wait in waits] == ["RATE_LIMITED"]


def test_a_delay_past_the_bound_fails_at_once(fake: FakeServer, client: Client) -> None:
    fake.answer("GetAuthority", unavailable(retry_after=timedelta(hours=1)))
    began = time.monotonic()
    assert failure_of(client).retry_after == 3600
    assert time.monotonic() - began < 5
    assert len(fake.requests("GetAuthority")) == 1


def test_tries_end_with_the_timeout(fake: FakeServer, files: CredentialFiles) -> None:
    fake.answer("GetAuthority", unavailable())
    began = time.monotonic()
    # Long enough for a handshake and two calls on a machine that has other things to do.
    with client_of(fake.address, files, timeout=1.5) as client:
        assert failure_of(client).reason == "TOKEN_UNAVAILABLE"
    assert time.monotonic() - began < 10
    assert len(fake.requests("GetAuthority")) > 1


def test_an_export_is_never_repeated_unless_the_server_asks_for_it(fake: FakeServer, client: Client) -> None:
    request = ExportManagedCertificateRequest(name="tenants/default/managedCertificates/web")
    fake.answer("ExportManagedCertificate", unavailable())
    with pytest.raises(CallFailed):
        client.call(client.stubs.export_managed_certificate, request)
    assert len(fake.requests("ExportManagedCertificate")) == 1
    fake.answer(
        "ExportManagedCertificate",
        unavailable(retry_after=timedelta(milliseconds=10)),
        ExportManagedCertificateResponse(version=1),
    )
    assert client.call(client.stubs.export_managed_certificate, request).version == 1


def test_a_failure_tells_everything_that_the_server_sent(fake: FakeServer, client: Client) -> None:
    fake.answer(
        "GetAuthority",
        Failing(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="FIELD_INVALID",
            message="name: must have the form tenants/*/authorities/*",
            metadata={"lint": "e_name"},
            violations=[("name", "must have the form"), ("page_size", "too large")],
            retry_after=timedelta(seconds=2),
            resource=NAME,
        ),
    )
    failure = failure_of(client)
    assert (failure.reason, failure.code, failure.resource) == ("FIELD_INVALID", "INVALID_ARGUMENT", NAME)
    assert failure.message == "name: must have the form tenants/*/authorities/*"
    assert failure.metadata == {"lint": "e_name"}
    assert failure.violations == (Violation("name", "must have the form"), Violation("page_size", "too large"))
    assert failure.retry_after == 2
    assert failure.answered


def test_a_failure_without_details_has_its_code_for_reason(fake: FakeServer, client: Client) -> None:
    fake.answer("GetAuthority", Failing(code=grpc.StatusCode.PERMISSION_DENIED, message="no"))
    failure = failure_of(client)
    assert (failure.reason, failure.message, failure.answered) == ("PERMISSION_DENIED", "no", False)


def test_mangled_details_leave_code_and_message(fake: FakeServer, client: Client) -> None:
    def mangle(_: Any, context: grpc.ServicerContext) -> Authority:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such authority")
        raise AssertionError

    fake.answer("GetAuthority", mangle)
    failure = failure_of(client)
    assert (failure.reason, failure.message) == ("NOT_FOUND", "no such authority")


def test_a_call_past_its_deadline_says_how_to_learn_the_outcome(fake: FakeServer, files: CredentialFiles) -> None:
    released = threading.Event()

    def stall(_: Any, __: grpc.ServicerContext) -> Authority:
        released.wait(20)
        return Authority()

    fake.answer("CreateAuthority", stall)
    try:
        with client_of(fake.address, files, timeout=0.3) as client, pytest.raises(CallFailed) as caught:
            client.call(client.stubs.create_authority, CreateAuthorityRequest())
    finally:
        released.set()
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    assert "request id" in caught.value.message
    assert caught.value.metadata["request_id"] == fake.requests("CreateAuthority")[0].request_id


def test_pages_are_followed_to_the_last(fake: FakeServer, client: Client) -> None:
    fake.answer(
        "ListAuthorities",
        ListAuthoritiesResponse(authorities=[Authority(name="a")], next_page_token="second"),
        ListAuthoritiesResponse(authorities=[Authority(name="b")]),
    )
    pages = client.pages(client.stubs.list_authorities, ListAuthoritiesRequest(parent="tenants/default", page_size=1))
    assert [a.name for page in pages for a in page.authorities] == ["a", "b"]
    assert [(r.page_size, r.page_token) for r in fake.requests("ListAuthorities")] == [(1, ""), (1, "second")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_server_that_comes_back_is_found(root: Issued, server_leaf: Issued, files: CredentialFiles) -> None:
    port = free_port()
    waits = threading.Event()
    answers: list[str] = []

    def ask() -> None:
        with client_of(f"localhost:{port}", files, on_wait=lambda _: waits.set()) as client:
            answers.append(client.call(client.stubs.get_server_info, GetServerInfoRequest()).version)

    caller = threading.Thread(target=ask)
    caller.start()
    assert waits.wait(20)
    fake = FakeServer()
    fake.answer("GetServerInfo", ServerInfo(version="back"))
    with running(fake, server_leaf, root, port=port):
        caller.join(20)
    assert answers == ["back"]


def test_a_server_whose_handshake_takes_long_is_waited_for(fake: FakeServer, files: CredentialFiles) -> None:
    """As one is that is far away, or busy: who hung up and knocked again would never come in."""
    fake.answer("GetServerInfo", ServerInfo(version="slow"))
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        ThreadPoolExecutor(3) as threads,
        client_of(f"127.0.0.1:{door.getsockname()[1]}", files) as client,
    ):
        answer = threads.submit(client.call, client.stubs.get_server_info, GetServerInfoRequest())
        inside, _ = door.accept()
        with inside, socket.create_connection(("localhost", int(fake.address.rpartition(":")[2]))) as outside:
            door.settimeout(1.5)
            with pytest.raises(TimeoutError):
                door.accept()
            for one, other in ((inside, outside), (outside, inside)):
                threads.submit(pass_on, one, other)
            try:
                assert answer.result(20).version == "slow"
            finally:
                for each in (inside, outside):
                    each.shutdown(socket.SHUT_RDWR)


def pass_on(from_: socket.socket, to: socket.socket) -> None:
    """Passes on what comes until one of the two is shut."""
    with contextlib.suppress(OSError):
        while data := from_.recv(1 << 16):
            to.sendall(data)


def test_no_server_is_told_with_address_and_cause(files: CredentialFiles) -> None:
    port = free_port()
    with client_of(f"localhost:{port}", files, timeout=0.3) as client:
        failure = failure_of(client)
    assert failure.reason == "UNAVAILABLE"
    assert f"localhost:{port}" in failure.message
    assert "refused" in failure.message


def test_a_server_of_another_root_is_refused_without_a_second_try(
    fake: FakeServer, root: Issued, tmp_path: Path
) -> None:
    files = write_credentials(tmp_path / "foreign", make_leaf(root, "client.internal"), make_root("Foreign Root"))
    waits: list[Waiting] = []
    with client_of(fake.address, files, on_wait=waits.append) as client:
        failure = failure_of(client)
    assert failure.reason == Reason.CREDENTIAL_INVALID
    assert "trust bundle" in failure.message
    assert not waits
    assert not fake.calls


def test_a_server_of_another_name_is_refused(root: Issued, files: CredentialFiles) -> None:
    with (
        running(FakeServer(), make_leaf(root, "elsewhere.internal"), root) as fake,
        client_of(fake.address, files, timeout=2) as client,
    ):
        failure = failure_of(client)
    assert failure.reason == Reason.CREDENTIAL_INVALID
    assert not fake.calls


def test_a_client_that_the_server_does_not_know_learns_what_to_check(
    fake: FakeServer, root: Issued, tmp_path: Path
) -> None:
    stranger = make_leaf(make_root("Foreign Root"), "stranger.internal")
    files = write_credentials(tmp_path / "stranger", stranger, root)
    with client_of(fake.address, files, timeout=0.5) as client:
        failure = failure_of(client)
    assert failure.reason == "UNAVAILABLE"
    assert "client certificate" in failure.message
    assert not fake.calls


def test_an_expired_client_certificate_is_named(fake: FakeServer, root: Issued, tmp_path: Path) -> None:
    files = write_credentials(tmp_path / "expired", make_leaf(root, "client.internal", days=-1), root)
    with client_of(fake.address, files, timeout=2) as client:
        failure = failure_of(client)
    assert failure.reason == Reason.CREDENTIAL_INVALID
    assert "expired" in failure.message


@pytest.mark.parametrize("missing", ["certificate", "private_key", "trust_bundle"])
def test_a_missing_file_is_named(files: CredentialFiles, missing: str) -> None:
    path: Path = getattr(files, missing)
    path.unlink()
    with pytest.raises(CertdError, match=str(path)) as caught:
        client_of("localhost:1", files)
    assert caught.value.reason is Reason.CREDENTIAL_MISSING


@pytest.mark.parametrize("broken", ["certificate", "private_key", "trust_bundle"])
def test_a_file_of_something_else_is_named(files: CredentialFiles, broken: str) -> None:
    path: Path = getattr(files, broken)
    path.write_bytes(b"something else")
    with pytest.raises(CertdError, match=str(path)) as caught:
        client_of("localhost:1", files)
    assert caught.value.reason is Reason.CREDENTIAL_INVALID


def test_a_private_key_of_another_certificate_is_refused(files: CredentialFiles, root: Issued) -> None:
    files.private_key.write_bytes(make_leaf(root, "other.internal").key_pem)
    with pytest.raises(CertdError, match="does not belong") as caught:
        client_of("localhost:1", files)
    assert caught.value.reason is Reason.CREDENTIAL_INVALID


def test_no_private_key_shows_in_a_representation(files: CredentialFiles) -> None:
    credentials = read_credentials(
        certificate=files.certificate, private_key=files.private_key, trust_bundle=files.trust_bundle
    )
    assert "PRIVATE" not in repr(credentials)
