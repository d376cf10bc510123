"""Tenants: the accounts that own wrapping keys, authorities, certificates and grants."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An account."""

    tenant_id: str
    uid: str
    """Opaque, never used again."""
    create_time: datetime
