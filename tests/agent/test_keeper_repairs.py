"""What is harmed on a machine is written again from what is kept, without a lease."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from certd.agent.config import File
from tests.agent.machine import Machine, Stranger


def _gone(machine: Machine) -> None:
    (machine.current() / "key.pem").unlink()


def _damaged(machine: Machine) -> None:
    (machine.current() / "fullchain.pem").write_text("nothing")


def _open(machine: Machine) -> None:
    (machine.current() / "key.pem").chmod(0o644)


def _replaced(machine: Machine) -> None:
    path = machine.current() / "key.pem"
    content = path.read_bytes()
    path.unlink()
    elsewhere = machine.folder / "elsewhere"
    elsewhere.write_bytes(content)
    path.symlink_to(elsewhere)


def _no_link(machine: Machine) -> None:
    machine.current().unlink()


def _bent_link(machine: Machine) -> None:
    machine.current().unlink()
    machine.current().symlink_to("/etc")


def _no_manifest(machine: Machine) -> None:
    (machine.current() / ".certd.json").write_text("{")


def _all_gone(machine: Machine) -> None:
    machine.directory.rename(machine.folder / "away")


@pytest.mark.parametrize(
    "harm", [_gone, _damaged, _open, _replaced, _no_link, _bent_link, _no_manifest, _all_gone], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("restarted", [True, False])
def test_what_was_harmed_is_written_again_from_what_is_kept(
    machine: Machine, server: Stranger, harm: Callable[[Machine], None], *, restarted: bool
) -> None:
    made = server.renew()
    agent = machine.agent()
    agent.advance(server, None)
    harm(machine)
    if restarted:
        # The server is away.
        machine.agent()
    else:
        agent.advance(server, None)
    assert machine.served() == made.certificate
    assert machine.modes()["key.pem"] == "0600"
    assert server.leases == [1]
    assert machine.logged() == ["reload 1", "reload 1"]
    assert len(machine.versions()) == 1


def test_other_files_in_the_configuration_are_written_without_a_lease(machine: Machine, server: Stranger) -> None:
    server.renew()
    machine.agent().advance(server, None)
    more = File(path="leaf.der", format="certificate-der", mode=0o644)
    machine.certificate = replace(machine.certificate, files=(*machine.certificate.files, more))
    machine.agent()
    assert (machine.current() / "leaf.der").read_bytes() == machine.served()
    assert (server.leases, machine.logged()) == ([1], ["reload 1", "reload 1"])


def test_what_is_kept_is_leased_again_when_it_is_damaged_and_nobody_notices(machine: Machine, server: Stranger) -> None:
    server.renew()
    machine.agent().advance(server, None)
    kept = machine.state / "kept" / "web" / "1.json"
    kept.write_bytes(kept.read_bytes().replace(b"A", b"B", 1))
    agent = machine.agent()
    agent.advance(server, None)
    assert server.leases == [1, 1]
    assert machine.logged() == ["reload 1"]
    assert agent.standing.state == "SERVING"
