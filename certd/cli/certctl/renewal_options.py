"""Options that say when a managed certificate is renewed, and how a policy is shown."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from certd.cli.certctl.durations import format_duration, parse_duration
from certd.client.messages import duration, enum_text
from certd.v1.managed_certificate_pb2 import MaintenanceWindow, RenewalPolicy

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_MODES: Final = {
    "always": RenewalPolicy.ALWAYS,
    "when-used": RenewalPolicy.WHEN_USED,
    "never": RenewalPolicy.NEVER,
}
_EXAMPLE: Final = "0 2 * * SAT;Europe/Berlin;4h"


class MaintenanceWindowType(click.ParamType[MaintenanceWindow]):
    """A time that comes again and again, such as `0 2 * * SAT;Europe/Berlin;4h`."""

    name = "cron;zone;duration"

    def convert(
        self, value: str | MaintenanceWindow, param: click.Parameter | None, ctx: click.Context | None
    ) -> MaintenanceWindow:
        """Returns the window; fails with a sentence. Whether cron and zone mean something, the server says."""
        if isinstance(value, MaintenanceWindow):
            return value
        parts = [part.strip() for part in value.rsplit(";", 2)]
        if len(parts) < 2 or not all(parts):
            self.fail(
                f"{value!r} is no maintenance window; write cron, time zone and duration, as in {_EXAMPLE!r}",
                param,
                ctx,
            )
        cron, *zone, length = parts
        try:
            lasts = parse_duration(length)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return MaintenanceWindow(cron=cron, time_zone="".join(zone), duration=duration(lasts))


def renewal_options(command: CommandT) -> CommandT:
    """Adds the options of a renewal policy."""
    for option in (
        click.option(
            "--maintenance-window",
            "windows",
            type=MaintenanceWindowType(),
            multiple=True,
            help="Renew only then: when it begins as cron has it, its time zone (default UTC), how long it lasts. "
            f'May be repeated.  [for example "{_EXAMPLE}"]',
        ),
        click.option(
            "--renew-at-percent",
            "percent",
            type=click.IntRange(5, 80),
            help="Around the moment when so many percent of the lifetime are left.  [default: 33]",
        ),
        click.option(
            "--renewal",
            "mode",
            type=click.Choice(list(_MODES)),
            help="Whether it is renewed: always, only while it is used (associated, or exported since it was last "
            "renewed), or only when somebody asks.  [default: always]",
        ),
    ):
        command = option(command)
    return command


def renewal_policy(
    mode: str | None, percent: int | None, windows: Sequence[MaintenanceWindow]
) -> tuple[RenewalPolicy, list[str]]:
    """Returns what the options say, and the parts of which they say something."""
    parts = {"mode": mode is not None, "remaining_percent": percent is not None, "maintenance_windows": bool(windows)}
    policy = RenewalPolicy(
        mode=_MODES[mode] if mode is not None else RenewalPolicy.MODE_UNSPECIFIED,
        remaining_percent=percent or 0,
        maintenance_windows=windows,
    )
    return policy, [part for part, said in parts.items() if said]


def policy_text(policy: RenewalPolicy) -> str:
    """Returns a policy for people, a line for each part."""
    if not policy.ByteSize():
        return ""
    mode = enum_text(policy, "mode").lower().replace("_", "-")
    lines = [f"{mode}, when {policy.remaining_percent} % of the lifetime are left"]
    if policy.mode == RenewalPolicy.NEVER:
        lines = [mode]
    lines += [
        f"in {window.cron};{window.time_zone};{format_duration(window.duration.ToTimedelta())}"
        for window in policy.maintenance_windows
    ]
    return "\n".join(lines)
