"""Rotations of a wrapping key under fire: whatever dies at whichever step, every key opens, and the old one goes.

A round arms the daemon, rotates the wrapping key of a tenant whose managed certificates have their keys sealed under it
and destroys the old one, each call repeated with its request id until it is answered. After each of them every key is
exported and held against its certificate, which `export_to_one_time_key` does. Secrets of webhooks lie beside the keys;
no call opens them, so a token process of the test does in the end: one that was lost in any round opens never again.
"""

import base64
import uuid
from functools import partial
from typing import Self

from certd.client.connection import Client
from certd.client.export import export_to_one_time_key
from certd.clock import SystemClock
from certd.config import load, token_settings
from certd.services.subscription_secrets import SubscriptionSecrets
from certd.services.wrapping_keys import WrappingKeys
from certd.store import events
from certd.store.store import Store
from certd.token.client import start_child
from certd.v1.event_service_pb2 import CreateSubscriptionRequest, RotateSubscriptionSecretRequest
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ListManagedCertificatesRequest
from certd.v1.subscription_pb2 import Subscription, Webhook
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import (
    DestroyWrappingKeyRequest,
    GetWrappingKeyRequest,
    RotateWrappingKeyRequest,
)
from tests.daemon import Installation
from tests.faults.asking import authority_request, managed_request
from tests.faults.served import TENANT, Served
from tests.system.books import rows
from tests.waiting import eventually

STEPS = (
    "rotation.1.rotated",
    "rotation.2.resealed",
    "rotation.3.written",
    "rotation.4.retired",
    "destroy.1.recorded",
    "destroy.2.destroyed",
)
"""Every numbered step of a rotation and of the destruction after it."""


class Rotations:
    """An installation whose wrapping key is rotated again and again."""

    def __init__(self, installation: Installation, *, certificates: int, webhooks: int = 2) -> None:
        # Nobody listens there, and nothing is sent.
        text = installation.config.read_text()
        allowed = text.replace('# allowed_networks = ["10.20.0.0/16"]', 'allowed_networks = ["127.0.0.1/32"]')
        assert allowed != text
        installation.config.write_text(allowed)
        self._installation = installation
        self._served = Served(installation)
        self._certificates = certificates
        self._webhooks = webhooks
        self._secrets: dict[str, list[bytes]] = {}
        """As they were told, by the uid of the subscription, the newest first."""
        self.number = 1
        """Of the key that is primary."""

    def __enter__(self) -> Self:
        self._served.__enter__()
        try:
            with self._served.client() as client:
                for authority_id, issuer in (("root", ""), ("ca", f"{TENANT}/authorities/root")):
                    client.call(client.stubs.create_authority, authority_request(authority_id, issuer))
                for number in range(self._certificates):
                    client.call(client.stubs.request_managed_certificate, managed_request(f"m{number}"))
                eventually(lambda: len(self._active(client)) == self._certificates, within=60)
                for number in range(self._webhooks):
                    self._subscribe(client, f"hook-{number}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()

    def round(self, victim: str, step: str) -> None:
        """Rotates and destroys, and lets the victim die at a step of that."""
        before = self._served.pid_of(victim)
        self._served.running.arm(step, 1, victim)
        old, new = self._name(self.number), self._name(self.number + 1)
        rotation = RotateWrappingKeyRequest(parent=TENANT, request_id=str(uuid.uuid4()))
        answered = self._served.insist(lambda client: client.stubs.rotate_wrapping_key(rotation, timeout=20))
        assert answered.name == new
        retired = self._becomes(old, WrappingKey.RETIRED)
        assert retired.resealed_count == retired.reseal_count == self._certificates + 2 * self._webhooks
        self._check_everything_opens()
        destruction = DestroyWrappingKeyRequest(name=old, etag=retired.etag, request_id=str(uuid.uuid4()))
        gone = self._served.insist(lambda client: client.stubs.destroy_wrapping_key(destruction, timeout=20))
        assert gone.state == WrappingKey.DESTROYED
        # The job ends when the token has done it.
        eventually(self._is_settled, within=60)
        eventually(lambda: self._served.pid_of(victim) not in {before, None}, within=60)
        self._check_everything_opens()
        self.number += 1

    def stop(self) -> None:
        """Stops the daemon as an operator does, and looks at the books."""
        self._served.stop()
        states = self._read("SELECT state, count(*) FROM wrapping_keys GROUP BY state ORDER BY state")
        assert states == [("DESTROYED", self.number - 1), ("PRIMARY", 1)]
        assert self._read("SELECT DISTINCT wrapping_key_number FROM sealed_keys") == [(self.number,)]
        assert self._read("SELECT DISTINCT wrapping_key_number FROM subscription_secrets") == [(self.number,)]
        self._check_every_secret_opens()
        assert self._read("SELECT DISTINCT wrapping_key_number FROM managed_certificate_versions") == [(self.number,)]
        kinds = [kind for kind, resource in self._events() if resource.startswith(f"{TENANT}/wrappingKeys/")]
        for kind in ("rotated", "retired", "destroyed"):
            assert kinds.count(f"wrapping-key.{kind}") == self.number - 1, kind

    def _events(self) -> list[tuple[str, str]]:
        store = Store.open(f"sqlite:///{self._served.file}", clock=SystemClock())
        try:
            with store.read("audit") as tx:
                assert events.verify_all(tx) == []
                found = events.page(tx, after_seq=0, limit=10_000)
        finally:
            store.close()
        return [(row.event.type.value, row.event.resource) for row in found]

    def _active(self, client: Client) -> list[ManagedCertificate]:
        request = ListManagedCertificatesRequest(parent=TENANT, page_size=1000)
        found = client.call(client.stubs.list_managed_certificates, request).managed_certificates
        return [one for one in found if one.state == ManagedCertificate.ACTIVE]

    def _becomes(self, name: str, state: "WrappingKey.State.ValueType") -> WrappingKey:
        request = GetWrappingKeyRequest(name=name)

        def found() -> WrappingKey | None:
            key = self._served.insist(lambda client: client.stubs.get_wrapping_key(request, timeout=20))
            return key if key.state == state else None

        key = eventually(found, within=60)
        assert key is not None
        return key

    def _check_everything_opens(self) -> None:
        for number in range(self._certificates):
            name = f"{TENANT}/managedCertificates/m{number}"
            exported = self._served.insist(partial(export_to_one_time_key, name=name))
            assert exported.response.version == 1

    def _subscribe(self, client: Client, subscription_id: str) -> None:
        """Makes a webhook with two secrets."""
        webhook = Webhook(url="https://127.0.0.1:9/hook")
        request = CreateSubscriptionRequest(
            parent=TENANT,
            subscription_id=subscription_id,
            subscription=Subscription(webhook=webhook, state=Subscription.DISABLED),
        )
        made = client.call(client.stubs.create_subscription, request)
        rotation = RotateSubscriptionSecretRequest(name=made.subscription.name)
        rotated = client.call(client.stubs.rotate_subscription_secret, rotation)
        told = [rotated.secret, made.secret]
        self._secrets[made.subscription.uid] = [base64.b64decode(text.removeprefix("whsec_")) for text in told]

    def _check_every_secret_opens(self) -> None:
        """With a token process of our own, beside no daemon."""
        clock = SystemClock()
        token = start_child(token_settings(load(self._installation.config)))
        store = Store.open(f"sqlite:///{self._served.file}", clock=clock)
        try:
            assert token.wait_ready(20), token.problem
            secrets = SubscriptionSecrets(
                store=store,
                token=token,
                clock=clock,
                wrapping_keys=WrappingKeys(store=store, token=token, clock=clock),
            )
            assert {uid: list(secrets.of(uid)) for uid in self._secrets} == self._secrets
        finally:
            store.close()
            token.stop()

    def _is_settled(self) -> bool:
        lives = self._served.running.process.poll() is None
        return lives and self._read("SELECT count(*) FROM jobs WHERE kind = 'reseal-keys'") == [(0,)]

    def _name(self, number: int) -> str:
        return f"{TENANT}/wrappingKeys/{number}"

    def _read(self, query: str) -> list[tuple[object, ...]]:
        return rows(self._served.file, query)
