"""Between two reloads of a program some time passes; of the versions that come meanwhile it gets the newest."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from certd.agent.config import Certificate
from certd.agent.errors import NotTakenYetError
from certd.agent.loop import Loop
from certd.agent.slots import Slots
from tests.agent.machine import Machine, Stranger
from tests.agent.test_keeper import Program
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def interval(machine: Machine) -> None:
    machine.certificate = replace(machine.certificate, reload_interval=5)


def test_versions_that_come_soon_after_a_reload_wait_and_the_newest_is_served(
    machine: Machine, server: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    agent = machine.agent()
    first = server.renew()
    agent.advance(server, None)
    for _ in range(3):
        newest = server.renew()
        for _ in range(2):
            machine.clock.advance(timedelta(seconds=0.5))
            agent.advance(server, server.told())
            assert machine.served() == first.certificate
    assert agent.held_for == pytest.approx(2.0)
    assert (agent.standing.state, agent.standing.version) == ("OUTDATED", 1)
    assert caplog.text.count("waits, for a reload was a moment ago") == 3
    machine.clock.advance(timedelta(seconds=2))
    agent.advance(server, None)
    assert machine.served() == newest.certificate
    assert agent.held_for is None
    # What nobody was to serve was not even leased.
    assert (server.leases, machine.logged()) == ([1, 4], ["reload 1", "reload 4"])
    assert server.states == [("SERVING", 1), ("SERVING", 4)]


def test_a_version_that_flaps_reloads_no_more_often(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    for _ in range(2):
        server.renew()
    for number in range(100):
        server.current = 1 + number % 2
        agent.advance(server, None)
        machine.clock.advance(timedelta(seconds=0.5))
    assert 2 <= len(machine.logged()) <= 10
    assert agent.held_for is None or agent.held_for <= 5


def test_what_is_refused_is_taken_back_at_once_and_the_next_one_waits(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(
        machine.certificate, reload=machine.logging("reload", then='[ "$CERTD_VERSION" = 1 ]')
    )
    agent = machine.agent()
    first = server.renew()
    agent.advance(server, None)
    machine.clock.advance(timedelta(seconds=5))
    for _ in range(3):
        server.renew()
        agent.advance(server, None)
    assert machine.logged() == ["reload 1", "reload 2", "reload 1"]
    assert machine.served() == first.certificate
    machine.clock.advance(timedelta(seconds=5))
    agent.advance(server, None)
    assert machine.logged()[3:] == ["reload 4", "reload 1"]
    assert server.states[-1] == ("FAILED", 4)


def test_a_version_that_is_there_no_more_makes_nobody_wait(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    for _ in range(2):
        server.renew()
        agent.advance(server, None)
    assert agent.held_for == 5
    # The server went back to the one that is served, or has none at all.
    for current in (1, 0):
        server.current = current
        agent.advance(server, None)
        assert agent.held_for is None
    server.current, server.problem = 2, RuntimeError("away")
    with pytest.raises(RuntimeError):
        agent.advance(server, None)
    assert agent.held_for is None


def test_a_clock_that_was_set_back_holds_nothing_up(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    server.renew()
    agent.advance(server, None)
    machine.clock.advance(timedelta(hours=-1))
    made = server.renew()
    agent.advance(server, None)
    assert machine.served() == made.certificate


def test_without_a_reload_nothing_waits(machine: Machine, server: Stranger) -> None:
    program = Program()
    bare = Certificate(name="web", association=machine.certificate.association, directory=machine.directory)
    agent = machine.agent(certificate=bare, targets=[program])
    for _ in range(3):
        server.renew()
        agent.advance(server, None)
    assert program.has == [1, 2, 3]


def test_who_comes_for_a_version_that_was_told_already_does_not_wait(machine: Machine, server: Stranger) -> None:
    program = Program()
    program.problem = NotTakenYetError("nobody came")
    server.renew()
    agent = machine.agent(targets=[program])
    agent.advance(server, None)
    assert server.states == []
    agent.advance(server, None)
    assert (server.states, machine.logged()) == ([("SERVING", 1)], ["reload 1"])


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_what_waits_is_due_as_soon_as_it_may_go_on(machine: Machine, server: Stranger, loop: Loop) -> None:
    slots = Slots(loop, poll_interval=300, stop=threading.Event(), refused=lambda _: None)

    def turn() -> None:
        def still() -> bool:
            slots.start_due(server)
            loop.wait(0.005)
            return not slots.busy and slots.patience(online=True) > 0

        eventually(still)

    server.renew()
    slots.fill([machine.agent()])
    turn()
    assert slots.patience(online=True) > 200
    server.renew()
    slots.changed(server.told())
    turn()
    assert server.states == [("SERVING", 1)]
    assert 0 < slots.patience(online=True) <= 5
