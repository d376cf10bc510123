"""What a measurement and its load generators say to each other. Times are seconds of the machine's monotonic clock."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The daemon under load."""

    address: str
    certificate: Path
    private_key: Path
    trust_bundle: Path
    authority: str
    """Resource name of the authority that issues."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Have so many callers connected."""

    callers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Have every connected caller call."""

    start: float
    measure_from: float
    """What is answered before warms up and does not count."""
    until: float


@dataclass(frozen=True, slots=True)
class Listing:
    """List what is in the books."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run saw."""

    latencies: list[float]
    """Seconds, of the calls that were answered in the measured time."""
    serials: list[str]
    """Of every answer, the warm-up's too."""
    failures: list[str]
    retries: int
