"""Wrapping keys: one per tenant, in the token, under which subscriber keys are sealed."""

import enum
from dataclasses import dataclass
from datetime import datetime


class WrappingKeyState(enum.StrEnum):
    """What a wrapping key may do."""

    PRIMARY = "PRIMARY"
    """Seals and opens."""
    DECRYPT_ONLY = "DECRYPT_ONLY"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKey:
    """A version of a tenant's wrapping key, which exists in the token."""

    tenant: str
    number: int
    key_id: bytes
    """CKA_ID, 16 random bytes, allocated before the key is generated."""
    state: WrappingKeyState
    create_time: datetime
