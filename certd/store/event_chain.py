"""The hash chain over events. Pure.

Events of all tenants form one chain, and each tenant is shown the hashes of its own. So that nobody can guess what lies
between two of them and see in the second hash that they guessed right, each hash contains a secret of its own:

    chain_hash = SHA-256(parts("certd.event.v2", chain_hash before, seq, salted_from, salt, event))

where `parts` is each part preceded by its length in eight octets, so that no two events have one encoding; numbers are
eight octets, big-endian; and

* `chain_hash before` is that of the event before, 32 zero octets before the first;
* `salted_from` is the number of the first event that has a salt, the same in all hashes of a database;
* `salt` is 16 random octets, drawn for this event when it is numbered, and never told to anybody;
* `event` is parts(time, type, tenant, principal, resource, then key and value of each detail, sorted by the keys): time
  in microseconds since 1970, signed; tenant one octet 01 and the id, or nothing where there is none; all text in UTF-8.

Events that were numbered before there were salts, those below `salted_from`, have none; their hash is

    chain_hash = SHA-256(parts("certd.event.v1", chain_hash before, seq, event))

An event's number alone tells which form it has, and each salted hash contains the number that divides the two. So
whoever takes salts away, or moves that number, has to make every salted hash anew: no cursor that was ever given
fits them then, nor any hash that a reader keeps.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from certd.model.event import Event, NumberedEvent
from certd.store.values import microseconds

SALT_OCTETS = 16

_DOMAIN = b"certd.event.v2"
_DOMAIN_WITHOUT_SALT = b"certd.event.v1"


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where the chain stands after an event."""

    seq: int
    """Number of the event, 0 before the first."""
    chain_hash: bytes


CHAIN_START = ChainHead(0, bytes(32))
"""The head before the first event."""


@dataclass(frozen=True, slots=True)
class ChainLink:
    """An event with what its hash contains besides; it never leaves the store."""

    numbered: NumberedEvent
    salt: bytes | None = field(repr=False)
    """None: numbered before there were salts."""


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


def next_head(previous: ChainHead, encoded: bytes, *, salt: bytes | None, salted_from: int) -> ChainHead:
    """Returns the head after one more event, given in its canonical form, with the secret that its hash contains."""
    seq = previous.seq + 1
    if salt is None:
        parts = (_DOMAIN_WITHOUT_SALT, previous.chain_hash, seq.to_bytes(8), encoded)
        return ChainHead(seq, hashlib.sha256(_joined(parts)).digest())
    salted = (_DOMAIN, previous.chain_hash, seq.to_bytes(8), salted_from.to_bytes(8), salt, encoded)
    return ChainHead(seq, hashlib.sha256(_joined(salted)).digest())


def verify(links: Iterable[ChainLink], previous: ChainHead, *, salted_from: int) -> list[ChainBreak]:
    """Returns every place at which `links` do not continue the chain after `previous`; none when it is whole.

    After a break it goes on from the event as it stands, so that one changed row shows once.
    """
    breaks = []
    for link in links:
        found = _break(link, previous, salted_from)
        if found is not None:
            breaks.append(ChainBreak(link.numbered.seq, found))
        previous = ChainHead(link.numbered.seq, link.numbered.chain_hash)
    return breaks


def _break(link: ChainLink, previous: ChainHead, salted_from: int) -> str | None:
    """Returns how a link does not continue the chain; None when it does."""
    seq = link.numbered.seq
    if seq != previous.seq + 1:
        return f"event {seq} follows event {previous.seq}: numbers have no gaps"
    if link.salt is None and seq >= salted_from:
        return f"event {seq} has no salt, and every event from {salted_from} on has one"
    if link.salt is not None and seq < salted_from:
        return f"event {seq} has a salt, and no event before {salted_from} has one"
    encoded = canonical(link.numbered.event)
    expected = next_head(previous, encoded, salt=link.salt, salted_from=salted_from)
    if link.numbered.chain_hash != expected.chain_hash:
        return f"event {seq} is not what was written, or follows another event"
    return None
