"""EventService, of subscriptions: convert, call `services.subscriptions`, convert back."""

from typing import Any

from certd.api.call import Call, Methods


def methods() -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateSubscription": create_subscription,
        "GetSubscription": get_subscription,
        "ListSubscriptions": list_subscriptions,
        "UpdateSubscription": update_subscription,
        "DeleteSubscription": delete_subscription,
        "RotateSubscriptionSecret": rotate_subscription_secret,
        "TestSubscription": try_subscription,
        "ListFailedDeliveries": list_failed_deliveries,
        "RetryFailedDeliveries": retry_failed_deliveries,
    }


def create_subscription(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """CreateSubscription."""
    raise NotImplementedError


def get_subscription(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """GetSubscription."""
    raise NotImplementedError


def list_subscriptions(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """ListSubscriptions."""
    raise NotImplementedError


def update_subscription(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """UpdateSubscription."""
    raise NotImplementedError


def delete_subscription(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """DeleteSubscription."""
    raise NotImplementedError


def rotate_subscription_secret(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """RotateSubscriptionSecret."""
    raise NotImplementedError


def try_subscription(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """TestSubscription."""
    raise NotImplementedError


def list_failed_deliveries(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """ListFailedDeliveries."""
    raise NotImplementedError


def retry_failed_deliveries(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """RetryFailedDeliveries."""
    raise NotImplementedError
