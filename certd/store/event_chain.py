"""The hash chain over events. Pure.

A chain hash is SHA-256 over a domain, the hash before it, the number, and the canonical form of the event; every part
is preceded by its length, so that no two events have one encoding.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from certd.model.event import Event, NumberedEvent
from certd.store.values import microseconds

_DOMAIN = b"certd.event.v1"


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where the chain stands after an event."""

    seq: int
    """Number of the event, 0 before the first."""
    chain_hash: bytes


CHAIN_START = ChainHead(0, bytes(32))
"""The head before the first event."""


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """A place at which the record is not what was written."""

    seq: int
    """Number of the event at which it shows."""
    description: str


def _joined(parts: Iterable[bytes]) -> bytes:
    """Returns the parts, each preceded by its length."""
    return b"".join([len(part).to_bytes(8) + part for part in parts])


def encode(
    *, time: int, event_type: str, tenant: str | None, principal: str, resource: str, details: Mapping[str, str]
) -> bytes:
    """Returns the canonical form of an event, whose time is in microseconds since 1970.

    Raises UnicodeEncodeError for text that is none.
    """
    parts = [
        time.to_bytes(8, signed=True),
        event_type.encode(),
        # A tenant with an empty name and no tenant are two things.
        b"" if tenant is None else b"\x01" + tenant.encode(),
        principal.encode(),
        resource.encode(),
    ]
    for key in sorted(details):
        parts += (key.encode(), details[key].encode())
    return _joined(parts)


def canonical(event: Event) -> bytes:
    """Returns the canonical form of an event."""
    return encode(
        time=microseconds(event.time),
        event_type=event.type.value,
        tenant=event.tenant,
        principal=event.principal,
        resource=event.resource,
        details=event.details,
    )


def next_head(previous: ChainHead, encoded: bytes) -> ChainHead:
    """Returns the head after one more event, given in its canonical form."""
    seq = previous.seq + 1
    return ChainHead(seq, _hash(previous.chain_hash, seq, encoded))


def chain_hash(previous: bytes, seq: int, event: Event) -> bytes:
    """Returns the chain hash of the event numbered `seq`, which follows the one with the hash `previous`."""
    return _hash(previous, seq, canonical(event))


def _hash(previous: bytes, seq: int, encoded: bytes) -> bytes:
    data = _joined((_DOMAIN, previous, seq.to_bytes(8), encoded))
    return hashlib.sha256(data).digest()


def verify(rows: Iterable[NumberedEvent], previous: ChainHead) -> list[ChainBreak]:
    """Returns every place at which `rows` do not continue the chain after `previous`; none when it is whole.

    After a break it goes on from the row as it stands, so that one changed row shows once.
    """
    breaks = []
    for row in rows:
        if row.seq != previous.seq + 1:
            breaks.append(ChainBreak(row.seq, f"event {row.seq} follows event {previous.seq}: numbers have no gaps"))
        elif row.chain_hash != chain_hash(previous.chain_hash, row.seq, row.event):
            breaks.append(ChainBreak(row.seq, f"event {row.seq} is not what was written, or follows another event"))
        previous = ChainHead(row.seq, row.chain_hash)
    return breaks
