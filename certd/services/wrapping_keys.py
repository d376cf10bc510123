"""Wrapping keys: one per tenant, made the first time that the tenant needs one."""

import secrets

from certd.clock import Clock
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.store import wrapping_keys
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient


class WrappingKeys:
    """Finds and makes wrapping keys."""

    def __init__(self, *, store: Store, token: TokenClient, clock: Clock) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._ensured: set[bytes] = set()
        """CKA_IDs of keys that this process knows to be in the token."""

    def primary(self, tenant: str, *, known: WrappingKey | None) -> WrappingKey:
        """Returns the tenant's key that seals, which surely exists in the token; `known` is what the books have.

        The row comes first and fixes the CKA_ID, so that neither a crash between the two nor two daemons make two keys.
        """
        key = known or self._store.write("wrapping-keys.claim", lambda tx: self._claim(tx, tenant))
        if key.key_id not in self._ensured:
            self._token.ensure_wrapping_key(
                key_id=key.key_id, tenant=tenant, keep_escrow=lambda escrow: self._keep_escrow(key, escrow)
            )
            self._ensured.add(key.key_id)
        return key

    def _keep_escrow(self, key: WrappingKey, escrow: bytes) -> None:
        self._store.write("wrapping-keys.escrow", lambda tx: wrapping_keys.set_escrow(tx, key, escrow))

    def doubt(self, key: WrappingKey) -> None:
        """Has `primary` look into the token again: what was to be sealed under the key was not."""
        self._ensured.discard(key.key_id)

    def _claim(self, tx: Transaction, tenant: str) -> WrappingKey:
        now = self._clock.now()
        ours = WrappingKey(
            tenant=tenant, number=1, key_id=secrets.token_bytes(16), state=WrappingKeyState.PRIMARY, create_time=now
        )
        claimed = wrapping_keys.claim(tx, ours)
        if claimed == ours:
            tx.event(
                Event(
                    time=now,
                    type=EventType.WRAPPING_KEY_CREATED,
                    tenant=tenant,
                    principal=SYSTEM_PRINCIPAL,
                    resource=f"tenants/{tenant}/wrappingKeys/{ours.number}",
                    details={"key_id": ours.key_id.hex()},
                )
            )
        return claimed
