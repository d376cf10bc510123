"""The system authority: it belongs to no tenant, and issues identities and server certificates alone.

When it is replaced, there are two for a while. The new one is trusted from its beginning, and issues once every
identity certificate of before has ended: whoever still calls then has renewed, and was told of the new root. The old
one is trusted until the last certificate that it issued has ended.

One whose key is lost issues no more, and the next one does from then on. Callers do not know its root yet: until they
do, the server goes on showing its certificate of the one before.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.clock import Clock, SystemClock
from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityKeyState
from certd.model.certificate import Certificate
from certd.pki.description import describe
from certd.pki.profiles import IDENTITY, LISTENER
from certd.store import authorities, certificates
from certd.store.store import Store, Transaction

SYSTEM_AUTHORITY_ID = "system"

_MARGIN = timedelta(days=1)
LEAD = IDENTITY.longest_lifetime + _MARGIN
"""How long a new system authority is trusted before it issues."""
_TAIL = max(IDENTITY.longest_lifetime, LISTENER.longest_lifetime) + _MARGIN
"""How long an old one is trusted after it issued last."""


def successor_id(number: int) -> str:
    """Returns the id of the first (1), second, third… system authority."""
    return SYSTEM_AUTHORITY_ID if number == 1 else f"{SYSTEM_AUTHORITY_ID}-{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemGeneration:
    """One of the system authorities, which follow upon each other."""

    authority: Authority
    issues_from: datetime
    """The first one: since its beginning; one whose predecessor lost its key: since that was given up."""
    known_from: datetime
    """When every caller that renews knows its root."""
    ends: datetime

    @property
    def given_up(self) -> datetime | None:
        """When its key was given up for lost; None while it has one."""
        key = self.authority.key
        return key.state_time if key.state is AuthorityKeyState.RETIRED else None


class SystemAuthority:
    """Finds the system authorities and keeps them, for any number of threads."""

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._found: tuple[SystemGeneration, ...] = ()

    def find(self) -> Authority | None:
        """Returns the one that issues, once it has its certificate, else None."""
        trusted = self._trusted()
        return trusted[0] if trusted else None

    def get(self) -> Authority:
        """Returns the one that issues; raises STATE_FORBIDS before `certd init` has made it."""
        found = self.find()
        if found is None:
            raise CertdError(Reason.STATE_FORBIDS, "this server has no system authority yet; run `certd init`")
        return found

    def trusted(self) -> tuple[Authority, ...]:
        """Returns those that vouch for callers and for the server, the one that issues first; raises as `get` does."""
        self.get()
        return self._trusted()

    def roots(self) -> tuple[bytes, ...]:
        """Returns the certificates (DER) of those that are trusted; raises as `get` does."""
        return tuple(authority.certificate or b"" for authority in self.trusted())

    @property
    def uid(self) -> str:
        """The uid of the one that issues."""
        return self.get().uid

    @property
    def known_from(self) -> datetime:
        """When every caller that renews knows the root of the one that issues."""
        return self.from_issuing()[0].known_from

    def from_issuing(self) -> tuple[SystemGeneration, ...]:
        """Returns the one that issues and those after it; raises as `get` does."""
        self.get()
        found = self.generations()
        return found[_issuing(found, self._clock.now()) :]

    def certificate(self, tx: Transaction, serial: str) -> Certificate | None:
        """Returns a certificate that one that is trusted has issued; None when there is none."""
        found = (certificates.get(tx, authority.uid, serial) for authority in self.trusted())
        return next((row for row in found if row is not None), None)

    def latest_of_key(self, tx: Transaction, public_key_sha256: bytes) -> Certificate | None:
        """Returns the newest certificate for a key, of the one that issues before that of others; None without one."""
        found = (certificates.latest_of_key(tx, authority.uid, public_key_sha256) for authority in self.trusted())
        return next((row for row in found if row is not None), None)

    def refresh(self) -> None:
        """Reads them again, for another program may have made one; called by the scheduler every few seconds."""
        found: list[SystemGeneration] = []
        with self._store.read("system.authorities") as tx:
            while (row := authorities.get(tx, None, successor_id(len(found) + 1))) is not None and row.certificate:
                described = describe(row.certificate)
                start = described.not_before_time
                known = start + LEAD if found else start
                lost = found[-1].given_up if found else None
                found.append(
                    SystemGeneration(
                        authority=row,
                        issues_from=known if lost is None else min(known, max(start, lost)),
                        known_from=known,
                        ends=described.not_after_time,
                    )
                )
        with self._lock:
            self._found = tuple(found)

    def generations(self) -> tuple[SystemGeneration, ...]:
        """Returns all of them, the oldest first; read again until there is one."""
        if not self._found:
            self.refresh()
        return self._found

    def _trusted(self) -> tuple[Authority, ...]:
        found = self.generations()
        if len(found) <= 1:
            return tuple(one.authority for one in found)
        now = self._clock.now()
        issuing = _issuing(found, now)
        # Those after it are trusted already, those before it until what they issued has ended.
        others = [
            one.authority
            for n, one in enumerate(found)
            if n > issuing or (n < issuing and now < found[n + 1].issues_from + _TAIL)
        ]
        return (found[issuing].authority, *others)


def _issuing(found: Sequence[SystemGeneration], now: datetime) -> int:
    """Returns which of them issues; the first one when none can."""
    able = (n for n, one in enumerate(found) if one.given_up is None and (n == 0 or one.issues_from <= now))
    return max(able, default=0)
