"""Repeated requests (AIP-155): the same `request_id` never makes a thing twice."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.store import request_records
from certd.store.request_records import RequestRecord
from certd.store.store import Store, Transaction

KEPT = timedelta(hours=24)
"""How long a request is remembered."""
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a caller sent to make a call repeatable."""

    request_id: str
    """UUID in lower case."""
    request_sha256: bytes
    """Hash over method and request without its secret fields."""


def record_of(caller: Caller, method: str, key: RequestKey, *, resource: str, now: datetime) -> RequestRecord:
    """Returns the record to write in the transaction that makes the thing."""
    return RequestRecord(
        principal=caller.principal,
        method=method,
        request_id=key.request_id,
        request_sha256=key.request_sha256,
        resource=resource,
        create_time=now,
    )


def replay(tx: Transaction, caller: Caller, method: str, key: RequestKey | None) -> str | None:
    """Returns the resource that an earlier call with this key made, or None; raises REQUEST_ID_REUSED.

    Permission is checked before.
    """
    if key is None:
        return None
    found = request_records.get(tx, caller.principal, method, key.request_id)
    return None if found is None else same_request(found, key.request_sha256)


def same_request(found: RequestRecord, request_sha256: bytes) -> str:
    """Returns the resource of a record; raises REQUEST_ID_REUSED when it was of another request."""
    if found.request_sha256 != request_sha256:
        raise CertdError(
            Reason.REQUEST_ID_REUSED,
            f"request_id {found.request_id} was used with another request; send a new one",
            metadata={"request_id": found.request_id},
        )
    if found.resource is None:
        raise in_progress("what this request_id stands for")
    return found.resource


def is_repeated(
    tx: Transaction, caller: Caller, method: str, key: RequestKey | None, *, resource: str, now: datetime
) -> bool:
    """Records a request that is about `resource`; returns whether it was made before. Raises REQUEST_ID_REUSED."""
    if key is None:
        return False
    found = request_records.claim(tx, record_of(caller, method, key, resource=resource, now=now))
    if found is None:
        return False
    same_request(found, key.request_sha256)
    return True


def in_progress(resource: str) -> CertdError:
    """Returns the error for a repeated call whose first one is still running."""
    return CertdError(
        Reason.REQUEST_IN_PROGRESS,
        f"the first call with this request_id is still making {resource}; try again",
        retry_after=0.2,
        resource=resource,
    )


class RequestRecords:
    """Forgets requests that nobody repeats any more."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def forget_old(self) -> None:
        """Deletes what was kept long enough; called by the scheduler every few seconds."""
        before = self._clock.now() - KEPT
        while True:
            deleted = self._store.write(
                "request-records.forget", lambda tx: request_records.delete_older(tx, before, _BATCH)
            )
            if deleted < _BATCH:
                return
