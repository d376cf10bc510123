"""Rows of OCSP answers that were signed ahead, and what the books say of the certificates that they are about.

Whoever changes what a certificate's answer must say calls `forget` in the transaction of the change. Whoever signs one
reads the certificate, signs, and stores the answer by `put`, which does so only where the certificate still is as it
was read: so no answer outlives a change that it does not tell of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, or_, select

from certd.model.certificate import CertificateState
from certd.store import revocation_schema, schema
from certd.store.dialect import Many, Query, insert_or_replace
from certd.store.transaction import AnswerKey, Transaction
from certd.store.values import microseconds, optional_time_of, time_of

_responses = revocation_schema.ocsp_responses
_certificates = schema.certificates
_ENDED = 5_000
"""Answers that are deleted at once."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides what is answered about a certificate."""

    serial: str
    state: CertificateState
    revoke_time: datetime | None
    reason: str | None
    """Name of a CRLReason."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that was signed."""

    responder_number: int
    """0: the authority's own key signed it."""
    der: bytes
    """Content of a BasicOCSPResponse without certificates."""
    this_update: datetime
    next_update: datetime


_FITS = (
    _responses.c.authority_uid == bindparam("of_authority"),
    _responses.c.key_number == bindparam("of_key"),
    _responses.c.serial == bindparam("of_serial"),
)
_FORGET = delete(_responses).where(*_FITS)
_CERTIFICATE: Select[Any] = select(
    _certificates.c.serial,
    _certificates.c.state,
    _certificates.c.revoke_time,
    _certificates.c.revocation_reason,
)
_THIS = (
    _certificates.c.authority_uid == bindparam("of_authority"),
    _certificates.c.key_number == bindparam("of_key"),
    _certificates.c.serial == bindparam("of_serial"),
)
_STANDING = Query(_CERTIFICATE.where(*_THIS))
_ANSWER = Query(
    select(_responses.c.responder_number, _responses.c.der, _responses.c.this_update, _responses.c.next_update).where(
        *_FITS
    )
)
_DUE = Query(
    _CERTIFICATE.join_from(
        _certificates,
        _responses,
        and_(
            _responses.c.authority_uid == _certificates.c.authority_uid,
            _responses.c.key_number == _certificates.c.key_number,
            _responses.c.serial == _certificates.c.serial,
        ),
        isouter=True,
    )
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number == bindparam("of_key"),
        _certificates.c.serial > bindparam("after_serial"),
        _certificates.c.not_after > bindparam("now"),
        _certificates.c.state != CertificateState.PENDING.value,
        or_(
            _responses.c.next_update.is_(None),
            _responses.c.next_update < bindparam("fresh_until"),
            _responses.c.this_update > bindparam("ahead"),
        ),
    )
    .order_by(_certificates.c.serial)
    .limit(bindparam("most"))
)
_UNENDED = (
    select(_certificates.c.serial)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number == bindparam("of_key"),
        _certificates.c.not_after >= bindparam("now"),
        _certificates.c.profile != bindparam("but_of_profile"),
    )
    .limit(1)
)
_KEY = ("authority_uid", "key_number", "serial")
_VALUES = ("responder_number", "der", "this_update", "next_update")
_PUT = Many(insert_or_replace(_responses, key=_KEY, replaced=_VALUES), columns=(*_KEY, *_VALUES))
_ROW = (_responses.c.authority_uid, _responses.c.key_number, _responses.c.serial)
_ENDED_ONES = select(*_ROW).where(_responses.c.next_update < bindparam("now")).limit(_ENDED)
_FORGET_KEY = delete(_responses).where(*_FITS[:2])


def forget(tx: Transaction, authority_uid: str, key_number: int, serial: str) -> None:
    """Drops the answer of a certificate; the next who asks, or the next round of the responder, has one signed.

    What this daemon keeps in memory goes with the commit, before the caller hears of it; what others keep within a
    second.
    """
    tx.execute(_FORGET, _fits((authority_uid, key_number, serial)))
    tx.answer_forgotten((authority_uid, key_number, serial))


def forget_key(tx: Transaction, authority_uid: str, key_number: int) -> None:
    """Deletes the answers of all that a key has signed, which is at its end."""
    tx.execute(_FORGET_KEY, {"of_authority": authority_uid, "of_key": key_number})


def standing(tx: Transaction, key: AnswerKey) -> Standing | None:
    """Returns what the books say of a certificate; None when this key has issued none with this serial."""
    rows = tx.query(_STANDING, _fits(key))
    return _standing(rows[0]) if rows else None


def get(tx: Transaction, key: AnswerKey) -> StoredAnswer | None:
    """Returns the answer that was signed ahead; it may have ended. None when there is none."""
    rows = tx.query(_ANSWER, _fits(key))
    if not rows:
        return None
    number, content, this_update, next_update = rows[0]
    return StoredAnswer(number, bytes(content), time_of(this_update), time_of(next_update))


def due(
    tx: Transaction,
    authority_uid: str,
    key_number: int,
    *,
    after: str,
    now: datetime,
    fresh_until: datetime,
    ahead: datetime,
    limit: int,
) -> list[Standing]:
    """Returns certificates that need an answer, by serial.

    Args:
        tx: the transaction.
        authority_uid: who issued them.
        key_number: of the key that did.
        after: the serial of the last one that is passed over, empty at the beginning.
        now: the time; what has expired needs none.
        fresh_until: an answer that holds longer than this is good enough,
        ahead: unless it begins later than this.
        limit: most of them.
    """
    rows = tx.query(
        _DUE,
        {
            "of_authority": authority_uid,
            "of_key": key_number,
            "after_serial": after,
            "now": microseconds(now),
            "fresh_until": microseconds(fresh_until),
            "ahead": microseconds(ahead),
            "most": limit,
        },
    )
    return [_standing(row) for row in rows]


def any_unended(tx: Transaction, authority_uid: str, key_number: int, *, now: datetime, but_of_profile: str) -> bool:
    """Returns whether a certificate of a key, but of those of one profile, has not ended, revoked or not."""
    parameters = {
        "of_authority": authority_uid,
        "of_key": key_number,
        "now": microseconds(now),
        "but_of_profile": but_of_profile,
    }
    return tx.execute(_UNENDED, parameters).first() is not None


def put(tx: Transaction, answers: Sequence[tuple[AnswerKey, Standing, StoredAnswer]]) -> None:
    """Stores answers over what there was, each only where the books say the same of the certificate as it does."""
    rows = [
        {
            **dict(zip(_KEY, key, strict=True)),
            "responder_number": answer.responder_number,
            "der": answer.der,
            "this_update": microseconds(answer.this_update),
            "next_update": microseconds(answer.next_update),
        }
        for key, was, answer in answers
        if standing(tx, key) == was
    ]
    tx.execute_many(_PUT, rows)


def delete_ended(tx: Transaction, now: datetime) -> int:
    """Deletes up to some thousand answers that have ended; returns how many."""
    rows = list(tx.execute(_ENDED_ONES, {"now": microseconds(now)}))
    for row in rows:
        tx.execute(_FORGET, _fits((row.authority_uid, row.key_number, row.serial)))
    return len(rows)


def _fits(key: AnswerKey) -> dict[str, object]:
    return {"of_authority": key[0], "of_key": key[1], "of_serial": key[2]}


def _standing(row: Sequence[Any]) -> Standing:
    serial, state, revoke_time, reason = row
    return Standing(str(serial), CertificateState(state), optional_time_of(revoke_time), reason)
