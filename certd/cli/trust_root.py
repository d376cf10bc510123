"""`certd token trust-root`: the operator tells the token process which roots say who a consumer is."""

import os
from pathlib import Path

import click

from certd import config
from certd.cli.configuration import config_option
from certd.config import Config
from certd.errors import field_invalid
from certd.pki.consumer_certificate import parse_roots
from certd.token.pinning import pin_roots


@click.command(
    "trust-root",
    epilog="""\b
Examples:
  certd token trust-root ~/.config/certd/root.pem --config /etc/certd/certd.toml
  certd token trust-root next-root.pem
""",
)
@config_option
@click.argument("root_file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def trust_root(config_file: Path, root_file: Path) -> None:
    """Have the token process trust the system's roots in FILE (PEM), beside those that it trusts.

    Whoever a trusted root names as a consumer leases the keys that are sealed for it. A daemon that starts the token
    process under its own user does this by itself; a token process under its own user needs it once after certd init,
    with the root.pem of the administrator's credentials, and once for every new system authority. Run it as that user
    or as root. What is trusted already stays; the file, [token] system_roots, is read again when it changes.
    """
    settings = config.load(config_file)
    roots = parse_roots(root_file.read_bytes(), field=str(root_file))
    file = config.token_settings(settings).system_roots
    try:
        owner = _owner(settings)
        made = pin_roots(file, [root.certificate for root in roots], beside_others=True)
        if owner is not None:
            os.chown(file, *owner, follow_symlinks=False)
    except OSError as error:
        raise field_invalid(
            "token.system_roots",
            f"{error.filename or file}: {error.strerror}; become the token process's user, or root",
        ) from error
    click.echo(f"{'made' if made else 'kept':5} {file}")


def _owner(settings: Config) -> tuple[int, int] | None:
    """Returns user and group of the token process, to whom its PIN file belongs; None for who may give no file away."""
    if os.geteuid() != 0:
        return None
    status = settings.token.pin_file.stat()
    return status.st_uid, status.st_gid
