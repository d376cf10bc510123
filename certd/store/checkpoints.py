"""Rows of checkpoints, of the keys that sign them, and of how far journals were known to go."""

from typing import Any

from sqlalchemy import Row, Select, bindparam, select, update

from certd.model.checkpoint import CheckpointKey, JournalPosition, SignedCheckpoint
from certd.pki.key_spec import SignatureAlgorithm
from certd.store import revocation_schema
from certd.store.dialect import insert_if_absent, insert_or_replace
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of

_keys = revocation_schema.checkpoint_keys
_checkpoints = revocation_schema.checkpoints
_positions = revocation_schema.journal_positions
_KEYS: Select[Any] = select(
    _keys.c.number,
    _keys.c.key_id,
    _keys.c.policy,
    _keys.c.public_key,
    _keys.c.signature_algorithm,
    _keys.c.create_time,
).order_by(_keys.c.number.desc())
_NEWEST_KEY = _KEYS.limit(1)
_GET_KEY = _KEYS.where(_keys.c.number == bindparam("of_number"))
_INSERT_KEY = insert_if_absent(_keys)
_SET_PUBLIC_KEY = (
    update(_keys).where(_keys.c.number == bindparam("of_number")).values(public_key=bindparam("new_public_key"))
)
_SELECT: Select[Any] = select(
    _checkpoints.c.seq,
    _checkpoints.c.statement,
    _checkpoints.c.signature,
    _checkpoints.c.key_number,
    _checkpoints.c.create_time,
)
_NEWEST = _SELECT.order_by(_checkpoints.c.seq.desc()).limit(1)
_PAGE = _SELECT.where(_checkpoints.c.seq > bindparam("after")).order_by(_checkpoints.c.seq).limit(bindparam("most"))
_INSERT = insert_if_absent(_checkpoints)
_POSITIONS: Select[Any] = select(
    _positions.c.journal, _positions.c.position, _positions.c.chain_hash, _positions.c.update_time
)
_POSITION = _POSITIONS.where(_positions.c.journal == bindparam("of_journal"))
_PUT_POSITION = insert_or_replace(_positions, key=["journal"], replaced=["position", "chain_hash", "update_time"])


def keys(tx: Transaction) -> list[CheckpointKey]:
    """Returns every key that signs or has signed checkpoints, the newest first."""
    return [_key(row) for row in tx.execute(_KEYS)]


def newest_key(tx: Transaction) -> CheckpointKey | None:
    """Returns the key that signs; None when there is none yet."""
    row = tx.execute(_NEWEST_KEY).first()
    return None if row is None else _key(row)


def key(tx: Transaction, number: int) -> CheckpointKey | None:
    """Returns a key; None when there is none of that number."""
    row = tx.execute(_GET_KEY, {"of_number": number}).first()
    return None if row is None else _key(row)


def insert_key(tx: Transaction, new: CheckpointKey) -> None:
    """Inserts a key unless there is one of its number, as when another daemon was quicker."""
    tx.execute(
        _INSERT_KEY,
        {
            "number": new.number,
            "key_id": new.key_id,
            "policy": new.policy,
            "public_key": new.public_key,
            "signature_algorithm": new.signature_algorithm.value,
            "create_time": microseconds(new.create_time),
        },
    )


def set_public_key(tx: Transaction, number: int, public_key: bytes) -> None:
    """Records the public key that the token answered with."""
    tx.execute(_SET_PUBLIC_KEY, {"of_number": number, "new_public_key": public_key})


def newest(tx: Transaction) -> SignedCheckpoint | None:
    """Returns the checkpoint of the highest sequence number; None when there is none."""
    row = tx.execute(_NEWEST).first()
    return None if row is None else _checkpoint(row)


def page(tx: Transaction, *, after_seq: int, limit: int) -> list[SignedCheckpoint]:
    """Returns up to `limit` checkpoints above a sequence number, in their order."""
    return [_checkpoint(row) for row in tx.execute(_PAGE, {"after": after_seq, "most": limit})]


def insert(tx: Transaction, checkpoint: SignedCheckpoint) -> bool:
    """Inserts a checkpoint; returns False, and changes nothing, when there is one of its sequence number."""
    return (
        tx.execute(
            _INSERT,
            {
                "seq": checkpoint.seq,
                "statement": checkpoint.statement,
                "signature": checkpoint.signature,
                "key_number": checkpoint.key_number,
                "create_time": microseconds(checkpoint.create_time),
            },
        ).rowcount
        == 1
    )


def positions(tx: Transaction) -> list[JournalPosition]:
    """Returns how far each journal was known to go; there are as many as there ever were journals."""
    return [_position(row) for row in tx.execute(_POSITIONS)]


def position(tx: Transaction, journal: str) -> JournalPosition | None:
    """Returns how far a journal was known to go; None when nothing is known of it."""
    row = tx.execute(_POSITION, {"of_journal": journal}).first()
    return None if row is None else _position(row)


def put_position(tx: Transaction, known: JournalPosition) -> None:
    """Keeps how far a journal is known to go."""
    tx.execute(
        _PUT_POSITION,
        {
            "journal": known.journal,
            "position": known.number,
            "chain_hash": known.chain_hash,
            "update_time": microseconds(known.update_time),
        },
    )


def _key(row: Row[Any]) -> CheckpointKey:
    return CheckpointKey(
        number=row.number,
        key_id=row.key_id,
        policy=row.policy,
        public_key=row.public_key,
        signature_algorithm=SignatureAlgorithm(row.signature_algorithm),
        create_time=time_of(row.create_time),
    )


def _checkpoint(row: Row[Any]) -> SignedCheckpoint:
    return SignedCheckpoint(
        seq=row.seq,
        statement=row.statement,
        signature=row.signature,
        key_number=row.key_number,
        create_time=time_of(row.create_time),
    )


def _position(row: Row[Any]) -> JournalPosition:
    return JournalPosition(
        journal=row.journal,
        number=row.position,
        chain_hash=row.chain_hash,
        update_time=time_of(row.update_time),
    )
