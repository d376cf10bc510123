"""`certd rotate-system-authority`: another root for callers and for the server, before anybody has to trust it."""

from datetime import datetime
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
  certd rotate-system-authority --key-lost > next-root.pem
""",
)
@config_option
@click.option(
    "--key-lost",
    is_flag=True,
    help="The token lacks the key of the one that issues, and no backup has it: give that one up for ever, and have "
    "the next one issue at once.",
)
def rotate_system_authority(config_file: Path, *, key_lost: bool) -> None:
    """Make the next system authority and print its root.

    It is trusted at once and issues 31 days later, when every identity has renewed and got to know it; the old one is
    trusted until all that it issued has ended. The daemon does this by itself when a third of the life of the last one
    is left. On SQLite stop the daemon first. Who trusts the root without renewing, such as callers with tokens, needs
    the new root within these days; so does a token process under its own user, by certd token trust-root.

    With --key-lost nothing can wait. What the one that is given up has issued stays trusted until it ends, and callers
    that renew get to know the new root, as long as the server shows its certificate of before; until when is printed.
    The event is system-authority.replaced.
    """
    made = administration().rotate_system_authority(config.load(config_file), key_lost=key_lost)
    click.echo(made.system_root.decode(), nl=False)
    if not made.pinned:
        click.echo(
            "the token process does not trust it yet: save it, and before it issues run, as root or as the token "
            "process's user, certd token trust-root FILE",
            err=True,
        )
    if key_lost:
        click.echo(_what_follows(made.issues_from, made.server_shown_until), err=True)
    else:
        click.echo(f"the next system authority issues from {_text(made.issues_from)}", err=True)


def _what_follows(now: datetime, shown_until: datetime | None) -> str:
    if shown_until is None:
        server = "the server's certificate is not of the former one, and is what it was"
    elif shown_until <= now:
        server = (
            "the server's certificate is at its end, and the daemon takes one of the new one when it runs: every "
            "caller needs the root printed here"
        )
    else:
        server = (
            f"the server shows its certificate of the former one until {_text(shown_until)} at most, then one of the "
            "new one: callers that renew before then get the new root with it; all others, such as those with tokens, "
            "need the root printed here by then"
        )
    return "\n".join(
        (
            "the new system authority issues from now on; the former one is given up for ever",
            "  certificates of callers that the former one issued are trusted until they end, 30 days at most",
            f"  {server}",
            "  when no administrator's certificate works any more: certd recover-admin",
        )
    )


def _text(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
