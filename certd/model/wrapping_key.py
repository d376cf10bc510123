"""Wrapping keys: one per tenant, in the token, under which subscriber keys are sealed."""

import enum
from dataclasses import dataclass
from datetime import datetime


class WrappingKeyState(enum.StrEnum):
    """What a wrapping key may do."""

    PRIMARY = "PRIMARY"
    """Seals and opens."""
    DECRYPT_ONLY = "DECRYPT_ONLY"
    """Opens what is being sealed anew under the primary one."""
    RETIRED = "RETIRED"
    """Nothing in the database is sealed under it; backups are."""
    DESTROYED = "DESTROYED"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappingKey:
    """A version of a tenant's wrapping key, which exists in the token."""

    tenant: str
    number: int
    key_id: bytes
    """CKA_ID, 16 random bytes, allocated before the key is generated."""
    state: WrappingKeyState
    create_time: datetime
    reseal_count: int = 0
    """How many keys were sealed under it when it stopped being primary."""
    resealed_count: int = 0
    """How many of them were sealed anew."""
    rotate_time: datetime | None = None
    """When another one became primary."""
    retire_time: datetime | None = None
    destroy_time: datetime | None = None
    escrowed: bool = False
    """Whether the database keeps it encrypted to the recovery key."""
    revision: int = 1

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant}/wrappingKeys/{self.number}"

    @property
    def etag(self) -> str:
        """Another one for every revision."""
        return f"{self.key_id.hex()}-{self.revision}"
