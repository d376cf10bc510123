"""Who calls, and whether they may. Default deny."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import ROLE_PERMISSIONS, Caller, Grant, Permission
from certd.model.certificate import CertificateState
from certd.model.identity import IdentityState
from certd.model.names import serial_text
from certd.model.oidc import COLLECTION
from certd.pki import description
from certd.pki.names import parse_spiffe_id
from certd.services.remembered import Remembered
from certd.services.system import SystemAuthority
from certd.store import grants, identities
from certd.store.store import Store, Transaction


class Access:
    """Tells callers by their certificates and holds their grants against what they ask for.

    Certificates and grants come with every call, so they are kept until the configuration changes.
    """

    def __init__(self, store: Store, clock: Clock, *, system_authority: SystemAuthority, trust_domain: str) -> None:
        self._clock = clock
        self._system_authority = system_authority
        self._trust_domain = trust_domain
        # Revocations too: for who was revoked and goes on calling nothing is read either.
        self._identities: Remembered[bytes, _Identity | CertdError] = Remembered(
            store, "access.authenticate", self._known_or_revoked
        )
        self._grants: Remembered[str, tuple[Grant, ...]] = Remembered(
            store, "access.grants", lambda tx, principal: tuple(grants.of_caller(tx, principal))
        )

    def authenticate(self, certificate_der: bytes) -> Caller:
        """Returns who shows this certificate, which the TLS handshake has already verified.

        A caller must be known by issuer and serial, unexpired and unrevoked; what is not in the books fails closed.
        Raises CREDENTIAL_INVALID or CREDENTIAL_REVOKED.
        """
        identity = self._identities.get(certificate_der)
        if isinstance(identity, CertdError):
            raise identity.another()
        if self._clock.now() > identity.not_after:
            raise CertdError(
                Reason.CREDENTIAL_INVALID,
                f"the client certificate {identity.caller.serial} ended at {rfc3339(identity.not_after)}; enroll again",
            )
        return identity.caller

    def require(self, caller: Caller, permission: Permission, resource: str, *, profile: str | None = None) -> None:
        """Raises PERMISSION_MISSING unless a grant of the caller holds the permission on the resource.

        Called before anything about the resource is read, so that the answer is the same whether it exists or not.
        """
        held = self.held(caller)
        if not any(grant.allows(permission, resource, profile) for grant in held):
            with_profile = f" with profile {profile}" if profile else ""
            raise CertdError(
                Reason.PERMISSION_MISSING,
                f"{caller.principal} lacks {permission} on {resource}{with_profile}; an administrator can grant it",
                metadata={"permission": permission, "principal": caller.principal},
                resource=resource,
            )

    def require_somewhere(self, caller: Caller, permission: Permission) -> None:
        """Raises PERMISSION_MISSING unless a grant of the caller holds the permission on anything at all."""
        if not any(permission in ROLE_PERMISSIONS[grant.role] for grant in self.held(caller)):
            raise CertdError(
                Reason.PERMISSION_MISSING,
                f"{caller.principal} lacks {permission} everywhere; an administrator can grant it",
                metadata={"permission": permission, "principal": caller.principal},
            )

    def held(self, caller: Caller) -> tuple[Grant, ...]:
        """Returns the grants that hold for a caller, in the order of their ids."""
        return self._grants.get(caller.principal)

    def may(self, caller: Caller, permission: Permission, resource: str) -> bool:
        """Returns whether a grant of the caller holds the permission on the resource."""
        return any(grant.allows(permission, resource) for grant in self.held(caller))

    def _known_or_revoked(self, tx: Transaction, certificate_der: bytes) -> "_Identity | CertdError":
        try:
            return self._known(tx, certificate_der)
        except CertdError as error:
            if error.reason is Reason.CREDENTIAL_REVOKED:
                return error.another()
            raise

    def _known(self, tx: Transaction, certificate_der: bytes) -> "_Identity":
        principal, serial = _identity_of(certificate_der, self._trust_domain)
        row = self._system_authority.certificate(tx, serial)
        if (
            row is None
            or row.der is None
            or hashlib.sha256(row.der).digest() != hashlib.sha256(certificate_der).digest()
        ):
            raise CertdError(
                Reason.CREDENTIAL_INVALID,
                "the client certificate is not in the books of this server; enroll again",
            )
        if row.state is not CertificateState.ISSUED:
            raise CertdError(Reason.CREDENTIAL_REVOKED, f"the client certificate {serial} was revoked; enroll again")
        # No certificate counts while its identity is revoked, however it came to be.
        owner = identities.of_spiffe_id(tx, principal)
        if owner is not None and owner.state is IdentityState.REVOKED:
            raise CertdError(Reason.CREDENTIAL_REVOKED, f"{owner.name} was revoked; enroll again")
        return _Identity(Caller(principal=principal, serial=serial, not_after=row.not_after), row.not_after)


@dataclass(frozen=True, slots=True)
class _Identity:
    """A caller whose certificate is in the books and not revoked."""

    caller: Caller
    not_after: datetime


def _identity_of(certificate_der: bytes, trust_domain: str) -> tuple[str, str]:
    """Returns SPIFFE id and serial of an identity certificate; raises CREDENTIAL_INVALID."""
    parsed = description.describe(certificate_der)
    uris = parsed.subject_alternative_names.uris
    if len(uris) != 1:
        raise CertdError(
            Reason.CREDENTIAL_INVALID,
            "the client certificate must have exactly one URI name, its SPIFFE id; enroll again",
        )
    try:
        spiffe_id = parse_spiffe_id(uris[0])
    except CertdError as error:
        raise CertdError(
            Reason.CREDENTIAL_INVALID, f"the client certificate carries no SPIFFE id: {error.message}"
        ) from error
    if spiffe_id.trust_domain != trust_domain:
        raise CertdError(
            Reason.CREDENTIAL_INVALID,
            f"the client certificate is of the trust domain {spiffe_id.trust_domain}, this server of {trust_domain}",
        )
    if spiffe_id.path.split("/")[1:2] == [COLLECTION]:
        raise CertdError(
            Reason.CREDENTIAL_INVALID, "the client certificate names a caller by token, and certificates name no such"
        )
    return uris[0], serial_text(int(parsed.serial_number, 16))
