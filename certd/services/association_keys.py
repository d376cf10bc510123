"""Keys sealed for consumers: what lies in custody is sealed once more, for one consumer alone."""

import hashlib
from dataclasses import dataclass, replace

from certd.errors import CertdError
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateVersion
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey
from certd.pki.sealing import Purpose, SealContext, decode_blob
from certd.services.issuing_refusals import token_unavailable
from certd.services.managed_certificate_records import seal_context
from certd.services.wrapping_keys import WrappingKeys
from certd.store import association_keys, sealed_keys, wrapping_keys
from certd.store.store import Transaction
from certd.token.client import ResealItem, TokenClient

TRIES = 3
"""Rotations of the wrapping key that one call sees through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """The key of a version as certd keeps it, and the wrapping key under which it is sealed for consumers."""

    tenant: str
    context: SealContext
    sealed_key: bytes
    primary: WrappingKey | None
    """None: the tenant has none yet."""

    def context_for(self, consumer: str) -> SealContext:
        """Returns what the copy for a consumer, a SPIFFE id, is bound to. It never leaves but in a lease."""
        return replace(self.context, purpose=Purpose.ASSOCIATION, consumer=consumer, exportable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerKey:
    """The key of a version, sealed for one consumer, and not yet in the books."""

    managed_certificate_uid: str
    version: int
    wrapping_key_number: int
    blob: bytes


def custody_of(
    tx: Transaction, tenant: Tenant, managed: ManagedCertificate, version: ManagedCertificateVersion
) -> Custody | None:
    """Returns the key of a version; None when it is there no more, or not yet."""
    sealed_key = sealed_keys.get(tx, managed.uid, version.number)
    if sealed_key is None:
        return None
    return Custody(
        tenant=managed.tenant,
        context=seal_context(
            tenant.uid, managed, version.number, public_key_sha256=hashlib.sha256(version.public_key).digest()
        ),
        sealed_key=sealed_key,
        primary=wrapping_keys.primary(tx, managed.tenant),
    )


def may_be_kept(tx: Transaction, managed_uid: str, key: ConsumerKey) -> bool:
    """Returns whether it is a key of this managed certificate, and the wrapping key under which it was sealed seals.

    Asked in the transaction that keeps it: meanwhile the managed certificate may have been deleted, and another made by
    its name, as which nothing of this one ever opens.
    """
    own = key.managed_certificate_uid == managed_uid
    return own and sealed_keys.is_primary(tx, managed_uid, key.wrapping_key_number)


def keep(tx: Transaction, managed_uid: str, association_id: str, key: ConsumerKey) -> None:
    """Keeps a key for the consumer of an association, unless it has one for the version; STATE_FORBIDS as the store."""
    association_keys.insert(
        tx, managed_uid, association_id, key.version, wrapping_key_number=key.wrapping_key_number, blob=key.blob
    )


def rotated_meanwhile() -> CertdError:
    """Returns the error of a call that met more rotations of the wrapping key than it sees through."""
    return token_unavailable("the wrapping key was rotated while a key was sealed under it")


class AssociationKeys:
    """Seals keys for consumers."""

    def __init__(self, *, token: TokenClient, wrapping_keys: WrappingKeys) -> None:
        self._token = token
        self._wrapping_keys = wrapping_keys

    def seal(self, custody: Custody, consumer: str) -> ConsumerKey:
        """Seals a key for a consumer, a SPIFFE id, under the tenant's primary wrapping key.

        Raises TOKEN_UNAVAILABLE, and TOKEN_POLICY_FORBIDS when the key in custody does not open as what it should be.
        """
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        primary = self._wrapping_keys.primary(custody.tenant, known=custody.primary)
        item = ResealItem(
            # What it is sealed under stands in it; while keys are sealed anew, rows may be about another.
            wrapping_key_id=decode_blob(custody.sealed_key).wrapping_key_id,
            sealed_key=custody.sealed_key,
            context=custody.context,
            new_wrapping_key_id=primary.key_id,
            new_context=custody.context_for(consumer),
        )
        (outcome,) = self._token.reseal([item])
        if isinstance(outcome, CertdError):
            self._wrapping_keys.doubt(primary)
            raise outcome
        return ConsumerKey(
            managed_certificate_uid=custody.context.certificate,
            version=custody.context.version,
            wrapping_key_number=primary.number,
            blob=outcome,
        )
