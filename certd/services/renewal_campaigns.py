"""Renewal campaigns: many managed certificates renewed now, so many in a minute.

The scheduler takes a campaign further in runs, each of committed steps that may be the last before a crash:

1. write: the campaign, RUNNING, and a job. Commit. The caller has its answer.
2. write: as many more managed certificates as may begin in the next seconds are wanted renewed, each at a moment of its
   own, and are members that the campaign waits for. Commit, again and again.
3. write: members that were renewed, deleted or given up are counted and forgotten. The last one ends the campaign.
"""

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import Job, JobKind
from certd.model.managed_certificate import ManagedCertificate
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import AuthorityName, ProfileName, RenewalCampaignName, TenantName
from certd.model.renewal_campaign import DEFAULT_RENEWALS_PER_MINUTE, RenewalCampaign, RenewalCampaignState
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.certificates import place_of
from certd.services.forced_renewal import force_renewal, not_renewable
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profiles import existing_profile
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.store import jobs, managed_certificates, renewal_campaigns, request_records
from certd.store.managed_certificate_filters import filter_text
from certd.store.managed_certificate_search import Found, matching
from certd.store.store import Store, Transaction

_CREATE = "CreateRenewalCampaign"
_KIND: Final = JobKind.ADVANCE_RENEWAL_CAMPAIGN
AHEAD: Final = timedelta(seconds=6)
"""How far ahead renewals are wanted: so far a campaign goes on when it is cancelled."""
_PAUSE: Final = timedelta(seconds=2)
_LONG_PAUSE: Final = timedelta(seconds=10)
"""Between runs, when all that is waited for is blocked."""
_PAGE: Final = 100
_PAGES: Final = 100
"""Of a run, so that it ends long before the lease of its job."""
_ENDED_PAGE: Final = 500
_BLOCKED_TOLD: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRenewalCampaign:
    """What a caller asks for."""

    name: RenewalCampaignName
    filter: ManagedCertificateFilter
    renewals_per_minute: int = DEFAULT_RENEWALS_PER_MINUTE
    reason: str = ""


class RenewalCampaigns:
    """The use cases of campaigns."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler
        self._step = step

    def create(
        self, caller: Caller, new: NewRenewalCampaign, *, key: RequestKey | None, validate_only: bool
    ) -> RenewalCampaign:
        """Makes a campaign, which begins at once.

        Raises TENANT_NOT_FOUND, AUTHORITY_NOT_FOUND and PROFILE_NOT_FOUND for a filter that nothing could fit,
        RENEWAL_CAMPAIGN_EXISTS, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.RENEWAL_CAMPAIGN_CREATE, str(TenantName(new.name.tenant)))
        now = self._clock.now()
        made = RenewalCampaign(
            uid=uuid.uuid4().hex,
            name=new.name,
            filter=new.filter,
            renewals_per_minute=new.renewals_per_minute,
            reason=new.reason,
            next_renewal_time=now,
            creator=caller.principal,
            create_time=now,
        )
        if validate_only:
            with self._store.read("renewal-campaigns.create") as tx:
                _check(tx, new)
                if renewal_campaigns.get(tx, new.name) is not None:
                    raise _exists(new.name)
            return made

        def create(tx: Transaction) -> RenewalCampaign:
            if key is not None:
                record = record_of(caller, _CREATE, key, resource=made.uid, now=now)
                found = request_records.claim(tx, record)
                if found is not None:
                    return _replayed(tx, same_request(found, key.request_sha256))
            _check(tx, new)
            begin_campaign(tx, made, caller.principal, now)
            return made

        created = self._store.write("renewal-campaigns.create", create)
        self._step("campaign.1.created")
        self._wake_scheduler()
        return created

    def get(self, caller: Caller, name: RenewalCampaignName) -> RenewalCampaign:
        """Returns a campaign with its progress; raises RENEWAL_CAMPAIGN_NOT_FOUND."""
        self._access.require(caller, Permission.RENEWAL_CAMPAIGN_READ, str(name))
        with self._store.read("renewal-campaigns.get") as tx:
            return _existing(tx, name)

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[RenewalCampaign]:
        """Returns a page of a tenant's campaigns, newest first."""
        self._access.require(caller, Permission.RENEWAL_CAMPAIGN_READ, f"{parent}/renewalCampaigns")
        query = f"renewalCampaigns {parent}"
        after = request.after(query)
        with self._store.read("renewal-campaigns.page") as tx:
            existing_tenant(tx, parent.tenant)
            rows = renewal_campaigns.page(
                tx, parent.tenant, after=place_of(after) if after else None, limit=request.size + 1
            )
        return page_of(rows, request, query, key=lambda one: [one.create_time.isoformat(), one.name.renewal_campaign])

    def cancel(self, caller: Caller, name: RenewalCampaignName) -> RenewalCampaign:
        """Ends a campaign; renewals that have begun, or will in the next seconds, go on. One that has ended stays so.

        Raises RENEWAL_CAMPAIGN_NOT_FOUND.
        """
        self._access.require(caller, Permission.RENEWAL_CAMPAIGN_CREATE, str(name))
        now = self._clock.now()

        def cancel(tx: Transaction) -> RenewalCampaign:
            found = _existing(tx, name)
            if found.state is not RenewalCampaignState.RUNNING:
                return found
            ended = _end(tx, found, RenewalCampaignState.CANCELLED, caller.principal, now)
            jobs.hasten(tx, _KIND, found.uid, now)
            return ended

        ended = self._store.write("renewal-campaigns.cancel", cancel)
        self._wake_scheduler()
        return ended

    def advance(self, uid: str) -> None:
        """Takes a campaign further; idempotent, called by the scheduler."""
        now = self._clock.now()
        with self._store.read("renewal-campaigns.advance") as tx:
            campaign = renewal_campaigns.get_by_uid(tx, uid)
        if campaign is None or campaign.state is not RenewalCampaignState.RUNNING:
            self._forget_members(uid)
            return
        self._select(uid, now)
        self._look(uid, now)

    def _select(self, uid: str, now: datetime) -> None:
        """Step 2, until enough is on its way."""
        for _ in range(_PAGES):
            with self._store.read("renewal-campaigns.match") as tx:
                campaign = renewal_campaigns.get_by_uid(tx, uid)
                room = 0 if campaign is None else _room(campaign, now)
                if campaign is None or campaign.selection_complete or room < 1:
                    return
                selected = matching(
                    tx,
                    campaign.name.tenant,
                    campaign.filter,
                    now=now,
                    after=campaign.selected_up_to or None,
                    limit=min(room, _PAGE),
                )
            take = partial(_take, campaign=campaign, selected=selected, now=now)
            self._store.write("renewal-campaigns.select", take)
            self._step("campaign.2.selected")
            self._wake_scheduler()

    def _look(self, uid: str, now: datetime) -> None:
        """Step 3."""
        more = True
        while more:
            with self._store.read("renewal-campaigns.look") as tx:
                ended = renewal_campaigns.ended_members(tx, uid, limit=_ENDED_PAGE)
                blocked = renewal_campaigns.blocked_members(tx, uid, named=_BLOCKED_TOLD)
            more = len(ended.renewed) + len(ended.given_up) == _ENDED_PAGE
            count = partial(_count, uid=uid, ended=ended, blocked=blocked, now=now, more=more)
            self._store.write("renewal-campaigns.count", count)
            self._step("campaign.3.counted")

    def _forget_members(self, uid: str) -> None:
        """Forgets what a campaign that has ended waited for, a bounded number at a time, and then its job."""

        def forget(tx: Transaction) -> bool:
            more = renewal_campaigns.delete_some_members(tx, uid, limit=_ENDED_PAGE) == _ENDED_PAGE
            if not more:
                jobs.finish(tx, _KIND, uid)
            return more

        while self._store.write("renewal-campaigns.forget", forget):
            pass


def begin_campaign(tx: Transaction, campaign: RenewalCampaign, principal: str, now: datetime) -> None:
    """Step 1, in the transaction of whatever wants it; its maker wakes the scheduler. RENEWAL_CAMPAIGN_EXISTS."""
    if not renewal_campaigns.insert(tx, campaign):
        raise _exists(campaign.name)
    jobs.put(tx, Job(kind=_KIND, subject=campaign.uid, due_time=now))
    details = {
        "filter": filter_text(campaign.filter),
        "renewals_per_minute": str(campaign.renewals_per_minute),
        "reason": campaign.reason,
    }
    tx.event(_event(EventType.RENEWAL_CAMPAIGN_CREATED, campaign, principal, now, details))


def _check(tx: Transaction, new: NewRenewalCampaign) -> None:
    """Raises what says that there is no such tenant, or that nothing could fit the filter."""
    tenant, wanted = new.name.tenant, new.filter
    existing_tenant(tx, tenant)
    if wanted.authority:
        existing_authority(tx, AuthorityName.parse("renewal_campaign.filter.authority", wanted.authority))
    if wanted.profile:
        existing_profile(tx, ProfileName(tenant, wanted.profile), tenant)


def _room(campaign: RenewalCampaign, now: datetime) -> int:
    """Returns how many renewals more may be given a moment to begin in the time that is looked ahead."""
    return math.ceil((now + AHEAD - max(campaign.next_renewal_time, now)) / campaign.pause)


def _take(tx: Transaction, *, campaign: RenewalCampaign, selected: Found, now: datetime) -> None:
    """Has what was selected renewed, unless another was faster or the campaign was ended meanwhile."""
    current = renewal_campaigns.get_by_uid(tx, campaign.uid)
    if current != campaign or campaign.state is not RenewalCampaignState.RUNNING:
        return
    begins = campaign.next_renewal_time
    if begins < now and campaign.selected_count:
        # It stood still. What was to begin meanwhile begins now, and that was to be in a minute with what follows.
        begins = now + AHEAD
    begins = max(begins, now)
    members, skipped = [], 0
    for one in selected.managed_certificates:
        managed = managed_certificates.get_by_uid(tx, one.uid)
        if managed is None:
            continue
        if not_renewable(tx, managed) is not None:
            skipped += 1
            continue
        _want(tx, campaign, managed, now, begins)
        members.append((managed.uid, managed.current_version))
        begins += campaign.pause
    renewal_campaigns.add_members(tx, campaign.uid, members)
    renewal_campaigns.update(
        tx,
        replace(
            campaign,
            next_renewal_time=begins if members else campaign.next_renewal_time,
            selected_up_to=selected.after or campaign.selected_up_to,
            selection_complete=selected.after is None,
            selected_count=campaign.selected_count + len(members) + skipped,
            skipped_count=campaign.skipped_count + skipped,
        ),
    )


def _want(
    tx: Transaction, campaign: RenewalCampaign, managed: ManagedCertificate, now: datetime, due_time: datetime
) -> None:
    details = {"campaign": str(campaign.name), "reason": campaign.reason}
    force_renewal(tx, managed, principal=campaign.creator, now=now, due_time=due_time, **details)


def _count(
    tx: Transaction,
    *,
    uid: str,
    ended: renewal_campaigns.Ended,
    blocked: renewal_campaigns.Blocked,
    now: datetime,
    more: bool,
) -> None:
    """Counts and forgets members that have ended; without `more` of them it ends the run, or the campaign."""
    campaign = renewal_campaigns.get_by_uid(tx, uid)
    if campaign is None or campaign.state is not RenewalCampaignState.RUNNING:
        # The next run forgets the members.
        jobs.put(tx, Job(kind=_KIND, subject=uid, due_time=now))
        return
    campaign = replace(
        campaign,
        renewed_count=campaign.renewed_count + renewal_campaigns.delete_members(tx, uid, ended.renewed),
        skipped_count=campaign.skipped_count + renewal_campaigns.delete_members(tx, uid, ended.given_up),
        blocked_count=blocked.count,
        blocked=blocked.names,
    )
    if more:
        renewal_campaigns.update(tx, campaign)
    elif campaign.selection_complete and not renewal_campaigns.any_member(tx, uid):
        _end(tx, campaign, RenewalCampaignState.DONE, SYSTEM_PRINCIPAL, now)
        jobs.finish(tx, _KIND, uid)
    else:
        renewal_campaigns.update(tx, campaign)
        waits = campaign.selected_count - campaign.renewed_count - campaign.skipped_count
        all_blocked = campaign.selection_complete and campaign.blocked_count == waits
        pause = _LONG_PAUSE if all_blocked else _PAUSE
        jobs.put(tx, Job(kind=_KIND, subject=uid, due_time=now + pause))


def _end(
    tx: Transaction, campaign: RenewalCampaign, state: RenewalCampaignState, principal: str, now: datetime
) -> RenewalCampaign:
    ended = replace(campaign, state=state, end_time=now)
    renewal_campaigns.update(tx, ended)
    details = {
        "state": state.value,
        "reason": ended.reason,
        "selected": str(ended.selected_count),
        "renewed": str(ended.renewed_count),
        "skipped": str(ended.skipped_count),
    }
    tx.event(_event(EventType.RENEWAL_CAMPAIGN_ENDED, ended, principal, now, details))
    return ended


def _event(
    type_: EventType, campaign: RenewalCampaign, principal: str, now: datetime, details: dict[str, str]
) -> Event:
    return Event(
        time=now,
        type=type_,
        tenant=campaign.name.tenant,
        principal=principal,
        resource=str(campaign.name),
        details={"uid": campaign.uid, **details},
    )


def _existing(tx: Transaction, name: RenewalCampaignName) -> RenewalCampaign:
    found = renewal_campaigns.get(tx, name)
    if found is None:
        raise CertdError(Reason.RENEWAL_CAMPAIGN_NOT_FOUND, f"{name} does not exist", resource=str(name))
    return found


def _replayed(tx: Transaction, uid: str) -> RenewalCampaign:
    found = renewal_campaigns.get_by_uid(tx, uid)
    if found is None:
        raise CertdError(Reason.RENEWAL_CAMPAIGN_NOT_FOUND, "what this request_id made is gone; send a new one")
    return found


def _exists(name: RenewalCampaignName) -> CertdError:
    return CertdError(
        Reason.RENEWAL_CAMPAIGN_EXISTS,
        f"{name} exists already; choose another renewal_campaign_id",
        resource=str(name),
    )
