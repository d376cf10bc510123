"""Downloads by devices: what ExportManagedCertificate does, for whoever speaks HTTPS alone.

In two steps, so that a device which has the current version gets nothing, and nothing is recorded:

1. offer: who it is, whether they may, which version there is.
2. take: event, token process, bytes, by the use case of exports.

Both need the permission to export, of an identity by its certificate, or of who made a download code.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateVersion
from certd.model.names import ManagedCertificateName
from certd.pki.export_form import check_passphrase
from certd.services.access import Access
from certd.services.download_codes import DownloadCodes
from certd.services.managed_certificate_views import Material, existing_managed
from certd.services.managed_export import (
    Exportable,
    Exported,
    ManagedExport,
    PassphraseExport,
    exportable,
    issued,
)
from certd.services.rates import Rates
from certd.services.refusals import Refusals
from certd.store.download_codes import DownloadCodeRow
from certd.store.store import Store

EXPORTS: Final = 16
"""At once; each takes a fifth of a second of a processor for its passphrase."""
_RETRY_SECONDS: Final = 2.0
METHOD: Final = "devices/Download"
"""Stands for the method in events of refused calls, where those of the API have their full names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Somebody who may download."""

    principal: str
    """Who may export: the identity, or who made the code."""
    address: str
    """IP address that they came from."""
    code: DownloadCodeRow | None = None
    """What they came with; None for an identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The current version, for one who may have it."""

    holder: Holder
    managed: ManagedCertificate
    version: ManagedCertificateVersion
    material: Material
    exportable: Exportable | None = field(repr=False)
    """With its key; None when that is not asked for."""


class Downloads:
    """The use cases.

    Args:
        store: the books.
        access: tells identities, and what they may.
        rates: how often each caller may call.
        refusals: where refused calls are counted.
        codes: tells codes.
        export: the use case by which keys leave.
        passphrase_bytes: of the longest passphrase, where the configuration allows less than the forms do.
    """

    def __init__(
        self,
        *,
        store: Store,
        access: Access,
        rates: Rates,
        refusals: Refusals,
        codes: DownloadCodes,
        export: ManagedExport,
        passphrase_bytes: int,
    ) -> None:
        self._store = store
        self._access = access
        self._rates = rates
        self._refusals = refusals
        self._codes = codes
        self._export = export
        self._passphrase_bytes = passphrase_bytes
        self._exports = threading.Semaphore(EXPORTS)

    def of_identity(self, certificate: bytes | None, name: ManagedCertificateName, *, address: str) -> Holder:
        """Returns who shows a certificate (DER) that the handshake verified, if they may export.

        Raises CREDENTIAL_MISSING without one, CREDENTIAL_INVALID, CREDENTIAL_REVOKED, RATE_LIMITED, PERMISSION_MISSING;
        each is counted among the refused calls.
        """
        principal = ""
        try:
            caller = self._caller(certificate)
            principal = caller.principal
            self._rates.take(principal)
            self._access.require(caller, Permission.MANAGED_CERTIFICATE_EXPORT, str(name))
        except CertdError as error:
            self._refusals.note(principal=principal, method=METHOD, reason=error.reason, peer=address)
            raise
        return Holder(principal=principal, address=address)

    def _caller(self, certificate: bytes | None) -> Caller:
        if certificate is None:
            raise CertdError(
                Reason.CREDENTIAL_MISSING,
                "neither a client certificate nor a download code came; configure the client with one of them",
            )
        return self._access.authenticate(certificate)

    def of_code(self, code: str, name: ManagedCertificateName, *, address: str) -> Holder:
        """Returns who shows a download code, which stays unused.

        Raises DOWNLOAD_CODE_INVALID for whatever is wrong with it, RATE_LIMITED.
        """
        row = self._codes.find(code, name, address=address)
        self._rates.take(f"{METHOD}/{row.id}")
        return Holder(principal=row.creator, address=address, code=row)

    def offer(self, holder: Holder, name: ManagedCertificateName, *, with_key: bool) -> Offer:
        """Returns the current version; nothing is recorded, and a code stays unused.

        Raises MANAGED_CERTIFICATE_NOT_FOUND, STATE_FORBIDS when there is none or it is revoked; with its key also
        NOT_EXPORTABLE.
        """
        with self._store.read("downloads.offer") as tx:
            managed = existing_managed(tx, name)
            with_its_key = exportable(tx, managed, None) if with_key else None
            found = issued(tx, managed, None)
        return Offer(
            holder=holder,
            managed=managed,
            version=found.version,
            material=found.material,
            exportable=with_its_key,
        )

    def take(self, offer: Offer, protection: PassphraseExport, *, reason: str) -> Exported:
        """Returns what was offered, its key under a passphrase; the event is committed before.

        A code is used with the event, so of two who come with it one gets something. When the token process fails after
        that, the code is used all the same, and the error says so. Raises what `ManagedExport.export` does,
        DOWNLOAD_CODE_INVALID, and SERVER_BUSY before anything is recorded.
        """
        check_passphrase(protection.form, protection.passphrase, "passphrase", most=self._passphrase_bytes)
        if offer.exportable is None:
            raise TypeError("an offer without its key was taken")
        if not self._exports.acquire(blocking=False):
            raise CertdError(
                Reason.SERVER_BUSY, "as many downloads run as may at once; try again", retry_after=_RETRY_SECONDS
            )
        try:
            with self._told(offer.holder):
                return self._taken(offer, offer.exportable, protection, reason)
        finally:
            self._exports.release()

    def _taken(self, offer: Offer, found: Exportable, protection: PassphraseExport, reason: str) -> Exported:
        holder, code = offer.holder, offer.holder.code
        if code is None:
            self._export.record(found, protection, principal=holder.principal, details={"reason": reason})
            return self._export.encrypted(found, protection)
        self._export.record(
            found,
            protection,
            principal=holder.principal,
            details={"reason": reason or code.reason, "download_code": code.id, "address": holder.address},
            also=lambda tx: self._codes.use(tx, code, offer.managed.name),
        )
        try:
            return self._export.encrypted(found, protection)
        except CertdError as error:
            raise _with_code_used(error) from error

    @contextmanager
    def _told(self, holder: Holder) -> Iterator[None]:
        """Counts what is refused at last."""
        try:
            yield
        except CertdError as error:
            if holder.code is None:
                self._refusals.note(principal=holder.principal, method=METHOD, reason=error.reason, peer=holder.address)
            else:
                self._codes.note(error, address=holder.address)
            raise


def _with_code_used(error: CertdError) -> CertdError:
    """Returns an error that says what became of the code; the same code tried again is of no use."""
    return CertdError(
        error.reason,
        f"{error.message}; the download code is used by this attempt, ask for a new one",
        metadata=error.metadata,
        violations=error.violations,
        resource=error.resource,
    )
