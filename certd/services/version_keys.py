"""The key of a version of a managed certificate: generated in the token process, sealed, and durable."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateVersion
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey
from certd.pki.key_spec import KeySpec
from certd.services.managed_certificate_records import event_of, seal_context
from certd.services.steps import StepHook
from certd.services.wrapping_keys import WrappingKeys
from certd.store import managed_certificates, managed_deletion, managed_versions, sealed_keys
from certd.store.sealed_keys import SealedKey
from certd.store.store import Store, Transaction
from certd.token.client import GeneratedKey, KeyOrder, TokenClient

_SLOW_TO_GENERATE: Final = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096})
_SLOW_AT_ONCE: Final = 32
"""Half of those for which the token process has places."""

Failures = dict[str, CertdError]
"""Why a version was not made, by uid of the managed certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A version that is to be made."""

    managed: ManagedCertificate
    """As it was read when the making began."""
    tenant: Tenant
    wrapping_key: WrappingKey | None
    """The tenant's key that seals; None: it has none yet."""
    version: ManagedCertificateVersion | None
    """The one in the making, once it has its key."""

    @property
    def uid(self) -> str:
        """Of the managed certificate."""
        return self.managed.uid

    @property
    def number(self) -> int:
        """Of the version."""
        return self.managed.current_version + 1


@dataclass(frozen=True, slots=True)
class _Generated:
    """A version with its sealed key, which nothing is yet known of in the books."""

    making: Making
    version: ManagedCertificateVersion
    sealed_key: bytes


def tell(step: StepHook, makings: Sequence[Making], *, first: str, renewal: str) -> None:
    """Says that a step is done, by its name for first versions or for those that follow one."""
    for name in sorted({renewal if making.managed.current_version else first for making in makings}):
        step(name)


class VersionKeys:
    """Makes the keys of versions."""

    def __init__(
        self, *, store: Store, token: TokenClient, clock: Clock, wrapping_keys: WrappingKeys, step: StepHook
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._wrapping_keys = wrapping_keys
        self._step = step
        self._generating_slowly = threading.Lock()
        """Held by who has slow keys generated, so that others find places in the token process, too."""

    def make(self, makings: Sequence[Making], failures: Failures) -> list[Making]:
        """Returns those versions that have their key, made now or before; adds the others to `failures`."""
        there = [making for making in makings if making.version is not None]
        tenants: dict[str, list[Making]] = {}
        for making in makings:
            if making.version is None:
                tenants.setdefault(making.managed.tenant, []).append(making)
        for of_tenant in tenants.values():
            try:
                there += self._make(of_tenant, failures)
            except CertdError as error:
                failures.update({making.uid: error.another() for making in of_tenant})
        return there

    def replace_compromised(self, making: Making) -> CertdError:
        """Forgets the key of a version that may never be certified; returns why to try again, with another one.

        Its certificate was interrupted once and counts as lost, and somebody has revoked that as compromised.
        """
        self._store.write(
            "managed-certificates.forget-key",
            lambda tx: managed_deletion.delete_in_making(tx, making.uid, making.number),
        )
        name = making.managed.name.version(making.number)
        return CertdError(
            Reason.OWNERSHIP_LOST,
            f"the key of {name} was reported as compromised; another one is made",
            retry_after=0.5,
        )

    def _make(self, makings: Sequence[Making], failures: Failures) -> list[Making]:
        """Makes those of one tenant."""
        wrapping_key = self._wrapping_keys.primary(makings[0].managed.tenant, known=makings[0].wrapping_key)
        tell(self._step, makings, first="managed.2.wrapping-key", renewal="renewal.1.wrapping-key")
        orders = [
            KeyOrder(
                wrapping_key_id=wrapping_key.key_id,
                key_spec=making.managed.key_spec,
                context=seal_context(making.tenant.uid, making.managed, making.number, public_key_sha256=b""),
            )
            for making in makings
        ]
        now = self._clock.now()
        generated = []
        for making, made in zip(makings, self._generate(orders), strict=True):
            if isinstance(made, CertdError):
                self._wrapping_keys.doubt(wrapping_key)
                failures[making.uid] = made
                continue
            version = ManagedCertificateVersion(
                managed_certificate_uid=making.uid,
                number=making.number,
                public_key=made.public_key,
                wrapping_key_number=wrapping_key.number,
                authority_uid=making.managed.authority_uid,
                serial=None,
                create_time=now,
            )
            generated.append(_Generated(making, version, made.sealed_key))
        return self._keep(generated, failures, now) if generated else []

    def _generate(self, orders: Sequence[KeyOrder]) -> list[GeneratedKey | CertdError]:
        if not any(order.key_spec in _SLOW_TO_GENERATE for order in orders):
            return self._token.generate_subscriber_keys(orders)
        with self._generating_slowly:
            parts = [orders[start : start + _SLOW_AT_ONCE] for start in range(0, len(orders), _SLOW_AT_ONCE)]
            return [made for part in parts for made in self._token.generate_subscriber_keys(part)]

    def _keep(self, generated: Sequence[_Generated], failures: Failures, now: datetime) -> list[Making]:
        """Writes versions and sealed keys in one transaction, one by one only after an error."""
        try:
            return self._store.write("managed-certificates.keys", lambda tx: _insert(tx, generated, now))
        except CertdError as error:
            if len(generated) == 1:
                failures[generated[0].making.uid] = error
                return []
        return [making for one in generated for making in self._keep([one], failures, now)]


def _insert(tx: Transaction, generated: Sequence[_Generated], now: datetime) -> list[Making]:
    there = managed_certificates.there(tx, [one.making.uid for one in generated])
    for one in generated:
        if one.making.uid not in there:
            name = one.making.managed.name
            raise CertdError(Reason.MANAGED_CERTIFICATE_NOT_FOUND, f"{name} was deleted meanwhile", resource=str(name))
    if managed_versions.insert_all(tx, [one.version for one in generated]) != len(generated):
        return [_earlier(tx, generated)]
    sealed_keys.insert_all(
        tx,
        generated[0].making.managed.tenant,
        [
            SealedKey(
                managed_uid=one.making.uid,
                version=one.version.number,
                wrapping_key_number=one.version.wrapping_key_number,
                blob=one.sealed_key,
            )
            for one in generated
        ],
    )
    for one in generated:
        tx.event(
            event_of(
                EventType.MANAGED_CERTIFICATE_KEY_GENERATED,
                one.making.managed,
                SYSTEM_PRINCIPAL,
                now,
                version=one.version.number,
            )
        )
    return [replace(one.making, version=one.version) for one in generated]


def _earlier(tx: Transaction, generated: Sequence[_Generated]) -> Making:
    """Returns a version that another daemon gave its key: the first key is the one that stays."""
    making = generated[0].making
    found = managed_versions.get(tx, making.uid, making.number) if len(generated) == 1 else None
    if found is None or found.issued:
        # One of several, which are looked at one by one then; or it is made already.
        raise CertdError(
            Reason.OWNERSHIP_LOST, f"{making.managed.name} is worked on elsewhere; try again", retry_after=0.5
        )
    return replace(making, version=found)
