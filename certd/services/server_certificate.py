"""The end of the server certificate, told in the log while there is time to renew it."""

import logging
from datetime import timedelta
from pathlib import Path

from certd.clock import Clock
from certd.errors import CertdError
from certd.pki.description import describe
from certd.pki.encoding import parse_certificates

_log = logging.getLogger("certd.server-certificate")

NOTICE = timedelta(days=14)
"""How long before its end the certificate is spoken of."""
_PAUSE = timedelta(days=1)


class ServerCertificateWatch:
    """Warns when first called, and then once a day, while the certificate in the file is about to end or has ended."""

    def __init__(self, file: Path, *, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._next_look = clock.now()

    def look(self) -> None:
        """Looks at the file when it is time to; to be called every few seconds, by one thread."""
        now = self._clock.now()
        if now < self._next_look:
            return
        self._next_look = now + _PAUSE
        try:
            end = describe(parse_certificates(self._file.read_bytes())[0]).not_after_time
        except (OSError, CertdError) as error:
            _log.warning("the end of the server certificate %s cannot be told: %s", self._file, error)
            return
        if end - now <= NOTICE:
            _log.warning(
                "the server certificate %s %s at %s: run `certd init` with the daemon stopped, then start it",
                self._file,
                "ends" if end >= now else "ended",
                f"{end:%Y-%m-%dT%H:%M:%SZ}",
            )
