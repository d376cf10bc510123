"""A fleet of managed certificates that lives through simulated time, on a real store and a real token.

The clock goes on in steps; after each the scheduler does all that has become due, as it would have done meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import text

from certd.model.names import ManagedCertificateName, ProfileName
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, renewal_window
from certd.pki.extensions import SERVER_AUTHENTICATION
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profile import DnsNameRules, NameRules
from certd.services.profile_changes import GivenProfile
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.renewals import settle

YEAR = timedelta(days=365)
_REQUESTED_TOGETHER = 10
_PROFILE = ProfileName("default", "fleet")
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_VERSIONS_SUM = text("SELECT COALESCE(SUM(current_version), 0) FROM managed_certificates")
_UNWELL = text(
    "SELECT managed_certificate_id, state, renewal_blocked FROM managed_certificates"
    " WHERE state <> 'ACTIVE' OR not_after < :now OR renewal_blocked LIMIT 5"
)
_OF_ONE = text(
    "SELECT number, create_time, not_before, not_after FROM managed_certificate_versions"
    " WHERE managed_certificate_uid = :uid ORDER BY number"
)
_UIDS = text("SELECT uid FROM managed_certificates ORDER BY uid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Certificates of one lifetime."""

    count: int
    lifetime: timedelta


@dataclass(kw_only=True)
class Fleet:
    """The certificates, and what was seen of them."""

    world: World
    groups: Sequence[Group]
    step: timedelta
    """By which the clock goes on."""
    renewals: list[int] = field(default_factory=list)
    """In each step of `live`."""
    unwell: list[str] = field(default_factory=list)
    """What was found expired, blocked or not active, with the time at which it was."""

    def request(self, *, over: timedelta) -> None:
        """Makes authorities that outlive everything, and requests the fleet, evenly over a time."""
        world = self.world
        world.create_root(lifetime=40 * YEAR)
        world.create_subordinate(lifetime=39 * YEAR)
        given = GivenProfile(
            longest_lifetime=10 * YEAR,
            extended_key_usages=(SERVER_AUTHENTICATION,),
            names=NameRules(dns_names=DnsNameRules(suffixes=("example.internal",)), fewest=1),
        )
        world.core.profiles.create(ADMINISTRATOR, _PROFILE, given, key=None, validate_only=False)
        lifetimes = [group.lifetime for group in self.groups for _ in range(group.count)]
        for number, lifetime in enumerate(lifetimes):
            name = ManagedCertificateName("default", f"m{number}")
            names = SubjectAlternativeNames(dns_names=(f"m{number}.example.internal",))
            world.request(name=name, names=names, lifetime=lifetime, profile=_PROFILE)
            if number % _REQUESTED_TOGETHER == 0 or number == len(lifetimes) - 1:
                # Time passes only while nobody works: a daemon that is silent for a minute counts as dead.
                settle(world)
                world.clock.advance(over * min(_REQUESTED_TOGETHER / len(lifetimes), 1))

    def live(self, time: timedelta, *, tell: Callable[[], None] = lambda: None) -> None:
        """Lets so much time pass; calls `tell` after every step."""
        # To the end of the clock hour, so that each step is one of the hours that renewals are planned by.
        self.world.clock.advance(-((self.world.clock.now() - _EPOCH) % -timedelta(hours=1)))
        settle(self.world)
        end = self.world.clock.now() + time
        before = self._made()
        while self.world.clock.now() < end:
            self.world.clock.advance(self.step)
            settle(self.world)
            made = self._made()
            self.renewals.append(made - before)
            before = made
            self._look()
            # What was done is told by the books; remembered, it would fill the memory.
            self.world.steps.seen.clear()
            tell()

    def _made(self) -> int:
        with self.world.core.store.read("test.made") as tx:
            return int(tx.execute(_VERSIONS_SUM).scalar() or 0)

    def _look(self) -> None:
        now = self.world.clock.now()
        with self.world.core.store.read("test.unwell") as tx:
            found = tx.execute(_UNWELL, {"now": (now - _EPOCH) // _MICROSECOND}).all()
        self.unwell += [f"{now:%Y-%m-%dT%H:%M}: {row}" for row in found]

    def out_of_window(self) -> list[str]:
        """Returns which versions were made outside the window of the one before, or twice in it.

        The window of a version begins after that of the one before has ended, so that of those that are made in time no
        two are made in one window.
        """
        with self.world.core.store.read("test.uids") as tx:
            uids = tx.execute(_UIDS).scalars().all()
        found = []
        for uid in uids:
            with self.world.core.store.read("test.versions") as tx:
                rows = tx.execute(_OF_ONE, {"uid": uid}).all()
            window = None
            for row in rows:
                made = _EPOCH + row.create_time * _MICROSECOND
                if window is not None and not window.start <= made <= window.end + self.step:
                    found.append(f"version {row.number} of {uid} was made at {made}, not in {window}")
                begins, ends = _EPOCH + row.not_before * _MICROSECOND, _EPOCH + row.not_after * _MICROSECOND
                another = renewal_window(max(begins, made), ends, DEFAULT_RENEWAL_POLICY)
                if window is not None and another.start <= window.end:
                    found.append(f"version {row.number} of {uid} may be replaced in the window of the one before")
                window = another
        return found

    def busy(self) -> tuple[float, int]:
        """Returns how many were renewed in a step, in the mean and at most, since the first was."""
        first = next(place for place, count in enumerate(self.renewals) if count)
        since = self.renewals[first:]
        return sum(since) / len(since), max(since)
