"""EventService, of subscriptions: convert, call `services.subscriptions`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.events import event_message
from certd.errors import field_invalid
from certd.model.names import SubscriptionName, TenantName, check_id
from certd.model.request_limits import RequestLimits
from certd.model.subscription import MailTarget, SubscriptionState, Target, WebhookTarget
from certd.model.subscription_rules import (
    check_event_types,
    check_recipients,
    check_resource,
    check_trusted_roots,
    check_url,
)
from certd.services.failed_deliveries import FailedDeliveries, FailedDelivery
from certd.services.paging import Page
from certd.services.subscription_plan import (
    CHANGEABLE,
    DISPLAY_NAME,
    EVENT_TYPES,
    OF_BOTH,
    OF_MAIL,
    OF_WEBHOOKS,
    RECIPIENTS,
    RESOURCE,
    STATE,
    TRUSTED_ROOTS,
    URL,
    NewSubscription,
    SubscriptionChange,
    SubscriptionView,
)
from certd.services.subscriptions import Subscriptions
from certd.v1 import event_service_pb2, subscription_pb2

_LONGEST_ETAG: Final = 128
_LONGEST_DISPLAY_NAME: Final = 128
_MOST_SEQS: Final = 1000
_EVERY_FIELD: Final = "*"
_WHOLE_TARGETS: Final = {"webhook": OF_WEBHOOKS, "mail": OF_MAIL}


def methods(subscriptions: Subscriptions, failed: FailedDeliveries, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateSubscription": partial(create_subscription, subscriptions),
        "GetSubscription": partial(get_subscription, subscriptions),
        "ListSubscriptions": partial(list_subscriptions, subscriptions, limits),
        "UpdateSubscription": partial(update_subscription, subscriptions),
        "DeleteSubscription": partial(delete_subscription, subscriptions),
        "RotateSubscriptionSecret": partial(rotate_subscription_secret, subscriptions),
        "TestSubscription": partial(try_subscription, subscriptions),
        "ListFailedDeliveries": partial(list_failed_deliveries, failed, limits),
        "RetryFailedDeliveries": partial(retry_failed_deliveries, failed),
    }


def create_subscription(
    subscriptions: Subscriptions, request: event_service_pb2.CreateSubscriptionRequest, call: Call
) -> event_service_pb2.CreateSubscriptionResponse:
    """CreateSubscription."""
    given, violations = request.subscription, fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    id_ = violations.attempt(lambda: check_id("subscription_id", request.subscription_id))
    violations.attempt(lambda: fields.required("subscription", present=request.HasField("subscription")))
    target = violations.attempt(lambda: _target(given))
    types = violations.attempt(lambda: check_event_types("subscription.event_types", given.event_types))
    state = violations.attempt(lambda: _state(given))
    display_name = violations.attempt(lambda: _display_name(given))
    if request.after_seq < 0:
        violations.add("after_seq", "must be the number of an event, or 0 to begin with what happens from now on")
    resource = violations.attempt(lambda: _resource(given, request.parent))
    violations.check()
    new = NewSubscription(
        name=SubscriptionName(parent.tenant, id_),
        target=target,
        event_types=types,
        resource=resource,
        state=state,
        display_name=display_name,
        after_seq=request.after_seq,
    )
    made = subscriptions.create(call.caller, new, validate_only=request.validate_only)
    return event_service_pb2.CreateSubscriptionResponse(
        subscription=subscription_message(made.view), secret=made.secret
    )


def get_subscription(
    subscriptions: Subscriptions, request: event_service_pb2.GetSubscriptionRequest, call: Call
) -> subscription_pb2.Subscription:
    """GetSubscription."""
    return subscription_message(subscriptions.get(call.caller, SubscriptionName.parse("name", request.name)))


def list_subscriptions(
    subscriptions: Subscriptions,
    limits: RequestLimits,
    request: event_service_pb2.ListSubscriptionsRequest,
    call: Call,
) -> event_service_pb2.ListSubscriptionsResponse:
    """ListSubscriptions."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[SubscriptionView]) -> event_service_pb2.ListSubscriptionsResponse:
        return event_service_pb2.ListSubscriptionsResponse(
            subscriptions=[subscription_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: subscriptions.page(call.caller, parent, smaller), answer)


def update_subscription(
    subscriptions: Subscriptions, request: event_service_pb2.UpdateSubscriptionRequest, call: Call
) -> subscription_pb2.Subscription:
    """UpdateSubscription."""
    violations = fields.Violations()
    violations.attempt(lambda: fields.required("subscription", present=request.HasField("subscription")))
    name = violations.attempt(lambda: SubscriptionName.parse("subscription.name", request.subscription.name))
    key = violations.attempt(lambda: fields.request_key("UpdateSubscription", request, request.request_id))
    chosen = violations.attempt(lambda: _chosen(request))
    violations.check()
    change = _change(request.subscription, name, chosen)
    changed = subscriptions.update(call.caller, change, key=key, validate_only=request.validate_only)
    return subscription_message(changed)


def delete_subscription(
    subscriptions: Subscriptions, request: event_service_pb2.DeleteSubscriptionRequest, call: Call
) -> event_service_pb2.DeleteSubscriptionResponse:
    """DeleteSubscription."""
    violations = fields.Violations()
    name = violations.attempt(lambda: SubscriptionName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("DeleteSubscription", request, request.request_id))
    violations.check()
    subscriptions.delete(call.caller, name, etag=etag, key=key)
    return event_service_pb2.DeleteSubscriptionResponse()


def rotate_subscription_secret(
    subscriptions: Subscriptions, request: event_service_pb2.RotateSubscriptionSecretRequest, call: Call
) -> event_service_pb2.RotateSubscriptionSecretResponse:
    """RotateSubscriptionSecret."""
    rotated = subscriptions.rotate_secret(call.caller, SubscriptionName.parse("name", request.name))
    return event_service_pb2.RotateSubscriptionSecretResponse(
        secret=rotated.secret, old_secret_expire_time=x509.timestamp(rotated.old_expire_time)
    )


def try_subscription(
    subscriptions: Subscriptions, request: event_service_pb2.TestSubscriptionRequest, call: Call
) -> event_service_pb2.TestSubscriptionResponse:
    """TestSubscription."""
    error = subscriptions.test(call.caller, SubscriptionName.parse("name", request.name))
    return event_service_pb2.TestSubscriptionResponse(delivered=not error, error=error)


def list_failed_deliveries(
    failed: FailedDeliveries,
    limits: RequestLimits,
    request: event_service_pb2.ListFailedDeliveriesRequest,
    call: Call,
) -> event_service_pb2.ListFailedDeliveriesResponse:
    """ListFailedDeliveries."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: SubscriptionName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[FailedDelivery]) -> event_service_pb2.ListFailedDeliveriesResponse:
        return event_service_pb2.ListFailedDeliveriesResponse(
            failed_deliveries=[failed_delivery_message(parent, one) for one in page.items],
            next_page_token=page.next_page_token,
        )

    return fields.page_that_fits(asked, lambda smaller: failed.page(call.caller, parent, smaller), answer)


def retry_failed_deliveries(
    failed: FailedDeliveries, request: event_service_pb2.RetryFailedDeliveriesRequest, call: Call
) -> event_service_pb2.RetryFailedDeliveriesResponse:
    """RetryFailedDeliveries."""
    violations = fields.Violations()
    name = violations.attempt(lambda: SubscriptionName.parse("name", request.name))
    if len(request.seqs) > _MOST_SEQS:
        violations.add("seqs", f"has {len(request.seqs):,} numbers; at most {_MOST_SEQS:,} are allowed")
    elif any(seq <= 0 for seq in request.seqs):
        violations.add("seqs", "must be numbers of events, from 1")
    violations.check()
    retried = failed.retry(call.caller, name, tuple(request.seqs))
    return event_service_pb2.RetryFailedDeliveriesResponse(retried_count=retried)


def subscription_message(view: SubscriptionView) -> subscription_pb2.Subscription:
    """Returns a subscription as a message."""
    one, kind = view.subscription, subscription_pb2.Subscription
    message = kind(
        name=str(one.name),
        uid=one.uid,
        event_types=one.event_types,
        resource=one.resource,
        state=kind.State.Value(one.state),
        delivered_seq=one.delivered_seq,
        last_error=one.last_error,
        failed_delivery_count=view.failed_delivery_count,
        creator=one.creator,
        create_time=x509.timestamp(one.create_time),
        update_time=x509.timestamp(one.update_time),
        etag=one.etag,
        display_name=one.display_name,
    )
    match one.target:
        case WebhookTarget(url=url, trusted_roots=roots):
            message.webhook.CopyFrom(subscription_pb2.Webhook(url=url, trusted_roots=roots))
        case MailTarget(recipients=recipients):
            message.mail.CopyFrom(subscription_pb2.Mail(recipients=recipients))
    if one.delivery_time is not None:
        message.delivery_time.CopyFrom(x509.timestamp(one.delivery_time))
    if one.next_attempt_time is not None:
        message.next_attempt_time.CopyFrom(x509.timestamp(one.next_attempt_time))
    return message


def failed_delivery_message(parent: SubscriptionName, one: FailedDelivery) -> subscription_pb2.FailedDelivery:
    """Returns a failed delivery as a message."""
    message = subscription_pb2.FailedDelivery(
        name=f"{parent}/failedDeliveries/{one.event.seq}",
        event=event_message(one.event),
        attempts=one.delivery.attempts,
        error=one.delivery.error,
    )
    if one.delivery.fail_time is not None:
        message.fail_time.CopyFrom(x509.timestamp(one.delivery.fail_time))
    return message


def _target(given: subscription_pb2.Subscription) -> Target:
    match given.WhichOneof("target"):
        case "webhook":
            violations = fields.Violations()
            url = violations.attempt(lambda: check_url(f"subscription.{URL}", given.webhook.url))
            roots = violations.attempt(lambda: _roots(given))
            violations.check()
            return WebhookTarget(url=url, trusted_roots=roots)
        case "mail":
            return MailTarget(recipients=_recipients(given))
        case _:
            raise field_invalid("subscription", "needs a webhook or mail: where events are sent to")


def _chosen(request: event_service_pb2.UpdateSubscriptionRequest) -> frozenset[str]:
    """Returns the paths of what is to change; raises FIELD_INVALID with every path that is none."""
    paths = request.update_mask.paths
    if not paths:
        raise field_invalid("update_mask", f"is required: fields to change, such as `{URL}`, or `*` for all")
    if list(paths) == [_EVERY_FIELD]:
        kind = request.subscription.WhichOneof("target")
        if kind is None:
            raise field_invalid("subscription", "needs its webhook or mail, as `*` stands for every field")
        return OF_BOTH | _WHOLE_TARGETS[kind]
    violations = fields.Violations()
    chosen: set[str] = set()
    for index, path in enumerate(paths):
        if path in CHANGEABLE:
            chosen.add(path)
        elif path in _WHOLE_TARGETS:
            chosen |= _WHOLE_TARGETS[path]
        elif path == _EVERY_FIELD:
            violations.add(f"update_mask.paths[{index}]", "stands for every field, so it stands alone")
        else:
            violations.add(f"update_mask.paths[{index}]", f"{path[:64]!a} is none of {', '.join(sorted(CHANGEABLE))}")
    violations.check()
    return frozenset(chosen)


def _change(given: subscription_pb2.Subscription, name: SubscriptionName, chosen: frozenset[str]) -> SubscriptionChange:
    """Returns what is to change; what is not to change is not looked at. Raises FIELD_INVALID."""
    violations = fields.Violations()
    etag = violations.attempt(lambda: fields.text("subscription.etag", given.etag, longest=_LONGEST_ETAG))
    change = SubscriptionChange(
        name=name,
        fields=chosen,
        url=violations.attempt(lambda: check_url(f"subscription.{URL}", given.webhook.url)) if URL in chosen else "",
        trusted_roots=violations.attempt(lambda: _roots(given)) if TRUSTED_ROOTS in chosen else "",
        recipients=violations.attempt(lambda: _recipients(given)) if RECIPIENTS in chosen else (),
        event_types=(
            violations.attempt(lambda: check_event_types("subscription.event_types", given.event_types))
            if EVENT_TYPES in chosen
            else ()
        ),
        resource=violations.attempt(lambda: _resource(given, f"tenants/{name.tenant}")) if RESOURCE in chosen else "",
        state=violations.attempt(lambda: _state(given)) if STATE in chosen else SubscriptionState.ENABLED,
        display_name=violations.attempt(lambda: _display_name(given)) if DISPLAY_NAME in chosen else "",
        etag=etag,
    )
    violations.check()
    return change


def _roots(given: subscription_pb2.Subscription) -> str:
    return check_trusted_roots(f"subscription.{TRUSTED_ROOTS}", given.webhook.trusted_roots)


def _recipients(given: subscription_pb2.Subscription) -> tuple[str, ...]:
    return check_recipients(f"subscription.{RECIPIENTS}", given.mail.recipients)


def _resource(given: subscription_pb2.Subscription, parent: str) -> str:
    """Returns the resource; nothing where the parent is none, which is told by itself."""
    if not given.resource:
        return ""
    return check_resource("subscription.resource", given.resource, TenantName(parent.removeprefix("tenants/")))


def _state(given: subscription_pb2.Subscription) -> SubscriptionState:
    chosen = fields.choice("subscription.state", subscription_pb2.Subscription.State, given.state, SubscriptionState)
    return chosen or SubscriptionState.ENABLED


def _display_name(given: subscription_pb2.Subscription) -> str:
    return fields.text("subscription.display_name", given.display_name, longest=_LONGEST_DISPLAY_NAME)
