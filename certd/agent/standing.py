"""Where a certificate stands on this machine, in words for people."""

from dataclasses import dataclass
from datetime import UTC, datetime

from certd.agent.kept import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a certificate stands, for people."""

    version: int
    """That is served; 0: none."""
    certificate_sha256: str
    """Of that, in hexadecimal; empty when it is not known."""
    not_after: datetime | None
    current_version: int
    """On the server, as far as it was told; 0: not known, or none."""
    current_sha256: str
    """Of its certificate, in hexadecimal; empty when it was not told."""
    failure: Failure | None
    is_revoked: bool
    """Whether what is served is known to be revoked."""
    is_current_revoked: bool
    """Whether the current version of the server is."""

    @property
    def state(self) -> str:
        """In a word."""
        if self.is_revoked:
            return "REVOKED"
        if self.failure is not None:
            return "FAILED"
        if self.version == 0:
            return "WAITING"
        is_current = self.current_version == self.version and self.current_sha256 in {"", self.certificate_sha256}
        return "SERVING" if self.current_version == 0 or is_current else "OUTDATED"

    @property
    def finding(self) -> str:
        """What somebody should do something about because of a revocation; empty when nothing is revoked."""
        if self.is_revoked and self.is_current_revoked:
            return (
                f"version {self.version}, which is served, is revoked, and the server has no newer one: renew the"
                " managed certificate, or request another one; stop the program if it must not serve until then"
            )
        if self.is_revoked:
            return f"version {self.version}, which is served, is revoked, and no newer one is served yet"
        if self.is_current_revoked:
            return (
                f"version {self.current_version}, the server's current one, is revoked and is not deployed: renew the"
                " managed certificate, or request another one"
            )
        return ""


def time_text(seconds: float) -> str:
    """Returns a moment in seconds since 1970 as text, for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
