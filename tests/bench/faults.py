"""kill -9 of the daemon and its children, at every numbered step and at random under load, round after round.

Most rounds issue; one in eight renews, imports, associates and leases, and one in 25 rotates the wrapping key, each on
a server of its own. Each ends with an audit of the books: no answered certificate missing, no serial and no version
twice, every pending row recovered as lost and revoked, every key opens, every change with its event, the chain whole.
Exit 1 names what broke.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.daemon import initialise
from tests.faults import lives, rotations, rounds
from tests.faults.served import DAEMON, PREPARE, TOKEN

_EXAMPLES = """\
examples:
  scripts/bench faults                      300 rounds
  scripts/bench faults --rounds 30 --seed 7
  scripts/bench faults --json faults.json
"""
_LIVES, _ROTATIONS = 8, 25
"""One round in so many is of this kind."""
_CERTIFICATES = 4
"""Managed certificates that are renewed in each round of lives."""


def main(arguments: list[str]) -> int:
    """Runs the rounds and prints what happened."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench faults",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=300, help="how many deaths (default 300)")
    parser.add_argument("--seed", type=int, default=None, help="makes the random deaths those of an earlier run")
    parser.add_argument("--json", type=Path, default=None, help="writes the figures to this file as well")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}: {options.rounds} rounds")
    began = time.monotonic()
    figures = {"seed": seed, **_run(options.rounds, random.Random(seed)), "seconds": round(time.monotonic() - began, 1)}
    for name, value in figures.items():
        print(f"{name:28} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _run(count: int, source: random.Random) -> dict[str, object]:
    """Runs so many rounds, each kind after the other on a server of its own; returns what happened."""
    living, rotating = count // _LIVES, count // _ROTATIONS
    issuing = count - living - rotating
    figures: dict[str, object] = {"rounds": count}
    with _folder() as folder, rounds.Rounds(initialise(folder)) as under_fire:
        deaths = [rounds.Death(victim, step) for victim in (DAEMON, TOKEN, PREPARE) for step in rounds.STEPS]
        while len(deaths) < issuing:
            deaths.append(rounds.random_death(source))
        for number, death in enumerate(deaths[:issuing], start=1):
            _timed(f"issuing {number:3}", str(death), partial(under_fire.round, death))
        under_fire.stop()
        figures |= _figures_of_issuing(under_fire.tally)
    if living:
        with _folder() as folder, lives.Lives(initialise(folder), certificates=_CERTIFICATES) as life:
            for number, (victim, step) in enumerate(_at_steps(lives.STEPS, living, source), start=1):
                _timed(f"life {number:6}", f"{victim} at {step}", partial(life.round, victim, step))
            life.stop()
            figures |= _figures_of_lives(life)
    if rotating:
        with _folder() as folder, rotations.Rotations(initialise(folder), certificates=3 * _CERTIFICATES) as rotation:
            for number, (victim, step) in enumerate(_at_steps(rotations.STEPS, rotating, source), start=1):
                _timed(f"rotation {number:2}", f"{victim} at {step}", partial(rotation.round, victim, step))
            rotation.stop()
        figures["rotations"] = rotating
    return figures


def _at_steps(steps: Sequence[str], count: int, source: random.Random) -> list[tuple[str, str]]:
    """Returns who dies at which step: both at each, in an order that `source` chose, again and again."""
    both = [(victim, step) for victim in (DAEMON, TOKEN) for step in steps]
    source.shuffle(both)
    return list(itertools.islice(itertools.cycle(both), count))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="certd-faults-") as folder:
        yield Path(folder)


def _timed(number: str, death: str, run: Callable[[], None]) -> None:
    start = time.monotonic()
    run()
    print(f"{number}  {time.monotonic() - start:6.1f} s  {death}", flush=True)


def _figures_of_issuing(tally: rounds.Tally) -> dict[str, object]:
    return {
        "certificates_answered": len(tally.answers),
        "certificates_lost_and_revoked": tally.lost,
        "certificates_revoked": tally.revoked,
        "managed_certificates": len(tally.managed),
        "exports": sum(tally.exports.values()),
        "failures_told_to_callers": dict(tally.failures.most_common()),
        "deaths": dict(tally.deaths.most_common()),
    }


def _figures_of_lives(life: lives.Lives) -> dict[str, object]:
    expected, tally = life.expected, life.tally
    return {
        "renewals": expected.renewals * len(expected.managed),
        "renewals_interrupted": tally.lost,
        "imports": sum(map(len, expected.imported.values())),
        "roll_backs": expected.roll_backs,
        "associations": len(expected.associations),
        "leases": expected.leases,
        "life_failures_told_to_callers": dict(life.failures.most_common()),
        "life_deaths": dict(tally.deaths.most_common()),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
