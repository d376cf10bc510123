"""`certd recover-admin`: the way back in when no administrator's credentials work any more."""

import shlex
from pathlib import Path

import click

from certd import config
from certd.cli import initialisation
from certd.cli.configuration import administration, config_option
from certd.credential_files import CredentialFiles, install, settle, stage_key
from certd.errors import CertdError, field_invalid
from certd.pki.credential_request import new_credential_request


@click.command(
    "recover-admin",
    epilog="""\b
Examples:
  certd recover-admin
  certd recover-admin --config /etc/certd/certd.toml --credentials-dir /root/certd-admin
  certd recover-admin --id anna --credentials-dir ~/anna
""",
)
@config_option
@click.option("--id", "administrator_id", default="admin", show_default=True, help="Id of the server's identity.")
@click.option(
    "--credentials-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="~/.config/certd",
    show_default=True,
    help="Gets the administrator's credentials; those in it are replaced.",
)
def recover_admin(config_file: Path, administrator_id: str, credentials_dir: Path) -> None:
    """Make an administrator of everything anew, with a new key, from the server's own database and token.

    Run it as the daemon's user. On SQLite stop the daemon first. The event administrator.recovered says that it was
    done. Certificates that the identity had stay valid: revoke what is lost with certctl identity revoke or
    certctl certificate revoke.
    """
    settings = config.load(config_file)
    credentials = initialisation.Credentials(initialisation.absolute(credentials_dir))
    initialisation.make_private_folder(credentials.folder)
    files = CredentialFiles(certificate=credentials.certificate, private_key=credentials.private_key)
    request = new_credential_request()
    try:
        settle(files)
        stage_key(files, request.private_key)
        try:
            made = administration().recover_administrator(
                settings, administrator_id=administrator_id, administrator_csr=request.csr
            )
        except CertdError:
            # No key stays behind that no certificate is of.
            settle(files)
            raise
        install(files, made.certificate)
        initialisation.write_if_different(credentials.trust_bundle, made.system_root)
        address = initialisation.reachable(settings.listen.grpc.host, settings.listen.grpc.port)
        initialisation.write_if_different(credentials.settings, credentials.settings_text(address).encode())
    except OSError as error:
        raise field_invalid(
            "--credentials-dir", f"{error.filename} cannot be written ({error.strerror}); name another folder"
        ) from error
    click.echo(f"{made.spiffe_id} administers everything, with the credentials in {credentials.folder}")
    click.echo(
        f"\nNext, when the daemon runs:\n  certctl --config {shlex.quote(str(credentials.settings))} server info"
    )
