"""The server's own certificate: renewed by the daemon with a new key while a third of its life is left.

One of a former system authority is replaced as soon as callers know the root of the one that issues.
"""

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from certd.clock import Clock, rfc3339
from certd.credential_files import CredentialFiles, install, settle, stage_key
from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.pki.credential_request import new_credential_request
from certd.pki.description import Description, describe
from certd.pki.encoding import certificate_pem, parse_certificates
from certd.services.identities import Identities
from certd.services.system import SystemAuthority
from certd.store.store import Store

_log = logging.getLogger("certd.server-certificate")

NOTICE = timedelta(days=14)
"""How long before its end a certificate that certd cannot renew is spoken of."""
_LAST = timedelta(days=1)
"""How long before its end one of a former system authority is replaced, whoever knows the next root by then."""
_LOOK_PAUSE = timedelta(hours=1)
_NOTICE_PAUSE = timedelta(days=1)


class ServerCertificate:
    """Renews the certificate in its files when it is of the system authority; else warns, once a day, of its end.

    It does nothing before `begin`: a core without listeners has no certificate to show.
    """

    def __init__(
        self,
        files: CredentialFiles,
        *,
        store: Store,
        clock: Clock,
        identities: Identities,
        system_authority: SystemAuthority,
    ) -> None:
        self._files = files
        self._store = store
        self._clock = clock
        self._identities = identities
        self._system_authority = system_authority
        self._reload: Callable[[], None] | None = None
        self._next_look = clock.now()
        self._next_notice = clock.now()
        self._trusted: tuple[str, ...] = ()

    def settle(self) -> None:
        """Ends a renewal that was interrupted; raises FIELD_INVALID. To be called before the files are used."""
        self._trusted = self._uids()
        try:
            settle(self._files)
        except OSError as error:
            raise CertdError(
                Reason.FIELD_INVALID,
                f"the renewal of {self._files.certificate} was interrupted and cannot be ended ({error.strerror}): let "
                "the daemon's user write the folders of tls.certificate and tls.private_key",
            ) from error

    def begin(self, reload: Callable[[], None]) -> None:
        """Begins to look after the files; `reload` lets the listeners take them again."""
        self._reload = reload

    def look(self) -> None:
        """Looks at the file when it is time to; to be called every few seconds, by one thread."""
        now = self._clock.now()
        reload = self._reload
        if reload is None:
            return
        trusted = self._uids()
        if trusted != self._trusted:
            # Callers come with certificates of the next system authority before the server has one.
            reload()
            self._trusted = trusted
            self._next_look = now
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_PAUSE
        self._look(now, reload)

    def shown_until(self) -> datetime | None:
        """Returns until when the certificate in the file is shown; None for none, and for one from elsewhere."""
        try:
            certificate = parse_certificates(self._files.certificate.read_bytes())[0]
            found = describe(certificate)
        except (OSError, CertdError):
            return None
        issuer = self._issuer_of(certificate, found)
        return None if issuer is None else self._until(found, issuer)

    def _until(self, found: Description, issuer: str) -> datetime:
        end = found.not_after_time
        if issuer == self._system_authority.uid:
            return end - (end - found.not_before_time) / 3
        return min(self._system_authority.known_from, end - _LAST)

    def _look(self, now: datetime, reload: Callable[[], None]) -> None:
        path = self._files.certificate
        try:
            chain = parse_certificates(path.read_bytes())
            found = describe(chain[0])
        except (OSError, CertdError) as error:
            self._notice(now, f"the end of the server certificate {path} cannot be told: {error}")
            return
        end = found.not_after_time
        verb, at = "ends" if end >= now else "ended", rfc3339(end)
        issuer = self._issuer_of(chain[0], found)
        if issuer is None:
            if end - now <= NOTICE:
                self._notice(
                    now,
                    f"the server certificate {path} {verb} at {at}, and is not of the system authority: replace it and "
                    "its key, then send SIGHUP to the daemon",
                )
            return
        if now < self._until(found, issuer):
            return
        try:
            self._renew(found, chain, reload)
        except (OSError, CertdError) as error:
            problem = error.message if isinstance(error, CertdError) else f"{error.filename}: {error.strerror}"
            self._notice(
                now,
                f"the server certificate {path} {verb} at {at} and could not be renewed: {problem}. It is tried again "
                "every hour; the daemon's user must be able to write both files of [tls] and their folders",
            )

    def _issuer_of(self, certificate: bytes, found: Description) -> str | None:
        """Returns the uid of the system authority by which the books have this very certificate; None without one."""
        with self._store.read("server-certificate.of-key") as tx:
            row = self._system_authority.latest_of_key(tx, hashlib.sha256(found.public_key).digest())
        return row.authority_uid if row is not None and row.der == certificate else None

    def _uids(self) -> tuple[str, ...]:
        return tuple(authority.uid for authority in self._system_authority.trusted())

    def _renew(self, old: Description, chain: list[bytes], reload: Callable[[], None]) -> None:
        request = new_credential_request()
        # First what may fail for want of rights, so that nothing is issued in vain hour after hour.
        stage_key(self._files, request.private_key)
        issued = self._identities.ensure_server(old.subject_alternative_names, request.csr).certificate
        # Whoever shows the root beside it has that of its issuer shown.
        above = (self._system_authority.roots()[0],) if chain[1:] else ()
        install(self._files, "".join(certificate_pem(one) for one in (issued, *above)).encode())
        reload()
        new = describe(issued)
        event = Event(
            time=self._clock.now(),
            type=EventType.SERVER_CERTIFICATE_RENEWED,
            tenant=None,
            principal=SYSTEM_PRINCIPAL,
            resource="server",
            details={
                "serial": new.serial_number,
                "not_after": rfc3339(new.not_after_time),
                "former_serial": old.serial_number,
            },
        )
        self._store.write("server-certificate.renewed", lambda tx: tx.event(event))
        _log.info("the server certificate was renewed; it ends at %s", rfc3339(new.not_after_time))

    def _notice(self, now: datetime, message: str) -> None:
        if now >= self._next_notice:
            self._next_notice = now + _NOTICE_PAUSE
            _log.warning("%s", message)
