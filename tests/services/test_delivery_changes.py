"""Deliveries while subscriptions change, targets stumble or are slow, and much has happened before."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from certd.model.delivery import LONGEST, LONGEST_BACKOFF, Answer
from certd.model.event import EventType, NumberedEvent
from certd.model.subscription import SubscriptionState, WebhookTarget
from certd.services.deliveries import MOST_OF_A_TENANT
from certd.store import subscriptions
from tests.postgres import postgres_server, postgres_url
from tests.services.delivery_books import AWAY, REFUSED, STUMBLES, TAKEN, UID, Books, answers, books_on, firsts
from tests.store.samples import add_tenant

__all__ = ["postgres_server", "postgres_url"]


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


def test_an_event_over_which_the_target_stumbles_holds_up_no_others(either: Books) -> None:
    either.subscribe()
    bad, behind, other = either.emit("a", "a", "b")
    is_mended = False
    either.target.answer = lambda event: STUMBLES if event.seq == bad and not is_mended else TAKEN
    either.go()
    end = either.clock.now() + timedelta(minutes=2)
    while (due := either.due()) is not None and due < end:
        either.clock.advance(due - either.clock.now())
        either.go()
    assert either.target.taken == [other]
    later = either.emit("b")
    either.go()
    assert either.target.taken == [other, *later]
    is_mended = True
    either.go_until_nothing_is_due(most=LONGEST_BACKOFF)
    assert either.target.taken == [other, *later, bad, behind]
    assert either.subscription().attempts == 0


def test_a_target_that_stumbles_over_everything_is_tried_ever_more_rarely_and_loses_nothing(books: Books) -> None:
    books.subscribe()
    seqs = books.emit(*"abcdefgh")
    books.target.answer = lambda _event: STUMBLES
    end = books.clock.now() + LONGEST - LONGEST_BACKOFF
    while books.clock.now() < end:
        books.go()
        due = books.due()
        assert due is not None
        books.clock.advance(due - books.clock.now())
    # Twice an hour, and more often at first.
    assert len(books.target.tried) < 2 * LONGEST // LONGEST_BACKOFF * 2
    assert not books.failed()
    books.target.answer = lambda _event: TAKEN
    books.go_until_nothing_is_due()
    assert sorted(books.target.taken) == seqs


@pytest.mark.parametrize("answer", [AWAY, REFUSED])
def test_what_happened_long_before_it_was_asked_for_is_tried_as_long_as_anything(books: Books, answer: Answer) -> None:
    (old,) = books.emit("a")
    books.clock.advance(LONGEST * 2)
    books.subscribe(delivered_seq=0)
    books.target.answer = answers({old: [answer]})
    books.go()
    assert not books.failed()
    books.go_until_nothing_is_due()
    assert books.target.taken == [old]


@pytest.mark.parametrize("step", ["deliver.1.answered", "deliver.2.recorded"])
@pytest.mark.parametrize("resource", ["", "tenants/default/managedCertificates/a"])
def test_what_is_asked_for_while_a_run_is_under_way_is_not_passed_by(either: Books, step: str, resource: str) -> None:
    either.subscribe(event_types=("managed-certificate.renewed",), resource=resource)
    first = either.emit("a")
    more: list[int] = []

    def change() -> None:
        either.change(event_types=("managed-certificate.*",), resource="")
        more.extend(either.emit("b", type_=EventType.MANAGED_CERTIFICATE_REVOKED))
        more.extend(either.emit("a"))

    either.steps.at[step] = change
    either.go()
    # By what was looked for before, only the last one of them was wanted.
    assert firsts(either.target.taken) == [*first, *more]
    assert either.subscription().delivered_seq == more[-1]
    assert either.due() is None


def test_what_is_refused_while_others_are_asked_for_comes_in_its_order(books: Books) -> None:
    books.subscribe(event_types=("managed-certificate.renewed",))
    (passed,) = books.emit("a", type_=EventType.MANAGED_CERTIFICATE_REVOKED)
    (refused,) = books.emit("a")
    books.target.answer = answers({refused: [REFUSED]})
    books.steps.at["deliver.1.answered"] = lambda: books.change(event_types=("managed-certificate.*",))
    books.go_until_nothing_is_due()
    assert books.target.taken == [passed, refused]


def test_targets_of_one_tenant_that_are_slow_keep_no_other_waiting(books: Books) -> None:
    add_tenant(books.store, "other")
    for number in range(MOST_OF_A_TENANT + 1):
        books.subscribe(f"slow-{number}")
    books.subscribe("of-other", tenant="other", event_types=("*",))
    books.emit("a")
    goes_on, asked = threading.Event(), threading.Semaphore(0)

    def slowly(_event: NumberedEvent) -> Answer:
        asked.release()
        goes_on.wait(20)
        return TAKEN

    books.target.answer = slowly
    books.wakes.look()
    with ThreadPoolExecutor(MOST_OF_A_TENANT) as pool:
        runs = [pool.submit(books.deliveries.deliver, f"slow-{number}") for number in range(MOST_OF_A_TENANT)]
        try:
            assert all(asked.acquire(timeout=20) for _ in runs)
            last = f"slow-{MOST_OF_A_TENANT}"
            books.deliveries.deliver(last)
            assert not asked.acquire(blocking=False)
            due = books.due(last)
            assert due is not None
            assert due > books.clock.now()
            books.deliveries.deliver("of-other")
            assert books.due("of-other") is None
        finally:
            goes_on.set()
    books.clock.advance(due - books.clock.now())
    books.go(last)
    assert books.target.taken == [1] * (MOST_OF_A_TENANT + 1)


def test_what_is_asked_for_by_now_wakes(books: Books) -> None:
    books.subscribe(event_types=("managed-certificate.renewed",))
    for type_ in (EventType.MANAGED_CERTIFICATE_RENEWED, EventType.MANAGED_CERTIFICATE_REVOKED):
        books.emit("a", type_=type_)
        books.go()
    books.change(event_types=("managed-certificate.*",))
    books.go()
    (last,) = books.emit("a", type_=EventType.MANAGED_CERTIFICATE_REVOKED)
    books.go()
    assert books.target.taken[-1] == last


def test_nothing_is_sent_while_it_is_disabled_and_all_of_it_afterwards(books: Books) -> None:
    books.subscribe()
    seqs = books.emit("a", "b")
    books.change(state=SubscriptionState.DISABLED)
    books.go()
    books.emit("c")
    books.go()
    assert not books.target.tried
    assert books.due() is None
    books.change(state=SubscriptionState.ENABLED)
    books.go()
    assert books.target.taken == [*seqs, seqs[-1] + 1]


def test_disabled_between_two_events(books: Books) -> None:
    books.subscribe()
    seqs = books.emit("a", "b", "c")
    books.steps.at["deliver.1.answered"] = lambda: books.change(state=SubscriptionState.DISABLED)
    books.go()
    assert books.target.taken == seqs[:1]
    assert books.subscription().delivered_seq == seqs[0]
    assert books.due() is None


def test_a_new_target_gets_what_is_left(books: Books) -> None:
    books.subscribe()
    books.emit("a", "b", "c")
    elsewhere = WebhookTarget(url="https://elsewhere.example/")
    books.steps.at["deliver.1.answered"] = lambda: books.change(target=elsewhere)
    books.go()
    assert books.target.urls == ["https://hook.example/", elsewhere.url, elsewhere.url]


@pytest.mark.parametrize("step", ["deliver.1.answered", "deliver.2.recorded"])
def test_a_new_target_is_not_waited_for_because_the_old_one_is_away(books: Books, step: str) -> None:
    books.subscribe()
    books.emit("a")
    books.target.answer = lambda _event: AWAY
    elsewhere = WebhookTarget(url="https://elsewhere.example/")
    books.steps.at[step] = lambda: books.change(target=elsewhere)
    books.wakes.look()
    books.deliveries.deliver(UID)
    assert books.due() == books.clock.now()
    books.target.answer = lambda _event: TAKEN
    books.go()
    assert books.target.urls == [elsewhere.url]


@pytest.mark.parametrize("step", ["deliver.1.answered", "deliver.2.recorded"])
def test_deleted_while_it_is_delivered(books: Books, step: str) -> None:
    books.subscribe()
    seqs = books.emit("a", "b")
    books.target.answer = lambda _event: REFUSED
    books.wakes.look()

    def delete() -> None:
        books.store.write("test", lambda tx: subscriptions.delete(tx, UID))

    books.steps.at[step] = delete
    books.deliveries.deliver(UID)
    # Right after its commit the run knows nothing of it yet.
    assert books.target.tried == (seqs[:1] if step == "deliver.1.answered" else seqs)
    assert books.due() is None
    books.deliveries.deliver(UID)
    assert not books.waiting()
