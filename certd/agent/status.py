"""What an agent says of itself: a file in the state directory, written when something changes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from certd.agent import folders
from certd.agent.errors import AgentError

_FILE: Final = "status.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """One certificate."""

    name: str
    association: str
    state: str
    """SERVING, OUTDATED (the server has another one), WAITING (there is none yet), FAILED, REVOKED (what is served is),
    or ENDED, as of now."""
    version: int
    """That is served; 0: none."""
    certificate_sha256: str
    not_after: str
    current_version: int
    """On the server, as far as is known."""
    error: str
    """What went wrong last; empty when nothing did."""
    retry_time: str
    """When a version that failed is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole agent."""

    version: str
    """Of certd."""
    pid: int
    start_time: str
    server: str
    identity: str
    """SPIFFE id; empty before the agent is enrolled."""
    identity_not_after: str
    connected: bool
    """Whether the server tells of changes as they happen."""
    problem: str
    """What keeps the agent as a whole from its work; empty when nothing does."""
    certificates: tuple[CertificateStatus, ...] = ()
    running: bool = field(default=True)

    def as_json(self) -> Mapping[str, Any]:
        """Returns it for a JSON text."""
        return asdict(self)


def write(state_directory: Path, status: Status) -> None:
    """Writes it; raises AgentError."""
    try:
        with folders.opened(state_directory) as folder:
            folders.replace(folder, _FILE, json.dumps(status.as_json(), sort_keys=True).encode())
    except FileNotFoundError as error:
        raise AgentError(f"{state_directory} is gone; restart the agent") from error


def read(state_directory: Path, now: datetime) -> Status | None:
    """Returns what was written last, with what has ended since.

    None when there is nothing that can be read. AgentError as `folders.opened`.
    """
    try:
        with folders.opened(state_directory) as folder:
            found = folders.read(folder, _FILE)
    except FileNotFoundError:
        return None
    try:
        values: dict[str, Any] = json.loads(found[0] if found is not None else b"")
        certificates = (CertificateStatus(**each) for each in values.pop("certificates"))
        return Status(**values, certificates=tuple(_as_of(each, now) for each in certificates))
    except (ValueError, TypeError, KeyError):
        return None


def _as_of(certificate: CertificateStatus, now: datetime) -> CertificateStatus:
    ended = bool(certificate.not_after) and datetime.fromisoformat(certificate.not_after) <= now
    return replace(certificate, state="ENDED") if ended else certificate
