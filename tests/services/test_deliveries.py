"""Deliveries: at least once, in order per resource; what is refused, what is away, what is given up."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.model.delivery import (
    FIRST_BACKOFF,
    LONGEST,
    LONGEST_BACKOFF,
    MOST_ATTEMPTS,
    MOST_FAILED,
    Answer,
    Delivery,
    DeliveryState,
    Outcome,
    backoff,
)
from certd.model.event import EventType, NumberedEvent
from certd.model.job import JobKind
from certd.model.subscription import SubscriptionState
from certd.services import delivery_run, delivery_wakes
from certd.store import deliveries, jobs, subscriptions
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import CrashError, crash
from tests.services.delivery_books import (
    AWAY,
    REFUSED,
    STUMBLES,
    TAKEN,
    UID,
    Books,
    answers,
    books_on,
    firsts,
    repeatedly,
)

__all__ = ["postgres_server", "postgres_url"]

_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with books_on(f"sqlite:///{tmp_path / 'certd.db'}") as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Books]:
    """Books on each engine."""
    url = f"sqlite:///{tmp_path / 'certd.db'}"
    with books_on(url if request.param == "sqlite" else request.getfixturevalue("postgres_url")) as opened:
        yield opened


def test_everything_that_fits_is_delivered_in_its_order(either: Books) -> None:
    books = either
    books.emit("before")
    books.subscribe()
    wanted = books.emit("a", "b", "a")
    books.emit("c", type_=EventType.GRANT_CREATED)
    wanted += books.emit("b")
    books.go()
    assert books.target.taken == wanted
    assert books.target.message_ids == [f"events/{seq}:{UID}" for seq in wanted]
    after = books.subscription()
    assert (after.delivered_seq, after.delivery_time) == (books.newest(), books.clock.now())
    assert (after.attempts, after.last_error, after.next_attempt_time, after.revision) == (0, "", None, 1)
    assert books.due() is None
    books.emit("c", type_=EventType.GRANT_CREATED)
    books.go()
    assert books.target.taken == wanted


def test_pages_of_what_does_not_fit_are_passed(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_run, "PAGE", 3)
    books.subscribe(event_types=("managed-certificate.revoked",))
    books.emit(*"abcdefgh")
    (wanted,) = books.emit("a", type_=EventType.MANAGED_CERTIFICATE_REVOKED)
    books.emit(*"abcdefgh")
    books.go()
    assert books.target.tried == [wanted]
    assert books.subscription().delivered_seq == books.newest()


def test_what_is_refused_waits_and_others_go_on(either: Books) -> None:
    books = either
    books.subscribe()
    a1, b1, a2, b2, a3 = books.emit(*"ababa")
    books.target.answer = answers({a1: repeatedly(REFUSED, 2)})
    books.go()
    assert books.target.taken == [b1, b2]
    assert books.subscription().delivered_seq == books.newest()
    assert books.subscription().last_error == ""
    assert [(one.seq, one.attempts, one.error) for one in books.waiting()] == [(a1, 1, "no"), (a2, 0, ""), (a3, 0, "")]
    due = books.due()
    assert due is not None
    assert books.clock.now() + FIRST_BACKOFF * 0.75 <= due <= books.clock.now() + FIRST_BACKOFF
    # One more of it goes behind them, and others still go on.
    a4, b3 = books.emit("a", "b")
    books.go()
    assert books.target.taken == [b1, b2, b3]
    books.go_until_nothing_is_due()
    assert books.target.taken == [b1, b2, b3, a1, a2, a3, a4]
    assert books.target.tried.count(a1) == 3
    assert not books.waiting()
    assert books.subscription().last_error == ""


def test_what_is_refused_for_ever_is_given_up_and_told_of(books: Books) -> None:
    books.subscribe()
    a1, a2 = books.emit("a", "a")
    books.target.answer = lambda event: REFUSED if event.seq == a1 else TAKEN
    began = books.clock.now()
    books.go_until_nothing_is_due()
    assert books.target.tried == [*[a1] * MOST_ATTEMPTS, a2]
    assert books.clock.now() - began > timedelta(hours=1)
    (failed,) = books.failed()
    assert (failed.seq, failed.attempts, failed.error, failed.due_time) == (a1, MOST_ATTEMPTS, "no", None)
    assert failed.fail_time == books.clock.now()
    (told,) = books.events_of(EventType.DELIVERY_FAILED)
    assert told.resource == "tenants/default/subscriptions/s-1"
    name = f"events/{a1}"
    assert told.details == {"count": "1", "first_event": name, "last_event": name, "message": "no"}


def test_many_that_are_given_up_together_are_told_of_together(books: Books) -> None:
    books.subscribe()
    seqs = books.emit(*"abcdef")
    books.target.answer = lambda _event: REFUSED
    books.clock.advance(LONGEST + _MOMENT)
    books.go()
    assert [one.seq for one in books.failed()] == seqs
    told = [one.details["count"] for one in books.events_of(EventType.DELIVERY_FAILED)]
    assert told == ["1", "5"]


def test_two_subscriptions_do_not_tell_each_other_of_their_failures_for_ever(books: Books) -> None:
    books.subscribe()
    books.subscribe("s-2")
    books.emit("a")
    books.target.answer = lambda _event: REFUSED
    for _ in range(20):
        books.clock.advance(LONGEST + _MOMENT)
        books.go()
        books.go("s-2")
    assert len(books.events_of(EventType.DELIVERY_FAILED)) == 2


def test_a_target_that_is_away_makes_the_subscription_wait(books: Books) -> None:
    books.subscribe()
    seqs = books.emit("a", "b")
    books.target.answer = lambda _event: AWAY
    pauses = []
    for attempt in range(1, 14):
        books.go()
        after = books.subscription()
        assert (after.attempts, after.last_error, after.delivered_seq) == (attempt, "away", seqs[0] - 1)
        assert after.next_attempt_time == books.due()
        assert after.next_attempt_time is not None
        pauses.append(after.next_attempt_time - books.clock.now())
        books.emit("c")
        # Before it is time nobody tries, whatever happens.
        books.clock.advance(pauses[-1] - _MOMENT)
        books.go()
        assert len(books.target.tried) == attempt
        books.clock.advance(_MOMENT)
    assert FIRST_BACKOFF * 0.75 <= pauses[0] <= FIRST_BACKOFF
    assert pauses[3] > pauses[0]
    assert LONGEST_BACKOFF * 0.75 <= pauses[-1] <= LONGEST_BACKOFF
    assert set(books.target.tried) == {seqs[0]}
    books.target.answer = lambda _event: TAKEN
    books.go()
    assert books.target.taken == list(range(seqs[0], books.newest() + 1))
    after = books.subscription()
    assert (after.attempts, after.last_error, after.next_attempt_time) == (0, "", None)
    assert not books.failed()


def test_the_target_says_when_to_come_again(books: Books) -> None:
    books.subscribe()
    books.emit("a")
    for said, waits in ((timedelta(minutes=7), timedelta(minutes=7)), (timedelta(days=1), LONGEST_BACKOFF)):
        books.target.answer = lambda _event, said=said: replace(AWAY, retry_after=said)  # type: ignore[misc]  # Bound.
        books.go()
        assert books.due() == books.clock.now() + waits
        books.clock.advance(waits)
    books.target.answer = lambda _event: replace(AWAY, retry_after=timedelta(0))
    books.go()
    assert books.due() > books.clock.now() + FIRST_BACKOFF  # type: ignore[operator]  # It waits.


def test_what_is_old_and_was_tried_is_given_up(books: Books) -> None:
    books.subscribe()
    a1, a2, b1 = books.emit("a", "a", "b")
    books.target.answer = lambda _event: AWAY
    books.clock.advance(LONGEST + _MOMENT)
    books.go()
    # The first was tried; the others were not yet.
    assert [one.seq for one in books.failed()] == [a1]
    assert books.subscription().delivered_seq == a1
    books.clock.advance(LONGEST_BACKOFF)
    books.target.answer = lambda _event: TAKEN
    books.go()
    assert books.target.taken == [a2, b1]


def test_past_so_many_that_wait_the_subscription_waits(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_run, "MOST_WAITING", 3)
    books.subscribe()
    seqs = books.emit(*"abcde")
    books.target.answer = lambda _event: REFUSED
    books.go()
    assert [one.seq for one in books.waiting()] == seqs[:3]
    assert books.subscription().delivered_seq == seqs[2]
    due = books.due()
    assert due is not None
    assert due > books.clock.now()
    books.target.answer = lambda _event: TAKEN
    books.go_until_nothing_is_due()
    assert sorted(books.target.taken) == seqs


def test_failed_ones_are_tried_anew(either: Books) -> None:
    books = either
    books.subscribe()
    a1, b1, c1 = books.emit("a", "b", "c")
    books.target.answer = lambda _event: REFUSED
    books.clock.advance(LONGEST + _MOMENT)
    books.go()
    assert [one.seq for one in books.failed()] == [a1, b1, c1]
    now = books.clock.now()

    def retry(seqs: list[int] | None) -> int:
        def work(tx: object) -> int:
            count = deliveries.retry(tx, UID, seqs, now)  # type: ignore[arg-type]
            jobs.hasten(tx, JobKind.DELIVER_EVENTS, UID, now)  # type: ignore[arg-type]
            return count

        return books.store.write("test", work)

    assert retry([]) == 0
    assert retry([b1, b1 + 100]) == 1
    books.target.answer = lambda _event: TAKEN
    books.go()
    assert books.target.taken == [b1]
    assert retry(None) == 2
    books.go()
    assert books.target.taken == [b1, a1, c1]
    assert not books.failed()
    assert books.due() is None


def test_only_the_newest_failed_ones_are_kept(either: Books) -> None:
    books = either
    books.subscribe()
    now = books.clock.now()
    rows = [
        Delivery(subscription_uid=UID, seq=seq, resource="r", state=DeliveryState.FAILED, due_time=None, fail_time=now)
        for seq in range(1, MOST_FAILED + 3)
    ]

    def work(tx: object) -> None:
        for row in rows[:MOST_FAILED]:
            deliveries.put(tx, row)  # type: ignore[arg-type]
        assert deliveries.count_failed(tx, UID) == MOST_FAILED  # type: ignore[arg-type]
        for row in rows[MOST_FAILED:]:
            deliveries.put(tx, row)  # type: ignore[arg-type]

    books.store.write("test", work)
    assert [one.seq for one in books.failed()] == list(range(3, MOST_FAILED + 3))
    with books.store.read("test") as tx:
        assert deliveries.count_failed(tx, UID) == MOST_FAILED
        assert deliveries.failed_page(tx, UID, after_seq=5, limit=1)[0].seq == 6


def test_another_that_sends_them_meanwhile_is_not_set_back(books: Books) -> None:
    """A daemon that hung goes on after another took its job."""
    books.subscribe()
    seqs = books.emit("a", "b", "c")
    books.steps.at["deliver.1.answered"] = books.go
    books.wakes.look()
    books.deliveries.deliver(UID)
    assert books.target.taken == [seqs[0], *seqs]
    assert books.subscription().delivered_seq == books.newest()


@pytest.mark.parametrize("occurrence", range(1, 4))
@pytest.mark.parametrize("step", ["deliver.1.answered", "deliver.2.recorded", "deliver.3.settled"])
def test_a_death_repeats_one_event_at_most(books: Books, step: str, occurrence: int) -> None:
    books.subscribe()
    seqs = books.emit(*"abab")

    def at(count: int) -> None:
        if count == occurrence:
            crash()
        books.steps.at[step] = lambda: at(count + 1)

    books.steps.at[step] = lambda: at(1)
    died = False
    for _ in range(2):
        try:
            books.go()
        except CrashError:
            died = True
    assert died == (step != "deliver.3.settled" or occurrence == 1)
    assert firsts(books.target.taken) == seqs
    assert len(books.target.taken) == len(seqs) + (step == "deliver.1.answered")
    assert books.subscription().delivered_seq == books.newest()


_ANSWERS = st.lists(
    st.sampled_from([REFUSED, AWAY, STUMBLES, replace(AWAY, retry_after=timedelta(minutes=2))]), max_size=4
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=5),
    scripts=st.lists(_ANSWERS, max_size=12),
    deaths=st.lists(st.tuples(st.sampled_from(["deliver.1.answered", "deliver.2.recorded"]), st.integers(1, 6))),
)
def test_whatever_happens_each_is_delivered_in_its_order(
    books: Books, batches: list[str], scripts: list[list[Answer]], deaths: list[tuple[str, int]]
) -> None:
    """Targets refuse and go away, daemons die: every event comes, first in the order of its resource."""
    books.subscribe()
    first = books.newest() + 1
    books.target.tried.clear()
    books.target.taken.clear()
    books.target.answer = answers({first + number: script for number, script in enumerate(scripts)})
    resource_of: dict[int, str] = {}

    def dies(step: str, count: int) -> None:
        if count > 1:
            books.steps.at[step] = lambda: dies(step, count - 1)
        else:
            crash()

    for batch in batches:
        resource_of |= dict(zip(books.emit(*batch), batch, strict=True))
        if deaths:
            step, count = deaths.pop()
            books.steps.at[step] = lambda step=step, count=count: dies(step, count)  # type: ignore[misc]  # Bound.
        try:
            books.go()
        except CrashError:
            books.clock.advance(timedelta(seconds=1))
    books.go_until_nothing_is_due()
    came = firsts(books.target.taken)
    assert sorted(came) == sorted(resource_of)
    for resource in "abc":
        of_it = [seq for seq in came if resource_of[seq] == resource]
        assert of_it == sorted(of_it)
    assert books.subscription().delivered_seq == books.newest()
    assert not books.waiting()
    assert not books.failed()
    # For the next example.
    books.steps.at.clear()
    assert books.store.write("test", lambda tx: subscriptions.delete(tx, UID))


def test_what_the_server_itself_cannot_do_is_told(books: Books) -> None:
    books.subscribe()
    now = books.clock.now()
    error = CertdError(Reason.TOKEN_UNAVAILABLE, "the token is away")
    books.store.write("test", lambda tx: books.deliveries.blocked(tx, UID, error, now))
    books.store.write("test", lambda tx: books.deliveries.blocked(tx, "gone", error, now))
    after = books.subscription()
    assert (after.last_error, after.next_attempt_time) == ("TOKEN_UNAVAILABLE: the token is away", now)


def test_a_test_is_sent_and_ends_a_wait(books: Books) -> None:
    books.subscribe()
    seqs = books.emit("a")
    books.target.answer = lambda _event: AWAY
    books.go()
    assert books.deliveries.test(books.subscription(), books.clock.now()) == "away"
    assert books.subscription().next_attempt_time is not None
    sent: list[NumberedEvent] = []

    def take(event: NumberedEvent) -> Answer:
        sent.append(event)
        return TAKEN

    books.target.answer = take
    assert books.deliveries.test(books.subscription(), books.clock.now()) == ""
    assert (sent[0].seq, sent[0].event.type) == (0, EventType.SUBSCRIPTION_TEST)
    assert sent[0].event.resource == "tenants/default/subscriptions/s-1"
    assert books.subscription().next_attempt_time is None
    books.go()
    assert books.target.taken[-1:] == seqs
    books.clock.advance(_MOMENT)
    assert books.deliveries.test(books.subscription(), books.clock.now()) == ""
    ids = [one for one in books.target.message_ids if one.startswith("test/")]
    assert ids[-1] != ids[-2]


def test_a_run_ends_after_a_while_and_goes_on(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_run, "LONGEST_RUN", 0.0)
    books.subscribe()
    books.emit("a")
    books.wakes.look()
    books.deliveries.deliver(UID)
    assert not books.target.tried
    assert books.due() == books.clock.now()
    monkeypatch.setattr(delivery_run, "LONGEST_RUN", 30.0)
    books.deliveries.stop()
    books.deliveries.deliver(UID)
    assert not books.target.tried


def test_who_wants_what_happened_is_woken_and_nobody_else(either: Books) -> None:
    books = either
    books.subscribe()
    books.subscribe("s-2", event_types=("grant.*",))
    books.subscribe("s-3", resource="tenants/default/managedCertificates/b")
    books.subscribe("s-4", state=SubscriptionState.DISABLED)
    books.wakes.look()
    books.emit("a")
    books.wakes.look()
    uids = ("s-1", "s-2", "s-3", "s-4")
    assert [uid for uid in uids if books.due(uid)] == ["s-1"]
    books.emit("b")
    books.wakes.look()
    assert [uid for uid in uids if books.due(uid)] == ["s-1", "s-3"]


def test_one_that_did_not_move_is_woken_again_and_not_for_ever(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_wakes, "_AGAIN", 0.0)
    books.subscribe()
    books.wakes.look()
    books.emit("a")
    hastened = 0
    for _ in range(20):
        books.wakes.look()
        hastened += books.store.write("test", lambda tx: jobs.finish(tx, JobKind.DELIVER_EVENTS, UID))
    assert hastened == 1 + delivery_wakes._TIMES


def test_one_that_was_woken_is_not_woken_for_each_further_event(books: Books) -> None:
    books.subscribe()
    books.wakes.look()
    hastened = 0
    for _ in range(3):
        books.emit("a")
        books.wakes.look()
        hastened += books.store.write("test", lambda tx: jobs.finish(tx, JobKind.DELIVER_EVENTS, UID))
    assert hastened == 1


@given(st.integers(1, 100_000), st.floats(0, 1))
def test_pauses_are_between_their_bounds(attempts: int, jitter: float) -> None:
    assert FIRST_BACKOFF * 0.75 <= backoff(attempts, jitter) <= LONGEST_BACKOFF
    assert Outcome.AWAY.value == "away"
