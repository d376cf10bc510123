"""`certd audit`: whether record, journals of the token process and books still fit together; archives of journals."""

import sys
import time
from datetime import timedelta
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
    """Prove what was done, from the server's own files, and keep these."""


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


@audit.command(
    epilog="""\b
Examples:
  certd audit archive /mnt/archive/certd-journal
  certd audit archive /mnt/archive/certd-journal --older-than 30 --config /etc/certd/certd.toml
  certd audit verify --journal /var/lib/certd/token-journal --journal /mnt/archive/certd-journal
"""
)
@config_option
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Move segments of which every record is older than so many days.",
)
def archive(config_file: Path, folder: Path, days: int) -> None:
    """Move old segments of the token process's journal into FOLDER, which lies elsewhere, and keeps what it has.

    Each is copied, compared and on disk there before it goes here; what was changed is not moved. Run it as the token
    process's user or as root; token processes may run. Whoever verifies names FOLDER with --journal as well.
    """
    from certd.backup import journal_archive
    from certd.clock import SystemClock

    journal = config.token_settings(config.load(config_file)).journal
    count = 0
    before = SystemClock().now() - timedelta(days=days)
    for one in journal_archive.archive(journal, folder, before=before):
        count += 1
        click.echo(f"{one.place}: {one.size} bytes")
    click.echo(f"{count} segments were moved")
    if count:
        click.echo(f"\nNext:\n  certd audit verify --journal {journal} --journal {folder} --config {config_file}")
