"""One run: agents and a daemon, deaths at random moments, and in the end the verdict."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.agent.running import Administrator
from tests.soak import fleet
from tests.soak.fleet import Agent
from tests.soak.server import DAEMON, PREPARE, TOKEN, Server
from tests.soak.verdict import Bound, Growth, Machine, Served, growth, judge
from tests.soak.watching import Folders, Vitals
from tests.waiting import eventually

AGENT: Final = "agent"
BOUNDS: Final = {
    # One for each death of the daemon would be too many.
    AGENT: Bound(mebibytes=4, part=0.1, descriptors=1, threads=1),
    DAEMON: Bound(mebibytes=24, part=0.15, descriptors=16, threads=16),
    TOKEN: Bound(mebibytes=8, part=0.1, descriptors=3, threads=2),
    PREPARE: Bound(mebibytes=8, part=0.1, descriptors=3, threads=2),
}
"""By how much each kind of process may grow."""
_SETTLE: Final = 0.15
"""Part of the run in which a process takes what it needs; what it takes later is growth."""
_WINDOW: Final = 0.05
"""Part of the run over which is looked at what processes take, before and after."""
_CALM: Final = (0.21, 0.6)
"""Parts of the run before and after which nothing is killed: agents are looked at before the first death."""
_LEAST_SETTLE: Final = 20.0
"""Seconds; processes that had less do not tell by their growth whether they lose something."""
_GRACE: Final = 0.125
"""Part of the lifetime; a version that was current for no longer may never come to the files."""
_LEAST_GRACE: Final = 15.0
"""Seconds, as of certificates of two minutes: a busy machine starts a daemon slowly, and agents pause between tries."""
_SAMPLES: Final = 300
_LINES: Final = 40
_FRESH: Final = 10.0
"""Seconds; older samples are of processes that died."""
_TOLD: Final = 2000
_TROUBLE: Final = (
    "managed-certificate.renewal-blocked",
    "managed-certificate.deployment-late",
    "managed-certificate.expired",
)
_START_SECONDS: Final = 120.0
_REPORT_SECONDS: Final = 60.0
_TRACEBACK: Final = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is."""

    agents: int
    certificates: int
    seconds: float
    lifetime: float
    remaining_percent: int
    kills: int
    """Of the daemon, and as many of the token process."""
    seed: int

    def deaths(self) -> list[tuple[float, str]]:
        """Returns after how many seconds what is killed: in turn at a random moment of a part of the run each."""
        source = random.Random(self.seed)
        victims = [DAEMON, TOKEN] * self.kills
        source.shuffle(victims)
        first, last = (part * self.seconds for part in _CALM)
        slot = (last - first) / max(len(victims), 1)
        # Who is killed while it starts would tell of that alone.
        return [(first + (place + 0.8 * source.random()) * slot, victim) for place, victim in enumerate(victims)]


@dataclass(slots=True)
class Report:
    """What a run was like."""

    plan: Plan
    served: Served
    versions: int
    """Issued while all agents ran."""
    deaths: list[tuple[float, str, float]]
    """After how many seconds what was killed, and the seconds until it was there again."""
    growths: list[tuple[str, Growth]]
    """With the role of the process."""
    events: Mapping[str, int]
    """How many there were of types that tell of trouble."""
    wrong: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns it for a JSON text."""
        delays = self.served.delays
        return {
            "bench": "soak",
            **asdict(self.plan),
            "versions": self.versions,
            "delays": len(delays),
            "delay_seconds": percentiles(delays),
            "least_left_seconds": self.served.least_left,
            "deaths": [{"after": at, "victim": victim, "back_after": back} for at, victim, back in self.deaths],
            "growths": [{"role": role, **asdict(each)} for role, each in self.growths],
            "events": dict(self.events),
            "wrong": self.wrong,
        }


def soak(folder: Path, plan: Plan, *, say: Callable[[str], None]) -> Report:
    """Runs it; `say` is told how it goes, in lines."""
    managed_of = {f"agent-{number}": f"soak-{number % plan.certificates}" for number in range(plan.agents)}
    managed = tuple(dict.fromkeys(managed_of.values()))
    (folder / "agents").mkdir()
    with Server(folder, lifetime=plan.lifetime, remaining_percent=plan.remaining_percent) as server:
        with Administrator(server.daemon) as administrator:
            agents = fleet.enrolled(administrator, folder / "agents", managed_of, enrollment=server.daemon.enrollment)
        for each in managed:
            server.request(each, [agent.name for agent in agents if agent.managed == each])
        say(f"{len(agents)} agents are enrolled, for {len(managed)} certificates")
        with Folders({agent.name: agent.directory for agent in agents}) as folders, fleet.running(agents):
            eventually(lambda: all(folders.sights.values()), within=_START_SECONDS, pause=0.1)
            say("all agents serve; the run begins")
            began = time.time()
            with Vitals(partial(_processes, server, agents), pause=max(0.2, plan.seconds / _SAMPLES)) as vitals:
                deaths = _live(server, plan, say, lambda: _progress(agents, folders, vitals))
                wrong = server.unreported(managed, within=_REPORT_SECONDS)
                folders.end()
                vitals.end()
            end = time.time()
            wrong += [f"{each.name} had ended, with exit code {each.exit_code}" for each in agents if each.ended]
            versions = server.versions(managed)
            events = {type_: server.count(type_) for type_ in _TROUBLE}
            wrong += fleet.stop(agents)
        wrong += server.stop()
        wrong += _defects(server, agents)
    machines = [
        Machine(name=each.name, managed=each.managed, began=began, sights=folders.sights[each.name]) for each in agents
    ]
    served = judge(machines, versions, end=end, grace=max(_LEAST_GRACE, _GRACE * plan.lifetime))
    growths = _growths(vitals, plan)
    wrong += [*folders.wrong, *served.wrong]
    wrong += [text for role, each in growths for text in each.complaints(BOUNDS[role])]
    return Report(
        plan=plan,
        served=served,
        versions=sum(version.issued >= began for each in versions.values() for version in each),
        deaths=deaths,
        growths=growths,
        events=events,
        wrong=wrong,
    )


def _live(
    server: Server, plan: Plan, say: Callable[[str], None], progress: Callable[[], str]
) -> list[tuple[float, str, float]]:
    """Lets time pass and kills what is to be killed; returns what was, when, and how long it was away."""
    began, happened = time.monotonic(), []
    pause = max(5.0, plan.seconds / _LINES)
    told = began
    deaths = plan.deaths()
    while (elapsed := time.monotonic() - began) < plan.seconds:
        if deaths and elapsed >= deaths[0][0]:
            _, victim = deaths.pop(0)
            server.kill(victim)
            happened.append((elapsed, victim, time.monotonic() - began - elapsed))
            say(f"{elapsed:6.0f} s  {victim} killed; another one was there after {happened[-1][2]:.1f} s")
        elif elapsed >= told + pause - began:
            told = began + elapsed
            say(f"{elapsed:6.0f} s  {progress()}")
        due = [began + plan.seconds, told + pause, *(began + at for at, _ in deaths[:1])]
        time.sleep(max(0.0, min(due) - time.monotonic()))
    return happened


def _processes(server: Server, agents: Sequence[Agent]) -> dict[int, tuple[str, str]]:
    return {
        **{pid: (role, f"the {role}") for pid, role in server.processes().items()},
        **{each.pid: (AGENT, each.name) for each in agents if not each.ended},
    }


def _progress(agents: Sequence[Agent], folders: Folders, vitals: Vitals) -> str:
    now = time.time()
    shown = sum(map(len, folders.sights.values()))
    left = min(sights[-1].not_after - now for sights in folders.sights.values())
    newest: dict[str, list[float]] = {}
    for pid, (role, _) in list(vitals.names.items()):
        if vitals.samples[pid][-1].time > now - _FRESH:
            newest.setdefault(role, []).append(vitals.samples[pid][-1].mebibytes)
    memory = ", ".join(f"{role} {statistics.median(each):.0f} MiB" for role, each in sorted(newest.items()))
    return f"{shown} versions in the files of {len(agents)} agents, the next one ends in {left:.0f} s; {memory}"


def _growths(vitals: Vitals, plan: Plan) -> list[tuple[str, Growth]]:
    settle, window = _SETTLE * plan.seconds, _WINDOW * plan.seconds
    if settle < _LEAST_SETTLE:
        return []
    found = []
    for pid, samples in vitals.samples.items():
        role, name = vitals.names[pid]
        one = growth(name, samples, settle=settle, window=window)
        if one is not None:
            found.append((role, one))
    return found


def _defects(server: Server, agents: Sequence[Agent]) -> list[str]:
    """Returns what logs tell of mistakes in a program."""
    logs = {"the daemon": server.installation.log} | {each.name: each.place.log for each in agents}
    texts = {name: log.read_text() for name, log in logs.items()}
    return [
        f"the log of {name} has {text[text.index(_TRACEBACK) :][:_TOLD]}"
        for name, text in texts.items()
        if _TRACEBACK in text
    ]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns median, 99th percentile and the most."""
    if len(values) < 2:
        return dict.fromkeys(("p50", "p99", "max"), values[0] if values else 0.0)
    quantiles = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": quantiles[49], "p99": quantiles[98], "max": max(values)}
