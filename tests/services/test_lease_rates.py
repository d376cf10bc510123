"""How often a consumer may ask for keys: each time there is an event, before the token process looks at anything."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from certd.errors import Reason
from certd.model.event import EventType
from certd.token.rate import BucketOfEach
from certd.token.settings import TokenSettings
from tests.services.conftest import World
from tests.services.consumers import (
    active,
    associate,
    attempt,
    consumer,
    lease,
    leasing_world,
    refusals_told,
    signed_request,
    told,
)


@pytest.fixture
def leasing(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world in which each consumer asks three times, and no more, for time stands still."""
    with leasing_world(tmp_path, token_settings) as world:
        active(world)
        world.core.leases._rates = BucketOfEach(3, most=10, now=lambda: 0.0)
        yield world


def test_what_the_token_process_refuses_fills_no_books(leasing: World) -> None:
    machine, other = consumer(leasing), consumer(leasing, "other")
    view, others = associate(leasing, machine), associate(leasing, other)
    unsigned = replace(signed_request(machine, view).signed, signature=b"\0")
    reasons = [attempt(leasing, machine, view.association.name, unsigned).reason for _ in range(10)]
    assert reasons == [Reason.LEASE_REFUSED] * 3 + [Reason.RATE_LIMITED] * 7
    assert len(told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)) == 3
    assert {reason for _, _, reason in refusals_told(leasing)} == {"LEASE_REFUSED", "RATE_LIMITED"}
    limited = attempt(leasing, machine, view.association.name, signed_request(machine, view))
    assert (limited.reason, limited.retry_after is not None) == (Reason.RATE_LIMITED, True)
    # Others have a rate of their own.
    lease(leasing, other, others)


def test_who_is_not_associated_uses_no_rate_and_learns_nothing(leasing: World) -> None:
    machine, other = consumer(leasing), consumer(leasing, "other")
    view = associate(leasing, machine)
    reasons = {attempt(leasing, other, view.association.name, signed_request(other, view)).reason for _ in range(5)}
    assert reasons == {Reason.ASSOCIATION_NOT_FOUND}
    assert not told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)
