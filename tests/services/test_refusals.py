"""Refused calls become one event for each principal, method and minute."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.event import Event, EventType
from certd.services.refusals import OTHERS, UNKNOWN, Refusals
from certd.store import events
from certd.store.store import Store
from certd.token.settings import TokenSettings
from tests.databases import migrated
from tests.fakes import FakeClock
from tests.services.conftest import World, configuration, running_world
from tests.waiting import eventually

ALICE = "spiffe://certd.test/identities/alice"
WEB = "spiffe://certd.test/tenants/acme/identities/web"
GET, LIST = "/certd.v1.AuthorityService/GetAuthority", "/certd.v1.AuthorityService/ListAuthorities"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/certd.db"
    migrated(url)
    opened = Store.open(url, clock=clock)
    yield opened
    opened.close()


def written(store: Store) -> list[Event]:
    with store.read("test.events") as tx:
        assert events.verify_all(tx) == []
        return [row.event for row in events.page(tx, after_seq=0, limit=10_000)]


def note(refusals: Refusals, principal: str, method: str = GET, reason: Reason = Reason.PERMISSION_MISSING) -> None:
    refusals.note(principal=principal, method=method, reason=reason, peer="192.0.2.1")


def test_one_event_for_each_principal_method_and_minute(store: Store, clock: FakeClock) -> None:
    refusals = Refusals(store, clock)
    for _ in range(1000):
        note(refusals, ALICE)
    note(refusals, ALICE, reason=Reason.RATE_LIMITED)
    note(refusals, ALICE, LIST)
    note(refusals, WEB)
    note(refusals, "", reason=Reason.CREDENTIAL_REVOKED)
    refusals.flush()
    assert written(store) == [], "the minute is not over"
    clock.advance(timedelta(seconds=60))
    note(refusals, ALICE)
    refusals.flush()
    told = written(store)
    assert {event.type for event in told} == {EventType.CALL_REFUSED}
    assert [(event.principal, event.resource, event.tenant, event.details["count"]) for event in told] == [
        (ALICE, GET, None, "1001"),
        (ALICE, LIST, None, "1"),
        (WEB, GET, "acme", "1"),
        (UNKNOWN, GET, None, "1"),
    ]
    assert told[0].details["reasons"] == "PERMISSION_MISSING: 1000, RATE_LIMITED: 1"
    assert told[0].details["peer"] == "192.0.2.1"
    assert told[3].details["reasons"] == "CREDENTIAL_REVOKED: 1"
    refusals.flush()
    assert len(written(store)) == 4, "nothing is written twice"
    refusals.flush(whole_minutes=False)
    assert written(store)[4].details["count"] == "1", "the last minute is written at the stop"


def test_what_is_no_refusal_of_a_caller_is_not_counted(store: Store, clock: FakeClock) -> None:
    refusals = Refusals(store, clock)
    for reason in (Reason.FIELD_INVALID, Reason.AUTHORITY_NOT_FOUND, Reason.SERVER_BUSY, Reason.INTERNAL):
        note(refusals, ALICE, reason=reason)
    refusals.flush(whole_minutes=False)
    assert written(store) == []


def test_principals_past_the_bound_count_together(store: Store, clock: FakeClock) -> None:
    refusals = Refusals(store, clock, most=3)
    for number in range(100):
        note(refusals, f"{ALICE}{number}")
    refusals.flush(whole_minutes=False)
    told = [(event.principal, event.details["count"]) for event in written(store)]
    assert told == [(f"{ALICE}0", "1"), (f"{ALICE}1", "1"), (f"{ALICE}2", "1"), (OTHERS, "97")]


def test_many_counts_are_all_written(store: Store, clock: FakeClock) -> None:
    refusals = Refusals(store, clock)
    for number in range(600):
        note(refusals, f"{ALICE}{number}")
    refusals.flush(whole_minutes=False)
    assert len(written(store)) == 600


def test_what_cannot_be_written_is_written_later(tmp_path: Path, store: Store, clock: FakeClock) -> None:
    refusals = Refusals(store, clock)
    note(refusals, ALICE)
    store.close()
    refusals.flush(whole_minutes=False)
    note(refusals, ALICE)
    again = Store.open(f"sqlite:///{tmp_path}/certd.db", clock=clock)
    try:
        refusals._store = again
        refusals.flush(whole_minutes=False)
        assert [event.details["count"] for event in written(again)] == ["2"]
    finally:
        again.close()


def test_a_running_server_writes_them_when_their_minute_is_over(world: World) -> None:
    note(world.core.refusals, ALICE)

    def told() -> list[Event]:
        return [event for event in world.events() if event.type is EventType.CALL_REFUSED]

    world.clock.advance(timedelta(seconds=61))
    world.core.scheduler.wake()
    (event,) = eventually(told)
    assert (event.principal, event.details["count"]) == (ALICE, "1")


def test_a_server_that_stops_writes_what_it_has(tmp_path: Path, token_settings: TokenSettings) -> None:
    config = configuration(tmp_path, token_settings)
    with running_world(config, FakeClock()) as world:
        note(world.core.refusals, ALICE)
    opened = Store.open(config.database.url, clock=FakeClock())
    try:
        assert [event.principal for event in written(opened) if event.type is EventType.CALL_REFUSED] == [ALICE]
    finally:
        opened.close()


def test_a_running_server_counts_by_the_quota_of_the_tenant(world: World) -> None:
    allowed = world.core.tenants.calls_per_second("acme")
    callers = [f"spiffe://certd.test/tenants/acme/identities/c{number}" for number in range(8)]
    refused = 0
    for call in range(4 * allowed):
        try:
            world.core.rates.take(callers[call % 8])
        except CertdError as error:
            assert (error.reason, error.resource) == (Reason.RATE_LIMITED, "tenants/acme")  # noqa: PT017  # Some pass.
            refused += 1
    assert refused > 0
