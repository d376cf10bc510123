"""Each notice is given once: whatever dies, however many daemons there are, and wherever the clock goes."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy import event as sql_event

from certd.model.notice import NoticeKind
from certd.services import notices as notices_module
from certd.store import managed_schema
from certd.store import notices as notice_rows
from certd.store.notices import Mark
from certd.store.store import Store
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import CrashError, crash
from tests.services.notice_books import DAY, IMPORTED, MINUTE, Daemon, daemon_on, repeated
from tests.services.renewals import together
from tests.store.explaining import Explaining

__all__ = ["postgres_server", "postgres_url"]

PAGE = notices_module._AT_ONCE
YEAR = timedelta(days=365)


@pytest.fixture(params=["sqlite", "postgresql"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    url = f"sqlite:///{tmp_path}/certd.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    with daemon_on(url, FakeClock()) as running:
        running.tell()
        yield running


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_on(f"sqlite:///{tmp_path}/certd.db", FakeClock()) as running:
        running.tell()
        yield running


@pytest.fixture
def daemons(postgres_url: str) -> Iterator[tuple[Daemon, Daemon]]:
    """Two on one PostgreSQL and one clock."""
    clock = FakeClock()
    with ExitStack() as stack:
        first = stack.enter_context(daemon_on(postgres_url, clock))
        second = stack.enter_context(daemon_on(postgres_url, clock, fresh=False))
        first.tell()
        yield first, second


def fleet(store: Store, like: str, count: int, *, ends: timedelta = timedelta()) -> None:
    """Copies a managed certificate and its version, each copy to end so much later than the one before."""
    step = ends // timedelta(microseconds=1)
    tables = (
        (managed_schema.managed_certificates, "uid"),
        (managed_schema.managed_certificate_versions, "managed_certificate_uid"),
    )

    def work(tx: Any) -> None:
        for table, key in tables:
            row = dict(tx.execute(table.select().where(table.c[key] == like)).one()._mapping)
            rows = []
            for number in range(count):
                copy = row | {key: f"{like}-{number:05}", "not_after": row["not_after"] + (number + 1) * step}
                if "managed_certificate_id" in copy:
                    copy["managed_certificate_id"] = f"m{number:05}"
                rows.append(copy)
            for start in range(0, count, 1000):
                tx.execute(insert(table), rows[start : start + 1000])

    store.write("test.fleet", work)


@pytest.mark.parametrize("step", ["notices.1.read", "notices.2.told"])
@pytest.mark.parametrize("page", [1, 2])
def test_a_daemon_that_dies_at_any_step_leaves_none_out_and_repeats_none(daemon: Daemon, step: str, page: int) -> None:
    """Of two pages that end at one moment, as all do that their authority cut short."""
    uid = daemon.put(left=46 * DAY, **IMPORTED)
    fleet(daemon.store, uid, PAGE + 10)
    daemon.clock.advance(2 * DAY)

    def die(number: int) -> None:
        daemon.steps.at[step] = crash if number == page else lambda: die(number + 1)

    die(1)
    with pytest.raises(CrashError):
        daemon.tell()
    daemon.restart()
    daemon.tell()
    assert len(daemon.told()) == PAGE + 11
    assert repeated(daemon.events()) == []


def test_two_daemons_tell_each_once(daemons: tuple[Daemon, Daemon]) -> None:
    first, second = daemons
    uid = first.put(left=46 * DAY, **IMPORTED)
    fleet(first.store, uid, PAGE + 50, ends=timedelta(hours=3))
    for _ in range(8):
        first.clock.advance(5 * DAY)
        together([first.notices.tell, second.notices.tell])
        together([first.notices.tell, second.notices.tell])
    told = first.events()
    assert repeated(told) == []
    assert {event.details["uid"] for event in told} == {uid} | {f"{uid}-{n:05}" for n in range(PAGE + 50)}


def test_one_that_is_renewed_while_it_is_looked_at_is_not_told(daemon: Daemon) -> None:
    uid = daemon.put(left=46 * DAY, **IMPORTED)
    daemon.clock.advance(2 * DAY)
    daemon.steps.at["notices.1.read"] = lambda: daemon.succeed(uid, left=90 * DAY)
    daemon.tell()
    assert daemon.told() == []


def test_one_that_another_daemon_told_while_it_was_looked_at_is_not_told_again(
    daemons: tuple[Daemon, Daemon],
) -> None:
    first, second = daemons
    uid = first.put(left=46 * DAY, **IMPORTED)
    first.clock.advance(2 * DAY)
    first.steps.at["notices.1.read"] = second.notices.tell
    first.notices.tell()
    assert first.told(uid) == [45]


def test_a_clock_that_is_put_back_repeats_nothing(daemon: Daemon) -> None:
    uid = daemon.put(left=60 * DAY, **IMPORTED)
    daemon.live(20 * DAY)
    daemon.clock.advance(-10 * DAY)
    daemon.live(21 * DAY)
    assert daemon.told(uid) == [45, 30]


def test_a_clock_that_was_ahead_for_a_while_silences_nobody_and_repeats_nothing(daemon: Daemon) -> None:
    """A year ahead all had ended, which is told; at the right time each number of days is told all the same."""
    uid = daemon.put(left=60 * DAY, **IMPORTED)
    later = daemon.put("later", left=500 * DAY, **IMPORTED)
    daemon.clock.advance(YEAR)
    daemon.tell()
    assert daemon.told() == [0]
    daemon.clock.advance(-YEAR)
    daemon.tell()
    new = daemon.put("new", left=50 * DAY, **IMPORTED)
    daemon.live(61 * DAY)
    assert daemon.told(uid) == [0, 45, 30, 15, 7, 3, 1]
    assert daemon.told(new) == [45, 30, 15, 7, 3, 1, 0]
    assert daemon.told(later) == []
    assert repeated(daemon.events()) == []


def test_a_daemon_that_began_while_the_clock_was_ahead_has_patience_from_now_on(quick: Daemon) -> None:
    uid = quick.put(left=60 * DAY)
    quick.clock.advance(5 * YEAR)
    quick.restart()
    quick.clock.advance(-5 * YEAR)
    quick.live(57 * DAY + DAY / 2)
    assert quick.told(uid) == [7, 3]


def test_clocks_of_daemons_that_differ_a_little_put_no_mark_back(quick: Daemon) -> None:
    quick.clock.advance(MINUTE)
    quick.tell()
    with quick.store.read("test") as tx:
        before = notice_rows.marks(tx, quick.clock.now())
    quick.clock.advance(-30 * MINUTE)
    quick.restart()
    quick.tell()
    with quick.store.read("test") as tx:
        assert [mark.until for mark in notice_rows.marks(tx, quick.clock.now())] == [mark.until for mark in before]


class Counting:
    """Counts the statements that reach the database."""

    def __init__(self) -> None:
        self.statements = 0
        self.seen: list[tuple[str, Any]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        sql_event.listen(Engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sql_event.remove(Engine, "before_cursor_execute", self._note)

    def _note(self, *told: Any) -> None:
        with self._lock:
            self.statements += 1
            self.seen.append((told[2], told[3]))


def test_a_round_costs_what_has_come_near_and_not_what_there_is(quick: Daemon) -> None:
    """Ten thousand, most of which are renewed as planned."""
    web = quick.put(left=46 * DAY)
    quick.tell()
    with Counting() as alone:
        quick.tell()
    fleet(quick.store, web, 10_000, ends=MINUTE)
    quick.restart()
    quick.tell()
    with Counting() as among_many:
        quick.tell()
    assert among_many.statements <= alone.statements
    one = quick.put("shop", left=30 * DAY + 2 * MINUTE, **IMPORTED)
    quick.clock.advance(3 * MINUTE)
    with Counting() as telling:
        quick.notices.tell()
    assert quick.told() == quick.told(one) == [30]
    assert telling.statements <= alone.statements + 10


def test_all_that_come_near_at_once_are_told_page_by_page(quick: Daemon) -> None:
    """The pages that are left are told at the next look, not a minute later."""
    web = quick.put(left=46 * DAY, **IMPORTED)
    count = notices_module._PAGES_IN_A_BEAT * PAGE + 300
    fleet(quick.store, web, count)
    quick.clock.advance(2 * DAY)
    with Counting() as telling:
        quick.notices.tell()
    first = len(quick.told())
    assert first == count - 300
    quick.notices.tell()
    assert len(quick.told()) == count + 1
    assert repeated(quick.events()) == []
    # Events and rows of what is told are one each.
    assert telling.statements <= 3 * first


def test_what_is_asked_is_read_by_the_end(quick: Daemon) -> None:
    quick.put(left=10 * DAY)
    mark = Mark(kind=NoticeKind.MANAGED_CERTIFICATE, days=45, until=quick.clock.now())
    later = quick.clock.now() + DAY
    with quick.store.read("test") as tx:
        explaining = Explaining(tx)
        notice_rows.near(explaining, mark, later, limit=10)
        notice_rows.near_authorities(explaining, mark, later, limit=10)
        notice_rows.marks(explaining, later)
    managed, authorities, marks = explaining.plans
    by_end = "managed_certificates_not_after (state=? AND (not_after,uid)>(?,?) AND not_after<?)"
    assert by_end in managed
    assert "authorities_not_after ((not_after,uid)>(?,?) AND not_after<?)" in authorities
    for plan in (managed, authorities):
        assert "SCAN" not in plan
        assert "ORDER BY" not in plan
    assert "managed_certificates_not_after (state=? AND not_after>? AND not_after<?)" in marks
    assert "authorities_not_after (not_after>? AND not_after<?)" in marks


def test_postgresql_reads_by_the_end_too(daemons: tuple[Daemon, Daemon]) -> None:
    """It knows nothing of where the marks are, and would read the whole table for what is not there."""
    first, _ = daemons
    fleet(first.store, first.put(left=60 * DAY), 2000, ends=MINUTE)
    first.store.write("test.analyze", lambda tx: tx.execute(text("ANALYZE")))
    with first.store.read("test.explain") as tx, Counting() as asked:
        notice_rows.marks(tx, first.clock.now())
        # Those who number events ask too.
        sql, values = next(one for one in asked.seen if "notice_marks" in one[0])
        plan = tx.execute(text("EXPLAIN " + re.sub(r"%\((\w+)\)s(::\w+)?", r":\1", sql)), values).scalars().all()
    assert any("managed_certificates_not_after" in line for line in plan)
    assert not any("Seq Scan on managed_certificates" in line for line in plan)
