"""A database that is replaced, under a daemon, by a copy of it that lacks the last events, as by a failover."""

from collections.abc import Iterator

import pytest
from sqlalchemy import delete, update

from certd.clock import SystemClock
from certd.errors import CertdError, Reason
from certd.services.event_cursors import cursor_of, place_of
from certd.services.event_feed import EventFeed
from certd.store import events, schema
from certd.store.event_chain import ChainHead
from certd.store.migration import migrate
from certd.store.store import Store, Transaction
from tests.postgres import postgres_server, postgres_url
from tests.store.samples import event
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    migrate(postgres_url)
    opened = Store.open(postgres_url, clock=SystemClock())
    yield opened
    opened.close()


@pytest.fixture
def feed(store: Store) -> Iterator[EventFeed]:
    made = EventFeed(store)
    yield made
    made.close()


def record(store: Store, *resources: str) -> ChainHead:
    def work(tx: Transaction) -> None:
        for resource in resources:
            tx.event(event(resource=resource))

    before = head_of(store)
    store.write("test", work)
    eventually(lambda: head_of(store).seq == before.seq + len(resources))
    return head_of(store)


def head_of(store: Store) -> ChainHead:
    with store.read("test") as tx:
        return events.head(tx)


def lose_after(store: Store, head: ChainHead) -> None:
    def work(tx: Transaction) -> None:
        tx.execute(delete(schema.events).where(schema.events.c.seq > head.seq), {})
        tx.execute(update(schema.event_sequence).values(last_seq=head.seq, last_hash=head.chain_hash), {})

    store.write("test", work)


@pytest.mark.parametrize("since", [("c",), ("c", "d"), ("c", "d", "e")])
def test_who_watches_is_ended_when_events_are_gone(store: Store, feed: EventFeed, since: tuple[str, ...]) -> None:
    kept = record(store, "a")
    with feed.watch_events("", (), wants=lambda _event: True) as watcher:
        lost = record(store, "b", "b2")
        eventually(lambda: feed.position(watcher) == lost or watcher.take(0) is None)
        lose_after(store, kept)
        record(store, *since)

        def ended() -> bool:
            try:
                watcher.take(0)
            except CertdError as error:
                return error.reason is Reason.STORE_UNAVAILABLE
            return False

        eventually(ended)
    with store.read("test") as tx, pytest.raises(CertdError, match="CURSOR_INVALID"):
        place_of(tx, cursor_of(lost))
    with feed.watch_events("", (), wants=lambda _event: True) as again:
        after = record(store, "after")
        taken = eventually(lambda: again.take(0))
        assert taken is not None
        assert [row.event.resource for row in taken] == ["after"]
        assert feed.position(again) == after
