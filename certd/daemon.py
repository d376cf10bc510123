"""`certd serve`: the core of `main` and its listeners, how they start, drain and stop."""

import logging
import os
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from ssl import SSLContext

from certd.api.credentials import Credentials
from certd.api.enrollment_server import serve_enrollment
from certd.api.server import GrpcServer, Limits, Services, serve
from certd.clock import Clock, SystemClock
from certd.config import Config, request_limits
from certd.core import Core
from certd.errors import field_invalid
from certd.ipc.garbage import spare_what_lives
from certd.ipc.open_files import allow_open_files
from certd.ipc.processor import interrupt_nobody, keep_on_one_processor
from certd.main import assemble
from certd.pki.encoding import certificate_pem
from certd.services.server import Health
from certd.services.steps import StepHook, no_step
from certd.web.app import application
from certd.web.device_server import DeviceServer, serve_devices, tls_context
from certd.web.devices import device_application
from certd.web.ocsp_shortcut import shortcut
from certd.web.server import WebServer, serve_metrics
from certd.web.server import serve as serve_http

_log = logging.getLogger("certd.daemon")

_GRACE_SECONDS = 10.0
_OTHER_FILES = 2048
"""Open beside the connections to the ports of the API."""


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
    devices: str | None = None
    """Downloads by devices; None where nobody listens for them."""


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
        self._devices: DeviceServer | None = None
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
        self._core.pinned_roots.begin()
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
            application(
                chains=core.public_certificates,
                lists=core.publication.published_lists,
                answers=core.publication.answering.answers,
                health=core.health,
                clock=core.clock,
            ),
            host=listen.http.host,
            port=listen.http.port,
            shortcut=shortcut(core.publication.answering.answers.memory, core.clock),
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
                authority_reissue=core.authority_life.reissue,
                authority_deletion=core.authority_life.deletion,
                authority_keys=core.rotation.keys,
                authority_key_changes=core.rotation.changes,
                cross_certifier=core.rotation.certifier,
                adoption=core.rotation.adoption,
                issued_import=core.rotation.issued_import,
                revocation_lists=core.publication.lists,
                certificates=core.certificates,
                certificate_searches=core.certificate_searches,
                revocation=core.revocation,
                batch_revocation=core.batch_revocation,
                revocation_campaigns=core.revocation_campaigns,
                managed_certificates=core.managed_certificates,
                managed_export=core.managed_export,
                download_codes=core.download_codes,
                managed_import=core.managed_import,
                managed_certificate_changes=core.managed_certificate_changes,
                managed_revocation=core.managed_revocation,
                managed_certificate_searches=core.managed_certificate_searches,
                associations=core.associations,
                leases=core.leases,
                renewal_campaigns=core.renewal_campaigns,
                wrapping_key_rotation=core.wrapping_key_rotation,
                profiles=core.profiles,
                profile_checks=core.profile_checks,
                tenants=core.tenants,
                grants=core.grants,
                identity_changes=core.identity_changes,
                enrollment=core.enrollment,
                event_streams=core.event_streams,
                checkpoints=core.auditing.checkpoints,
                audit_reports=core.auditing.audit_reports,
                subscriptions=core.delivering.subscriptions,
                failed_deliveries=core.delivering.failed_deliveries,
                managed_watch=core.managed_watch,
                server=core.server,
                rates=core.rates,
                refusals=core.refusals,
            ),
            limits=Limits(
                unary_workers=limits.concurrent_calls,
                waiting_calls=limits.maximum_waiting_calls,
                streams=limits.maximum_watchers,
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
        if listen.devices is not None:
            self._devices = serve_devices(
                device_application(core.downloads),
                host=listen.devices.host,
                port=listen.devices.port,
                context=self._device_context(credentials),
            )
            self._listeners.append(self._devices.listener)
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
            devices=(
                None
                if listen.devices is None or self._devices is None
                else _address(listen.devices.host, self._devices.listener.port)
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
        credentials = self._credentials()
        for api in self._apis():
            api.reload(credentials)
        if self._devices is not None:
            self._devices.reload(self._device_context(credentials))

    def stop(self) -> None:
        """Drains: health NOT_SERVING, calls that run may end, then the core."""
        # Streams would run for ever: they are told, and end by themselves.
        self._core.event_feed.close()
        for api in self._apis():
            api.stop(_GRACE_SECONDS)
        for listener in self._listeners:
            listener.stop()
        self._core.stop()

    def _apis(self) -> tuple[GrpcServer, ...]:
        return tuple(api for api in (self._grpc, self._bearer, self._enrollment) if api is not None)

    def _device_context(self, credentials: Credentials) -> SSLContext:
        tls = self._config.tls
        return tls_context(tls.certificate, tls.private_key, client_roots=credentials.client_roots)

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
