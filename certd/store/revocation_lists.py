"""Rows of CRLs: what is to be signed again, which one was signed last, and its bytes.

Whoever changes what a CRL must say calls `mark_changed` in the transaction of the change. Whoever signs one begins by
`claim`, reads what is revoked only after that has committed, and ends by `publish`: so every change is either in what
was read, or has marked the row again since.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, select, update

from certd.model.job import Job, JobKind
from certd.store import jobs, revocation_schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds

COMPLETE: Final = 0
"""Number of the partition that the complete CRL stands under."""
GATHERING: Final = timedelta(seconds=2)
"""How long the first change waits for others, so that many revocations are one CRL."""

_lists = revocation_schema.revocation_lists
_KEY = ("authority_uid", "key_number", "partition")
_FITS = (
    _lists.c.authority_uid == bindparam("of_authority"),
    _lists.c.key_number == bindparam("of_key"),
    _lists.c.partition == bindparam("of_partition"),
)
_MARK = (
    update(_lists)
    .where(*_FITS, _lists.c.changed_time.is_(None), _lists.c.final.is_(False))
    .values(changed_time=bindparam("now"))
)
# Shared by all who change something, and not to be had by who claims the CRL until they have committed.
_LOCK = select(_lists.c.changed_time).where(*_FITS).with_for_update(read=True)
_INSERT = Many(
    insert_if_absent(_lists),
    columns=(*_KEY, "number", "claimed_number", "entry_count", "size_bytes", "urls", "last_error"),
)
_URLS = select(_lists.c.partition, _lists.c.urls, _lists.c.final).where(*_FITS[:2])
_SET_URLS = update(_lists).where(*_FITS).values(urls=bindparam("new_urls"))
_REOPEN = update(_lists).where(*_FITS).values(final=False)


def subject_of(authority_uid: str, key_number: int, partition: int) -> str:
    """Returns the subject of the job that signs a CRL."""
    return f"{authority_uid}/{key_number}/{partition}"


def parse_subject(subject: str) -> tuple[str, int, int]:
    """Returns what `subject_of` was given."""
    authority_uid, key_number, partition = subject.split("/")
    return authority_uid, int(key_number), int(partition)


def mark_changed(tx: Transaction, authority_uid: str, key_number: int, partition: int | None, now: datetime) -> None:
    """Says that a CRL must be signed again, and the complete one with it; it is, some seconds later.

    Nothing happens where no CRL is signed, see `ensure_rows`, or where the last one is out.

    Args:
        tx: the transaction of the change.
        authority_uid: whose CRL.
        key_number: of the key that signs it.
        partition: that the certificate names; None: none, so that the complete one alone changes.
        now: the time.
    """
    for number in sorted({COMPLETE, partition or COMPLETE}):
        _mark(tx, authority_uid, key_number, number, now)


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
        urls: for each partition, 0 for the complete CRL, all URLs that certificates name from now on; perhaps none.
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


def _job(authority_uid: str, key_number: int, partition: int, due_time: datetime) -> Job:
    return Job(
        kind=JobKind.GENERATE_REVOCATION_LIST,
        subject=subject_of(authority_uid, key_number, partition),
        due_time=due_time,
    )


def _fits(authority_uid: str, key_number: int, partition: int) -> dict[str, object]:
    return {"of_authority": authority_uid, "of_key": key_number, "of_partition": partition}
