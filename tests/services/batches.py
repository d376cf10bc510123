"""Batches, and short ways to make them and to read what became of their items."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Select, select

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant
from certd.model.event import EventType
from certd.model.names import AuthorityName
from certd.services.certificates import BatchItem, CertificateView, NewCertificate
from certd.services.idempotency import RequestKey
from certd.store import grants, schema
from certd.store.store import Transaction
from tests.services.conftest import ADMINISTRATOR, World, csr_for
from tests.waiting import eventually

CA = AuthorityName("default", "ca")
Result = CertificateView | CertdError


def key(content: bytes = b"a", request_id: str = "") -> RequestKey:
    return RequestKey(request_id or str(uuid.uuid4()), content)


def batch_item(name: str = "www.example.internal", *, key: RequestKey | None = None, **changes: Any) -> BatchItem:
    wanted: dict[str, Any] = {"authority": CA, "csr": csr_for(name)}
    return BatchItem(NewCertificate(**(wanted | changes)), key)


def issue_batch(
    world: World,
    items: Sequence[BatchItem],
    *,
    caller: Caller = ADMINISTRATOR,
    validate_only: bool = False,
    timeout: float | None = 60,
    descriptions: bool = True,
) -> list[Result]:
    return world.core.certificates.issue_batch(
        caller, CA, items, validate_only=validate_only, timeout=timeout, descriptions=descriptions
    )


def made(results: Sequence[Result]) -> list[CertificateView]:
    views = [one for one in results if isinstance(one, CertificateView)]
    assert len(views) == len(results), [one for one in results if isinstance(one, CertdError)]
    return views


def outcomes(results: Sequence[Result]) -> list[Reason | None]:
    return [one.reason if isinstance(one, CertdError) else None for one in results]


def refused(call: Callable[[], object], reason: Reason) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    return caught.value


def grant(world: World, given: Grant) -> None:
    def work(tx: Transaction) -> None:
        grants.insert(tx, given)
        tx.configuration_changed()

    world.core.store.write("test.grant", work)


@contextmanager
def nothing_written(world: World) -> Iterator[None]:
    """Fails when there are other rows afterwards than before."""
    before = rows(world)
    yield
    assert rows(world) == before


def rows(world: World) -> tuple[Counter[str], int, int]:
    """Returns the certificates of the authority by state, and how many request records and events there are."""
    columns = schema.certificates.c
    uid = world.core.authorities.get(ADMINISTRATOR, CA).authority.uid
    wait_for_numbers(world)
    with world.core.store.read("test.rows") as tx:
        states = Counter(tx.execute(select(columns.state).where(columns.authority_uid == uid)).scalars())
        records = len(tx.execute(select(schema.request_records.c.request_id)).all())
        # On PostgreSQL they get their numbers soon after the commit, and move from one table to the other. CRLs come by
        # themselves, the first ones of a new authority when they like.
        own = (EventType.REVOCATION_LIST_GENERATED.value, EventType.REVOCATION_LIST_FAILED.value)
        written = sum(
            len(tx.execute(select(table.c.type).where(table.c.type.not_in(own))).all())
            for table in (schema.events, schema.unnumbered_events)
        )
    return states, records, written


def issued_events(world: World) -> Counter[str]:
    """Returns how often the event of each certificate that was issued stands in the books."""
    columns = schema.events.c
    asked = select(columns.resource).where(columns.type == EventType.CERTIFICATE_ISSUED.value)
    wait_for_numbers(world)
    return Counter(_read(world, asked))


def wait_for_numbers(world: World) -> None:
    """Waits until every event has its number, which on PostgreSQL it gets soon after the commit."""
    unnumbered = select(schema.unnumbered_events.c.type)
    eventually(lambda: not _read(world, unnumbered))


def _read(world: World, asked: Select[tuple[Any]]) -> list[Any]:
    with world.core.store.read("test.read") as tx:
        return list(tx.execute(asked).scalars())
