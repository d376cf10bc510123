"""Secrets by which webhooks are signed (Standard Webhooks): made here, told once, kept sealed, opened in memory."""

import base64
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey
from certd.pki.sealing import SecretContext
from certd.services.wrapping_keys import WrappingKeys
from certd.store import subscription_secrets, wrapping_keys
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

OVERLAP: Final = timedelta(hours=24)
"""How long an old secret signs beside the new one."""
_BYTES: Final = 32
_PREFIX: Final = "whsec_"
_MOST: Final = 16_384
"""Subscriptions whose secrets are kept in memory."""
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A secret that is sealed and not yet kept."""

    subscription_uid: str
    number: int
    secret: bytes = field(repr=False)
    blob: bytes = field(repr=False)
    wrapping_key: WrappingKey

    @property
    def text(self) -> str:
        """As it is told, once."""
        return _PREFIX + base64.b64encode(self.secret).decode()


class SubscriptionSecrets:
    """Makes secrets and opens them."""

    def __init__(self, *, store: Store, token: TokenClient, clock: Clock, wrapping_keys: WrappingKeys) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._wrapping_keys = wrapping_keys
        self._lock = threading.Lock()
        self._opened: dict[str, dict[int, bytes]] = {}
        """By the uid of the subscription and the number of the secret, which never changes."""

    def of(self, subscription_uid: str) -> tuple[bytes, ...]:
        """Returns the secrets by which a subscription's deliveries are signed now, the newest first.

        None for mail, and for one that is gone. Raises TOKEN_UNAVAILABLE, and TOKEN_POLICY_FORBIDS when one does not
        open.
        """
        now = self._clock.now()
        with self._store.read("subscription-secrets.of") as tx:
            live = subscription_secrets.live(tx, subscription_uid, now)
        known = self._opened.get(subscription_uid, {})
        opened: dict[int, bytes] = {}
        for row in live:
            found = known.get(row.number)
            if found is None:
                context = SecretContext(tenant=row.tenant_uid, subscription=row.subscription_uid, number=row.number)
                found = self._token.open_secret(row.blob, wrapping_key_id=row.wrapping_key_id, context=context)
            opened[row.number] = found
        with self._lock:
            if not opened:
                self._opened.pop(subscription_uid, None)
            else:
                if len(self._opened) >= _MOST:
                    self._opened.clear()
                self._opened[subscription_uid] = opened
        return tuple(opened.values())

    def seal_new(self, owner: Tenant, subscription_uid: str, *, number: int, known: WrappingKey | None) -> NewSecret:
        """Returns a new secret, sealed under the tenant's primary wrapping key; `known` is what the books have of it.

        Raises TOKEN_UNAVAILABLE.
        """
        wrapping_key = self._wrapping_keys.primary(owner.tenant_id, known=known)
        secret = secrets.token_bytes(_BYTES)
        context = SecretContext(tenant=owner.uid, subscription=subscription_uid, number=number)
        try:
            blob = self._token.seal_secret(secret, wrapping_key_id=wrapping_key.key_id, context=context)
        except CertdError:
            self._wrapping_keys.doubt(wrapping_key)
            raise
        return NewSecret(
            subscription_uid=subscription_uid, number=number, secret=secret, blob=blob, wrapping_key=wrapping_key
        )

    def forget(self, subscription_uid: str) -> None:
        """Forgets the secrets of a subscription that is gone."""
        with self._lock:
            self._opened.pop(subscription_uid, None)

    def delete_expired(self) -> None:
        """Deletes secrets that have ended; called by the scheduler every few seconds."""
        now = self._clock.now()
        while self._store.write("subscription-secrets.delete-expired", lambda tx: _delete_expired(tx, now)) == _BATCH:
            pass


def keep(tx: Transaction, new: NewSecret) -> bool:
    """Writes a new secret; returns False, with nothing written, when its wrapping key is no longer the primary one."""
    tenant, number = new.wrapping_key.tenant, new.wrapping_key.number
    if not wrapping_keys.seals(tx, tenant, number):
        return False
    subscription_secrets.insert(
        tx,
        subscription_uid=new.subscription_uid,
        number=new.number,
        tenant=tenant,
        wrapping_key_number=number,
        blob=new.blob,
    )
    return True


def _delete_expired(tx: Transaction, now: datetime) -> int:
    return subscription_secrets.delete_expired(tx, now, limit=_BATCH)
