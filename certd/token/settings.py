"""What the token process needs to know to find and open its token."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from certd import log

RESEALS_AT_ONCE: Final = 256
"""How many keys one call may have sealed anew."""
LEASES_OF_ONE_CONSUMER: Final = 60
"""Leases in a minute, which may all come at once."""
MOST_CONSUMERS: Final = 100_000
"""How many consumers may lease in a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """A token and how to use it."""

    module: Path
    """The PKCS#11 module, a shared library."""
    label: str
    """Label of the token."""
    pin_file: Path
    """File with the user's PIN, mode 0600 or 0400, owned by the user of the token process."""
    softhsm_conf: Path | None = None
    """Configuration of SoftHSM; None for other modules."""
    lock_file: Path | None = None
    """Lock held over login and key generation, shared by every program of certd on the host; beside the PIN if None."""
    exports_per_minute: int = 600
    """How many sealed keys may be opened for export in a minute; a minute's worth may come at once."""
    system_roots_file: Path | None = None
    """PEM of the roots of the system, by which consumers are known; `system-roots.pem` beside the PIN if None."""
    leases_per_minute: int = 6000
    """How many sealed keys may be opened for consumers in a minute; a minute's worth may come at once."""
    imports_per_minute: int = 6000
    """How many private keys may be imported in a minute; a minute's worth may come at once."""
    queue_length: int = 1024
    """How many calls may wait."""
    journal_folder: Path | None = None
    """Folder of the journal, of the token process's user alone; `token-journal` beside the PIN if None."""
    recovery_public_key_file: Path | None = None
    """PEM of the X25519 key to which wrapping keys are encrypted as they are made; None: they are only in the token."""
    log_level: log.Level = "info"
    """Events below it are not logged by a token process that the daemon starts."""
    log_format: log.Format = "text"
    refused_marker: Path = field(init=False)
    """Remembers a PIN file that the token refused, so that no restart tries it again."""
    lock: Path = field(init=False)
    """The lock file in effect."""
    system_roots: Path = field(init=False)
    """The file of roots in effect."""
    journal: Path = field(init=False)
    """The folder of the journal in effect."""

    def __post_init__(self) -> None:
        name = self.pin_file.name
        object.__setattr__(self, "refused_marker", self.pin_file.with_name(f"{name}.refused"))
        object.__setattr__(self, "lock", self.lock_file or self.pin_file.with_name(f"{name}.lock"))
        object.__setattr__(self, "system_roots", self.system_roots_file or self.pin_file.with_name("system-roots.pem"))
        object.__setattr__(self, "journal", self.journal_folder or self.pin_file.with_name("token-journal"))

    def arguments(self) -> tuple[str, ...]:
        """Returns the command line of the token process that stands for these settings."""
        arguments = [
            *("--module", str(self.module)),
            *("--label", self.label),
            *("--pin-file", str(self.pin_file)),
            *("--lock-file", str(self.lock)),
            *("--exports-per-minute", str(self.exports_per_minute)),
            *("--system-roots", str(self.system_roots)),
            *("--leases-per-minute", str(self.leases_per_minute)),
            *("--imports-per-minute", str(self.imports_per_minute)),
            *("--queue-length", str(self.queue_length)),
            *("--journal", str(self.journal)),
            *("--log-level", self.log_level),
            *("--log-format", self.log_format),
        ]
        if self.recovery_public_key_file is not None:
            arguments += ["--recovery-public-key", str(self.recovery_public_key_file)]
        if self.softhsm_conf is not None:
            arguments += ["--softhsm-conf", str(self.softhsm_conf)]
        return tuple(arguments)
