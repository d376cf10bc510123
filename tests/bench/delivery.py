"""Deliveries of events by webhook and mail while daemon, token process, receiver and mail server die at random.

Each round changes managed certificates, and something gets kill -9 meanwhile, at a step of a delivery or at any moment;
the receiver of webhooks refuses a share of what comes, or says that it takes nothing now. After each round every event
must have come once at least, and those of one managed certificate in their order. Exit 1 names what did not.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.daemon import initialise
from tests.faults.deliveries import STEPS, DeliveriesUnderFire, random_death
from tests.faults.served import DAEMON

_EXAMPLES = """\
examples:
  scripts/bench delivery                       100 rounds
  scripts/bench delivery --rounds 20 --seed 7
  scripts/bench delivery --refused 0.1 --json delivery.json
"""


def main(arguments: list[str]) -> int:
    """Runs the rounds and prints what happened."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench delivery",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=100, help="how many deaths (default 100)")
    parser.add_argument("--seed", type=int, default=None, help="makes the random deaths those of an earlier run")
    parser.add_argument("--refused", type=float, default=0.03, help="share that is not taken at once (default 0.03)")
    parser.add_argument("--json", type=Path, default=None, help="writes the figures to this file as well")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}: {options.rounds} rounds, a share of {options.refused} is not taken at once", flush=True)
    figures = {"seed": seed, **_run(options.rounds, options.refused, random.Random(seed))}
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _run(count: int, refused: float, source: random.Random) -> dict[str, object]:
    began = time.monotonic()
    deaths = [(DAEMON, step) for step in STEPS][:count]
    deaths += [random_death(source) for _ in range(count - len(deaths))]
    with (
        tempfile.TemporaryDirectory(prefix="certd-delivery-") as folder,
        DeliveriesUnderFire(initialise(Path(folder)), refused=refused, source=source) as deliveries,
    ):
        for number, (victim, step) in enumerate(deaths, start=1):
            start = time.monotonic()
            deliveries.round(victim, step)
            print(f"{number:4}  {time.monotonic() - start:6.1f} s  {victim} {step}".rstrip(), flush=True)
        deliveries.stop()
    tally = deliveries.tally
    return {
        "rounds": tally.rounds,
        "events": tally.events,
        "delivered": dict(tally.delivered),
        "repeated": dict(tally.repeated),
        "deaths": dict(tally.deaths.most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
