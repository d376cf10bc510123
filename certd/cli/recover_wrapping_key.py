"""`certd recover-wrapping-key`: wrapping keys from their escrow into a token that lacks them."""

from pathlib import Path

import click

from certd import config, log
from certd.cli.backup import FILE, recovery_key_of
from certd.cli.configuration import config_option, daemon


@click.command(
    "recover-wrapping-key",
    epilog="""\b
Examples:
  certd recover-wrapping-key --recovery-key recovery.key
  certd recover-wrapping-key --recovery-key recovery.key --config /var/lib/certd/certd.toml
""",
)
@config_option
@click.option("--recovery-key", type=FILE, required=True, help="PEM of the private recovery key, mode 0600.")
def recover_wrapping_keys(config_file: Path, recovery_key: Path) -> None:
    """Put every wrapping key that is in escrow, and not in the token, into the token.

    Run it as the token process's user, or as root; the daemon may run. A key goes in only if it opens what is sealed
    under it. Take the private recovery key away from the machine afterwards.
    """
    settings = config.load(config_file)
    key = recovery_key_of(recovery_key)
    log.configure(level="warning", style="text")
    daemon()
    from certd.backup.escrowed_keys import recover

    lacking = False
    for found in recover(settings, key):
        lacking = lacking or not found.in_token
        click.echo(f"{found.name}: {found.outcome}")
    if lacking:
        click.get_current_context().exit(1)
