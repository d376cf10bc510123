"""Identities: machines and persons that call, each with one SPIFFE id."""

import enum
from dataclasses import dataclass
from datetime import datetime

from certd.errors import CertdError
from certd.model.names import IdentityName


class IdentityState(enum.StrEnum):
    """What an identity may do at all."""

    INVITED = "INVITED"
    """An enrollment code was made, and nobody has enrolled yet."""
    ACTIVE = "ACTIVE"
    """Calls with each of its certificates that is neither expired nor revoked."""
    REVOKED = "REVOKED"
    """All its certificates are revoked. Enrolling with a new code makes it ACTIVE again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A machine or person that calls."""

    name: IdentityName
    spiffe_id: str
    """By which grants name it; no other identity has it."""
    state: IdentityState
    create_time: datetime
    update_time: datetime


def spiffe_id_of(name: IdentityName, trust_domain: str) -> str:
    """Returns the SPIFFE id of an identity."""
    return f"spiffe://{trust_domain}{name.path}"


def name_of(spiffe_id: str, trust_domain: str) -> IdentityName | None:
    """Returns the name of the identity with a SPIFFE id; None when it is that of no identity."""
    beginning = f"spiffe://{trust_domain}/"
    if not spiffe_id.startswith(beginning):
        return None
    try:
        return IdentityName.parse("principal", spiffe_id.removeprefix(beginning))
    except CertdError:
        return None
