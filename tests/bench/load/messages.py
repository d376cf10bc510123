"""What a measurement and its load generators say to each other. Times are seconds of the machine's monotonic clock."""

import enum
from dataclasses import dataclass
from pathlib import Path

BATCH = 50
"""Certificates of a batch."""


class Kind(enum.StrEnum):
    """What callers call."""

    UNARY = "unary"
    """IssueCertificate: a certificate a call."""
    BATCH = "batch"
    """BatchIssueCertificates: fifty certificates a call."""
    MANAGED = "managed"
    """RequestManagedCertificate: a managed certificate a call, which the daemon then issues by itself."""


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

    kind: Kind
    start: float
    measure_from: float
    """What is answered before warms up and does not count."""
    until: float


@dataclass(frozen=True, slots=True)
class Listing:
    """List what is in the books."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until every managed certificate that was requested is issued, and say when the last one was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of the managed certificates."""

    active: int
    last_issued: float
    """When the last one was, in seconds since 1970."""
    others: int
    """Those that are not ACTIVE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run saw."""

    latencies: list[float]
    """Seconds, of the calls that were answered in the measured time."""
    serials: list[str]
    """Of every answer that carries certificates, the warm-up's too."""
    requested: int
    """Managed certificates that were requested, in the warm-up too."""
    failures: list[str]
    retries: int
