"""The chain over events: every change shows, and nobody sees in a hash what an event says that they only guess."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from certd.clock import SystemClock
from certd.model.event import EventType
from certd.services.event_cursors import cursor_of, place_of
from certd.store import dialect, events
from certd.store.event_chain import CHAIN_START, ChainHead, ChainLink, canonical, next_head, verify
from certd.store.event_salts import new_salts
from certd.store.migration import migrate
from certd.store.store import Store, Transaction
from tests.store.event_records import execute, numbered, record
from tests.store.older_schemas import BACK_TO_5, OLD_EVENTS, go_back, insert_old_events
from tests.store.samples import NOW, event
from tests.store.waiting import wait_until

SALTED_FROM = len(OLD_EVENTS) + 1


def grown(links: Sequence[ChainLink], salts: Sequence[bytes | None], salted_from: int) -> list[ChainLink]:
    """The links with one more event for each salt."""
    rows = list(links)
    for salt in salts:
        head = head_of(rows[-1]) if rows else CHAIN_START
        sample = event(f"resource-{head.seq + 1}")
        head = next_head(head, canonical(sample), salt=salt, salted_from=salted_from)
        numbered_event = replace(OLD_EVENTS[0], seq=head.seq, event=sample, chain_hash=head.chain_hash)
        rows.append(ChainLink(numbered_event, salt))
    return rows


def head_of(link: ChainLink) -> ChainHead:
    return ChainHead(link.numbered.seq, link.numbered.chain_hash)


def salted(count: int = 5) -> list[ChainLink]:
    """A chain that had salts from its first event on."""
    return grown([], new_salts(count), 1)


def upgraded() -> list[ChainLink]:
    """Three events of schema 5, and three after them."""
    return grown([ChainLink(old, None) for old in OLD_EVENTS], new_salts(3), SALTED_FROM)


def broken(links: Sequence[ChainLink], salted_from: int = 1) -> list[int]:
    return [one.seq for one in verify(links, CHAIN_START, salted_from=salted_from)]


def changed(link: ChainLink, **changes: Any) -> ChainLink:
    """The link with another event."""
    return replace(link, numbered=replace(link.numbered, event=replace(link.numbered.event, **changes)))


def renumbered(link: ChainLink, seq: int) -> ChainLink:
    return replace(link, numbered=replace(link.numbered, seq=seq))


CHANGES: dict[str, Callable[[ChainLink], ChainLink]] = {
    "time": lambda link: changed(link, time=NOW + timedelta(microseconds=1)),
    "type": lambda link: changed(link, type=EventType.GRANT_CREATED),
    "tenant": lambda link: changed(link, tenant="other"),
    "no tenant": lambda link: changed(link, tenant=None),
    "principal": lambda link: changed(link, principal="another"),
    "resource": lambda link: changed(link, resource="another"),
    "details": lambda link: changed(link, details={"b": "2", "a": "u"}),
    "moved details": lambda link: changed(link, details={"b": "2a", "": "ü"}),
    "hash": lambda link: replace(link, numbered=replace(link.numbered, chain_hash=bytes(32))),
    "another salt": lambda link: replace(link, salt=bytes(16)),
    "a shorter salt": lambda link: replace(link, salt=(link.salt or b"")[:-1]),
    "an empty salt": lambda link: replace(link, salt=b""),
    "no salt": lambda link: replace(link, salt=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_verification_finds_a_changed_row(change: str) -> None:
    links = salted()
    assert broken(links) == []
    link = CHANGES[change](links[2])
    assert link != links[2]
    # A wrong hash breaks the link to the next row as well.
    assert broken([*links[:2], link, *links[3:]]) == ([3, 4] if change == "hash" else [3])


def test_verification_finds_missing_reordered_and_repeated_rows() -> None:
    links = salted()
    assert broken(links[1:]) == [2]
    assert broken([*links[:2], *links[3:]]) == [4]
    assert broken([links[0], links[2], links[1], *links[3:]])
    assert broken([*links, links[-1]])
    swapped = [*links[:2], renumbered(links[3], 3), renumbered(links[2], 4), links[4]]
    assert set(broken(swapped)) >= {3, 4}
    moved_up = [*links[:2], *(renumbered(link, link.numbered.seq - 1) for link in links[3:])]
    assert broken(moved_up)[0] == 3


def test_verification_goes_on_from_any_event() -> None:
    links = salted()
    assert verify(links[3:], head_of(links[2]), salted_from=1) == []
    assert verify(links[3:], ChainHead(3, bytes(32)), salted_from=1)


def test_events_of_before_there_were_salts_are_followed_by_those_with_salts() -> None:
    links = upgraded()
    assert broken(links, SALTED_FROM) == []
    assert verify(links[4:], head_of(links[3]), salted_from=SALTED_FROM) == []
    old_changed = changed(links[1], resource="another")
    assert broken([links[0], old_changed, *links[2:]], SALTED_FROM) == [2]
    # A salt is no part of the old form, and would be one more thing that nothing vouches for.
    assert broken([links[0], replace(links[1], salt=bytes(16)), *links[2:]], SALTED_FROM) == [2]


def test_no_hash_without_a_salt_follows_one_with_a_salt() -> None:
    links = upgraded()
    # Who may write the database makes every hash anew that follows; it is whole but for its form.
    stripped = grown(links[:4], [None, None], SALTED_FROM)
    found = verify(stripped, CHAIN_START, salted_from=SALTED_FROM)
    assert [one.seq for one in found] == [5, 6]
    assert found[0].description == "event 5 has no salt, and every event from 4 on has one"
    assert verify(stripped[4:], head_of(stripped[3]), salted_from=SALTED_FROM) == found
    # One with a salt again behind it makes it no better.
    assert broken(grown(stripped, new_salts(1), SALTED_FROM), SALTED_FROM) == [5, 6]


@pytest.mark.parametrize("salted_from", [1, 3, 5, 7])
def test_where_salts_begin_is_in_every_hash_with_a_salt(salted_from: int) -> None:
    found = broken(upgraded(), salted_from)
    # Those with a salt; and those that have none and now should.
    assert found == sorted({*range(salted_from, SALTED_FROM), 4, 5, 6})


def test_hashes_are_those_that_are_described() -> None:
    def parts(*all_parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(8, "big") + part for part in all_parts)

    salt = bytes(range(16))
    link = grown([ChainLink(old, None) for old in OLD_EVENTS], [salt], SALTED_FROM)[-1]
    # 2026-03-01T12:30:15.123456Z.
    time = (1_772_368_215_123_456).to_bytes(8, "big", signed=True)
    details = (b"a", "ü".encode(), b"b", b"2")
    said = parts(time, b"tenant.created", b"\x01default", b"certd", b"resource-4", *details)
    before, number = OLD_EVENTS[-1].chain_hash, (4).to_bytes(8, "big")
    data = parts(b"certd.event.v2", before, number, number, salt, said)
    assert link.numbered.chain_hash == hashlib.sha256(data).digest()


def test_a_salt_is_not_in_what_is_shown_of_a_link() -> None:
    link = salted(1)[0]
    assert link.salt is not None
    assert repr(link.salt) not in repr(link)
    assert "salt" not in repr(link.numbered)


def salts_of(store: Store) -> list[bytes | None]:
    with store.read("test") as tx:
        return [row.salt for row in tx.execute(text("SELECT salt FROM events ORDER BY seq"))]


def test_each_event_gets_a_salt_of_its_own(store: Store) -> None:
    def many(tx: Transaction) -> None:
        for _ in range(40):
            tx.event(event("same"))

    # These are numbered at once.
    store.write("test", many)
    record(store, "same")
    numbered(store, 41)
    found = salts_of(store)
    assert {len(salt or b"") for salt in found} == {16}
    assert len(set(found)) == 41


def test_a_refused_row_is_not_logged_with_its_salt(postgres_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    execute(postgres_store, "ALTER TABLE events ADD CONSTRAINT refused CHECK (seq < 0)")
    record(postgres_store, "a")
    wait_until(lambda: "numbering events failed" in caplog.text, "the failure is logged")
    assert 'violates check constraint "refused"' in caplog.text
    assert "Failing row" not in caplog.text
    execute(postgres_store, "ALTER TABLE events DROP CONSTRAINT refused")
    assert len(numbered(postgres_store, 1)) == 1


@pytest.mark.parametrize(
    ("change", "first_broken"),
    [
        ("UPDATE events SET principal = 'another' WHERE seq = 2", 2),
        ("DELETE FROM events WHERE seq = 2", 3),
        ("DELETE FROM events WHERE seq = 5", 5),
        ("UPDATE event_sequence SET last_seq = 4", 6),
        ("UPDATE events SET salt = NULL WHERE seq = 3", 3),
        ("UPDATE events SET salt = (SELECT salt FROM events AS other WHERE other.seq = 2) WHERE seq = 3", 3),
        ("UPDATE event_sequence SET salted_from = 6", 1),
        ("UPDATE event_sequence SET salted_from = 2", 1),
    ],
)
def test_verification_of_the_whole_record(store: Store, change: str, first_broken: int) -> None:
    for number in range(5):
        record(store, f"r{number}")
    numbered(store, 5)
    with store.read("test") as tx:
        assert events.verify_all(tx) == []
    execute(store, change)
    with store.read("test") as tx:
        assert events.verify_all(tx)[0].seq == first_broken


def test_whether_the_record_goes_on_from_a_place_is_told(store: Store) -> None:
    for number in range(3):
        record(store, f"r{number}")
    rows = numbered(store, 3)
    heads = [CHAIN_START, *(ChainHead(row.seq, row.chain_hash) for row in rows)]
    with store.read("test") as tx:
        assert all(events.goes_on(tx, head) for head in heads)
        assert not any(events.goes_on(tx, ChainHead(head.seq, b"\1" * 32)) for head in heads)
        assert not events.goes_on(tx, ChainHead(4, rows[-1].chain_hash))


@pytest.fixture
def engine(database_url: str) -> Any:
    """An engine on the database, apart from the store."""
    url = dialect.parse_url(database_url)
    is_sqlite = dialect.engine_name(url) == dialect.SQLITE
    made = dialect.sqlite_writer_engine(url) if is_sqlite else dialect.postgresql_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def old_database(database_url: str, engine: Engine) -> str:
    """The URL of a database of schema 5 with events."""
    with engine.connect() as connection:
        go_back(connection, BACK_TO_5)
        insert_old_events(connection)
    return database_url


def test_a_record_of_schema_5_goes_on_with_salts(
    old_database: str, engine: Engine, open_store: Callable[[str], Store]
) -> None:
    waits = "VALUES (1, 'tenant.created', 'certd', 'not numbered yet', '{}')"
    left = dialect.engine_name(dialect.parse_url(old_database)) == dialect.POSTGRESQL
    if left:
        with engine.connect() as connection:
            connection.execute(
                text(f"INSERT INTO unnumbered_events (time, type, principal, resource, details) {waits}")
            )
            connection.commit()
    cursors = [cursor_of(ChainHead(old.seq, old.chain_hash)) for old in OLD_EVENTS]
    last_seq = SALTED_FROM + left
    # The second time as after a restart.
    for seq in (last_seq, last_seq + 1):
        store = open_store(old_database)
        with store.read("test") as tx:
            assert [place_of(tx, cursor).seq for cursor in cursors] == [1, 2, 3]
            assert events.goes_on(tx, ChainHead(3, OLD_EVENTS[-1].chain_hash))
        record(store, f"new-{seq}")
        rows = numbered(store, seq)
        assert rows[:3] == list(OLD_EVENTS)
        with store.read("test") as tx:
            assert events.verify_all(tx) == []
            assert place_of(tx, cursor_of(events.head(tx))).seq == seq
        store.close()
    store = open_store(old_database)
    assert [salt is None for salt in salts_of(store)] == [True] * 3 + [False] * (last_seq - 2)
    execute(store, "UPDATE events SET salt = NULL WHERE seq = 4")
    with store.read("test") as tx:
        assert [one.seq for one in events.verify_all(tx)] == [4]


def test_a_record_of_schema_5_without_events_begins_with_a_salt(
    database_url: str, engine: Engine, open_store: Callable[[str], Store]
) -> None:
    with engine.connect() as connection:
        go_back(connection, BACK_TO_5)
    store = open_store(database_url)
    record(store, "first")
    numbered(store, 1)
    assert None not in salts_of(store)
    with store.read("test") as tx:
        assert events.verify_all(tx) == []


def test_code_that_knows_no_salts_numbers_nothing(old_database: str, engine: Engine) -> None:
    migrate(old_database)
    with engine.connect() as connection:
        # Code of schema 5 is refused, whatever later schemas ask for beyond that.
        assert connection.execute(text("SELECT oldest_code FROM schema_compatibility")).scalar_one() >= 6
        # What the sequencer of schema 5 asks before all else, also one that ran already.
        with pytest.raises(DBAPIError, match="holder"):
            connection.execute(text("SELECT last_seq, last_hash, holder, lease_until FROM event_sequence"))


def test_a_daemon_numbers_what_another_left_behind_with_salts(
    postgres_url: str, open_store: Callable[[str], Store]
) -> None:
    """Events that were committed by code without salts get them from whoever numbers."""
    store = open_store(postgres_url)
    execute(
        store,
        "INSERT INTO unnumbered_events (time, type, principal, resource, details) VALUES (1, 'new', 'p', 'r', '{}')",
    )
    wait_until(lambda: len(salts_of(store)) == 1, "it is numbered")
    assert None not in salts_of(store)
    other = Store.open(postgres_url, clock=SystemClock())
    try:
        record(other, "a")
        numbered(other, 2)
        with other.read("test") as tx:
            assert events.verify_all(tx) == []
    finally:
        other.close()
