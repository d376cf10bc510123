"""The composition root: which objects exist, how they hang together, how they start, drain and stop."""

import logging
import os
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from certd.api.credentials import Credentials
from certd.api.enrollment_server import serve_enrollment
from certd.api.server import GrpcServer, Limits, Services, serve
from certd.clock import Clock, SystemClock
from certd.config import Config, oidc_providers, request_limits, token_settings
from certd.credential_files import CredentialFiles
from certd.errors import CertdError, field_invalid
from certd.ipc.garbage import spare_what_lives
from certd.ipc.open_files import allow_open_files
from certd.ipc.processor import interrupt_nobody, keep_on_one_processor
from certd.model.job import JobKind
from certd.outbound.jwks import KeySet
from certd.pki.encoding import certificate_pem
from certd.pki.weak_keys import use_known_keys
from certd.prepare.client import Preparer, default_workers
from certd.prepare.known_keys import known_keys_of
from certd.scheduler import Scheduler
from certd.services.access import Access
from certd.services.administrators import AdministratorRecovery
from certd.services.authorities import Authorities
from certd.services.authority_activation import AuthorityActivation
from certd.services.authority_changes import AuthorityChanges
from certd.services.authority_views import AuthorityViews
from certd.services.bearer import Bearer
from certd.services.bootstrap import Bootstrap
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import Certificates
from certd.services.enrollment import Enrollment
from certd.services.grants import Grants
from certd.services.idempotency import RequestRecords
from certd.services.identities import Identities
from certd.services.identity_changes import IdentityChanges
from certd.services.issuing import Issuing
from certd.services.issuing_loop import IssuingLoop
from certd.services.managed_certificate_steps import ManagedCertificateSteps
from certd.services.managed_certificates import ManagedCertificates
from certd.services.profile_check import ProfileChecks
from certd.services.profiles import Profiles
from certd.services.public import PublicCertificates
from certd.services.rates import Rates
from certd.services.recovery import Ownership, Recovery
from certd.services.refusals import Refusals
from certd.services.revocation import Revocation
from certd.services.server import Health, Server
from certd.services.server_certificate import ServerCertificate
from certd.services.signers import Signers
from certd.services.steps import StepHook, no_step
from certd.services.system import SystemAuthority
from certd.services.system_rotation import SystemRotation
from certd.services.tenants import Tenants
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store
from certd.token.client import TokenClient, connect, start_child
from certd.web.app import application
from certd.web.server import WebServer, serve_metrics
from certd.web.server import serve as serve_http

_log = logging.getLogger("certd.main")

_TOKEN_START_SECONDS = 20.0
_PREPARE_START_SECONDS = 20.0
_GRACE_SECONDS = 10.0
_OTHER_FILES = 2048
"""Open beside the connections to the ports of the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The server without its listeners: what `certd init` runs, and the inside of `certd serve`."""

    config: Config
    clock: Clock
    store: Store
    token: TokenClient
    preparer: Preparer
    ownership: Ownership
    recovery: Recovery
    loop: IssuingLoop
    scheduler: Scheduler
    system_authority: SystemAuthority
    access: Access
    key_sets: tuple[KeySet, ...]
    """Of the issuers of tokens."""
    bearer: Bearer
    authorities: Authorities
    authority_activation: AuthorityActivation
    authority_changes: AuthorityChanges
    certificates: Certificates
    certificate_searches: CertificateSearches
    revocation: Revocation
    managed_certificates: ManagedCertificates
    profiles: Profiles
    profile_checks: ProfileChecks
    tenants: Tenants
    grants: Grants
    identities: Identities
    identity_changes: IdentityChanges
    enrollment: Enrollment
    bootstrap: Bootstrap
    administrator_recovery: AdministratorRecovery
    server: Server
    server_certificate: ServerCertificate
    system_rotation: SystemRotation
    health: Health
    rates: Rates
    refusals: Refusals
    public_certificates: PublicCertificates

    def start(self) -> None:
        """Starts what works without being asked, after recovery of what the last run left half done."""
        if not self.token.wait_settled(_TOKEN_START_SECONDS):
            _log.error(
                "the token does not answer; certd serves what needs no key until it does: %s", self.token.problem
            )
        if not self.preparer.wait_settled(_PREPARE_START_SECONDS):
            _log.error("a prepare process does not start; what needs one is refused until it does")
        self.ownership.begin()
        self.recovery.run()
        self.loop.start()
        self.scheduler.start()
        for keys in self.key_sets:
            keys.start()

    def stop(self) -> None:
        """Ends what `start` started: first who gives work, then who does it, the books last."""
        for keys in self.key_sets:
            keys.stop()
        self.scheduler.stop()
        self.refusals.flush(whole_minutes=False)
        self.enrollment.tell_all()
        self.loop.stop()
        self.preparer.stop()
        self.token.stop()
        try:
            self.ownership.end()
        except CertdError as error:
            # The lease ends by itself.
            _log.warning("the epoch could not be given back: %s", error)
        self.store.close()


def assemble(config: Config, *, clock: Clock, step: StepHook) -> Core:
    """Opens the database and constructs everything that needs no listener. Raises STORE_UNAVAILABLE, FIELD_INVALID."""
    _use_known_keys(config)
    store = Store.open(config.database.url, clock=clock)
    token = _token_client(config)
    preparer = _preparer(config)
    base_url = config.web.base_url
    trust_domain = config.tls.trust_domain
    limits = request_limits(config)

    system_authority = SystemAuthority(store, clock)
    access = Access(store, clock, system_authority=system_authority, trust_domain=trust_domain)
    issuers = tuple(
        (provider, KeySet(provider.jwks_url, provider.ca_file, clock=clock)) for provider in oidc_providers(config)
    )
    tenants = Tenants(store=store, clock=clock, access=access)
    rates = Rates(
        calls_per_second=config.limits.calls_per_second,
        burst=config.limits.calls_burst,
        of_tenant=tenants.calls_per_second,
    )
    refusals = Refusals(store, clock)
    ownership = Ownership(store=store, clock=clock)
    recovery = Recovery(store=store, clock=clock, step=step)
    loop = IssuingLoop(
        store=store,
        token=token,
        clock=clock,
        epoch=ownership.epoch,
        step=step,
        queue_length=config.limits.signing_queue,
    )
    issuing = Issuing(preparer=preparer, loop=loop, step=step)
    signers = Signers(store, base_url=base_url, trust_domain=trust_domain)
    wrapping_keys = WrappingKeys(store=store, token=token, clock=clock)
    views = AuthorityViews(config.token.label)
    authorities = Authorities(
        store=store,
        token=token,
        clock=clock,
        access=access,
        loop=loop,
        epoch=ownership.epoch,
        views=views,
        base_url=base_url,
        step=step,
    )
    steps = ManagedCertificateSteps(
        store=store,
        token=token,
        clock=clock,
        loop=loop,
        signers=signers,
        issuing=issuing,
        wrapping_keys=wrapping_keys,
        step=step,
    )
    identities = Identities(store=store, clock=clock, loop=loop, system_authority=system_authority)
    enrollment = Enrollment(
        store=store,
        clock=clock,
        access=access,
        identities=identities,
        system_authority=system_authority,
        trust_domain=trust_domain,
    )
    system_rotation = SystemRotation(
        clock=clock, authorities=authorities, system_authority=system_authority, trust_domain=trust_domain
    )
    server_certificate = ServerCertificate(
        CredentialFiles(certificate=config.tls.certificate, private_key=config.tls.private_key),
        store=store,
        clock=clock,
        identities=identities,
        system_authority=system_authority,
    )
    scheduler = Scheduler(
        store=store,
        clock=clock,
        runs={
            JobKind.ADVANCE_AUTHORITY: authorities.resume,
            JobKind.ADVANCE_MANAGED_CERTIFICATE: steps.advance,
        },
        blocked={JobKind.ADVANCE_MANAGED_CERTIFICATE: steps.blocked},
        epoch=ownership.epoch,
        beats=(
            ownership.renew,
            recovery.run,
            RequestRecords(store=store, clock=clock).forget_old,
            refusals.flush,
            enrollment.tidy,
            system_rotation.look,
            server_certificate.look,
        ),
        step=step,
    )
    managed_certificates = ManagedCertificates(
        store=store,
        token=token,
        clock=clock,
        access=access,
        signers=signers,
        issuing=issuing,
        wake_scheduler=scheduler.wake,
        step=step,
    )
    return Core(
        config=config,
        clock=clock,
        store=store,
        token=token,
        preparer=preparer,
        ownership=ownership,
        recovery=recovery,
        loop=loop,
        scheduler=scheduler,
        system_authority=system_authority,
        access=access,
        key_sets=tuple(keys for _, keys in issuers),
        bearer=Bearer(issuers, clock=clock, trust_domain=trust_domain),
        authorities=authorities,
        authority_activation=AuthorityActivation(
            store=store, token=token, clock=clock, access=access, views=views, step=step
        ),
        authority_changes=AuthorityChanges(store=store, clock=clock, access=access, views=views),
        certificates=Certificates(
            store=store, clock=clock, access=access, signers=signers, issuing=issuing, limits=limits, step=step
        ),
        certificate_searches=CertificateSearches(store=store, access=access),
        revocation=Revocation(store=store, clock=clock, access=access, step=step),
        managed_certificates=managed_certificates,
        profiles=Profiles(store=store, clock=clock, access=access),
        profile_checks=ProfileChecks(store=store, clock=clock, access=access, signers=signers, limits=limits),
        tenants=tenants,
        grants=Grants(store=store, clock=clock, access=access, trust_domain=trust_domain),
        administrator_recovery=AdministratorRecovery(
            store=store, clock=clock, identities=identities, system_authority=system_authority, step=step
        ),
        identities=identities,
        enrollment=enrollment,
        identity_changes=IdentityChanges(
            store=store,
            clock=clock,
            access=access,
            identities=identities,
            system_authority=system_authority,
            trust_domain=trust_domain,
        ),
        bootstrap=Bootstrap(
            store=store,
            clock=clock,
            authorities=authorities,
            identities=identities,
            system_authority=system_authority,
            step=step,
        ),
        system_rotation=system_rotation,
        server=Server(
            store=store,
            token=token,
            preparer=preparer,
            access=access,
            system_authority=system_authority,
            trust_domain=trust_domain,
            start_time=clock.now(),
        ),
        server_certificate=server_certificate,
        health=Health(store=store, token=token, preparer=preparer),
        rates=rates,
        refusals=refusals,
        public_certificates=PublicCertificates(store),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Where the daemon serves, and its processes."""

    grpc: str
    http: str
    metrics: str
    enrollment: str
    daemon_pid: int
    token_pid: int | None
    bearer: str | None = None
    """The API for callers with tokens; None where nobody listens for them."""


class _HealthShown:
    """Shows the state of token and prepare processes as gRPC health; whoever comes last has looked last."""

    def __init__(self, health: Health, apis: tuple[GrpcServer, ...]) -> None:
        self._health = health
        self._apis = apis
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            works = self._health.processes_work
            for api in self._apis:
                api.set_serving(serving=works)


class Daemon:
    """`certd serve`: the core and its listeners."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._config = core.config
        self._stop_requested = threading.Event()
        self._grpc: GrpcServer | None = None
        self._bearer: GrpcServer | None = None
        self._enrollment: GrpcServer | None = None
        self._listeners: list[WebServer] = []

    def start(self) -> Ready:
        """Starts everything and returns when it serves.

        Raises STATE_FORBIDS before `certd init`, FIELD_INVALID for a listener that cannot be bound or credentials that
        cannot work. Call `stop` also then.
        """
        self._core.server_certificate.settle()
        credentials = self._credentials()
        self._core.start()
        ready = self._listen(credentials)
        self._core.server_certificate.begin(self.reload)
        return ready

    def take_process(self) -> None:
        """Suits the process to serving, once it serves; for a process that does nothing else."""
        if self._config.limits.one_processor:
            keep_on_one_processor()
        interrupt_nobody()
        allow_open_files(2 * self._config.limits.maximum_connections + _OTHER_FILES)
        spare_what_lives()

    def _listen(self, credentials: Credentials) -> Ready:
        core, listen = self._core, self._config.listen
        http = serve_http(
            application(chains=core.public_certificates, health=core.health),
            host=listen.http.host,
            port=listen.http.port,
        )
        self._listeners.append(http)
        metrics = serve_metrics(host=listen.metrics.host, port=listen.metrics.port)
        self._listeners.append(metrics)
        limits = self._config.limits
        serve_api = partial(
            serve,
            credentials=credentials,
            services=Services(
                access=core.access,
                authorities=core.authorities,
                authority_activation=core.authority_activation,
                authority_changes=core.authority_changes,
                certificates=core.certificates,
                certificate_searches=core.certificate_searches,
                revocation=core.revocation,
                managed_certificates=core.managed_certificates,
                profiles=core.profiles,
                profile_checks=core.profile_checks,
                tenants=core.tenants,
                grants=core.grants,
                identity_changes=core.identity_changes,
                enrollment=core.enrollment,
                server=core.server,
                rates=core.rates,
                refusals=core.refusals,
            ),
            limits=Limits(
                unary_workers=limits.concurrent_calls,
                waiting_calls=limits.maximum_waiting_calls,
                message_bytes=limits.maximum_message_bytes,
                connections=limits.maximum_connections,
                requests=request_limits(self._config),
            ),
        )
        self._grpc = grpc = serve_api(host=listen.grpc.host, port=listen.grpc.port)
        if listen.bearer is not None:
            self._bearer = serve_api(host=listen.bearer.host, port=listen.bearer.port, bearer=core.bearer)
        self._enrollment = serve_enrollment(
            host=listen.enrollment.host,
            port=listen.enrollment.port,
            credentials=credentials,
            enrollment=core.enrollment,
            access=core.access,
            rates=core.rates,
            refusals=core.refusals,
        )
        show = _HealthShown(core.health, self._apis())
        core.token.on_change(lambda _ready, _problem: show())
        core.preparer.on_change(lambda _ready, _problem: show())
        show()
        return Ready(
            grpc=_address(listen.grpc.host, grpc.port),
            http=_address(listen.http.host, http.port),
            metrics=_address(listen.metrics.host, metrics.port),
            enrollment=_address(listen.enrollment.host, self._enrollment.port),
            daemon_pid=os.getpid(),
            token_pid=core.token.process_id,
            bearer=(
                None
                if listen.bearer is None or self._bearer is None
                else _address(listen.bearer.host, self._bearer.port)
            ),
        )

    def wait(self) -> None:
        """Returns when a stop was requested."""
        self._stop_requested.wait()

    def request_stop(self) -> None:
        """Asks for a stop; may be called by a signal handler."""
        self._stop_requested.set()

    def reload(self) -> None:
        """Takes the server certificate from its files again; raises FIELD_INVALID and keeps the old one."""
        for api in self._apis():
            api.reload(self._credentials())

    def stop(self) -> None:
        """Drains: health NOT_SERVING, calls that run may end, then the core."""
        for api in self._apis():
            api.stop(_GRACE_SECONDS)
        for listener in self._listeners:
            listener.stop()
        self._core.stop()

    def _apis(self) -> tuple[GrpcServer, ...]:
        return tuple(api for api in (self._grpc, self._bearer, self._enrollment) if api is not None)

    def _credentials(self) -> Credentials:
        tls = self._config.tls
        roots = self._core.system_authority.roots()
        return Credentials(
            certificate_chain=_content("tls.certificate", tls.certificate),
            private_key=_content("tls.private_key", tls.private_key),
            client_roots="".join(certificate_pem(root) for root in roots).encode(),
        )


def build(config: Config, *, clock: Clock | None = None, step: StepHook = no_step) -> Daemon:
    """Constructs the daemon. Raises STORE_UNAVAILABLE when the database cannot be had."""
    return Daemon(assemble(config, clock=clock or SystemClock(), step=step))


def _content(field: str, path: Path) -> bytes:
    """Returns what is in a file; raises FIELD_INVALID when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise field_invalid(
            field, f"{path} cannot be read ({error.strerror}): put it there, readable by the daemon's user"
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _token_client(config: Config) -> TokenClient:
    if config.token.socket is not None:
        return connect(config.token.socket)
    return start_child(token_settings(config))


def _use_known_keys(config: Config) -> None:
    """Reads the list while nothing is open yet. FIELD_INVALID when it is none."""
    known_weak_keys = config.prepare.known_weak_keys
    if known_weak_keys is not None:
        # The daemon looks too: at what it prepares itself, and at the CSRs that profiles are tried with.
        use_known_keys(known_keys_of(known_weak_keys))


def _preparer(config: Config) -> Preparer:
    processes = config.prepare.processes
    known_weak_keys = config.prepare.known_weak_keys
    arguments = [f"--log-level={config.log.level}", f"--log-format={config.log.format}"]
    if known_weak_keys is not None:
        arguments.append(f"--known-weak-keys={known_weak_keys}")
    preparer = Preparer(default_workers() if processes is None else processes, arguments)
    preparer.start()
    return preparer
