"""Numbers committed events on PostgreSQL.

Numbers taken within the transactions of the works would show out of order, and a reader that asks for `seq > cursor`
would miss the late ones. So works leave their events unnumbered, and the holder of a lease numbers what is committed.
The lease and the last number stand in one row, which every numbering locks: whoever lost the lease sees it there, and
two holders can never number beside each other.
"""

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection, Engine, bindparam, delete, insert, literal_column, select, update
from sqlalchemy.exc import SQLAlchemyError

from certd.clock import Clock
from certd.store import schema
from certd.store.event_chain import ChainHead, encode, next_head
from certd.store.event_salts import new_salts
from certd.store.values import labels_of, microseconds

LEASE = timedelta(seconds=5)
_LARGEST_BATCH = 500
_INTERVAL = 0.1
_PAUSE_AFTER_FAILURE = 1.0

_log = logging.getLogger("certd.store")

_unnumbered = schema.unnumbered_events
_sequence = schema.event_sequence
_ANY = select(_unnumbered.c.id).limit(1)
_LOCK = (
    select(
        _sequence.c.last_seq,
        _sequence.c.last_hash,
        _sequence.c.numberer,
        _sequence.c.lease_until,
        _sequence.c.salted_from,
    )
    .where(_sequence.c.id == literal_column("1"))
    .with_for_update()
)
_TAKE = (
    delete(_unnumbered)
    .where(_unnumbered.c.id.in_(select(_unnumbered.c.id).order_by(_unnumbered.c.id).limit(_LARGEST_BATCH)))
    .returning(
        _unnumbered.c.id,
        _unnumbered.c.time,
        _unnumbered.c.type,
        _unnumbered.c.tenant,
        _unnumbered.c.principal,
        _unnumbered.c.resource,
        _unnumbered.c.details,
    )
)
_INSERT = insert(schema.events)
_UPDATE = update(_sequence).where(_sequence.c.id == literal_column("1"))
_RELEASE = _UPDATE.where(_sequence.c.numberer == bindparam("own")).values(numberer=None, lease_until=None)


def _described(error: SQLAlchemyError) -> object:
    """Returns what may be logged of an error: PostgreSQL's details show the row that it refused, with its salt."""
    origin = getattr(error, "orig", error)
    return getattr(getattr(origin, "diag", None), "message_primary", None) or origin


class Sequencer:
    """A thread that numbers events while it holds the lease, and waits for its end while another does.

    Args:
        engine: the pool, in READ COMMITTED.
        clock: tells when a lease has passed.
        events_numbered: called after a commit that numbered events.
    """

    def __init__(self, engine: Engine, clock: Clock, events_numbered: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._clock = clock
        self._events_numbered = events_numbered
        self._holder = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._work = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="store-sequencer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Says that events were committed."""
        with self._changed:
            self._work = True
            self._changed.notify()

    def close(self) -> None:
        """Numbers what is committed and gives the lease back."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        pause = _INTERVAL
        while True:
            with self._changed:
                # Other daemons commit events too, so it looks at an interval also when nobody wakes it.
                self._changed.wait_for(lambda: self._work or self._closing, timeout=pause)
                self._work = False
                closing = self._closing
            pause = _INTERVAL
            try:
                while self._number():
                    pass
                if closing:
                    self._release()
            except SQLAlchemyError as error:
                _log.warning("numbering events failed, trying again: %s", _described(error))
                pause = _PAUSE_AFTER_FAILURE
            except Exception:  # noqa: BLE001  # The thread survives everything.
                _log.exception("numbering events failed, trying again")
                pause = _PAUSE_AFTER_FAILURE
            if closing:
                return

    def _number(self) -> int:
        """Numbers a batch in one transaction; returns how many, 0 also when another holds the lease."""
        with self._engine.connect() as connection:
            if connection.execute(_ANY).first() is None:
                return 0
            now = microseconds(self._clock.now())
            row = connection.execute(_LOCK).one()
            if row.numberer not in {None, self._holder} and row.lease_until > now:
                return 0
            head = ChainHead(row.last_seq, row.last_hash)
            count = self._take(connection, head, salted_from=row.salted_from, now=now)
            connection.commit()
        if count:
            self._events_numbered()
        return count

    def _take(self, connection: Connection, head: ChainHead, *, salted_from: int, now: int) -> int:
        rows: list[dict[str, object]] = []
        taken = sorted(connection.execute(_TAKE), key=lambda row: row.id)
        for row, salt in zip(taken, new_salts(len(taken)), strict=True):
            # From the columns and not through the model: a newer daemon beside this one may know more types of events.
            encoded = encode(
                time=row.time,
                event_type=row.type,
                tenant=row.tenant,
                principal=row.principal,
                resource=row.resource,
                details=labels_of(row.details),
            )
            head = next_head(head, encoded, salt=salt, salted_from=salted_from)
            columns = {name: value for name, value in row._mapping.items() if name != "id"}  # noqa: SLF001  # SQLAlchemy's public name for it.
            rows.append({**columns, "seq": head.seq, "chain_hash": head.chain_hash, "salt": salt})
        if rows:
            connection.execute(_INSERT, rows)
        connection.execute(
            _UPDATE,
            {
                "last_seq": head.seq,
                "last_hash": head.chain_hash,
                "numberer": self._holder,
                "lease_until": now + LEASE // timedelta(microseconds=1),
            },
        )
        return len(rows)

    def _release(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(_RELEASE, {"own": self._holder})
            connection.commit()
