"""A whole run: a daemon of its own, what it needs, the calls in ten parts with a look at its health after each."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.daemon import RunningDaemon, initialise, running
from tests.fuzz import health, keys
from tests.fuzz.driver import Driver, Tally
from tests.fuzz.health import Vitals
from tests.fuzz.requests import Requests
from tests.fuzz.verification import Verification, issued_certificates, verify
from tests.fuzz.world import AWAITING, SPARE, World, authority_name
from tests.system.books import defects
from tests.system.calls import must

_PARTS = 10
MOST_AUTHORITIES = 40
_ENDS = ("--lifetime", "1y")
_AUTHORITIES: tuple[tuple[str, ...], ...] = (
    ("fuzz-root", "--type", "root", "--key", "EC_P384", "--path-length", "2"),
    ("fuzz-ec", "--type", "subordinate", "--issuer", "fuzz-root", "--key", "EC_P256", "--path-length", "1", *_ENDS),
    ("fuzz-rsa", "--type", "root", "--key", "RSA_2048"),
    ("fuzz-ed", "--type", "root", "--key", "ED25519"),
    ("fuzz-bound", "--type", "subordinate", "--issuer", "fuzz-root", "--key", "EC_P256", "--path-length", "1", *_ENDS,
     "--permit-dns", "example.internal", "--permit-ip", "10.0.0.0/8", "--exclude-dns", "secret.example.internal"),
    *((awaiting, "--type", "subordinate", "--key", "EC_P256") for awaiting in AWAITING),
    (SPARE, "--type", "root"),
)  # fmt: skip


@dataclass(slots=True)
class Report:
    """What a run showed."""

    seed: int
    callers: int
    seconds: float
    tally: Tally
    after_warm_up: dict[int, Vitals]
    at_the_end: dict[int, Vitals]
    verification: Verification
    wrong: list[str]
    """Everything that must not be; empty is what is wanted."""


def fuzz(
    folder: Path, *, count: int, seed: int, callers: int, sample: int, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Makes `count` calls from `seed` and verifies whatever was issued; pkilint sees `sample` of it."""
    installation = initialise(folder)
    with running(installation) as daemon:
        keys.make_lasting_keys()
        world = World(awaiting_csrs=_make_authorities(daemon))
        requests = Requests(world, most_authorities=MOST_AUTHORITIES)
        driver = Driver(daemon, world, requests, seed=seed, callers=callers)
        tally = Tally()
        began = time.monotonic()
        measured: list[dict[int, Vitals]] = []
        for part in range(_PARTS):
            tally.add(driver.run(count * (part + 1) // _PARTS - count * part // _PARTS))
            measured.append(health.vitals(daemon))
            memory = ", ".join(f"{one.role} {one.mebibytes} MiB" for one in measured[-1].values())
            pace = tally.calls / (time.monotonic() - began)
            say(f"{tally.calls:>7} calls, {pace:.0f}/s, {memory}, {len(tally.faults)} faults")
            if len(tally.faults) > 100:
                break
        seconds = time.monotonic() - began
        driver.close()
    # What the log tells comes first: it says where.
    wrong = [f"in the log: {line}" for line in defects(installation.log.read_text())]
    wrong += [f"{fault.what} ({fault.method} {fault.payload[:20_000].hex()})" for fault in tally.faults]
    wrong += health.complaints(measured[0], measured[-1], health.SINCE_WARM_UP)
    wrong += health.complaints(measured[len(measured) // 2 - 1], measured[-1], health.IN_THE_SECOND_HALF)
    issued = issued_certificates(installation)
    tally.issued = len(issued)
    wrong += _unknown(world, {one.certificate for one in issued})
    say(f"{len(issued)} certificates were issued; they are verified")
    place = folder / "verified"
    place.mkdir()
    verification = verify(issued, folder=place, sample=sample, seed=seed)
    return Report(
        seed=seed,
        callers=callers,
        seconds=seconds,
        tally=tally,
        after_warm_up=measured[0],
        at_the_end=measured[-1],
        verification=verification,
        wrong=wrong + verification.wrong,
    )


def _unknown(world: World, books: set[bytes]) -> list[str]:
    return [f"{name} was answered and is not in the books" for name, der in world.answered.items() if der not in books]


def _make_authorities(daemon: RunningDaemon) -> dict[str, bytes]:
    """Makes what the run needs; returns the DER of the CSRs of the authorities that wait."""
    for authority_id, *options in _AUTHORITIES:
        must(daemon, "authority", "create", authority_id, "--subject", f"CN={authority_id},O=Example", *options)
    requests = {one: must(daemon, "authority", "csr", authority_name(one)).encode() for one in AWAITING}
    return {one: x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER) for one, pem in requests.items()}
