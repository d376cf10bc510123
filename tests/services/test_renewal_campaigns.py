"""Campaigns: every certificate of the set is renewed once, never too many in a minute, whatever dies on the way."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.event import Event, EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import ManagedCertificateName, RenewalCampaignName, TenantName
from certd.model.renewal_campaign import RenewalCampaign, RenewalCampaignState
from certd.services import renewal_campaigns as campaigns_module
from certd.services.authority_changes import Change
from certd.services.idempotency import RequestKey
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.paging import PageRequest, page_until
from certd.services.renewal_campaigns import AHEAD, NewRenewalCampaign
from certd.store import jobs, managed_certificates, managed_schema, schema
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash, two_worlds
from tests.services.managed_books import as_time_goes_by, at_version, count, events_of, new_key, renew, rewrite, stands
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

LEAK = RenewalCampaignName("default", "leak")
ABSENT = RenewalCampaignName("default", "absent")
EVERYTHING = ManagedCertificateFilter()
RUNNING, DONE = RenewalCampaignState.RUNNING, RenewalCampaignState.DONE
MINUTE = timedelta(minutes=1)
_SCHEDULED = timedelta(seconds=2)


def name_of(id_: str) -> ManagedCertificateName:
    return ManagedCertificateName("default", id_)


def fill(world: World, number: int, **changes: Any) -> list[str]:
    """Requests managed certificates and waits until all are issued."""
    ids = [f"web-{index:03}" for index in range(number)]
    for id_ in ids:
        world.request(id_, **changes)
    settled(world)
    with world.core.store.read("test.states") as tx:
        found = managed_certificates.page(tx, "default", after=None, limit=1000)
    assert all(one.state is ManagedCertificateState.ACTIVE for one in found)
    return ids


def settled(world: World) -> None:
    """Waits until nothing is due at this moment, and nobody is at work."""
    table = schema.jobs

    def look() -> bool:
        now = world.clock.now()
        world.core.scheduler.wake()
        with world.core.store.read("test.jobs") as tx:
            claimed = tx.execute(
                select(func.count()).select_from(table).where(table.c.owner_epoch.is_not(None))
            ).scalar()
            due = jobs.next_due(tx)
        return not claimed and (due is None or due > now)

    eventually(look, within=60.0)


def pass_time(world: World, span: timedelta, *, step: timedelta = _SCHEDULED) -> None:
    """Lets time pass in steps, and in each all be done that is due."""
    ends = world.clock.now() + span
    while world.clock.now() < ends:
        world.clock.advance(min(step, ends - world.clock.now()))
        settled(world)


def start(world: World, wanted: ManagedCertificateFilter = EVERYTHING, **options: Any) -> RenewalCampaign:
    said: dict[str, Any] = {"name": LEAK, "key": None, "validate_only": False, "caller": ADMINISTRATOR} | options
    caller, key, validate_only = (said.pop(each) for each in ("caller", "key", "validate_only"))
    new = NewRenewalCampaign(filter=wanted, **said)
    return world.core.renewal_campaigns.create(caller, new, key=key, validate_only=validate_only)


def get(world: World, name: RenewalCampaignName = LEAK) -> RenewalCampaign:
    return world.core.renewal_campaigns.get(ADMINISTRATOR, name)


def run_to_the_end(world: World, *, within: timedelta = timedelta(minutes=30)) -> RenewalCampaign:
    settled(world)
    ends = world.clock.now() + within
    while get(world).state is RUNNING:
        assert world.clock.now() < ends, get(world)
        pass_time(world, _SCHEDULED)
    return get(world)


def deeds(world: World) -> list[Event]:
    """All events but that a campaign had nothing left to do, which comes meanwhile by itself."""
    return [
        event
        for event in world.events()
        if (event.type, event.details.get("state")) != (EventType.RENEWAL_CAMPAIGN_ENDED, "DONE")
    ]


def refusal(world: World, call: Callable[[], object]) -> CertdError:
    before = deeds(world)
    with pytest.raises(CertdError) as refused:
        call()
    assert deeds(world) == before
    return refused.value


def beginnings(world: World) -> list[datetime]:
    """When each renewal began: its key was made."""
    made = events_of(world, EventType.MANAGED_CERTIFICATE_KEY_GENERATED)
    return sorted(event.time for event in made if not event.resource.endswith("/versions/1"))


def most_in_a_minute(times: list[datetime]) -> int:
    return max(sum(1 for time in times if start <= time < start + MINUTE) for start in times)


def versions_of(world: World, *ids: str) -> set[int]:
    return {stands(world, name_of(id_)).current_version for id_ in ids}


@contextmanager
def disabled(world: World) -> Iterator[None]:
    """The authority issues nothing meanwhile."""
    change = Change(name=CA)
    world.core.authority_changes.disable(ADMINISTRATOR, change)
    yield
    world.core.authority_changes.enable(ADMINISTRATOR, change)


def test_it_renews_every_one_and_says_so(ca: World) -> None:
    ids = fill(ca, 3)
    made = start(ca, reason="the build host leaked", renewals_per_minute=60)
    assert (made.state, made.creator, made.create_time) == (RUNNING, ADMINISTRATOR.principal, ca.clock.now())
    ended = run_to_the_end(ca)
    assert (ended.state, ended.selected_count, ended.renewed_count, ended.skipped_count, ended.blocked_count) == (
        DONE,
        3,
        3,
        0,
        0,
    )
    assert ended.selection_complete
    assert ended.end_time == ca.clock.now()
    assert versions_of(ca, *ids) == {2}
    created, finished = events_of(ca, EventType.RENEWAL_CAMPAIGN_CREATED, EventType.RENEWAL_CAMPAIGN_ENDED)
    assert (created.principal, created.resource, created.tenant) == (ADMINISTRATOR.principal, str(LEAK), "default")
    assert created.details == {
        "uid": made.uid,
        "filter": "{}",
        "renewals_per_minute": "60",
        "reason": "the build host leaked",
    }
    assert finished.details == {
        "uid": made.uid,
        "state": "DONE",
        "reason": "the build host leaked",
        "selected": "3",
        "renewed": "3",
        "skipped": "0",
    }
    asked = events_of(ca, EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED)
    assert {event.resource for event in asked} == {str(name_of(id_)) for id_ in ids}
    assert {event.details["campaign"] for event in asked} == {str(LEAK)}
    assert {event.details["reason"] for event in asked} == {"the build host leaked"}
    assert count(ca, managed_schema.renewal_campaign_members) == 0


def test_three_hundred_at_sixty_a_minute_take_five_minutes(ca: World) -> None:
    ids = fill(ca, 300)
    began = ca.clock.now()
    start(ca, renewals_per_minute=60)
    ended = run_to_the_end(ca)
    assert timedelta(seconds=299) <= ca.clock.now() - began <= timedelta(seconds=310)
    assert (ended.renewed_count, ended.selected_count) == (300, 300)
    assert versions_of(ca, *ids) == {2}
    times = beginnings(ca)
    assert len(times) == 300
    assert most_in_a_minute(times) <= 60


def test_what_stood_still_does_not_make_up_for_it(ca: World) -> None:
    """The daemon was away for an hour: what was to begin begins now, and all else as slowly as before."""
    fill(ca, 120)
    start(ca, renewals_per_minute=60)
    settled(ca)
    pass_time(ca, timedelta(seconds=20))
    before = len(beginnings(ca))
    assert 20 <= before <= 21 + AHEAD.total_seconds()
    ca.clock.advance(timedelta(hours=1))
    assert run_to_the_end(ca).renewed_count == 120
    assert most_in_a_minute(beginnings(ca)) <= 60


def test_only_what_fits_is_renewed(ca: World) -> None:
    fill(ca, 2, labels={"team": "web"})
    ca.request("other", labels={"team": "mail"})
    settled(ca)
    start(ca, ManagedCertificateFilter(labels={"team": "web"}, authority=str(CA)))
    ended = run_to_the_end(ca)
    assert (ended.selected_count, ended.renewed_count) == (2, 2)
    assert versions_of(ca, "other") == {1}


def test_a_set_that_is_empty_is_done_at_once(ca: World) -> None:
    fill(ca, 1)
    start(ca, ManagedCertificateFilter(domain="nowhere.internal"))
    ended = run_to_the_end(ca)
    assert (ended.state, ended.selected_count, ended.renewed_count) == (DONE, 0, 0)
    assert versions_of(ca, "web-000") == {1}


def test_what_cannot_be_renewed_is_left_out(ca: World) -> None:
    fill(ca, 4)
    rewrite(ca, stands(ca, name_of("web-000")).uid, type="IMPORTED")
    rewrite(ca, stands(ca, name_of("web-001")).uid, state="FAILED")
    given_up = NewManagedRevocation(name=name_of("web-002"), version=1, reason=RevocationReason.CESSATION_OF_OPERATION)
    ca.core.managed_revocation.revoke(ADMINISTRATOR, given_up, key=None)
    start(ca)
    ended = run_to_the_end(ca)
    assert (ended.selected_count, ended.renewed_count, ended.skipped_count) == (4, 1, 3)
    assert versions_of(ca, "web-000", "web-001", "web-002") == {1}
    assert versions_of(ca, "web-003") == {2}


def test_what_goes_away_meanwhile_is_left_out(ca: World) -> None:
    fill(ca, 3)
    with disabled(ca):
        start(ca)
        settled(ca)
        pass_time(ca, timedelta(seconds=30))
        assert get(ca).blocked_count == 3
        ca.core.managed_certificate_changes.delete(
            ADMINISTRATOR, name_of("web-000"), etag="", key=None, validate_only=False
        )
        given_up = NewManagedRevocation(name=name_of("web-001"), version=1, reason=RevocationReason.SUPERSEDED)
        ca.core.managed_revocation.revoke(ADMINISTRATOR, given_up, key=None)
    ended = run_to_the_end(ca)
    assert (ended.selected_count, ended.renewed_count, ended.skipped_count) == (3, 1, 2)


def test_what_is_blocked_keeps_it_running_and_goes_on_by_itself(ca: World) -> None:
    fill(ca, 25)
    with disabled(ca):
        start(ca)
        settled(ca)
        pass_time(ca, timedelta(seconds=30))
        stuck = get(ca)
        assert (stuck.state, stuck.selection_complete, stuck.renewed_count, stuck.blocked_count) == (
            RUNNING,
            True,
            0,
            25,
        )
        names = {str(name_of(f"web-{number:03}")) for number in range(25)}
        assert len(stuck.blocked) == 20
        assert set(stuck.blocked) < names
    ended = run_to_the_end(ca)
    assert (ended.renewed_count, ended.blocked_count, ended.blocked) == (25, 0, ())


def test_whoever_renews_one_of_them_meanwhile_counts(ca: World) -> None:
    fill(ca, 2)
    ca.steps.at["campaign.2.selected"] = lambda: [renew(ca, name_of(f"web-00{number}")) for number in range(2)]
    start(ca)
    ended = run_to_the_end(ca)
    assert (ended.selected_count, ended.renewed_count) == (2, 2)
    assert versions_of(ca, "web-000", "web-001") == {2}
    assert len(events_of(ca, EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED)) == 2


@pytest.mark.parametrize("step", ["campaign.2.selected", "campaign.3.counted"])
def test_no_crash_loses_or_doubles_anything(ca: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "_PAGE", 2)
    ids = fill(ca, 7)
    ca.steps.at[step] = crash
    start(ca)
    eventually(lambda: not ca.steps.at)
    ended = run_to_the_end(ca)
    assert (ended.selected_count, ended.renewed_count, ended.skipped_count) == (7, 7, 0)
    assert versions_of(ca, *ids) == {2}
    assert len(events_of(ca, EventType.MANAGED_CERTIFICATE_RENEWED)) == 7
    assert len(events_of(ca, EventType.RENEWAL_CAMPAIGN_ENDED)) == 1


def test_it_goes_on_though_the_daemon_died_after_it_was_made(ca: World) -> None:
    fill(ca, 1)
    ca.steps.at["campaign.1.created"] = crash
    with pytest.raises(CrashError):
        start(ca)
    assert run_to_the_end(ca).renewed_count == 1


def test_many_pages_are_counted_exactly(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "_PAGE", 3)
    monkeypatch.setattr(campaigns_module, "_ENDED_PAGE", 2)
    fill(ca, 20)
    start(ca, renewals_per_minute=100_000)
    ended = run_to_the_end(ca)
    assert (ended.selected_count, ended.renewed_count) == (20, 20)


def test_two_daemons_renew_each_once(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        ids = [f"web-{index:03}" for index in range(40)]
        for id_ in ids:
            first.request(id_)
        for id_ in ids:
            at_version(first, 1, name_of(id_))
        start(second, renewals_per_minute=600)

        def ended() -> RenewalCampaign | None:
            for world in (first, second):
                # They share the clock.
                world.core.scheduler.wake()
            first.clock.advance(timedelta(milliseconds=500))
            found = get(first)
            return found if found.state is DONE else None

        found = eventually(ended, within=60.0)
        assert (found.selected_count, found.renewed_count, found.skipped_count) == (40, 40, 0)
        assert versions_of(second, *ids) == {2}
        renewals = EventType.MANAGED_CERTIFICATE_RENEWED
        # Events get their place soon after their commit.
        eventually(lambda: len(events_of(second, renewals)) >= 40)
        resources = Counter(event.resource for event in events_of(second, renewals))
        assert set(resources.values()) == {1}


def test_a_cancelled_one_begins_no_more(ca: World) -> None:
    fill(ca, 60)
    start(ca, renewals_per_minute=60)
    settled(ca)
    pass_time(ca, timedelta(seconds=10))
    ended = ca.core.renewal_campaigns.cancel(ADMINISTRATOR, LEAK)
    assert (ended.state, ended.end_time) == (RenewalCampaignState.CANCELLED, ca.clock.now())
    wanted = ended.selected_count
    assert 10 <= wanted <= 11 + AHEAD.total_seconds()
    pass_time(ca, timedelta(minutes=2))
    # What was wanted by then goes on.
    assert len(beginnings(ca)) == wanted
    assert count(ca, managed_schema.renewal_campaign_members) == 0
    with ca.core.store.read("test.job") as tx:
        kinds = tx.execute(select(schema.jobs.c.kind).where(schema.jobs.c.subject == ended.uid)).all()
    assert kinds == []
    told = events_of(ca, EventType.RENEWAL_CAMPAIGN_ENDED)
    assert [(event.principal, event.details["state"]) for event in told] == [(ADMINISTRATOR.principal, "CANCELLED")]
    # Again, and it stays as it is.
    assert ca.core.renewal_campaigns.cancel(ADMINISTRATOR, LEAK) == get(ca)
    assert events_of(ca, EventType.RENEWAL_CAMPAIGN_ENDED) == told


@pytest.mark.parametrize("step", ["campaign.2.selected", "campaign.3.counted"])
def test_one_that_is_cancelled_while_it_runs_forgets_what_it_waited_for(ca: World, step: str) -> None:
    fill(ca, 2)
    with disabled(ca):
        ca.steps.at[step] = lambda: ca.core.renewal_campaigns.cancel(ADMINISTRATOR, LEAK)
        start(ca)
        eventually(lambda: not ca.steps.at)
        as_time_goes_by(ca, lambda: count(ca, managed_schema.renewal_campaign_members) == 0)
        assert get(ca).state is RenewalCampaignState.CANCELLED
        uid = get(ca).uid
        as_time_goes_by(ca, lambda: not _has_job(ca, uid))


def _has_job(world: World, uid: str) -> bool:
    with world.core.store.read("test.job") as tx:
        return bool(tx.execute(select(schema.jobs.c.kind).where(schema.jobs.c.subject == uid)).all())


def test_a_repeated_call_makes_one(ca: World) -> None:
    key = new_key()
    made = start(ca, key=key)
    other = RenewalCampaignName("default", "another")
    # Who left the id to the server gets the one that it chose the first time.
    assert start(ca, name=other, key=key).uid == made.uid
    reused = refusal(ca, lambda: start(ca, key=RequestKey(key.request_id, b"b")))
    assert reused.reason is Reason.REQUEST_ID_REUSED
    assert refusal(ca, lambda: get(ca, other)).reason is Reason.RENEWAL_CAMPAIGN_NOT_FOUND
    taken = refusal(ca, lambda: start(ca))
    assert (taken.reason, taken.resource) == (Reason.RENEWAL_CAMPAIGN_EXISTS, str(LEAK))


def test_one_that_is_only_checked_changes_nothing(ca: World) -> None:
    fill(ca, 1)
    before = ca.events()
    view = start(ca, validate_only=True)
    assert (view.state, view.selected_count) == (RUNNING, 0)
    assert ca.events() == before
    assert refusal(ca, lambda: get(ca)).reason is Reason.RENEWAL_CAMPAIGN_NOT_FOUND
    start(ca)
    run_to_the_end(ca)
    assert refusal(ca, lambda: start(ca, validate_only=True)).reason is Reason.RENEWAL_CAMPAIGN_EXISTS


@pytest.mark.parametrize("validate_only", [True, False])
@pytest.mark.parametrize(
    ("wanted", "tenant", "reason"),
    [
        (ManagedCertificateFilter(authority="tenants/default/authorities/cb"), "default", Reason.AUTHORITY_NOT_FOUND),
        (ManagedCertificateFilter(profile="absent"), "default", Reason.PROFILE_NOT_FOUND),
        (EVERYTHING, "absent", Reason.TENANT_NOT_FOUND),
    ],
)
def test_a_slip_of_the_pen_makes_no_campaign_that_renews_nothing(
    ca: World, wanted: ManagedCertificateFilter, tenant: str, reason: Reason, *, validate_only: bool
) -> None:
    name = RenewalCampaignName(tenant, "leak")
    error = refusal(ca, lambda: start(ca, wanted, name=name, validate_only=validate_only))
    assert error.reason is reason


def test_they_are_listed_newest_first(ca: World) -> None:
    for id_ in ("a", "b", "c"):
        start(ca, ManagedCertificateFilter(domain="nowhere.internal"), name=RenewalCampaignName("default", id_))
        ca.clock.advance(timedelta(seconds=1))
    parent, page = TenantName("default"), ca.core.renewal_campaigns.page
    first = page(ADMINISTRATOR, parent, PageRequest(2, ""))
    rest = page(ADMINISTRATOR, parent, PageRequest(2, first.next_page_token))
    assert [one.name.renewal_campaign for one in (*first.items, *rest.items)] == ["c", "b", "a"]
    assert rest.next_page_token == ""
    for key in (["x"], ["2030-01-01T00:00:00", "a", "b"], ["0001-01-01T00:00:00+14:00", "a"]):
        forged = page_until([], f"renewalCampaigns {parent}", after=key).next_page_token
        error = refusal(ca, lambda: page(ADMINISTRATOR, parent, PageRequest(2, forged)))  # noqa: B023  # Called at once.
        assert error.reason is Reason.FIELD_INVALID


@pytest.mark.parametrize("name", [LEAK, ABSENT])
def test_a_stranger_learns_nothing(ca: World, name: RenewalCampaignName) -> None:
    start(ca)
    campaigns = ca.core.renewal_campaigns
    for call in (
        lambda: start(ca, name=name, caller=STRANGER),
        lambda: campaigns.get(STRANGER, name),
        lambda: campaigns.cancel(STRANGER, name),
        lambda: campaigns.page(STRANGER, TenantName("default"), PageRequest(2, "")),
    ):
        with pytest.raises(CertdError) as refused:
            call()
        assert refused.value.reason is Reason.PERMISSION_MISSING


def test_what_is_not_there_is_not_found(ca: World) -> None:
    campaigns = ca.core.renewal_campaigns
    for call in (lambda: campaigns.get(ADMINISTRATOR, ABSENT), lambda: campaigns.cancel(ADMINISTRATOR, ABSENT)):
        error = refusal(ca, call)
        assert (error.reason, error.resource) == (Reason.RENEWAL_CAMPAIGN_NOT_FOUND, str(ABSENT))
