"""The salts of events stay where they are: in no answer of any method, no stream, no delivery and no log."""

import base64
import binascii
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from sqlalchemy import text

from certd.model.delivery import event_document
from certd.model.event import NumberedEvent
from certd.store import events
from certd.v1 import event_service_pb2, event_service_pb2_grpc
from tests.api.every_method import METHODS_OF_SERVICES, requests_to
from tests.api.whole_daemon import Installed, call, whole_daemon


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with whole_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def forms(secret: bytes) -> set[bytes]:
    """How octets may stand in what is sent, or written."""
    as_hex = binascii.hexlify(secret)
    # The last characters also hold what follows, where something does.
    as_base64 = {encode(secret)[:20] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return {secret, as_hex, as_hex.upper(), repr(secret)[2:-1].encode(), *as_base64}


def shown(content: bytes, secrets: list[bytes]) -> list[str]:
    """Those of the secrets that stand somewhere in the content."""
    return [secret.hex() for secret in secrets if any(form in content for form in forms(secret))]


def record_of(installed: Installed) -> tuple[list[NumberedEvent], list[bytes]]:
    """All events, and their salts."""
    with installed.core.store.read("test.salts") as tx:
        rows = events.page(tx, after_seq=0, limit=1000)
        salts = [row.salt for row in tx.execute(text("SELECT salt FROM events ORDER BY seq"))]
    assert len(rows) == len(salts) == len(set(salts)) > 20
    assert None not in salts
    return rows, salts


def all_answers(installed: Installed) -> bytes:
    """What every method answers to who may do everything, errors with what comes beside them included."""
    found = []
    for method in METHODS_OF_SERVICES:
        request = requests_to(installed.there)[method.name]
        try:
            found.append(call(installed.administrator, method, request).SerializeToString())
        except grpc.RpcError as error:
            failed: Any = error
            found.append(repr((failed.details(), failed.initial_metadata(), failed.trailing_metadata())).encode())
    return b"\n".join(found)


def every_event(installed: Installed, last_seq: int) -> list[Message]:
    """What a list and a stream of the whole server tell."""
    stub: Any = event_service_pb2_grpc.EventServiceStub(installed.administrator)  # type: ignore[no-untyped-call]  # Generated.
    listed = stub.ListEvents(event_service_pb2.ListEventsRequest(page_size=1000), timeout=60)
    stream = stub.WatchEvents(event_service_pb2.WatchEventsRequest(from_beginning=True), timeout=60)
    watched = []
    for answer in stream:
        watched.append(answer)
        if answer.event.seq >= last_seq:
            break
    stream.cancel()
    return [listed, *watched]


def test_no_answer_contains_a_salt(installed: Installed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = all_answers(installed)
    rows, salts = record_of(installed)
    told = every_event(installed, rows[-1].seq)
    content = b"\n".join(message.SerializeToString() for message in told)
    # What is looked for would be found: the hashes are told in the same places.
    assert len(shown(content, [row.chain_hash for row in rows])) == len(rows)
    assert shown(content, salts) == []
    assert shown(answers, [row.chain_hash for row in rows])
    assert shown(answers, salts) == []
    cursors = [each.cursor for each in told[1:] if isinstance(each, event_service_pb2.WatchEventsResponse)]
    decoded = b"\n".join(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)) for cursor in cursors)
    assert len(cursors) >= len(rows)
    assert not any(salt[:8] in decoded for salt in salts)
    assert shown(caplog.text.encode(), salts) == []


def test_no_delivery_contains_a_salt(installed: Installed) -> None:
    rows, salts = record_of(installed)
    content = json.dumps([event_document(row) for row in rows]).encode()
    assert len(shown(content, [row.chain_hash for row in rows])) == len(rows)
    assert shown(content, salts) == []
