"""The server's own certificate: renewed by the daemon with a new key while a third of its life is left."""

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
from certd.store import certificates
from certd.store.store import Store

_log = logging.getLogger("certd.server-certificate")

NOTICE = timedelta(days=14)
"""How long before its end a certificate that certd cannot renew is spoken of."""
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

    def settle(self) -> None:
        """Ends a renewal that was interrupted; raises FIELD_INVALID. To be called before the files are used."""
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
        if reload is None or now < self._next_look:
            return
        self._next_look = now + _LOOK_PAUSE
        path = self._files.certificate
        try:
            chain = parse_certificates(path.read_bytes())
            found = describe(chain[0])
        except (OSError, CertdError) as error:
            self._notice(now, f"the end of the server certificate {path} cannot be told: {error}")
            return
        end = found.not_after_time
        verb, at = "ends" if end >= now else "ended", rfc3339(end)
        if not self._is_ours(chain[0], found):
            if end - now <= NOTICE:
                self._notice(
                    now,
                    f"the server certificate {path} {verb} at {at}, and is not of the system authority: replace it and "
                    "its key, then send SIGHUP to the daemon",
                )
            return
        if end - now > (end - found.not_before_time) / 3:
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

    def _is_ours(self, certificate: bytes, found: Description) -> bool:
        """Returns whether the books have this very certificate as one of the system authority."""
        authority = self._system_authority.get()
        with self._store.read("server-certificate.of-key") as tx:
            row = certificates.latest_of_key(tx, authority.uid, hashlib.sha256(found.public_key).digest())
        return row is not None and row.der == certificate

    def _renew(self, old: Description, chain: list[bytes], reload: Callable[[], None]) -> None:
        request = new_credential_request()
        # First what may fail for want of rights, so that nothing is issued in vain hour after hour.
        stage_key(self._files, request.private_key)
        issued = self._identities.ensure_server(old.subject_alternative_names, request.csr).certificate
        install(self._files, "".join(certificate_pem(one) for one in (issued, *chain[1:])).encode())
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
