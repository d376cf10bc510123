"""Prepare processes die, hang, are flooded, and share the work."""

import os
import signal
import sys
import threading

import psutil
import pytest

from certd.errors import CertdError, Reason
from certd.ipc.channel import Channel, SpawnedChild
from certd.prepare.client import Preparer, default_workers
from certd.prepare.messages import Wanted, request_bytes
from certd.prepare.process import QUEUE_LENGTH
from tests.prepare.asking import Heard, ask, item, made, running_preparer, terms_of, told
from tests.unit.memory_authority import MemoryAuthority
from tests.waiting import eventually


def only_process(preparer: Preparer) -> int:
    (process_id,) = preparer.process_ids
    return process_id


def test_who_waits_for_one_that_dies_is_told_to_try_again_and_is_served_then(authority: MemoryAuthority) -> None:
    terms, one = terms_of(authority), item()
    with running_preparer() as preparer:
        process_id = only_process(preparer)
        os.kill(process_id, signal.SIGSTOP)
        waiting = [Heard() for _ in range(8)]
        for heard in waiting:
            preparer.submit(terms, [one] * 3, heard)
        assert not any(heard.done for heard in waiting)
        os.kill(process_id, signal.SIGKILL)
        for heard in waiting:
            answers = heard.answers(10)
            assert [told(answer).reason for answer in answers] == [Reason.PREPARATION_UNAVAILABLE] * 3
            assert all(told(answer).retry_after for answer in answers)
            # Each is raised to another caller, with a traceback of its own.
            assert len({id(answer) for answer in answers}) == 3
        eventually(lambda: preparer.state.ready == 1)
        assert only_process(preparer) != process_id
        made(*ask(preparer, terms, [one]))
        assert [heard.times for heard in waiting] == [1] * 8


def test_killed_again_and_again_it_still_returns(authority: MemoryAuthority) -> None:
    with running_preparer() as preparer:
        for _ in range(4):
            process_id = only_process(preparer)
            os.kill(process_id, signal.SIGKILL)
            eventually(lambda old=process_id: preparer.process_ids not in {(), (old,)} and preparer.state.ready)  # type: ignore[misc]  # mypy infers no type for a default.
            made(*ask(preparer, terms_of(authority), [item()]))


def test_meanwhile_calls_fail_at_once(authority: MemoryAuthority) -> None:
    preparer = Preparer(1)
    (answer,) = ask(preparer, terms_of(authority), [item()])
    assert told(answer).reason is Reason.PREPARATION_UNAVAILABLE
    assert told(answer).retry_after
    preparer.start()
    assert preparer.wait_settled(60)
    preparer.stop()
    (answer,) = ask(preparer, terms_of(authority), [item()])
    assert told(answer).reason is Reason.PREPARATION_UNAVAILABLE


def test_what_the_others_have_to_do_they_do_when_one_dies(authority: MemoryAuthority) -> None:
    with running_preparer(2) as preparer:
        first, _ = preparer.process_ids
        os.kill(first, signal.SIGKILL)
        eventually(lambda: preparer.state.ready == 1)
        for _ in range(20):
            made(*ask(preparer, terms_of(authority), [item()]))


def test_several_share_the_work(authority: MemoryAuthority) -> None:
    terms, items = terms_of(authority), [item()] * 10
    with running_preparer(3) as preparer:
        processes = [psutil.Process(process_id) for process_id in preparer.process_ids]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        waiting = [Heard() for _ in range(150)]
        for heard in waiting:
            preparer.submit(terms, items, heard)
        assert all(made(answer) for heard in waiting for answer in heard.answers())
        worked = [sum(process.cpu_times()[:2]) - earlier for process, earlier in zip(processes, before, strict=True)]
    assert min(worked) > max(worked) / 5, worked


def test_one_that_hangs_gets_no_more_than_the_others_leave(authority: MemoryAuthority) -> None:
    """Work goes to whoever has the least to do."""
    terms = terms_of(authority)
    with running_preparer(2) as preparer:
        hanging, _ = preparer.process_ids
        os.kill(hanging, signal.SIGSTOP)
        try:
            stuck = [Heard(), Heard()]
            for heard in stuck:
                preparer.submit(terms, [item()], heard)
            # One of the two went to the one that works; what comes now, one at a time, goes there as well.
            eventually(lambda: sum(heard.done for heard in stuck) == 1)
            for _ in range(20):
                made(*ask(preparer, terms, [item()]))
        finally:
            os.kill(hanging, signal.SIGCONT)
        for heard in stuck:
            made(*heard.answers())


def test_past_what_may_wait_calls_are_refused_with_a_time_to_come_again(authority: MemoryAuthority) -> None:
    terms, items = terms_of(authority), [item()] * 4
    with running_preparer() as preparer:
        # While it works on all that waited once, as many may wait again.
        waiting = [Heard() for _ in range(QUEUE_LENGTH * 3)]
        for heard in waiting:
            preparer.submit(terms, items, heard)
        answers = [heard.answers(60) for heard in waiting]
    refused = [answer for call in answers for answer in call if isinstance(answer, CertdError)]
    assert {answer.reason for answer in refused} == {Reason.SIGNING_QUEUE_FULL}
    assert all(answer.retry_after for answer in refused)
    served = sum(not isinstance(call[0], CertdError) for call in answers)
    assert QUEUE_LENGTH <= served < len(waiting)
    assert [heard.times for heard in waiting] == [1] * len(waiting)


def test_many_threads_hear_their_own_answers_while_it_is_killed_under_them(authority: MemoryAuthority) -> None:
    terms = terms_of(authority)
    wrong: list[int] = []
    outcomes: list[str] = []
    lock = threading.Lock()
    with running_preparer(2) as preparer:

        def call(caller: int) -> None:
            for number in range(40):
                serial = (1 << 126) | (caller << 20) | number
                (answer,) = ask(preparer, terms, [item(serial=serial)])
                with lock:
                    if isinstance(answer, CertdError):
                        outcomes.append(answer.reason)
                    elif answer.prepared.serial != serial:
                        wrong.append(answer.prepared.serial)
                    else:
                        outcomes.append("made")

        callers = [threading.Thread(target=call, args=(caller,)) for caller in range(8)]
        for thread in callers:
            thread.start()
        for _ in range(3):
            eventually(lambda: preparer.state.ready == 2, within=60)
            os.kill(preparer.process_ids[0], signal.SIGKILL)
        for thread in callers:
            thread.join(60)
    assert wrong == []
    assert len(outcomes) == 8 * 40
    assert set(outcomes) <= {"made", Reason.PREPARATION_UNAVAILABLE}
    assert outcomes.count("made") > 40


def test_one_that_hangs_is_started_again(authority: MemoryAuthority) -> None:
    """Without anybody who watches the clock: whoever comes next finds that it has said nothing for too long."""
    terms, one = terms_of(authority), item()
    preparer = Preparer(1, patience=0.5)
    preparer.start()
    try:
        assert preparer.wait_settled(60)
        process_id = only_process(preparer)
        os.kill(process_id, signal.SIGSTOP)
        waiting = [Heard()]
        preparer.submit(terms, [one], waiting[0])

        def told_of_its_end() -> bool:
            waiting.append(Heard())
            preparer.submit(terms, [one], waiting[-1])
            return waiting[0].done

        eventually(told_of_its_end)
        assert told(*waiting[0].answers()).reason is Reason.PREPARATION_UNAVAILABLE
        eventually(lambda: preparer.state.ready)
        assert only_process(preparer) != process_id
        made(*ask(preparer, terms, [one]))
        assert all(heard.answers() for heard in waiting)
    finally:
        preparer.stop()


def test_what_comes_too_late_is_told_so(authority: MemoryAuthority) -> None:
    """The daemon hears of every call, or its count of what a process has to do would only grow."""
    channel = Channel(SpawnedChild((sys.executable, "-I", "-m", "certd.prepare")), name="prepare process")
    channel.start()
    try:
        assert channel.wait_ready(60)
        outcomes: list[bytes | CertdError] = []
        payload = request_bytes(terms_of(authority), [item()], Wanted())
        channel.submit(payload, timeout=0, answered=outcomes.append)
        eventually(lambda: outcomes)
        assert isinstance(outcomes[0], CertdError)
        assert outcomes[0].reason is Reason.DEADLINE_EXCEEDED
    finally:
        channel.stop()


@pytest.mark.parametrize("processes", [0, 1])
def test_stopping_twice_and_with_nothing_to_stop(processes: int) -> None:
    preparer = Preparer(processes)
    preparer.stop()
    preparer.stop()
    assert preparer.process_ids == ()


def test_there_is_at_least_one_by_default() -> None:
    assert 1 <= default_workers() <= 4
