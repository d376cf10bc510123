"""The issuing loop itself: what its token answers, and its end."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import pytest

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.names import AuthorityName
from certd.pki.preparation import Validity
from certd.pki.profiles import END_ENTITY
from certd.prepare.order import Csr
from certd.services.issuance import Order
from certd.services.issuing import Asked, Pending
from certd.services.issuing_loop import IssuingLoop
from certd.services.paging import PageRequest
from certd.services.steps import no_step
from certd.store.store import Store, Transaction
from certd.token.client import SignItem, TokenClient
from tests.services.conftest import ADMINISTRATOR, World
from tests.waiting import eventually

T = TypeVar("T")
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


class HoldingToken(TokenClient):
    """A token that is there, and answers nothing until it is let go."""

    def __init__(self, token: TokenClient) -> None:
        self._token = token
        self._held: list[Callable[[], None]] = []
        self.timeouts: list[float] = []

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
        self.timeouts.append(timeout)
        self._held.append(lambda: self._token.submit_signatures(items, timeout=timeout, answered=answered))

    def let_go(self) -> None:
        while self._held:
            self._held.pop()()


def test_what_a_slow_token_signs_counts_as_waiting(world: World) -> None:
    """However fast the loop hands over, no more is intended than the bound allows."""
    world.create_root()
    loop = world.core.loop
    token = loop._token
    loop._token = held = HoldingToken(token)
    loop.queue_length = 3
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(world.issue, f"www{number}.example.internal", authority="root") for number in range(3)]
        eventually(lambda: loop._signing == 3)
        assert loop.waiting == 0
        with pytest.raises(CertdError) as refused:
            world.issue("other.example.internal", authority="root")
        assert refused.value.reason is Reason.SIGNING_QUEUE_FULL
        assert "3 certificates wait for the token" in refused.value.message
        assert refused.value.retry_after
        held.let_go()
        assert all(one.result(20).der for one in made)
    loop._token = token
    assert world.issue("other.example.internal", authority="root").der


def test_a_frame_has_time_for_those_before_it(world: World) -> None:
    """A slow token comes to it late, which is no reason to lose what it will sign."""
    world.create_root()
    loop = world.core.loop
    token = loop._token
    loop._token = held = HoldingToken(token)
    with ThreadPoolExecutor(2) as pool:
        made = []
        for number in range(1, 3):
            made.append(pool.submit(world.issue, "www.example.internal", authority="root"))
            eventually(partial(_signs, loop, number))
        first, second = held.timeouts
        assert second == first + 1
        held.let_go()
        assert all(one.result(20).der for one in made)
    loop._token = token


def _signs(loop: IssuingLoop, number: int) -> bool:
    return loop._signing == number


class FullStore(Store):
    """A store on a disk that is full."""

    def __init__(self) -> None:
        """Without anything behind it."""

    def write(self, _name: str, _work: Callable[[Transaction], T]) -> T:
        raise CertdError(Reason.STORE_UNAVAILABLE, "the disk is full", retry_after=1.0)


def test_a_database_that_takes_nothing_does_not_make_the_loop_grow(world: World) -> None:
    world.create_root()
    loop = world.core.loop
    store, loop._store = loop._store, FullStore()
    loop.queue_length = 3
    for number in range(10):
        with pytest.raises(CertdError) as failed:
            world.issue(f"www{number}.example.internal", authority="root")
        assert failed.value.reason is Reason.STORE_UNAVAILABLE
        assert failed.value.retry_after
    assert len(loop._unrecorded) <= 3
    loop._store = store
    eventually(lambda: not loop._unrecorded)
    assert world.issue("www.example.internal", authority="root").der


def test_who_gave_up_keeps_nobody_else_from_hearing(world: World) -> None:
    """What a prepare process answers late is for those who still wait; for the others it is no defect."""
    world.create_root()
    now = world.clock.now()
    asked = Asked(
        signer=world.core.certificates._signers.enabled(ROOT, now), principal="anybody", now=now, deadline=None
    )
    order = Order(origin="csr", source=Csr(data=b""), profile=END_ENTITY, validity=Validity())
    gone, waits = Pending(order, None), Pending(order, None)
    assert gone.future.cancel()
    heard = world.core.certificates._issuing._to_loop(asked, [gone, waits], [None, None])
    heard([CertdError(Reason.CSR_MALFORMED, "late"), CertdError(Reason.CSR_MALFORMED, "late too")])
    with pytest.raises(CertdError, match="late too"):
        waits.outcome()
