"""A server that answers nonsense, clocks that jump, programs that fail in ways that nobody foresaw."""

from dataclasses import replace
from datetime import timedelta

import pytest

from certd.agent.bundle import Bundle
from certd.agent.config import Probe
from certd.agent.errors import AgentError, NotTakenYetError
from certd.v1.association_pb2 import Association
from tests.agent.machine import Machine, Stranger


class Owner(Stranger):
    """A server on which a managed certificate was deleted, and made anew under the same name."""

    uid = "first"

    def told(self) -> Association:
        found = super().told()
        found.managed_certificate_uid = self.uid
        return found

    def make_anew(self) -> Bundle:
        self.uid, self.current = "second", 0
        self.bundles.clear()
        return self.renew()


@pytest.mark.parametrize("versions", [1, 2, 3])
@pytest.mark.parametrize("told", [True, False])
def test_a_managed_certificate_that_was_made_anew_is_another_one(
    machine: Machine, versions: int, *, told: bool
) -> None:
    server = Owner()
    agent = machine.agent()
    for _ in range(versions):
        server.renew()
        agent.advance(server, None)
    made = server.make_anew()
    agent.advance(server, server.told() if told else None)
    assert machine.served() == made.certificate
    assert server.reports[-1].certificate_sha256 == made.certificate_sha256
    assert server.leases.count(1) == 2
    # A restart knows which one it has.
    machine.agent().advance(server, None)
    assert server.leases.count(1) == 2


def test_a_clock_that_was_far_ahead_does_not_put_a_try_off_for_years(machine: Machine) -> None:
    server, broken = Stranger(), machine.folder / "broken"
    machine.certificate = replace(machine.certificate, reload=machine.logging("reload", then=f'test ! -e "{broken}"'))
    server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    broken.touch()
    server.renew()
    machine.clock.advance(timedelta(days=10))
    agent.advance(server, None)
    assert agent.standing.state == "FAILED"
    # Somebody set it right.
    machine.clock.advance(timedelta(days=-10))
    broken.unlink()
    agent.advance(server, None)
    assert agent.standing.state == "SERVING"
    assert (agent.standing.version, agent.retry_in) == (2, None)


class Clumsy:
    """A target that has a defect."""

    def __init__(self, *versions: int) -> None:
        self.versions = versions
        self.has: list[int] = []

    def deploy(self, bundle: Bundle) -> None:
        self.has.append(bundle.version)
        if bundle.version in self.versions:
            raise ValueError("nobody foresaw this")

    def restore(self, bundle: Bundle) -> None:
        self.has.append(bundle.version)


def test_what_nobody_foresaw_is_undone_and_waits_as_other_failures_do(machine: Machine) -> None:
    server, target = Stranger(), Clumsy(2)
    before = server.renew()
    agent = machine.agent(targets=[target])
    agent.advance(server, None)
    server.renew()
    for _ in range(3):
        agent.advance(server, None)
    assert machine.served() == before.certificate
    assert target.has == [1, 2, 1]
    assert server.states == [("SERVING", 1), ("FAILED", 2)]
    assert "ValueError" in server.reports[-1].message


def test_a_probe_of_a_name_that_is_none_fails_as_one_that_shows_nothing(machine: Machine) -> None:
    server = Stranger()
    server.renew()
    probe = Probe(address="a..b:443", server_name=None, protocol="tls", timeout=0.1)
    agent = machine.agent(certificate=replace(machine.certificate, probe=probe))
    agent.advance(server, None)
    agent.advance(server, None)
    assert machine.logged() == ["reload 1"]
    assert server.states == [("FAILED", 1)]


def test_nothing_goes_back_to_a_certificate_that_has_ended(machine: Machine) -> None:
    server = Stranger()
    server.renew(server.minter.bundle(version=1, end=timedelta(hours=1)))
    machine.certificate = replace(
        machine.certificate, reload=machine.logging("reload", then='[ "$CERTD_VERSION" != 2 ]')
    )
    agent = machine.agent()
    agent.advance(server, None)
    machine.clock.advance(timedelta(hours=2))
    made = server.renew()
    agent.advance(server, None)
    # The program may take it with its next start; with the other it serves nobody.
    assert machine.served() == made.certificate
    assert machine.logged() == ["reload 1", "reload 2"]
    assert server.states == [("SERVING", 1), ("FAILED", 2)]


class Deaf:
    """A target that takes versions until it refuses one, and nothing after that."""

    def __init__(self) -> None:
        self.has: list[int] = []

    def deploy(self, bundle: Bundle) -> None:
        self.has.append(bundle.version)
        if self.has.count(2):
            raise AgentError("it is gone")

    def restore(self, bundle: Bundle) -> None:
        raise AgentError(f"it is gone, and {bundle.version} with it")


def test_on_the_way_back_every_program_is_told_whichever_is_gone(machine: Machine) -> None:
    server, deaf, other = Stranger(), Deaf(), Clumsy()
    server.renew()
    agent = machine.agent(targets=[other, deaf])
    agent.advance(server, None)
    server.renew()
    agent.advance(server, None)
    assert other.has == [1, 2, 1]
    other, deaf = Clumsy(), Deaf()
    other_machine = Machine(machine.folder.parent / "other")
    other_machine.certificate = replace(
        other_machine.certificate,
        probe=Probe(address="127.0.0.1:1", server_name=None, protocol="tls", timeout=0.1),
    )
    server = Stranger()
    server.renew()
    bare = replace(other_machine.certificate, probe=None)
    other_machine.agent(certificate=bare, targets=[deaf, other]).advance(server, None)
    server.renew()
    deaf.has.append(2)
    assert other.has == [1]
    agent = other_machine.agent(targets=[deaf, other])
    agent.advance(server, None)
    assert other.has[-1] == 1
    assert other_machine.logged()[-1] == "reload 1"


@pytest.mark.parametrize(("chain", "roots"), [(40, 1), (1, 9000)])
def test_a_bundle_without_an_end_is_neither_kept_nor_served(machine: Machine, chain: int, roots: int) -> None:
    server = Stranger()
    made = server.minter.bundle()
    server.renew(replace(made, chain=made.chain * chain, roots=made.roots * roots))
    agent = machine.agent()
    agent.advance(server, None)
    assert server.states == [("FAILED", 1)]
    assert "more than" in server.reports[-1].message
    assert not machine.directory.exists()
    assert [each.name for each in (machine.state / "kept" / "web").iterdir()] == ["record.json"]


class Rude(Clumsy):
    """A target that says what no report may hold."""

    def deploy(self, bundle: Bundle) -> None:
        raise AgentError(f"no\x1b[2J\nversion\udcff {bundle.version}" + "\x00" * 2000)


def test_what_a_program_says_is_told_as_text_that_a_report_may_hold(machine: Machine) -> None:
    server = Stranger()
    server.renew()
    machine.agent(targets=[Rude()]).advance(server, None)
    (report,) = server.reports
    assert report.message.isprintable()
    assert report.message.startswith("no?[2J?version? 1")
    assert len(report.message) == 1024


class Absent:
    """A target that nobody comes to."""

    def deploy(self, bundle: Bundle) -> None:
        raise NotTakenYetError(f"nobody came for {bundle.version}")

    def restore(self, bundle: Bundle) -> None:
        raise NotTakenYetError(f"nobody came for {bundle.version}")


def test_a_program_is_not_told_again_and_again_while_another_is_waited_for(machine: Machine) -> None:
    server = Stranger()
    agent = machine.agent(targets=[Absent()])
    for _ in range(2):
        server.renew()
        for _ in range(4):
            agent.advance(server, None)
    assert machine.logged() == ["reload 1", "reload 2"]
    # What was harmed meanwhile is another matter.
    (machine.current() / "key.pem").unlink()
    agent.advance(server, None)
    assert machine.logged() == ["reload 1", "reload 2", "reload 2"]


def test_what_is_kept_of_one_certificate_does_not_keep_an_agent_from_starting(machine: Machine) -> None:
    server, kept = Stranger(), machine.state / "kept" / "web"
    server.renew()
    kept.parent.mkdir(mode=0o700)
    kept.write_text("something else")
    agent = machine.agent()
    assert agent.standing.state == "WAITING"
    with pytest.raises(AgentError, match="web is no folder"):
        agent.advance(server, None)
    # What cannot be kept is not leased again and again.
    assert server.leases == []
    kept.unlink()
    agent.advance(server, None)
    assert agent.standing.state == "SERVING"
