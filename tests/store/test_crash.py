"""`kill -9` at any moment: every acknowledged write is there, no write is there by half, and the chain is whole."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import text

from certd.model.event import NumberedEvent
from certd.store import events, tenants
from certd.store.migration import migrate
from certd.store.store import Store, Transaction
from tests.store.waiting import wait_until

ROUNDS = 3


def acknowledged_before_kill(url: str, prefix: str, lines: int) -> set[str]:
    """Starts the writer, kills it once it has printed so many lines, and returns all that it acknowledged."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.store.crash_writer", url, prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        acknowledged = []
        for line in process.stdout:
            # The last line may be cut.
            if line.endswith("\n"):
                acknowledged.append(line.rstrip("\n"))
            if len(acknowledged) == lines:
                process.kill()
    assert process.returncode == -signal.SIGKILL, "the writer ended by itself"
    return set(acknowledged)


def test_kill_minus_nine_loses_nothing_that_was_acknowledged(
    database_url: str, open_store: Callable[[str], Store]
) -> None:
    migrate(database_url)
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        acknowledged |= acknowledged_before_kill(database_url, f"round-{number}", 150 + 37 * number)
        store = open_store(database_url)

        # On PostgreSQL the lease of the killed one passes first.
        wait_until(partial(everything_is_numbered, store), "every event is numbered")
        with store.read("test") as tx:
            rows = all_events(tx)
            assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
            assert events.verify_all(tx) == []
            counts = Counter(row.event.resource for row in rows)
            assert acknowledged <= counts.keys()
            # Both events of a work and its row, or none of the three.
            assert set(counts.values()) == {2}
            assert all(tenants.get(tx, name) is not None for name in counts)
        store.close()


def everything_is_numbered(store: Store) -> bool:
    with store.read("test") as tx:
        return tx.execute(text("SELECT 1 FROM unnumbered_events LIMIT 1")).first() is None


def all_events(tx: Transaction) -> list[NumberedEvent]:
    rows: list[NumberedEvent] = []
    while page := events.page(tx, after_seq=rows[-1].seq if rows else 0, limit=500):
        rows += page
    return rows
