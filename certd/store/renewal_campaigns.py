"""Rows of renewal campaigns, and of the managed certificates that they wait for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, delete, func, or_, select, tuple_
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.model.names import ManagedCertificateName, RenewalCampaignName
from certd.model.renewal_campaign import RenewalCampaign, RenewalCampaignState
from certd.store import managed_schema
from certd.store.dialect import insert_if_absent
from certd.store.managed_certificate_filters import filter_of, filter_text
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_microseconds, optional_time_of, time_of

_campaigns = managed_schema.renewal_campaigns
_members = managed_schema.renewal_campaign_members
_managed = managed_schema.managed_certificates

_SELECT: Select[Any] = select(
    _campaigns.c.tenant,
    _campaigns.c.renewal_campaign_id,
    _campaigns.c.uid,
    _campaigns.c.filter,
    _campaigns.c.renewals_per_minute,
    _campaigns.c.reason,
    _campaigns.c.state,
    _campaigns.c.next_renewal_time,
    _campaigns.c.selected_up_to,
    _campaigns.c.selection_complete,
    _campaigns.c.selected_count,
    _campaigns.c.renewed_count,
    _campaigns.c.blocked_count,
    _campaigns.c.skipped_count,
    _campaigns.c.blocked,
    _campaigns.c.creator,
    _campaigns.c.create_time,
    _campaigns.c.end_time,
)
_GET = _SELECT.where(_campaigns.c.tenant == bindparam("of_tenant"), _campaigns.c.renewal_campaign_id == bindparam("id"))
_GET_BY_UID = _SELECT.where(_campaigns.c.uid == bindparam("key"))
_PAGE = (
    _SELECT.where(_campaigns.c.tenant == bindparam("of_tenant"))
    .order_by(_campaigns.c.create_time.desc(), _campaigns.c.renewal_campaign_id)
    .limit(bindparam("most"))
)
_PAGE_AFTER = _PAGE.where(
    or_(
        _campaigns.c.create_time < bindparam("after_time"),
        and_(
            _campaigns.c.create_time == bindparam("after_time"),
            _campaigns.c.renewal_campaign_id > bindparam("after_id"),
        ),
    )
)
_INSERT = insert_if_absent(_campaigns)
_UPDATE = update_of(_campaigns).where(_campaigns.c.uid == bindparam("key"))

_OF_CAMPAIGN = _members.c.campaign_uid == bindparam("key")
_INSERT_MEMBER = insert_into(_members)
_ANY_MEMBER = select(_members.c.managed_certificate_uid).where(_OF_CAMPAIGN).limit(1)
_IS_RENEWED = _managed.c.current_version > _members.c.version
_ENDED = (
    select(_members.c.managed_certificate_uid, _IS_RENEWED.label("renewed"))
    .join_from(_members, _managed, _managed.c.uid == _members.c.managed_certificate_uid, isouter=True)
    # Deleted, renewed, or nobody wants it renewed any more.
    .where(
        _OF_CAMPAIGN,
        or_(_managed.c.uid.is_(None), _IS_RENEWED, _managed.c.forced_version != _members.c.version),
    )
    .order_by(_members.c.managed_certificate_uid)
    .limit(bindparam("most"))
)
_BLOCKED = (
    select(_managed.c.tenant, _managed.c.managed_certificate_id)
    .join_from(_members, _managed, _managed.c.uid == _members.c.managed_certificate_uid)
    .where(_OF_CAMPAIGN, _managed.c.renewal_blocked.is_(True))
    .order_by(_members.c.managed_certificate_uid)
    .limit(bindparam("most"))
)
_COUNT_BLOCKED = (
    select(func.count())
    .select_from(_members.join(_managed, _managed.c.uid == _members.c.managed_certificate_uid))
    .where(_OF_CAMPAIGN, _managed.c.renewal_blocked.is_(True))
)
_DELETE_MEMBERS = delete(_members).where(
    _OF_CAMPAIGN, _members.c.managed_certificate_uid.in_(bindparam("uids", expanding=True))
)
_KEY = (_members.c.campaign_uid, _members.c.managed_certificate_uid)
_DELETE_SOME = delete(_members).where(
    tuple_(*_KEY).in_(select(*_KEY).where(_OF_CAMPAIGN).order_by(*_KEY).limit(bindparam("most")))
)


@dataclass(frozen=True, slots=True)
class Ended:
    """Members of a campaign that it need not wait for any more, by the uid of the managed certificate."""

    renewed: tuple[str, ...]
    given_up: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Members of a campaign that something keeps from being renewed."""

    count: int
    names: tuple[str, ...]
    """Of some of them."""


def _campaign(row: Row[Any]) -> RenewalCampaign:
    return RenewalCampaign(
        uid=row.uid,
        name=RenewalCampaignName(row.tenant, row.renewal_campaign_id),
        filter=filter_of(row.filter),
        renewals_per_minute=row.renewals_per_minute,
        reason=row.reason,
        state=RenewalCampaignState(row.state),
        next_renewal_time=time_of(row.next_renewal_time),
        selected_up_to=row.selected_up_to,
        selection_complete=row.selection_complete,
        selected_count=row.selected_count,
        renewed_count=row.renewed_count,
        blocked_count=row.blocked_count,
        skipped_count=row.skipped_count,
        blocked=tuple(json.loads(row.blocked)),
        creator=row.creator,
        create_time=time_of(row.create_time),
        end_time=optional_time_of(row.end_time),
    )


def _mutable_columns(campaign: RenewalCampaign) -> dict[str, object]:
    return {
        "state": campaign.state.value,
        "next_renewal_time": microseconds(campaign.next_renewal_time),
        "selected_up_to": campaign.selected_up_to,
        "selection_complete": campaign.selection_complete,
        "selected_count": campaign.selected_count,
        "renewed_count": campaign.renewed_count,
        "blocked_count": campaign.blocked_count,
        "skipped_count": campaign.skipped_count,
        "blocked": json_text(list(campaign.blocked)),
        "end_time": optional_microseconds(campaign.end_time),
    }


def insert(tx: Transaction, campaign: RenewalCampaign) -> bool:
    """Inserts a campaign; returns False, and changes nothing, when its tenant has one with this id."""
    columns = _mutable_columns(campaign) | {
        "tenant": campaign.name.tenant,
        "renewal_campaign_id": campaign.name.renewal_campaign,
        "uid": campaign.uid,
        "filter": filter_text(campaign.filter),
        "renewals_per_minute": campaign.renewals_per_minute,
        "reason": campaign.reason,
        "creator": campaign.creator,
        "create_time": microseconds(campaign.create_time),
    }
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, name: RenewalCampaignName) -> RenewalCampaign | None:
    """Returns a campaign; None when there is none."""
    row = tx.execute(_GET, {"of_tenant": name.tenant, "id": name.renewal_campaign}).first()
    return None if row is None else _campaign(row)


def get_by_uid(tx: Transaction, uid: str) -> RenewalCampaign | None:
    """Returns the campaign with this uid; None when there is none."""
    row = tx.execute(_GET_BY_UID, {"key": uid}).first()
    return None if row is None else _campaign(row)


def page(tx: Transaction, tenant: str, *, after: tuple[datetime, str] | None, limit: int) -> list[RenewalCampaign]:
    """Returns up to `limit` campaigns of a tenant, the newest first, those of one moment by id.

    `after` is the creation time and the id of the last one of the page before.
    """
    parameters: dict[str, object] = {"of_tenant": tenant, "most": limit}
    if after is None:
        return [_campaign(row) for row in tx.execute(_PAGE, parameters)]
    parameters |= {"after_time": microseconds(after[0]), "after_id": after[1]}
    return [_campaign(row) for row in tx.execute(_PAGE_AFTER, parameters)]


def update(tx: Transaction, campaign: RenewalCampaign) -> None:
    """Replaces what may change of a campaign."""
    tx.execute(_UPDATE, _mutable_columns(campaign) | {"key": campaign.uid})


def add_members(tx: Transaction, campaign_uid: str, members: Sequence[tuple[str, int]]) -> None:
    """Has a campaign wait until each of these has another version than the one that it has now."""
    if members:
        rows = [
            {"campaign_uid": campaign_uid, "managed_certificate_uid": uid, "version": version}
            for uid, version in members
        ]
        tx.execute(_INSERT_MEMBER, rows)


def any_member(tx: Transaction, campaign_uid: str) -> bool:
    """Returns whether a campaign waits for something."""
    return tx.execute(_ANY_MEMBER, {"key": campaign_uid}).first() is not None


def ended_members(tx: Transaction, campaign_uid: str, *, limit: int) -> Ended:
    """Returns up to `limit` members that have ended."""
    rows = tx.execute(_ENDED, {"key": campaign_uid, "most": limit}).all()
    return Ended(
        renewed=tuple(row.managed_certificate_uid for row in rows if row.renewed),
        given_up=tuple(row.managed_certificate_uid for row in rows if not row.renewed),
    )


def blocked_members(tx: Transaction, campaign_uid: str, *, named: int) -> Blocked:
    """Returns how many members are blocked, and the names of up to `named` of them."""
    rows = tx.execute(_BLOCKED, {"key": campaign_uid, "most": named}).all()
    count = len(rows) if len(rows) < named else int(tx.execute(_COUNT_BLOCKED, {"key": campaign_uid}).scalar() or 0)
    return Blocked(count, tuple(str(ManagedCertificateName(row.tenant, row.managed_certificate_id)) for row in rows))


def delete_members(tx: Transaction, campaign_uid: str, uids: Sequence[str]) -> int:
    """Deletes members; returns how many there were."""
    if not uids:
        return 0
    return tx.execute(_DELETE_MEMBERS, {"key": campaign_uid, "uids": list(uids)}).rowcount


def delete_some_members(tx: Transaction, campaign_uid: str, *, limit: int) -> int:
    """Deletes up to `limit` members; returns how many there were."""
    return tx.execute(_DELETE_SOME, {"key": campaign_uid, "most": limit}).rowcount
