"""Renewals per hour by one daemon: a new key made and sealed, its certificate issued, the events written.

A daemon of its own, made by `certd init` in a temporary folder, gets its managed certificates over the API. Then it
is stopped, every one of them is marked in the database as `RenewManagedCertificate` marks it, and the daemon starts
with all of that to do. The time runs from the moment at which it serves to that at which the last one has its new
version. Afterwards the books are held against it: one new version each, a key of its own in each, one event for each
renewal.
"""

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil

from tests.bench.issue import AUTHORITY, Workload, generator, let_callers_hurry, make_authorities, run_workload
from tests.bench.load.messages import Kind, Target
from tests.daemon import Installation, RunningDaemon, initialise, running

_HOUR = 3600
_LOOK_SECONDS = 0.5
_NO_TOKEN_RATE = 1.0
_CALLERS = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 when the books do not hold what they should."""
    options = _parser().parse_args(arguments)
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="certd-bench-", dir=options.folder) as folder:
        report = _measure(Path(folder), options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    cpu, rates = report["cpu_ms_per_renewal"], report["per_hour"]
    sys.stdout.write(
        f"{rates['median']:,.0f} renewals an hour ({rates['median'] / _HOUR:,.0f}/s; median of"
        f" {len(rates['repetitions'])}), {report['certificates']:,} managed certificates; CPU of each:"
        f" {', '.join(f'{role} {spent:.2f} ms' for role, spent in cpu.items())}\n"
    )
    for finding in report["findings"]:
        sys.stdout.write(f"wrong: {finding}\n")
    return 1 if report["findings"] else 0


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    installation = initialise(folder)
    let_callers_hurry(installation)
    _request(installation, options)
    with closing(_books(installation)) as books:
        certificates = _number(books, "SELECT count(*) FROM managed_certificates WHERE current_version = 1")
    if not certificates:
        raise SystemExit("bench renew: no managed certificate was issued")
    rounds = [_renew_all(installation, certificates) for _ in range(options.repetitions)]
    with closing(_books(installation)) as books:
        findings = _findings(books, certificates, versions=1 + options.repetitions)
    return {
        "bench": "renew",
        "certificates": certificates,
        "per_hour": {
            "median": statistics.median(each["per_second"] for each in rounds) * _HOUR,
            "repetitions": [each["per_second"] * _HOUR for each in rounds],
        },
        "cpu_ms_per_renewal": {
            role: statistics.median(each["cpu_ms"][role] for each in rounds) for role in rounds[0]["cpu_ms"]
        },
        "findings": findings,
    }


def _request(installation: Installation, options: argparse.Namespace) -> None:
    """Has managed certificates requested and issued for so many seconds."""
    with ExitStack() as stack:
        daemon = stack.enter_context(running(installation))
        make_authorities(daemon, options.key)
        target = Target(
            address=daemon.grpc,
            certificate=installation.certificate,
            private_key=installation.private_key,
            trust_bundle=installation.trust_bundle,
            authority=AUTHORITY,
        )
        caller = stack.enter_context(generator(target))
        workload = Workload(Kind.MANAGED, _CALLERS)
        _, found = run_workload(daemon, [caller], workload, options=options, raw_token=_NO_TOKEN_RATE)
        _say(f"requested and issued {found.issued_per_second or 0:,.0f} managed certificates a second")


def _renew_all(installation: Installation, certificates: int) -> dict[str, Any]:
    """Marks all as to be renewed, starts the daemon and waits until none is left; returns what that took."""
    with closing(_books(installation)) as books:
        now = time.time_ns() // 1000
        books.execute("UPDATE managed_certificates SET forced_version = current_version, next_attempt_time = ?", (now,))
        books.execute(
            "UPDATE jobs SET due_time = ?, available_time = ?, owner_epoch = NULL, attempt = 0"
            " WHERE kind = 'advance-managed-certificate'",
            (now, now),
        )
        books.commit()
    with running(installation) as daemon, closing(_books(installation)) as books:
        started, before = time.monotonic(), _cpu(daemon)
        while _number(books, "SELECT count(*) FROM managed_certificates WHERE forced_version = current_version"):
            time.sleep(_LOOK_SECONDS)
        taken, after = time.monotonic() - started, _cpu(daemon)
    _say(f"renewed {certificates:,} in {taken:.1f} s: {certificates / taken:,.0f}/s")
    return {
        "per_second": certificates / taken,
        "cpu_ms": {role: 1000 * (after[role] - before[role]) / certificates for role in before},
    }


def _cpu(daemon: RunningDaemon) -> dict[str, float]:
    """Returns the CPU seconds spent so far, by role."""
    process = psutil.Process(daemon.pid)
    roles = {
        "daemon": [process],
        "prepare processes": [child for child in process.children() if child.pid != daemon.token_pid],
        "token process": [psutil.Process(daemon.token_pid)],
    }
    return {
        role: sum(times.user + times.system for times in (member.cpu_times() for member in members))
        for role, members in roles.items()
    }


def _findings(books: sqlite3.Connection, certificates: int, *, versions: int) -> list[str]:
    """Returns what the books hold and should not, or the reverse."""
    looked_at = {
        "certificates that are not at the last version": (
            _number(books, "SELECT count(*) FROM managed_certificates WHERE current_version <> ?", versions),
            0,
        ),
        "versions": (_number(books, "SELECT count(*) FROM managed_certificate_versions"), certificates * versions),
        "different keys": (
            _number(books, "SELECT count(DISTINCT public_key) FROM managed_certificate_versions"),
            certificates * versions,
        ),
        "issued certificates": (
            _number(
                books,
                "SELECT count(*) FROM certificates WHERE managed_certificate_uid IS NOT NULL AND state = 'ISSUED'",
            ),
            certificates * versions,
        ),
        "events of renewals": (
            _number(books, "SELECT count(*) FROM events WHERE type = 'managed-certificate.renewed'"),
            certificates * (versions - 1),
        ),
    }
    return [f"{found:,} {what}, {wanted:,} expected" for what, (found, wanted) in looked_at.items() if found != wanted]


def _books(installation: Installation) -> sqlite3.Connection:
    return sqlite3.connect(installation.data / "certd.db", timeout=30)


def _number(books: sqlite3.Connection, statement: str, *parameters: object) -> int:
    return int(books.execute(statement, parameters).fetchone()[0])


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench renew", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds in which certificates are requested (15)")
    parser.add_argument("--repetitions", type=int, default=3, help="times that all are renewed (3)")
    parser.add_argument("--key", default="EC_P256", help="key spec of the authority (EC_P256)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--folder", type=Path, help="where the data lies; default the temporary folder")
    parser.set_defaults(warm_up=0.2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
