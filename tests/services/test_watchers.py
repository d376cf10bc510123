"""Watchers are woken a few at a time, and none waits for one that is stuck."""

import threading
from collections.abc import Iterator

import pytest

from certd.errors import CertdError, Reason
from certd.model.event import NumberedEvent
from certd.services.watchers import TooSlowError, Waking, Watcher
from certd.store.event_chain import CHAIN_START
from tests.store.samples import event
from tests.waiting import eventually

EVENT = NumberedEvent(seq=1, event=event(), chain_hash=bytes(32))
AT_ONCE = 2


@pytest.fixture
def waking() -> Iterator[Waking]:
    made = Waking(AT_ONCE)
    yield made
    made.stop()


class Crowd:
    """Watchers that wait, each on a thread, and stay awake until they may rest."""

    def __init__(self, waking: Waking, count: int) -> None:
        self.watchers = [Watcher(CHAIN_START, None, 10, waking) for _ in range(count)]
        self.awake: set[Watcher] = set()
        self.most = 0
        self.told = 0
        self.may_rest = threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._watch, args=(each,)) for each in self.watchers]
        for thread in self.threads:
            thread.start()
        eventually(lambda: all(each._is_waiting for each in self.watchers))

    def end(self) -> None:
        self.may_rest.set()
        for each in self.watchers:
            each.end()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()

    def _watch(self, watcher: Watcher) -> None:
        while (rows := watcher.take(60)) is not None:
            with self._lock:
                self.awake.add(watcher)
                self.most = max(self.most, len(self.awake))
                self.told += len(rows)
            self.may_rest.wait()
            with self._lock:
                self.awake.discard(watcher)
            watcher.rest()


def test_a_crowd_is_woken_a_few_at_a_time(waking: Waking) -> None:
    crowd = Crowd(waking, 20)
    crowd.may_rest.set()
    for _ in range(3):
        before = crowd.told
        for watcher in crowd.watchers:
            watcher.put(EVENT)
        eventually(lambda before=before: crowd.told == before + 20)  # type: ignore[misc]  # mypy infers no type for a default.
    assert crowd.most <= AT_ONCE
    crowd.end()


def test_those_who_do_not_rest_hold_up_nobody_for_long(waking: Waking) -> None:
    crowd = Crowd(waking, 5)
    for watcher in crowd.watchers:
        watcher.put(EVENT)
    eventually(lambda: len(crowd.awake) == 5)
    crowd.may_rest.set()
    eventually(lambda: all(each._is_waiting for each in crowd.watchers))
    # Nobody has lost or won a turn by it.
    eventually(lambda: waking._turns._value == AT_ONCE)
    crowd.end()


def test_a_watcher_takes_what_came_and_is_told_why_it_ends(waking: Waking) -> None:
    watcher = Watcher(CHAIN_START, None, 2, waking)
    assert watcher.take(0) == []
    watcher.put(EVENT)
    assert not watcher.has_nothing
    assert watcher.take(60) == [EVENT]
    watcher.wake()
    assert watcher.take(60) == []
    for _ in range(3):
        watcher.put(EVENT)
    assert not watcher.has_nothing
    with pytest.raises(TooSlowError):
        watcher.take(60)
    watcher.end(CertdError(Reason.SHUTTING_DOWN, "stopping"))
    with pytest.raises(CertdError, match="SHUTTING_DOWN"):
        watcher.take(60)
    gone = Watcher(CHAIN_START, None, 2, waking)
    gone.end()
    assert gone.take(60) is None
