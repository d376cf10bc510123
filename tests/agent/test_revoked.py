"""What is known to be revoked is neither deployed nor gone back to, and served on only while there is nothing newer."""

import json
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certd.agent.agent import _status_of
from certd.agent.bundle import Bundle
from certd.agent.config import Certificate, Command
from certd.agent.errors import AgentError, NotTakenYetError
from certd.agent.holdings import Holdings
from certd.agent.keeper import Keeper
from certd.agent.kept import Kept
from certd.agent.slots import Slot
from tests.agent.machine import Machine, Stranger
from tests.agent.test_keeper import Program


def kept(machine: Machine) -> list[str]:
    return sorted(each.name for each in (machine.state / "kept" / "web").glob("*.json") if each.stem.isdecimal())


def record(machine: Machine) -> dict[str, Any]:
    found = json.loads((machine.state / "kept" / "web" / "record.json").read_text())
    assert isinstance(found, dict)
    return found


def write_record(machine: Machine, **changes: Any) -> None:
    (machine.state / "kept" / "web" / "record.json").write_text(json.dumps(record(machine) | changes))


def shown(agent: Keeper) -> tuple[str, str]:
    """State and error, as `certd-agent status` shows them."""
    status = _status_of(Slot(keeper=agent, standing=agent.standing))
    return status.state, status.error


def refusing(machine: Machine, version: int, until: Path) -> Command:
    """A reload that refuses a version until there is a file."""
    return machine.logging(
        "reload", then=f'[ "$CERTD_VERSION" != {version} ] || [ -e "{until}" ] || {{ echo no good; false; }}'
    )


def serving(machine: Machine, server: Stranger, *, versions: int = 1, **how: Any) -> tuple[Keeper, list[Bundle]]:
    agent, made = machine.agent(**how), []
    for _ in range(versions):
        made.append(server.renew())
        agent.advance(server, server.told())
    assert machine.served() == made[-1].certificate
    return agent, made


def test_a_revoked_one_is_served_on_loudly_until_there_is_another(
    machine: Machine, server: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    agent, (first,) = serving(machine, server)
    assert shown(agent) == ("SERVING", "")
    server.revoke(first)
    agent.advance(server, server.told())
    assert machine.served() == first.certificate
    state, error = shown(agent)
    assert state == "REVOKED"
    assert "version 1, which is served, is revoked, and the server has no newer one: renew" in error
    assert error in [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    # Nothing was done that would end it, and nobody is told anything else.
    assert (server.leases, server.states, machine.logged()) == ([1], [("SERVING", 1)], ["reload 1"])
    assert agent.retry_in is None
    made = server.renew()
    agent.advance(server, server.told())
    assert machine.served() == made.certificate
    assert shown(agent) == ("SERVING", "")
    assert (kept(machine), machine.versions()) == (["2.json"], ["2"])
    assert server.states == [("SERVING", 1), ("SERVING", 2)]


def test_a_restart_without_the_server_serves_it_on_and_says_so(
    machine: Machine, server: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    agent, (first,) = serving(machine, server)
    server.revoke(first)
    agent.advance(server, None)
    caplog.clear()
    program = Program()
    again = machine.agent(targets=[program])
    assert program.restored == [1]
    assert shown(again)[0] == "REVOKED"
    assert "version 1, which is served, is revoked" in caplog.text
    # What is damaged is repaired: to have nothing served is for people to decide.
    (machine.current() / "key.pem").unlink()
    assert shown(machine.agent())[0] == "REVOKED"
    assert machine.served() == first.certificate
    (machine.current() / "key.pem").unlink()
    again.advance(server, None)
    assert machine.served() == first.certificate
    assert server.leases == [1]


def test_nobody_goes_back_to_a_revoked_one_when_the_newer_is_refused(machine: Machine, server: Stranger) -> None:
    good = machine.folder / "good"
    machine.certificate = replace(machine.certificate, reload=refusing(machine, 2, good))
    program = Program()
    agent, (first,) = serving(machine, server, targets=[program])
    server.revoke(first)
    second = server.renew()
    agent.advance(server, server.told())
    assert machine.served() == second.certificate
    assert (machine.logged(), program.has) == (["reload 1", "reload 2"], [1, 2])
    state, error = shown(agent)
    assert state == "REVOKED"
    assert "no newer one is served yet" in error
    assert "no good" in error
    assert server.states == [("SERVING", 1), ("FAILED", 2)]
    # Nor does a restart.
    machine.agent(targets=[program])
    assert (machine.logged(), program.has) == (["reload 1", "reload 2", "reload 2"], [1, 2, 2])
    good.touch()
    machine.clock.advance(timedelta(hours=2))
    agent = machine.agent(targets=[program])
    agent.advance(server, None)
    assert shown(agent) == ("SERVING", "")
    assert server.states[-1] == ("SERVING", 2)
    assert 1 not in program.has[1:]


def test_nor_to_its_files_when_what_was_kept_of_it_is_lost(machine: Machine, server: Stranger) -> None:
    agent, (first,) = serving(machine, server)
    server.revoke(first)
    agent.advance(server, None)
    (machine.state / "kept" / "web" / "1.json").write_text("{}")
    machine.certificate = replace(machine.certificate, reload=refusing(machine, 2, machine.folder / "never"))
    second = server.renew()
    again = machine.agent()
    assert shown(again)[0] == "REVOKED"
    again.advance(server, None)
    assert machine.served() == second.certificate
    assert machine.logged() == ["reload 1", "reload 2"]


def test_a_newer_one_that_waits_after_a_failure_is_tried_at_once(machine: Machine, server: Stranger) -> None:
    good = machine.folder / "good"
    machine.certificate = replace(machine.certificate, reload=refusing(machine, 2, good))
    agent, (first,) = serving(machine, server)
    second = server.renew()
    agent.advance(server, server.told())
    assert machine.served() == first.certificate
    good.touch()
    agent.advance(server, server.told())
    assert machine.served() == first.certificate
    server.revoke(first)
    agent.advance(server, server.told())
    assert machine.served() == second.certificate
    assert server.leases == [1, 2]


def test_a_newer_one_is_not_held_back_for_a_reload_a_moment_ago(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload_interval=300.0)
    agent, (first,) = serving(machine, server)
    server.revoke(first)
    second = server.renew()
    agent.advance(server, server.told())
    assert machine.served() == second.certificate


def test_a_failure_is_not_forgiven_again_and_again(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=refusing(machine, 2, machine.folder / "never"))
    agent, (first,) = serving(machine, server)
    server.revoke(first)
    server.renew()
    for number in range(5):
        agent.advance(server, server.told())
        server.revoked.append(bytes([number]) * 32)
    assert machine.logged() == ["reload 1", "reload 2"]


@pytest.mark.parametrize("told", [True, False])
def test_a_current_one_that_is_revoked_is_not_deployed(machine: Machine, server: Stranger, *, told: bool) -> None:
    agent, (first,) = serving(machine, server)
    server.revoke(server.renew())
    for _ in range(2):
        agent.advance(server, server.told() if told else None)
        assert machine.served() == first.certificate
        state, error = shown(agent)
        assert state == "OUTDATED"
        assert "version 2, the server's current one, is revoked and is not deployed: renew" in error
    assert (server.leases, server.states, agent.retry_in) == ([1], [("SERVING", 1)], None)
    fresh = Machine(machine.folder / "fresh")
    other = fresh.agent()
    other.advance(server, None)
    assert not fresh.current().exists()
    assert shown(other)[0] == "WAITING"
    assert "is revoked" in shown(other)[1]


def test_a_current_one_that_failed_and_is_revoked_is_forgotten(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=refusing(machine, 2, machine.folder / "never"))
    agent, (first,) = serving(machine, server)
    second = server.renew()
    agent.advance(server, server.told())
    assert shown(agent)[0] == "FAILED"
    assert kept(machine) == ["1.json", "2.json"]
    server.revoke(second)
    agent.advance(server, server.told())
    assert machine.served() == first.certificate
    assert (kept(machine), machine.versions()) == (["1.json"], ["1"])
    assert agent.retry_in is None
    assert server.states == [("SERVING", 1), ("FAILED", 2), ("SERVING", 1)]


def test_what_programs_were_told_of_and_is_revoked_is_taken_back(machine: Machine, server: Stranger) -> None:
    program = Program()
    agent, (first,) = serving(machine, server, targets=[program])
    second = server.renew()
    program.problem = NotTakenYetError("nobody came")
    agent.advance(server, None)
    assert machine.served() == second.certificate
    server.revoke(second)
    agent.advance(server, server.told())
    assert machine.served() == first.certificate
    assert program.has == [1, 2, 1]
    assert kept(machine) == ["1.json"]
    assert server.states == [("SERVING", 1)]


def test_an_interrupted_one_that_is_revoked_is_not_ended(machine: Machine, server: Stranger) -> None:
    program = Program()
    agent, (first,) = serving(machine, server, targets=[program])
    second = server.renew()
    program.problem = NotTakenYetError("nobody came")
    agent.advance(server, None)
    # As an agent leaves it that died as soon as it had been told.
    write_record(machine, revoked=[second.certificate_sha256.hex()])
    assert record(machine)["deploying"] == 2
    machine.agent(targets=[program])
    assert machine.served() == first.certificate
    assert program.has == [1, 2, 1]


def test_with_two_revoked_ones_nothing_is_changed(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=refusing(machine, 2, machine.folder / "never"))
    agent, (first,) = serving(machine, server)
    server.revoke(first)
    second = server.renew()
    agent.advance(server, None)
    server.revoke(second)
    agent.advance(server, None)
    assert machine.served() == second.certificate
    assert machine.logged() == ["reload 1", "reload 2"]
    assert shown(agent)[0] == "REVOKED"


@pytest.mark.parametrize("forgets", [False, True], ids=["told", "known from before"])
def test_a_revoked_one_before_is_kept_no_longer_and_not_deployed_again(
    machine: Machine, server: Stranger, *, forgets: bool
) -> None:
    agent, (first, second) = serving(machine, server, versions=2)
    assert (kept(machine), machine.versions()) == (["1.json", "2.json"], ["1", "2"])
    server.revoke(first)
    agent.advance(server, server.told())
    assert (kept(machine), machine.versions()) == (["2.json"], ["2"])
    assert shown(agent) == ("SERVING", "")
    if forgets:
        # As books do that were restored from a backup.
        server.revoked.clear()
    server.current = 1
    for each in (agent, machine.agent()):
        each.advance(server, None)
        assert machine.served() == second.certificate
        assert "is revoked and is not deployed" in shown(each)[1]
    assert server.leases == [1, 2]


def test_who_served_goes_on_from_the_record_of_an_earlier_release(machine: Machine, server: Stranger) -> None:
    _, (first,) = serving(machine, server)
    values = record(machine)
    del values["revoked"], values["deployed_sha256"]
    (machine.state / "kept" / "web" / "record.json").write_text(json.dumps(values))
    agent = machine.agent()
    server.revoke(first)
    agent.advance(server, server.told())
    assert shown(agent)[0] == "REVOKED"
    assert (server.leases, machine.logged()) == ([1], ["reload 1"])


def test_an_old_server_tells_nothing_and_all_goes_on_as_before(machine: Machine) -> None:
    server = Stranger(is_old=True)
    agent, (_, second) = serving(machine, server, versions=2)
    server.revoke(second)
    agent.advance(server, server.told())
    assert shown(agent) == ("SERVING", "")
    server.current = 1
    agent.advance(server, None)
    assert machine.served() == server.bundles[1].certificate
    assert server.leases == [1, 2]


def test_what_an_old_server_leases_and_is_known_to_be_revoked_is_refused(machine: Machine, server: Stranger) -> None:
    agent, (first, second) = serving(machine, server, versions=2)
    server.revoke(first)
    agent.advance(server, server.told())
    server.is_old, server.current = True, 1
    agent.advance(server, None)
    assert machine.served() == second.certificate
    assert "version 1 is revoked" in shown(agent)[1]
    assert server.states[-1] == ("FAILED", 1)
    assert kept(machine) == ["2.json"]


def test_nonsense_is_passed_over_and_no_server_fills_the_disk(machine: Machine, server: Stranger) -> None:
    agent, (first,) = serving(machine, server)
    server.revoked = [b"", b"short", first.certificate_sha256 + b"x", *(bytes([1, n]) + bytes(30) for n in range(200))]
    agent.advance(server, server.told())
    assert shown(agent) == ("SERVING", "")
    assert len(record(machine)["revoked"]) < 100
    server.revoked = [first.certificate_sha256]
    agent.advance(server, server.told())
    for start in range(2, 6):
        server.revoked = [bytes([start, n]) + bytes(30) for n in range(100)]
        agent.advance(server, server.told())
        # What is served is forgotten last.
        assert shown(agent)[0] == "REVOKED"
        assert len(record(machine)["revoked"]) <= 200


def test_a_certificate_without_files_is_kept_from_programs_as_well(machine: Machine, server: Stranger) -> None:
    program = Program()
    bare = Certificate(name="web", association=machine.certificate.association, directory=machine.directory)
    agent = machine.agent(certificate=bare, targets=[program])
    first = server.renew()
    agent.advance(server, None)
    server.revoke(first)
    server.renew()
    program.problem = AgentError("no")
    agent.advance(server, server.told())
    assert program.has == [1, 2]


@pytest.mark.parametrize("revoked", [None, 3, {"a": 1}, [["a"], 7]])
def test_a_record_with_nonsense_for_what_is_revoked_ends_no_agent(
    machine: Machine, server: Stranger, revoked: object
) -> None:
    _, (first,) = serving(machine, server)
    write_record(machine, revoked=revoked)
    machine.agent().advance(server, None)
    assert machine.served() == first.certificate


def test_what_is_known_outlives_the_agent(machine: Machine, server: Stranger) -> None:
    agent, (first,) = serving(machine, server)
    server.revoke(first)
    agent.advance(server, None)
    found = Holdings(Kept(machine.state, "web"))
    assert found.serves_revoked
    assert asdict(found.record)["revoked"] == (first.certificate_sha256.hex(),)
