"""Rows of certificates: intents, their completion, their loss, and what is read of them.

The two statements of every issue, `insert_intents` and `complete`, execute once for all items.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Row, Select, bindparam, func, literal_column, or_, select, update

from certd.errors import CertdError, Reason
from certd.model.certificate import Certificate, CertificateState, Intent, RevocationReason
from certd.pki.key_spec import KeySpec
from certd.store import certificate_names, schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.owners import LIVE_EPOCHS
from certd.store.transaction import Transaction
from certd.store.values import labels_of, labels_text, microseconds, optional_time_of, time_of

CertificateKey = tuple[str, str]
"""Uid of the authority and serial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A certificate that the token has signed."""

    authority_uid: str
    serial: str
    der: bytes
    owner_epoch: int
    """Epoch under which the intent was written."""


class SerialTakenError(CertdError):
    """Serials of intents are taken under the same issuer name; nothing was inserted.

    Args:
        positions: which of the intents, counted from 0.
    """

    def __init__(self, positions: tuple[int, ...]) -> None:
        super().__init__(Reason.INTERNAL, "a serial number is taken: issue again with another one")
        self.positions = positions


_certificates = schema.certificates
CERTIFICATE_COLUMNS = (
    _certificates.c.authority_uid,
    _certificates.c.key_number,
    _certificates.c.serial,
    _certificates.c.state,
    _certificates.c.der,
    _certificates.c.profile,
    _certificates.c.profile_version,
    _certificates.c.subject_text,
    _certificates.c.not_before,
    _certificates.c.not_after,
    _certificates.c.public_key_sha256,
    _certificates.c.key_spec,
    _certificates.c.managed_certificate_uid,
    _certificates.c.managed_certificate_version,
    _certificates.c.labels,
    _certificates.c.create_time,
    _certificates.c.revoke_time,
    _certificates.c.revocation_reason,
    _certificates.c.invalidity_time,
    _certificates.c.crl_partition,
)
"""What `certificate_of` needs of a row."""
_SELECT: Select[Any] = select(*CERTIFICATE_COLUMNS)
_KEY_FITS = (
    _certificates.c.authority_uid == bindparam("of_authority"),
    _certificates.c.serial == bindparam("of_serial"),
)
# A literal, because SQLite takes the partial index only for a condition it can read.
_IS_PENDING = _certificates.c.state == literal_column("'PENDING'")

_GET = _SELECT.where(*_KEY_FITS)
_LATEST_OF_KEY = (
    _SELECT.where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.public_key_sha256 == bindparam("of_key"),
    )
    # By an expression, lest the order makes an engine walk through all of the authority: few have one key.
    .order_by(func.coalesce(_certificates.c.create_time, 0).desc())
    .limit(1)
)
_PAGE = (
    _SELECT.where(_certificates.c.authority_uid == bindparam("of_authority"))
    .order_by(_certificates.c.create_time.desc(), _certificates.c.serial)
    .limit(bindparam("most"))
)
_PAGE_AFTER = _PAGE.where(
    # The first condition alone is a range of the index; the second drops what was shown of the first moment.
    _certificates.c.create_time <= bindparam("after_time"),
    or_(_certificates.c.create_time < bindparam("after_time"), _certificates.c.serial > bindparam("after_serial")),
)
_INSERT = Many(
    insert_if_absent(_certificates),
    columns=(
        "authority_uid",
        "serial",
        "issuer_name_sha256",
        "key_number",
        "state",
        "tbs",
        "profile",
        "profile_version",
        "subject_text",
        "not_before",
        "not_after",
        "public_key_sha256",
        "key_spec",
        "managed_certificate_uid",
        "managed_certificate_version",
        "labels",
        "owner_epoch",
        "create_time",
        "crl_partition",
    ),
)
_SAME_SERIAL = select(_certificates.c.tbs, _certificates.c.owner_epoch).where(
    _certificates.c.issuer_name_sha256 == bindparam("of_issuer"), _certificates.c.serial == bindparam("of_serial")
)
_COMPLETE = Many(
    update(_certificates)
    .where(*_KEY_FITS, _IS_PENDING, _certificates.c.owner_epoch == bindparam("of_epoch"))
    # What was to be signed is part of the certificate, so it is not kept twice.
    .values(state=CertificateState.ISSUED.value, der=bindparam("new_der"), tbs=None),
    columns=("of_authority", "of_serial", "of_epoch", "new_der"),
    # The states are those of CertificateState; the second one is what the partial index asks for.
    sqlite_text="""
        UPDATE certificates SET state = 'ISSUED', der = done.column4, tbs = NULL
        FROM (VALUES {rows}) AS done
        WHERE certificates.authority_uid = done.column1 AND certificates.serial = done.column2
          AND certificates.state = 'PENDING' AND certificates.owner_epoch = done.column3
    """,
)
_COMPLETED = select(_certificates.c.der).where(
    *_KEY_FITS,
    _certificates.c.state == CertificateState.ISSUED.value,
    _certificates.c.owner_epoch == bindparam("of_epoch"),
)
_MARK_LOST = (
    update(_certificates)
    .where(*_KEY_FITS, _IS_PENDING)
    .values(state=CertificateState.LOST.value, revoke_time=bindparam("now"))
)
_PENDING_OF_ENDED: Select[Any] = (
    select(
        _certificates.c.authority_uid,
        _certificates.c.key_number,
        _certificates.c.issuer_name_sha256,
        _certificates.c.serial,
        _certificates.c.tbs,
        _certificates.c.profile,
        _certificates.c.profile_version,
        _certificates.c.subject_text,
        _certificates.c.not_before,
        _certificates.c.not_after,
        _certificates.c.public_key_sha256,
        _certificates.c.key_spec,
        _certificates.c.managed_certificate_uid,
        _certificates.c.managed_certificate_version,
        _certificates.c.labels,
        _certificates.c.owner_epoch,
        _certificates.c.create_time,
        _certificates.c.crl_partition,
    )
    .where(_IS_PENDING, _certificates.c.owner_epoch.not_in(LIVE_EPOCHS))
    .order_by(_certificates.c.owner_epoch)
    .limit(bindparam("most"))
)


_PENDING_BEFORE = (
    select(_certificates.c.serial)
    .where(
        _IS_PENDING,
        _certificates.c.authority_uid.in_(bindparam("of_authorities", expanding=True)),
        _certificates.c.create_time < bindparam("before"),
    )
    .limit(1)
)
_PENDING_BY_OTHERS = (
    select(_certificates.c.serial)
    .where(
        _IS_PENDING,
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number != bindparam("of_key"),
    )
    .limit(1)
)


def certificate_of(row: Row[Any]) -> Certificate:
    """Returns the certificate of a row that has CERTIFICATE_COLUMNS."""
    return Certificate(
        authority_uid=row.authority_uid,
        key_number=row.key_number,
        serial=row.serial,
        state=CertificateState(row.state),
        der=row.der,
        profile=row.profile,
        profile_version=row.profile_version,
        subject_text=row.subject_text,
        not_before=time_of(row.not_before),
        not_after=time_of(row.not_after),
        public_key_sha256=row.public_key_sha256,
        key_spec=None if row.key_spec is None else KeySpec(row.key_spec),
        managed_certificate_uid=row.managed_certificate_uid,
        managed_certificate_version=row.managed_certificate_version,
        labels=labels_of(row.labels),
        create_time=time_of(row.create_time),
        revoke_time=optional_time_of(row.revoke_time),
        revocation_reason=None if row.revocation_reason is None else RevocationReason(row.revocation_reason),
        invalidity_time=optional_time_of(row.invalidity_time),
        crl_partition=row.crl_partition,
    )


def insert_intents(tx: Transaction, intents: Sequence[Intent]) -> None:
    """Inserts what will be signed and its names, all or nothing; SerialTakenError names those whose serial is taken.

    The error must leave the work, which undoes what was inserted.
    """
    if not intents:
        return
    rows = [
        {
            "authority_uid": intent.authority_uid,
            "serial": intent.serial,
            "issuer_name_sha256": intent.issuer_name_sha256,
            "key_number": intent.key_number,
            "state": "PENDING",
            "tbs": intent.tbs,
            "profile": intent.profile,
            "profile_version": intent.profile_version,
            "subject_text": intent.subject_text,
            "not_before": microseconds(intent.not_before),
            "not_after": microseconds(intent.not_after),
            "public_key_sha256": intent.public_key_sha256,
            "key_spec": None if intent.key_spec is None else intent.key_spec.value,
            "managed_certificate_uid": intent.managed_certificate_uid,
            "managed_certificate_version": intent.managed_certificate_version,
            "labels": labels_text(intent.labels),
            "owner_epoch": intent.owner_epoch,
            "create_time": microseconds(intent.create_time),
            "crl_partition": intent.crl_partition,
        }
        for intent in intents
    ]
    if tx.execute_many(_INSERT, rows) != len(intents):
        raise SerialTakenError(_taken(tx, intents))
    certificate_names.insert(tx, [(intent.authority_uid, intent.serial, intent.names) for intent in intents])


def _taken(tx: Transaction, intents: Sequence[Intent]) -> tuple[int, ...]:
    """Returns the positions of intents that were not inserted: another row or an earlier intent has the serial."""
    positions = []
    seen: set[tuple[bytes, str]] = set()
    for position, intent in enumerate(intents):
        key = (intent.issuer_name_sha256, intent.serial)
        row = tx.execute(_SAME_SERIAL, {"of_issuer": key[0], "of_serial": key[1]}).first()
        if key in seen or row is None or (row.tbs, row.owner_epoch) != (intent.tbs, intent.owner_epoch):
            positions.append(position)
        seen.add(key)
    return tuple(positions)


def complete(tx: Transaction, completions: Sequence[Completion]) -> set[CertificateKey]:
    """Makes ISSUED what is still PENDING under the given epoch, and returns the keys of these.

    What was completed before with the same bytes counts as completed.
    """
    if not completions:
        return set()
    rows = [
        {"of_authority": one.authority_uid, "of_serial": one.serial, "of_epoch": one.owner_epoch, "new_der": one.der}
        for one in completions
    ]
    if tx.execute_many(_COMPLETE, rows) == len(completions):
        return {(one.authority_uid, one.serial) for one in completions}
    return {
        (one.authority_uid, one.serial)
        for one, row in zip(completions, rows, strict=True)
        if tx.execute(_COMPLETED, row).scalar() == one.der
    }


def mark_lost(tx: Transaction, keys: Iterable[CertificateKey], now: datetime) -> set[CertificateKey]:
    """Makes LOST, and revoked from `now`, what is still PENDING; returns the keys of these."""
    moment = microseconds(now)
    return {
        (authority_uid, serial)
        for authority_uid, serial in keys
        if tx.execute(_MARK_LOST, {"of_authority": authority_uid, "of_serial": serial, "now": moment}).rowcount == 1
    }


def pending_of_ended_owners(tx: Transaction, now: datetime, limit: int) -> list[Intent]:
    """Returns up to `limit` PENDING rows whose owner's epoch has ended or whose lease has passed at `now`."""
    rows = tx.execute(_PENDING_OF_ENDED, {"now": microseconds(now), "most": limit})
    return [
        Intent(
            authority_uid=row.authority_uid,
            key_number=row.key_number,
            issuer_name_sha256=row.issuer_name_sha256,
            serial=row.serial,
            tbs=row.tbs,
            profile=row.profile,
            profile_version=row.profile_version,
            subject_text=row.subject_text,
            not_before=time_of(row.not_before),
            not_after=time_of(row.not_after),
            public_key_sha256=row.public_key_sha256,
            key_spec=None if row.key_spec is None else KeySpec(row.key_spec),
            managed_certificate_uid=row.managed_certificate_uid,
            managed_certificate_version=row.managed_certificate_version,
            labels=labels_of(row.labels),
            owner_epoch=row.owner_epoch,
            create_time=time_of(row.create_time),
            crl_partition=row.crl_partition,
        )
        for row in rows
    ]


def any_pending(tx: Transaction, authority_uids: Sequence[str], before: datetime) -> bool:
    """Returns whether something is still PENDING that was asked of one of the authorities earlier than `before`."""
    parameters = {"of_authorities": list(authority_uids), "before": microseconds(before)}
    return tx.execute(_PENDING_BEFORE, parameters).first() is not None


def any_pending_by_others(tx: Transaction, authority_uid: str, key_number: int) -> bool:
    """Returns whether something is still PENDING that another key of the authority than this one signs."""
    return tx.execute(_PENDING_BY_OTHERS, {"of_authority": authority_uid, "of_key": key_number}).first() is not None


def get(tx: Transaction, authority_uid: str, serial: str) -> Certificate | None:
    """Returns a certificate; None when the authority has none with this serial."""
    row = tx.execute(_GET, {"of_authority": authority_uid, "of_serial": serial}).first()
    return None if row is None else certificate_of(row)


def latest_of_key(tx: Transaction, authority_uid: str, public_key_sha256: bytes) -> Certificate | None:
    """Returns the newest certificate of an authority for a key."""
    row = tx.execute(_LATEST_OF_KEY, {"of_authority": authority_uid, "of_key": public_key_sha256}).first()
    return None if row is None else certificate_of(row)


def page(
    tx: Transaction, authority_uids: Sequence[str], *, after: tuple[datetime, str] | None, limit: int
) -> list[Certificate]:
    """Returns up to `limit` certificates of the authorities, the newest first, those of one moment by serial.

    `after` is the creation time and the serial of the last one of the page before.
    """
    parameters: dict[str, object] = {"most": limit}
    statement = _PAGE
    if after is not None:
        statement = _PAGE_AFTER
        parameters |= {"after_time": microseconds(after[0]), "after_serial": after[1]}
    # A page of each authority is a range of the index; sorting all rows of all would not be.
    pages = [
        [certificate_of(row) for row in tx.execute(statement, {**parameters, "of_authority": uid})]
        for uid in authority_uids
    ]
    merged = heapq.merge(*pages, key=lambda one: (-microseconds(one.create_time), one.serial))
    return list(islice(merged, limit))
