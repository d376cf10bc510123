"""Refused leases have their events, of which nobody can make many."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from certd.model.event import EventType
from certd.services import lease_refusals
from certd.token.settings import TokenSettings
from tests.services.conftest import World
from tests.services.consumers import (
    active,
    associate,
    association_name,
    attempt,
    consumer,
    leasing_world,
    signed_request,
    told,
)
from tests.waiting import eventually


@pytest.fixture
def leasing(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world with the managed certificate `web`."""
    with leasing_world(tmp_path, token_settings) as world:
        active(world)
        yield world


def test_equal_refusals_are_counted_within_the_minute(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    # The next minute is a minute away.
    leasing.clock.advance(timedelta(seconds=60 - leasing.clock.now().second))
    for _ in range(5):
        attempt(leasing, machine, association_name("absent"), signed_request(machine, view))
    attempt(leasing, machine, view.association.name, signed_request(machine, view, 7))
    events = told(leasing, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)
    assert [(event.details["reason"], event.details["count"]) for event in events] == [
        ("ASSOCIATION_NOT_FOUND", "1"),
        ("MANAGED_CERTIFICATE_NOT_FOUND", "1"),
    ]
    leasing.core.lease_refusals.flush()
    assert len(told(leasing, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)) == 2, "the minute is not over"
    leasing.clock.advance(timedelta(seconds=60))
    leasing.core.scheduler.wake()
    event = eventually(lambda: told(leasing, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)[2:])[0]
    assert (event.details["reason"], event.details["count"]) == ("ASSOCIATION_NOT_FOUND", "4")
    assert event.resource == str(association_name("absent"))
    # In the next minute it is a new one.
    attempt(leasing, machine, association_name("absent"), signed_request(machine, view))
    assert len(told(leasing, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)) == 4


def test_whoever_tries_everything_fills_no_books(leasing: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_refusals, "KINDS_OF_ONE", 3)
    monkeypatch.setattr(lease_refusals, "MOST_KINDS", 6)
    machine, other, third = (consumer(leasing, name) for name in ("machine", "other", "third"))
    view = associate(leasing, machine)
    for who in (machine, other, third):
        for number in range(20):
            attempt(leasing, who, association_name(f"absent-{number}"), signed_request(who, view))
    leasing.core.lease_refusals.flush(whole_minutes=False)
    events = told(leasing, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)
    counts = {who.spiffe_id: 0 for who in (machine, other, third)}
    for event in events:
        counts[event.principal] += int(event.details["count"])
    assert counts == {machine.spiffe_id: 20, other.spiffe_id: 2, third.spiffe_id: 0}
    assert len(events) == 3 + 2 + 2
