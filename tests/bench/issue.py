"""Certificates per second over mutual TLS, by number of callers, beside what the token alone could sign.

A closed loop against a daemon of its own, made by `certd init` in a temporary folder: every caller has a connection,
calls, waits for the answer and calls again. Nothing is shared with an installation. At the end every certificate that
was answered must be in the books, and no serial there twice.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from certd.config import load
from certd.pki.key_spec import KeySpec
from certd.token.settings import TokenSettings
from tests.bench.load.go_client import GoConnection, go_callers, go_program
from tests.bench.load.messages import BATCH, Connect, Kind, Listing, Outcome, Run, Settle, Settled, Target
from tests.daemon import Installation, RunningDaemon, initialise, running

AUTHORITY = "tenants/default/authorities/bench-ca"
DEFAULT = "unary:1,unary:8,unary:32,unary:128,batch:2,batch:8,managed:32"
_START_DELAY = 0.2
"""Seconds for the order to reach the load generators."""
_ANSWER_SECONDS = 120.0
_ROLES = ("daemon", "prepare processes", "token process", "load generators")
_PER_CALL = {Kind.UNARY: 1, Kind.BATCH: BATCH, Kind.MANAGED: 1}
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is called, by how many at once."""

    kind: Kind
    callers: int

    def __str__(self) -> str:
        return f"{self.kind} {self.callers}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """What one workload was once."""

    certificates_per_second: float
    """For managed certificates: requests that were answered, which are issued afterwards."""
    issued_per_second: float | None
    """Of managed certificates alone: from the first request to the last issue."""
    latency_ms: dict[str, float]
    """Of calls, by percentile."""
    cpu_ms_per_certificate: dict[str, float]
    cores: dict[str, float]
    """CPU seconds per second; by role, as is the field before."""
    raw_token_share: float
    """Certificates per second by the raw token's signatures per second."""


@dataclass(frozen=True, slots=True)
class Generator:
    """A load generator that runs."""

    connection: Connection | GoConnection
    process: psutil.Process


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 when a call failed or the books are not right."""
    options = _parser().parse_args(arguments)
    # Read by gRPC when a load generator imports it; its own support for forks has hung children before.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="certd-bench-", dir=options.folder) as folder:
        report = _measure(Path(folder), options)
    sys.stdout.write("".join(f"{line}\n" for line in _lines(report)))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    books = report["books"]
    return 1 if report["failures"] or books["missing"] or books["twice"] else 0


def let_callers_hurry(installation: Installation) -> None:
    """Has the daemon limit no caller's rate: all callers here are one identity, and the server is what is measured."""
    text = installation.config.read_text()
    changed = text.replace("calls_per_second = 2000", "calls_per_second = 1000000")
    if changed == text:
        raise SystemExit("bench: certd.toml does not say how often a caller may call")
    installation.config.write_text(changed)


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    installation = initialise(folder)
    let_callers_hurry(installation)
    with ExitStack() as stack:
        daemon = stack.enter_context(running(installation))
        key_id = make_authorities(daemon, options.key)
        target = Target(
            address=daemon.grpc,
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
            authority=AUTHORITY,
        )
        if options.client == "go":
            program = stack.enter_context(go_program())
            generators = [stack.enter_context(_go_generator(program, target))]
        else:
            generators = [stack.enter_context(generator(target)) for _ in range(options.generators)]
        bookkeeper = stack.enter_context(generator(target))
        settings = _token_settings(installation)
        measured: dict[Workload, list[Repetition]] = {workload: [] for workload in options.workloads}
        raw_token: list[float] = []
        outcomes: list[Outcome] = []
        # Workload after workload and again, so that a machine that changes its pace does so for all of them.
        for number in range(1, options.repetitions + 1):
            raw_token.append(_raw_token(settings, key_id, options.seconds))
            _say(f"repetition {number}: the raw token signs {raw_token[-1]:,.0f} times a second")
            for workload in options.workloads:
                found, repetition = run_workload(
                    daemon, generators, workload, options=options, raw_token=raw_token[-1], bookkeeper=bookkeeper
                )
                outcomes += found
                measured[workload].append(repetition)
                _say(f"repetition {number}: {workload}: {repetition.certificates_per_second:,.0f}/s")
        _say("listing the books")
        listed = _ask(bookkeeper, Listing())
        retries = sum(outcome.retries for outcome in outcomes)
        failures = [failure for outcome in outcomes for failure in outcome.failures]
        return {
            "bench": "issue",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(folder),
            "parameters": {
                "seconds": options.seconds,
                "warm_up": options.warm_up,
                "repetitions": options.repetitions,
                "authority_key": options.key,
                "client": options.client,
                "load_generators": len(generators),
            },
            "raw_token_signatures_per_second": {"median": statistics.median(raw_token), "repetitions": raw_token},
            "workloads": [_workload(workload, repetitions) for workload, repetitions in measured.items()],
            "books": _books(
                [serial for outcome in outcomes for serial in outcome.serials],
                listed,
                managed=sum(outcome.requested for outcome in outcomes),
            ),
            "retries": retries,
            "failures": failures,
        }


def _token_settings(installation: Installation) -> TokenSettings:
    token = load(installation.config).token
    return TokenSettings(
        module=token.module, label=token.label, pin_file=token.pin_file, softhsm_conf=token.softhsm_conf
    )


def make_authorities(daemon: RunningDaemon, key_spec: str) -> bytes:
    """Makes the authority that issues, below a root, and returns the CKA_ID of its key."""
    for arguments in (
        ("bench-root", "--type", "root", "--subject", "CN=Bench Root"),
        ("bench-ca", "--type", "subordinate", "--issuer", "bench-root", "--key", key_spec, "--subject", "CN=Bench CA"),
    ):
        ended = daemon.certctl("authority", "create", *arguments, "-o", "json")
        if ended.returncode != 0:
            raise SystemExit(f"bench issue: the authority could not be made: {ended.stderr}")
    raised = daemon.certctl("tenant", "update", "default", "--quota", "managed-certificates=1000000")
    if raised.returncode != 0:
        raise SystemExit(f"bench issue: the quota of the tenant could not be raised: {raised.stderr}")
    return bytes.fromhex(json.loads(ended.stdout)["key"]["keyId"])


@contextmanager
def generator(target: Target) -> Iterator[Generator]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_generate, args=(theirs, target), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Generator(ours, psutil.Process(process.pid))
        ours.send(None)
        process.join(_ANSWER_SECONDS)
    finally:
        process.kill()
        process.join()


@contextmanager
def _go_generator(program: Path, target: Target) -> Iterator[Generator]:
    with go_callers(program, target) as (connection, process_id):
        yield Generator(connection, psutil.Process(process_id))


def _generate(connection: Connection, target: Target) -> None:
    """Main of a load generator."""
    # Only here, so that gRPC is not loaded into the process that starts others.
    from tests.bench.load.callers import serve

    serve(connection, target)


def _raw_token(settings: TokenSettings, key_id: bytes, seconds: float) -> float:
    """Returns signatures per second, measured in a process of its own while the daemon has nothing to do."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_sign, args=(theirs, settings), kwargs={"key_id": key_id, "seconds": seconds}, daemon=True
    )
    process.start()
    theirs.close()
    try:
        return float(_receive(ours, "the raw token"))
    finally:
        process.join(_ANSWER_SECONDS)


def _sign(connection: Connection, settings: TokenSettings, *, key_id: bytes, seconds: float) -> None:
    """Main of the process that signs."""
    # Only here, so that the PKCS#11 module is loaded by the process that uses it alone.
    from tests.bench.load.raw_token import measure

    measure(connection, settings, key_id=key_id, seconds=seconds)


def run_workload(
    daemon: RunningDaemon,
    generators: Sequence[Generator],
    workload: Workload,
    *,
    options: argparse.Namespace,
    raw_token: float,
    bookkeeper: Generator | None = None,
) -> tuple[list[Outcome], Repetition]:
    """Has so many callers call, and measures. `bookkeeper`, or the first generator, waits for managed certificates."""
    callers, per_call = workload.callers, _PER_CALL[workload.kind]
    shares = [callers // len(generators) + (place < callers % len(generators)) for place in range(len(generators))]
    busy = [(generator, share) for generator, share in zip(generators, shares, strict=True) if share]
    for generator, share in busy:
        _ask(generator, Connect(share))
    start = time.monotonic() + _START_DELAY
    measure_from = start + options.warm_up
    until = measure_from + options.seconds
    for generator, _ in busy:
        _send(generator, Run(kind=workload.kind, start=start, measure_from=measure_from, until=until))
    began_at = time.time() + _START_DELAY
    children = psutil.Process(daemon.pid).children()
    processes = {
        "daemon": [psutil.Process(daemon.pid)],
        "prepare processes": [child for child in children if child.pid != daemon.token_pid],
        "token process": [psutil.Process(daemon.token_pid)],
        "load generators": [generator.process for generator, _ in busy],
    }
    began, before = _cpu_at(measure_from, processes)
    ended, after = _cpu_at(until, processes)
    outcomes: list[Outcome] = [_receive(generator.connection, "a load generator") for generator, _ in busy]
    latencies = [latency for outcome in outcomes for latency in outcome.latencies]
    if not latencies:
        failures = [failure for outcome in outcomes for failure in outcome.failures]
        raise SystemExit(f"bench issue: no call of {callers} callers was answered in time; {failures[:1]}")
    issued_per_second = None
    if workload.kind is Kind.MANAGED:
        settled: Settled = _ask(bookkeeper or generators[0], Settle())
        if settled.others:
            raise SystemExit(f"bench issue: {settled.others} managed certificates were not issued")
        issued_per_second = sum(outcome.requested for outcome in outcomes) / (settled.last_issued - began_at)
    # The samples of CPU time are some milliseconds off the window's ends; certificates are scaled to their distance.
    issued = per_call * len(latencies) * (ended - began) / options.seconds
    rate = per_call * len(latencies) / options.seconds
    spent = {role: after[role] - before[role] for role in _ROLES}
    return outcomes, Repetition(
        certificates_per_second=rate,
        issued_per_second=issued_per_second,
        latency_ms={f"p{percent}": 1000 * _percentile(latencies, percent) for percent in _PERCENTILES},
        cpu_ms_per_certificate={role: 1000 * spent[role] / issued for role in _ROLES},
        cores={role: spent[role] / (ended - began) for role in _ROLES},
        raw_token_share=rate / raw_token,
    )


def _cpu_at(moment: float, processes: dict[str, list[psutil.Process]]) -> tuple[float, dict[str, float]]:
    """Waits for the moment and returns the time and the CPU seconds spent by then, by role."""
    time.sleep(max(0.0, moment - time.monotonic()))
    now = time.monotonic()
    spent = {}
    for role, members in processes.items():
        times = [member.cpu_times() for member in members]
        spent[role] = sum(each.user + each.system for each in times)
    return now, spent


def _ask(generator: Generator, order: Connect | Listing | Settle) -> Any:
    _send(generator, order)
    return _receive(generator.connection, "a load generator")


def _send(generator: Generator, order: Connect | Run | Listing | Settle) -> None:
    try:
        generator.connection.send(order)
    except OSError:
        raise SystemExit("bench issue: a load generator died; its error is above") from None


def _receive(connection: Connection | GoConnection, who: str) -> Any:
    try:
        if connection.poll(_ANSWER_SECONDS):
            return connection.recv()
    except EOFError:
        raise SystemExit(f"bench issue: {who} died; its error is above") from None
    raise SystemExit(f"bench issue: {who} did not answer within {_ANSWER_SECONDS:.0f} s")


def _percentile(values: Sequence[float], percent: int) -> float:
    """Returns the smallest value that so many per cent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _workload(workload: Workload, repetitions: Sequence[Repetition]) -> dict[str, Any]:
    """Returns the medians of a workload, and what they were taken from."""
    rates = [repetition.certificates_per_second for repetition in repetitions]
    issued = [one.issued_per_second for one in repetitions if one.issued_per_second is not None]
    return {
        "kind": workload.kind,
        "callers": workload.callers,
        "certificates_per_second": statistics.median(rates),
        "issued_per_second": statistics.median(issued) if issued else None,
        "latency_ms": _medians([repetition.latency_ms for repetition in repetitions]),
        "cpu_ms_per_certificate": _medians([repetition.cpu_ms_per_certificate for repetition in repetitions]),
        "cores": _medians([repetition.cores for repetition in repetitions]),
        "raw_token_share": statistics.median(repetition.raw_token_share for repetition in repetitions),
        "repetitions": [asdict(repetition) for repetition in repetitions],
    }


def _medians(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in measured) for key in measured[0]}


def _books(answered: Sequence[str], listed: Sequence[str], *, managed: int) -> dict[str, int]:
    """Compares what was answered, and what was requested, with what the server lists."""
    return {
        "answered": len(answered),
        "managed": managed,
        "listed": len(listed),
        "missing": len(set(answered) - set(listed)) + max(0, managed - len(set(listed) - set(answered))),
        "twice": len(answered) - len(set(answered)) + len(listed) - len(set(listed)),
    }


def _machine(folder: Path) -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "file_system": _file_system(folder),
    }


def _file_system(folder: Path) -> str:
    mounts = [mount for mount in psutil.disk_partitions(all=True) if folder.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """Yields what a person reads."""
    machine, parameters, books = report["machine"], report["parameters"], report["books"]
    raw_token = report["raw_token_signatures_per_second"]["median"]
    yield (
        f"{machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}, SQLite on {machine['file_system']}, "
        f"authority key {parameters['authority_key']}"
    )
    yield (
        f"closed loop over mutual TLS, callers in {parameters['client'].capitalize()} on the same machine;"
        f" medians of {parameters['repetitions']} x {parameters['seconds']:g} s"
    )
    yield ""
    yield "                certificates       latency ms         CPU ms per certificate           cores of   of the raw"
    yield "  callers           a second    p50    p95    p99   daemon prepare   token    load   the daemon       token"
    for one in report["workloads"]:
        latency, cpu = one["latency_ms"], one["cpu_ms_per_certificate"]
        yield (
            f"  {one['kind']:9}{one['callers']:4}{one['certificates_per_second']:12,.0f}"
            f"{latency['p50']:7.1f}{latency['p95']:7.1f}{latency['p99']:7.1f}"
            f"{cpu['daemon']:9.2f}{cpu['prepare processes']:8.2f}{cpu['token process']:8.2f}"
            f"{cpu['load generators']:8.2f}{one['cores']['daemon']:13.2f}{one['raw_token_share']:12.1%}"
        )
        if one["issued_per_second"] is not None:
            issued = one["issued_per_second"]
            yield f"    of which issued{issued:8,.0f}   from the first request to the last certificate"
    yield ""
    yield f"The same token alone, one thread: {raw_token:,.0f} signatures a second."
    yield (
        f"{books['answered']:,} certificates were answered and {books['managed']:,} requested; "
        f"{books['missing']} of them are missing in the books, "
        f"{books['twice']} serials are there twice."
    )
    if report["retries"] or report["failures"]:
        yield f"{report['retries']} calls were tried again, {len(report['failures'])} failed: {report['failures'][:3]}"


def _say(line: str) -> None:
    sys.stderr.write(f"bench issue: {line}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench issue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  scripts/bench issue
  scripts/bench issue --json issue.json
  scripts/bench issue --workloads unary:32 --seconds 10 --repetitions 5
  scripts/bench issue --client python
  scripts/bench issue --key RSA_2048 --workloads unary:1,batch:2
""",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument(
        "--workloads",
        type=_workloads,
        default=_workloads(DEFAULT),
        metavar="KIND:N,…",
        help=f"what is called ({', '.join(Kind)}; a batch has {BATCH} certificates), by how many callers at once"
        f" (default {DEFAULT})",
    )
    parser.add_argument("--seconds", type=_positive, default=4.0, help="measured of each, each time (default 4)")
    parser.add_argument("--warm-up", type=_positive, default=1.0, help="seconds before that (default 1)")
    parser.add_argument("--repetitions", type=_count, default=3, metavar="N", help="of every workload (default 3)")
    parser.add_argument("--client", choices=("go", "python"), default="go", help="language of the callers (default go)")
    parser.add_argument(
        "--generators", type=_count, default=2, metavar="N", help="processes of callers in Python (default 2)"
    )
    parser.add_argument(
        "--key", choices=list(KeySpec), default=KeySpec.EC_P256, help="of the authority (default EC_P256)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp") if Path("/var/tmp").is_dir() else None,  # Unlike /tmp, it lies on a disk.
        help="where the daemon's data lie meanwhile; a disk, for its commits are part of the measurement",
    )
    return parser


def _workloads(text: str) -> tuple[Workload, ...]:
    found = []
    for word in text.split(","):
        kind, _, callers = word.partition(":")
        if kind not in list(Kind):
            raise argparse.ArgumentTypeError(f"{kind!r} is not one of {', '.join(Kind)}")
        found.append(Workload(Kind(kind), _count(callers)))
    return tuple(dict.fromkeys(found))


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
