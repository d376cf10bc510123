"""Audit reports: a record of every certificate that an authority signed, the oldest first."""

import csv
import enum
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from certd.clock import Clock, rfc3339
from certd.model.access import Caller, Permission
from certd.model.certificate import Certificate
from certd.model.event import EventType
from certd.model.names import AuthorityName, CertificateName
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.store import events, signed_certificates
from certd.store.store import Store
from certd.store.values import EPOCH

COLUMNS: Final = (
    "tenant",
    "requester",
    "certificate",
    "serial",
    "subject",
    "not_before",
    "not_after",
    "issue_time",
    "revoke_time",
    "reason",
    "profile",
    "state",
)
_PAGE: Final = 500
_EVENTS_PAGE: Final = 1000
_LATEST_EVENT: Final = timedelta(minutes=15)
"""By which the event of a certificate may come later than its row."""
_MOST_KNOWN: Final = 50_000
"""Requesters that are remembered of certificates yet to come."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell for a formula that begins with one of these."""


class ReportFormat(enum.StrEnum):
    """How records are written. The same names as the proto's `Format`."""

    JSON = "JSON"
    CSV = "CSV"


class ReportStream(Protocol):
    """The call behind a report: `api.streams.OpenStream`."""

    def authenticate(self) -> None:
        """Raises CREDENTIAL_INVALID or CREDENTIAL_REVOKED once the caller is no longer who they were."""

    def is_open(self) -> bool:
        """Returns whether anybody reads the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """What is reported."""

    authority: AuthorityName
    format: ReportFormat = ReportFormat.JSON
    start_time: datetime | None = None
    """Issued then or later; None: ever."""
    end_time: datetime | None = None
    """Issued before; None: until now."""


@dataclass(frozen=True, slots=True)
class ReportPart:
    """Whole lines of a report."""

    content: bytes
    record_count: int
    """Of all parts until now."""


class AuditReports:
    """The use case of audit reports."""

    def __init__(self, *, store: Store, clock: Clock, access: Access) -> None:
        self._store = store
        self._clock = clock
        self._access = access

    def create(self, caller: Caller, query: ReportQuery, stream: ReportStream) -> Iterator[ReportPart]:
        """Returns the parts of a report of what was issued until now, each certificate once, as it stands when read.

        Each part is read in a transaction of its own, so that a long report holds nothing up and takes no memory.
        Raises AUTHORITY_NOT_FOUND; and at any time PERMISSION_MISSING and what `Access.authenticate` raises.
        """
        self._access.require(caller, Permission.AUTHORITY_AUDIT, str(query.authority))
        now = self._clock.now()
        with self._store.read("audit-report.begin") as tx:
            uid = existing_authority(tx, query.authority).uid
        end = now + timedelta(microseconds=1) if query.end_time is None else min(query.end_time, now)
        return self._parts(caller, query, uid, end, stream)

    def _parts(
        self, caller: Caller, query: ReportQuery, uid: str, end: datetime, stream: ReportStream
    ) -> Iterator[ReportPart]:
        if query.format is ReportFormat.CSV:
            yield ReportPart(_csv_lines([COLUMNS]), 0)
        requesters = _Requesters(self._store, query.authority)
        after: tuple[datetime, str] | None = None
        count = 0
        while stream.is_open():
            with self._store.read("audit-report.page") as tx:
                page = signed_certificates.page(
                    tx, uid, start=query.start_time or EPOCH, end=end, after=after, limit=_PAGE
                )
            if page:
                count += len(page)
                known = requesters.of(page)
                rows = [_row(query.authority, one, known.get(one.serial, "")) for one in page]
                yield ReportPart(_json_lines(rows) if query.format is ReportFormat.JSON else _csv_of(rows), count)
                after = page[-1].create_time, page[-1].serial
            if len(page) < _PAGE:
                if not count and query.format is ReportFormat.JSON:
                    yield ReportPart(b"", 0)
                return
            stream.authenticate()
            self._access.require(caller, Permission.AUTHORITY_AUDIT, str(query.authority))


class _Requesters:
    """Who asked for certificates, as their events tell; those are read along with the certificates."""

    def __init__(self, store: Store, authority: AuthorityName) -> None:
        self._store = store
        self._tenant = authority.tenant
        self._prefix = str(CertificateName(authority.tenant, authority.authority, ""))
        self._after: int | None = None
        self._read_until: datetime | None = None
        self._known: dict[str, str] = {}

    def of(self, page: Sequence[Certificate]) -> dict[str, str]:
        """Returns the principals by the serials of a page, which is later than those before it."""
        wanted = {one.serial for one in page}
        latest = page[-1].create_time + _LATEST_EVENT
        while not wanted <= self._known.keys() and (self._read_until is None or self._read_until <= latest):
            if not self._read(page[0].create_time):
                break
        return {serial: self._known.pop(serial) for serial in wanted if serial in self._known}

    def _read(self, start: datetime) -> bool:
        """Reads more events; returns whether there were any."""
        with self._store.read("audit-report.events") as tx:
            if self._after is None:
                self._after = max(0, events.first_from(tx, start - _LATEST_EVENT) - 1)
            found = events.page(tx, after_seq=self._after, limit=_EVENTS_PAGE, tenant=self._tenant)
        for numbered in found:
            event = numbered.event
            if event.type is EventType.CERTIFICATE_ISSUED and event.resource.startswith(self._prefix):
                self._known[event.resource.removeprefix(self._prefix)] = event.principal
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        if found:
            self._after, self._read_until = found[-1].seq, found[-1].event.time
        return bool(found)


def _row(authority: AuthorityName, one: Certificate, requester: str) -> Mapping[str, str]:
    return {
        "tenant": authority.tenant,
        "requester": requester,
        "certificate": str(CertificateName(authority.tenant, authority.authority, one.serial)),
        "serial": one.serial,
        "subject": one.subject_text,
        "not_before": rfc3339(one.not_before),
        "not_after": rfc3339(one.not_after),
        "issue_time": rfc3339(one.create_time),
        "revoke_time": "" if one.revoke_time is None else rfc3339(one.revoke_time),
        "reason": "" if one.revocation_reason is None else one.revocation_reason.value,
        "profile": one.profile,
        "state": one.state.value,
    }


def _json_lines(rows: Sequence[Mapping[str, str]]) -> bytes:
    return b"".join(
        json.dumps({key: value for key, value in row.items() if value}, ensure_ascii=False).encode() + b"\n"
        for row in rows
    )


def _csv_of(rows: Sequence[Mapping[str, str]]) -> bytes:
    return _csv_lines([[_harmless(row[column]) for column in COLUMNS] for row in rows])


def _csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    """Returns lines of RFC 4180."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerows(rows)
    return written.getvalue().encode()


def _harmless(cell: str) -> str:
    """Returns a cell that no spreadsheet takes for a formula: what would be one begins with an apostrophe."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
