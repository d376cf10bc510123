"""A version of a managed certificate leaves: certificate, chain and private key, the key encrypted."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateType, ManagedCertificateVersion
from certd.model.names import ManagedCertificateName
from certd.pki import sealing
from certd.pki.export_form import ExportForm, check_passphrase
from certd.pki.sealing import SealContext
from certd.services.access import Access
from certd.services.issuing_refusals import token_unavailable
from certd.services.managed_certificate_records import event_of, seal_context
from certd.services.managed_certificate_views import Material, existing_managed, existing_version, material_of
from certd.services.renewal_waits import used_at_last
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.store import managed_certificates, sealed_keys
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

LONGEST_REASON = 256
"""Characters."""


@dataclass(frozen=True, slots=True)
class PassphraseExport:
    """The key leaves under a passphrase."""

    passphrase: bytes = field(repr=False)
    form: ExportForm = ExportForm.PKCS8


@dataclass(frozen=True, slots=True)
class RecipientExport:
    """The key leaves encrypted to a raw X25519 public key with HPKE."""

    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A version that left."""

    version: int
    certificate: bytes
    chain: tuple[bytes, ...]
    """Its issuer first, the root last."""
    encrypted_key: bytes
    """DER of the EncryptedPrivateKeyInfo or of the PKCS#12, or the HPKE message."""
    hpke_info: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A version with its certificate, which is not revoked."""

    managed: ManagedCertificate
    version: ManagedCertificateVersion
    material: Material


@dataclass(frozen=True, slots=True, kw_only=True)
class Exportable:
    """A version that may leave, as the books have it."""

    managed: ManagedCertificate
    number: int
    material: Material
    sealed_key: bytes = field(repr=False)
    context: SealContext


def in_addition_nothing(_tx: Transaction) -> None:
    """Writes nothing more with an export."""


class ManagedExport:
    """The use case."""

    def __init__(self, *, store: Store, token: TokenClient, clock: Clock, access: Access, step: StepHook) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._step = step

    def export(
        self,
        caller: Caller,
        name: ManagedCertificateName,
        *,
        version: int | None,
        protection: PassphraseExport | RecipientExport,
        reason: str,
    ) -> Exported:
        """Returns a version with its private key encrypted; the event is committed before the token process moves.

        Raises NOT_EXPORTABLE, STATE_FORBIDS while there is no certificate, for a revoked version and for one whose key
        is deleted, MANAGED_CERTIFICATE_NOT_FOUND, FIELD_INVALID, RATE_LIMITED, TOKEN_UNAVAILABLE.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_EXPORT, str(name))
        if isinstance(protection, PassphraseExport):
            check_passphrase(protection.form, protection.passphrase, "passphrase")
        with self._store.read("managed-export.read") as tx:
            found = exportable(tx, existing_managed(tx, name), version)
        self.record(found, protection, principal=caller.principal, details={"reason": reason[:LONGEST_REASON]})
        return self.encrypted(found, protection)

    def record(
        self,
        found: Exportable,
        protection: PassphraseExport | RecipientExport,
        *,
        principal: str,
        details: Mapping[str, str],
        also: Callable[[Transaction], None] = in_addition_nothing,
    ) -> None:
        """Says in the books that a version leaves, for somebody who may have it, by a passphrase that was checked.

        `details` is what the event says beside how, and which version. `also` writes something in its transaction, or
        raises, and then nothing is written. Raises what `export` does for a version that may no longer leave, and
        TOKEN_UNAVAILABLE.
        """
        if not self._token.ready:
            # No event of an export that cannot be.
            raise token_unavailable(self._token.problem)
        now = self._clock.now()
        said = {**_details(protection), "version": str(found.number), **details}

        def record(tx: Transaction) -> None:
            also(tx)
            _record(tx, principal, found, said, now)

        self._store.write("managed-export.record", record)
        self._step("export.1.recorded")

    def encrypted(self, found: Exportable, protection: PassphraseExport | RecipientExport) -> Exported:
        """Returns what was recorded to leave; raises RATE_LIMITED, TOKEN_UNAVAILABLE."""
        return Exported(
            version=found.number,
            certificate=found.material.certificate,
            chain=found.material.chain,
            encrypted_key=self._encrypted(found, protection),
            hpke_info=sealing.export_info(found.context) if isinstance(protection, RecipientExport) else b"",
        )

    def _encrypted(self, found: Exportable, protection: PassphraseExport | RecipientExport) -> bytes:
        # What it is sealed under stands in it, whatever was rotated meanwhile.
        wrapping_key_id = sealing.decode_blob(found.sealed_key).wrapping_key_id
        if isinstance(protection, RecipientExport):
            return self._token.export_to_recipient(
                wrapping_key_id=wrapping_key_id,
                sealed_key=found.sealed_key,
                context=found.context,
                recipient_public_key=protection.public_key,
            )
        return self._token.export_under_passphrase(
            wrapping_key_id=wrapping_key_id,
            sealed_key=found.sealed_key,
            context=found.context,
            passphrase=protection.passphrase,
            form=protection.form,
            certificates=(found.material.certificate, *found.material.chain),
            friendly_name=found.managed.managed_certificate_id,
        )


def issued(tx: Transaction, managed: ManagedCertificate, version: int | None) -> Issued:
    """Returns a version, None for the current one; raises STATE_FORBIDS without a certificate and for a revoked one."""
    number = managed.current_version if version is None else version
    if number == 0:
        raise _state_forbids(str(managed.name), "has no version yet; wait until it is ACTIVE")
    chosen = existing_version(tx, managed, number)
    _check_not_revoked(managed, chosen)
    material = material_of(tx, chosen)
    if material is None:
        raise _state_forbids(managed.name.version(number), "has no certificate yet; wait until it is issued")
    return Issued(managed=managed, version=chosen, material=material)


def exportable(tx: Transaction, managed: ManagedCertificate, version: int | None) -> Exportable:
    """Returns what is to leave; raises NOT_EXPORTABLE or STATE_FORBIDS when it may not."""
    check_exportable(managed)
    found = issued(tx, managed, version)
    number = found.version.number
    sealed_key = sealed_keys.get(tx, managed.uid, number)
    if sealed_key is None:
        raise _state_forbids(
            managed.name.version(number),
            "has no key any more: that is deleted when a version is at its end; export the current version",
        )
    return Exportable(
        managed=managed,
        number=number,
        material=found.material,
        sealed_key=sealed_key,
        context=seal_context(
            existing_tenant(tx, managed.tenant).uid,
            managed,
            number,
            public_key_sha256=hashlib.sha256(found.version.public_key).digest(),
        ),
    )


def check_exportable(managed: ManagedCertificate) -> None:
    """Raises NOT_EXPORTABLE for one whose key may not leave, ever."""
    if managed.exportable:
        return
    if managed.type is ManagedCertificateType.IMPORTED:
        why = "was imported as not exportable, for ever; import it as exportable under another id"
    else:
        why = "was requested as not exportable, for ever; request another one to export"
    raise CertdError(Reason.NOT_EXPORTABLE, f"{managed.name} {why}", resource=str(managed.name))


def _check_not_revoked(managed: ManagedCertificate, version: ManagedCertificateVersion) -> None:
    if version.revoke_time is not None:
        name = managed.name.version(version.number)
        raise _state_forbids(name, "is revoked, and what is revoked serves nobody; export a version that lives")


def _state_forbids(name: str, what: str) -> CertdError:
    return CertdError(Reason.STATE_FORBIDS, f"{name} {what}", resource=name)


def _details(protection: PassphraseExport | RecipientExport) -> dict[str, str]:
    """Returns what an event says of how a key left."""
    if isinstance(protection, RecipientExport):
        return {"protection": "recipient"}
    return {"protection": "passphrase", "form": protection.form.value}


def _record(tx: Transaction, principal: str, found: Exportable, details: Mapping[str, str], now: datetime) -> None:
    """Says in the books that a version leaves, if it still may."""
    managed = existing_managed(tx, found.managed.name)
    if managed.uid != found.managed.uid:
        name = str(managed.name)
        raise CertdError(Reason.MANAGED_CERTIFICATE_NOT_FOUND, f"{name} was deleted meanwhile", resource=name)
    version = existing_version(tx, managed, found.number)
    _check_not_revoked(managed, version)
    current = version.number == managed.current_version
    changed = replace(
        managed,
        exported_version=version.number if current else managed.exported_version,
        export_time=now,
        update_time=now,
    )
    changed = used_at_last(tx, managed, changed, now)
    # It is read and written in one transaction, so whatever changed it since it was chosen stays.
    managed_certificates.update(tx, changed, expected_revision=managed.revision)
    made = event_of(EventType.MANAGED_CERTIFICATE_EXPORTED, managed, principal, now, version=version.number)
    tx.event(replace(made, details={**made.details, **details}))
