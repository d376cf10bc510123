"""A new system authority in place of the old one, while both are trusted and nobody notices."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityKeyState
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.pki import distinguished_name
from certd.services.authorities import Authorities
from certd.services.checkpoints import new_checkpoint_key
from certd.services.system import SystemAuthority, SystemGeneration, successor_id
from certd.store import authority_keys, checkpoints
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

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
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        authorities: Authorities,
        system_authority: SystemAuthority,
        trust_domain: str,
    ) -> None:
        self._store = store
        self._token = token
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
        made = self._make(found)
        _log.warning(
            "%s is the next system authority; it issues from %s", made.authority.name, rfc3339(made.issues_from)
        )
        return _rotated(made)

    def require_key(self) -> None:
        """Raises STATE_FORBIDS, with the ways out, when the token lacks the key of the one that issues.

        Raises TOKEN_UNAVAILABLE while the token cannot be asked. Before `certd init` there is no key to lack.
        """
        self._system_authority.refresh()
        if self._system_authority.find() is None:
            return
        issuing = self._system_authority.from_issuing()[0].authority
        if self._lacks(issuing.key.key_id):
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"the token {self._token_text()} has no key of {issuing.name}, which issues for callers and for the "
                "server: name the token that has it in certd.toml, or restore that from its backup. Only if the key "
                "is lost for good, certd rotate-system-authority --key-lost puts another in its place",
                resource=issuing.name,
            )

    def replace_lost(self) -> SystemRotated:
        """Gives up for ever those from the one that issues on whose keys the token lacks; the next one issues at once.

        The key of checkpoints that the token lacks as well is followed by another.

        Repeating it completes what a crash left. Raises STATE_FORBIDS before `certd init` and when no key is lacking,
        and TOKEN_UNAVAILABLE while the token cannot be asked: a key that cannot be reached is not lost.
        """
        self._system_authority.refresh()
        found = self._system_authority.from_issuing()
        lost = [one for one in found if one.given_up is None and self._lacks(one.authority.key.key_id)]
        if not lost:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"the token {self._token_text()} has the key of {found[0].authority.name}, so that it is not lost; "
                "run it without --key-lost",
                resource=found[0].authority.name,
            )
        # It is there, with its certificate, before any is given up: after a crash one of them still issues.
        heir = found[-1] if found[-1] not in lost else self._make(self._system_authority.generations())
        self._store.write("system.give-up", lambda tx: self._give_up(tx, lost, heir.authority.name))
        self._system_authority.refresh()
        issuing = self._system_authority.from_issuing()[0]
        _log.warning("%s issues from now on, for the key of the system authority was lost", issuing.authority.name)
        return _rotated(issuing)

    def _make(self, found: Sequence[SystemGeneration]) -> SystemGeneration:
        number = len(found) + 1
        subject = distinguished_name.parse_text(f"CN=certd system authority {number},O={self._trust_domain}")
        self._authorities.ensure_system(self._trust_domain, subject, authority_id=successor_id(number))
        self._system_authority.refresh()
        return self._system_authority.generations()[-1]

    def _lacks(self, key_id: bytes) -> bool:
        return all(one.key_id != key_id for one in self._token.list_keys())

    def _token_text(self) -> str:
        described = self._token.describe()
        return f"{described.label} ({described.serial_number})"

    def _give_up(self, tx: Transaction, lost: Sequence[SystemGeneration], heir: str) -> None:
        now = self._clock.now()
        signs_checkpoints = checkpoints.newest_key(tx)
        if signs_checkpoints is not None and self._lacks(signs_checkpoints.key_id):
            checkpoints.insert_key(tx, new_checkpoint_key(signs_checkpoints.number + 1, now))
        for authority in (one.authority for one in lost):
            authority_keys.set_state(tx, authority.uid, authority.key.number, AuthorityKeyState.RETIRED, now)
            tx.event(
                Event(
                    time=now,
                    type=EventType.SYSTEM_AUTHORITY_REPLACED,
                    tenant=None,
                    principal=SYSTEM_PRINCIPAL,
                    resource=authority.name,
                    details={"key_id": authority.key.key_id.hex(), "successor": heir},
                )
            )

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


def _rotated(generation: SystemGeneration) -> SystemRotated:
    return SystemRotated(
        certificate=generation.authority.certificate or b"",
        issues_from=generation.issues_from,
    )
