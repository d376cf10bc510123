"""A thousand watchers on one daemon: the memory that they take, how soon they hear of a renewal, and calls meanwhile.

Each watcher is a stream of WatchManagedCertificates of a consumer of one managed certificate, in a program in Go. That
certificate is renewed again and again; the delay of a watcher is from the time of the event, which lies before its
commit, to the receipt. Beside that an administrator calls at a steady rate. Memory is what is resident of the daemon.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certd.client.connection import Client
from certd.client.credentials import read_credentials
from certd.client.enrollment import enroll
from certd.pki.credential_request import new_credential_request
from certd.pki.enrollment_code import parse_code
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest, CreateGrantRequest
from certd.v1.association_pb2 import Association
from certd.v1.grant_pb2 import CONSUMER, Grant
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    GetManagedCertificateRequest,
    RenewManagedCertificateRequest,
)
from tests.bench.issue import let_callers_hurry, make_authorities
from tests.daemon import Installation, RunningDaemon, initialise, running
from tests.waiting import eventually

WATCHERS = 1000
MOST_MEBIBYTES = 250.0
"""That a thousand watchers may take together; fewer in proportion, with something for the first."""
SLOWEST_CALL_MS = 20.0
"""At the median, while they watch."""
_MANAGED = "tenants/default/managedCertificates/watched"
_CALLS_PER_SECOND = 50.0
_WARM_UP_CALLS = 200
_MODULE = Path(__file__).parents[2] / "clients" / "go"
_LONGEST_START = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 when a stream failed, an event was missed, or a bound was passed."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="certd-bench-", dir=options.folder) as folder:
        report = _measure(Path(folder), options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(
        f"{report['watchers']:,} watchers take {report['mebibytes']:.0f} MiB"
        f" ({report['kibibytes_each']:.0f} KiB each; {report['before_mebibytes']:.0f} MiB before them)\n"
        f"a renewal is told to all of them after {report['delay_ms']['p50']:.0f} ms at the median,"
        f" {report['delay_ms']['p99']:.0f} ms at the 99th percentile ({report['renewals']} renewals)\n"
        f"a call meanwhile takes {report['quiet_call_ms']['p50']:.1f} ms at the median while nothing happens, and"
        f" {report['busy_call_ms']['p50']:.1f} ms (p99 {report['busy_call_ms']['p99']:.0f} ms) while it is renewed;"
        f" {report['call_ms_before']['p50']:.1f} ms without watchers\n"
        f"{report['missed']} events were missed, {len(report['failures'])} streams failed\n"
    )
    return 0 if _is_good(report) else 1


def _is_good(report: dict[str, Any]) -> bool:
    fits: bool = report["mebibytes"] <= max(MOST_MEBIBYTES * report["watchers"] / WATCHERS, MOST_MEBIBYTES / 10)
    quick: bool = max(report["quiet_call_ms"]["p50"], report["busy_call_ms"]["p50"]) <= SLOWEST_CALL_MS
    return fits and quick and not report["missed"] and not report["failures"]


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    installation = initialise(folder)
    let_callers_hurry(installation)
    program = _program(folder)
    with running(installation) as daemon, _administrator(installation, daemon) as client:
        make_authorities(daemon, "EC_P256")
        requested = daemon.certctl(
            "managed", "request", "watched", "--authority", "bench-ca", "--dns", "watched.bench.internal"
        )
        if requested.returncode != 0:
            raise SystemExit(f"bench watch: the certificate could not be made: {requested.stderr}")
        identities = _identities(daemon, client, folder, -(-options.watchers // options.per_connection))
        calls = _Calls(client)
        calls.make(_WARM_UP_CALLS)
        _renew(client)
        calls.measure(options.seconds / 2)
        call_ms_before = calls.taken()
        before = _resident(daemon.pid)
        with _watchers(program, daemon, installation, identities, options) as watchers:
            first = watchers.report()
            calls.measure(options.seconds)
            quiet_call_ms = calls.taken()
            after = _resident(daemon.pid)
            delays, missed, failures = _renewals(client, calls, watchers, options)
            busiest = _resident(daemon.pid)
            busy_call_ms = calls.taken()
    return {
        "bench": "watch",
        "watchers": options.watchers,
        "renewals": options.renewals,
        "before_mebibytes": before,
        "mebibytes": max(after, busiest) - before,
        "quiet_mebibytes": after - before,
        "kibibytes_each": (max(after, busiest) - before) * 1024 / options.watchers,
        "call_ms_before": call_ms_before,
        "quiet_call_ms": quiet_call_ms,
        "busy_call_ms": busy_call_ms,
        "delay_ms": _percentiles([delay * 1000 for delay in delays]),
        "missed": missed,
        "failures": [*(first["failures"] or []), *failures],
    }


def _renewals(
    client: Client, calls: "_Calls", watchers: "_Watchers", options: argparse.Namespace
) -> tuple[list[float], int, list[str]]:
    """Renews again and again while calls go on; returns all delays, how many never came, and how streams failed."""
    delays: list[float] = []
    failures: list[str] = []
    expected = 0

    def told() -> bool:
        report = watchers.report()
        delays.extend(report["delays"] or [])
        failures.extend(report["failures"] or [])
        return len(delays) + len(failures) >= expected

    with calls.going_on():
        for number in range(1, options.renewals + 1):
            expected = number * options.watchers
            _renew(client)
            try:
                eventually(told, within=30.0)
            except AssertionError:
                break
    return delays, max(0, options.renewals * options.watchers - len(delays)), failures


def _renew(client: Client) -> None:
    version = _version(client)
    client.call(client.stubs.renew_managed_certificate, RenewManagedCertificateRequest(name=_MANAGED))
    eventually(lambda: _version(client) > version, within=30.0)


def _version(client: Client) -> int:
    found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=_MANAGED))
    version: int = found.current_version
    return version


class _Calls:
    """Calls with one answer, at a steady rate."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seconds: list[float] = []

    def make(self, count: int) -> None:
        """Calls from many threads at once, so that the daemon has all that it ever has."""
        with ThreadPoolExecutor(32) as threads:
            list(threads.map(lambda _: _version(self._client), range(count)))

    def measure(self, seconds: float) -> None:
        """Calls for so long."""
        self._call_until(time.monotonic() + seconds, threading.Event())

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Calls until the end of what is done within."""
        done = threading.Event()
        thread = threading.Thread(target=self._call_until, args=(float("inf"), done))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def taken(self) -> dict[str, float]:
        """Returns how long the calls took since the last time, in milliseconds."""
        taken, self._seconds = self._seconds, []
        return _percentiles([each * 1000 for each in taken])

    def _call_until(self, end: float, done: threading.Event) -> None:
        while time.monotonic() < end and not done.wait(1 / _CALLS_PER_SECOND):
            began = time.perf_counter()
            _version(self._client)
            self._seconds.append(time.perf_counter() - began)


class _Watchers:
    """The program that watches."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def first(self) -> dict[str, Any]:
        """Returns what it says once every stream has told all that there is."""
        return self._line()

    def report(self) -> dict[str, Any]:
        """Returns what came since the last report."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("bench watch: the program that watches has ended; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def _watchers(
    program: Path, daemon: RunningDaemon, installation: Installation, identities: Path, options: argparse.Namespace
) -> Iterator[_Watchers]:
    process = subprocess.Popen(
        [
            str(program),
            *("-address", daemon.grpc, "-identities", str(identities), "-root", str(installation.trust_bundle)),
            *("-streams", str(options.watchers), "-per-connection", str(options.per_connection)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        watchers = _Watchers(process)
        first = watchers.first()
        if first["failures"]:
            raise SystemExit(f"bench watch: {len(first['failures'])} streams failed: {first['failures'][0]}")
        yield watchers
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def _administrator(installation: Installation, daemon: RunningDaemon) -> Iterator[Client]:
    credentials = read_credentials(
        certificate=installation.certificate,
        private_key=installation.private_key,
        trust_bundle=installation.trust_bundle,
    )
    with Client(daemon.grpc, credentials, timeout=60.0) as client:
        yield client


def _identities(daemon: RunningDaemon, client: Client, folder: Path, count: int) -> Path:
    """Makes consumers of the certificate, and returns the folder with their credentials."""
    identities = folder / "identities"
    identities.mkdir()
    trust_domain = ""
    for number in range(count):
        name = f"tenants/default/identities/watcher-{number}"
        code = client.call(client.stubs.create_enrollment_code, CreateEnrollmentCodeRequest(identity=name))
        made = new_credential_request()
        enrolled = enroll(daemon.enrollment, parse_code(code.code), made.csr)
        (identities / f"watcher-{number}.pem").write_text(enrolled.credential.certificate.pem)
        (identities / f"watcher-{number}.key").write_bytes(made.private_key)
        trust_domain = enrolled.credential.identity.spiffe_id.split("/")[2]
        client.call(
            client.stubs.create_association,
            CreateAssociationRequest(parent=_MANAGED, association=Association(consumer=name)),
        )
    client.call(
        client.stubs.create_grant,
        CreateGrantRequest(
            parent="tenants/default",
            grant_id="watchers",
            grant=Grant(principal=f"spiffe://{trust_domain}/tenants/default/identities/*", role=CONSUMER),
        ),
    )
    return identities


def _program(folder: Path) -> Path:
    program = folder / "watch"
    built = subprocess.run(["go", "build", "-o", program, "./cmd/watch"], cwd=_MODULE, check=False)
    if built.returncode != 0:
        raise SystemExit("bench watch: the program that watches could not be built; see above")
    return program


def _resident(process_id: int) -> float:
    """Returns the resident memory of a process in MiB."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("bench watch: the system does not tell how much memory a process has")


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return dict.fromkeys(("p50", "p99", "max"), values[0] if values else 0.0)
    quantiles = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": quantiles[49], "p99": quantiles[98], "max": max(values)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  scripts/bench watch\n  scripts/bench watch --watchers 200 --renewals 5\n",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--watchers", type=int, default=WATCHERS, help="streams (default 1000)")
    parser.add_argument(
        "--per-connection", type=int, default=10, help="streams of one connection and identity (default 10)"
    )
    parser.add_argument("--renewals", type=int, default=10, help="of the certificate (default 10)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of calls while nothing happens (default 10)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp") if Path("/var/tmp").is_dir() else None,  # Unlike /tmp, it lies on a disk.
        help="where the daemon's data lie meanwhile",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
