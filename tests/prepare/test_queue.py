"""What waits for the prepare processes: goes together, and is answered once, to whom it belongs."""

import os
import random
import signal
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.pki.profiles import BUILT_IN
from certd.prepare.client import Preparer
from certd.prepare.messages import Wanted
from certd.prepare.order import Item
from tests.prepare.asking import Heard, item, made, running_preparer, terms_of, told
from tests.unit.memory_authority import MemoryAuthority
from tests.waiting import eventually

_ROUNDS = 40
_CALLERS = 8


def serial_of(number: int) -> int:
    return (1 << 126) | number


def test_each_caller_of_a_call_hears_of_its_own_items(authority: MemoryAuthority) -> None:
    """Also of those that fail between others."""
    terms, good, bad = terms_of(authority), item(), item(b"no CSR")
    with running_preparer() as preparer:
        (process_id,) = preparer.process_ids
        os.kill(process_id, signal.SIGSTOP)
        waiting = []
        number = 0
        # The first two are calls of their own; the others wait and go together as far as they fit.
        for size in (1, 1, 3, 1, 7, 2, 16, 1, 17, 1):
            items = []
            for _ in range(size):
                number += 1
                items.append(replace(bad if number % 3 == 0 else good, serial=serial_of(number)))
            waiting.append((Heard(), items))
            preparer.submit(terms, items, waiting[-1][0])
        os.kill(process_id, signal.SIGCONT)
        for heard, items in waiting:
            answers = heard.answers()
            assert len(answers) == len(items)
            for answer, one in zip(answers, items, strict=True):
                if one.source == bad.source:
                    assert told(answer).reason is Reason.CSR_MALFORMED
                else:
                    assert made(answer).prepared.serial == one.serial
        assert [heard.times for heard, _ in waiting] == [1] * len(waiting)


def test_what_waits_at_the_stop_is_told_so(authority: MemoryAuthority) -> None:
    terms, one = terms_of(authority), item()
    with running_preparer(2) as preparer:
        for process_id in preparer.process_ids:
            os.kill(process_id, signal.SIGSTOP)
        waiting = [Heard() for _ in range(100)]
        for heard in waiting:
            preparer.submit(terms, [one], heard)
        assert not any(heard.done for heard in waiting)
        for process_id in preparer.process_ids:
            os.kill(process_id, signal.SIGKILL)
        preparer.stop()
        for heard in waiting:
            (answer,) = heard.answers(10)
            assert told(answer).reason is Reason.PREPARATION_UNAVAILABLE
    assert [heard.times for heard in waiting] == [1] * len(waiting)


def test_everybody_hears_once_while_processes_die_hang_and_are_stopped(authority: MemoryAuthority) -> None:
    terms = [terms_of(authority), terms_of(authority, BUILT_IN["server"])]
    one = item()
    asked: list[tuple[Heard, list[int]]] = []
    lock, ended = threading.Lock(), threading.Event()
    preparer = Preparer(2, patience=1.0)

    def call(caller: int) -> None:
        draw, number = random.Random(caller), 0
        while not ended.is_set():
            for _ in range(draw.choice((1, 1, 5, 40))):
                size = draw.choice((1, 1, 2, 7, 10, 16, 17))
                serials = [serial_of(caller << 32 | number + further) for further in range(size)]
                number += size
                heard = Heard()
                with lock:
                    asked.append((heard, serials))
                items = [replace(one, serial=serial) for serial in serials]
                preparer.submit(draw.choice(terms), items, heard, wanted=Wanted(descriptions=draw.random() < 0.5))
            ended.wait(draw.random() / 20)

    def told_so_far() -> int:
        with lock:
            return sum(heard.done for heard, _ in asked)

    preparer.start()
    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(_CALLERS)]
    try:
        assert preparer.wait_settled(60)
        for thread in callers:
            thread.start()
        draw = random.Random(0)
        for _ in range(_ROUNDS):
            # One that hangs ends by the patience of those who ask, so that it always goes on.
            goal = told_so_far() + draw.randrange(1, 400)
            eventually(lambda goal=goal: told_so_far() >= goal, within=60)  # type: ignore[misc]  # mypy infers no type for a default.
            hurt(preparer.process_ids, draw)
    finally:
        # While they still ask.
        preparer.stop()
        ended.set()
        for thread in callers:
            thread.join(60)
    assert {heard.times for heard, _ in asked} == {1}
    assert sum(served(heard, serials) for heard, serials in asked)


def served(heard: Heard, serials: list[int]) -> int:
    """Returns how many items of a call were prepared; the others were refused, and none is another call's."""
    made_of, refused = 0, {Reason.PREPARATION_UNAVAILABLE, Reason.SIGNING_QUEUE_FULL}
    for answer, serial in zip(heard.answers(0), serials, strict=True):
        if isinstance(answer, CertdError):
            assert answer.reason in refused
        else:
            assert answer.prepared.serial == serial
            made_of += 1
    return made_of


def hurt(process_ids: Iterable[int], draw: random.Random) -> None:
    """Kills, stops or continues some of the processes."""
    for process_id in process_ids:
        sent = draw.choices((None, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT), (5, 2, 1, 2))[0]
        with suppress(ProcessLookupError):
            if sent is not None:
                os.kill(process_id, sent)


def _submitted(preparer: Preparer, items: Sequence[Item], authority: MemoryAuthority) -> Heard:
    heard = Heard()
    preparer.submit(terms_of(authority), items, heard)
    return heard


def test_one_that_is_back_takes_what_waits(authority: MemoryAuthority) -> None:
    one = item()
    with running_preparer(2) as preparer:
        hanging, dying = preparer.process_ids
        for process_id in (hanging, dying):
            os.kill(process_id, signal.SIGSTOP)
        stuck = [_submitted(preparer, [one], authority) for _ in range(4)]
        waiting = _submitted(preparer, [one], authority)
        os.kill(dying, signal.SIGKILL)
        eventually(lambda: sum(heard.done for heard in stuck) == 2)
        made(*waiting.answers())
        os.kill(hanging, signal.SIGCONT)


def test_what_cannot_be_written_concerns_its_caller_alone(authority: MemoryAuthority) -> None:
    with running_preparer() as preparer:
        for _ in range(3):
            with pytest.raises(ValueError, match="out of range"):
                _submitted(preparer, [item(lifetime=timedelta.max)], authority)
        made(*_submitted(preparer, [item()], authority).answers())


def test_one_caller_s_defect_keeps_nobody_from_hearing(authority: MemoryAuthority) -> None:
    def raising(_answers: object) -> None:
        raise RuntimeError("a defect")

    with running_preparer() as preparer:
        (process_id,) = preparer.process_ids
        os.kill(process_id, signal.SIGSTOP)
        first = [_submitted(preparer, [item()], authority) for _ in range(2)]
        preparer.submit(terms_of(authority), [item()], raising)
        behind = _submitted(preparer, [item()], authority)
        os.kill(process_id, signal.SIGCONT)
        for heard in (*first, behind):
            made(*heard.answers())


def test_one_that_hangs_holds_up_nobody_s_answers(authority: MemoryAuthority) -> None:
    """What does not fit into its socket is sent by those who ask, not by those who read what another one answers."""
    one, large = item(), item(os.urandom(32 * 1024))
    with running_preparer(2) as preparer:
        working, hanging = preparer.process_ids
        for process_id in (working, hanging):
            os.kill(process_id, signal.SIGSTOP)
        given = {worker.channel.process_id: worker for worker in preparer._workers}
        first = _submitted(preparer, [one], authority)
        _submitted(preparer, [one] * 10, authority)
        second = _submitted(preparer, [one], authority)
        callers = [threading.Thread(target=_submitted, args=(preparer, [large] * 10, authority)) for _ in range(2)]
        for thread in callers:
            thread.start()
        eventually(lambda: given[hanging].items == 20 and len(preparer._waiting) == 1)
        os.kill(working, signal.SIGCONT)
        for heard in (first, second, _submitted(preparer, [one], authority)):
            made(*heard.answers(10))
        assert working in preparer.process_ids
        os.kill(hanging, signal.SIGKILL)
        for thread in callers:
            thread.join()
