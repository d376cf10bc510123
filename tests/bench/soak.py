"""A hundred agents with certificates of two minutes, served while daemon and token process die; nothing grows.

Each agent is a process with an identity and a directory of its own. At random moments the daemon and the token process
get kill -9. Every version that was current must have come to the files of every agent that serves the certificate, what
was in the files must never have been past its end, every agent must have reported what it serves, and memory,
descriptors and threads of all processes must stay what they were. The delay is from the time of the event, which lies
before its commit, until the files are those that programs read. Exit 1 names what did not hold.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.soak.run import AGENT, Plan, Report, percentiles, soak
from tests.soak.verdict import Growth, Sample

_EXAMPLES = """\
examples:
  scripts/bench soak                              100 agents, ten minutes
  scripts/bench soak --agents 10 --minutes 3 --seed 7
  scripts/bench soak --minutes 60 --kills 12 --json soak.json
"""
_SHOWN = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it, prints what happened, and returns 1 when something did not hold."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        agents=options.agents,
        certificates=min(options.agents, options.certificates or -(-options.agents // 2)),
        seconds=options.minutes * 60,
        lifetime=options.lifetime,
        remaining_percent=options.remaining_percent,
        kills=options.kills,
        seed=options.seed if options.seed is not None else random.SystemRandom().randrange(2**32),
    )
    _say(
        f"seed {plan.seed}: {plan.agents} agents, {plan.certificates} certificates of {plan.lifetime:g} s,"
        f" {plan.seconds:g} s, {plan.kills} deaths each"
    )
    # Nothing that was started here outlives it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="certd-soak-", dir=options.folder) as folder:
        report = soak(Path(folder), plan, say=_say)
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    _tell(report)
    return 1 if report.wrong else 0


def _tell(report: Report) -> None:
    delays, served = percentiles(report.served.delays), report.served
    _say(
        f"{report.versions} versions were issued, and came {len(served.delays)} times to the files of an agent:"
        f" after {delays['p50']:.2f} s at the median, {delays['p99']:.2f} s at the 99th percentile, and"
        f" {delays['max']:.2f} s at most"
    )
    _say(f"no certificate had less than {served.least_left:.1f} s left when another one was in its place")
    agents = [each for role, each in report.growths if role == AGENT]
    if agents:
        before, after = (percentiles([each.mebibytes for each in some]) for some in _ends(agents))
        most = max(each.after.mebibytes - each.before.mebibytes for each in agents)
        _say(
            f"an agent had {before['p50']:.1f} MiB at first, at most {before['max']:.1f}, and {after['p50']:.1f} MiB,"
            f" at most {after['max']:.1f}, at the end; none grew by more than {most:.1f} MiB"
        )
    for role, each in report.growths:
        if role != AGENT:
            _say(
                f"{each.process} went from {each.before.mebibytes:.1f} to {each.after.mebibytes:.1f} MiB, from"
                f" {each.before.descriptors} to {each.after.descriptors} descriptors and from {each.before.threads} to"
                f" {each.after.threads} threads in {each.seconds:.0f} s"
            )
    if not report.growths:
        _say("the run was too short to tell growth from a beginning")
    _say(", ".join(f"{count} {type_}" for type_, count in report.events.items()))
    for line in report.wrong[:_SHOWN]:
        _say(f"WRONG: {line}")
    if len(report.wrong) > _SHOWN:
        _say(f"WRONG: and {len(report.wrong) - _SHOWN} more")
    if not report.wrong:
        _say("all held")


def _ends(agents: Sequence[Growth]) -> tuple[list[Sample], list[Sample]]:
    return [each.before for each in agents], [each.after for each in agents]


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench soak",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--agents", type=_count, default=100, help="how many (default 100)")
    parser.add_argument("--certificates", type=_count, help="how many different ones (default one for two agents)")
    parser.add_argument("--minutes", type=_positive, default=10.0, help="how long, once all agents run (default 10)")
    parser.add_argument("--lifetime", type=_positive, default=120.0, help="of a certificate, in seconds (default 120)")
    parser.add_argument(
        "--remaining-percent",
        type=int,
        default=33,
        help="of the lifetime around which a certificate is renewed, from 1.6 times to 0.4 times so much (default 33)",
    )
    parser.add_argument("--kills", type=int, default=2, help="of the daemon, and of the token process (default 2 each)")
    parser.add_argument("--seed", type=int, help="has what dies die at the moments of an earlier run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp") if Path("/var/tmp").is_dir() else None,  # Unlike /tmp, it lies on a disk.
        help="where the data of the daemon and of the agents lie meanwhile",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
