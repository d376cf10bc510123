"""One certificate on a machine, from lease to report: what programs refuse is undone, no death leaves half of it."""

import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.agent.bundle import Bundle
from certd.agent.config import Certificate, Command
from certd.agent.errors import AgentError, NotTakenYetError
from certd.v1.managed_certificate_pb2 import Deployment as Reported
from tests.agent.bundles import Minter
from tests.agent.machine import Died, Machine, Stranger


def test_a_version_reaches_files_and_program_and_is_reported(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    agent.advance(server, None)
    assert (server.leases, server.reports, machine.logged()) == ([], [], [])
    assert agent.standing.state == "WAITING"
    made = server.renew()
    agent.advance(server, server.told())
    assert machine.served() == made.certificate
    assert machine.modes() == {
        "fullchain.pem": "0644",
        "key.pem": "0600",
        "combined.pem": "0640",
        ".certd.json": "0600",
    }
    assert machine.current().readlink() == Path("versions/1")
    assert machine.logged() == ["reload 1"]
    (report,) = server.reports
    assert (report.state, report.version) == (Reported.SERVING, 1)
    assert report.certificate_sha256 == made.certificate_sha256
    assert (agent.standing.state, agent.standing.not_after) == ("SERVING", made.not_after)


def test_of_many_versions_the_one_before_stays_and_the_others_go(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    for _ in range(4):
        made = server.renew()
        agent.advance(server, server.told())
        assert machine.served() == made.certificate
    assert machine.versions() == ["3", "4"]
    assert sorted(each.name for each in (machine.state / "kept" / "web").iterdir()) == [
        "3.json",
        "4.json",
        "record.json",
    ]
    assert server.leases == [1, 2, 3, 4]


def test_what_is_there_is_neither_leased_nor_told_nor_reloaded_again(machine: Machine, server: Stranger) -> None:
    server.renew()
    machine.agent().advance(server, None)
    for _ in range(3):
        agent = machine.agent()
        agent.advance(server, server.told())
        agent.advance(server, None)
    assert (server.leases, len(server.reports), machine.logged()) == ([1], 1, ["reload 1"])


def test_without_a_server_a_restart_sees_to_what_is_there(machine: Machine, server: Stranger) -> None:
    made = server.renew()
    machine.agent().advance(server, None)
    assert machine.agent().standing.certificate_sha256 == made.certificate_sha256.hex()


@pytest.mark.parametrize("first", [True, False], ids=["the first", "a later one"])
def test_an_agent_that_dies_between_any_two_steps_goes_on_from_there(
    tmp_path: Path, server: Stranger, *, first: bool
) -> None:
    steps: list[str] = []
    whole = Machine(tmp_path / "whole")
    if not first:
        server.renew()
        whole.agent().advance(server, None)
    server.renew()
    whole.agent(step=steps.append).advance(server, None)
    # Leased, kept, five of writing, deploying, two of the flip, checked, told, seen, served, reported.
    assert len(steps) >= 15
    for place in range(len(steps)):
        _die_at(Machine(tmp_path / str(place)), place, first=first)


def _die_at(machine: Machine, place: int, *, first: bool) -> None:
    server, came = Stranger(), 0
    before = None
    if not first:
        before = server.renew()
        machine.agent().advance(server, None)
    made = server.renew()

    def die(_: str) -> None:
        nonlocal came
        came += 1
        if came > place:
            raise Died

    with pytest.raises(Died):
        machine.agent(step=die).advance(server, None)
    if machine.current().exists():
        assert machine.served() in {made.certificate, before.certificate if before else b""}
    # Whatever is on the disk, private keys are their owner's.
    for path in machine.folder.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o007
    agent = machine.agent()
    agent.advance(server, None)
    assert machine.served() == made.certificate
    assert server.reports[-1].version == made.version
    assert server.reports[-1].state == Reported.SERVING
    assert not [each for each in machine.versions() if each.startswith(".")]
    # What was kept is not leased again.
    assert server.leases.count(made.version) <= 2 - (place > 0)


def _refusing(machine: Machine, *versions: int, word: str = "reload") -> Command:
    tests = " && ".join(f'[ "$CERTD_VERSION" != {version} ]' for version in versions)
    return machine.logging(word, then=f"{{ {tests}; }} || {{ echo it is no good; false; }}")


def test_a_version_that_the_program_refuses_is_taken_back_and_told(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=_refusing(machine, 2))
    before = server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    server.renew()
    agent.advance(server, server.told())
    assert machine.served() == before.certificate
    assert machine.logged() == ["reload 1", "reload 2", "reload 1"]
    assert server.states == [("SERVING", 1), ("FAILED", 2)]
    assert "it is no good" in server.reports[-1].message
    assert "exit code 1" in server.reports[-1].message
    assert (agent.standing.state, agent.standing.version) == ("FAILED", 1)


def test_what_failed_is_tried_again_later_and_is_not_leased_again(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=_refusing(machine, 2))
    server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    server.renew()
    tries = []
    for _ in range(3):
        agent.advance(server, server.told())
        tries.append(machine.logged().count("reload 2"))
        assert agent.retry_in is not None
        assert agent.retry_in > 20
        agent.advance(server, server.told())
        machine.clock.advance(timedelta(seconds=agent.retry_in + 1))
    assert tries == [1, 2, 3]
    assert machine.logged().count("reload 2") == 3
    assert server.leases == [1, 2]
    assert server.states == [("SERVING", 1), ("FAILED", 2)]
    # A restart does not forget to wait; who asks for it is heard.
    agent.advance(server, None)
    again = machine.agent()
    again.advance(server, None)
    assert machine.logged().count("reload 2") == 4
    again.forgive()
    again.advance(server, None)
    assert machine.logged().count("reload 2") == 5


def test_a_newer_version_than_the_one_that_failed_is_tried_at_once(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=_refusing(machine, 2))
    agent = machine.agent()
    for _ in range(3):
        made = server.renew()
        agent.advance(server, server.told())
    assert machine.served() == made.certificate
    assert server.states == [("SERVING", 1), ("FAILED", 2), ("SERVING", 3)]
    assert machine.versions() == ["1", "3"]


def test_files_of_a_failing_program_do_not_pile_up(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=_refusing(machine, *range(2, 12)))
    agent = machine.agent()
    for _ in range(11):
        server.renew()
        agent.advance(server, server.told())
    assert machine.versions() == ["1", "11"]
    assert len(list((machine.state / "kept" / "web").iterdir())) == 3


def test_the_first_version_stays_though_its_program_does_not_run_yet(machine: Machine, server: Stranger) -> None:
    # A program may need the files to start, and cannot be reloaded before it has.
    started = machine.folder / "started"
    machine.certificate = replace(machine.certificate, reload=machine.logging("reload", then=f'test -e "{started}"'))
    made = server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    assert machine.served() == made.certificate
    assert server.states == [("FAILED", 1)]
    started.touch()
    agent.forgive()
    agent.advance(server, None)
    assert server.states == [("FAILED", 1), ("SERVING", 1)]
    assert server.leases == [1]


def test_a_check_that_fails_spares_the_program_the_reload(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, check=_refusing(machine, 2, word="check"))
    before = server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    server.renew()
    agent.advance(server, None)
    assert machine.logged() == ["check 1", "reload 1", "check 2"]
    assert machine.served() == before.certificate
    assert server.states == [("SERVING", 1), ("FAILED", 2)]


def test_a_check_sees_the_new_files_where_the_program_will(machine: Machine, server: Stranger) -> None:
    copy = machine.folder / "seen"
    check = Command(arguments=("sh", "-c", f'cat "$CERTD_DIRECTORY/fullchain.pem" > "{copy}"'), timeout=10)
    machine.certificate = replace(machine.certificate, check=check)
    server.renew()
    machine.agent().advance(server, None)
    assert copy.read_bytes() == (machine.current() / "fullchain.pem").read_bytes()


def _another_key(minter: Minter) -> Bundle:
    return minter.bundle(version=2, key=ec.generate_private_key(ec.SECP256R1()))


def _another_root(minter: Minter) -> Bundle:
    return replace(minter.bundle(version=2), roots=Minter().bundle().roots, chain=())


def _another_chain(minter: Minter) -> Bundle:
    return replace(minter.bundle(version=2), chain=Minter().bundle().chain)


def _ended(minter: Minter) -> Bundle:
    return minter.bundle(version=2, begin=timedelta(days=-2), end=timedelta(days=-1))


def _not_begun(minter: Minter) -> Bundle:
    return minter.bundle(version=2, begin=timedelta(days=1), end=timedelta(days=2))


def _no_key(minter: Minter) -> Bundle:
    return replace(minter.bundle(version=2), private_key_info=b"\x30\x00")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_another_key, "does not belong to the certificate"),
        (_another_root, "trust_roots"),
        (_another_chain, "did not sign"),
        (_ended, "ended at"),
        (_not_begun, "clock"),
        (_no_key, "private key cannot be read"),
    ],
)
def test_a_bundle_that_is_not_right_changes_nothing(
    machine: Machine, server: Stranger, broken: Callable[[Minter], Bundle], says: str
) -> None:
    before = server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    server.renew(broken(server.minter))
    agent.advance(server, None)
    assert machine.served() == before.certificate
    assert machine.versions() == ["1"]
    assert machine.logged() == ["reload 1"]
    assert server.states == [("SERVING", 1), ("FAILED", 2)]
    assert says in server.reports[-1].message


def test_own_roots_decide_when_they_are_named(machine: Machine, server: Stranger, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    other = Minter()
    roots.write_bytes(other.root.public_bytes(_pem()))
    machine.certificate = replace(machine.certificate, trust_roots=roots)
    server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    assert server.states == [("FAILED", 1)]
    roots.write_bytes(roots.read_bytes() + server.minter.root.public_bytes(_pem()))
    agent.forgive()
    agent.advance(server, None)
    assert server.states == [("FAILED", 1), ("SERVING", 1)]
    roots.unlink()
    server.renew()
    agent.advance(server, None)
    assert "cannot be read" in server.reports[-1].message


def _pem() -> Encoding:
    return Encoding.PEM


def test_an_earlier_version_is_gone_back_to_when_the_server_itself_says_so(machine: Machine, server: Stranger) -> None:
    agent = machine.agent()
    earlier = server.renew()
    late = server.told()
    agent.advance(server, None)
    made = server.renew()
    agent.advance(server, None)
    # An old message is no reason.
    agent.advance(server, late)
    assert machine.served() == made.certificate
    server.current = 1
    agent.advance(server, server.told())
    assert machine.served() == earlier.certificate
    assert server.states[-1] == ("SERVING", 1)
    # It was kept, for the way back.
    assert server.leases == [1, 2]


@pytest.mark.parametrize("told", [True, False])
def test_another_certificate_of_the_same_name_is_no_version_of_the_old_one(
    machine: Machine, server: Stranger, *, told: bool
) -> None:
    for _ in range(2):
        server.renew()
        machine.agent().advance(server, None)
    # Deleted, and requested again: its versions begin with 1, and what is served is version 2 of the old one.
    other = Stranger(uid="2", minter=server.minter)
    for version in (1, 2):
        made = other.renew()
        agent = machine.agent()
        agent.advance(other, other.told() if told else None)
        assert machine.served() == made.certificate
        assert other.states[-1] == ("SERVING", version)
        assert other.leases == list(range(1, version + 1))
    # What an old stream tells of the one that is no more is asked about first.
    agent.advance(other, server.told())
    assert machine.served() == made.certificate
    assert other.leases == [1, 2]


def test_a_clock_that_was_set_back_makes_nobody_wait_for_years(machine: Machine, server: Stranger) -> None:
    machine.certificate = replace(machine.certificate, reload=_refusing(machine, 1))
    server.renew()
    agent = machine.agent()
    machine.clock.advance(timedelta(days=20))
    agent.advance(server, None)
    machine.clock.advance(timedelta(days=-20))
    agent.advance(server, None)
    assert machine.logged() == ["reload 1", "reload 1"]


def test_what_is_served_past_its_end_is_told(
    machine: Machine, server: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    server.renew(server.minter.bundle(version=1, end=timedelta(hours=1)))
    agent = machine.agent()
    agent.advance(server, None)
    assert "has ended" not in caplog.text
    machine.clock.advance(timedelta(hours=2))
    agent.advance(server, None)
    assert "version 1 is served and has ended" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"deployed": 1, "unknown": 2}'])
def test_a_record_that_cannot_be_read_begins_anew(machine: Machine, server: Stranger, content: bytes) -> None:
    made = server.renew()
    machine.agent().advance(server, None)
    (machine.state / "kept" / "web" / "record.json").write_bytes(content)
    machine.agent().advance(server, None)
    assert machine.served() == made.certificate
    assert server.leases == [1]


def test_two_agents_of_one_consumer_converge_and_do_not_flap(tmp_path: Path, server: Stranger) -> None:
    machines = [Machine(tmp_path / name) for name in ("a", "b")]
    agents = [machine.agent() for machine in machines]
    for _ in range(3):
        made = server.renew()
        for _ in range(3):
            for agent in agents:
                agent.advance(server, None)
        assert {machine.served() for machine in machines} == {made.certificate}
    assert server.leases == [1, 1, 2, 2, 3, 3]
    assert len(server.reports) == 6


def test_a_new_association_is_told_what_is_served(machine: Machine, server: Stranger) -> None:
    server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    server.reports.clear()
    agent.advance(server, None)
    assert server.states == [("SERVING", 1)]


class Program:
    """A program that takes certificates in a way of its own."""

    def __init__(self) -> None:
        self.has: list[int] = []
        self.restored: list[int] = []
        self.problem: AgentError | None = None

    def deploy(self, bundle: Bundle) -> None:
        self.has.append(bundle.version)
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem

    def restore(self, bundle: Bundle) -> None:
        self.restored.append(bundle.version)


def test_a_target_gets_each_version_and_the_one_before_when_it_refuses(machine: Machine, server: Stranger) -> None:
    program = Program()
    agent = machine.agent(targets=[program])
    for _ in range(2):
        server.renew()
        agent.advance(server, None)
    assert program.has == [1, 2]
    program.problem = AgentError("no")
    server.renew()
    agent.advance(server, None)
    assert program.has == [1, 2, 3, 2]
    assert server.states[-1] == ("FAILED", 3)
    # The reload command comes after the targets.
    assert machine.logged() == ["reload 1", "reload 2", "reload 2"]
    other = Program()
    machine.agent(targets=[other])
    assert (other.has, other.restored) == ([], [2])


def test_what_nobody_came_for_yet_waits_and_is_no_failure(machine: Machine, server: Stranger) -> None:
    program = Program()
    program.problem = NotTakenYetError("nobody came")
    made = server.renew()
    agent = machine.agent(targets=[program])
    agent.advance(server, None)
    assert server.reports == []
    assert machine.served() == made.certificate
    assert machine.logged() == ["reload 1"]
    agent.advance(server, None)
    assert server.states == [("SERVING", 1)]
    assert server.leases == [1]


def test_a_certificate_without_files_writes_none(machine: Machine, server: Stranger) -> None:
    program = Program()
    bare = Certificate(name="web", association=machine.certificate.association, directory=machine.directory)
    server.renew()
    machine.agent(certificate=bare, targets=[program]).advance(server, None)
    assert program.has == [1]
    assert not machine.directory.exists()
    machine.agent(certificate=bare, targets=[program])
    assert program.restored == [1]


def test_the_end_of_the_agent_leaves_an_interrupted_version_to_the_next(machine: Machine, server: Stranger) -> None:
    from certd.agent.commands import StoppedError

    sleeping = Command(arguments=("sleep", "60"), timeout=60)
    server.renew()
    machine.stop.set()
    with pytest.raises(StoppedError):
        machine.agent(certificate=replace(machine.certificate, reload=sleeping)).advance(server, None)
    assert server.reports == []
    machine.stop.clear()
    machine.agent().advance(server, None)
    assert server.states == [("SERVING", 1)]
    assert (server.leases, machine.logged()) == ([1], ["reload 1"])
