"""Events: appended by transactions, numbered by the store, read by number.

Nothing but what verifies the chain reads the salts, and it hands none on.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, literal_column, select

from certd.model.event import Event, EventType, NumberedEvent
from certd.store import schema
from certd.store.event_chain import CHAIN_START, ChainBreak, ChainHead, ChainLink, verify
from certd.store.transaction import Transaction
from certd.store.values import labels_of, microseconds, time_of

__all__ = [
    "CHAIN_START",
    "ChainBreak",
    "ChainHead",
    "first_from",
    "goes_on",
    "head",
    "head_at",
    "last",
    "of_type_back",
    "page",
    "page_back",
    "verify_all",
    "verify_page",
]

_events = schema.events
_SELECT: Select[Any] = select(
    _events.c.seq,
    _events.c.time,
    _events.c.type,
    _events.c.tenant,
    _events.c.principal,
    _events.c.resource,
    _events.c.details,
    _events.c.chain_hash,
)
_PAGE = _SELECT.where(_events.c.seq > bindparam("after")).order_by(_events.c.seq).limit(bindparam("most"))
_TENANT_PAGE = _PAGE.where(_events.c.tenant == bindparam("of_tenant"))
_PAGE_BACK = _SELECT.where(_events.c.seq < bindparam("before")).order_by(_events.c.seq.desc()).limit(bindparam("most"))
_TENANT_PAGE_BACK = _PAGE_BACK.where(_events.c.tenant == bindparam("of_tenant"))
_TYPE_BACK = (
    _SELECT.where(
        _events.c.tenant == bindparam("of_tenant"),
        _events.c.seq < bindparam("before"),
        _events.c.seq >= bindparam("from"),
        _events.c.type == bindparam("of_type"),
    )
    # No limit: the span of numbers is one.
    .order_by(_events.c.seq.desc())
)
_TIME = select(_events.c.time).where(_events.c.seq == bindparam("number"))
_HASH = select(_events.c.chain_hash).where(_events.c.seq == bindparam("number"))
_LAST = _SELECT.order_by(_events.c.seq.desc()).limit(1)
_HEAD = select(schema.event_sequence.c.last_seq, schema.event_sequence.c.last_hash).where(
    schema.event_sequence.c.id == literal_column("1")
)
_SALTED_FROM = select(schema.event_sequence.c.salted_from).where(schema.event_sequence.c.id == literal_column("1"))
_LINKS = _PAGE.add_columns(_events.c.salt)
_VERIFIED_AT_ONCE = 1000


def _event(row: Row[Any]) -> NumberedEvent:
    return NumberedEvent(
        seq=row.seq,
        event=Event(
            time=time_of(row.time),
            type=EventType.of(row.type),
            tenant=row.tenant,
            principal=row.principal,
            resource=row.resource,
            details=labels_of(row.details),
        ),
        chain_hash=row.chain_hash,
    )


def page(tx: Transaction, *, after_seq: int, limit: int, tenant: str | None = None) -> list[NumberedEvent]:
    """Returns up to `limit` events numbered above `after_seq`, in order; with `tenant`, that tenant's part."""
    statement = _PAGE if tenant is None else _TENANT_PAGE
    parameters = {"after": after_seq, "most": limit, "of_tenant": tenant}
    return [_event(row) for row in tx.execute(statement, parameters)]


def page_back(tx: Transaction, *, before_seq: int, limit: int, tenant: str | None = None) -> list[NumberedEvent]:
    """Returns up to `limit` events numbered below `before_seq`, the newest first; with `tenant`, that tenant's part."""
    statement = _PAGE_BACK if tenant is None else _TENANT_PAGE_BACK
    parameters = {"before": before_seq, "most": limit, "of_tenant": tenant}
    return [_event(row) for row in tx.execute(statement, parameters)]


def of_type_back(tx: Transaction, type_: EventType, tenant: str, *, before_seq: int, span: int) -> list[NumberedEvent]:
    """Returns the events of a type and a tenant among the `span` numbers below `before_seq`, the newest first."""
    parameters = {"of_tenant": tenant, "of_type": type_.value, "before": before_seq, "from": before_seq - span}
    return [_event(row) for row in tx.execute(_TYPE_BACK, parameters)]


def first_from(tx: Transaction, time: datetime) -> int:
    """Returns the number of the first event of a time or later, one past the last when there is none.

    Numbers follow times but for the minutes that events wait for their commit, and as far as no clock was set back.
    """
    low, high = 1, head(tx).seq + 1
    wanted = microseconds(time)
    while low < high:
        middle = (low + high) // 2
        if tx.execute(_TIME, {"number": middle}).scalar_one() < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def last(tx: Transaction) -> NumberedEvent | None:
    """Returns the event with the highest number; None when there is none."""
    row = tx.execute(_LAST).first()
    return None if row is None else _event(row)


def head(tx: Transaction) -> ChainHead:
    """Returns where the chain stands, from the record that is kept beside the events."""
    row = tx.execute(_HEAD).one()
    return ChainHead(row.last_seq, row.last_hash)


def head_at(tx: Transaction, seq: int) -> ChainHead | None:
    """Returns where the chain stood after an event; None when there is no event of that number."""
    if seq == CHAIN_START.seq:
        return CHAIN_START
    found: bytes | None = tx.execute(_HASH, {"number": seq}).scalar_one_or_none()
    return None if found is None else ChainHead(seq, found)


def goes_on(tx: Transaction, from_head: ChainHead) -> bool:
    """Returns whether the record still goes on from where it once stood, and is no other one."""
    links = _links(tx, after_seq=from_head.seq, limit=1)
    if links:
        return not verify(links, from_head, salted_from=_salted_from(tx))
    return head_at(tx, from_head.seq) == from_head


def verify_all(tx: Transaction) -> list[ChainBreak]:
    """Returns every place at which the events are not what was written, missing last ones included."""
    breaks: list[ChainBreak] = []
    previous = CHAIN_START
    while True:
        found, reached = verify_page(tx, previous, limit=_VERIFIED_AT_ONCE)
        breaks += found
        if reached == previous:
            return breaks
        previous = reached


def verify_page(tx: Transaction, previous: ChainHead, *, limit: int) -> tuple[list[ChainBreak], ChainHead]:
    """Verifies up to `limit` events behind a place; returns where they are not what was written, and the last place.

    That is `previous` itself when no event follows it; then the breaks tell whether the record should end there.
    """
    links = _links(tx, after_seq=previous.seq, limit=limit)
    if not links:
        if head(tx) == previous:
            return [], previous
        broken = f"the record ends at event {previous.seq} and not where it stood"
        return [ChainBreak(previous.seq + 1, broken)], previous
    last_one = links[-1].numbered
    reached = ChainHead(last_one.seq, last_one.chain_hash)
    return verify(links, previous, salted_from=_salted_from(tx)), reached


def _links(tx: Transaction, *, after_seq: int, limit: int) -> list[ChainLink]:
    return [ChainLink(_event(row), row.salt) for row in tx.execute(_LINKS, {"after": after_seq, "most": limit})]


def _salted_from(tx: Transaction) -> int:
    number: int = tx.execute(_SALTED_FROM).scalar_one()
    return number
