"""Compares the record of events with checkpoints: those in the books, and those that were kept elsewhere."""

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.checkpoint import CheckpointKey
from certd.pki.checkpoint import Checkpoint, parse_checkpoint
from certd.pki.key_spec import SignatureAlgorithm, verify_signature
from certd.store import checkpoints, events
from certd.store.reader import Reader
from certd.store.transaction import Transaction

_PAGE: Final = 500
_LONGEST_LINE: Final = 16_384


@dataclass(frozen=True, slots=True)
class GivenCheckpoint:
    """A checkpoint that somebody kept."""

    place: str
    """Where, for people."""
    said: Checkpoint
    public_key: bytes


def read_checkpoints(path: Path) -> Iterator[GivenCheckpoint]:
    """Returns the checkpoints of a file of JSON lines, each with a good signature by the key that it names.

    As `[audit] checkpoint_file` has them, as `certctl event checkpoint -o json` prints them, or the details of the
    event `checkpoint.signed`. Raises FIELD_INVALID for a line that is none, or whose signature is not good.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if line.strip():
                    yield _given(f"{path}, line {number}", line)
    except OSError as error:
        raise CertdError(Reason.FIELD_INVALID, f"{path} cannot be read: {error.strerror}") from error


def _given(place: str, line: bytes) -> GivenCheckpoint:
    try:
        fields = json.loads(line)
        text = fields["statement"]
        statement = text.encode() if text.startswith("certd ") else base64.b64decode(text, validate=True)
        signature = base64.b64decode(fields["signature"], validate=True)
        public_key = base64.b64decode(fields.get("publicKey") or fields["public_key"], validate=True)
        algorithm = SignatureAlgorithm(fields.get("signatureAlgorithm") or fields["signature_algorithm"])
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{place} is no checkpoint: write what certctl event checkpoint -o json prints, a line for each",
        ) from error
    said = parse_checkpoint(statement, field=place)
    if not _verifies(public_key, algorithm, signature, statement):
        raise CertdError(Reason.FIELD_INVALID, f"{place}: the signature is not one of the key that the line names")
    return GivenCheckpoint(place, said, public_key)


def verify_stored(
    reader: Reader, *, installation: str, tell: Callable[[str], None], progress: Callable[[int], None]
) -> Iterator[Checkpoint]:
    """Verifies every checkpoint in the books against the record; returns what they say."""
    with reader.read("audit.checkpoint-keys") as tx:
        keys = {key.number: key for key in checkpoints.keys(tx)}
    after, count = 0, 0
    while True:
        with reader.read("audit.checkpoints") as tx:
            page = checkpoints.page(tx, after_seq=after, limit=_PAGE)
            for row in page:
                place = f"checkpoint {row.seq}"
                try:
                    said = parse_checkpoint(row.statement)
                except CertdError:
                    tell(f"{place}: its statement was changed")
                    continue
                key = keys.get(row.key_number)
                if said.seq != row.seq or not _is_signed(key, row.signature, row.statement):
                    tell(f"{place}: its statement or its signature was changed")
                    continue
                compare(tx, place, said, installation=installation, tell=tell)
                yield said
        if not page:
            return
        after = page[-1].seq
        count += len(page)
        progress(count)


def compare(tx: Transaction, place: str, said: Checkpoint, *, installation: str, tell: Callable[[str], None]) -> None:
    """Compares what a checkpoint says with the record."""
    if said.installation != installation:
        tell(f"{place}: it is of another installation, {said.installation}, and this one is {installation}")
        return
    at = events.head_at(tx, said.seq)
    if at is None:
        tell(f"{place}: there is no event {said.seq}, to which the record went then: events were removed")
    elif at.chain_hash != said.chain_hash:
        tell(f"{place}: event {said.seq} has another chain hash than was signed then: the record was written anew")


def _is_signed(key: CheckpointKey | None, signature: bytes, statement: bytes) -> bool:
    return (
        key is not None
        and key.public_key is not None
        and _verifies(key.public_key, key.signature_algorithm, signature, statement)
    )


def _verifies(public_key: bytes, algorithm: SignatureAlgorithm, signature: bytes, statement: bytes) -> bool:
    try:
        return verify_signature(public_key, algorithm, signature=signature, data=statement)
    except CertdError:
        return False
