"""A new system authority in place of the old one, while both are trusted and nobody notices."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.pki import distinguished_name
from certd.services.authorities import Authorities
from certd.services.system import SystemAuthority, successor_id

_log = logging.getLogger("certd.system-authority")

_PAUSE = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRotated:
    """The system authority that comes next."""

    certificate: bytes
    """DER of the new root."""
    issues_from: datetime


class SystemRotation:
    """Makes the next system authority: when told to, and by itself when a third of the last one's life is left."""

    def __init__(
        self, *, clock: Clock, authorities: Authorities, system_authority: SystemAuthority, trust_domain: str
    ) -> None:
        self._clock = clock
        self._authorities = authorities
        self._system_authority = system_authority
        self._trust_domain = trust_domain
        self._next_look = clock.now()

    def rotate(self) -> SystemRotated:
        """Makes the next system authority, or completes one that a crash left unfinished.

        Raises STATE_FORBIDS before `certd init`, and while the last one that was made does not issue yet.
        """
        self._system_authority.refresh()
        self._system_authority.get()
        found = self._system_authority.generations()
        if found[-1].issues_from > self._clock.now():
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"{found[-1].authority.name} is the next system authority already, and issues from "
                f"{rfc3339(found[-1].issues_from)}; until then callers get to know it",
            )
        number = len(found) + 1
        subject = distinguished_name.parse_text(f"CN=certd system authority {number},O={self._trust_domain}")
        self._authorities.ensure_system(self._trust_domain, subject, authority_id=successor_id(number))
        self._system_authority.refresh()
        made = self._system_authority.generations()[-1]
        _log.warning(
            "%s is the next system authority; it issues from %s", made.authority.name, rfc3339(made.issues_from)
        )
        return SystemRotated(certificate=made.authority.certificate or b"", issues_from=made.issues_from)

    def look(self) -> None:
        """Looks whether it is time; called by the scheduler every few seconds."""
        self._system_authority.refresh()
        now = self._clock.now()
        if now < self._next_look or self._system_authority.find() is None:
            return
        self._next_look = now + _PAUSE
        last = self._system_authority.generations()[-1]
        begun = last.authority.create_time
        if now >= last.issues_from and last.ends - now <= (last.ends - begun) / 3:
            self.rotate()
