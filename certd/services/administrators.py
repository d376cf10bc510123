"""Administrators of the whole server: made by the first start, and again by whoever holds the machine and the token."""

from dataclasses import dataclass
from datetime import datetime

from certd.clock import Clock
from certd.model.access import EVERYTHING, Grant, Role, new_grant_id
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.names import IdentityName
from certd.pki.description import describe
from certd.services.identities import Identities
from certd.services.steps import StepHook
from certd.services.system import SystemAuthority
from certd.store import grants, identities
from certd.store.store import Store, Transaction


def administrator_name(administrator_id: str) -> IdentityName:
    """Returns the name of the identity; raises FIELD_INVALID when the id is none."""
    return IdentityName.parse("administrator", f"identities/{administrator_id}")


def ensure_administrator(tx: Transaction, name: IdentityName, spiffe_id: str, now: datetime) -> None:
    """Writes the identity, ACTIVE when it is new, and grants it every role that it lacks on everything."""
    if identities.get(tx, name) is None:
        identities.ensure(tx, name, spiffe_id, IdentityState.ACTIVE, now)
        tx.event(
            Event(
                time=now,
                type=EventType.IDENTITY_CREATED,
                tenant=None,
                principal=SYSTEM_PRINCIPAL,
                resource=str(name),
                details={"spiffe_id": spiffe_id},
            )
        )
    held = {
        grant.role
        for grant in grants.of_principal(tx, spiffe_id)
        if grant.scope == EVERYTHING and grant.profiles is None
    }
    for role in Role:
        if role in held:
            continue
        grant = Grant(
            grant_id=new_grant_id(),
            principal=spiffe_id,
            role=role,
            scope=EVERYTHING,
            profiles=None,
            create_time=now,
        )
        grants.insert(tx, grant)
        tx.event(
            Event(
                time=now,
                type=EventType.GRANT_CREATED,
                tenant=None,
                principal=SYSTEM_PRINCIPAL,
                resource=grant.name,
                details={"to": spiffe_id, "role": role, "scope": EVERYTHING},
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the recovered administrator calls with, in DER."""

    certificate: bytes
    system_roots: tuple[bytes, ...]
    spiffe_id: str


class AdministratorRecovery:
    """Lets somebody in when no administrator can be reached any more.

    It asks nobody's permission: who runs it has the database and the token, and could have made another server.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        identities: Identities,
        system_authority: SystemAuthority,
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._identities = identities
        self._system_authority = system_authority
        self._step = step

    def run(self, *, trust_domain: str, administrator_id: str, administrator_csr: bytes) -> Recovered:
        """Issues a certificate for the key of the CSR, and makes its identity an administrator of everything.

        An identity that was revoked is ACTIVE again; its revoked certificates stay revoked. Repeating it completes
        what a crash left.

        Raises:
            CertdError: STATE_FORBIDS before `certd init`, FIELD_INVALID for an id that is none, and what store and
                token raise when they cannot be had.
        """
        name = administrator_name(administrator_id)
        spiffe_id = spiffe_id_of(name, trust_domain)
        roots = self._system_authority.roots()
        certificate = self._identities.ensure_identity(spiffe_id, administrator_csr).certificate
        self._step("recover-administrator.1.certificate")
        serial = describe(certificate).serial_number
        self._store.write(
            "administrators.recover", lambda tx: self._recover(tx, name, spiffe_id=spiffe_id, serial=serial)
        )
        self._step("recover-administrator.2.grants")
        return Recovered(certificate=certificate, system_roots=roots, spiffe_id=spiffe_id)

    def _recover(self, tx: Transaction, name: IdentityName, *, spiffe_id: str, serial: str) -> None:
        now = self._clock.now()
        ensure_administrator(tx, name, spiffe_id, now)
        identities.set_state(tx, name, IdentityState.ACTIVE, now)
        tx.event(
            Event(
                time=now,
                type=EventType.ADMINISTRATOR_RECOVERED,
                tenant=None,
                principal=SYSTEM_PRINCIPAL,
                resource=str(name),
                details={"spiffe_id": spiffe_id, "serial": serial},
            )
        )
