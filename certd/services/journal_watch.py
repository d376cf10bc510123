"""Looks from time to time whether the journal of the token process still goes on from where it stood."""

import logging
from datetime import timedelta
from typing import Final

from certd.clock import Clock
from certd.model.checkpoint import JournalPosition
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.store import checkpoints
from certd.store.store import Store, Transaction
from certd.token import journal_records
from certd.token.client import TokenClient

_log = logging.getLogger("certd.journal")

_EVERY: Final = timedelta(minutes=1)
_BEHIND_ALL: Final = 1 << 62


class JournalWatch:
    """Keeps in the books how far the journal goes, so that one which is cut, changed or replaced shows."""

    def __init__(self, *, store: Store, token: TokenClient, clock: Clock) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._next_look = clock.now()

    def look(self) -> None:
        """Compares and moves on, once a minute; called by the scheduler every few seconds. Raises TOKEN_UNAVAILABLE."""
        now = self._clock.now()
        if now < self._next_look <= now + _EVERY or not self._token.ready:
            return
        self._next_look = now + _EVERY
        head, _ = self._token.read_journal(position=_BEHIND_ALL, limit=1)
        with self._store.read("journal.position") as tx:
            known = checkpoints.position(tx, head.journal)
        position = JournalPosition(
            journal=head.journal, number=head.number, chain_hash=head.chain_hash, update_time=now
        )
        if known is not None and (known.number, known.chain_hash) == (head.number, head.chain_hash):
            return
        finding = None if known is None else self._finding(known, head.number)

        def work(tx: Transaction) -> None:
            checkpoints.put_position(tx, position)
            if finding is not None:
                tx.event(_event(position, finding))

        self._store.write("journal.position", work)
        if finding is not None:
            _log.error("%s. Run certd audit verify.", finding)

    def _finding(self, known: JournalPosition, last: int) -> str | None:
        """Returns how the journal does not go on from where it was known to stand; None when it does."""
        if last < known.number:
            return f"the journal {known.journal} ends at record {last}, and had {known.number} records before"
        _, lines = self._token.read_journal(position=known.number - 1, limit=1)
        record = journal_records.parse(lines[0]) if lines else None
        if record is None or record.chain_hash != known.chain_hash:
            return f"record {known.number} of the journal {known.journal} is not what it was"
        return None


def _event(position: JournalPosition, finding: str) -> Event:
    return Event(
        time=position.update_time,
        type=EventType.JOURNAL_DIFFERS,
        tenant=None,
        principal=SYSTEM_PRINCIPAL,
        resource=f"journals/{position.journal}",
        details={"finding": finding},
    )
