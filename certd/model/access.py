"""Who calls, and what a grant allows.

Export, revocation, authority operations and grants are permissions of their own, never implied by another.
"""

import enum
import uuid
from dataclasses import dataclass, field
from datetime import datetime


class Permission(enum.StrEnum):
    """What an RPC needs."""

    AUTHORITY_CREATE = "authority.create"
    AUTHORITY_READ = "authority.read"
    AUTHORITY_UPDATE = "authority.update"
    AUTHORITY_ACTIVATE = "authority.activate"
    AUTHORITY_ENABLE = "authority.enable"
    AUTHORITY_REISSUE = "authority.reissue"
    AUTHORITY_ROTATE = "authority.rotate"
    AUTHORITY_DELETE = "authority.delete"
    AUTHORITY_CROSS_CERTIFY = "authority.cross-certify"
    AUTHORITY_ADOPT = "authority.adopt"
    AUTHORITY_PUBLISH = "authority.publish"
    AUTHORITY_AUDIT = "authority.audit"
    CERTIFICATE_IMPORT = "certificate.import"
    CERTIFICATE_ISSUE = "certificate.issue"
    CERTIFICATE_READ = "certificate.read"
    CERTIFICATE_REVOKE = "certificate.revoke"
    PROFILE_READ = "profile.read"
    PROFILE_WRITE = "profile.write"
    MANAGED_CERTIFICATE_REQUEST = "managed-certificate.request"
    MANAGED_CERTIFICATE_READ = "managed-certificate.read"
    MANAGED_CERTIFICATE_EXPORT = "managed-certificate.export"
    MANAGED_CERTIFICATE_IMPORT = "managed-certificate.import"
    MANAGED_CERTIFICATE_UPDATE = "managed-certificate.update"
    MANAGED_CERTIFICATE_RENEW = "managed-certificate.renew"
    MANAGED_CERTIFICATE_REVOKE = "managed-certificate.revoke"
    MANAGED_CERTIFICATE_DELETE = "managed-certificate.delete"
    ASSOCIATION_CREATE = "association.create"
    ASSOCIATION_READ = "association.read"
    ASSOCIATION_DELETE = "association.delete"
    KEY_LEASE = "key.lease"
    RENEWAL_CAMPAIGN_CREATE = "renewal-campaign.create"
    RENEWAL_CAMPAIGN_READ = "renewal-campaign.read"
    WRAPPING_KEY_READ = "wrapping-key.read"
    WRAPPING_KEY_ROTATE = "wrapping-key.rotate"
    WRAPPING_KEY_DESTROY = "wrapping-key.destroy"
    EVENT_READ = "event.read"
    SUBSCRIPTION_READ = "subscription.read"
    SUBSCRIPTION_WRITE = "subscription.write"
    SERVER_READ = "server.read"
    TENANT_CREATE = "tenant.create"
    TENANT_READ = "tenant.read"
    TENANT_UPDATE = "tenant.update"
    IDENTITY_ENROLL = "identity.enroll"
    IDENTITY_READ = "identity.read"
    IDENTITY_REVOKE = "identity.revoke"
    GRANT_CREATE = "grant.create"
    GRANT_READ = "grant.read"
    GRANT_DELETE = "grant.delete"


class Role(enum.StrEnum):
    """A named set of permissions."""

    ADMINISTRATOR = "administrator"
    AUTHORITY_OPERATOR = "authority-operator"
    ISSUER = "issuer"
    REQUESTER = "requester"
    EXPORTER = "exporter"
    CONSUMER = "consumer"
    AUDITOR = "auditor"


ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMINISTRATOR: frozenset(
        {
            Permission.SERVER_READ,
            Permission.PROFILE_READ,
            Permission.PROFILE_WRITE,
            Permission.TENANT_CREATE,
            Permission.TENANT_READ,
            Permission.TENANT_UPDATE,
            Permission.IDENTITY_ENROLL,
            Permission.IDENTITY_READ,
            Permission.IDENTITY_REVOKE,
            Permission.GRANT_CREATE,
            Permission.GRANT_READ,
            Permission.GRANT_DELETE,
            Permission.WRAPPING_KEY_READ,
            Permission.WRAPPING_KEY_ROTATE,
            Permission.WRAPPING_KEY_DESTROY,
            # Whoever makes one needs the permission to read what it sends as well.
            Permission.SUBSCRIPTION_READ,
            Permission.SUBSCRIPTION_WRITE,
        }
    ),
    Role.AUTHORITY_OPERATOR: frozenset(
        {
            Permission.AUTHORITY_CREATE,
            Permission.AUTHORITY_READ,
            Permission.AUTHORITY_UPDATE,
            Permission.AUTHORITY_ACTIVATE,
            Permission.AUTHORITY_ENABLE,
            Permission.AUTHORITY_REISSUE,
            Permission.AUTHORITY_ROTATE,
            Permission.AUTHORITY_DELETE,
            Permission.AUTHORITY_CROSS_CERTIFY,
            Permission.AUTHORITY_ADOPT,
            Permission.AUTHORITY_PUBLISH,
            Permission.AUTHORITY_AUDIT,
            Permission.CERTIFICATE_IMPORT,
            Permission.CERTIFICATE_READ,
            Permission.CERTIFICATE_REVOKE,
            Permission.PROFILE_READ,
            # Incidents: what an authority's operator revokes and replaces.
            Permission.MANAGED_CERTIFICATE_READ,
            Permission.MANAGED_CERTIFICATE_RENEW,
            Permission.MANAGED_CERTIFICATE_REVOKE,
            Permission.RENEWAL_CAMPAIGN_CREATE,
            Permission.RENEWAL_CAMPAIGN_READ,
        }
    ),
    Role.ISSUER: frozenset(
        {
            Permission.CERTIFICATE_ISSUE,
            Permission.CERTIFICATE_READ,
            Permission.AUTHORITY_READ,
            Permission.PROFILE_READ,
        }
    ),
    Role.REQUESTER: frozenset(
        {
            Permission.MANAGED_CERTIFICATE_REQUEST,
            Permission.MANAGED_CERTIFICATE_IMPORT,
            Permission.MANAGED_CERTIFICATE_READ,
            Permission.MANAGED_CERTIFICATE_UPDATE,
            Permission.MANAGED_CERTIFICATE_RENEW,
            Permission.MANAGED_CERTIFICATE_DELETE,
            Permission.ASSOCIATION_CREATE,
            Permission.ASSOCIATION_READ,
            Permission.ASSOCIATION_DELETE,
            Permission.PROFILE_READ,
        }
    ),
    Role.EXPORTER: frozenset({Permission.MANAGED_CERTIFICATE_EXPORT, Permission.MANAGED_CERTIFICATE_READ}),
    # Of what it is associated with, and nothing else.
    Role.CONSUMER: frozenset({Permission.KEY_LEASE}),
    Role.AUDITOR: frozenset(
        {
            Permission.AUTHORITY_READ,
            Permission.AUTHORITY_AUDIT,
            Permission.CERTIFICATE_READ,
            Permission.MANAGED_CERTIFICATE_READ,
            Permission.PROFILE_READ,
            Permission.SERVER_READ,
            Permission.TENANT_READ,
            Permission.IDENTITY_READ,
            Permission.GRANT_READ,
            Permission.ASSOCIATION_READ,
            Permission.RENEWAL_CAMPAIGN_READ,
            Permission.WRAPPING_KEY_READ,
            Permission.EVENT_READ,
            Permission.SUBSCRIPTION_READ,
        }
    ),
}
"""What each role allows."""

EVERYTHING = "*"
"""The scope that holds every resource."""


EVERYTHING_BELOW = "/*"
"""The end of a principal that stands for all whose SPIFFE ids are below it."""

ROLES_OF_PROFILES = frozenset({Role.ISSUER, Role.REQUESTER})
"""Roles whose grants say which profiles may be used."""

CERTD = "certd"
"""Maker of the grants that no caller made."""


def principals_of(principal: str) -> tuple[str, ...]:
    """Returns every principal of a grant that stands for a SPIFFE id: the id itself, and each prefix of it."""
    scheme, separator, rest = principal.partition("://")
    if not separator:
        return (principal,)
    words = rest.split("/")
    prefixes = ("/".join(words[:count]) for count in range(1, len(words)))
    return (principal, *(f"{scheme}{separator}{prefix}{EVERYTHING_BELOW}" for prefix in prefixes))


def new_grant_id() -> str:
    """Returns an id for a grant whose maker chose none."""
    return f"g{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Who may do what, where, with which profiles."""

    grant_id: str
    """Last part of the name; unique within the tenant, or within the server."""
    principal: str
    """A SPIFFE id, or the beginning of SPIFFE ids and EVERYTHING_BELOW."""
    role: Role
    scope: str
    """A resource name, which holds everything below it, or EVERYTHING."""
    profiles: frozenset[str] | None
    """Ids of the profiles that may be used; None for every one."""
    tenant: str | None = None
    """None: of the server."""
    creator: str = CERTD
    """Principal who made it."""
    create_time: datetime | None = None
    """None for one of before this was kept."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"grants/{self.grant_id}" if self.tenant is None else f"tenants/{self.tenant}/grants/{self.grant_id}"

    def allows(self, permission: Permission, resource: str, profile: str | None = None) -> bool:
        """Returns whether the grant holds `permission` on `resource`, and `profile` where one is used."""
        return permission in ROLE_PERMISSIONS[self.role] and self._holds(resource) and self._has(profile)

    def misses(self, permission: Permission, resource: str, profile: str | None = None) -> tuple[str, ...]:
        """Returns why the grant does not allow something, a sentence without a subject for each cause."""
        causes = (
            (permission in ROLE_PERMISSIONS[self.role], f"is of the role {self.role}, which has no {permission}"),
            (self._holds(resource), f"holds {self.scope}, which {resource} is not below"),
            (self._has(profile), f"lists the profiles {', '.join(sorted(self.profiles or ()))}, not {profile}"),
        )
        return tuple(cause for fits, cause in causes if not fits)

    def covers(self, permission: Permission, scope: str, profile: str | None) -> bool:
        """Returns whether it holds a permission on the whole of a scope with a profile; None stands for every one."""
        all_profiles = profile is not None or self.profiles is None
        return all_profiles and self.allows(permission, scope, profile)

    def covers_role(self, other: "Grant") -> bool:
        """Returns whether it is of the same role as another, and holds all of its scope and profiles."""
        profiles_fit = self.profiles is None or (other.profiles is not None and other.profiles <= self.profiles)
        return self.role is other.role and self._holds(other.scope) and profiles_fit

    def _holds(self, resource: str) -> bool:
        return self.scope in {EVERYTHING, resource} or resource.startswith(self.scope + "/")

    def _has(self, profile: str | None) -> bool:
        return profile is None or self.profiles is None or profile in self.profiles


def lacking(held: tuple[Grant, ...], wanted: Grant) -> Permission | Role | None:
    """Returns what is not held of a grant that somebody wants to make; None when they hold all of it.

    Every permission of the role, on the whole scope, with each of the profiles, whichever of their grants hold them.
    A role without permissions is itself what has to be held.
    """
    if any(grant.covers_role(wanted) for grant in held):
        return None
    permissions = ROLE_PERMISSIONS[wanted.role]
    if not permissions:
        return wanted.role
    profiles: list[str | None] = [*sorted(wanted.profiles or ())] or [None]
    for permission in sorted(permissions):
        for profile in profiles:
            if not any(grant.covers(permission, wanted.scope, profile) for grant in held):
                return permission
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: known by issuer and serial, unexpired and unrevoked."""

    principal: str
    """SPIFFE id."""
    serial: str
    """Serial of the certificate that it showed; empty for a bearer token."""
    not_after: datetime | None = field(default=None, compare=False)
    """End of what it showed."""
