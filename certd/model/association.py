"""Associations: which consumers may lease the keys of a managed certificate."""

import enum
from dataclasses import dataclass
from datetime import datetime

from certd.model.names import AssociationName


class DeploymentState(enum.StrEnum):
    """How a deployment went. The same names as the proto's `Deployment.State`."""

    SERVING = "SERVING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a consumer says it serves."""

    state: DeploymentState
    version: int
    certificate_sha256: bytes = b""
    message: str = ""
    report_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """That a consumer may lease the keys of a managed certificate."""

    managed_certificate_uid: str
    name: AssociationName
    consumer: str
    """Resource name of the identity."""
    consumer_spiffe_id: str
    creator: str
    create_time: datetime
    leased_version: int = 0
    """The version that was last leased; 0: none."""
    lease_time: datetime | None = None
    deployment: Deployment | None = None
    current_version: int = 0
    """Of the managed certificate; 0 while there is none. What its row says, not that of the association."""
