"""Import keys: to which clients seal the private keys that they import.

A tenant has one at a time to give away. Two daemons may each make one at the same moment; both work: any that has not
ended may be sealed to, as long as the wrapping key that it is sealed under is not destroyed.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime

from certd.clock import rfc3339
from certd.errors import CertdError, field_invalid
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.import_key import LEAST_LEFT, LIFETIME, ImportKey
from certd.model.names import ImportKeyName
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.sealing import Purpose, SealContext
from certd.services.issuing_refusals import token_unavailable
from certd.services.system import SystemAuthority
from certd.services.tenants import existing_tenant
from certd.services.wrapping_keys import WrappingKeys
from certd.store import import_keys, wrapping_keys
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

FIELD = "sealed_private_key.import_key"
"""Where an import names the key that it is sealed to."""
_ID_BYTES = 8
_TAKE_ANOTHER = "take the one that GetImportKey returns now, and seal to that"
_TRIES = 3
"""Rotations of the wrapping key that one call sees through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningImportKey:
    """An import key with what is needed to open it."""

    key: ImportKey
    wrapping_key: WrappingKey


class ImportKeys:
    """Finds and makes import keys."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        wrapping_keys: WrappingKeys,
        system_authority: SystemAuthority,
    ) -> None:
        self._store = store
        self._token = token
        self._wrapping_keys = wrapping_keys
        self._system_authority = system_authority

    def current(self, tenant: str, now: datetime) -> ImportKey:
        """Returns the import key of a tenant that lives longest, which is made when there is none that will do.

        Raises TENANT_NOT_FOUND, TOKEN_UNAVAILABLE, and STATE_FORBIDS before `certd init` has made a system authority.
        """
        trusted = self._system_authority.roots()
        kept = None
        for _ in range(_TRIES):
            with self._store.read("import-keys.current") as tx:
                owner = existing_tenant(tx, tenant)
                newest = import_keys.newest(tx, tenant)
                primary = wrapping_keys.primary(tx, tenant)
            if newest is not None and _will_do(newest, primary, trusted, now):
                return newest
            kept = self._make(owner, primary, now)
            if kept is not None:
                return kept
        raise token_unavailable("the wrapping key was rotated while an import key was made under it")

    def opening(self, tx: Transaction, name: ImportKeyName, now: datetime) -> OpeningImportKey:
        """Returns an import key that may be sealed to; raises FIELD_INVALID, with what to do."""
        key = import_keys.get(tx, name.tenant, name.import_key)
        if key is None:
            raise field_invalid(FIELD, f"{name} does not exist, or ended long ago; {_TAKE_ANOTHER}")
        if now >= key.expire_time:
            raise field_invalid(FIELD, f"{name} ended at {rfc3339(key.expire_time)}; {_TAKE_ANOTHER}")
        wrapping_key = wrapping_keys.get(tx, name.tenant, key.wrapping_key_number)
        if wrapping_key is None or wrapping_key.state is WrappingKeyState.DESTROYED:
            raise field_invalid(
                FIELD, f"{name} went with wrapping key {key.wrapping_key_number}, which was destroyed; {_TAKE_ANOTHER}"
            )
        return OpeningImportKey(key=key, wrapping_key=wrapping_key)

    def _make(self, owner: Tenant, primary: WrappingKey | None, now: datetime) -> ImportKey | None:
        """Returns a new import key; None when its wrapping key stopped being primary meanwhile."""
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        wrapping_key = self._wrapping_keys.primary(owner.tenant_id, known=primary)
        authority = self._system_authority.get()
        import_key_id = f"k{secrets.token_hex(_ID_BYTES)}"
        expire_time = now + LIFETIME
        try:
            generated = self._token.generate_import_key(
                wrapping_key_id=wrapping_key.key_id,
                context=import_context(owner.uid, import_key_id),
                expire_time=expire_time,
                authority_key_id=authority.key.key_id,
                authority_policy=authority.key.policy,
                signature_algorithm=authority.signature_algorithm,
            )
        except CertdError:
            self._wrapping_keys.doubt(wrapping_key)
            raise
        made = ImportKey(
            tenant=owner.tenant_id,
            import_key_id=import_key_id,
            public_key=generated.public_key,
            wrapping_key_number=wrapping_key.number,
            sealed_key=generated.sealed_key,
            statement=generated.statement,
            signature=generated.signature,
            signature_algorithm=authority.signature_algorithm,
            authority_certificate=authority.certificate or b"",
            create_time=now,
            expire_time=expire_time,
        )

        def keep(tx: Transaction) -> ImportKey | None:
            if not wrapping_keys.seals(tx, owner.tenant_id, wrapping_key.number):
                return None
            import_keys.delete_expired(tx, owner.tenant_id, now)
            import_keys.insert(tx, made)
            tx.event(
                Event(
                    time=now,
                    type=EventType.IMPORT_KEY_CREATED,
                    tenant=owner.tenant_id,
                    principal=SYSTEM_PRINCIPAL,
                    resource=str(made.name),
                    details={
                        "wrapping_key": str(wrapping_key.number),
                        "authority": authority.authority_id,
                        "expire_time": rfc3339(expire_time),
                    },
                )
            )
            return made

        return self._store.write("import-keys.keep", keep)


def import_context(tenant_uid: str, import_key_id: str) -> SealContext:
    """Returns what the private half of an import key is bound to; the token process fills in the hash."""
    return SealContext(
        tenant=tenant_uid,
        certificate=import_key_id,
        version=1,
        purpose=Purpose.IMPORT,
        exportable=False,
        public_key_sha256=b"",
    )


def _will_do(key: ImportKey, primary: WrappingKey | None, trusted: tuple[bytes, ...], now: datetime) -> bool:
    """Returns whether a client can take an import key, keep it for a while, and see that it is ours."""
    return (
        key.expire_time - now >= LEAST_LEFT
        and primary is not None
        and key.wrapping_key_number == primary.number
        and key.authority_certificate in trusted
    )
