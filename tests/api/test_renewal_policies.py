"""Renewal policies as messages: defaults, every field that breaks a rule, there and back again."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from certd.api.renewal import parse_renewal, renewal_message
from certd.errors import CertdError, Reason
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, MaintenanceWindow, RenewalMode, RenewalPolicy
from certd.v1.managed_certificate_pb2 import MaintenanceWindow as WindowMessage
from certd.v1.managed_certificate_pb2 import RenewalPolicy as PolicyMessage

TWO_HOURS = Duration(seconds=7200)


def refused(message: PolicyMessage) -> list[str]:
    """Returns the fields that are complained about."""
    with pytest.raises(CertdError) as caught:
        parse_renewal("managed_certificate.renewal", message)
    assert caught.value.reason is Reason.FIELD_INVALID
    prefix = "managed_certificate.renewal."
    assert all(violation.field.startswith(prefix) for violation in caught.value.violations)
    return [violation.field.removeprefix(prefix) for violation in caught.value.violations]


def test_what_is_not_said_is_the_default() -> None:
    assert parse_renewal("f", PolicyMessage()) == DEFAULT_RENEWAL_POLICY
    policy = parse_renewal(
        "f", PolicyMessage(maintenance_windows=[WindowMessage(cron="0 2 * * *", duration=TWO_HOURS)])
    )
    assert policy.maintenance_windows == (MaintenanceWindow(cron="0 2 * * *", duration=timedelta(hours=2)),)


@pytest.mark.parametrize("mode", list(RenewalMode))
def test_a_policy_comes_back_as_it_was(mode: RenewalMode) -> None:
    windows = (
        MaintenanceWindow(cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=timedelta(minutes=15)),
        MaintenanceWindow(cron="*/5 * * * *", time_zone="UTC", duration=timedelta(days=7)),
    )
    policy = RenewalPolicy(mode=mode, remaining_percent=5, maintenance_windows=windows)
    assert parse_renewal("f", renewal_message(policy)) == policy


def test_every_field_that_breaks_a_rule_is_named() -> None:
    message = PolicyMessage(
        mode=9,  # type: ignore[arg-type]  # As a newer client may.
        remaining_percent=81,
        maintenance_windows=[
            WindowMessage(cron="0 2 * * *", time_zone="Nowhere", duration=TWO_HOURS),
            WindowMessage(cron="nonsense", duration=Duration(seconds=60)),
            WindowMessage(cron="0 2 * * *"),
            WindowMessage(cron="0 2 * * *", duration=Duration(seconds=7200, nanos=1)),
        ],
    )
    assert refused(message) == [
        "mode",
        "remaining_percent",
        "maintenance_windows[0].time_zone",
        "maintenance_windows[1].cron",
        "maintenance_windows[1].duration",
        "maintenance_windows[2].duration",
        "maintenance_windows[3].duration",
    ]


@pytest.mark.parametrize("percent", [-1, 4, 81, 2**31 - 1])
def test_percents_out_of_bounds(percent: int) -> None:
    assert refused(PolicyMessage(remaining_percent=percent)) == ["remaining_percent"]


def test_too_many_windows() -> None:
    window = WindowMessage(cron="0 2 * * *", duration=TWO_HOURS)
    assert len(parse_renewal("f", PolicyMessage(maintenance_windows=[window] * 10)).maintenance_windows) == 10
    assert refused(PolicyMessage(maintenance_windows=[window] * 11)) == ["maintenance_windows"]
