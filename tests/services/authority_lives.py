"""What becomes of authorities, and short ways to do it."""

from datetime import timedelta
from typing import Any

from cryptography import x509

from certd.model.access import Caller
from certd.model.authority import Authority
from certd.model.job import Job, JobKind
from certd.model.names import AuthorityName, CertificateName, purged_id, serial_text
from certd.services.authority_changes import Change
from certd.services.authority_deletion import Deletion
from certd.services.authority_reissue import Reissue
from certd.services.authority_views import AuthorityView
from certd.services.idempotency import RequestKey
from certd.services.revocation import NewRevocation
from certd.store import authorities, jobs
from tests.services.conftest import ADMINISTRATOR, World
from tests.waiting import eventually

ROOT = AuthorityName("default", "root")
CA = AuthorityName("default", "ca")
WINDOW = timedelta(days=30)


def change_of(
    name: AuthorityName, *, etag: str = "", key: RequestKey | None = None, validate_only: bool = False
) -> Change:
    return Change(name=name, etag=etag, key=key, validate_only=validate_only)


def disable(world: World, name: AuthorityName = CA) -> AuthorityView:
    return world.core.authority_changes.disable(ADMINISTRATOR, Change(name=name))


def enable(world: World, name: AuthorityName = CA) -> AuthorityView:
    return world.core.authority_changes.enable(ADMINISTRATOR, Change(name=name))


def delete(
    world: World,
    name: AuthorityName = CA,
    *,
    live: bool = False,
    window: timedelta = WINDOW,
    caller: Caller = ADMINISTRATOR,
    **change: Any,
) -> AuthorityView:
    deletion = Deletion(window=window, allow_live_certificates=live)
    return world.core.authority_life.deletion.delete(caller, change_of(name, **change), deletion)


def undelete(world: World, name: AuthorityName = CA, *, caller: Caller = ADMINISTRATOR, **change: Any) -> AuthorityView:
    return world.core.authority_life.deletion.undelete(caller, change_of(name, **change))


def reissue(
    world: World,
    name: AuthorityName = CA,
    *,
    lifetime: timedelta | None = None,
    broken: bool = False,
    caller: Caller = ADMINISTRATOR,
    **change: Any,
) -> AuthorityView:
    wanted = Reissue(lifetime=lifetime, allow_broken_certificates=broken)
    return world.core.authority_life.reissue.reissue(caller, change_of(name, **change), wanted)


def get(world: World, name: AuthorityName = CA) -> AuthorityView:
    return world.core.authorities.get(ADMINISTRATOR, name)


def in_books(world: World, uid: str) -> Authority:
    with world.core.store.read("test.authority") as tx:
        found = authorities.get_by_uid(tx, uid)
    assert found is not None
    return found


def purge_job(world: World, uid: str) -> Job | None:
    """Returns when the job that purges an authority is due, as a job; None when there is none."""
    with world.core.store.read("test.jobs") as tx:
        due_time = jobs.due_time(tx, JobKind.PURGE_AUTHORITY, uid)
    return None if due_time is None else Job(kind=JobKind.PURGE_AUTHORITY, subject=uid, due_time=due_time)


def purged(world: World, uid: str) -> AuthorityView:
    """Waits until an authority whose window has passed is purged, by whoever does so, and returns it."""
    world.core.scheduler.wake()
    eventually(lambda: in_books(world, uid).authority_id == purged_id(uid), within=60)
    return get(world, AuthorityName("default", purged_id(uid)))


def revoke_authority(world: World, name: AuthorityName, issuer: AuthorityName) -> None:
    """Revokes the certificate of an authority."""
    certificate = x509.load_der_x509_certificate(get(world, name).authority.certificate or b"")
    serial = serial_text(certificate.serial_number)
    new = NewRevocation(name=CertificateName(issuer.tenant, issuer.authority, serial))
    world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
