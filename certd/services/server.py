"""The server itself: what it is, whether it is well, what its clients may trust."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from certd import __version__
from certd.errors import CertdError
from certd.model.access import Caller, Permission
from certd.model.authority import AuthorityKeyState
from certd.model.names import TenantName
from certd.prepare.client import Preparer, PreparerState
from certd.services.access import Access
from certd.services.authorities import every_authority
from certd.services.system import SystemAuthority
from certd.services.tenants import existing_tenant
from certd.store import associations, authorities
from certd.store.store import Store
from certd.token.client import Isolation, TokenClient
from certd.token.description import TokenDescription

_SERVER = "server"
"""The resource on which a caller needs `server.read`; only the scope of everything holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDescription:
    """The server, described."""

    version: str
    token: TokenDescription | None
    token_ready: bool
    token_problem: str
    preparer: PreparerState
    isolation: Isolation | None
    database_engine: str
    start_time: datetime
    trust_domain: str
    complaints: tuple[str, ...]
    """A sentence for everything that works, and that somebody should look at."""


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """Certificates to trust, in DER."""

    system_roots: tuple[bytes, ...]
    tenant_roots: tuple[bytes, ...]


class Server:
    """The use cases of the server resource."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        preparer: Preparer,
        access: Access,
        system_authority: SystemAuthority,
        health: "Health",
        trust_domain: str,
        start_time: datetime,
    ) -> None:
        self._store = store
        self._token = token
        self._preparer = preparer
        self._access = access
        self._system_authority = system_authority
        self._health = health
        self._trust_domain = trust_domain
        self._start_time = start_time

    def describe(self, caller: Caller) -> ServerDescription:
        """Returns version, token, prepare processes, isolation and database engine, also while the token is away."""
        self._access.require(caller, Permission.SERVER_READ, _SERVER)
        try:
            description = self._token.describe()
        except CertdError:
            description = None
        return ServerDescription(
            version=__version__,
            token=description,
            token_ready=self._token.ready,
            token_problem=self._token.problem,
            preparer=self._preparer.state,
            isolation=self._token.isolation(),
            database_engine=self._store.engine_name,
            start_time=self._start_time,
            trust_domain=self._trust_domain,
            complaints=tuple(self._health.complaints()),
        )

    def trust_bundle(self, caller: Caller, tenant: TenantName | None) -> TrustBundle:
        """Returns the system root, for every identified caller, and the roots of a tenant, for its readers.

        Consumers that are associated there may ask too, for they verify what they lease.
        """
        system = self._system_authority.roots()
        roots: list[bytes] = []
        if tenant is not None:
            among = f"{tenant}/authorities"
            if not (self._access.may(caller, Permission.AUTHORITY_READ, among) or self._consumes(caller, tenant)):
                self._access.require(caller, Permission.AUTHORITY_READ, among)
            with self._store.read("server.trust-bundle") as tx:
                existing_tenant(tx, tenant.tenant)
                # Each chain ends in a root: one of the tenant's own, or that of an outside parent. Once each, and
                # before a key signs, so that relying parties know its root by then.
                chains = [
                    key.full_chain
                    for authority in every_authority(tx, tenant.tenant)
                    for key in authorities.keys(tx, authority.uid)
                    if key.state is not AuthorityKeyState.RETIRED
                ]
                roots = list(dict.fromkeys(chain[-1] for chain in chains if chain))
        return TrustBundle(system, tuple(roots))

    def _consumes(self, caller: Caller, tenant: TenantName) -> bool:
        with self._store.read("server.trust-bundle-consumer") as tx:
            return bool(associations.page_of_consumer(tx, tenant.tenant, caller.principal, limit=1))


class Health:
    """Whether the daemon can do its work.

    Args:
        store: the books.
        token: the token.
        preparer: prepares.
        complaints: tell what else is not as it should be.
    """

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        preparer: Preparer,
        complaints: Sequence[Callable[[], list[str]]],
    ) -> None:
        self._store = store
        self._token = token
        self._preparer = preparer
        self._complaints = complaints

    @property
    def processes_work(self) -> bool:
        """Whether the token answers and something prepares; what is asked at every change of theirs."""
        return self._token.ready and self._preparer.state.works

    def problems(self) -> list[str]:
        """Returns a sentence for everything that keeps the daemon from issuing; empty when it is well."""
        problems = []
        if not self._token.ready:
            # The page is public: what is wrong with the token stands in the log and in GetServerInfo.
            problems.append("the token does not answer")
        if not self._preparer.state.works:
            problems.append("no prepare process works")
        try:
            with self._store.read("health"):
                pass
        except CertdError:
            problems.append("the database does not answer")
        return problems

    def complaints(self) -> list[str]:
        """Returns a sentence for everything that somebody should look at while the daemon does its work."""
        return [sentence for complain in self._complaints for sentence in complain()]
