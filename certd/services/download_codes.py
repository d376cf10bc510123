"""Codes for one download each: who may export a managed certificate gives a device a part of that, once.

A code holds while who made it could make it: not past their revocation, nor past the end of their grants.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, Violation, field_invalid, fields_invalid
from certd.model.access import Caller, Permission
from certd.model.event import EventType
from certd.model.identity import IdentityState
from certd.model.managed_certificate import ManagedCertificate
from certd.model.names import WILDCARD, DownloadCodeName, ManagedCertificateName, is_download_code_id
from certd.pki.download_code import DownloadCode, download_code_invalid, new_download_code, parse_download_code
from certd.services.access import Access
from certd.services.code_guesses import Guesses, Refused, record
from certd.services.idempotency import RequestKey, is_repeated
from certd.services.managed_certificate_records import event_of
from certd.services.managed_certificate_views import existing_managed
from certd.services.managed_export import check_exportable
from certd.services.paging import Page, PageRequest, page_of
from certd.services.source_networks import comes_from, parse_networks
from certd.services.tenants import existing_tenant
from certd.store import download_codes, grants, identities, managed_certificates
from certd.store.download_codes import DownloadCodeRow
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.download-codes")

DEFAULT_LIFETIME: Final = timedelta(hours=1)
SHORTEST_LIFETIME: Final = timedelta(minutes=1)
LONGEST_LIFETIME: Final = timedelta(days=1)
LIFETIME_RULE: Final = "must be from a minute to 24 hours"
MOST_CODES: Final = 32
"""Of one managed certificate that nobody has used."""
_BATCH: Final = 1000
_KEY_PARTS: Final = 2
"""Of the place where a page ends: a managed certificate and a code."""
_DELETE: Final = "DeleteDownloadCode"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDownloadCode:
    """What somebody asks for."""

    name: ManagedCertificateName
    lifetime: timedelta | None = None
    source_networks: tuple[str, ...] = ()
    """CIDR; empty for any."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DownloadCodeView:
    """What is known of a code; the code itself is not."""

    name: DownloadCodeName
    row: DownloadCodeRow


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDownloadCode:
    """A code, which is nowhere else."""

    code: DownloadCode
    view: DownloadCodeView


class DownloadCodes:
    """The use cases of codes: they are made, listed and withdrawn, and somebody comes with one."""

    def __init__(self, *, store: Store, clock: Clock, access: Access, guesses: Guesses | None = None) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._guesses = guesses or Guesses(kind="download codes", reason=Reason.DOWNLOAD_CODE_INVALID)

    def create(self, caller: Caller, new: NewDownloadCode) -> MadeDownloadCode:
        """Makes a code for one export of the current version, whichever that is then.

        Raises FIELD_INVALID, MANAGED_CERTIFICATE_NOT_FOUND, NOT_EXPORTABLE, QUOTA_EXCEEDED.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_EXPORT, str(new.name))
        lifetime, networks = _checked(new)
        now = self._clock.now()
        code = new_download_code()

        def create(tx: Transaction) -> DownloadCodeRow:
            managed = existing_managed(tx, new.name)
            check_exportable(managed)
            row = DownloadCodeRow(
                code_sha256=code.secret_sha256,
                managed_certificate_uid=managed.uid,
                source_networks=networks,
                reason=new.reason,
                creator=caller.principal,
                create_time=now,
                expire_time=now + lifetime,
            )
            _insert(tx, managed, row)
            return row

        row = self._store.write("download-codes.create", create)
        return MadeDownloadCode(code=code, view=DownloadCodeView(DownloadCodeName(new.name, row.id), row))

    def page(self, caller: Caller, parent: ManagedCertificateName, request: PageRequest) -> Page[DownloadCodeView]:
        """Returns a page, by name, of the codes of a managed certificate, or of all of a tenant, that have not ended.

        Used ones are among them. Raises TENANT_NOT_FOUND, MANAGED_CERTIFICATE_NOT_FOUND.
        """
        everywhere = parent.managed_certificate == WILDCARD
        scope = f"tenants/{parent.tenant}/managedCertificates" if everywhere else str(parent)
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_READ, scope)
        query = f"download codes {parent}"
        after = _place_after(request, query)
        now, limit = self._clock.now(), request.size + 1
        with self._store.read("download-codes.page") as tx:
            existing_tenant(tx, parent.tenant)
            if everywhere:
                found = download_codes.page_of_tenant(tx, parent.tenant, now=now, after=after, limit=limit)
            else:
                uid = existing_managed(tx, parent).uid
                found = download_codes.page(tx, uid, now=now, after=after[1], limit=limit)
        views = [
            DownloadCodeView(
                DownloadCodeName(ManagedCertificateName(parent.tenant, one.managed_certificate_id), one.row.id), one.row
            )
            for one in found
        ]
        return page_of(views, request, query, key=_place)

    def delete(self, caller: Caller, name: DownloadCodeName, *, key: RequestKey | None) -> None:
        """Withdraws a code: nobody can use it from now on.

        Raises DOWNLOAD_CODE_NOT_FOUND, also for one that has ended, MANAGED_CERTIFICATE_NOT_FOUND, REQUEST_ID_REUSED,
        and STATE_FORBIDS for one that is used, so that nobody takes a key for safe that has left.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_EXPORT, str(name.managed_certificate))
        now = self._clock.now()

        def delete(tx: Transaction) -> None:
            if is_repeated(tx, caller, _DELETE, key, resource=str(name), now=now):
                return
            managed = existing_managed(tx, name.managed_certificate)
            row = download_codes.of_id(tx, managed.uid, name.download_code)
            if row is None or now >= row.expire_time:
                raise _not_found(name)
            if not download_codes.delete_unused(tx, row.code_sha256):
                raise _used(name)
            tx.event(
                event_of(
                    EventType.DOWNLOAD_CODE_DELETED,
                    managed,
                    caller.principal,
                    now,
                    download_code=row.id,
                    creator=row.creator,
                    expire_time=rfc3339(row.expire_time),
                    reason=row.reason,
                )
            )

        self._store.write("download-codes.delete", delete)

    def find(self, text: str, name: ManagedCertificateName, *, address: str) -> DownloadCodeRow:
        """Returns the code that somebody at an IP address shows for a managed certificate; it stays unused.

        Raises DOWNLOAD_CODE_INVALID for whatever is wrong with it, RATE_LIMITED after too many of these.
        """
        return self._guesses.attempt(address, self._clock, lambda: self._found(text, name, address))

    def _found(self, text: str, name: ManagedCertificateName, address: str) -> DownloadCodeRow:
        code, now = parse_download_code(text), self._clock.now()
        with self._store.read("download-codes.find") as tx:
            row = download_codes.get(tx, code.secret_sha256)
            if row is None or row.use_time is not None or not _holds(tx, row, name, now):
                raise download_code_invalid()
        if not comes_from(row.source_networks, address):
            raise download_code_invalid()
        return row

    def note(self, error: CertdError, *, address: str) -> None:
        """Counts an error for the address, if it is that of a wrong code."""
        self._guesses.note(error, address, self._clock.now())

    def use(self, tx: Transaction, row: DownloadCodeRow, name: ManagedCertificateName) -> None:
        """Writes that a code is used; raises DOWNLOAD_CODE_INVALID when it is by now, or holds no more."""
        now = self._clock.now()
        if not _holds(tx, row, name, now) or not download_codes.use(tx, row.code_sha256, now):
            raise download_code_invalid()

    def tidy(self) -> None:
        """Tells refusals as events and deletes codes that expired; called by the scheduler every few seconds."""
        now = self._clock.now()
        self._tell(self._guesses.take(now))
        while True:
            deleted = self._store.write(
                "download-codes.delete-expired", lambda tx: download_codes.delete_expired(tx, now, _BATCH)
            )
            if deleted < _BATCH:
                return

    def tell_all(self) -> None:
        """Tells also the refusals of this minute; called when the daemon stops."""
        try:
            self._tell(self._guesses.take(self._clock.now(), current=True))
        except CertdError as error:
            _log.warning("refused downloads of the last minute are not among the events: %s", error)

    def _tell(self, refused: list[Refused]) -> None:
        if not refused:
            return
        try:
            self._store.write("download-codes.refused", lambda tx: record(tx, refused, EventType.DOWNLOAD_REFUSED))
        except CertdError:
            self._guesses.give_back(refused)
            raise


def _insert(tx: Transaction, managed: ManagedCertificate, row: DownloadCodeRow) -> None:
    if download_codes.count_live(tx, managed.uid, now=row.create_time, most=MOST_CODES) >= MOST_CODES:
        raise CertdError(
            Reason.QUOTA_EXCEEDED,
            f"{managed.name} has {MOST_CODES} download codes that nobody has used, as many as it may have; use one of "
            "them, or wait until they end",
            metadata={"limit": str(MOST_CODES)},
            resource=str(managed.name),
        )
    download_codes.insert_code(tx, row)
    tx.event(
        event_of(
            EventType.DOWNLOAD_CODE_CREATED,
            managed,
            row.creator,
            row.create_time,
            download_code=row.id,
            expire_time=rfc3339(row.expire_time),
            source_networks=" ".join(row.source_networks),
            reason=row.reason,
        )
    )


def _place_after(request: PageRequest, query: str) -> tuple[str, str]:
    """Returns behind what a page begins, a managed certificate and a code; raises FIELD_INVALID."""
    after = request.after(query)
    if after is None:
        return ("", "")
    if len(after) != _KEY_PARTS or not is_download_code_id(after[1]):
        raise field_invalid("page_token", "is not a token that this server gave")
    return (after[0], after[1])


def _place(view: DownloadCodeView) -> list[str]:
    return [view.name.managed_certificate.managed_certificate, view.name.download_code]


def _not_found(name: DownloadCodeName) -> CertdError:
    return CertdError(
        Reason.DOWNLOAD_CODE_NOT_FOUND,
        f"{name} does not exist, or has ended; ListDownloadCodes shows those that have not",
        resource=str(name),
    )


def _used(name: DownloadCodeName) -> CertdError:
    return CertdError(
        Reason.STATE_FORBIDS,
        f"{name} is used, and what was downloaded cannot be called back; the event of the export tells from where; "
        "renew the managed certificate, or revoke that version, if it should not have been",
        metadata={"state": "USED"},
        resource=str(name),
    )


def _holds(tx: Transaction, row: DownloadCodeRow, name: ManagedCertificateName, now: datetime) -> bool:
    """Whether a code is in its time, of this managed certificate, and of somebody who could make it now."""
    managed = managed_certificates.get(tx, name.tenant, name.managed_certificate)
    if managed is None or managed.uid != row.managed_certificate_uid or now >= row.expire_time:
        return False
    maker = identities.of_spiffe_id(tx, row.creator)
    if maker is not None and maker.state is IdentityState.REVOKED:
        return False
    held = grants.of_caller(tx, row.creator)
    return any(grant.allows(Permission.MANAGED_CERTIFICATE_EXPORT, str(name)) for grant in held)


def _checked(new: NewDownloadCode) -> tuple[timedelta, tuple[str, ...]]:
    """Returns lifetime and networks; raises FIELD_INVALID with every rule that is broken."""
    violations: list[Violation] = []
    lifetime = DEFAULT_LIFETIME if new.lifetime is None else new.lifetime
    if not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        violations.append(Violation("lifetime", LIFETIME_RULE))
    networks = parse_networks(new.source_networks, violations)
    if violations:
        raise fields_invalid(violations)
    return lifetime, networks
