"""What is done on the machine itself, without listeners: the first start, and a way back in for an administrator."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from certd.clock import Clock, SystemClock
from certd.config import Config, Prepare
from certd.core import Core
from certd.errors import CertdError
from certd.main import assemble
from certd.pki.encoding import certificate_pem
from certd.pki.names import SubjectAlternativeNames, normalise
from certd.services.steps import StepHook, no_step
from certd.store.migration import migrate


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialised:
    """What `certd init` hands to its administrator."""

    server_certificate: bytes
    """PEM."""
    administrator_certificate: bytes
    """PEM."""
    system_root: bytes
    """PEM."""
    created: bool
    """False when it was there already."""
    pinned: bool | None
    """Whether the token process's file of roots is new; None when the token process belongs to another user."""


def initialise(
    config: Config,
    *,
    server_csr: bytes,
    administrator_csr: bytes,
    server_names: tuple[str, ...],
    any_server_names: bool = True,
    administrator_id: str = "admin",
    clock: Clock | None = None,
    step: StepHook = no_step,
) -> Initialised:
    """Makes or completes database, system authority, server certificate and first administrator; idempotent.

    The private keys belong to whoever made the two CSRs (DER), and stay there. A server certificate with other names is
    kept, unless `any_server_names` is false. Raises STATE_FORBIDS when the token lacks the key of the system authority,
    and what the token and the store raise when they cannot be had.
    """
    migrate(config.database.url)
    with _running(config, clock, step) as core:
        core.system_rotation.require_key()
        made = core.bootstrap.run(
            trust_domain=config.tls.trust_domain,
            server_names=parse_server_names(server_names),
            server_csr=server_csr,
            administrator_id=administrator_id,
            administrator_csr=administrator_csr,
            any_server_names=any_server_names,
        )
        pinned = core.pinned_roots.pin()
    return Initialised(
        server_certificate=certificate_pem(made.server_certificate).encode(),
        administrator_certificate=certificate_pem(made.administrator_certificate).encode(),
        system_root="".join(certificate_pem(root) for root in made.system_roots).encode(),
        created=made.created,
        pinned=pinned,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredAdministrator:
    """What `certd recover-admin` hands to its administrator."""

    certificate: bytes
    """PEM."""
    system_root: bytes
    """PEM."""
    spiffe_id: str


def recover_administrator(
    config: Config,
    *,
    administrator_id: str,
    administrator_csr: bytes,
    clock: Clock | None = None,
    step: StepHook = no_step,
) -> RecoveredAdministrator:
    """Makes the identity an administrator of everything, with a certificate for the key of the CSR (DER).

    Runs beside no daemon on SQLite. Raises STATE_FORBIDS before `certd init` and when the token lacks the key of the
    system authority, FIELD_INVALID for an id that is none, and what the token and the store raise when they cannot be
    had.
    """
    with _running(config, clock, step) as core:
        core.system_rotation.require_key()
        recovered = core.administrator_recovery.run(
            trust_domain=config.tls.trust_domain,
            administrator_id=administrator_id,
            administrator_csr=administrator_csr,
        )
    return RecoveredAdministrator(
        certificate=certificate_pem(recovered.certificate).encode(),
        system_root="".join(certificate_pem(root) for root in recovered.system_roots).encode(),
        spiffe_id=recovered.spiffe_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedSystemAuthority:
    """What `certd rotate-system-authority` tells."""

    system_root: bytes
    """PEM of the new root."""
    issues_from: datetime
    pinned: bool
    """False when the token process has yet to trust the root, because its file is not for this program to write."""
    server_shown_until: datetime | None
    """Until when the server shows the certificate that it has; None for one that is not of a system authority."""


def rotate_system_authority(
    config: Config, *, key_lost: bool = False, clock: Clock | None = None, step: StepHook = no_step
) -> RotatedSystemAuthority:
    """Makes the next system authority, which is trusted at once and issues a month later.

    With `key_lost` it issues at once, in place of the one whose key the token lacks, which is given up for ever.
    Runs beside no daemon on SQLite. Raises STATE_FORBIDS before `certd init`, while a rotation is under way, and when
    the key is lacking without `key_lost` or there with it; and what the token and the store raise when they cannot be
    had.
    """
    with _running(config, clock, step) as core:
        if key_lost:
            rotated = core.system_rotation.replace_lost()
        else:
            core.system_rotation.require_key()
            rotated = core.system_rotation.rotate()
        shown_until = core.server_certificate.shown_until()
        try:
            pinned = core.pinned_roots.pin() is not None
        except CertdError:
            # What was made is made; the daemon tries this again, and says why not.
            pinned = False
    return RotatedSystemAuthority(
        system_root=certificate_pem(rotated.certificate).encode(),
        issues_from=rotated.issues_from,
        pinned=pinned,
        server_shown_until=shown_until,
    )


@contextmanager
def _running(config: Config, clock: Clock | None, step: StepHook) -> Iterator[Core]:
    """Runs the core for one command, which does what it is for and none of the jobs of the daemon."""
    # Nothing here comes from strangers, and two certificates need no process of their own.
    config = config.model_copy(update={"prepare": Prepare(processes=0)})
    core = assemble(config, clock=clock or SystemClock(), step=step)
    try:
        core.begin()
        yield core
    finally:
        core.stop()


def parse_server_names(names: tuple[str, ...]) -> SubjectAlternativeNames:
    """Tells addresses from DNS names. Raises NAME_NOT_ALLOWED with every name that is neither."""
    addresses = tuple(name for name in names if ":" in name or name.replace(".", "").isdigit())
    dns_names = tuple(name for name in names if name not in addresses)
    return normalise(SubjectAlternativeNames(dns_names=dns_names, ip_addresses=addresses), field="server_names")
