"""Ten years of a thousand managed certificates: none expires, none is renewed twice, no hour has twice the mean to do.

Certificates of a week, a month, three months, thirteen months and ten years, all requested within one hour, live
through simulated time by the hour on a real store and a real token, with a scheduler that does what is due. Exit 1 when
one expires, is held back, is renewed outside its window or twice in it, or when the busiest hour has twice the mean.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from certd.config import Config, Log, Prepare
from tests.fakes import FakeClock
from tests.services.conftest import World, configuration, running_world
from tests.services.simulated_fleet import YEAR, Fleet, Group
from tests.softhsm import make_token

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
GROUPS = (
    Group(count=700, lifetime=7 * DAY),
    Group(count=150, lifetime=30 * DAY),
    Group(count=100, lifetime=90 * DAY),
    Group(count=40, lifetime=397 * DAY),
    Group(count=10, lifetime=3650 * DAY),
)
_TOLD_EVERY = 30 * 24
_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Lives through the years, prints what happened, and returns 1 when something was not as it should be."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="certd-decade-", dir=options.folder) as folder:
        report = _live(Path(folder), options)
    for name, value in report.items():
        print(f"{name.replace('_', ' '):32} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    failed = report["expired_or_held_back"] or report["outside_their_window"]
    return 1 if failed or report["busiest_hour"] >= 2 * report["mean_an_hour"] else 0


def _live(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    clock = FakeClock()
    with running_world(_configuration(folder), clock) as world:
        groups = [replace(group, count=max(1, int(group.count * options.scale))) for group in GROUPS]
        fleet = Fleet(world=world, groups=groups, step=HOUR)
        fleet.request(over=HOUR)
        began = time.monotonic()

        def tell() -> None:
            if len(fleet.renewals) % _TOLD_EVERY == 0:
                _tell(fleet, folder, began)

        fleet.live(options.years * YEAR, tell=tell)
        outside = fleet.out_of_window()
        mean, busiest = fleet.busy()
        return {
            "bench": "decade",
            "certificates": sum(group.count for group in groups),
            "simulated_years": options.years,
            "renewals": sum(fleet.renewals),
            "mean_an_hour": round(mean, 2),
            "busiest_hour": busiest,
            "busiest_by_mean": round(busiest / mean, 2),
            "expired_or_held_back": fleet.unwell[:_SHOWN],
            "outside_their_window": outside[:_SHOWN],
            "seconds": round(time.monotonic() - began),
            "daemon_megabytes": _megabytes_of_memory(),
            "database_megabytes": _megabytes(folder),
        }


def _configuration(folder: Path) -> Config:
    """Returns that of a server which prepares certificates in processes and tells only what is wrong."""
    config = configuration(folder, make_token(folder))
    return config.model_copy(update={"prepare": Prepare(), "log": Log(level="warning")})


def _tell(fleet: Fleet, folder: Path, began: float) -> None:
    world: World = fleet.world
    mean, busiest = fleet.busy() if any(fleet.renewals) else (0.0, 0)
    spent = time.monotonic() - began
    print(
        f"{world.clock.now():%Y-%m-%d}: {sum(fleet.renewals):,} renewals, {mean:.2f} an hour, {busiest} in the busiest;"
        f" {spent:,.0f} s, {_megabytes_of_memory():,} MB of memory, {_megabytes(folder):,} MB of database;"
        f" {len(fleet.unwell)} expired or held back",
        flush=True,
    )


def _megabytes_of_memory() -> int:
    """The most that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _megabytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("certd.db*")) // 2**20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench decade",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  scripts/bench decade\n  scripts/bench decade --years 2 --json decade.json\n",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--years", type=float, default=10.0, help="simulated (default 10)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the fleet; 1 is a thousand (default 1)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp") if Path("/var/tmp").is_dir() else None,  # Unlike /tmp, it lies on a disk.
        help="where the data lie meanwhile: some gigabytes",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
