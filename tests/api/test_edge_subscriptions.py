"""Subscriptions at the edge: what comes in is converted whole, refused with every field, and goes out whole."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from certd.model.names import SubscriptionName, TenantName
from certd.model.subscription import MailTarget, SubscriptionState, WebhookTarget
from certd.services.paging import PageRequest
from certd.services.subscription_plan import OF_BOTH, OF_MAIL, OF_WEBHOOKS, NewSubscription, SubscriptionChange
from certd.v1 import event_pb2, event_service_pb2, subscription_pb2
from tests.api.edge_messages import REQUEST_ID, call, moment_of, refused
from tests.api.edge_server import ALICE, TENANT_ROOT, Edge
from tests.api.edge_subscriptions import MADE

NAME = "tenants/default/subscriptions/hook"
URL = "https://hooks.example.com/?token=t"
PEM = TENANT_ROOT.pem.decode()
HOOK = SubscriptionName("default", "hook")
MESSAGE = subscription_pb2.Subscription(
    name=NAME,
    uid="0123",
    webhook=subscription_pb2.Webhook(url=URL, trusted_roots="PEM"),
    event_types=["certificate.*"],
    resource="tenants/default/authorities/ca",
    state=subscription_pb2.Subscription.DISABLED,
    delivered_seq=17,
    delivery_time=moment_of(MADE + timedelta(hours=1)),
    last_error="the target answers 503",
    next_attempt_time=moment_of(MADE + timedelta(hours=2)),
    creator=ALICE,
    create_time=moment_of(MADE),
    update_time=moment_of(MADE + timedelta(minutes=1)),
    etag="0123-3",
    display_name="On call",
)


def subscription(**changes: Any) -> subscription_pb2.Subscription:
    wanted: dict[str, Any] = {"webhook": subscription_pb2.Webhook(url=URL)}
    return subscription_pb2.Subscription(**(wanted | changes))


def create(**changes: Any) -> event_service_pb2.CreateSubscriptionRequest:
    own = {"parent": "tenants/default", "subscription_id": "hook", "validate_only": False, "after_seq": 0}
    request: dict[str, Any] = {key: changes.pop(key, value) for key, value in own.items()}
    return event_service_pb2.CreateSubscriptionRequest(subscription=subscription(**changes), **request)


def update(mask: list[str], **changes: Any) -> event_service_pb2.UpdateSubscriptionRequest:
    own = {"request_id": "", "validate_only": False}
    request: dict[str, Any] = {key: changes.pop(key, value) for key, value in own.items()}
    given = subscription_pb2.Subscription(**{"name": NAME, **changes})
    return event_service_pb2.UpdateSubscriptionRequest(subscription=given, update_mask=FieldMask(paths=mask), **request)


def test_one_comes_in_whole(edge: Edge) -> None:
    request = create(
        webhook=subscription_pb2.Webhook(url=URL, trusted_roots=f"a root\n{PEM}"),
        event_types=["certificate.*", "grant.created"],
        resource="tenants/default/authorities/ca",
        state=subscription_pb2.Subscription.DISABLED,
        display_name="On call — ü",
        after_seq=12,
    )
    answer = call(edge, request)
    caller, new, validate_only = edge.told.last
    assert (caller.principal, validate_only) == (ALICE, False)
    assert new == NewSubscription(
        name=HOOK,
        target=WebhookTarget(url=URL, trusted_roots=PEM),
        event_types=("certificate.*", "grant.created"),
        resource="tenants/default/authorities/ca",
        state=SubscriptionState.DISABLED,
        display_name="On call — ü",
        after_seq=12,
    )
    assert answer == event_service_pb2.CreateSubscriptionResponse(subscription=MESSAGE, secret="whsec_AAAA")


def test_what_is_not_said_is_at_its_default(edge: Edge) -> None:
    answer = call(edge, create(validate_only=True))
    _, new, validate_only = edge.told.last
    assert new == NewSubscription(name=HOOK, target=WebhookTarget(url=URL))
    assert validate_only
    assert answer.secret == ""
    call(edge, create(webhook=None, mail=subscription_pb2.Mail(recipients=["a@example.com", "b@example.com"])))
    assert edge.told.last[1].target == MailTarget(recipients=("a@example.com", "b@example.com"))


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"parent": "default"}, ["parent"]),
        ({"subscription_id": "Hook"}, ["subscription_id"]),
        ({"webhook": None}, ["subscription"]),
        ({"webhook": subscription_pb2.Webhook()}, ["subscription.webhook.url"]),
        (
            {"webhook": subscription_pb2.Webhook(url="http://h.example/", trusted_roots="x")},
            ["subscription.webhook.url", "subscription.webhook.trusted_roots"],
        ),
        ({"webhook": None, "mail": subscription_pb2.Mail()}, ["subscription.mail.recipients"]),
        (
            {"webhook": None, "mail": subscription_pb2.Mail(recipients=["a@b.example\nBcc: c@d.example"])},
            ["subscription.mail.recipients[0]"],
        ),
        ({"event_types": ["certificate.*", "certificates.*"]}, ["subscription.event_types[1]"]),
        ({"resource": "tenants/other/authorities/ca"}, ["subscription.resource"]),
        ({"state": 9}, ["subscription.state"]),
        ({"display_name": "x" * 129}, ["subscription.display_name"]),
        ({"display_name": "a\nb"}, ["subscription.display_name"]),
        ({"after_seq": -1}, ["after_seq"]),
        (
            {"parent": "x", "subscription_id": "", "event_types": [""], "after_seq": -5},
            ["parent", "subscription_id", "subscription.event_types[0]", "after_seq"],
        ),
    ],
)
def test_every_field_that_breaks_a_rule_is_named(edge: Edge, changes: dict[str, Any], fields: list[str]) -> None:
    failure = refused(edge, create(**changes))
    assert failure.reason == "FIELD_INVALID"
    assert [field for field, _ in failure.violations] == fields
    assert edge.told.calls == []


def test_a_subscription_is_required(edge: Edge) -> None:
    request = event_service_pb2.CreateSubscriptionRequest(parent="tenants/default", subscription_id="hook")
    assert "subscription" in [field for field, _ in refused(edge, request).violations]
    update_request = event_service_pb2.UpdateSubscriptionRequest(update_mask=FieldMask(paths=["state"]))
    assert [field for field, _ in refused(edge, update_request).violations] == ["subscription", "subscription.name"]


def test_one_goes_out_whole(edge: Edge) -> None:
    answer = call(edge, event_service_pb2.GetSubscriptionRequest(name=NAME))
    assert edge.told.last[1] == HOOK
    whole = subscription_pb2.Subscription()
    whole.CopyFrom(MESSAGE)
    whole.failed_delivery_count = 5
    assert answer == whole


def test_a_page_of_both_kinds(edge: Edge) -> None:
    answer = call(
        edge, event_service_pb2.ListSubscriptionsRequest(parent="tenants/default", page_size=7, page_token="t")
    )
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(7, "t"))
    hook, mail = answer.subscriptions
    assert hook == MESSAGE
    assert list(mail.mail.recipients) == ["oncall@example.com"]
    assert not mail.HasField("delivery_time")
    assert not mail.HasField("next_attempt_time")
    assert answer.next_page_token == "next"


def test_a_change_has_what_the_mask_names_and_looks_at_nothing_else(edge: Edge) -> None:
    bad = {"event_types": ["?"], "resource": "x", "state": 9}
    answer = call(
        edge,
        update(["display_name"], display_name="New", etag="0123-3", request_id=REQUEST_ID, validate_only=True, **bad),
    )
    _, change, key, validate_only = edge.told.last
    assert change == SubscriptionChange(
        name=HOOK, fields=frozenset({"display_name"}), display_name="New", etag="0123-3"
    )
    assert (key.request_id, validate_only) == (REQUEST_ID.lower(), True)
    assert answer == MESSAGE


def test_the_whole_of_one_and_of_a_target_can_be_changed(edge: Edge) -> None:
    call(edge, update(["*"], webhook=subscription_pb2.Webhook(url=URL)))
    change = edge.told.last[1]
    assert change == SubscriptionChange(name=HOOK, fields=OF_BOTH | OF_WEBHOOKS, url=URL)
    call(edge, update(["mail", "state"], mail=subscription_pb2.Mail(recipients=["a@example.com"])))
    change = edge.told.last[1]
    assert change == SubscriptionChange(
        name=HOOK, fields=OF_MAIL | {"state"}, recipients=("a@example.com",), state=SubscriptionState.ENABLED
    )
    call(edge, update(["webhook.trusted_roots", "webhook.url"], webhook=subscription_pb2.Webhook(url=URL)))
    assert edge.told.last[1] == SubscriptionChange(name=HOOK, fields=OF_WEBHOOKS, url=URL)


@pytest.mark.parametrize(
    ("mask", "changes", "fields"),
    [
        ([], {}, ["update_mask"]),
        (["*"], {}, ["subscription"]),
        (["*", "state"], {}, ["update_mask.paths[0]"]),
        (["name", "uid", "state", "webhook.secret"], {}, [f"update_mask.paths[{index}]" for index in (0, 1, 3)]),
        (["webhook.url"], {}, ["subscription.webhook.url"]),
        (["mail.recipients"], {}, ["subscription.mail.recipients"]),
        (["event_types", "resource"], {"event_types": ["?"], "resource": "x"}, None),
        (["state"], {"name": "x"}, ["subscription.name"]),
        (["state"], {"etag": "e" * 129}, ["subscription.etag"]),
        (["state"], {"request_id": "1"}, ["request_id"]),
    ],
)
def test_every_field_of_a_change_that_breaks_a_rule_is_named(
    edge: Edge, mask: list[str], changes: dict[str, Any], fields: list[str] | None
) -> None:
    failure = refused(edge, update(mask, **changes))
    found = [field for field, _ in failure.violations]
    assert found == (fields or ["subscription.event_types[0]", "subscription.resource"])
    assert edge.told.calls == []


def test_delete_rotate_and_test(edge: Edge) -> None:
    call(edge, event_service_pb2.DeleteSubscriptionRequest(name=NAME, etag="e", request_id=REQUEST_ID))
    _, name, etag, key = edge.told.last
    assert (name, etag, key.request_id) == (HOOK, "e", REQUEST_ID.lower())
    rotated = call(edge, event_service_pb2.RotateSubscriptionSecretRequest(name=NAME))
    assert rotated == event_service_pb2.RotateSubscriptionSecretResponse(
        secret="whsec_BBBB", old_secret_expire_time=moment_of(MADE)
    )
    tested = call(edge, event_service_pb2.TestSubscriptionRequest(name=NAME))
    assert tested == event_service_pb2.TestSubscriptionResponse(delivered=True)
    tested = call(edge, event_service_pb2.TestSubscriptionRequest(name=NAME.replace("hook", "mail")))
    assert tested == event_service_pb2.TestSubscriptionResponse(error="the target does not answer in time")


def test_failed_deliveries(edge: Edge) -> None:
    answer = call(edge, event_service_pb2.ListFailedDeliveriesRequest(parent=NAME, page_size=3, page_token="t"))
    assert edge.told.last[1:] == (HOOK, PageRequest(3, "t"))
    assert answer == event_service_pb2.ListFailedDeliveriesResponse(
        failed_deliveries=[
            subscription_pb2.FailedDelivery(
                name=f"{NAME}/failedDeliveries/7",
                event=event_pb2.Event(
                    name="events/7",
                    seq=7,
                    time=moment_of(MADE),
                    type="certificate.issued",
                    tenant="tenants/default",
                    principal="certd",
                    resource="tenants/default/authorities/ca",
                    chain_hash=b"h" * 32,
                ),
                attempts=12,
                error="the target answers 410",
                fail_time=moment_of(MADE),
            )
        ],
        next_page_token="next",
    )
    assert call(edge, event_service_pb2.RetryFailedDeliveriesRequest(name=NAME)).retried_count == 4
    assert edge.told.last[1:] == (HOOK, ())
    call(edge, event_service_pb2.RetryFailedDeliveriesRequest(name=NAME, seqs=[7, 9]))
    assert edge.told.last[1:] == (HOOK, (7, 9))


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (event_service_pb2.ListSubscriptionsRequest(parent="x", page_size=1001), ["parent", "page_size"]),
        (
            event_service_pb2.DeleteSubscriptionRequest(name="x", etag="e" * 129, request_id="1"),
            ["name", "etag", "request_id"],
        ),
        (event_service_pb2.ListFailedDeliveriesRequest(parent="x", page_size=-1), ["parent", "page_size"]),
        (event_service_pb2.RetryFailedDeliveriesRequest(name="x", seqs=[1] * 1001), ["name", "seqs"]),
        (event_service_pb2.RetryFailedDeliveriesRequest(name="x", seqs=[0]), ["name", "seqs"]),
        (event_service_pb2.RetryFailedDeliveriesRequest(name=NAME, seqs=[5, -1]), ["seqs"]),
        (event_service_pb2.RotateSubscriptionSecretRequest(name=f"{NAME}/x"), ["name"]),
        (event_service_pb2.TestSubscriptionRequest(name="hook"), ["name"]),
        (event_service_pb2.GetSubscriptionRequest(), ["name"]),
    ],
)
def test_every_field_of_the_others_that_breaks_a_rule_is_named(
    edge: Edge, request_: Message, fields: list[str]
) -> None:
    assert [field for field, _ in refused(edge, request_).violations] == fields
