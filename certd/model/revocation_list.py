"""CRLs: what is known of the one of a key, or of a partition of what the key signed, that is published."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class RevocationListKey(NamedTuple):
    """Which CRL."""

    authority_uid: str
    key_number: int
    partition: int
    """0: the complete one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """A CRL, without its bytes."""

    key: RevocationListKey
    number: int
    """CRL number of the one that is published; 0: none is."""
    claimed_number: int
    """The highest that one being made ever had."""
    this_update: datetime | None
    next_update: datetime | None
    entry_count: int
    size_bytes: int
    sha256: bytes | None
    urls: tuple[str, ...]
    """Every URL that was ever written into a certificate for it."""
    changed_time: datetime | None
    """Since when there is something that it does not say."""
    last_error: str
    """Why the last attempt to sign a newer one failed; empty when it did not."""
    final: bool
    """Whether no other follows."""
