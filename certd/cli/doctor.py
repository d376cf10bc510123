"""`certd doctor`: what is wrong with a server, and what to do about it."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from certd import config, log
from certd.cli.backup import Progress
from certd.cli.configuration import config_option, daemon
from certd.clock import SystemClock

if TYPE_CHECKING:
    from certd.doctor.findings import Finding, Severity

_COLOURS: Final = {"ERROR": "red", "WARNING": "yellow", "INFO": "blue"}


@click.command(
    "doctor",
    epilog="""\b
Examples:
  certd doctor
  certd doctor --config /var/lib/certd/certd.toml --all
  certd doctor --json | jq 'select(.severity == "ERROR")'
""",
)
@config_option
@click.option("--all", "everything", is_flag=True, help="Open all that is sealed, and not a sample of it.")
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a line of JSON.")
def doctor(*, config_file: Path, everything: bool, as_json: bool) -> None:
    """Look the server over: files, clock, authorities, CRLs, keys, jobs, backups; the daemon may run.

    Each finding says what is so, why that matters, and the remedy. It changes nothing, but for records in the journal
    of keys that it opens. Run it as the daemon's user, or as root. Exit code 1 when there is an ERROR.
    """
    settings = config.load(config_file)
    # Of the token process beside it, too: findings are what is looked for.
    settings = settings.model_copy(update={"log": settings.log.model_copy(update={"level": "error"})})
    log.configure(level=settings.log.level, style=settings.log.format)
    daemon()
    from certd.doctor.examine import examine
    from certd.doctor.findings import Severity

    found = examine(settings, config_file, clock=SystemClock(), everything=everything, progress=Progress())
    counts = tell(found, as_json=as_json)
    if not as_json:
        told = ", ".join(f"{counts[severity]} {severity}" for severity in Severity)
        click.echo(f"\n{told}" if counts else "nothing found")
    if counts[Severity.ERROR]:
        click.get_current_context().exit(1)


def tell(found: Iterable["Finding"], *, as_json: bool) -> Counter["Severity"]:
    """Prints findings as they come, and returns how many there are of each severity.

    Those in a row that matter alike and have one remedy are told why and how once, but in JSON each has all.
    """
    counts: Counter[Severity] = Counter()
    for (severity, check, why, remedy), alike in groupby(found, attrgetter("severity", "check", "why", "remedy")):
        for one in alike:
            counts[severity] += 1
            if as_json:
                click.echo(json.dumps(asdict(one), ensure_ascii=False))
            else:
                click.echo(f"{click.style(severity, fg=_COLOURS[severity], bold=True)} {check}: {one.what}")
        if not as_json:
            click.echo(f"  why: {why}")
            click.echo(f"  remedy: {remedy}")
    return counts
