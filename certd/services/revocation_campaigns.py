"""Revocation campaigns: many certificates revoked, after an incident.

The scheduler takes a campaign further in pages, each a committed step that may be the last before a crash:

1. write: the campaign, RUNNING, and a job; a compromised key is blocked. Commit. The caller has its answer.
2. read: some tens of certificates from where it stands, once nothing is being signed any more that was asked for
   before the campaign: it would be passed by. Write: they are revoked, counted, and it stands behind them,
   unless the campaign has changed since it was read. Commit, again and again. The last page ends the campaign.

It does what its maker may do, and asks before each page: who may not revoke any more has their campaigns ended.
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.identity import IdentityState
from certd.model.job import Job, JobKind
from certd.model.names import AuthorityName, IdentityName, ProfileName, RevocationCampaignName, TenantName
from certd.model.revocation_campaign import (
    NAMED_FAILURES,
    OfConsumer,
    OfPublicKey,
    RevocationCampaign,
    RevocationCampaignState,
    Selection,
    UnderProfileOf,
)
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.certificates import place_of
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profiles import existing_profile
from certd.services.revocation import check_invalidity
from certd.services.revocation_records import (
    RENEWAL_PAUSE,
    TOGETHER,
    mark_lists,
    revoked,
    write_one_of_many,
)
from certd.services.revocation_selection import Selected, count, is_awaited, selected
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.store import (
    blocked_keys,
    certificates,
    identities,
    jobs,
    profiles,
    request_records,
    revocation_campaigns,
)
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.revocation_campaigns")

_CREATE: Final = "CreateRevocationCampaign"
_KIND: Final = JobKind.ADVANCE_REVOCATION_CAMPAIGN
_PAGES: Final = 200
"""Of a run, so that it ends long before the lease of its job."""
_PASSES: Final = frozenset({Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN, Reason.OWNERSHIP_LOST})
"""Failures that say nothing of a certificate."""
_PAUSE: Final = timedelta(seconds=1)
"""After which it is looked again whether what was asked for before a campaign is signed."""
_RUNNING: Final = RevocationCampaignState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRevocationCampaign:
    """What a caller asks for."""

    name: RevocationCampaignName
    authority: AuthorityName | None
    selection: Selection
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    invalidity_time: datetime | None = None
    include_expired: bool = False


class RevocationCampaigns:
    """The use cases of campaigns."""

    def __init__(
        self, *, store: Store, clock: Clock, access: Access, wake_scheduler: Callable[[], None], step: StepHook
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._wake_scheduler = wake_scheduler
        self._step = step

    def create(
        self, caller: Caller, new: NewRevocationCampaign, *, key: RequestKey | None, validate_only: bool
    ) -> RevocationCampaign:
        """Makes a campaign, which begins at once; one of a compromised key blocks that, whatever it will find.

        With `validate_only` nothing is made, and it tells how many it would find, as far as 10,000.

        Raises TENANT_NOT_FOUND, AUTHORITY_NOT_FOUND, PROFILE_NOT_FOUND and IDENTITY_NOT_FOUND for what nothing could
        fit, FIELD_INVALID for an invalidity in the future, REVOCATION_CAMPAIGN_EXISTS, REQUEST_ID_REUSED.
        """
        now = self._clock.now()
        made = RevocationCampaign(
            uid=uuid.uuid4().hex,
            name=new.name,
            authority=new.authority,
            selection=new.selection,
            reason=new.reason,
            invalidity_time=new.invalidity_time,
            include_expired=new.include_expired,
            creator=caller.principal,
            create_time=now,
        )
        self._access.require(caller, Permission.CERTIFICATE_REVOKE, made.scope)
        check_invalidity("revocation_campaign.invalidity_time", new.invalidity_time, now)
        if validate_only:
            with self._store.read("revocation-campaigns.create") as tx:
                _check(tx, made)
                if revocation_campaigns.get(tx, new.name) is not None:
                    raise _exists(new.name)
                return replace(made, found_count=count(tx, made))

        def create(tx: Transaction) -> RevocationCampaign:
            if key is not None:
                record = record_of(caller, _CREATE, key, resource=made.uid, now=now)
                found = request_records.claim(tx, record)
                if found is not None:
                    return _replayed(tx, same_request(found, key.request_sha256))
            _check(tx, made)
            _begin(tx, made, now)
            return made

        created = self._store.write("revocation-campaigns.create", create)
        self._step("revocation-campaign.1.created")
        self._wake_scheduler()
        return created

    def get(self, caller: Caller, name: RevocationCampaignName) -> RevocationCampaign:
        """Returns a campaign with its progress; raises REVOCATION_CAMPAIGN_NOT_FOUND."""
        return self._found(caller, Permission.CERTIFICATE_READ, name)

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[RevocationCampaign]:
        """Returns a page of a tenant's campaigns, newest first."""
        self._access.require(caller, Permission.CERTIFICATE_READ, f"{parent}/revocationCampaigns")
        query = f"revocationCampaigns {parent}"
        after = request.after(query)
        with self._store.read("revocation-campaigns.page") as tx:
            existing_tenant(tx, parent.tenant)
            rows = revocation_campaigns.page(
                tx, parent.tenant, after=place_of(after) if after else None, limit=request.size + 1
            )
        return page_of(
            rows, request, query, key=lambda one: [one.create_time.isoformat(), one.name.revocation_campaign]
        )

    def cancel(self, caller: Caller, name: RevocationCampaignName) -> RevocationCampaign:
        """Ends a campaign; what it has revoked stays revoked, and one that has ended stays as it is.

        Raises REVOCATION_CAMPAIGN_NOT_FOUND.
        """
        self._found(caller, Permission.CERTIFICATE_REVOKE, name)
        now = self._clock.now()

        def cancel(tx: Transaction) -> RevocationCampaign:
            found = _existing(tx, name)
            if found.state is not _RUNNING:
                return found
            return _end(tx, found, RevocationCampaignState.CANCELLED, caller.principal, now)

        return self._store.write("revocation-campaigns.cancel", cancel)

    def advance(self, uid: str) -> None:
        """Takes a campaign further; idempotent, called by the scheduler."""
        for _ in range(_PAGES):
            if not self._page(uid, TOGETHER):
                return
        self._store.write("revocation-campaigns.pause", lambda tx: _put_again(tx, uid, self._clock.now()))

    def _found(self, caller: Caller, permission: Permission, name: RevocationCampaignName) -> RevocationCampaign:
        """Returns a campaign to who holds the permission on it, or on all that it revokes."""
        with self._store.read("revocation-campaigns.get") as tx:
            found = revocation_campaigns.get(tx, name)
        if found is None or not self._access.may(caller, permission, found.scope):
            # The answer is the same whether it exists or not.
            self._access.require(caller, permission, str(name))
        if found is None:
            raise _not_found(name)
        return found

    def _page(self, uid: str, limit: int) -> bool:
        """Step 2; returns whether there may be more to do."""
        now = self._clock.now()
        with self._store.read("revocation-campaigns.look") as tx:
            campaign = revocation_campaigns.get_by_uid(tx, uid)
            creator = None if campaign is None else identities.of_spiffe_id(tx, campaign.creator)
        if campaign is None or campaign.state is not _RUNNING:
            self._store.write("revocation-campaigns.finish", lambda tx: jobs.finish(tx, _KIND, uid))
            return False
        maker = Caller(principal=campaign.creator, serial="")
        if not self._access.may(maker, Permission.CERTIFICATE_REVOKE, campaign.scope) or (
            creator is not None and creator.state is IdentityState.REVOKED
        ):
            self._store.write("revocation-campaigns.stop", lambda tx: _stop(tx, campaign, now))
            return False
        with self._store.read("revocation-campaigns.select") as tx:
            awaited = not campaign.position and is_awaited(tx, campaign)
            found = None if awaited else selected(tx, campaign, limit=limit)
        if found is None:
            self._store.write("revocation-campaigns.wait", lambda tx: _put_again(tx, uid, now + _PAUSE))
            return False
        forbidden = frozenset(
            subject.name
            for subject in found.subjects
            if subject.authority and not self._access.may(maker, Permission.AUTHORITY_ENABLE, subject.issuer.name)
        )
        try:
            ended = self._store.write(
                "revocation-campaigns.revoke", lambda tx: _take(tx, campaign, found, forbidden=forbidden, now=now)
            )
        except Exception as error:
            if isinstance(error, CertdError) and error.reason in _PASSES:
                raise
            if len(found.subjects) > 1:
                # One of them has the others fail; alone it fails alone.
                return self._page(uid, 1)
            _log.exception("the campaign %s leaves out a certificate", campaign.name)
            forbidden = frozenset(subject.name for subject in found.subjects)
            ended = self._store.write(
                "revocation-campaigns.leave-out", lambda tx: _take(tx, campaign, found, forbidden=forbidden, now=now)
            )
        self._step("revocation-campaign.2.page")
        # There are CRLs to sign in seconds, and perhaps renewals now.
        self._wake_scheduler()
        return not ended


def _begin(tx: Transaction, made: RevocationCampaign, now: datetime) -> None:
    """Step 1."""
    if not revocation_campaigns.insert(tx, made):
        raise _exists(made.name)
    if isinstance(made.selection, OfPublicKey) and made.reason is RevocationReason.KEY_COMPROMISE:
        # Also one that no certificate has yet: whoever has it may ask for one.
        blocked_keys.block(tx, made.name.tenant, made.selection.sha256, authority_uid="", serial="", now=now)
    jobs.put(tx, Job(kind=_KIND, subject=made.uid, due_time=now))
    details = {"request": revocation_campaigns.request_text(made)}
    tx.event(_event(EventType.REVOCATION_CAMPAIGN_CREATED, made, made.creator, now, details))


def _put_again(tx: Transaction, uid: str, due_time: datetime) -> None:
    campaign = revocation_campaigns.get_by_uid(tx, uid)
    if campaign is not None and campaign.state is _RUNNING:
        jobs.put(tx, Job(kind=_KIND, subject=uid, due_time=due_time))


def _check(tx: Transaction, made: RevocationCampaign) -> None:
    """Raises what says that there is no such tenant, or that nothing could fit."""
    tenant = made.name.tenant
    existing_tenant(tx, tenant)
    if made.authority is not None:
        existing_authority(tx, made.authority)
    match made.selection:
        case UnderProfileOf(profile):
            if profiles.get_version(tx, tenant, profile, 1) is None:
                # One that was deleted had a first version too.
                existing_profile(tx, ProfileName(tenant, profile), tenant)
        case OfConsumer(consumer):
            if identities.get(tx, IdentityName.parse("revocation_campaign.consumer", consumer)) is None:
                raise CertdError(Reason.IDENTITY_NOT_FOUND, f"{consumer} does not exist", resource=consumer)
        case _:
            pass


def _take(
    tx: Transaction, campaign: RevocationCampaign, found: Selected, *, forbidden: frozenset[str], now: datetime
) -> bool:
    """Revokes what was found, unless another was faster or the campaign was ended meanwhile; returns whether it ended.

    What is `forbidden`, by name, is counted as failed.
    """
    current = revocation_campaigns.get_by_uid(tx, campaign.uid)
    if current != campaign:
        return current is None or current.state is not _RUNNING
    failed = list(found.imported)
    renewal_time = max(now, campaign.renewal_time or now)
    rows, unchanged = [], 0
    for read in found.subjects:
        row = certificates.get(tx, read.row.authority_uid, read.row.serial)
        if row is None or read.name in forbidden:
            failed.append(read.name)
            continue
        subject = replace(read, row=row)
        try:
            planned = revoked(subject, reason=campaign.reason, invalidity_time=campaign.invalidity_time, now=now)
        except CertdError as error:
            if error.reason is Reason.ALREADY_REVOKED or row.state is CertificateState.LOST:
                unchanged += 1
            else:
                failed.append(subject.name)
            continue
        if write_one_of_many(
            tx, campaign.creator, subject, planned, now, renewal_time=renewal_time, campaign=str(campaign.name)
        ):
            renewal_time += RENEWAL_PAUSE
        rows.append(planned)
    mark_lists(tx, rows, now)
    room = NAMED_FAILURES - len(campaign.failed_certificates)
    after = replace(
        campaign,
        position=campaign.position if found.position is None else found.position,
        renewal_time=renewal_time,
        found_count=campaign.found_count + len(found.subjects) + len(found.imported),
        revoked_count=campaign.revoked_count + len(rows),
        unchanged_count=campaign.unchanged_count + unchanged,
        failed_count=campaign.failed_count + len(failed),
        failed_certificates=(*campaign.failed_certificates, *failed[: max(room, 0)]),
    )
    if found.position is None:
        _end(tx, after, RevocationCampaignState.DONE, SYSTEM_PRINCIPAL, now)
        return True
    revocation_campaigns.update(tx, after)
    return False


def _stop(tx: Transaction, campaign: RevocationCampaign, now: datetime) -> None:
    """Ends a campaign whose maker may not revoke any more."""
    current = revocation_campaigns.get_by_uid(tx, campaign.uid)
    if current is not None and current.state is _RUNNING:
        cause = f"{campaign.creator} lacks {Permission.CERTIFICATE_REVOKE} on {campaign.scope}, or is revoked"
        _end(tx, current, RevocationCampaignState.CANCELLED, SYSTEM_PRINCIPAL, now, cause=cause)


def _end(
    tx: Transaction,
    campaign: RevocationCampaign,
    state: RevocationCampaignState,
    principal: str,
    now: datetime,
    **more: str,
) -> RevocationCampaign:
    ended = replace(campaign, state=state, end_time=now)
    revocation_campaigns.update(tx, ended)
    jobs.finish(tx, _KIND, ended.uid)
    details = {
        "state": state.value,
        "reason": ended.reason.name,
        "found": str(ended.found_count),
        "revoked": str(ended.revoked_count),
        "unchanged": str(ended.unchanged_count),
        "failed": str(ended.failed_count),
        **more,
    }
    tx.event(_event(EventType.REVOCATION_CAMPAIGN_ENDED, ended, principal, now, details))
    return ended


def _event(
    type_: EventType, campaign: RevocationCampaign, principal: str, now: datetime, details: dict[str, str]
) -> Event:
    return Event(
        time=now,
        type=type_,
        tenant=campaign.name.tenant,
        principal=principal,
        resource=str(campaign.name),
        details={"uid": campaign.uid, **details},
    )


def _existing(tx: Transaction, name: RevocationCampaignName) -> RevocationCampaign:
    found = revocation_campaigns.get(tx, name)
    if found is None:
        raise _not_found(name)
    return found


def _replayed(tx: Transaction, uid: str) -> RevocationCampaign:
    found = revocation_campaigns.get_by_uid(tx, uid)
    if found is None:
        raise CertdError(Reason.REVOCATION_CAMPAIGN_NOT_FOUND, "what this request_id made is gone; send a new one")
    return found


def _not_found(name: RevocationCampaignName) -> CertdError:
    return CertdError(Reason.REVOCATION_CAMPAIGN_NOT_FOUND, f"{name} does not exist", resource=str(name))


def _exists(name: RevocationCampaignName) -> CertdError:
    return CertdError(
        Reason.REVOCATION_CAMPAIGN_EXISTS,
        f"{name} exists already; choose another revocation_campaign_id",
        resource=str(name),
    )
