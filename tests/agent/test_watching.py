"""When the stream is opened again, and which certificate is looked at when."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from certd.agent.agent import Agent
from certd.agent.config import Config
from certd.agent.keeper import Keeper
from certd.agent.loop import Loop
from certd.agent.slots import Slots
from certd.agent.uplink import longest_pause
from certd.agent.watching import LONGEST, SELDOM, Watcher, pause
from certd.client.connection import Client
from certd.client.failure import CallFailed
from certd.clock import SystemClock
from certd.errors import CertdError, Reason
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_service_pb2 import WatchManagedCertificatesResponse as Told
from tests.agent.machine import ASSOCIATION, Machine, Stranger
from tests.waiting import eventually

AWAY = CallFailed("UNAVAILABLE", "away", code="UNAVAILABLE")
REVOKED = CallFailed("CREDENTIAL_REVOKED", "revoked", code="UNAUTHENTICATED")


class Ears:
    """Writes down what is heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def changed(self, association: Association) -> None:
        self.heard.append(f"changed {association.current_version}")

    def removed(self, name: str) -> None:
        self.heard.append(f"removed {name}")

    def connected(self) -> None:
        self.heard.append("connected")

    def lost(self, failure: CallFailed | None) -> None:
        self.heard.append(f"lost {failure.reason if failure else 'in order'}")


def test_a_stream_is_opened_again_from_where_it_ended() -> None:
    cursors: list[str] = []
    over = threading.Event()

    def opened(_: Client, cursor: str) -> Iterator[Told]:
        cursors.append(cursor)
        match len(cursors):
            case 1:
                yield Told(kind=Told.PRESENT, association=Association(current_version=1))
                yield Told(kind=Told.SYNCED, cursor="a")
                yield Told(kind=Told.CHANGED, association=Association(current_version=2), cursor="b")
                raise AWAY
            case 2:
                yield Told(kind=Told.ALIVE, cursor="c")
                yield Told(kind=Told.REMOVED, name="web", cursor="d")
            case 3:
                raise CallFailed("CURSOR_INVALID", "no such", code="INVALID_ARGUMENT")
            case _:
                yield Told(kind=Told.SYNCED, cursor="e")
                over.wait(20)

    ears = Ears()
    watcher = Watcher(cast("Client", None), opened, ears)
    eventually(lambda: len(cursors) == 4 and ears.heard[-1] == "connected")
    watcher.end()
    over.set()
    watcher.join(20)
    assert cursors == ["", "b", "d", ""]
    assert ears.heard == [
        *("connected", "changed 1", "changed 2", "lost UNAVAILABLE"),
        *("connected", "removed web", "lost in order"),
        *("lost CURSOR_INVALID", "connected"),
    ]
    assert watcher.cursor == "e"


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), CertdError(Reason.STATE_FORBIDS, "no")])
def test_whatever_ends_a_stream_it_is_opened_again(error: Exception) -> None:
    opens = 0

    def opened(_: Client, cursor: str) -> Iterator[Told]:
        nonlocal opens
        opens += 1
        if opens == 1:
            raise error
        yield Told(kind=Told.SYNCED, cursor=cursor)

    ears = Ears()
    watcher = Watcher(cast("Client", None), opened, ears)
    eventually(lambda: "connected" in ears.heard)
    watcher.end()
    watcher.join(20)
    assert ears.heard[0].startswith("lost")


def test_a_watcher_that_was_ended_tells_nothing_more() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def opened(_: Client, _cursor: str) -> Iterator[Told]:
        yield Told(kind=Told.SYNCED)
        begun.set()
        go_on.wait(20)
        yield Told(kind=Told.CHANGED, association=Association(current_version=2))

    ears = Ears()
    watcher = Watcher(cast("Client", None), opened, ears)
    assert begun.wait(20)
    watcher.end()
    go_on.set()
    watcher.join(20)
    assert ears.heard == ["connected"]


def test_agents_wait_by_chance_longer_and_longer_and_seldom_when_they_are_refused() -> None:
    for tries in (1, 2, 5, 50, 5000):
        waits = [pause(AWAY, tries, longest=30) for _ in range(100)]
        usual = min(0.5 * 2 ** min(tries - 1, 10), 30)
        assert usual * 0.5 <= min(waits)
        assert max(waits) <= usual * 1.5
        assert len(set(waits)) > 50
    assert all(SELDOM[0] <= pause(REVOKED, 1, longest=30) <= SELDOM[1] for _ in range(20))
    asked = CallFailed("RATE_LIMITED", "later", code="RESOURCE_EXHAUSTED", retry_after=45.0)
    assert all(45 < pause(asked, 1, longest=30) < 60 for _ in range(20))


class Desk:
    """Slots with their loop, which the test turns."""

    def __init__(self, folder: Path, count: int) -> None:
        self.loop = Loop()
        self.refusals: list[str] = []
        self.slots = Slots(
            self.loop, poll_interval=300, stop=threading.Event(), refused=lambda f: self.refusals.append(f.reason)
        )
        self.machines = [Machine(folder / str(number)) for number in range(count)]
        self.server = Stranger()

    def fill(self, *, wait: Callable[[], object] = lambda: None) -> None:
        self.slots.fill([self._keeper(machine, number, wait) for number, machine in enumerate(self.machines)])

    def _keeper(self, machine: Machine, number: int, wait: Callable[[], object]) -> Keeper:
        def step(name: str) -> None:
            if name == "leased":
                wait()

        return machine.agent(certificate=replace(machine.certificate, name=f"web-{number}", reload=None), step=step)

    def turn(self, *, online: bool = True) -> None:
        """Does what is due until nothing is."""

        def still() -> bool:
            self.slots.start_due(self.server if online else None)
            self.loop.wait(0.005)
            return not self.slots.busy and self.slots.patience(online=online) > 0

        eventually(still)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, 6)
    yield made
    made.loop.close()


def test_four_work_at_once_and_all_come_to_an_end(desk: Desk) -> None:
    lock, at_once, most, gate = threading.Lock(), 0, 0, threading.Barrier(4, timeout=20)

    def wait() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            first = most <= 4 and at_once <= 4 and len(desk.server.leases) <= 4
        if first:
            gate.wait()
        with lock:
            at_once -= 1

    desk.server.renew()
    desk.fill(wait=wait)
    desk.turn()
    assert most == 4
    assert [slot.standing.version for slot in desk.slots] == [1] * 6
    assert 200 < desk.slots.patience(online=True) < 600


def test_without_a_server_only_what_was_deployed_is_seen_to(desk: Desk) -> None:
    desk.fill()
    assert not desk.slots.restored
    desk.turn(online=False)
    assert all(slot.restored for slot in desk.slots)
    assert desk.server.asked == 0
    assert desk.slots.patience(online=False) == float("inf")
    assert desk.slots.patience(online=True) == 0


def test_what_is_told_is_looked_at_at_once_and_without_asking(desk: Desk) -> None:
    desk.fill()
    desk.turn()
    asked = desk.server.asked
    desk.server.renew()
    desk.slots.changed(desk.server.told())
    desk.turn()
    assert [slot.standing.version for slot in desk.slots] == [1] * 6
    assert desk.server.asked == asked
    desk.slots.changed(Association(name=ASSOCIATION + "-of-another", current_version=9))
    assert desk.slots.patience(online=True) > 100
    desk.slots.removed("tenants/default/managedCertificates/web")
    desk.slots.wake("web-0")
    desk.slots.wake("no-such")
    desk.turn()
    assert desk.server.asked == asked + 6


def test_an_identity_that_is_refused_is_told_and_everything_waits(desk: Desk) -> None:
    desk.fill()
    desk.turn(online=False)
    desk.server.problem = REVOKED
    desk.turn()
    assert set(desk.refusals) == {"CREDENTIAL_REVOKED"}
    desk.slots.put_off()
    assert desk.slots.patience(online=True) > 500
    desk.server.problem = None
    desk.server.renew()
    desk.slots.begin_anew()
    desk.turn()
    assert [slot.standing.version for slot in desk.slots] == [1] * 6


def test_a_server_that_is_back_is_asked_soon(desk: Desk) -> None:
    desk.fill()
    desk.turn(online=False)
    desk.server.problem = AWAY
    desk.turn()
    assert all("UNAVAILABLE" in slot.error for slot in desk.slots)
    desk.slots.hurry()
    assert desk.slots.patience(online=True) <= 1


def test_a_mistake_with_one_certificate_is_told_and_the_others_go_on(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.fill()
    desk.server.report_problem = ZeroDivisionError()
    desk.server.renew()
    desk.turn()
    assert {slot.error for slot in desk.slots} == {"unexpected: ZeroDivisionError"}
    assert "unexpected" in caplog.text


def test_an_agent_without_anything_runs_and_ends(tmp_path: Path) -> None:
    config = Config(server="127.0.0.1:1", state_directory=tmp_path / "state")
    agent = Agent(config, read_again=lambda: config, clock=SystemClock(), watch=None)
    told: list[object] = []
    thread = threading.Thread(target=lambda: agent.run(told.append))
    thread.start()
    eventually(lambda: told)
    agent.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_an_agent_tries_more_often_when_a_certificate_ends_soon() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def longest(*left: float) -> float:
        return longest_pause([now + timedelta(seconds=each) for each in left], now)

    assert longest() == LONGEST
    pauses = [(90 * 86_400, LONGEST), (600, LONGEST), (120, 12), (20, 2), (5, 1), (0, 1)]
    assert [longest(left) for left, _ in pauses] == [pause for _, pause in pauses]
    assert longest(600, 20, 90 * 86_400) == 2
    # One that ended long ago is no reason to hurry, nor to wait: many agents may be without their server.
    assert longest(-50) == 5
    assert longest(-86_400) == LONGEST
    assert longest(-86_400, 20) == 2


def test_a_watcher_asks_how_long_it_may_wait() -> None:
    asked: list[int] = []

    def longest() -> float:
        asked.append(len(asked))
        return 0.0

    def opened(_: Client, _cursor: str) -> Iterator[Told]:
        yield from ()
        raise AWAY

    ears = Ears()
    watcher = Watcher(cast("Client", None), opened, ears, longest=longest)
    eventually(lambda: len(asked) > 10)
    watcher.end()
    watcher.join(20)
    assert ears.heard[:10] == ["lost UNAVAILABLE"] * 10


def test_what_is_wrong_on_the_way_is_no_word_of_the_server(desk: Desk) -> None:
    # As with a clock that is set soon after the start of a machine.
    on_the_way = CallFailed("CREDENTIAL_INVALID", "see this machine's clock", code="UNAVAILABLE")
    assert max(pause(on_the_way, 9, longest=30) for _ in range(50)) < 60
    said = CallFailed("CREDENTIAL_INVALID", "ended", code="UNAUTHENTICATED", answered=True)
    assert pause(said, 1, longest=30) >= SELDOM[0]
    desk.fill()
    desk.turn(online=False)
    desk.server.problem = on_the_way
    desk.turn()
    assert desk.refusals == []
    assert desk.slots.patience(online=True) < 60
    desk.server.problem = said
    desk.slots.begin_anew()
    desk.turn()
    assert set(desk.refusals) == {"CREDENTIAL_INVALID"}
