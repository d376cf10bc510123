"""Events of a store: recorded, waited for, and spoilt."""

from sqlalchemy import text

from certd.model.event import NumberedEvent
from certd.store import events
from certd.store.store import Store, Transaction
from tests.store.samples import event
from tests.store.waiting import wait_until


def record(store: Store, resource: str, tenant: str | None = "default") -> None:
    store.write("test", lambda tx: tx.event(event(resource, tenant=tenant)))


def execute(store: Store, statement: str) -> None:
    def work(tx: Transaction) -> None:
        tx.execute(text(statement))

    store.write("test", work)


def numbered(store: Store, count: int) -> list[NumberedEvent]:
    def all_numbered() -> bool:
        with store.read("test") as tx:
            return events.head(tx).seq >= count

    wait_until(all_numbered, f"{count} events are numbered")
    with store.read("test") as tx:
        return events.page(tx, after_seq=0, limit=count + 1)
