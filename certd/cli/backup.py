"""`certd backup`: one encrypted file of everything, made while the daemon works, and its verification."""

import os
import stat
import sys
from pathlib import Path
from typing import Final

import click
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd import config
from certd.cli.configuration import CONFIG_NAME, DATA_FOLDER, daemon, found_config
from certd.clock import SystemClock
from certd.errors import field_invalid
from certd.pki.encrypted_file import LONGEST_PASSPHRASE, Decrypting, Passphrase, Recipient
from certd.pki.recovery_key import parse_recovery_key, parse_recovery_public_key

_LONGEST_KEY_FILE: Final = 65_536
FILE = click.Path(dir_okay=False, path_type=Path)


class Progress:
    """Tells on standard error how far something is, once for each tenth; a terminal alone is told."""

    def __init__(self) -> None:
        self._told: tuple[str, int] = ("", 0)

    def __call__(self, what: str, done: int, of: int) -> None:
        """Hears that so much of so much is done."""
        tenth = 10 if not of else done * 10 // of
        if sys.stderr.isatty() and (what, tenth) != self._told:
            self._told = (what, tenth)
            click.echo(f"{what}: {tenth * 10} %", err=True)


def passphrase_of(file: Path) -> Passphrase:
    """Returns the passphrase in a file, without the line feed at its end. FIELD_INVALID.

    Others than its owner must not be able to read the file.
    """
    content = secret_of(file, "--passphrase-file", LONGEST_PASSPHRASE + 2)
    return Passphrase(content.removesuffix(b"\n").removesuffix(b"\r"))


def recovery_key_of(file: Path) -> X25519PrivateKey:
    """Returns the private recovery key in a file. FIELD_INVALID."""
    return parse_recovery_key(secret_of(file, "--recovery-key", _LONGEST_KEY_FILE), field="--recovery-key")


def secret_of(file: Path, option: str, longest: int) -> bytes:
    """Returns what is in a file that only its owner can read. FIELD_INVALID with the option."""
    try:
        with file.open("rb") as opened:
            # A pipe or a terminal is nobody's to read twice.
            status = os.fstat(opened.fileno())
            if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
                raise field_invalid(option, f"{file} can be read by others: run chmod 600 {file}")
            content = opened.read(longest + 1)
    except OSError as error:
        raise field_invalid(option, f"{file} cannot be read ({error.strerror})") from error
    if len(content) > longest:
        raise field_invalid(option, f"{file} has more than {longest} bytes")
    return content


def secret_options(passphrase_file: Path | None, recovery_key: Path | None) -> Passphrase | X25519PrivateKey:
    """Returns what opens a backup; a usage error unless just one is named."""
    if (passphrase_file is None) == (recovery_key is None):
        raise click.UsageError("name the one that opens the backup: --passphrase-file or --recovery-key")
    if recovery_key is not None:
        return recovery_key_of(recovery_key)
    assert passphrase_file is not None  # noqa: S101  # One of the two is there.
    return passphrase_of(passphrase_file)


@click.command(
    "backup",
    epilog="""\b
Examples:
  certd backup /media/usb/certd.backup --recovery-public-key recovery.pem
  certd backup certd.backup --passphrase-file passphrase.txt --config /var/lib/certd/certd.toml
  certd backup --verify certd.backup --passphrase-file passphrase.txt
""",
)
@click.argument("file", type=FILE)
@click.option("--verify", is_flag=True, help="Decrypt and check every part of FILE, and write nothing.")
@click.option("--passphrase-file", type=FILE, help="File with the passphrase, of 12 bytes or more.")
@click.option(
    "--recovery-public-key", type=FILE, help="PEM of an X25519 public key, whose private half opens the backup."
)
@click.option("--recovery-key", type=FILE, help="PEM of the private half; with --verify.")
@click.option(
    "--config",
    "config_file",
    type=FILE,
    envvar="CERTD_CONFIG",
    show_envvar=True,
    help=f"Path of certd.toml.  [default: {DATA_FOLDER}/{CONFIG_NAME}]",
)
def backup(
    *,
    file: Path,
    verify: bool,
    passphrase_file: Path | None,
    recovery_public_key: Path | None,
    recovery_key: Path | None,
    config_file: Path | None,
) -> None:
    """Copy database, token, journal, certd.toml and credentials into one encrypted FILE; the daemon may run.

    FILE must not exist, and is there as a whole or not at all. With --recovery-public-key the machine needs no secret
    that opens it. Of tokens other than SoftHSM the keys are not in it: back these up with the token's own tool. Run it
    as a user who may read all of it: root where the token process has a user of its own.
    """
    if verify:
        if recovery_public_key is not None:
            raise click.UsageError("a backup is verified with --passphrase-file or with --recovery-key")
        _verify(file, secret_options(passphrase_file, recovery_key))
        return
    if recovery_key is not None or (passphrase_file is None) == (recovery_public_key is None):
        raise click.UsageError("say who can open the backup: --passphrase-file or --recovery-public-key")
    _make(file=file, passphrase_file=passphrase_file, recovery_public_key=recovery_public_key, given=config_file)


def _make(*, file: Path, passphrase_file: Path | None, recovery_public_key: Path | None, given: Path | None) -> None:
    config_file = found_config(given)
    settings = config.load(config_file)
    to: Passphrase | Recipient
    if passphrase_file is not None:
        to = passphrase_of(passphrase_file)
    else:
        assert recovery_public_key is not None  # noqa: S101  # One of the two is there.
        to = recipient_of(recovery_public_key)
    daemon()
    from certd.backup import making

    made = making.make(settings, config_file, file, to=to, clock=SystemClock(), progress=Progress())
    click.echo(f"{file}: {made.note.size} bytes, sha256 {made.note.sha256}")
    click.echo(f"the books up to event {made.manifest.seq}, chain hash {made.manifest.chain_hash}")
    if not made.manifest.has_token:
        click.echo(
            f"\nThe token {made.manifest.token_label} is not in it: back up its {len(made.manifest.keys)} keys with its"
            " own tool, after this backup."
        )
    how = f"--passphrase-file {passphrase_file}" if passphrase_file is not None else "--recovery-key PRIVATE-KEY-FILE"
    click.echo(f"\nNext, where the secret is:\n  certd backup --verify {file} {how}")


def recipient_of(file: Path) -> Recipient:
    """Returns the public recovery key in a file as who opens a backup. FIELD_INVALID."""
    try:
        content = file.read_bytes()[:_LONGEST_KEY_FILE]
    except OSError as error:
        raise field_invalid("--recovery-public-key", f"{file} cannot be read ({error.strerror})") from error
    return Recipient(parse_recovery_public_key(content, field="--recovery-public-key"))


def _verify(file: Path, secret: Passphrase | X25519PrivateKey) -> None:
    daemon()
    from certd.backup.archive import read_archive

    progress = Progress()
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            found = read_archive(
                Decrypting(opened, secret), progress=lambda done: progress("verified", done, max(size, done))
            )
    except OSError as error:
        raise field_invalid("file", f"{file} cannot be read ({error.strerror})") from error
    token = "with its keys" if found.has_token else "whose keys are not in it"
    click.echo(f"{file} is whole: {len(found.parts)} parts of {sum(size for size, _ in found.parts.values())} bytes")
    click.echo(f"made {found.time.isoformat()} by certd {found.version}, {found.engine}, schema {found.schema}")
    click.echo(f"the books up to event {found.seq}, chain hash {found.chain_hash}")
    click.echo(f"the token {found.token_label}, {token}")
    click.echo("\nNext, on an empty machine:\n  certd restore FILE --data-dir FOLDER")
