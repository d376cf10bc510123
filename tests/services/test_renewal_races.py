"""One renewal makes one version, whoever asks, dies, or loses what it had begun."""

import hashlib
import threading
from pathlib import Path

import pytest

from certd.errors import Reason
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.services.authority_changes import Change
from certd.services.managed_revocation import NewManagedRevocation
from certd.store import blocked_keys, schema
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World, crash, two_worlds
from tests.services.consumers import WEB, active
from tests.services.managed_books import (
    as_time_goes_by,
    at_version,
    get,
    jobs_of,
    renew,
    stands,
    states_of_certificates,
    versions,
)
from tests.services.renewals import (
    BLOCKED,
    DAY,
    MINUTE,
    RENEWED,
    SECOND,
    at_planned,
    attempts,
    due_times,
    events,
    export,
    goes_on,
    planned,
    settle,
    together,
)
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def web(ca: World) -> World:
    active(ca)
    return ca


def test_many_who_want_it_renewed_now_get_one_version(web: World) -> None:
    holding = threading.Event()
    web.steps.at["renewal.2.key-sealed"] = holding.wait
    calls = [lambda: renew(web) for _ in range(50)]
    together(calls)
    holding.set()
    settle(web)
    assert stands(web).current_version == 2
    assert len(events(web, RENEWED)) == len(events(web, EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED)) == 1
    assert states_of_certificates(web, stands(web).uid) == [CertificateState.ISSUED] * 2


def test_two_daemons_that_are_asked_at_once_make_one_version(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as worlds:
        first = worlds[0]
        first.create_root()
        first.create_subordinate()
        active(first)
        holding = threading.Event()
        for world in worlds:
            world.steps.at["renewal.2.key-sealed"] = holding.wait
        together([lambda world=world: renew(world) for world in worlds for _ in range(25)])  # type: ignore[misc]  # mypy infers no type for a default.
        holding.set()
        at_version(first, 2)
        for world in worlds:
            settle(world)
        assert stands(first).current_version == 2
        assert states_of_certificates(first, stands(first).uid) == [CertificateState.ISSUED] * 2
        # Each is numbered a moment after its commit.
        eventually(lambda: events(first, RENEWED))
        assert len(events(first, RENEWED)) == 1


def test_a_daemon_whose_lease_was_lost_makes_no_second_version(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    """The first stands still with a key that is sealed; the second takes over; the first wakes."""
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        active(first)
        uid = stands(first).uid
        still, held = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            still.wait()

        for world in (first, second):
            world.steps.at["renewal.3.planned"] = hold
        first.clock.advance(planned(first) - first.clock.now())
        first.core.scheduler.wake()
        assert held.wait(20)
        for world in (first, second):
            world.steps.at.clear()
        # The lease of the job ends, and with it the right to it, though its daemon lives.
        first.clock.advance(11 * MINUTE)
        at_version(second, 2)
        still.set()
        eventually(lambda: not jobs_claimed(first))
        as_time_goes_by(first, lambda: set(states_of_certificates(first, uid)[1:]) >= {CertificateState.ISSUED})
        settle(first)
        assert stands(first).current_version == 2
        # What the first one had signed all the same is revoked a moment later.
        eventually(lambda: CertificateState.PENDING not in states_of_certificates(first, uid))
        states = states_of_certificates(first, uid)
        assert states.count(CertificateState.ISSUED) == 2
        assert set(states) <= {CertificateState.ISSUED, CertificateState.LOST}
        assert [one.version.number for one in versions(first)] == [2, 1]
        assert due_times(first, uid) == [planned(first)]
        assert not stands(first).renewal_blocked
        export(first)


def jobs_claimed(world: World) -> int:
    with world.core.store.read("test.claimed") as tx:
        statement = schema.jobs.select().where(schema.jobs.c.owner_epoch.is_not(None))
        return len(tx.execute(statement).all())


STEPS = (
    "renewal.1.wrapping-key",
    "renewal.2.key-sealed",
    "renewal.3.planned",
    "renewal.4.issued",
    "issue.2.prepared",
    "job.advance-managed-certificate.done",
)


@pytest.mark.parametrize("step", STEPS)
def test_no_crash_loses_or_doubles_a_version(web: World, step: str) -> None:
    """The run dies at the step; the job is still there and the next run goes on from the books."""
    web.steps.at[step] = crash
    web.clock.advance(planned(web) - web.clock.now())
    web.core.scheduler.wake()
    eventually(lambda: not web.steps.at)
    as_time_goes_by(web, lambda: stands(web).current_version == 2 and not jobs_claimed(web), step=SECOND)
    settle(web)
    managed = stands(web)
    assert (managed.current_version, managed.state) == (2, ManagedCertificateState.ACTIVE)
    assert len(events(web, RENEWED)) == 1
    assert states_of_certificates(web, managed.uid).count(CertificateState.ISSUED) == 2
    assert [one.version.number for one in versions(web)] == [2, 1]
    assert due_times(web, managed.uid) == [planned(web)]
    assert planned(web) > web.clock.now() + DAY
    for number in (1, 2):
        export(web, number)


def test_what_was_revoked_while_it_was_renewed_gets_no_new_version(web: World) -> None:
    """Nobody asked for another one: what comes too late counts as lost, and is revoked."""

    def revoke() -> None:
        new = NewManagedRevocation(name=WEB, version=None, reason=RevocationReason.CESSATION_OF_OPERATION)
        web.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)

    web.steps.at["renewal.3.planned"] = revoke
    at_planned(web)
    as_time_goes_by(web, lambda: jobs_of(web, stands(web).uid) == 0, step=SECOND)
    assert get(web).state is ManagedCertificateState.REVOKED
    assert stands(web).current_version == 1
    assert not events(web, BLOCKED)
    wanted = [CertificateState.REVOKED, CertificateState.LOST]
    eventually(lambda: states_of_certificates(web, stands(web).uid) == wanted)


@pytest.mark.parametrize("number", [1, 2])
def test_a_key_that_was_reported_as_compromised_before_its_use_is_made_anew(ca: World, number: int) -> None:
    """Its certificate was lost once, and whoever saw that revoked it; the first version or a later one."""
    step = "managed.3.key-sealed" if number == 1 else "renewal.2.key-sealed"
    if number == 2:
        active(ca)

    def block() -> None:
        made = versions(ca)[0].version
        assert made.number == number
        digest = hashlib.sha256(made.public_key).digest()
        ca.core.store.write(
            "test.block",
            lambda tx: blocked_keys.block(
                tx, "default", digest, authority_uid=made.authority_uid, serial="00", now=ca.clock.now()
            ),
        )

    ca.steps.at[step] = block
    if number == 1:
        ca.request()
    else:
        ca.clock.advance(planned(ca) - ca.clock.now())
        ca.core.scheduler.wake()
    as_time_goes_by(ca, lambda: stands(ca).current_version == number, step=SECOND)
    assert get(ca).state is ManagedCertificateState.ACTIVE
    assert not events(ca, BLOCKED, EventType.MANAGED_CERTIFICATE_FAILED)
    assert len(events(ca, EventType.MANAGED_CERTIFICATE_KEY_GENERATED)) == number + 1
    export(ca)


# An incident.


def test_a_compromised_key_is_replaced_at_once_and_the_plan_begins_anew(web: World) -> None:
    new = NewManagedRevocation(name=WEB, version=1, reason=RevocationReason.KEY_COMPROMISE)
    web.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)
    managed = at_version(web, 2).managed_certificate
    assert (managed.state, managed.forced) == (ManagedCertificateState.ACTIVE, False)
    settle(web)
    assert due_times(web, managed.uid) == [planned(web)]
    assert planned(web) > web.clock.now() + 30 * DAY
    export(web)


def test_what_cannot_be_replaced_at_once_after_an_incident_is_as_soon_as_it_can(web: World) -> None:
    web.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    new = NewManagedRevocation(name=WEB, version=1, reason=RevocationReason.KEY_COMPROMISE)
    web.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)
    settle(web)
    managed = attempts(web, 5)
    assert (managed.state, managed.current_version) == (ManagedCertificateState.REVOKED, 1)
    assert managed.renewal_blocked
    assert [event.details["reason"] for event in events(web, BLOCKED)] == [Reason.AUTHORITY_NOT_ENABLED]
    web.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    goes_on(web)
