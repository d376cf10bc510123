"""A whole run of mutated requests to public HTTP: a daemon of its own, and a look at its health on the way."""

import contextlib
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.daemon import Installation, RunningDaemon, initialise, running
from tests.fuzz import health
from tests.fuzz.public import PublicTally, Published, fuzz_public
from tests.system.books import defects
from tests.system.calls import make_csr, must
from tests.waiting import eventually

_PARTS = 10
_CERTIFICATES = 8
_LINES_OF_A_TRACEBACK = 40


@dataclass(slots=True)
class PublicReport:
    """What a run showed."""

    tally: PublicTally = field(default_factory=PublicTally)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """Everything that must not be; empty is what is wanted."""


def fuzz_of_strangers(
    folder: Path, *, count: int, seed: int, callers: int, say: Callable[[str], None] = lambda _: None
) -> PublicReport:
    """Sends `count` requests made from `seed` to each endpoint, in parts."""
    installation = initialise(folder)
    text = installation.config.read_text()
    installation.config.write_text(text.replace('# devices = "0.0.0.0:8446"', 'devices = "127.0.0.1:0"'))
    report = PublicReport()
    with running(installation) as daemon:
        published = _publish(daemon)
        began = time.monotonic()
        measured = []
        for part in range(_PARTS):
            share = count * (part + 1) // _PARTS - count * part // _PARTS
            report.tally.add(fuzz_public(published, count=share, seed=seed + part, callers=callers))
            measured.append(health.vitals(daemon))
            memory = ", ".join(f"{one.role} {one.mebibytes} MiB" for one in measured[-1].values())
            pace = report.tally.calls / (time.monotonic() - began)
            say(f"{report.tally.calls:>7} requests, {pace:.0f}/s, {memory}, {len(report.tally.wrong)} wrong")
        report.seconds = time.monotonic() - began
    log = installation.log.read_text()
    report.wrong = [f"in the log: {_told_with(line, log)}" for line in dict.fromkeys(defects(log))]
    report.wrong += report.tally.wrong
    report.wrong += health.complaints(measured[0], measured[-1], health.SINCE_WARM_UP)
    report.wrong += health.complaints(measured[_PARTS // 2 - 1], measured[-1], health.IN_THE_SECOND_HALF)
    return report


def _told_with(line: str, log: str) -> str:
    """Returns a line of the log, where it stands first, with what stands around it: a traceback says little alone."""
    lines = log.splitlines()
    place = lines.index(line) if line in lines else 0
    return "\n".join(lines[max(0, place - 2) : place + _LINES_OF_A_TRACEBACK])


def _publish(daemon: RunningDaemon) -> Published:
    must(daemon, "authority", "create", "public", "--subject", "CN=public,O=Example", "--type", "root")
    place = daemon.installation.data / "public.csr"
    for number in range(_CERTIFICATES):
        place.write_bytes(make_csr(x509.DNSName(f"www{number}.example.internal"), encoding=Encoding.PEM))
        must(daemon, "certificate", "issue", "--authority", "public", "--csr", place)
    uid, issuer, issued = _books(daemon.installation)
    # The first CRL comes some seconds after its authority; what strangers send may all be answered before.
    eventually(lambda: _is_there(f"http://{daemon.http}/crl/{uid}/1.crl"))
    requests = [
        ocsp.OCSPRequestBuilder().add_certificate(one, issuer, algorithm)
        for one in issued
        for algorithm in (hashes.SHA1(), hashes.SHA256())  # As RFC 5019 has it.
    ]
    requests += [one.add_extension(x509.OCSPNonce(b"n" * 16), critical=False) for one in requests]
    return Published(
        address=_address(daemon.http),
        devices=_address(daemon.devices),
        uid=uid,
        requests=tuple(one.build().public_bytes(Encoding.DER) for one in requests),
    )


def _is_there(url: str) -> bool:
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=10):
        return True
    return False


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _books(installation: Installation) -> tuple[str, x509.Certificate, list[x509.Certificate]]:
    with contextlib.closing(sqlite3.connect(installation.data / "certd.db")) as connection:
        uid, root = connection.execute(
            "SELECT uid, certificate FROM authorities WHERE authority_id = 'public'"
        ).fetchone()
        rows = connection.execute(
            "SELECT der FROM certificates WHERE authority_uid = ? AND der <> ? AND state = 'ISSUED'", (uid, root)
        ).fetchall()
    return uid, x509.load_der_x509_certificate(root), [x509.load_der_x509_certificate(der) for (der,) in rows]
