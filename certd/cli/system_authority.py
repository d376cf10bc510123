"""`certd rotate-system-authority`: another root for callers and for the server, before anybody has to trust it."""

from pathlib import Path

import click

from certd import config
from certd.cli.configuration import administration, config_option


@click.command(
    "rotate-system-authority",
    epilog="""\b
Examples:
  certd rotate-system-authority --config /etc/certd/certd.toml
  certd rotate-system-authority > next-root.pem
""",
)
@config_option
def rotate_system_authority(config_file: Path) -> None:
    """Make the next system authority and print its root.

    It is trusted at once and issues 31 days later, when every identity has renewed and got to know it; the old one is
    trusted until all that it issued has ended. The daemon does this by itself when a third of the life of the last one
    is left. On SQLite stop the daemon first. Who trusts the root without renewing, such as callers with tokens, needs
    the new root within these days; so does a token process under its own user, by certd token trust-root.
    """
    made = administration().rotate_system_authority(config.load(config_file))
    click.echo(made.system_root.decode(), nl=False)
    if not made.pinned:
        click.echo(
            "the token process does not trust it yet: save it, and before then run, as root or as the token process's "
            "user, certd token trust-root FILE",
            err=True,
        )
    click.echo(f"the next system authority issues from {made.issues_from:%Y-%m-%d %H:%M} UTC", err=True)
