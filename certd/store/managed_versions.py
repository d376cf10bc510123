"""Rows of the versions of managed certificates."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, literal_column, or_, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.model.certificate import RevocationReason
from certd.model.managed_certificate import ManagedCertificateVersion
from certd.store import managed_schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import joined, microseconds, optional_microseconds, optional_time_of, split, time_of

_versions = managed_schema.managed_certificate_versions
_managed = managed_schema.managed_certificates
_INSERT = insert_into(_versions)
_FITS = (
    _versions.c.managed_certificate_uid == bindparam("key"),
    _versions.c.number == bindparam("of_number"),
)
_SELECT: Select[Any] = select(
    _versions.c.managed_certificate_uid,
    _versions.c.number,
    _versions.c.public_key,
    _versions.c.wrapping_key_number,
    _versions.c.authority_uid,
    _versions.c.serial,
    _versions.c.create_time,
    _versions.c.certificate,
    _versions.c.not_before,
    _versions.c.not_after,
    _versions.c.revoke_time,
    _versions.c.revocation_reason,
)
# A chain may have megabytes, so only who asks for one version reads it.
_GET = _SELECT.add_columns(_versions.c.chain).where(*_FITS)
_GET_BARE = _SELECT.where(*_FITS)
_DOWN = (
    _SELECT.where(_versions.c.managed_certificate_uid == bindparam("key"), _versions.c.number < bindparam("below"))
    .order_by(_versions.c.number.desc())
    .limit(bindparam("most"))
)
_NOT_ENDED = and_(
    _versions.c.managed_certificate_uid == bindparam("key"),
    or_(_versions.c.serial.is_not(None), _versions.c.certificate.is_not(None)),
    or_(_versions.c.not_after.is_(None), _versions.c.not_after >= bindparam("now")),
)
_OF_NOT_ENDED = _SELECT.where(_NOT_ENDED).order_by(_versions.c.number)
_LIVES = select(_versions.c.number).where(_NOT_ENDED, _versions.c.revoke_time.is_(None)).limit(1)
_SET_ISSUED = update_of(_versions).where(*_FITS)
_SET_REVOKED = update_of(_versions).where(*_FITS)
_OF_NEXT = _SELECT.join_from(_versions, _managed, (_managed.c.uid == _versions.c.managed_certificate_uid)).where(
    _managed.c.uid.in_(bindparam("keys", expanding=True)),
    _versions.c.number == _managed.c.current_version + literal_column("1"),
)
_INSERT_MANY = Many(
    insert_if_absent(_versions),
    columns=("managed_certificate_uid", "number", "public_key", "wrapping_key_number", "authority_uid", "create_time"),
)
_SET_ISSUED_MANY = Many(
    update_of(_versions)
    .where(*_FITS, _versions.c.public_key == bindparam("of_public_key"))
    .values(serial=bindparam("of_serial"), not_before=bindparam("begin"), not_after=bindparam("end")),
    columns=("key", "of_number", "of_serial", "begin", "end", "of_public_key"),
    sqlite_text="""
        UPDATE managed_certificate_versions
        SET serial = made.column3, not_before = made.column4, not_after = made.column5
        FROM (VALUES {rows}) AS made
        WHERE managed_certificate_versions.managed_certificate_uid = made.column1
          AND managed_certificate_versions.number = made.column2
          AND managed_certificate_versions.public_key = made.column6
    """,
)
_ABOVE_ALL = 1 << 62


def _version(row: Row[Any], chain: bytes | None = None) -> ManagedCertificateVersion:
    return ManagedCertificateVersion(
        managed_certificate_uid=row.managed_certificate_uid,
        number=row.number,
        public_key=row.public_key,
        wrapping_key_number=row.wrapping_key_number,
        authority_uid=row.authority_uid,
        serial=row.serial,
        create_time=time_of(row.create_time),
        certificate=row.certificate,
        chain=() if chain is None else split(chain),
        not_before=optional_time_of(row.not_before),
        not_after=optional_time_of(row.not_after),
        revoke_time=optional_time_of(row.revoke_time),
        revocation_reason=None if row.revocation_reason is None else RevocationReason(row.revocation_reason),
    )


def insert(tx: Transaction, version: ManagedCertificateVersion) -> None:
    """Inserts a version."""
    tx.execute(
        _INSERT,
        {
            "managed_certificate_uid": version.managed_certificate_uid,
            "number": version.number,
            "public_key": version.public_key,
            "wrapping_key_number": version.wrapping_key_number,
            "authority_uid": version.authority_uid,
            "serial": version.serial,
            "create_time": microseconds(version.create_time),
            "certificate": version.certificate,
            "chain": joined(version.chain) if version.chain else None,
            "not_before": optional_microseconds(version.not_before),
            "not_after": optional_microseconds(version.not_after),
        },
    )


def get(tx: Transaction, managed_certificate_uid: str, number: int) -> ManagedCertificateVersion | None:
    """Returns a version; None when there is none. It alone comes with the chain of an imported certificate."""
    row = tx.execute(_GET, {"key": managed_certificate_uid, "of_number": number}).first()
    return None if row is None else _version(row, row.chain)


def get_bare(tx: Transaction, managed_certificate_uid: str, number: int) -> ManagedCertificateVersion | None:
    """Returns a version without the chain of an imported certificate; None when there is none."""
    row = tx.execute(_GET_BARE, {"key": managed_certificate_uid, "of_number": number}).first()
    return None if row is None else _version(row)


def in_making(tx: Transaction, managed_certificate_uids: Sequence[str]) -> dict[str, ManagedCertificateVersion]:
    """Returns those that follow the current versions and are not issued yet, by managed certificate."""
    rows = tx.execute(_OF_NEXT, {"keys": list(managed_certificate_uids)})
    versions = [_version(row) for row in rows]
    return {version.managed_certificate_uid: version for version in versions if not version.issued}


def insert_all(tx: Transaction, versions: Sequence[ManagedCertificateVersion]) -> int:
    """Inserts versions that are not issued yet, unless they are there already; returns how many were not."""
    rows = [
        {
            "managed_certificate_uid": version.managed_certificate_uid,
            "number": version.number,
            "public_key": version.public_key,
            "wrapping_key_number": version.wrapping_key_number,
            "authority_uid": version.authority_uid,
            "create_time": microseconds(version.create_time),
        }
        for version in versions
    ]
    return tx.execute_many(_INSERT_MANY, rows)


def latest(tx: Transaction, managed_certificate_uid: str) -> ManagedCertificateVersion | None:
    """Returns the version with the highest number, issued or in the making; None when there is none."""
    found = page(tx, managed_certificate_uid, below=None, limit=1)
    return found[0] if found else None


def page(
    tx: Transaction, managed_certificate_uid: str, *, below: int | None, limit: int
) -> list[ManagedCertificateVersion]:
    """Returns up to `limit` versions, the newest first, from those with numbers below `below`."""
    parameters = {"key": managed_certificate_uid, "below": _ABOVE_ALL if below is None else below, "most": limit}
    return [_version(row) for row in tx.execute(_DOWN, parameters)]


def not_ended(tx: Transaction, managed_certificate_uid: str, now: datetime) -> list[ManagedCertificateVersion]:
    """Returns the versions whose certificates are issued and have not ended, also those revoked, by their numbers."""
    parameters = {"key": managed_certificate_uid, "now": microseconds(now)}
    return [_version(row) for row in tx.execute(_OF_NOT_ENDED, parameters)]


def any_lives(tx: Transaction, managed_certificate_uid: str, now: datetime) -> bool:
    """Returns whether there is a version whose certificate is issued, not revoked and not at its end."""
    return tx.execute(_LIVES, {"key": managed_certificate_uid, "now": microseconds(now)}).first() is not None


def set_issued(tx: Transaction, version: ManagedCertificateVersion, *, serial: str) -> ManagedCertificateVersion:
    """Records the serial of the certificate of a version, and its bounds, which `version` has; returns it so."""
    tx.execute(
        _SET_ISSUED,
        {
            "key": version.managed_certificate_uid,
            "of_number": version.number,
            "serial": serial,
            "not_before": optional_microseconds(version.not_before),
            "not_after": optional_microseconds(version.not_after),
        },
    )
    return replace(version, serial=serial)


def set_issued_all(tx: Transaction, versions: Sequence[ManagedCertificateVersion]) -> int:
    """Records serials and bounds of versions, which they have; returns how many there are with the keys given here."""
    rows = [
        {
            "key": version.managed_certificate_uid,
            "of_number": version.number,
            "of_serial": version.serial,
            "begin": optional_microseconds(version.not_before),
            "end": optional_microseconds(version.not_after),
            "of_public_key": version.public_key,
        }
        for version in versions
    ]
    return tx.execute_many(_SET_ISSUED_MANY, rows)


def set_revoked(
    tx: Transaction, managed_certificate_uid: str, number: int, *, revoke_time: datetime, reason: RevocationReason
) -> bool:
    """Records that the certificate of a version is revoked; returns whether there is such a version."""
    parameters = {
        "key": managed_certificate_uid,
        "of_number": number,
        "revoke_time": microseconds(revoke_time),
        "revocation_reason": reason.value,
    }
    return tx.execute(_SET_REVOKED, parameters).rowcount == 1
