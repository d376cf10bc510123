"""`certd audit verify`: whether the record, the journals of the token process and the books still fit together."""

import sys
import time
from pathlib import Path
from typing import Final

import click

from certd import config
from certd.cli.configuration import config_option

_MOST_SHOWN: Final = 1000
"""Findings; more are counted."""
_QUIET_SECONDS: Final = 1.0
_FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def audit() -> None:
    """Prove what was done, from the server's own files."""


@audit.command(
    epilog="""\b
Examples:
  certd audit verify
  certd audit verify --config /etc/certd/certd.toml --checkpoint /mnt/elsewhere/checkpoints.jsonl
  certd audit verify --journal /var/lib/certd/token-journal --journal /mnt/other-host/token-journal
"""
)
@config_option
@click.option(
    "--checkpoint",
    "checkpoint_files",
    type=_FILE,
    multiple=True,
    help="File of checkpoints that were kept elsewhere, a JSON object on each line; may be repeated.",
)
@click.option(
    "--journal",
    "journals",
    type=_FOLDER,
    multiple=True,
    help="Folder of journals; name those of every machine whose token process signs.  [default: that of certd.toml]",
)
def verify(config_file: Path, checkpoint_files: tuple[Path, ...], journals: tuple[Path, ...]) -> None:
    """Find what was changed, removed, moved or cut off: in the record, in the journals, or between both and the books.

    Reads database and files, beside the daemon or without it. Exit code 0 when all fit together, 1 when something does
    not. What is missing for a reason that is recorded, as what a restore from a backup lost, is told after "known:" and
    changes nothing of that: look whether the restore was yours. Without checkpoints from elsewhere, a record that was
    written anew as a whole fits together, too.
    """
    # Late, so that the token process does not load SQLAlchemy.
    from certd.clock import SystemClock
    from certd.services.audit_verification import Progress, Verification
    from certd.services.checkpoint_verification import read_checkpoints
    from certd.store.reader import Reader

    settings = config.load(config_file)
    given = [one for file in checkpoint_files for one in read_checkpoints(file)]
    found = 0
    told = time.monotonic()

    def tell(finding: str) -> None:
        nonlocal found
        found += 1
        if found <= _MOST_SHOWN:
            click.echo(finding)

    def progress(at: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > _QUIET_SECONDS:
            told = time.monotonic()
            total = f" of {at.total:,}" if at.total else ""
            click.echo(f"{at.doing}: {at.done:,}{total}", err=True)

    reader = Reader.open(settings.database.url)
    try:
        verification = Verification(
            reader=reader,
            journals=journals or (config.token_settings(settings).journal,),
            given=given,
            tell=tell,
            account=lambda gap: click.echo(f"known: {gap}"),
            progress=progress,
            now=SystemClock().now(),
        )
        verification.run()
    finally:
        reader.close()
    if found > _MOST_SHOWN:
        click.echo(f"… and {found - _MOST_SHOWN:,} more")
    click.echo(
        f"{verification.event_count:,} events, {verification.record_count:,} records of journals, "
        f"{verification.certificate_count:,} certificates, {verification.checkpoint_count + len(given):,} checkpoints: "
        f"{'they fit together' if not found else f'{found:,} findings'}"
    )
    if found:
        sys.exit(1)
