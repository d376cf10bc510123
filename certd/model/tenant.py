"""Tenants: the accounts that own wrapping keys, authorities, certificates, profiles, identities and grants."""

import enum
from dataclasses import dataclass
from datetime import datetime

DEFAULT_EXPIRY_NOTICE_DAYS = (45, 30, 15, 7, 3, 1)
"""As certificate managers of clouds tell it."""


class Quota(enum.StrEnum):
    """What a tenant has a bounded number of. The values are the names of the fields of `Quotas`."""

    AUTHORITIES = "authorities"
    MANAGED_CERTIFICATES = "managed_certificates"
    PROFILES = "profiles"
    IDENTITIES = "identities"
    GRANTS = "grants"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How much a tenant may have, and how fast it may call."""

    authorities: int = 200
    """Deleted ones included until their keys are destroyed."""
    managed_certificates: int = 2_500
    profiles: int = 1_000
    """Built-in ones not counted."""
    identities: int = 10_000
    grants: int = 10_000
    calls_per_second: int = 1_000
    """Over all of its callers."""

    def of(self, quota: Quota) -> int:
        """Returns how many the tenant may have."""
        return int(getattr(self, quota.value))


DEFAULT_QUOTAS = Quotas()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An account."""

    tenant_id: str
    uid: str
    """Opaque, never used again."""
    create_time: datetime
    display_name: str = ""
    expiry_notice_days: tuple[int, ...] = DEFAULT_EXPIRY_NOTICE_DAYS
    """Days before the end of a certificate on which its expiry is told, descending."""
    quotas: Quotas = DEFAULT_QUOTAS
    update_time: datetime | None = None
    """None while it never changed."""
    revision: int = 1
    """Grows with every change."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant_id}"

    @property
    def etag(self) -> str:
        """Another one for every revision."""
        return f"{self.tenant_id}-{self.revision}"
