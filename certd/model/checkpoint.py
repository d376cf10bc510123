"""Checkpoints of the record of events, and the keys in the token that sign them."""

from dataclasses import dataclass
from datetime import datetime

from certd.pki.key_spec import SignatureAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointKey:
    """A key that signs checkpoints and nothing else."""

    number: int
    """From 1; the highest signs."""
    key_id: bytes
    """CKA_ID."""
    policy: bytes
    public_key: bytes | None
    """DER of the SubjectPublicKeyInfo; None until the token has answered."""
    signature_algorithm: SignatureAlgorithm
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A statement, see `pki.checkpoint`, and its signature."""

    seq: int
    """Number of the last event that it covers."""
    statement: bytes
    signature: bytes
    key_number: int
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalPosition:
    """How far the journal of a token process was known to go."""

    journal: str
    number: int
    chain_hash: bytes
    update_time: datetime
