"""Deliveries of daemons: with their schedulers and their tokens, to a real receiver over HTTPS."""

import base64
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from certd.config import Config
from certd.config_notify import Notify
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ManagedCertificateName, SubscriptionName
from certd.model.subscription import WebhookTarget
from certd.outbound import webhook
from certd.services.subscription_plan import NewSubscription
from certd.store import events
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, World, configuration, running_world
from tests.waiting import eventually
from tests.webhooks import Receiver, running_receiver, send

__all__ = ["postgres_server", "postgres_url"]


def _config(folder: Path, token: TokenSettings, database_url: str = "") -> Config:
    made = configuration(folder, token, database_url=database_url)
    return made.model_copy(update={"notify": Notify(allowed_networks=(IPv4Network("127.0.0.1/32"),))})


@contextmanager
def _world(folder: Path, token: TokenSettings) -> Iterator[World]:
    with running_world(_config(folder, token), FakeClock()) as world:
        yield world


def _subscribe(world: World, receiver: Receiver, id_: str = "hook") -> bytes:
    """Makes a subscription to every event; returns its secret."""
    target = WebhookTarget(url=f"https://127.0.0.1:{receiver.port}/", trusted_roots=receiver.roots)
    new = NewSubscription(name=SubscriptionName("default", id_), target=target)
    made = world.core.delivering.subscriptions.create(ADMINISTRATOR, new, validate_only=False)
    return base64.b64decode(made.secret.removeprefix("whsec_"))


def _all_came(world: World, receiver: Receiver, at_least: int) -> bool:
    """Returns whether the tenant's events since the first subscription came, each once, in their order."""
    with world.core.store.read("test") as tx:
        page = events.page(tx, after_seq=0, limit=10_000, tenant="default")
    made = next((one.seq for one in page if one.event.type is EventType.SUBSCRIPTION_CREATED), None)
    # On PostgreSQL what happened right before it may come too.
    wanted = [one.seq for one in page if made is not None and one.seq >= made]
    return len(wanted) >= at_least and [seq for seq in receiver.seqs if made is None or seq >= made] == wanted


def test_events_are_delivered_as_they_happen_signed_by_the_secret_that_was_told(
    tmp_path: Path, token_settings: TokenSettings
) -> None:
    with running_receiver(tmp_path) as receiver, _world(tmp_path, token_settings) as world:
        first = _subscribe(world, receiver)
        world.create_root()
        eventually(lambda: _all_came(world, receiver, 3))
        assert all(one.signed_by(first) for one in receiver.taken)
        name = SubscriptionName("default", "hook")
        rotated = world.core.delivering.subscriptions.rotate_secret(ADMINISTRATOR, name)
        assert "whsec_" in rotated.secret
        eventually(lambda: _all_came(world, receiver, 4))
        assert len(receiver.taken[-1].headers["webhook-signature"].split(" ")) == 2
        assert receiver.taken[-1].signed_by(first)
        assert world.core.delivering.subscriptions.test(ADMINISTRATOR, name) == ""
        assert receiver.taken[-1].event["type"] == "subscription.test"
        assert "seq" not in receiver.taken[-1].event
        counted = REGISTRY.get_sample_value("certd_deliveries_total", {"kind": "webhook", "outcome": "taken"})
        assert counted is not None
        assert counted >= len(receiver.taken)


def test_receivers_that_think_for_long_keep_no_renewal_waiting(
    tmp_path: Path, token_settings: TokenSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are workers for deliveries; what comes next comes when they are done."""
    monkeypatch.setattr(webhook, "LONGEST", 120.0)
    go_on = threading.Event()

    def think(handler: BaseHTTPRequestHandler) -> None:
        go_on.wait(60)
        send(handler, 204)

    with running_receiver(tmp_path) as receiver, _world(tmp_path, token_settings) as world, ExitStack() as stack:
        stack.callback(go_on.set)
        receiver.answer = think
        world.create_root()
        for number in range(20):
            _subscribe(world, receiver, f"hook-{number}")
        eventually(lambda: len(receiver.received) == 16)
        world.request("web", authority=AuthorityName("default", "root"))
        name = ManagedCertificateName("default", "web")

        def active() -> bool:
            view = world.core.managed_certificates.get(ADMINISTRATOR, name)
            return view.state is ManagedCertificateState.ACTIVE

        eventually(active)
        assert len(receiver.received) == 16
        go_on.set()
        eventually(lambda: len({one.headers["webhook-id"].partition(":")[2] for one in receiver.received}) == 20)


def test_two_daemons_deliver_each_event_once_and_in_order(
    tmp_path: Path, token_settings: TokenSettings, postgres_url: str
) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    config, clock = _config(tmp_path, token_settings, url), FakeClock()
    with (
        running_receiver(tmp_path) as receiver,
        running_world(config, clock) as first,
        running_world(config, clock) as second,
    ):
        _subscribe(first, receiver)
        for number in range(4):
            (first, second)[number % 2].create_root(f"root-{number}")
        eventually(lambda: _all_came(first, receiver, 8))
