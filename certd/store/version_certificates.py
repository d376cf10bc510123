"""Certificates of versions of many managed certificates at once: the current ones, and those that are revoked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import and_, bindparam, literal_column, or_, select, union_all

from certd.store import managed_schema, schema
from certd.store.transaction import Transaction
from certd.store.values import microseconds

NEWEST: Final = 100
"""Versions of a managed certificate among which revoked ones are looked for, so that no search walks through all."""

_versions = managed_schema.managed_certificate_versions
_managed = managed_schema.managed_certificates
_certificates = schema.certificates
_ALL = (
    select(
        _versions.c.managed_certificate_uid,
        _versions.c.number,
        _managed.c.current_version,
        _versions.c.certificate,
        _certificates.c.der,
        _versions.c.revoke_time,
        _versions.c.not_after,
    )
    .select_from(_managed)
    .join(_versions, _versions.c.managed_certificate_uid == _managed.c.uid)
    .outerjoin(
        _certificates,
        and_(_certificates.c.authority_uid == _versions.c.authority_uid, _certificates.c.serial == _versions.c.serial),
    )
    .where(_managed.c.uid.in_(bindparam("keys", expanding=True)))
)
# Two ranges of the key; one condition that allows either would have all versions read.
_SELECT = union_all(
    _ALL.where(_versions.c.number == _managed.c.current_version),
    _ALL.where(
        _versions.c.number > _managed.c.current_version - literal_column(str(NEWEST)),
        _versions.c.number != _managed.c.current_version,
        # What was imported is never revoked, and its rows are long.
        _versions.c.serial.is_not(None),
        _versions.c.revoke_time.is_not(None),
        or_(_versions.c.not_after.is_(None), _versions.c.not_after >= bindparam("now")),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCertificates:
    """Certificates of one managed certificate."""

    current: bytes | None = None
    """DER of that of the current version; None while there is none."""
    revoked: tuple[bytes, ...] = ()
    """DER of those among the newest versions that are revoked and have not ended, the newest first."""


def of_all(tx: Transaction, managed_certificate_uids: Sequence[str], now: datetime) -> dict[str, VersionCertificates]:
    """Returns the certificates of managed certificates by their uids, of those that have any, with one query."""
    if not managed_certificate_uids:
        return {}
    moment = microseconds(now)
    current: dict[str, bytes] = {}
    revoked: dict[str, list[tuple[int, bytes]]] = {}
    for row in tx.execute(_SELECT, {"keys": sorted(set(managed_certificate_uids)), "now": moment}):
        uid, certificate = row.managed_certificate_uid, row.certificate or row.der
        if certificate is None:
            continue
        if row.number == row.current_version:
            current[uid] = certificate
        if row.revoke_time is not None and (row.not_after is None or row.not_after >= moment):
            revoked.setdefault(uid, []).append((row.number, certificate))
    return {
        uid: VersionCertificates(
            current=current.get(uid),
            revoked=tuple(each for _, each in sorted(revoked.get(uid, ()), reverse=True)),
        )
        for uid in {*current, *revoked}
    }
