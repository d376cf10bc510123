"""kill -9 of the daemon and its children, at every numbered step and at random under load, round after round.

Ends with an audit of the books: no answered certificate missing, no serial twice, every pending row recovered as lost
and revoked, every change with its event, the chain whole. Exit 1 names what broke.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.daemon import initialise
from tests.faults.rounds import DAEMON, PREPARE, STEPS, TOKEN, Death, Rounds, Tally, random_death

_EXAMPLES = """\
examples:
  scripts/bench faults                      300 rounds
  scripts/bench faults --rounds 30 --seed 7
  scripts/bench faults --json faults.json
"""


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
    source = random.Random(seed)
    every_step = [Death(victim, step) for victim in (DAEMON, TOKEN, PREPARE) for step in STEPS]
    print(f"seed {seed}: {options.rounds} rounds")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="certd-faults-") as folder, Rounds(initialise(Path(folder))) as rounds:
        for number in range(options.rounds):
            death = every_step[number] if number < len(every_step) else random_death(source)
            start = time.monotonic()
            rounds.round(death)
            print(f"round {number + 1:3}  {time.monotonic() - start:6.1f} s  {death}", flush=True)
        rounds.stop()
        figures = _figures(rounds.tally, seed, time.monotonic() - began)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _figures(tally: Tally, seed: int, seconds: float) -> dict[str, object]:
    return {
        "seed": seed,
        "rounds": tally.rounds,
        "seconds": round(seconds, 1),
        "certificates_answered": len(tally.answers),
        "certificates_lost_and_revoked": tally.lost,
        "certificates_revoked": tally.revoked,
        "managed_certificates": len(tally.managed),
        "exports": sum(tally.exports.values()),
        "failures_told_to_callers": dict(tally.failures.most_common()),
        "deaths": dict(tally.deaths.most_common()),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
