"""Notices on a real store with a fake clock, without the token that they do not need."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from certd.model.authority import AuthorityState
from certd.model.event import Event, EventType
from certd.model.managed_certificate import (
    RENEWAL_BLOCKED,
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateType,
)
from certd.model.renewal import RenewalMode, RenewalPolicy, renewal_window
from certd.services.notices import Notices
from certd.store import authorities, certificates, events, managed_certificates, managed_versions, schema, tenants
from certd.store.store import Store, Transaction
from tests.databases import migrated
from tests.fakes import FakeClock
from tests.services.conftest import Steps
from tests.store.samples import add_tenant, authority, completion, intent, managed, tenant, version
from tests.waiting import eventually

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
LIFETIME = 90 * DAY
NEVER, WHEN_USED = RenewalPolicy(mode=RenewalMode.NEVER), RenewalPolicy(mode=RenewalMode.WHEN_USED)
IMPORTED = {"type": ManagedCertificateType.IMPORTED, "authority_uid": "", "authority_name": "", "profile": ""}
EXPIRING, EXPIRED = EventType.MANAGED_CERTIFICATE_EXPIRING, EventType.MANAGED_CERTIFICATE_EXPIRED
_TOLD = frozenset({EXPIRING, EXPIRED, EventType.AUTHORITY_EXPIRING, EventType.AUTHORITY_EXPIRED})


@dataclass(kw_only=True)
class Daemon:
    """What of a daemon gives notices, and short ways to look at what it told."""

    store: Store
    clock: FakeClock
    steps: Steps
    notices: Notices

    def restart(self) -> None:
        """Begins anew, with nothing but what is in the books."""
        self.notices = Notices(store=self.store, clock=self.clock, step=self.steps)

    def tell(self) -> None:
        """Lets rounds pass until one has nothing left, as they do every few seconds."""
        for _ in range(3):
            self.notices.tell()
            self.clock.advance(MINUTE)

    def live(self, time: timedelta, *, step: timedelta = DAY) -> None:
        """Lets time pass, in steps after each of which it looks."""
        end = self.clock.now() + time
        while self.clock.now() < end:
            self.clock.advance(min(step, end - self.clock.now()))
            self.notices.tell()

    def put(self, name: str = "web", *, left: timedelta, tenant_id: str = "default", **changes: Any) -> str:
        """Inserts a certificate of ninety days that ends in so much time; returns its uid.

        It is planned as `ALWAYS` is, around a third of its lifetime before its end.
        """
        now = self.clock.now()
        ends = now + left
        begins = ends - LIFETIME
        window = renewal_window(begins, ends, RenewalPolicy())
        wanted: dict[str, Any] = {
            "tenant": tenant_id,
            "state": ManagedCertificateState.ACTIVE,
            "current_version": 1,
            "not_after": ends,
            "issue_time": begins,
            "create_time": begins,
            "update_time": min(begins, now),
            "renewal_window": window,
            "next_attempt_time": window.start + (window.end - window.start) / 2,
            "conditions": (),
        }
        one = replace(managed(name), **(wanted | changes))

        def work(tx: Transaction) -> None:
            managed_certificates.insert(tx, one)
            of_one = version(one, number=one.current_version or 1)
            managed_versions.insert(tx, replace(of_one, serial=one.uid, not_before=begins, not_after=one.not_after))

        self.store.write("test.put", work)
        return one.uid

    def change(self, uid: str, **changes: Any) -> ManagedCertificate:
        """Writes a managed certificate otherwise."""

        def work(tx: Transaction) -> ManagedCertificate:
            found = managed_certificates.get_by_uid(tx, uid)
            assert found is not None
            changed = managed_certificates.update(tx, replace(found, **changes), expected_revision=found.revision)
            assert changed is not None
            return changed

        return self.store.write("test.change", work)

    def succeed(self, uid: str, *, left: timedelta) -> None:
        """Makes another version the current one, which ends in so much time."""
        ends = self.clock.now() + left
        found = self.change(uid, not_after=ends, issue_time=self.clock.now(), conditions=())
        found = self.change(uid, current_version=found.current_version + 1)
        of_one = replace(version(found, number=found.current_version), serial=f"{uid}-{found.current_version}")
        begins = self.clock.now()
        made = replace(of_one, not_before=begins, not_after=ends)
        self.store.write("test.succeed", lambda tx: managed_versions.insert(tx, made))

    def succeed_named(self, name: str, *, left: timedelta) -> None:
        """As `succeed`, of the certificate of this id of the default tenant."""
        with self.store.read("test.named") as tx:
            found = managed_certificates.get(tx, "default", name)
        assert found is not None
        self.succeed(found.uid, left=left)

    def block(self, uid: str, reason: str = "AUTHORITY_NOT_ENABLED") -> None:
        """Has something keep it from being renewed."""
        blocked = Condition(
            type=RENEWAL_BLOCKED,
            status=True,
            reason=reason,
            message="Enable it.",
            last_transition_time=self.clock.now(),
        )
        self.change(uid, conditions=(blocked,))

    def put_authority(self, authority_id: str = "ca", *, left: timedelta | None, **changes: Any) -> str:
        """Inserts an authority whose certificate ends in so much time; returns its uid."""
        ends = None if left is None else self.clock.now() + left
        one = authority(authority_id, **({"not_after": ends, "state": AuthorityState.ENABLED} | changes))
        self.store.write("test.authority", lambda tx: authorities.insert(tx, one))
        return one.uid

    def certify(self, authority_uid: str, *, lifetime: timedelta) -> None:
        """Has an authority issue a certificate."""
        now = self.clock.now()
        one = intent(authority_uid=authority_uid, not_before=now, not_after=now + lifetime)
        self.store.write("test.intent", lambda tx: certificates.insert_intents(tx, [one]))
        self.store.write("test.completion", lambda tx: certificates.complete(tx, [completion(one)]))

    def set_days(self, *days: int, tenant_id: str = "default") -> None:
        def work(tx: Transaction) -> None:
            found = tenants.get(tx, tenant_id)
            assert found is not None
            assert tenants.update(tx, replace(found, expiry_notice_days=days)) is not None
            tx.configuration_changed()

        self.store.write("test.days", work)

    def events(self) -> list[Event]:
        """Those of notices, in the order of the books."""
        return [event for event in all_events(self.store) if event.type in _TOLD]

    def told(self, uid: str | None = None) -> list[int]:
        """The days of the notices that were given, of one or of all; 0: that it has ended."""
        return [days_of(event) for event in self.events() if uid in {None, event.details["uid"]}]


def all_events(store: Store) -> list[Event]:
    # On PostgreSQL they get their numbers a moment after the commit.
    eventually(lambda: _all_are_numbered(store))
    found: list[Event] = []
    after = 0
    while True:
        with store.read("test.events") as tx:
            page = events.page(tx, after_seq=after, limit=1000)
        if not page:
            return found
        found += [row.event for row in page]
        after = page[-1].seq


def _all_are_numbered(store: Store) -> bool:
    with store.read("test.unnumbered") as tx:
        return tx.execute(select(schema.unnumbered_events.c.id).limit(1)).first() is None


def days_of(event: Event) -> int:
    return int(event.details.get("days", 0))


def repeated(told: Sequence[Event]) -> list[tuple[str, int]]:
    """The notices that were given more than once."""
    counts = Counter((event.resource, days_of(event)) for event in told)
    return [notice for notice, count in counts.items() if count > 1]


@contextmanager
def daemon_on(url: str, clock: FakeClock, *, fresh: bool = True) -> Iterator[Daemon]:
    """Runs one on a database, which it makes when it is fresh, with the tenants `default` and `acme`."""
    migrated(url)
    store, steps = Store.open(url, clock=clock), Steps()
    try:
        if fresh:
            add_tenant(store)
            other = replace(tenant("acme"), expiry_notice_days=(60, 10))
            store.write("test.tenant", lambda tx: tenants.insert(tx, other))
        yield Daemon(store=store, clock=clock, steps=steps, notices=Notices(store=store, clock=clock, step=steps))
    finally:
        store.close()
