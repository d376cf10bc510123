"""A core on a real store and a real token, with a fake clock and a step hook to stop the world by."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd import main
from certd.config import Audit, Config, Database, Listen, Prepare, Tls, Token, Web
from certd.core import Core
from certd.model.access import Caller
from certd.model.authority import AuthorityType
from certd.model.event import Event, EventType
from certd.model.names import AuthorityName, ManagedCertificateName
from certd.pki import distinguished_name
from certd.pki.credential_request import new_credential_request
from certd.pki.names import SubjectAlternativeNames
from certd.services.authority_plan import NewAuthority
from certd.services.authority_views import AuthorityView
from certd.services.certificates import CertificateView, NewCertificate
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.ocsp_jobs import RESPONDER_PROFILE
from certd.store import events
from certd.token.settings import TokenSettings
from tests.coverage import uncovered_children
from tests.databases import migrated
from tests.fakes import FakeClock
from tests.forked_token import forked_token_processes
from tests.softhsm import make_token

TRUST_DOMAIN = "test.internal"
ADMINISTRATOR = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/admin", serial="01")
STRANGER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/stranger", serial="02")


_OF_TIME = frozenset(
    {
        EventType.MANAGED_CERTIFICATE_EXPIRING,
        EventType.MANAGED_CERTIFICATE_EXPIRED,
        EventType.AUTHORITY_EXPIRING,
        EventType.AUTHORITY_EXPIRED,
        EventType.DEPLOYMENT_LATE,
        # Seconds after whatever changes what they say.
        EventType.REVOCATION_LIST_GENERATED,
        EventType.REVOCATION_LIST_FAILED,
        EventType.OCSP_RESPONDER_ROTATED,
        EventType.CHECKPOINT_SIGNED,
    }
)
_STEPS_OF_TIME = ("revocation-list.", "job.generate-revocation-list.", "checkpoint.", "job.sign-checkpoint.")


class CrashError(Exception):
    """Stands for the death of the process."""


def crash() -> None:
    """To be done at a step: the use case ends there, and nothing after it happens."""
    raise CrashError


@dataclass
class Steps:
    """A step hook: remembers the steps and does at one of them what a test says."""

    seen: list[str] = field(default_factory=list)
    at: dict[str, Callable[[], object]] = field(default_factory=dict)

    def __call__(self, name: str) -> None:
        if not name.startswith(_STEPS_OF_TIME):
            self.seen.append(name)
        action = self.at.pop(name, None)
        if action is not None:
            action()


@dataclass(kw_only=True)
class World:
    """The server without listeners, and short ways to use it."""

    core: Core
    clock: FakeClock
    steps: Steps

    def create_root(self, authority_id: str = "root", **changes: Any) -> AuthorityView:
        wanted: dict[str, Any] = {
            "name": AuthorityName("default", authority_id),
            "type": AuthorityType.ROOT,
            "subject": distinguished_name.parse_text(f"CN=Test {authority_id},O=Example"),
        }
        new = NewAuthority(**(wanted | changes))
        return self.core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False)

    def create_subordinate(self, authority_id: str = "ca", issuer: str = "root", **changes: Any) -> AuthorityView:
        return self.create_root(
            authority_id, type=AuthorityType.SUBORDINATE, issuer=AuthorityName("default", issuer), **changes
        )

    def issue(
        self,
        *dns_names: str,
        authority: str = "ca",
        csr: bytes | None = None,
        key: RequestKey | None = None,
        lifetime: timedelta | None = None,
    ) -> CertificateView:
        new = NewCertificate(
            authority=AuthorityName("default", authority), csr=csr or csr_for(*dns_names), lifetime=lifetime
        )
        return self.core.certificates.issue(ADMINISTRATOR, new, key=key, validate_only=False, timeout=30)

    def request(self, managed_id: str = "web", **changes: Any) -> ManagedCertificateView:
        wanted: dict[str, Any] = {
            "name": ManagedCertificateName("default", managed_id),
            "authority": AuthorityName("default", "ca"),
            "subject": distinguished_name.EMPTY,
            "names": SubjectAlternativeNames(dns_names=("www.example.internal",)),
        }
        new = NewManagedCertificate(**(wanted | changes))
        return self.core.managed_certificates.request(ADMINISTRATOR, new, key=None, validate_only=False)

    def events(self) -> list[Event]:
        """All but those that come by themselves: see `notice_books` and `revocation_books`."""
        with self.core.store.read("test.events") as tx:
            rows = events.page(tx, after_seq=0, limit=10_000)
        return [row.event for row in rows if row.event.type not in _OF_TIME and not _is_of_responder(row.event)]


def _is_of_responder(event: Event) -> bool:
    """Whether it tells of the certificate of an OCSP responder, which begins a minute after its authority."""
    return event.type is EventType.CERTIFICATE_ISSUED and event.details["profile"] == RESPONDER_PROFILE


def csr_for(*dns_names: str, subject: str | None = None) -> bytes:
    """Returns a CSR of a new P-256 key, as openssl would make it."""
    name = x509.Name([] if subject is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture
def token_settings(tmp_path: Path) -> TokenSettings:
    """A token of its own for each test: SoftHSM looks at every object of a token when it opens it."""
    return make_token(tmp_path)


def configuration(folder: Path, token: TokenSettings, *, database_url: str = "") -> Config:
    """Returns the configuration of a server whose files are all in `folder`, on free ports, on SQLite unless told."""
    return Config(
        listen=Listen(**dict.fromkeys(("grpc", "enrollment", "http", "metrics"), "127.0.0.1:0")),  # type: ignore[arg-type]  # Parsed.
        database=Database(url=database_url or f"sqlite:///{folder}/certd.db"),
        token=Token(
            module=str(token.module),  # type: ignore[arg-type]  # Parsed.
            label=token.label,
            pin_file=str(token.pin_file),  # type: ignore[arg-type]  # Parsed.
            softhsm_conf=str(token.softhsm_conf),  # type: ignore[arg-type]  # Parsed.
            exports_per_minute=token.exports_per_minute,
            leases_per_minute=token.leases_per_minute,
        ),
        prepare=Prepare(processes=0),
        tls=Tls(
            certificate=str(folder / "server.pem"),  # type: ignore[arg-type]  # Parsed.
            private_key=str(folder / "server.key"),  # type: ignore[arg-type]  # Parsed.
            trust_domain=TRUST_DOMAIN,
        ),
        web=Web(base_url="http://pki.example.internal"),
        # Hours pass in most tests, and what the scheduler signs then is not what they count.
        audit=Audit(checkpoint_interval=86_400),
    )


@contextmanager
def two_worlds(folder: Path, token: TokenSettings, postgres_url: str) -> Iterator[tuple[World, World]]:
    """Two daemons on one PostgreSQL, each with a token process of its own on the same token."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    config, clock = configuration(folder, token, database_url=url), FakeClock()
    with running_world(config, clock) as first, running_world(config, clock) as second:
        yield first, second


@contextmanager
def running_world(config: Config, clock: FakeClock) -> Iterator[World]:
    """Runs a core on the database of `config`; several may share one PostgreSQL."""
    migrated(config.database.url)
    with _running(config, clock) as world:
        _bootstrap(world)
        yield world


@contextmanager
def new_world(
    folder: Path, token: TokenSettings, *, authorities: bool = False, of_today: bool = False
) -> Iterator[World]:
    """Runs a core on SQLite, as `running_world` does with a new token.

    What is the same for every one is made once for many tests and copied: tables, a system authority, and the
    authorities `root` and `ca` if they are wanted. The clock stands where all begin, or at the real time.
    """
    _copy_beginning(_beginning(authorities=authorities, of_today=of_today), folder, token)
    with _running(configuration(folder, token), FakeClock(datetime.now(UTC)) if of_today else FakeClock()) as world:
        yield world


@contextmanager
def _running(config: Config, clock: FakeClock) -> Iterator[World]:
    steps = Steps()
    # The token process begins to be started when the core is put together.
    with uncovered_children(), forked_token_processes():
        core = main.assemble(config, clock=clock, step=steps)
        core.start()
    try:
        yield World(core=core, clock=clock, steps=steps)
    finally:
        core.stop()


def _bootstrap(world: World) -> None:
    world.core.bootstrap.run(
        trust_domain=TRUST_DOMAIN,
        server_names=SubjectAlternativeNames(dns_names=("localhost",)),
        server_csr=new_credential_request().csr,
        administrator_id="admin",
        administrator_csr=new_credential_request().csr,
    )
    world.steps.seen.clear()


@functools.cache
def _beginning(*, authorities: bool, of_today: bool) -> Path:
    """Returns a folder with the token and the database of a server that was made and stopped."""
    folder = Path(tempfile.mkdtemp(prefix="certd-beginning-"))
    atexit.register(shutil.rmtree, folder)
    clock = FakeClock(datetime.now(UTC)) if of_today else FakeClock()
    with running_world(configuration(folder, make_token(folder)), clock) as world:
        if authorities:
            world.create_root()
            world.create_subordinate()
    return folder


def _copy_beginning(beginning: Path, folder: Path, token: TokenSettings) -> None:
    # A stopped server leaves its database in one file.
    shutil.copy(beginning / "certd.db", folder / "certd.db")
    tokens = token.pin_file.parent / "tokens"
    shutil.rmtree(tokens)
    shutil.copytree(beginning / "token" / "tokens", tokens)


@pytest.fixture
def world(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    with new_world(tmp_path, token_settings) as running:
        yield running


@pytest.fixture
def ca(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world with the authority `ca` below `root`."""
    with new_world(tmp_path, token_settings, authorities=True) as running:
        yield running
