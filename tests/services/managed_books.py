"""What the tests of managed certificates read out of the books, and how they let time pass."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update

from certd.model.certificate import CertificateState
from certd.model.event import Event, EventType
from certd.model.managed_certificate import ManagedCertificate
from certd.model.names import ManagedCertificateName
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_changes import VersionView
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.paging import PageRequest
from certd.store import managed_schema, schema
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import WEB
from tests.waiting import eventually

_managed = managed_schema.managed_certificates


def new_key(content: bytes = b"a") -> RequestKey:
    return RequestKey(str(uuid.uuid4()), content)


def get(world: World, name: ManagedCertificateName = WEB) -> ManagedCertificateView:
    return world.core.managed_certificates.get(ADMINISTRATOR, name)


def stands(world: World, name: ManagedCertificateName = WEB) -> ManagedCertificate:
    return get(world, name).managed_certificate


def renew(world: World, name: ManagedCertificateName = WEB, **options: Any) -> ManagedCertificateView:
    wanted: dict[str, Any] = {"reason": "", "key": None, "caller": ADMINISTRATOR} | options
    caller = wanted.pop("caller")
    return world.core.managed_certificate_changes.renew(caller, name, **wanted)


def at_version(world: World, number: int, name: ManagedCertificateName = WEB) -> ManagedCertificateView:
    """Waits until a version is the current one."""

    def look() -> ManagedCertificateView | None:
        world.core.scheduler.wake()
        view = get(world, name)
        return view if view.managed_certificate.current_version >= number else None

    view = eventually(look)
    assert view.managed_certificate.current_version == number
    return view


def renewed(world: World, name: ManagedCertificateName = WEB) -> ManagedCertificateView:
    """Has a version made and waits for it."""
    before = renew(world, name).managed_certificate.current_version
    return at_version(world, before + 1, name)


def as_time_goes_by(
    world: World, condition: Callable[[], Any], *, step: timedelta = timedelta(seconds=30), within: float = 20.0
) -> Any:
    """Lets time pass until something is so."""

    def look() -> Any:
        world.clock.advance(step)
        world.core.scheduler.wake()
        return condition()

    return eventually(look, within=within)


def versions(world: World, name: ManagedCertificateName = WEB) -> list[VersionView]:
    page = world.core.managed_certificate_changes.versions(ADMINISTRATOR, name, PageRequest(100, ""))
    return list(page.items)


def events_of(world: World, *types: EventType) -> list[Event]:
    return [event for event in world.events() if event.type in types]


def count(world: World, table: Any) -> int:
    with world.core.store.read("test.count") as tx:
        return int(tx.execute(select(func.count()).select_from(table)).scalar() or 0)


def jobs_of(world: World, uid: str) -> int:
    with world.core.store.read("test.jobs") as tx:
        jobs = schema.jobs
        return len(tx.execute(select(jobs.c.kind).where(jobs.c.subject == uid)).all())


def states_of_certificates(world: World, uid: str) -> list[CertificateState]:
    """The states of all certificates that were made for a managed certificate, by version."""
    certificates = schema.certificates
    rows = (
        select(certificates.c.state)
        .where(certificates.c.managed_certificate_uid == uid)
        .order_by(certificates.c.managed_certificate_version, certificates.c.create_time)
    )
    with world.core.store.read("test.certificates") as tx:
        return [CertificateState(row.state) for row in tx.execute(rows)]


def rewrite(world: World, uid: str, **columns: Any) -> None:
    """Changes columns of a managed certificate behind everybody's back."""
    statement = update(_managed).where(_managed.c.uid == uid).values(**columns)
    world.core.store.write("test.rewrite", lambda tx: tx.execute(statement))
