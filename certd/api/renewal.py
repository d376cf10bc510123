"""Renewal policies and windows, as messages have them."""

from google.protobuf.duration_pb2 import Duration

from certd.api import fields, x509
from certd.model import maintenance
from certd.model.renewal import (
    DEFAULT_REMAINING_PERCENT,
    MOST_MAINTENANCE_WINDOWS,
    REMAINING_PERCENT,
    MaintenanceWindow,
    RenewalMode,
    RenewalPolicy,
    Span,
)
from certd.v1 import managed_certificate_pb2

_UTC = "UTC"


def parse_renewal(field: str, message: managed_certificate_pb2.RenewalPolicy) -> RenewalPolicy:
    """Returns a renewal policy, with the defaults for what is not said; raises FIELD_INVALID with every bad field."""
    violations, modes = fields.Violations(), managed_certificate_pb2.RenewalPolicy.Mode
    mode = violations.attempt(lambda: fields.choice(f"{field}.mode", modes, message.mode, RenewalMode))
    percent = message.remaining_percent or DEFAULT_REMAINING_PERCENT
    if percent not in REMAINING_PERCENT:
        violations.add(
            f"{field}.remaining_percent",
            f"must be from {REMAINING_PERCENT[0]} to {REMAINING_PERCENT[-1]}, or 0 for {DEFAULT_REMAINING_PERCENT}",
        )
    given = message.maintenance_windows
    if len(given) > MOST_MAINTENANCE_WINDOWS:
        violations.add(
            f"{field}.maintenance_windows",
            f"has {len(given)} windows; at most {MOST_MAINTENANCE_WINDOWS} are allowed",
        )
    windows = [
        violations.attempt(lambda place=place, one=one: _window(f"{field}.maintenance_windows[{place}]", one))  # type: ignore[misc]  # mypy infers no type for a default.
        for place, one in enumerate(given[:MOST_MAINTENANCE_WINDOWS])
    ]
    violations.check()
    return RenewalPolicy(mode=mode or RenewalMode.ALWAYS, remaining_percent=percent, maintenance_windows=tuple(windows))


def _window(field: str, message: managed_certificate_pb2.MaintenanceWindow) -> MaintenanceWindow:
    violations = fields.Violations()
    cron = violations.attempt(lambda: maintenance.check_cron(f"{field}.cron", message.cron))
    zone = violations.attempt(lambda: maintenance.check_time_zone(f"{field}.time_zone", message.time_zone or _UTC))
    path, given = f"{field}.duration", message.duration
    duration = violations.attempt(
        lambda: maintenance.check_duration(path, fields.lifetime(path, given, rule=maintenance.DURATION_RULE))
    )
    violations.check()
    return MaintenanceWindow(cron=cron, time_zone=zone, duration=duration)


def renewal_message(policy: RenewalPolicy) -> managed_certificate_pb2.RenewalPolicy:
    """Returns a renewal policy as a message."""
    kind = managed_certificate_pb2.RenewalPolicy
    return kind(
        mode=kind.Mode.Value(policy.mode),
        remaining_percent=policy.remaining_percent,
        maintenance_windows=[
            managed_certificate_pb2.MaintenanceWindow(
                cron=window.cron, time_zone=window.time_zone, duration=_duration(window)
            )
            for window in policy.maintenance_windows
        ],
    )


def window_message(window: Span) -> managed_certificate_pb2.RenewalWindow:
    """Returns a span of time as a message."""
    return managed_certificate_pb2.RenewalWindow(
        start_time=x509.timestamp(window.start), end_time=x509.timestamp(window.end)
    )


def _duration(window: MaintenanceWindow) -> Duration:
    duration = Duration()
    duration.FromTimedelta(window.duration)
    return duration
