"""Sealed secrets of webhooks: the newest of a subscription, and the one before it until it ends."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, or_, select
from sqlalchemy import delete as delete_from
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.store import managed_schema, notification_schema, schema
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_time_of

_secrets = notification_schema.subscription_secrets
_keys = managed_schema.wrapping_keys
_tenants = schema.tenants
_OF_SUBSCRIPTION = _secrets.c.subscription_uid == bindparam("key")
_INSERT = insert_into(_secrets)
_LIVE: Select[Any] = (
    select(
        _secrets.c.subscription_uid,
        _secrets.c.number,
        _secrets.c.blob,
        _secrets.c.expire_time,
        _keys.c.key_id,
        _tenants.c.uid.label("tenant_uid"),
    )
    .join_from(
        _secrets,
        _keys,
        (_keys.c.tenant == _secrets.c.tenant) & (_keys.c.number == _secrets.c.wrapping_key_number),
    )
    .join(_tenants, _tenants.c.tenant_id == _secrets.c.tenant)
    .where(_OF_SUBSCRIPTION, or_(_secrets.c.expire_time.is_(None), _secrets.c.expire_time > bindparam("now")))
    .order_by(_secrets.c.number.desc())
)
_NEWEST = select(_secrets.c.number).where(_OF_SUBSCRIPTION).order_by(_secrets.c.number.desc()).limit(1)
_EXPIRE = update_of(_secrets).where(_OF_SUBSCRIPTION, _secrets.c.number == bindparam("of_number"))
_DELETE_BELOW = delete_from(_secrets).where(_OF_SUBSCRIPTION, _secrets.c.number < bindparam("below"))
_KEY = (_secrets.c.subscription_uid, _secrets.c.number)
_EXPIRED = (
    select(*_KEY)
    .where(_secrets.c.expire_time <= bindparam("now"))
    .order_by(_secrets.c.expire_time)
    .limit(bindparam("most"))
)
_DELETE = delete_from(_secrets).where(_OF_SUBSCRIPTION, _secrets.c.number == bindparam("of_number"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """A secret as it lies in its row, with what is needed to open it."""

    subscription_uid: str
    number: int
    blob: bytes
    wrapping_key_id: bytes
    """CKA_ID."""
    tenant_uid: str
    expire_time: datetime | None
    """When it is no longer used; None for the newest."""


def insert(
    tx: Transaction, *, subscription_uid: str, number: int, tenant: str, wrapping_key_number: int, blob: bytes
) -> None:
    """Inserts the newest secret of a subscription; nobody rotates the wrapping key meanwhile, see `seals`."""
    tx.execute(
        _INSERT,
        {
            "subscription_uid": subscription_uid,
            "number": number,
            "tenant": tenant,
            "wrapping_key_number": wrapping_key_number,
            "blob": blob,
            "expire_time": None,
        },
    )


def live(tx: Transaction, subscription_uid: str, now: datetime) -> list[SealedSecret]:
    """Returns the secrets of a subscription that have not ended, the newest first."""
    return [
        SealedSecret(
            subscription_uid=row.subscription_uid,
            number=row.number,
            blob=row.blob,
            wrapping_key_id=row.key_id,
            tenant_uid=row.tenant_uid,
            expire_time=optional_time_of(row.expire_time),
        )
        for row in tx.execute(_LIVE, {"key": subscription_uid, "now": microseconds(now)})
    ]


def newest_number(tx: Transaction, subscription_uid: str) -> int:
    """Returns the number of the newest secret of a subscription; 0 when it has none."""
    return int(tx.execute(_NEWEST, {"key": subscription_uid}).scalar() or 0)


def outdate(tx: Transaction, subscription_uid: str, number: int, expire_time: datetime) -> None:
    """Has a secret end at a time, and deletes those before it: two at most are live at once."""
    tx.execute(_DELETE_BELOW, {"key": subscription_uid, "below": number})
    tx.execute(_EXPIRE, {"key": subscription_uid, "of_number": number, "expire_time": microseconds(expire_time)})


def delete_expired(tx: Transaction, now: datetime, *, limit: int) -> int:
    """Deletes up to `limit` secrets that have ended; returns how many."""
    ended = tx.execute(_EXPIRED, {"now": microseconds(now), "most": limit}).all()
    for row in ended:
        tx.execute(_DELETE, {"key": row.subscription_uid, "of_number": row.number})
    return len(ended)
