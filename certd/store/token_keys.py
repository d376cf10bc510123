"""Every key in the token that the books name, whatever it is for."""

import enum
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from certd.model.authority import AuthorityKeyState, AuthorityState
from certd.model.wrapping_key import WrappingKeyState
from certd.store import managed_schema, revocation_schema, schema
from certd.store.transaction import Transaction


class KeyUse(enum.StrEnum):
    """What a key in the token is for."""

    AUTHORITY = "authority key"
    WRAPPING = "wrapping key"
    RESPONDER = "responder key"
    CHECKPOINT = "checkpoint key"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKey:
    """A key in the token, as the books name it."""

    use: KeyUse
    key_id: bytes
    name: str
    """Of whom it is, for people."""
    made: bool
    """Whether the token is known to have made it: a row comes before its key."""
    needed: bool
    """Whether anything is signed or opened with it at present."""


_KEYS: Final = (
    select(
        schema.authority_keys.c.key_id,
        schema.authority_keys.c.number,
        schema.authority_keys.c.public_key,
        schema.authority_keys.c.state,
        schema.authorities.c.tenant,
        schema.authorities.c.authority_id,
    )
    .join(schema.authorities, schema.authorities.c.uid == schema.authority_keys.c.authority_uid)
    .where(schema.authorities.c.state != AuthorityState.PURGED.value)
    .order_by(schema.authorities.c.uid, schema.authority_keys.c.number)
)
_WRAPPING: Final = select(
    managed_schema.wrapping_keys.c.key_id,
    managed_schema.wrapping_keys.c.tenant,
    managed_schema.wrapping_keys.c.number,
    managed_schema.wrapping_keys.c.state,
).order_by(managed_schema.wrapping_keys.c.tenant, managed_schema.wrapping_keys.c.number)
_RESPONDERS: Final = select(
    revocation_schema.ocsp_responders.c.key_id,
    revocation_schema.ocsp_responders.c.authority_uid,
    revocation_schema.ocsp_responders.c.key_number,
    revocation_schema.ocsp_responders.c.number,
    revocation_schema.ocsp_responders.c.public_key,
)
_CHECKPOINTS: Final = select(
    revocation_schema.checkpoint_keys.c.key_id,
    revocation_schema.checkpoint_keys.c.number,
    revocation_schema.checkpoint_keys.c.public_key,
).order_by(revocation_schema.checkpoint_keys.c.number)


def named(tx: Transaction) -> list[NamedKey]:
    """Returns the keys that the books name, but for those that were destroyed."""
    found = [
        NamedKey(
            use=KeyUse.AUTHORITY,
            key_id=row.key_id,
            name=f"tenants/{row.tenant or '-'}/authorities/{row.authority_id}, key {row.number}",
            made=row.public_key is not None,
            needed=row.state != AuthorityKeyState.RETIRED.value,
        )
        for row in tx.execute(_KEYS)
    ]
    found += [
        NamedKey(
            use=KeyUse.WRAPPING,
            key_id=row.key_id,
            name=f"tenants/{row.tenant}/wrappingKeys/{row.number}",
            # Whether it was made is not on record.
            made=True,
            needed=row.state in {WrappingKeyState.PRIMARY.value, WrappingKeyState.DECRYPT_ONLY.value},
        )
        for row in tx.execute(_WRAPPING)
        if row.state != WrappingKeyState.DESTROYED.value
    ]
    found += [
        NamedKey(
            use=KeyUse.RESPONDER,
            key_id=row.key_id,
            name=f"responder {row.number} of the key {row.key_number} of the authority {row.authority_uid}",
            made=row.public_key is not None,
            needed=False,
        )
        for row in tx.execute(_RESPONDERS)
    ]
    found += [
        NamedKey(
            use=KeyUse.CHECKPOINT,
            key_id=row.key_id,
            name=f"checkpoints, key {row.number}",
            made=row.public_key is not None,
            needed=False,
        )
        for row in tx.execute(_CHECKPOINTS)
    ]
    return found
