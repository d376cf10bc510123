"""What CRLs say, for tests: the one that is published, and how to have the next one."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from certd.model.certificate import RevocationReason
from certd.model.event import Event, EventType
from certd.model.job import JobKind
from certd.model.names import AuthorityName, CertificateName
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.model.revocation_settings import CrlSettings, RevocationSettings, SettingsChange
from certd.services.authorities import existing_authority
from certd.services.certificates import CertificateView
from certd.services.revocation import NewRevocation
from certd.services.revocation_lists import WantedList
from certd.store import events, jobs, revocation_lists
from certd.store.values import microseconds
from tests.services.conftest import ADMINISTRATOR, World
from tests.waiting import eventually

CA = AuthorityName("default", "ca")
_UNSETTLED = text("""
    SELECT (SELECT count(*) FROM revocation_lists WHERE number = 0 OR changed_time IS NOT NULL)
         + (SELECT count(*) FROM jobs WHERE kind = 'generate-revocation-list' AND due_time <= :soon)
""")
_WAITS = text(
    """
    SELECT min(due_time) FROM jobs
    WHERE kind = 'generate-revocation-list' AND due_time <= :soon AND owner_epoch IS NULL
    """
)


class Entry(NamedTuple):
    """An entry of a CRL."""

    revoke_time: datetime
    reason: str | None
    invalidity_time: datetime | None


def key_of(world: World, partition: int = 0, authority: AuthorityName = CA) -> RevocationListKey:
    with world.core.store.read("test") as tx:
        found = existing_authority(tx, authority)
    return RevocationListKey(found.uid, found.key.number, partition)


def row(world: World, partition: int = 0, authority: AuthorityName = CA) -> RevocationList:
    key = key_of(world, partition, authority)
    with world.core.store.read("test") as tx:
        found = revocation_lists.get(tx, key)
    assert found is not None
    return found


def due_time(world: World, partition: int = 0) -> datetime | None:
    subject = revocation_lists.subject_of(*key_of(world, partition))
    with world.core.store.read("test") as tx:
        return jobs.due_time(tx, JobKind.GENERATE_REVOCATION_LIST, subject)


def run_job(world: World, partition: int = 0) -> None:
    """Does the job of a CRL, as the scheduler does."""
    world.core.publication.list_signing.run(revocation_lists.subject_of(*key_of(world, partition)))


def generated(world: World, partition: int = 0) -> x509.CertificateRevocationList:
    """Has a CRL signed and returns it."""
    view = world.core.publication.lists.generate(ADMINISTRATOR, WantedList(authority=CA, partition=partition))
    return x509.load_der_x509_crl(view.der)


def published(world: World, partition: int = 0, authority: AuthorityName = CA) -> x509.CertificateRevocationList:
    view = world.core.publication.lists.get(ADMINISTRATOR, WantedList(authority=authority, partition=partition))
    return x509.load_der_x509_crl(view.der)


def entries(crl: x509.CertificateRevocationList) -> Mapping[str, Entry]:
    """Returns the entries by serial, as resource names have it."""
    found = {}
    for one in crl:
        reason = invalidity = None
        for extension in one.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = extension.value.reason.value
            elif isinstance(extension.value, x509.InvalidityDate):
                invalidity = extension.value.invalidity_date_utc
        found[f"{one.serial_number:x}".zfill(32)] = Entry(one.revocation_date_utc, reason, invalidity)
    assert len(found) == len(crl)
    return found


def number_of(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def is_signed(crl: x509.CertificateRevocationList, certificate: bytes) -> bool:
    key = x509.load_der_x509_certificate(certificate).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return crl.is_signature_valid(key)


def revoke(
    world: World,
    view: CertificateView,
    reason: RevocationReason = RevocationReason.SUPERSEDED,
    *,
    since: datetime | None = None,
) -> str:
    """Revokes a certificate; returns its serial."""
    name = CertificateName.parse("name", view.name)
    new = NewRevocation(name=name, reason=reason, invalidity_time=since)
    world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
    return name.serial


def partitioned(count: int) -> SettingsChange:
    settings = RevocationSettings(crl=CrlSettings(partitioned=True, partition_count=count))
    return SettingsChange(given=settings, paths=frozenset({"crl"}))


def of_type(world: World, kind: EventType) -> list[Event]:
    with world.core.store.read("test") as tx:
        return [one.event for one in events.page(tx, after_seq=0, limit=10_000) if one.event.type is kind]


def settle(world: World) -> None:
    """Lets the scheduler sign what changed, and waits until everything that is published says all."""

    def settled() -> bool:
        with world.core.store.read("test") as tx:
            early = {"soon": microseconds(world.clock.now() + revocation_lists.GATHERING)}
            if not tx.execute(_UNSETTLED, early).scalar():
                return True
            waits = tx.execute(_WAITS, early).scalar()
        now = microseconds(world.clock.now())
        if waits is not None and waits > now:
            # What changed while a CRL was signed is in the next, which comes seconds later too.
            world.clock.advance(timedelta(microseconds=waits - now))
        world.core.scheduler.wake()
        return False

    world.clock.advance(timedelta(seconds=3))
    world.core.scheduler.wake()
    eventually(settled, within=60)


def execute(world: World, statement: str, **values: Any) -> None:
    world.core.store.write("test", lambda tx: tx.execute(text(statement), values))
