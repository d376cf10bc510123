"""Sealed keys, in a table of their own that other queries never touch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select
from sqlalchemy import delete as delete_from
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.errors import CertdError, Reason
from certd.model.wrapping_key import WrappingKeyState
from certd.store import managed_schema, wrapping_keys
from certd.store.dialect import Many
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_microseconds

_sealed = managed_schema.sealed_keys
_INSERT = insert_into(_sealed)
_FITS = (_sealed.c.managed_certificate_uid == bindparam("key"), _sealed.c.version == bindparam("of_version"))
_GET = select(_sealed.c.blob).where(*_FITS)
_NUMBERS = select(_sealed.c.version).where(
    _sealed.c.managed_certificate_uid == bindparam("key"),
    _sealed.c.version.between(bindparam("lowest"), bindparam("highest")),
)
_INSERT_MANY = Many(_INSERT, columns=("managed_certificate_uid", "version", "wrapping_key_number", "blob"))
_SET_EXPIRY = update_of(_sealed).where(*_FITS)
_SET_EXPIRY_MANY = Many(
    _SET_EXPIRY.values(expire_time=bindparam("time")),
    columns=("key", "of_version", "time"),
    sqlite_text="""
        UPDATE sealed_keys SET expire_time = ended.column3 FROM (VALUES {rows}) AS ended
        WHERE sealed_keys.managed_certificate_uid = ended.column1 AND sealed_keys.version = ended.column2
    """,
)
_EXPIRED = (
    select(_sealed.c.managed_certificate_uid, _sealed.c.version)
    .where(_sealed.c.expire_time < bindparam("now"))
    .order_by(_sealed.c.expire_time)
    .limit(bindparam("most"))
)
_DELETE = delete_from(_sealed).where(*_FITS)
_of_associations = managed_schema.association_keys
_DELETE_OF_ASSOCIATIONS = delete_from(_of_associations).where(
    _of_associations.c.managed_certificate_uid == bindparam("key"),
    _of_associations.c.version == bindparam("of_version"),
)
_WRAPPING_KEY_STATE = (
    select(managed_schema.wrapping_keys.c.state)
    .join_from(
        managed_schema.managed_certificates,
        managed_schema.wrapping_keys,
        managed_schema.wrapping_keys.c.tenant == managed_schema.managed_certificates.c.tenant,
    )
    .where(
        managed_schema.managed_certificates.c.uid == bindparam("key"),
        managed_schema.wrapping_keys.c.number == bindparam("of_number"),
    )
    # As in `wrapping_keys.seals`: whoever rotates waits for those who keep something.
    .with_for_update(read=True, of=managed_schema.wrapping_keys)
)


def insert(tx: Transaction, managed_uid: str, version: int, wrapping_key_number: int, blob: bytes) -> None:
    """Inserts the sealed key of a version that is there already.

    Raises STATE_FORBIDS when the wrapping key is no longer the tenant's primary one: seal again under that.
    """
    check_primary(tx, managed_uid, wrapping_key_number)
    tx.execute(
        _INSERT,
        {
            "managed_certificate_uid": managed_uid,
            "version": version,
            "wrapping_key_number": wrapping_key_number,
            "blob": blob,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """The sealed key of a version."""

    managed_uid: str
    version: int
    wrapping_key_number: int
    blob: bytes


def insert_all(tx: Transaction, tenant: str, keys: Sequence[SealedKey]) -> None:
    """Inserts the sealed keys of versions of one tenant that are there already; raises STATE_FORBIDS as `insert`."""
    for number in {key.wrapping_key_number for key in keys}:
        if not wrapping_keys.seals(tx, tenant, number):
            raise _not_primary(number)
    rows = [
        {
            "managed_certificate_uid": key.managed_uid,
            "version": key.version,
            "wrapping_key_number": key.wrapping_key_number,
            "blob": key.blob,
        }
        for key in keys
    ]
    tx.execute_many(_INSERT_MANY, rows)


def is_primary(tx: Transaction, managed_uid: str, wrapping_key_number: int) -> bool:
    """Returns whether a wrapping key is the one that seals for the tenant of a managed certificate.

    It stays so until the transaction ends, which is one that writes.
    """
    state = tx.execute(_WRAPPING_KEY_STATE, {"key": managed_uid, "of_number": wrapping_key_number}).scalar()
    return bool(state == WrappingKeyState.PRIMARY.value)


def check_primary(tx: Transaction, managed_uid: str, wrapping_key_number: int) -> None:
    """Raises STATE_FORBIDS unless a wrapping key is the one that seals; in the transaction that inserts a blob."""
    if not is_primary(tx, managed_uid, wrapping_key_number):
        raise _not_primary(wrapping_key_number)


def _not_primary(number: int) -> CertdError:
    return CertdError(
        Reason.STATE_FORBIDS,
        f"wrapping key {number} no longer seals new keys: try again, under the one that followed it",
    )


def get(tx: Transaction, managed_uid: str, version: int) -> bytes | None:
    """Returns the sealed key of a version; None when there is none."""
    blob: bytes | None = tx.execute(_GET, {"key": managed_uid, "of_version": version}).scalar()
    return blob


def there(tx: Transaction, managed_uid: str, *, lowest: int, highest: int) -> frozenset[int]:
    """Returns the numbers of the versions, from `lowest` to `highest`, whose sealed keys are there."""
    rows = tx.execute(_NUMBERS, {"key": managed_uid, "lowest": lowest, "highest": highest})
    return frozenset(row.version for row in rows)


def set_expiry(tx: Transaction, managed_uid: str, version: int, time: datetime | None) -> None:
    """Says after when the key of a version may be deleted: at the end of one that is not current. None: never."""
    tx.execute(_SET_EXPIRY, {"key": managed_uid, "of_version": version, "expire_time": optional_microseconds(time)})


def set_expiries(tx: Transaction, ended: Iterable[tuple[str, int, datetime]]) -> None:
    """As `set_expiry` for each: managed certificate, version, time."""
    rows = [{"key": uid, "of_version": version, "time": microseconds(time)} for uid, version, time in ended]
    tx.execute_many(_SET_EXPIRY_MANY, rows)


def delete_expired(tx: Transaction, now: datetime, limit: int) -> int:
    """Deletes up to `limit` keys whose time has come, also those sealed for consumers; returns how many versions'."""
    rows = tx.execute(_EXPIRED, {"now": microseconds(now), "most": limit}).all()
    if rows:
        keys = [{"key": row.managed_certificate_uid, "of_version": row.version} for row in rows]
        tx.execute(_DELETE_OF_ASSOCIATIONS, keys)
        tx.execute(_DELETE, keys)
    return len(rows)
