"""The first start: tenant, system authority, server certificate, first administrator. Every step is idempotent."""

import uuid
from dataclasses import dataclass

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.names import IdentityName
from certd.model.tenant import Tenant
from certd.pki import distinguished_name
from certd.pki.names import SubjectAlternativeNames
from certd.services.administrators import administrator_name, ensure_administrator
from certd.services.authorities import Authorities
from certd.services.identities import Identities
from certd.services.steps import StepHook
from certd.services.system import SystemAuthority
from certd.services.tenants import DEFAULT_TENANT
from certd.store import identities, tenants
from certd.store.store import Store, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrapped:
    """What the first start made, in DER."""

    system_roots: tuple[bytes, ...]
    server_certificate: bytes
    administrator_certificate: bytes
    created: bool
    """Whether the administrator's certificate is new."""


class Bootstrap:
    """Makes an empty database into a server that its first administrator can call."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        authorities: Authorities,
        identities: Identities,
        system_authority: SystemAuthority,
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._authorities = authorities
        self._identities = identities
        self._system_authority = system_authority
        self._step = step

    def run(
        self,
        *,
        trust_domain: str,
        server_names: SubjectAlternativeNames,
        server_csr: bytes,
        administrator_id: str,
        administrator_csr: bytes,
        any_server_names: bool = True,
    ) -> Bootstrapped:
        """Makes what is missing and returns the certificates. The first administrator gets every role on everything.

        A server certificate with other names is kept, unless `any_server_names` is false.
        Raises STATE_FORBIDS for an administrator whose identity was revoked.
        """
        self._store.write("bootstrap.tenant", self._ensure_tenant)
        self._step("bootstrap.1.tenant")
        subject = distinguished_name.parse_text(f"CN=certd system authority,O={trust_domain}")
        self._authorities.ensure_system(trust_domain, subject)
        self._step("bootstrap.2.system-authority")
        server = self._identities.ensure_server(server_names, server_csr, any_names=any_server_names)
        self._step("bootstrap.3.server")
        administrator_identity = administrator_name(administrator_id)
        principal = spiffe_id_of(administrator_identity, trust_domain)
        self._refuse_revoked(administrator_identity)
        administrator = self._identities.ensure_identity(principal, administrator_csr)
        self._step("bootstrap.4.administrator")
        now = self._clock.now()
        self._store.write(
            "bootstrap.grants", lambda tx: ensure_administrator(tx, administrator_identity, principal, now)
        )
        return Bootstrapped(
            system_roots=self._system_authority.roots(),
            server_certificate=server.certificate,
            administrator_certificate=administrator.certificate,
            created=administrator.created,
        )

    def _refuse_revoked(self, name: IdentityName) -> None:
        with self._store.read("bootstrap.identity") as tx:
            found = identities.get(tx, name)
        if found is not None and found.state is IdentityState.REVOKED:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"{name} was revoked, and does not come back by this; run `certd recover-admin`",
                resource=str(name),
            )

    def _ensure_tenant(self, tx: Transaction) -> None:
        if tenants.get(tx, DEFAULT_TENANT) is not None:
            return
        now = self._clock.now()
        tenants.insert(tx, Tenant(tenant_id=DEFAULT_TENANT, uid=uuid.uuid4().hex, create_time=now))
        tx.event(
            Event(
                time=now,
                type=EventType.TENANT_CREATED,
                tenant=DEFAULT_TENANT,
                principal=SYSTEM_PRINCIPAL,
                resource=f"tenants/{DEFAULT_TENANT}",
            )
        )
