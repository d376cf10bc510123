"""Short ways to let managed certificates be renewed, and to look at what came of it."""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from sqlalchemy import func, select, update

from certd.model.event import Event, EventType
from certd.model.managed_certificate import RENEWAL_BLOCKED, Condition, ManagedCertificate, ManagedCertificateState
from certd.model.names import ManagedCertificateName
from certd.model.renewal import RenewalMode, RenewalPolicy
from certd.pki.sealing import hpke_decrypt
from certd.services.managed_certificate_changes import RENEWAL_FIELDS, ManagedCertificateChange
from certd.services.managed_export import RecipientExport
from certd.store import jobs, schema
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import WEB
from tests.services.managed_books import get, stands
from tests.waiting import eventually

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NEVER, WHEN_USED = RenewalPolicy(mode=RenewalMode.NEVER), RenewalPolicy(mode=RenewalMode.WHEN_USED)
RENEWED, BLOCKED = EventType.MANAGED_CERTIFICATE_RENEWED, EventType.MANAGED_CERTIFICATE_RENEWAL_BLOCKED
LONGEST_RETRY = 10 * MINUTE
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
_jobs = schema.jobs


def settle(world: World) -> None:
    """Lets the scheduler do all that is due at the moment, and no more."""
    # It wakes by itself only after seconds, and what is done may make more due.
    world.core.scheduler.wake()
    eventually(lambda: _rests(world))


def _rests(world: World) -> bool:
    now = world.clock.now()
    with world.core.store.read("test.rests") as tx:
        claimed = tx.execute(select(func.count()).select_from(_jobs).where(_jobs.c.owner_epoch.is_not(None))).scalar()
        due = jobs.next_due(tx)
    if claimed == 0 and (due is None or due > now):
        return True
    world.core.scheduler.wake()
    return False


def at(world: World, time: datetime) -> ManagedCertificate:
    """Goes to a moment, lets everything be done that is due then, and returns how the certificate stands."""
    world.clock.advance(time - world.clock.now())
    settle(world)
    return stands(world)


def planned(world: World, name: ManagedCertificateName = WEB) -> datetime:
    """When the next step is."""
    time = stands(world, name).next_attempt_time
    assert time is not None
    return time


def at_planned(world: World) -> ManagedCertificate:
    """Goes to the moment of the next step."""
    return at(world, planned(world))


def attempts(world: World, count: int) -> ManagedCertificate:
    """Lets so many attempts pass."""
    managed = stands(world)
    for _ in range(count):
        managed = at_planned(world)
    return managed


def blocked(managed: ManagedCertificate) -> Condition | None:
    """What is said of its being blocked."""
    found = [condition for condition in managed.conditions if condition.type == RENEWAL_BLOCKED]
    return found[0] if found else None


def events(world: World, *types: EventType) -> list[Event]:
    return [event for event in world.events() if event.type in types]


def due_times(world: World, uid: str) -> list[datetime]:
    """Of the jobs of a managed certificate."""
    with world.core.store.read("test.jobs") as tx:
        rows = tx.execute(select(_jobs.c.available_time).where(_jobs.c.subject == uid)).scalars().all()
    epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return [epoch + timedelta(microseconds=row) for row in rows]


def change_policy(world: World, policy: RenewalPolicy, name: ManagedCertificateName = WEB) -> None:
    change = ManagedCertificateChange(name=name, fields=RENEWAL_FIELDS, renewal=policy)
    world.core.managed_certificate_changes.update(ADMINISTRATOR, change, key=None, validate_only=False)


def export(world: World, version: int | None = None, name: ManagedCertificateName = WEB) -> x509.Certificate:
    """Exports a version, opens its key, and returns its certificate when both belong together."""
    recipient = X25519PrivateKey.generate()
    exported = world.core.managed_export.export(
        ADMINISTRATOR,
        name,
        version=version,
        protection=RecipientExport(recipient.public_key().public_bytes_raw()),
        reason="",
    )
    opened = hpke_decrypt(exported.encrypted_key, private_key=recipient, info=exported.hpke_info)
    leaf = x509.load_der_x509_certificate(exported.certificate)
    assert load_der_private_key(opened, None).public_key().public_bytes(*_SPKI) == leaf.public_key().public_bytes(
        *_SPKI
    )
    return leaf


def end_authority(world: World, not_after: datetime, authority_id: str = "ca") -> None:
    """Writes another end of an authority into the books, as if its certificate had been issued again."""
    authorities = schema.authorities
    epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    statement = (
        update(authorities)
        .where(authorities.c.authority_id == authority_id)
        .values(not_after=(not_after - epoch) // timedelta(microseconds=1))
    )

    def work(tx: Any) -> None:
        tx.execute(statement)
        tx.configuration_changed()

    world.core.store.write("test.end", work)


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Makes calls at the same moment, each in a thread; raises what one raises."""
    barrier, failures = threading.Barrier(len(calls)), list[BaseException]()

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # Raised below.
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def request(world: World, **changes: Any) -> None:
    """Requests one and waits until it is issued."""
    world.request(**changes)
    settle(world)
    assert get(world).state is ManagedCertificateState.ACTIVE


def goes_on(world: World) -> None:
    """It recovers by itself, within ten minutes."""
    start = world.clock.now()
    before = stands(world).current_version
    managed = at_planned(world)
    assert world.clock.now() - start <= LONGEST_RETRY
    assert (managed.current_version, managed.state) == (before + 1, ManagedCertificateState.ACTIVE)
    condition = blocked(managed)
    assert condition is not None
    assert (condition.status, condition.reason) == (False, "Renewed")
    assert condition.last_transition_time == world.clock.now()
    assert not managed.renewal_blocked
    export(world)
