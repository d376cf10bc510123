"""The agents: each a process with a directory and an identity of its own."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certd.agent import identity
from certd.client.enrollment import enroll
from certd.pki.enrollment_code import EnrollmentCode, parse_code
from certd.v1.identity_pb2 import IdentityCredential
from tests.agent.running import Administrator, Place, RunningAgent

_AT_ONCE: Final = 4
"""Agents that start at the same time."""
_STOP_SECONDS: Final = 120.0
"""In which all have ended."""


@dataclass(slots=True)
class Agent:
    """One agent, from its configuration on."""

    name: str
    managed: str
    """Id of the managed certificate that it serves."""
    place: Place
    directory: Path
    """Where `current` is."""
    running: RunningAgent | None = None

    @property
    def pid(self) -> int:
        """Its process; 0: none."""
        return 0 if self.running is None else self.running.process.pid

    @property
    def ended(self) -> bool:
        """Whether it ran, and runs no more."""
        return self.exit_code is not None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self.running is None else self.running.process.poll()


def enrolled(
    administrator: Administrator, folder: Path, managed_of: Mapping[str, str], *, enrollment: str
) -> list[Agent]:
    """Returns agents by these names, each configured for its managed certificate and enrolled at an address."""

    def call(code: EnrollmentCode, csr: bytes) -> tuple[IdentityCredential, bytes]:
        answer = enroll(enrollment, code, csr)
        return answer.credential, answer.trust_bundle

    agents = []
    for name, managed in managed_of.items():
        home = folder / name
        home.mkdir()
        place = Place(administrator, home, name)
        # A program is run after each renewal, as on most machines.
        directory = place.add(managed, 'reload = ["true"]')
        # As `certd-agent enroll` does it; a process for each would take a second.
        identity.enroll(place.state, parse_code(administrator.code(name)), call)
        agents.append(Agent(name=name, managed=managed, place=place, directory=directory))
    return agents


@contextmanager
def running(agents: Sequence[Agent]) -> Iterator[None]:
    """Runs the agents, a few of which start at once; who wants to know how they end stops them."""
    with ExitStack() as stack:
        for first in range(0, len(agents), _AT_ONCE):
            some = agents[first : first + _AT_ONCE]
            for agent in some:
                agent.running = stack.enter_context(agent.place.running(ready=False))
            for agent in some:
                assert agent.running is not None
                agent.running.ready()
        yield


def stop(agents: Sequence[Agent]) -> list[str]:
    """Ends all agents as an operator does, at once; returns what is wrong with how they ended."""
    processes = [agent.running.process for agent in agents if agent.running is not None]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(_STOP_SECONDS)
    return [f"{agent.name} ended with exit code {agent.exit_code}" for agent in agents if agent.exit_code]
