"""What several use cases write of managed certificates: events, conditions, what a sealed key is bound to."""

from dataclasses import replace
from datetime import datetime

from certd.model.event import Event, EventType
from certd.model.managed_certificate import Condition, ManagedCertificate
from certd.pki.sealing import Purpose, SealContext


def seal_context(
    tenant_uid: str, managed: ManagedCertificate, version: int, *, public_key_sha256: bytes
) -> SealContext:
    """Returns what the sealed key of a version is bound to while certd keeps it."""
    return SealContext(
        tenant=tenant_uid,
        certificate=managed.uid,
        version=version,
        purpose=Purpose.CUSTODY,
        exportable=managed.exportable,
        public_key_sha256=public_key_sha256,
    )


def observed(
    managed: ManagedCertificate, type_: str, now: datetime, *, status: bool, reason: str, message: str
) -> ManagedCertificate:
    """Returns the resource with an observation, which takes the place of the one of the same type."""
    before = next((condition for condition in managed.conditions if condition.type == type_), None)
    since = before.last_transition_time if before is not None and before.status == status else now
    condition = Condition(type=type_, status=status, reason=reason, message=message, last_transition_time=since)
    others = tuple(other for other in managed.conditions if other.type != type_)
    return replace(managed, conditions=(*others, condition), update_time=now)


def event_of(
    type_: EventType, managed: ManagedCertificate, principal: str, now: datetime, *, version: int = 0, **details: str
) -> Event:
    """Returns the event of something that happened to a managed certificate, or to one of its versions."""
    origin = {"authority": managed.authority_name, "profile": managed.profile} if managed.authority_name else {}
    return Event(
        time=now,
        type=type_,
        tenant=managed.tenant,
        principal=principal,
        resource=managed.name.version(version) if version else str(managed.name),
        details={"uid": managed.uid, **origin, **details},
    )
