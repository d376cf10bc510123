"""Events: the audit record, one global gap-free order."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

SYSTEM_PRINCIPAL = "certd"
"""Principal of what the daemon does by itself: bootstrap, recovery, scheduled steps."""


class EventType(enum.StrEnum):
    """What happened."""

    AUTHORITY_REQUESTED = "authority.requested"
    AUTHORITY_KEY_GENERATED = "authority.key-generated"
    AUTHORITY_CREATED = "authority.created"
    AUTHORITY_FAILED = "authority.failed"
    AUTHORITY_UPDATED = "authority.updated"
    AUTHORITY_CSR_SIGNED = "authority.csr-signed"
    AUTHORITY_ACTIVATED = "authority.activated"
    AUTHORITY_ENABLED = "authority.enabled"
    AUTHORITY_DISABLED = "authority.disabled"
    AUTHORITY_EXPIRING = "authority.expiring"
    AUTHORITY_EXPIRED = "authority.expired"
    AUTHORITY_REISSUED = "authority.reissued"
    AUTHORITY_DELETED = "authority.deleted"
    AUTHORITY_UNDELETED = "authority.undeleted"
    AUTHORITY_PURGED = "authority.purged"
    AUTHORITY_ADOPTED = "authority.adopted"
    AUTHORITY_KEY_PREPARED = "authority.key-prepared"
    AUTHORITY_KEY_FAILED = "authority.key-failed"
    AUTHORITY_KEY_ACTIVATED = "authority.key-activated"
    AUTHORITY_KEY_TAINTED = "authority.key-tainted"
    AUTHORITY_KEY_RETIRED = "authority.key-retired"
    AUTHORITY_CROSS_CERTIFIED = "authority.cross-certified"
    CERTIFICATES_IMPORTED = "authority.certificates-imported"
    REVOCATION_LIST_GENERATED = "revocation-list.generated"
    REVOCATION_LIST_FAILED = "revocation-list.failed"
    OCSP_RESPONDER_ROTATED = "ocsp-responder.rotated"
    REVOCATION_CAMPAIGN_CREATED = "revocation-campaign.created"
    REVOCATION_CAMPAIGN_ENDED = "revocation-campaign.ended"
    CHECKPOINT_SIGNED = "checkpoint.signed"
    JOURNAL_DIFFERS = "journal.differs"
    BACKUP_MADE = "backup.made"
    BOOKS_RESTORED = "books.restored"
    CERTIFICATE_ISSUED = "certificate.issued"
    CERTIFICATE_LOST = "certificate.lost"
    CERTIFICATE_REVOKED = "certificate.revoked"
    MANAGED_CERTIFICATE_REQUESTED = "managed-certificate.requested"
    MANAGED_CERTIFICATE_KEY_GENERATED = "managed-certificate.key-generated"
    MANAGED_CERTIFICATE_ISSUED = "managed-certificate.issued"
    MANAGED_CERTIFICATE_BLOCKED = "managed-certificate.blocked"
    MANAGED_CERTIFICATE_FAILED = "managed-certificate.failed"
    MANAGED_CERTIFICATE_EXPORTED = "managed-certificate.exported"
    MANAGED_CERTIFICATE_RENEWED = "managed-certificate.renewed"
    MANAGED_CERTIFICATE_RENEWAL_REQUESTED = "managed-certificate.renewal-requested"
    MANAGED_CERTIFICATE_RENEWAL_BLOCKED = "managed-certificate.renewal-blocked"
    MANAGED_CERTIFICATE_IMPORTED = "managed-certificate.imported"
    MANAGED_CERTIFICATE_REIMPORTED = "managed-certificate.re-imported"
    MANAGED_CERTIFICATE_ROLLED_BACK = "managed-certificate.rolled-back"
    MANAGED_CERTIFICATE_UPDATED = "managed-certificate.updated"
    MANAGED_CERTIFICATE_REVOKED = "managed-certificate.revoked"
    MANAGED_CERTIFICATE_DELETED = "managed-certificate.deleted"
    MANAGED_CERTIFICATE_LEASED = "managed-certificate.leased"
    MANAGED_CERTIFICATE_LEASE_REFUSED = "managed-certificate.lease-refused"
    MANAGED_CERTIFICATE_EXPIRING = "managed-certificate.expiring"
    MANAGED_CERTIFICATE_EXPIRED = "managed-certificate.expired"
    DEPLOYMENT_LATE = "managed-certificate.deployment-late"
    DOWNLOAD_CODE_CREATED = "managed-certificate.download-code-created"
    DOWNLOAD_CODE_DELETED = "managed-certificate.download-code-deleted"
    DOWNLOAD_REFUSED = "managed-certificate.download-refused"
    DEPLOYMENT_REPORTED = "managed-certificate.deployment-reported"
    ASSOCIATION_CREATED = "association.created"
    ASSOCIATION_DELETED = "association.deleted"
    RENEWAL_CAMPAIGN_CREATED = "renewal-campaign.created"
    RENEWAL_CAMPAIGN_ENDED = "renewal-campaign.ended"
    IMPORT_KEY_CREATED = "import-key.created"
    WRAPPING_KEY_CREATED = "wrapping-key.created"
    WRAPPING_KEY_ROTATED = "wrapping-key.rotated"
    WRAPPING_KEY_RETIRED = "wrapping-key.retired"
    WRAPPING_KEY_DESTROYED = "wrapping-key.destroyed"
    PROFILE_CREATED = "profile.created"
    PROFILE_UPDATED = "profile.updated"
    PROFILE_DELETED = "profile.deleted"
    GRANT_CREATED = "grant.created"
    GRANT_DELETED = "grant.deleted"
    TENANT_CREATED = "tenant.created"
    TENANT_UPDATED = "tenant.updated"
    ENROLLMENT_CODE_CREATED = "enrollment-code.created"
    ENROLLMENT_REFUSED = "enrollment.refused"
    IDENTITY_CREATED = "identity.created"
    IDENTITY_ENROLLED = "identity.enrolled"
    IDENTITY_RENEWED = "identity.renewed"
    IDENTITY_REVOKED = "identity.revoked"
    ADMINISTRATOR_RECOVERED = "administrator.recovered"
    SUBSCRIPTION_CREATED = "subscription.created"
    SUBSCRIPTION_UPDATED = "subscription.updated"
    SUBSCRIPTION_DELETED = "subscription.deleted"
    SUBSCRIPTION_SECRET_ROTATED = "subscription.secret-rotated"  # noqa: S105  # What happened, not a secret.
    SUBSCRIPTION_TEST = "subscription.test"
    """Sent by TestSubscription; it is not in the record."""
    DELIVERY_FAILED = "subscription.delivery-failed"
    SYSTEM_AUTHORITY_REPLACED = "system-authority.replaced"
    SERVER_CERTIFICATE_RENEWED = "server-certificate.renewed"
    CALL_REFUSED = "call.refused"

    @classmethod
    def of(cls, name: str) -> "EventType":
        """Returns the type of a name, also of one that a newer certd beside this one wrote."""
        known = cls._value2member_map_.get(name)
        if isinstance(known, EventType):
            return known
        unknown = str.__new__(cls, name)
        unknown._name_ = unknown._value_ = name
        return unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record. Never holds a secret."""

    time: datetime
    type: EventType
    tenant: str | None
    """Id of the tenant whose part it is; None for what belongs to none."""
    principal: str
    """Who did it: a SPIFFE id, or SYSTEM_PRINCIPAL."""
    resource: str
    """Name of the resource that changed."""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedEvent:
    """An event with its place in the order."""

    seq: int
    """From 1, without gaps."""
    event: Event
    chain_hash: bytes
    """SHA-256 over the hash before it, the canonical form of this event and a secret, see `store.event_chain`."""
