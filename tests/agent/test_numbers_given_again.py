"""Books that were restored from a backup give numbers of versions again: a number alone identifies no certificate."""

from dataclasses import replace
from datetime import timedelta

import pytest

from certd.agent.bundle import Bundle
from certd.agent.config import Certificate
from certd.agent.errors import AgentError
from tests.agent.machine import Machine, Stranger
from tests.agent.test_keeper import Program


def serving(machine: Machine, server: Stranger, versions: int) -> list[Bundle]:
    agent, made = machine.agent(), []
    for _ in range(versions):
        made.append(server.renew())
        agent.advance(server, server.told())
    return made


def restored(server: Stranger, version: int) -> Bundle:
    """The books are of an earlier day, and a version is made again."""
    server.current = version - 1
    return server.renew()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
def test_another_certificate_of_the_number_served_is_leased_and_deployed(
    machine: Machine, server: Stranger, *, told: bool, restarted: bool
) -> None:
    agent = machine.agent()
    for _ in range(2):
        server.renew()
        agent.advance(server, server.told())
    made = restored(server, 2)
    if restarted:
        agent = machine.agent()
    for _ in range(2):
        agent.advance(server, server.told() if told else None)
        assert machine.served() == made.certificate
        assert agent.standing.state == "SERVING"
    assert server.leases == [1, 2, 2]
    assert server.reports[-1].certificate_sha256 == made.certificate_sha256
    assert machine.logged() == ["reload 1", "reload 2", "reload 2"]
    program = Program()
    machine.agent(targets=[program])
    assert program.restored == [2]


def test_until_it_is_deployed_it_is_shown_as_outdated(machine: Machine, server: Stranger) -> None:
    (first,) = serving(machine, server, 1)
    machine.certificate = replace(machine.certificate, reload_interval=300.0)
    agent = machine.agent()
    agent._reload_time = machine.clock.now()
    restored(server, 1)
    agent.advance(server, None)
    assert (agent.standing.state, agent.standing.version) == ("OUTDATED", 1)
    assert machine.served() == first.certificate


def test_what_an_old_stream_tells_of_the_number_is_asked_about(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    server.renew()
    before = server.told()
    made = restored(server, 1)
    agent.advance(server, None)
    agent.advance(server, before)
    assert machine.served() == made.certificate
    assert server.leases == [1]


def test_what_is_kept_of_the_number_is_not_taken_for_it(machine: Machine, server: Stranger) -> None:
    """Versions 2 and 3 are kept; in the books there was no 2 yet."""
    serving(machine, server, 3)
    for number in (2, 3):
        made = restored(server, number)
        machine.agent().advance(server, None)
        assert machine.served() == made.certificate
    assert server.leases == [1, 2, 3, 2, 3]


def test_one_that_was_revoked_does_not_accuse_another_of_its_number(machine: Machine, server: Stranger) -> None:
    _, second = serving(machine, server, 2)
    server.revoke(second)
    made = restored(server, 2)
    agent = machine.agent()
    agent.advance(server, None)
    assert machine.served() == made.certificate
    assert (agent.standing.state, agent.standing.finding) == ("SERVING", "")


def test_one_that_is_refused_is_taken_back(machine: Machine, server: Stranger) -> None:
    broken = machine.folder / "broken"
    machine.certificate = replace(machine.certificate, check=machine.logging("check", then=f'[ ! -e "{broken}" ]'))
    agent = machine.agent()
    before = server.renew()
    agent.advance(server, None)
    broken.touch()
    made = restored(server, 1)
    agent.advance(server, None)
    assert machine.served() == before.certificate
    assert (agent.standing.state, agent.standing.certificate_sha256) == ("FAILED", before.certificate_sha256.hex())
    # After a restart it is tried again, and what was served before is left alone meanwhile.
    again = machine.agent()
    assert machine.served() == before.certificate
    broken.unlink()
    machine.clock.advance(timedelta(hours=2))
    again.advance(server, None)
    assert machine.served() == made.certificate
    assert server.leases == [1, 1]


def test_the_way_back_leads_to_the_files_of_the_one_that_was_served(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, check=machine.logging("check", then="false"))
    before, accepting = server.renew(), replace(machine.certificate, check=None)
    machine.agent(certificate=accepting).advance(server, None)
    restored(server, 1)
    machine.agent().advance(server, None)
    assert machine.versions() == ["1", "1-1"]
    # By now the bundle that is kept under the number is that of the one which was refused.
    server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    assert server.states[-1] == ("FAILED", 2)
    assert machine.served() == before.certificate


def test_a_program_without_files_gets_it_too(machine: Machine, server: Stranger) -> None:
    program = Program()
    bare = Certificate(name="web", association=machine.certificate.association, directory=machine.directory)
    agent = machine.agent(certificate=bare, targets=[program])
    server.renew()
    agent.advance(server, None)
    program.problem = AgentError("no")
    restored(server, 1)
    agent.advance(server, None)
    # Told, refused, and given back what it had.
    assert program.has == [1, 1, 1]
    assert program.restored == []
    machine.clock.advance(timedelta(hours=2))
    agent.advance(server, None)
    assert agent.standing.state == "SERVING"
    assert program.has == [1, 1, 1, 1]


def test_an_old_server_does_not_tell_and_the_number_counts_as_before(machine: Machine) -> None:
    server = Stranger(is_old=True)
    (first,) = serving(machine, server, 1)
    restored(server, 1)
    machine.agent().advance(server, None)
    assert machine.served() == first.certificate
    assert server.leases == [1]


class Confused(Stranger):
    """Leases another certificate than it tells of."""

    def lease(self, *args: object, **how: object) -> Bundle:
        bundle = super().lease(*args, **how)  # type: ignore[arg-type]  # They go on as they came.
        return replace(self.minter.bundle(version=bundle.version), name=bundle.name)


def test_a_lease_of_another_certificate_than_was_told_is_refused(machine: Machine) -> None:
    server = Confused()
    agent = machine.agent()
    server.renew()
    for _ in range(3):
        agent.advance(server, None)
    assert not machine.current().exists()
    assert server.leases == [1]
    assert server.states == [("FAILED", 1)]
    assert "came with another certificate than the server tells of" in server.reports[0].message
    assert not (machine.state / "kept" / "web" / "1.json").exists()
