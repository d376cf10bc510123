"""Checkpoints: the text that a key in the token signs to say how far the record of events goes.

Six lines, each ended by one line feed, in ASCII, and nothing else:

    certd checkpoint v1
    installation: {uid of the installation's first system authority}
    sequence: {number of the last event, decimal}
    chain-hash: {chain hash of that event, 64 digits of lower-case hexadecimal}
    time: {when, UTC, YYYY-MM-DDThh:mm:ss.ffffffZ}
    journal: {id of a journal} {number of a record} {chain hash of that record}

The last line says how far the journal of the token process went that signs; `journal: -` when nobody knows. One text
has one meaning and one meaning has one text, so that what is signed is compared byte by byte.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from certd.errors import field_invalid

LONGEST_STATEMENT: Final = 1024
"""In bytes."""

_FORM: Final = re.compile(
    rb"certd checkpoint v1\n"
    rb"installation: (?P<installation>[!-~]{1,128})\n"
    rb"sequence: (?P<seq>[1-9][0-9]{0,18})\n"
    rb"chain-hash: (?P<chain_hash>[0-9a-f]{64})\n"
    rb"time: (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\n"
    rb"journal: (?:-|(?P<journal>[0-9a-f]{32}) (?P<number>[1-9][0-9]{0,18}) (?P<journal_hash>[0-9a-f]{64}))\n"
)
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHead:
    """How far a journal goes."""

    journal: str
    """Its id, 32 digits of hexadecimal."""
    number: int
    """Of the last record, from 1."""
    chain_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a statement says."""

    installation: str
    seq: int
    """Number of the last event that it covers."""
    chain_hash: bytes
    time: datetime
    journal: JournalHead | None
    """None: nobody knew."""


def checkpoint_statement(checkpoint: Checkpoint) -> bytes:
    """Returns the text; FIELD_INVALID for what has none, as a sequence number of 0."""
    head = checkpoint.journal
    journal = "-" if head is None else f"{head.journal} {head.number} {head.chain_hash.hex()}"
    text = (
        "certd checkpoint v1\n"
        f"installation: {checkpoint.installation}\n"
        f"sequence: {checkpoint.seq}\n"
        f"chain-hash: {checkpoint.chain_hash.hex()}\n"
        f"time: {checkpoint.time.astimezone(UTC).strftime(_TIME)}\n"
        f"journal: {journal}\n"
    )
    statement = text.encode("ascii", errors="replace")
    if _FORM.fullmatch(statement) is None:
        raise field_invalid("statement", "of these values is no statement of a checkpoint")
    return statement


def parse_checkpoint(statement: bytes, *, field: str = "statement") -> Checkpoint:
    """Parses the text; FIELD_INVALID for every other."""
    found = _FORM.fullmatch(statement) if len(statement) <= LONGEST_STATEMENT else None
    if found is None:
        raise field_invalid(field, "is not the statement of a checkpoint, `certd checkpoint v1`")
    part = {name: value.decode() for name, value in found.groupdict().items() if value is not None}
    try:
        time = datetime.strptime(part["time"], _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise field_invalid(field, "has a time that no calendar has") from error
    head = None
    if "journal" in part:
        head = JournalHead(
            journal=part["journal"], number=int(part["number"]), chain_hash=bytes.fromhex(part["journal_hash"])
        )
    return Checkpoint(
        installation=part["installation"],
        seq=int(part["seq"]),
        chain_hash=bytes.fromhex(part["chain_hash"]),
        time=time,
        journal=head,
    )
