"""A version of a managed certificate leaves: certificate, chain and private key, the key encrypted."""

import hashlib
from dataclasses import dataclass, field

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.event import Event, EventType
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateVersion
from certd.model.names import ManagedCertificateName
from certd.pki import pkcs8, sealing
from certd.services.access import Access
from certd.services.issuing_refusals import token_unavailable
from certd.services.managed_certificate_records import seal_context
from certd.services.managed_certificate_views import existing_managed, existing_version, material_of
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.store import sealed_keys, wrapping_keys
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

_LONGEST_REASON = 256


@dataclass(frozen=True, slots=True)
class PassphraseExport:
    """The key leaves as PKCS#8 under a passphrase."""

    passphrase: bytes = field(repr=False)


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
    encrypted_key: bytes
    """DER of the EncryptedPrivateKeyInfo, or the HPKE message."""
    hpke_info: bytes


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

        Raises NOT_EXPORTABLE, STATE_FORBIDS while there is no certificate, MANAGED_CERTIFICATE_NOT_FOUND,
        FIELD_INVALID, RATE_LIMITED, TOKEN_UNAVAILABLE.
        """
        self._access.require(caller, Permission.MANAGED_CERTIFICATE_EXPORT, str(name))
        if isinstance(protection, PassphraseExport):
            pkcs8.check_passphrase(protection.passphrase, "passphrase")
        with self._store.read("managed-export") as tx:
            managed = existing_managed(tx, name)
            chosen = _exportable_version(tx, managed, version)
            material = material_of(tx, chosen)
            sealed = sealed_keys.get(tx, managed.uid, chosen.number)
            wrapping_key = wrapping_keys.get(tx, managed.tenant, chosen.wrapping_key_number)
            tenant = existing_tenant(tx, managed.tenant)
        if material is None or sealed is None or wrapping_key is None:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"{name.version(chosen.number)} has no certificate yet; wait until it is ACTIVE",
                resource=name.version(chosen.number),
            )
        context = seal_context(
            tenant.uid, managed, chosen.number, public_key_sha256=hashlib.sha256(chosen.public_key).digest()
        )
        if not self._token.ready:
            # No event of an export that cannot be.
            raise token_unavailable(self._token.problem)
        now = self._clock.now()
        event = Event(
            time=now,
            type=EventType.MANAGED_CERTIFICATE_EXPORTED,
            tenant=managed.tenant,
            principal=caller.principal,
            resource=name.version(chosen.number),
            details={
                "protection": "passphrase" if isinstance(protection, PassphraseExport) else "recipient",
                "reason": reason[:_LONGEST_REASON],
            },
        )
        self._store.write("managed-export", lambda tx: tx.event(event))
        self._step("export.1.recorded")
        if isinstance(protection, PassphraseExport):
            encrypted = self._token.export_under_passphrase(
                wrapping_key_id=wrapping_key.key_id,
                sealed_key=sealed,
                context=context,
                passphrase=protection.passphrase,
            )
            info = b""
        else:
            encrypted = self._token.export_to_recipient(
                wrapping_key_id=wrapping_key.key_id,
                sealed_key=sealed,
                context=context,
                recipient_public_key=protection.public_key,
            )
            info = sealing.export_info(context)
        return Exported(
            version=chosen.number,
            certificate=material.certificate,
            chain=material.chain,
            encrypted_key=encrypted,
            hpke_info=info,
        )


def _exportable_version(tx: Transaction, managed: ManagedCertificate, version: int | None) -> ManagedCertificateVersion:
    if not managed.exportable:
        raise CertdError(
            Reason.NOT_EXPORTABLE,
            f"{managed.name} was requested as not exportable, for ever; request another one to export",
            resource=str(managed.name),
        )
    number = managed.current_version if version is None else version
    if number == 0:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{managed.name} has no version yet; wait until it is ACTIVE",
            resource=str(managed.name),
        )
    return existing_version(tx, managed, number)
