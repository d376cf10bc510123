"""Rows of CRLs: what is to be signed again, which one was signed last, and its bytes.

Whoever changes what a CRL must say calls `mark_changed` in the transaction of the change. Whoever signs one begins by
`claim`, reads what is revoked only after that has committed, and ends by `publish`: so every change is either in what
was read, or has marked the row again since.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, Select, bindparam, exists, func, or_, select, update

from certd.model.authority import AuthorityState
from certd.model.job import Job, JobKind
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.store import jobs, revocation_schema, schema
from certd.store.dialect import Many, insert_if_absent, insert_or_replace
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_time_of

COMPLETE: Final = 0
"""Number of the partition that the complete CRL stands under."""
GATHERING: Final = timedelta(seconds=2)
"""How long the first change waits for others, so that many revocations are one CRL."""

_authorities = schema.authorities
_lists = revocation_schema.revocation_lists
_contents = revocation_schema.revocation_list_contents
_KEY = ("authority_uid", "key_number", "partition")
_FITS = (
    _lists.c.authority_uid == bindparam("of_authority"),
    _lists.c.key_number == bindparam("of_key"),
    _lists.c.partition == bindparam("of_partition"),
)
_PURGED = exists().where(
    _authorities.c.uid == bindparam("of_authority"), _authorities.c.state == AuthorityState.PURGED.value
)
_MARK = (
    update(_lists)
    .where(*_FITS, _lists.c.changed_time.is_(None), or_(_lists.c.final.is_(False), ~_PURGED))
    .values(changed_time=bindparam("now"), final=False)
)
# Shared by all who change something, and not to be had by who claims the CRL until they have committed.
_LOCK = select(_lists.c.changed_time).where(*_FITS).with_for_update(read=True)
_INSERT = Many(
    insert_if_absent(_lists),
    columns=(*_KEY, "number", "claimed_number", "entry_count", "size_bytes", "urls", "last_error"),
)
_URLS = select(_lists.c.partition, _lists.c.urls, _lists.c.final).where(*_FITS[:2])
_URLS_OF = select(_lists.c.urls).where(*_FITS)
_SET_URLS = update(_lists).where(*_FITS).values(urls=bindparam("new_urls"))
_REOPEN = update(_lists).where(*_FITS).values(final=False)

_SELECT: Select[Any] = select(_lists)
_GET = _SELECT.where(*_FITS)
_OF_KEY = _SELECT.where(*_FITS[:2]).order_by(_lists.c.partition)
_AHEAD = select(_lists.c.authority_uid, _lists.c.key_number, _lists.c.partition).where(
    _lists.c.this_update > bindparam("moment")
)
_CLAIM = update(_lists).where(*_FITS).values(claimed_number=bindparam("new_number"), changed_time=None)
_PUBLISH = (
    update(_lists)
    .where(*_FITS, _lists.c.claimed_number == bindparam("new_number"))
    .values(
        number=bindparam("new_number"),
        this_update=bindparam("new_this_update"),
        next_update=bindparam("new_next_update"),
        entry_count=bindparam("new_entry_count"),
        size_bytes=bindparam("new_size_bytes"),
        sha256=bindparam("new_sha256"),
        final=bindparam("new_final"),
        last_error="",
    )
)
_PUT_CONTENT = insert_or_replace(_contents, key=_KEY, replaced=["der"])
_CONTENT = select(_contents.c.der, _lists.c.sha256).where(
    *_FITS,
    _contents.c.authority_uid == _lists.c.authority_uid,
    _contents.c.key_number == _lists.c.key_number,
    _contents.c.partition == _lists.c.partition,
)
_FAIL = (
    update(_lists)
    .where(*_FITS)
    .values(last_error=bindparam("error"), changed_time=func.coalesce(_lists.c.changed_time, bindparam("now")))
)
_MARK_CLAIMED = update(_lists).where(*_FITS).values(claimed_number=bindparam("new_number"))
# As the partial index says it.
_FAILED = select(func.count()).select_from(_lists).where(revocation_schema.FAILED)
_OVERDUE = (
    select(func.count()).select_from(_lists).where(_lists.c.next_update < bindparam("now"), _lists.c.final.is_(False))
)


def subject_of(authority_uid: str, key_number: int, partition: int) -> str:
    """Returns the subject of the job that signs a CRL."""
    return f"{authority_uid}/{key_number}/{partition}"


def parse_subject(subject: str) -> tuple[str, int, int]:
    """Returns what `subject_of` was given."""
    authority_uid, key_number, partition = subject.split("/")
    return authority_uid, int(key_number), int(partition)


def mark_changed(tx: Transaction, authority_uid: str, key_number: int, partition: int | None, now: datetime) -> None:
    """Says that a CRL must be signed again, and the complete one with it; it is, some seconds later.

    Nothing happens where no CRL is signed, see `ensure_rows`, or where the key is gone that signed the last one. The
    last one of a key that is there is followed by another: what may have changed is a certificate of its own keys, one
    that another CA issued under it, or one that the books had lost.

    Args:
        tx: the transaction of the change.
        authority_uid: whose CRL.
        key_number: of the key that signs it.
        partition: that the certificate names; None: none, so that the complete one alone changes.
        now: the time.
    """
    mark_all_changed(tx, {(authority_uid, key_number, partition)}, now)


def mark_all_changed(tx: Transaction, changed: Collection[tuple[str, int, int | None]], now: datetime) -> None:
    """As `mark_changed`, for many at once: uids, key numbers and partitions. Rows are locked in one order."""
    lists = {(uid, key, number or COMPLETE) for uid, key, number in changed} | {
        (uid, key, COMPLETE) for uid, key, _ in changed
    }
    for uid, key, number in sorted(lists):
        _mark(tx, uid, key, number, now)


def _mark(tx: Transaction, authority_uid: str, key_number: int, partition: int, now: datetime) -> None:
    fits = _fits(authority_uid, key_number, partition)
    if tx.execute(_MARK, {**fits, "now": microseconds(now)}).rowcount:
        subject = subject_of(authority_uid, key_number, partition)
        jobs.hasten(tx, JobKind.GENERATE_REVOCATION_LIST, subject, now + GATHERING)
    else:
        tx.execute(_LOCK, fits)


def ensure_rows(
    tx: Transaction, authority_uid: str, key_number: int, urls: Mapping[int, Sequence[str]], *, now: datetime
) -> None:
    """Has CRLs of a key signed from now on, for good; those that are signed already stay and learn new URLs.

    A CRL that is new is signed at once, one that has a new URL within seconds: it lists all that certificates name.

    Args:
        tx: the transaction that lets certificates name these URLs, or gives the key its certificate.
        authority_uid: whose key.
        key_number: of the key.
        urls: for each partition, 0 for the complete CRL, all URLs that certificates name from now on; the complete one
            perhaps has none.
        now: the time.
    """
    known = {int(row.partition): row for row in tx.execute(_URLS, _fits(authority_uid, key_number, 0))}
    fresh = sorted(set(urls) - set(known))
    tx.execute_many(
        _INSERT,
        [
            {
                "authority_uid": authority_uid,
                "key_number": key_number,
                "partition": partition,
                "number": 0,
                "claimed_number": 0,
                "entry_count": 0,
                "size_bytes": 0,
                "urls": json_text(list(dict.fromkeys(urls[partition]))),
                "last_error": "",
            }
            for partition in fresh
        ],
    )
    jobs.put_all(tx, [_job(authority_uid, key_number, partition, now) for partition in fresh])
    for partition in sorted(set(urls) & set(known)):
        row, fits = known[partition], _fits(authority_uid, key_number, partition)
        before = json.loads(row.urls)
        after = list(dict.fromkeys([*before, *urls[partition]]))
        if after != before:
            tx.execute(_SET_URLS, {**fits, "new_urls": json_text(after)})
        if row.final:
            tx.execute(_REOPEN, fits)
        if after != before or row.final:
            _mark(tx, authority_uid, key_number, partition, now)


def urls(tx: Transaction, authority_uid: str, key_number: int, partition: int) -> list[str]:
    """Returns every URL that was ever written into a certificate for a CRL; none when there is no such CRL."""
    found = tx.execute(_URLS_OF, _fits(authority_uid, key_number, partition)).scalar()
    return [] if found is None else [str(url) for url in json.loads(found)]


def urls_of_key(tx: Transaction, authority_uid: str, key_number: int) -> dict[int, list[str]]:
    """Returns what `urls` does of every CRL of a key, by partition."""
    found = tx.execute(_URLS, _fits(authority_uid, key_number, COMPLETE))
    return {int(row.partition): [str(url) for url in json.loads(row.urls)] for row in found}


def _job(authority_uid: str, key_number: int, partition: int, due_time: datetime) -> Job:
    return Job(
        kind=JobKind.GENERATE_REVOCATION_LIST,
        subject=subject_of(authority_uid, key_number, partition),
        due_time=due_time,
    )


def _fits(authority_uid: str, key_number: int, partition: int) -> dict[str, object]:
    return {"of_authority": authority_uid, "of_key": key_number, "of_partition": partition}


def get(tx: Transaction, key: RevocationListKey) -> RevocationList | None:
    """Returns a CRL that is, or is to be, signed; None when none is."""
    row = tx.execute(_GET, _fits(*key)).first()
    return None if row is None else _list(row)


def of_key(tx: Transaction, authority_uid: str, key_number: int) -> list[RevocationList]:
    """Returns all that a key of an authority signs, the complete one first."""
    return [_list(row) for row in tx.execute(_OF_KEY, _fits(authority_uid, key_number, 0))]


def ahead(tx: Transaction, moment: datetime) -> list[RevocationListKey]:
    """Returns which CRLs that are published begin after a moment."""
    rows = tx.execute(_AHEAD, {"moment": microseconds(moment)})
    return [RevocationListKey(row.authority_uid, row.key_number, row.partition) for row in rows]


def claim(tx: Transaction, found: RevocationList, now: datetime) -> int:
    """Begins a CRL; returns its number, which is higher than any before, and no other will have.

    What changes from now on marks the row again. A claim that is followed by another is void, see `publish`.
    """
    number = max(found.claimed_number + 1, microseconds(now) // 1000)
    tx.execute(_CLAIM, {**_fits(*found.key), "new_number": number})
    return number


def publish(tx: Transaction, made: RevocationList, der: bytes) -> bool:
    """Publishes a CRL that was claimed; returns False, and changes nothing, when another was claimed since."""
    fits = _fits(*made.key)
    values = {
        "new_number": made.number,
        "new_this_update": None if made.this_update is None else microseconds(made.this_update),
        "new_next_update": None if made.next_update is None else microseconds(made.next_update),
        "new_entry_count": made.entry_count,
        "new_size_bytes": made.size_bytes,
        "new_sha256": made.sha256,
        "new_final": made.final,
    }
    if tx.execute(_PUBLISH, {**fits, **values}).rowcount != 1:
        return False
    tx.execute(_PUT_CONTENT, {**dict(zip(_KEY, made.key, strict=True)), "der": der})
    return True


def fail(tx: Transaction, found: RevocationList, error: str, now: datetime) -> bool:
    """Records that a CRL could not be signed; returns whether it is the first failure since one could."""
    tx.execute(_FAIL, {**_fits(*found.key), "error": error, "now": microseconds(now)})
    return not found.last_error


def raise_number(tx: Transaction, found: RevocationList, number: int) -> None:
    """Has the next CRL numbered higher than `number`: another CA has signed those up to that one."""
    if number > found.claimed_number:
        tx.execute(_MARK_CLAIMED, {**_fits(*found.key), "new_number": number})


def content(tx: Transaction, key: RevocationListKey) -> tuple[bytes, bytes] | None:
    """Returns DER and SHA-256 of the CRL that is published; None when none is."""
    row = tx.execute(_CONTENT, _fits(*key)).first()
    return None if row is None else (row.der, row.sha256)


def troubled(tx: Transaction, now: datetime) -> tuple[int, int]:
    """Returns how many CRLs could not be signed when that was last tried, and how many are past their end."""
    failed = tx.execute(_FAILED).scalar_one()
    return int(failed), int(tx.execute(_OVERDUE, {"now": microseconds(now)}).scalar_one())


def _list(row: Row[Any]) -> RevocationList:
    return RevocationList(
        key=RevocationListKey(row.authority_uid, row.key_number, row.partition),
        number=row.number,
        claimed_number=row.claimed_number,
        this_update=optional_time_of(row.this_update),
        next_update=optional_time_of(row.next_update),
        entry_count=row.entry_count,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        urls=tuple(json.loads(row.urls)),
        changed_time=optional_time_of(row.changed_time),
        last_error=row.last_error,
        final=bool(row.final),
    )
