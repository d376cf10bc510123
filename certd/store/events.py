"""Events: appended by transactions, numbered by the store, read by number."""

from typing import Any

from sqlalchemy import Row, Select, bindparam, literal_column, select

from certd.model.event import Event, EventType, NumberedEvent
from certd.store import schema
from certd.store.event_chain import CHAIN_START, ChainBreak, ChainHead, chain_hash, verify
from certd.store.transaction import Transaction
from certd.store.values import labels_of, time_of

__all__ = ["CHAIN_START", "ChainBreak", "ChainHead", "chain_hash", "head", "last", "page", "verify", "verify_all"]

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
_LAST = _SELECT.order_by(_events.c.seq.desc()).limit(1)
_HEAD = select(schema.event_sequence.c.last_seq, schema.event_sequence.c.last_hash).where(
    schema.event_sequence.c.id == literal_column("1")
)
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


def last(tx: Transaction) -> NumberedEvent | None:
    """Returns the event with the highest number; None when there is none."""
    row = tx.execute(_LAST).first()
    return None if row is None else _event(row)


def head(tx: Transaction) -> ChainHead:
    """Returns where the chain stands, from the record that is kept beside the events."""
    row = tx.execute(_HEAD).one()
    return ChainHead(row.last_seq, row.last_hash)


def verify_all(tx: Transaction) -> list[ChainBreak]:
    """Returns every place at which the events are not what was written, missing last ones included."""
    breaks: list[ChainBreak] = []
    previous = CHAIN_START
    while rows := page(tx, after_seq=previous.seq, limit=_VERIFIED_AT_ONCE):
        breaks += verify(rows, previous)
        previous = ChainHead(rows[-1].seq, rows[-1].chain_hash)
    if head(tx) != previous:
        breaks.append(ChainBreak(previous.seq + 1, f"the record ends at event {previous.seq} and not where it stood"))
    return breaks
