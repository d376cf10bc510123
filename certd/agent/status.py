"""What an agent says of itself: a file in the state directory, written when something changes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from certd.agent import folders

_FILE: Final = "status.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """One certificate."""

    name: str
    association: str
    state: str
    """SERVING, OUTDATED (the server has a newer one), WAITING (there is none yet) or FAILED."""
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
    with folders.opened(state_directory) as folder:
        folders.replace(folder, _FILE, json.dumps(status.as_json(), sort_keys=True).encode())


def read(state_directory: Path) -> Status | None:
    """Returns what was written last; None when there is nothing that can be read. AgentError as `folders.opened`."""
    try:
        with folders.opened(state_directory) as folder:
            found = folders.read(folder, _FILE)
    except FileNotFoundError:
        return None
    try:
        values: dict[str, Any] = json.loads(found[0] if found is not None else b"")
        certificates = tuple(CertificateStatus(**each) for each in values.pop("certificates"))
        return Status(**values, certificates=certificates)
    except (ValueError, TypeError, KeyError):
        return None
