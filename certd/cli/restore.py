"""`certd restore`: a server from a backup."""

import shlex
from pathlib import Path

import click

from certd import config
from certd.cli import initialisation
from certd.cli.backup import FILE, Progress, secret_options
from certd.cli.configuration import daemon
from certd.clock import SystemClock
from certd.errors import field_invalid

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    "restore",
    epilog="""\b
Examples:
  certd restore certd.backup --data-dir /var/lib/certd --recovery-key recovery.key
  certd restore certd.backup --data-dir /var/lib/certd --passphrase-file passphrase.txt --journal old-disk/token-journal
  certd restore certd.backup --data-dir /srv/certd --recovery-key recovery.key --token-from-config /etc/hsm/certd.toml
""",
)
@click.argument("file", type=FILE)
@click.option("--data-dir", type=_FOLDER, required=True, help="Gets the server; must be empty, or not there.")
@click.option("--passphrase-file", type=FILE, help="File with the passphrase.")
@click.option("--recovery-key", type=FILE, help="PEM of the private recovery key.")
@click.option(
    "--journal",
    type=_FOLDER,
    help="Folder token-journal of the server that was lost, if it is newer than the backup: certificates that it tells "
    "of are revoked.",
)
@click.option(
    "--crl",
    "crl_files",
    type=FILE,
    multiple=True,
    help="CRL that the lost server had published since the backup, DER or PEM: what it names is revoked again. May be "
    "repeated.",
)
@click.option(
    "--token-from-config", type=FILE, help="certd.toml of whose [token] is used in place of the backup's token."
)
@click.option("--database-url", help="URL of an empty PostgreSQL database. [default: that of the backup]")
def restore(
    *,
    file: Path,
    data_dir: Path,
    passphrase_file: Path | None,
    recovery_key: Path | None,
    journal: Path | None,
    crl_files: tuple[Path, ...],
    token_from_config: Path | None,
    database_url: str | None,
) -> None:
    """Make a server of the backup FILE in an empty folder, checked whole before anything is there.

    Certificates that journals tell of and the database does not are recorded as lost, and revoked. Certificates that
    were revoked since the backup are revoked again as far as a CRL names them, or a journal tells of an OCSP answer
    that said so; revoke others by hand. Never run the server that the backup is of beside it: both would issue.
    """
    secret = secret_options(passphrase_file, recovery_key)
    token = None if token_from_config is None else config.load(token_from_config)
    daemon()
    from certd.backup import restoring

    order = restoring.Order(
        file=file,
        secret=secret,
        data=initialisation.absolute(data_dir),
        database_url=database_url,
        token=token,
        journal=journal,
        revocation_lists=tuple(_content(one) for one in crl_files),
    )
    done = restoring.restore(order, clock=SystemClock(), progress=Progress())
    made, books = done.manifest, done.books
    click.echo(f"restored {order.data} as of {made.time.isoformat()}, event {made.seq}, chain hash {made.chain_hash}")
    click.echo(f"{books.records} records of journals were read; {books.lost} certificates are lost, and revoked")
    if books.revoked:
        click.echo(f"{books.revoked} certificates are revoked again, for a CRL or an OCSP answer said so")
    if not crl_files:
        click.echo(
            f"what was revoked after {made.time.isoformat()} is good again, but for that: see README, Revocations"
        )
    if books.foreign:
        click.echo(f"{books.foreign} signatures are by keys that the backup does not know: see certd audit verify")
    if books.checkpoint_key:
        click.echo("checkpoints are signed by a new key: the old one has signed farther ahead, or may have")
    for key in done.taken_out:
        click.echo(f"certd.toml: {key} was taken out; set it again where this machine has it")
    if done.token_unknown:
        click.echo(f"\nNobody knows which keys the token {made.token_label} has: {done.token_unknown}")
    if done.missing:
        click.echo("\nThe token lacks these keys, and what they sign or open is out of reach until it has them:")
        for one in done.missing:
            click.echo(f"  {one}")
        click.echo("Restore the token from its own backup; wrapping keys in escrow: certd recover-wrapping-key")
    this = f"--config {shlex.quote(str(done.config_file))}"
    click.echo(f"\nNext:\n  certd doctor {this}\n  certd serve {this}")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise field_invalid("--crl", f"{file} cannot be read ({error.strerror})") from error
