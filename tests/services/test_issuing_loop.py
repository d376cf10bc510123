"""The issuing loop itself: what its token answers, and its end."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.names import AuthorityName
from certd.services.issuing_loop import IssuingLoop
from certd.services.paging import PageRequest
from certd.services.steps import no_step
from certd.token.client import SignItem, TokenClient
from tests.services.conftest import ADMINISTRATOR, World

ROOT = AuthorityName("default", "root")


class AnsweringToken(TokenClient):
    """A token that is there, and answers what a test says."""

    def __init__(self, answer: Callable[[Sequence[SignItem]], list[bytes | CertdError]]) -> None:
        self._answer = answer

    @property
    def ready(self) -> bool:
        return True

    def submit_signatures(
        self,
        items: Sequence[SignItem],
        *,
        timeout: float,
        answered: Callable[[list[bytes | CertdError] | CertdError], None],
    ) -> None:
        assert timeout > 0
        answered(self._answer(items))


def test_an_answer_without_sense_ends_one_round_and_not_the_loop(world: World) -> None:
    world.create_root()
    token = world.core.loop._token
    world.core.loop._token = AnsweringToken(lambda _items: [])
    with pytest.raises(CertdError) as failed:
        world.issue("www.example.internal", authority="root")
    assert failed.value.reason is Reason.INTERNAL
    world.core.loop._token = token
    assert world.issue("www.example.internal", authority="root").der
    page = world.core.certificates.page(ADMINISTRATOR, ROOT, PageRequest(10, ""))
    states = [view.certificate.state for view in page.items]
    assert sorted(states) == [CertificateState.ISSUED, CertificateState.ISSUED, CertificateState.LOST]


class HeldQueue:
    """A queue before which a caller hesitates."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.get, self.get_nowait, self.qsize = self._queue.get, self._queue.get_nowait, self._queue.qsize
        self.reached, self.go_on = threading.Event(), threading.Event()

    def put(self, item: object) -> None:
        if item is not None:
            self.reached.set()
            assert self.go_on.wait(20)
        self._queue.put(item)


def test_who_comes_at_the_very_end_does_not_wait_for_ever(world: World) -> None:
    """A caller that was let in and has not queued yet is served before the loop ends; who comes after is refused."""
    world.create_root()
    core = world.core
    loop = IssuingLoop(store=core.store, token=core.token, clock=core.clock, epoch=core.ownership.epoch, step=no_step)
    held = HeldQueue()
    loop._queue = held  # type: ignore[assignment]  # All that the loop does with its queue.
    loop.start()
    core.certificates._issuing._loop = loop
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(world.issue, "www.example.internal", authority="root")
        assert held.reached.wait(20)
        stopped = pool.submit(loop.stop)
        # A loop that would not wait for the caller has ended long before this.
        wait([stopped], timeout=0.5)
        held.go_on.set()
        assert late.result(20).der
        stopped.result(20)
    with pytest.raises(CertdError) as refused:
        world.issue("other.example.internal", authority="root")
    assert refused.value.reason is Reason.SHUTTING_DOWN
