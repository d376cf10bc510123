"""Streams that a client follows, and certctl's view of them, against a server of our own."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import grpc
import pytest

from certd.client import watch
from certd.client.connection import Client, Waiting
from certd.client.credentials import read_credentials
from certd.client.failure import CallFailed
from certd.client.messages import timestamp
from certd.v1.association_pb2 import Association
from certd.v1.event_pb2 import Event
from certd.v1.event_service_pb2 import ListEventsResponse, WatchEventsRequest, WatchEventsResponse
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import WatchManagedCertificatesResponse
from certd.v1.x509_pb2 import CertificateDescription
from tests.certctl import Certctl
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, write_credentials

WEB = "tenants/default/managedCertificates/web"
KIND = WatchManagedCertificatesResponse
RENEWED = Event(
    name="events/7",
    seq=7,
    time=timestamp(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
    type="managed-certificate.renewed",
    tenant="tenants/default",
    principal="certd",
    resource=f"{WEB}/versions/2",
    details={"uid": "77", "serial": "0a\x1b", "a": "1", "b": "2", "c": "3"},
)
AWAY = Failing(code=grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", retry_after=timedelta(milliseconds=10))


def told(seq: int) -> WatchEventsResponse:
    return WatchEventsResponse(event=Event(seq=seq), cursor=f"c{seq}")


@pytest.fixture
def client(fake: FakeServer, root: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(watch, "_FIRST_DELAY", 0.001)
    write_credentials(tmp_path, make_leaf(root, "client.internal"), root)
    credentials = read_credentials(
        certificate=tmp_path / "client.pem", private_key=tmp_path / "client.key", trust_bundle=tmp_path / "root.pem"
    )
    with Client(fake.address, credentials) as opened:
        yield opened


def follow(client: Client, request: WatchEventsRequest, count: int) -> tuple[list[int], list[str]]:
    """The numbers of the first events, and why it waited on the way."""
    waits: list[Waiting] = []
    stream = watch.watch_events(client, request, on_wait=waits.append)
    seqs = [answer.event.seq for answer in islice(stream, count)]
    return seqs, [each.failure.reason for each in waits]


def test_a_stream_goes_on_from_its_cursor_whatever_ended_it(fake: FakeServer, client: Client) -> None:
    too_slow = Failing(code=grpc.StatusCode.ABORTED, reason="WATCHER_TOO_SLOW", metadata={"cursor": "c3"})
    broken = Failing(code=grpc.StatusCode.CANCELLED)
    fake.answer("WatchEvents", [told(1), told(2), AWAY], [told(3), too_slow], [told(4), broken], [told(5)], [told(6)])
    seqs, reasons = follow(client, WatchEventsRequest(parent="tenants/default", from_beginning=True), 6)
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert reasons == ["SHUTTING_DOWN", "WATCHER_TOO_SLOW", "CANCELLED", "UNAVAILABLE"]
    requests = fake.requests("WatchEvents")
    assert [each.cursor for each in requests] == ["", "c2", "c3", "c4", "c5"]
    assert [each.from_beginning for each in requests] == [True, False, False, False, False]
    assert {each.parent for each in requests} == {"tenants/default"}


def test_a_stream_begins_anew_when_its_cursor_is_of_other_books(fake: FakeServer, client: Client) -> None:
    invalid = Failing(code=grpc.StatusCode.OUT_OF_RANGE, reason="CURSOR_INVALID")
    fake.answer("WatchEvents", [told(9), AWAY], [invalid], [told(1)])
    seqs, reasons = follow(client, WatchEventsRequest(), 2)
    assert (seqs, reasons) == ([9, 1], ["SHUTTING_DOWN", "CURSOR_INVALID"])
    assert [each.cursor for each in fake.requests("WatchEvents")] == ["", "c9", ""]


@pytest.mark.parametrize("reason", ["CURSOR_INVALID", "PERMISSION_MISSING", "CREDENTIAL_REVOKED"])
def test_what_waiting_does_not_help_with_is_raised(fake: FakeServer, client: Client, reason: str) -> None:
    refused = Failing(code=grpc.StatusCode.PERMISSION_DENIED, reason=reason)
    fake.answer("WatchEvents", [refused])
    with pytest.raises(CallFailed) as raised:
        follow(client, WatchEventsRequest(cursor="mine"), 1)
    assert raised.value.reason == reason
    assert len(fake.requests("WatchEvents")) == 1


def test_a_server_that_never_answers_is_not_waited_for_for_ever(client: Client, fake: FakeServer) -> None:
    fake.answer("WatchEvents", [AWAY])
    waits: list[Waiting] = []
    stream = watch.followed(
        lambda cursor: client.stream(client.stubs.watch_events, WatchEventsRequest(cursor=cursor)),
        cursor="",
        on_wait=waits.append,
        patience=0.1,
    )
    with pytest.raises(CallFailed, match="SHUTTING_DOWN"):
        next(stream)
    assert waits


def test_an_agent_opens_a_stream_that_is_not_opened_again(fake: FakeServer, client: Client) -> None:
    present = WatchManagedCertificatesResponse(kind=KIND.PRESENT, name=WEB, association=Association(current_version=2))
    synced = WatchManagedCertificatesResponse(kind=KIND.SYNCED, cursor="c1")
    fake.answer("WatchManagedCertificates", [present, synced, AWAY])
    stream = watch.watch_associations(client, "mine")
    assert [next(stream), next(stream)] == [present, synced]
    with pytest.raises(CallFailed, match="SHUTTING_DOWN"):
        next(stream)
    (request,) = fake.requests("WatchManagedCertificates")
    assert (request.parent, list(request.names), request.cursor) == ("", [], "mine")


def test_events_are_listed(fake: FakeServer, certctl: Certctl) -> None:
    more = Event(seq=6, type="tenant.created", resource="tenants/default", principal="certd")
    fake.answer(
        "ListEvents", ListEventsResponse(events=[RENEWED], next_page_token="n"), ListEventsResponse(events=[more])
    )
    lines = certctl("event", "list").out.splitlines()
    assert lines[0].split() == ["SEQ", "TIME", "TYPE", "RESOURCE", "BY", "DETAILS"]
    assert lines[1].split() == [
        *["7", "2030-01-02T03:04:05Z", "managed-certificate.renewed", f"{WEB}/versions/2", "certd"],
        *["a=1", "b=2", "c=3", "…"],
    ]
    assert lines[2].split() == ["6", "-", "tenant.created", "tenants/default", "certd", "-"]
    ended = certctl(
        *("event", "list", "--server", "--type", "managed-*", "--type", "x", "--resource", "managedCertificates/web"),
        *("--principal", "certd", "--since", "2030-01-01T00:00:00Z", "--until", "2030-01-02T00:00:00Z"),
        *("--oldest-first", "--limit", "1", "-o", "json"),
    )
    assert json.loads(ended.out)["type"] == "tenant.created"
    first, _, asked = fake.requests("ListEvents")
    assert (first.parent, first.descending, first.page_size) == ("tenants/default", True, 500)
    assert (asked.parent, asked.descending, asked.page_size) == ("", False, 1)
    assert list(asked.filter.types) == ["managed-*", "x"]
    assert (asked.filter.resource, asked.filter.principal) == (WEB, "certd")
    assert asked.filter.end_time.seconds - asked.filter.start_time.seconds == 86_400


def test_events_of_the_last_hours_are_asked_for(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("ListEvents", ListEventsResponse(events=[RENEWED]))
    certctl("event", "list", "--last", "2h", "--resource", "identities/admin")
    (asked,) = fake.requests("ListEvents")
    age = datetime.now(UTC) - asked.filter.start_time.ToDatetime(tzinfo=UTC)
    assert timedelta(hours=2) <= age < timedelta(hours=2, minutes=1)
    assert asked.filter.resource == "identities/admin"
    both = certctl("event", "list", "--last", "2h", "--since", "2030-01-01T00:00:00Z")
    assert both.code == 2
    assert certctl("event", "list", "-o", "pem").code == 2


def test_events_are_watched_each_once(fake: FakeServer, certctl: Certctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_FIRST_DELAY", 0.001)
    alone = WatchEventsResponse(cursor="c6")
    renewed = WatchEventsResponse(event=RENEWED, cursor="c7")
    fake.answer("WatchEvents", [alone, AWAY], [renewed], [told(8)])
    ended = certctl("event", "watch", "--type", "managed-*", "--limit", "2", "-v")
    assert ended.code == 0
    header, first, second = ended.out.splitlines()
    assert header.split() == ["SEQ", "TIME", "TYPE", "RESOURCE", "BY", "DETAILS"]
    assert first.split()[:3] == ["7", "2030-01-02T03:04:05Z", "managed-certificate.renewed"]
    assert second.startswith("8 ")
    assert "SHUTTING_DOWN" in ended.err
    assert [each.cursor for each in fake.requests("WatchEvents")] == ["", "c6", "c7"]
    fake.answer("WatchEvents", [alone, renewed])
    ended = certctl("event", "watch", "--server", "--cursor", "c6", "--limit", "1", "-o", "json")
    assert [json.loads(line)["cursor"] for line in ended.out.splitlines()] == ["c7"]
    assert (fake.requests("WatchEvents")[-1].parent, fake.requests("WatchEvents")[-1].cursor) == ("", "c6")


def test_managed_certificates_are_watched(fake: FakeServer, certctl: Certctl) -> None:
    web = ManagedCertificate(
        name=WEB,
        state=ManagedCertificate.ACTIVE,
        current_version=2,
        description=CertificateDescription(not_after_time=timestamp(datetime(2030, 4, 1, tzinfo=UTC))),
    )
    answers = [
        WatchManagedCertificatesResponse(kind=KIND.PRESENT, name=WEB, managed_certificate=web),
        WatchManagedCertificatesResponse(kind=KIND.SYNCED, cursor="c6"),
        WatchManagedCertificatesResponse(kind=KIND.ALIVE, cursor="c6"),
        WatchManagedCertificatesResponse(
            kind=KIND.CHANGED, name=WEB, managed_certificate=web, event=RENEWED, cursor="c7"
        ),
        WatchManagedCertificatesResponse(kind=KIND.REMOVED, name=WEB, event=RENEWED, cursor="c8"),
    ]
    fake.answer("WatchManagedCertificates", answers)
    lines = certctl("managed", "watch", "web", "--limit", "3").out.splitlines()
    assert lines[0].split() == [
        *["CHANGE", "MANAGED", "CERTIFICATE", "STATE", "VERSION", "NOT", "AFTER", "TIME", "EVENT", "BY"]
    ]
    assert lines[1].split() == ["PRESENT", "web", "ACTIVE", "2", "2030-04-01T00:00:00Z", "-", "-", "-"]
    assert lines[2].split()[:5] == ["CHANGED", "web", "ACTIVE", "2", "2030-04-01T00:00:00Z"]
    assert lines[2].split()[6:] == ["managed-certificate.renewed", "certd"]
    assert lines[3].split()[:5] == ["REMOVED", "web", "-", "-", "-"]
    ended = certctl("managed", "watch", "--own", "--changes-only", "--cursor", "c1", "--limit", "2", "-o", "json")
    assert [json.loads(line)["kind"] for line in ended.out.splitlines()] == ["CHANGED", "REMOVED"]
    first, second = fake.requests("WatchManagedCertificates")
    assert (first.parent, list(first.names), first.cursor) == ("tenants/default", [WEB], "")
    assert (second.parent, list(second.names), second.cursor) == ("", [], "c1")
    assert certctl("managed", "watch", "-o", "pem").code == 2
