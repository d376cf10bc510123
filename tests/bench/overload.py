"""What a daemon does that is asked for four times what it can carry: how much of its peak it keeps, what it refuses.

The daemon works on 32 calls at once and lets 32 wait. The peak is measured with as many callers as fill that; then four
times as many call. Those who find no room are told SERVER_BUSY and when to come again, wait that long, and come again.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.issue import (
    AUTHORITY,
    Repetition,
    Workload,
    generator,
    let_callers_hurry,
    make_authorities,
    run_workload,
)
from tests.bench.load.messages import Kind, Target
from tests.daemon import Installation, initialise, running

AT_ONCE = 32
WAITING = 32
TIMES = 4
KEPT = 0.8
"""The least share of its peak that the daemon is to keep."""
_NO_TOKEN_RATE = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 when a call failed or the daemon kept less than it should."""
    options = _parser().parse_args(arguments)
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="certd-bench-", dir=options.folder) as folder:
        report = _measure(Path(folder), options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    fits = AT_ONCE + WAITING
    sys.stdout.write(
        f"{report['peak']:,.0f} certificates/s with {fits} callers, {report['overloaded']:,.0f} with {TIMES * fits}:"
        f" {report['kept']:.0%} of the peak is kept; {report['refused']:,} calls were told to come again,"
        f" {len(report['failures'])} failed\n"
    )
    return 1 if report["failures"] or not report["refused"] or report["kept"] < KEPT else 0


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    installation = initialise(folder)
    let_callers_hurry(installation)
    _bound(installation)
    peaks: list[Repetition] = []
    overloads: list[Repetition] = []
    refused, failures = 0, []
    with ExitStack() as stack:
        daemon = stack.enter_context(running(installation))
        make_authorities(daemon, "EC_P256")
        target = Target(
            address=daemon.grpc,
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
            authority=AUTHORITY,
        )
        generators = [stack.enter_context(generator(target)) for _ in range(2)]
        for _ in range(options.repetitions):
            for callers, found in ((AT_ONCE + WAITING, peaks), (TIMES * (AT_ONCE + WAITING), overloads)):
                workload = Workload(Kind.UNARY, callers)
                outcomes, repetition = run_workload(
                    daemon, generators, workload, options=options, raw_token=_NO_TOKEN_RATE
                )
                found.append(repetition)
                refused += sum(outcome.retries for outcome in outcomes)
                failures += [failure for outcome in outcomes for failure in outcome.failures]
    peak = statistics.median(one.certificates_per_second for one in peaks)
    overloaded = statistics.median(one.certificates_per_second for one in overloads)
    return {
        "bench": "overload",
        "peak": peak,
        "overloaded": overloaded,
        "kept": overloaded / peak,
        "refused": refused,
        "failures": failures,
        "peak_latency_ms": peaks[-1].latency_ms,
        "overloaded_latency_ms": overloads[-1].latency_ms,
    }


def _bound(installation: Installation) -> None:
    """Has the daemon take no more than the measurement says."""
    text = installation.config.read_text()
    changed = text.replace("concurrent_calls = 32", f"concurrent_calls = {AT_ONCE}").replace(
        "maximum_waiting_calls = 1024", f"maximum_waiting_calls = {WAITING}"
    )
    if changed == text:
        raise SystemExit("bench overload: certd.toml does not say how many calls may wait")
    installation.config.write_text(changed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  scripts/bench overload\n  scripts/bench overload --seconds 10 --repetitions 5\n",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured of each, each time (default 5)")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds before that (default 2)")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="of both (default 3)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp") if Path("/var/tmp").is_dir() else None,  # Unlike /tmp, it lies on a disk.
        help="where the daemon's data lie meanwhile",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
