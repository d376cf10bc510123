"""Rows of revocation campaigns."""

import json
from datetime import datetime
from typing import Any, Final, assert_never

from sqlalchemy import Row, Select, and_, bindparam, or_, select
from sqlalchemy import update as update_of

from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName, RevocationCampaignName
from certd.model.revocation_campaign import (
    OfConsumer,
    OfFilter,
    OfPublicKey,
    RevocationCampaign,
    RevocationCampaignState,
    Selection,
    UnderProfileOf,
)
from certd.store import revocation_schema
from certd.store.certificate_filters import filter_of, filter_value
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_microseconds, optional_time_of, time_of

_campaigns = revocation_schema.revocation_campaigns
_SELECT: Select[Any] = select(_campaigns)
_GET = _SELECT.where(_campaigns.c.tenant == bindparam("of_tenant"), _campaigns.c.campaign_id == bindparam("id"))
_GET_BY_UID = _SELECT.where(_campaigns.c.uid == bindparam("key"))
_PAGE = (
    _SELECT.where(_campaigns.c.tenant == bindparam("of_tenant"))
    .order_by(_campaigns.c.create_time.desc(), _campaigns.c.campaign_id)
    .limit(bindparam("most"))
)
_PAGE_AFTER = _PAGE.where(
    or_(
        _campaigns.c.create_time < bindparam("after_time"),
        and_(_campaigns.c.create_time == bindparam("after_time"), _campaigns.c.campaign_id > bindparam("after_id")),
    )
)
_INSERT = insert_if_absent(_campaigns)
_UPDATE = update_of(_campaigns).where(_campaigns.c.uid == bindparam("key"))
_PROFILE: Final = "profile"
_KEY: Final = "public_key_sha256"
_CONSUMER: Final = "consumer"


def request_text(campaign: RevocationCampaign) -> str:
    """Returns what was asked for as canonical JSON; what is not said is left out."""
    said = {
        **_selection_value(campaign.selection),
        "authority": None if campaign.authority is None else str(campaign.authority),
        "reason": campaign.reason.value,
        "invalidity_time": optional_microseconds(campaign.invalidity_time),
        "include_expired": campaign.include_expired or None,
    }
    return json_text({key: value for key, value in said.items() if value is not None})


def _selection_value(selection: Selection) -> dict[str, object]:
    match selection:
        case UnderProfileOf(profile):
            return {_PROFILE: profile}
        case OfPublicKey(sha256):
            return {_KEY: sha256.hex()}
        case OfConsumer(consumer):
            return {_CONSUMER: consumer}
        case OfFilter(wanted):
            return {"filter": filter_value(wanted)}
        case _:
            assert_never(selection)


def _selection(read: dict[str, Any]) -> Selection:
    if _PROFILE in read:
        return UnderProfileOf(read[_PROFILE])
    if _KEY in read:
        return OfPublicKey(bytes.fromhex(read[_KEY]))
    if _CONSUMER in read:
        return OfConsumer(read[_CONSUMER])
    return OfFilter(filter_of(read["filter"]))


def _campaign(row: Row[Any]) -> RevocationCampaign:
    said, position = json.loads(row.request), json.loads(row.position)
    authority = said.get("authority")
    return RevocationCampaign(
        uid=row.uid,
        name=RevocationCampaignName(row.tenant, row.campaign_id),
        authority=None if authority is None else AuthorityName.parse("authority", authority),
        selection=_selection(said),
        reason=RevocationReason(said["reason"]),
        invalidity_time=optional_time_of(said.get("invalidity_time")),
        include_expired=said.get("include_expired", False),
        state=RevocationCampaignState(row.state),
        position=tuple(position["after"]),
        renewal_time=optional_time_of(position["renewal_time"]),
        found_count=row.found_count,
        revoked_count=row.revoked_count,
        unchanged_count=row.unchanged_count,
        failed_count=row.failed_count,
        failed_certificates=tuple(json.loads(row.failed_certificates)),
        creator=row.creator,
        create_time=time_of(row.create_time),
        end_time=optional_time_of(row.end_time),
    )


def _mutable_columns(campaign: RevocationCampaign) -> dict[str, object]:
    position = {"after": list(campaign.position), "renewal_time": optional_microseconds(campaign.renewal_time)}
    return {
        "state": campaign.state.value,
        "position": json_text(position),
        "found_count": campaign.found_count,
        "revoked_count": campaign.revoked_count,
        "unchanged_count": campaign.unchanged_count,
        "failed_count": campaign.failed_count,
        "failed_certificates": json_text(list(campaign.failed_certificates)),
        "end_time": optional_microseconds(campaign.end_time),
    }


def insert(tx: Transaction, campaign: RevocationCampaign) -> bool:
    """Inserts a campaign; returns False, and changes nothing, when its tenant has one with this id."""
    columns = _mutable_columns(campaign) | {
        "tenant": campaign.name.tenant,
        "campaign_id": campaign.name.revocation_campaign,
        "uid": campaign.uid,
        "request": request_text(campaign),
        "creator": campaign.creator,
        "create_time": microseconds(campaign.create_time),
    }
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, name: RevocationCampaignName) -> RevocationCampaign | None:
    """Returns a campaign; None when there is none."""
    row = tx.execute(_GET, {"of_tenant": name.tenant, "id": name.revocation_campaign}).first()
    return None if row is None else _campaign(row)


def get_by_uid(tx: Transaction, uid: str) -> RevocationCampaign | None:
    """Returns the campaign with this uid; None when there is none."""
    row = tx.execute(_GET_BY_UID, {"key": uid}).first()
    return None if row is None else _campaign(row)


def page(tx: Transaction, tenant: str, *, after: tuple[datetime, str] | None, limit: int) -> list[RevocationCampaign]:
    """Returns up to `limit` campaigns of a tenant, the newest first, those of one moment by id.

    `after` is the creation time and the id of the last one of the page before.
    """
    parameters: dict[str, object] = {"of_tenant": tenant, "most": limit}
    if after is None:
        return [_campaign(row) for row in tx.execute(_PAGE, parameters)]
    parameters |= {"after_time": microseconds(after[0]), "after_id": after[1]}
    return [_campaign(row) for row in tx.execute(_PAGE_AFTER, parameters)]


def update(tx: Transaction, campaign: RevocationCampaign) -> None:
    """Replaces what may change of a campaign."""
    tx.execute(_UPDATE, _mutable_columns(campaign) | {"key": campaign.uid})
