"""Who calls, and what a grant allows.

Export, revocation, authority operations and grants are permissions of their own, never implied by another.
"""

import enum
from dataclasses import dataclass


class Permission(enum.StrEnum):
    """What an RPC needs."""

    AUTHORITY_CREATE = "authority.create"
    AUTHORITY_READ = "authority.read"
    AUTHORITY_UPDATE = "authority.update"
    AUTHORITY_ACTIVATE = "authority.activate"
    AUTHORITY_ENABLE = "authority.enable"
    CERTIFICATE_ISSUE = "certificate.issue"
    CERTIFICATE_READ = "certificate.read"
    CERTIFICATE_REVOKE = "certificate.revoke"
    PROFILE_READ = "profile.read"
    PROFILE_WRITE = "profile.write"
    MANAGED_CERTIFICATE_REQUEST = "managed-certificate.request"
    MANAGED_CERTIFICATE_READ = "managed-certificate.read"
    MANAGED_CERTIFICATE_EXPORT = "managed-certificate.export"
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
        }
    ),
    Role.AUTHORITY_OPERATOR: frozenset(
        {
            Permission.AUTHORITY_CREATE,
            Permission.AUTHORITY_READ,
            Permission.AUTHORITY_UPDATE,
            Permission.AUTHORITY_ACTIVATE,
            Permission.AUTHORITY_ENABLE,
            Permission.CERTIFICATE_READ,
            Permission.CERTIFICATE_REVOKE,
            Permission.PROFILE_READ,
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
            Permission.MANAGED_CERTIFICATE_READ,
            Permission.PROFILE_READ,
        }
    ),
    Role.EXPORTER: frozenset({Permission.MANAGED_CERTIFICATE_EXPORT, Permission.MANAGED_CERTIFICATE_READ}),
    Role.CONSUMER: frozenset(),
    Role.AUDITOR: frozenset(
        {
            Permission.AUTHORITY_READ,
            Permission.CERTIFICATE_READ,
            Permission.MANAGED_CERTIFICATE_READ,
            Permission.PROFILE_READ,
            Permission.SERVER_READ,
            Permission.TENANT_READ,
            Permission.IDENTITY_READ,
            Permission.GRANT_READ,
        }
    ),
}
"""What each role allows."""

EVERYTHING = "*"
"""The scope that holds every resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Who may do what, where, with which profiles."""

    grant_id: str
    principal: str
    """A SPIFFE id."""
    role: Role
    scope: str
    """A resource name, which holds everything below it, or EVERYTHING."""
    profiles: frozenset[str] | None
    """Ids of the profiles that may be used; None for every one."""

    def allows(self, permission: Permission, resource: str, profile: str | None = None) -> bool:
        """Returns whether the grant holds `permission` on `resource`, and `profile` where one is used."""
        in_scope = self.scope in {EVERYTHING, resource} or resource.startswith(self.scope + "/")
        profile_fits = profile is None or self.profiles is None or profile in self.profiles
        return in_scope and profile_fits and permission in ROLE_PERMISSIONS[self.role]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: known by issuer and serial, unexpired and unrevoked."""

    principal: str
    """SPIFFE id."""
    serial: str
    """Serial of the certificate that it showed."""
