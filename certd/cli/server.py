"""`certd`, the program that administers and runs the server.

The rooms that one command alone needs are imported inside it: the token process then loads neither gRPC nor
SQLAlchemy.
"""

import json
import os
import pwd
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import get_completion_class

from certd import __version__, config, log
from certd.cli import initialisation
from certd.cli.audit import audit
from certd.cli.configuration import CONFIG_NAME, DATA_FOLDER, administration, config_option
from certd.cli.configuration import daemon as daemon_module
from certd.cli.keeping import KEEPING
from certd.cli.recovery import recover_admin
from certd.cli.system_authority import rotate_system_authority
from certd.cli.trust_root import trust_root
from certd.cli.units import install_units
from certd.config import Config
from certd.credential_files import CredentialFiles, settle, write
from certd.errors import CertdError, Reason, Violation, field_invalid

_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)

_EXAMPLES: Final = """\b
Examples:
  certd init
  certd serve
  certd check-config --config /etc/certd/certd.toml
  certd doctor
  certd backup /media/usb/certd.backup --recovery-public-key recovery.pem
  certd audit verify --checkpoint /mnt/elsewhere/checkpoints.jsonl
"""

# The options of `certd init` that become keys of certd.toml.
_INIT_OPTIONS: Final = {
    "listen.grpc": "--grpc-address",
    "listen.enrollment": "--enrollment-address",
    "listen.http": "--http-address",
    "listen.metrics": "--metrics-address",
    "database.url": "--database-url",
    "token.module": "--pkcs11-module",
    "token.label": "--token-label",
    "token.pin_file": "--pin-file",
    "tls.trust_domain": "--trust-domain",
}

# What is tried next, per reason, where the message alone may leave that open.
_REMEDIES: Final = {
    Reason.FIELD_INVALID: "correct what is named, then see certd check-config",
    Reason.TOKEN_UNAVAILABLE: "see [token] of certd.toml and the log of the token process",
    Reason.STORE_UNAVAILABLE: "see [database] of certd.toml",
    Reason.INTERNAL: "the log has more",
}


class _Program(click.Group):
    """A group whose commands end with one line and exit code 1 when certd refuses, 2 on wrong usage."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # As click declares it.
        try:
            return super().invoke(ctx)
        except CertdError as error:
            click.echo(f"certd: {error.reason}: {error.message}", err=True)
            # An option or a file that is wrong says itself what to do; check-config knows of keys alone.
            keys = [one for one in error.violations if one.field.partition(".")[0] in Config.model_fields]
            remedy = _REMEDIES.get(error.reason) if keys or error.reason is not Reason.FIELD_INVALID else None
            if remedy is not None:
                click.echo(f"  remedy: {remedy}", err=True)
            ctx.exit(1)


@click.group(cls=_Program, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="certd")
def main() -> None:
    """Administer and run the certd server.

    Exit codes: 0 success, 1 failed, 2 wrong usage.
    """


@main.command(
    epilog="""\b
Examples:
  certd init
  certd init --data-dir /var/lib/certd --credentials-dir /root/certd-admin --server-name ca.example.internal
  certd init --pkcs11-module /usr/lib/vendor/libpkcs11.so --token-label certd --pin-file /etc/certd/pin
"""
)
@click.option(
    "--data-dir", type=_FOLDER, default=DATA_FOLDER, show_default=True, help="Holds everything of the server."
)
@click.option(
    "--credentials-dir",
    type=_FOLDER,
    default="~/.config/certd",
    show_default=True,
    help="Gets the first administrator's credentials.",
)
@click.option("--trust-domain", help="SPIFFE trust domain of all identities; for good. [default: certd.internal]")
@click.option(
    "--server-name",
    "server_names",
    multiple=True,
    help="DNS name or IP address of the server certificate; may be repeated. Replaces those that it has. "
    "[default: localhost, 127.0.0.1, ::1 and the host's name]",
)
@click.option("--grpc-address", help="host:port of the API. [default: 127.0.0.1:8443]")
@click.option("--enrollment-address", help="host:port of enrollment. [default: 127.0.0.1:8444]")
@click.option("--http-address", help="host:port of the HTTP listener. [default: 127.0.0.1:8080]")
@click.option("--metrics-address", help="host:port of the metrics. [default: 127.0.0.1:9464]")
@click.option("--database-url", help="SQLAlchemy URL of SQLite or PostgreSQL. [default: SQLite in the data directory]")
@click.option("--pkcs11-module", type=_FILE, help="PKCS#11 module of an existing token. [default: a new SoftHSM token]")
@click.option("--token-label", help="Label of the existing token.")
@click.option("--pin-file", type=_FILE, help="File with the PIN of the existing token, mode 0600.")
def init(
    *,
    data_dir: Path,
    credentials_dir: Path,
    trust_domain: str | None,
    server_names: tuple[str, ...],
    grpc_address: str | None,
    enrollment_address: str | None,
    http_address: str | None,
    metrics_address: str | None,
    database_url: str | None,
    pkcs11_module: Path | None,
    token_label: str | None,
    pin_file: Path | None,
) -> None:
    """Make a working server: token, database, certd.toml, certificates and the first administrator.

    Run again, it makes what is missing and keeps the rest. It cannot run beside the daemon.
    """
    given = (pkcs11_module, token_label, pin_file)
    if any(given) and not all(given):
        raise click.UsageError("an existing token needs all three of --pkcs11-module, --token-label and --pin-file")
    data = initialisation.absolute(data_dir)
    credentials = initialisation.Credentials(initialisation.absolute(credentials_dir))
    config_file = data / CONFIG_NAME
    wanted = {
        "listen.grpc": grpc_address,
        "listen.enrollment": enrollment_address,
        "listen.http": http_address,
        "listen.metrics": metrics_address,
        "database.url": database_url,
        "token.module": pkcs11_module and initialisation.absolute(pkcs11_module),
        "token.label": token_label,
        "token.pin_file": pin_file and initialisation.absolute(pin_file),
        "tls.trust_domain": trust_domain,
    }
    _check_options(wanted, server_names, data=data)
    for folder in (data, credentials.folder):
        _report(folder, made=initialisation.make_private_folder(folder))
    if config_file.exists():
        settings = _existing(config_file, wanted)
        _report(config_file, made=False)
    else:
        settings = _new(config_file, wanted)
        _report(config_file, made=True)
    pinned = _bootstrap(settings, credentials, server_names)
    click.echo(f"\n{initialisation.validity_text((settings.tls.certificate, credentials.certificate))}")
    this = f"--config {shlex.quote(str(config_file))}"
    if not pinned:
        click.echo(
            "\nAs the token process's user, or as root, so that consumers may lease keys:\n"
            f"  certd token trust-root {shlex.quote(str(credentials.trust_bundle))} {this}"
        )
    click.echo(f"\nNext:\n  certd serve {this}")


def _report(path: Path, *, made: bool) -> None:
    click.echo(f"{'made' if made else 'kept':5} {path}")


def _check_options(wanted: Mapping[str, object], server_names: tuple[str, ...], *, data: Path) -> None:
    """Refuses values that cannot be right, before anything is made; the error names their options."""
    try:
        config.check({key: value for key, value in wanted.items() if value is not None}, folder=data)
    except CertdError as error:
        named = "; ".join(
            f"{_INIT_OPTIONS[violation.field]}, {violation.field}: {violation.description}"
            for violation in error.violations
        )
        raise CertdError(Reason.FIELD_INVALID, named, violations=error.violations) from error
    administration().parse_server_names(server_names)
    module, pin_file = wanted["token.module"], wanted["token.pin_file"]
    if isinstance(module, Path) and not module.is_file():
        # The token process would tell as well, but only after it has tried for a while.
        raise CertdError(Reason.TOKEN_UNAVAILABLE, f"--pkcs11-module: there is no PKCS#11 module at {module}")
    if isinstance(pin_file, Path) and not pin_file.is_file():
        raise field_invalid("--pin-file, token.pin_file", f"there is no file {pin_file}")


def _existing(config_file: Path, wanted: Mapping[str, object]) -> Config:
    """Loads certd.toml of an earlier run, which options must not contradict: they would go unheard."""
    settings = config.load(config_file)
    violations = []
    for key, value in wanted.items():
        section, name = key.split(".")
        found = str(getattr(getattr(settings, section), name))
        if value is not None and str(value) != found:
            violations.append(Violation(key, f"is {found} in {config_file}, which certd init keeps; change it there"))
    if violations:
        summary = "; ".join(f"{violation.field} {violation.description}" for violation in violations)
        raise CertdError(Reason.FIELD_INVALID, summary, violations=tuple(violations))
    return settings


def _new(config_file: Path, wanted: Mapping[str, object]) -> Config:
    """Makes a SoftHSM token unless an existing one is named, writes certd.toml, and loads it."""
    data = config_file.parent
    values: dict[str, object] = {
        "database.url": f"sqlite:///{data / 'certd.db'}",
        "tls.certificate": data / "server.pem",
        "tls.private_key": data / "server.key",
        "tls.trust_domain": "certd.internal",
    }
    if wanted["token.module"] is None:
        values |= _softhsm_token(data)
    values |= {key: value for key, value in wanted.items() if value is not None}
    # Written under another name first: a value that certd itself would refuse must not be left behind.
    draft = config_file.with_name("certd.toml.new")
    write(draft, config.render(values).encode(), mode=0o600)
    try:
        config.load(draft)
        draft.replace(config_file)
    finally:
        draft.unlink(missing_ok=True)
    return config.load(config_file)


def _softhsm_token(data: Path) -> dict[str, object]:
    """Makes a SoftHSM token with PINs of its own unless it is there; returns its values of [token]."""
    from certd.token import softhsm

    module = softhsm.find_module()
    pin_file, officer_pin_file = data / "token-pin", data / "token-so-pin"
    # The PINs are on disk before the token has them: without them it would be of no use.
    pins = [initialisation.secret_file(path) for path in (pin_file, officer_pin_file)]
    folder = data / "token"
    made = not folder.exists()
    token = softhsm.create_softhsm_token(folder, label="certd", user_pin=pins[0], so_pin=pins[1], module=module)
    _report(folder, made=made)
    return {
        "token.module": module,
        "token.label": "certd",
        "token.pin_file": pin_file,
        "token.softhsm_conf": token.configuration,
    }


def _bootstrap(settings: Config, credentials: initialisation.Credentials, server_names: tuple[str, ...]) -> bool:
    """Makes database, system authority, server certificate and the administrator's credentials.

    Returns whether the token process trusts the system's root; one of another user has to be told.
    """
    # What the daemon's last renewal of its certificate left half done would look like another key's certificate.
    settle(CredentialFiles(certificate=settings.tls.certificate, private_key=settings.tls.private_key))
    settle(CredentialFiles(certificate=credentials.certificate, private_key=credentials.private_key))
    requests = []
    for private_key in (settings.tls.private_key, credentials.private_key):
        request, made_key = initialisation.csr_of(private_key)
        requests.append(request)
        _report(private_key, made=made_key)
    names = server_names or initialisation.names_of(settings.tls.certificate) or initialisation.default_server_names()
    made = administration().initialise(
        settings,
        server_csr=requests[0],
        administrator_csr=requests[1],
        server_names=names,
        any_server_names=not server_names,
    )
    address = initialisation.reachable(settings.listen.grpc.host, settings.listen.grpc.port)
    for path, content in (
        (settings.tls.certificate, made.server_certificate),
        (credentials.certificate, made.administrator_certificate),
        (credentials.trust_bundle, made.system_root),
        (credentials.settings, credentials.settings_text(address).encode()),
    ):
        _report(path, made=initialisation.write_if_different(path, content))
    if made.pinned is not None:
        _report(config.token_settings(settings).system_roots, made=made.pinned)
    return made.pinned is not None


@main.command(
    epilog="""\b
Examples:
  certd serve
  certd serve --config /var/lib/certd/certd.toml
  CERTD_CONFIG=/etc/certd/certd.toml certd serve
"""
)
@config_option
def serve(config_file: Path) -> None:
    """Run the daemon.

    Prints READY and a JSON object of its addresses and process ids on standard output when it serves. SIGTERM and
    SIGINT let running calls end and then stop it, a second one stops it at once; SIGHUP reads certificates and the log
    level again.
    """
    settings = config.load(config_file)
    config.require_files(settings)
    log.configure(level=settings.log.level, style=settings.log.format)
    daemon = daemon_module().build(settings)
    _on_signals(stop=daemon.request_stop, reload=lambda: _reload(config_file, daemon.reload))
    try:
        ready = daemon.start()
        daemon.take_process()
        click.echo(f"READY {json.dumps(asdict(ready))}")
        sys.stdout.flush()
        daemon.wait()
    finally:
        daemon.stop()


def _on_signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """Calls `stop` or `reload` on a thread of their own when a signal asks for it.

    A handler of Python runs between any two steps of the main thread and may not take the locks that it holds; so the
    signal's number travels through a socket to a thread that may.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach())
    stops = 0

    def handle(number: int, _frame: object) -> None:
        nonlocal stops
        stops += number != signal.SIGHUP
        if stops > 1:
            # Asked twice: without waiting for running calls.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def dispatch() -> None:
        while number := receiver.recv(1):
            if number[0] == signal.SIGHUP:
                reload()
            elif number[0] in {signal.SIGTERM, signal.SIGINT}:
                stop()

    threading.Thread(target=dispatch, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)


def _reload(config_file: Path, reload: Callable[[], None]) -> None:
    import structlog

    logger = structlog.stdlib.get_logger("certd.cli.server")
    try:
        log.set_level(config.load(config_file).log.level)
        reload()
    except CertdError as error:
        # A mistake in the file must not stop a daemon that serves.
        logger.error("reload failed, what was loaded stays", reason=error.reason, problem=error.message)  # noqa: TRY400
    except Exception:
        # The thread of signals must live to hear of the stop.
        logger.exception("reload failed, what was loaded stays")
    else:
        logger.info("reloaded")


@main.group()
def token() -> None:
    """Run the token process apart from the daemon."""


token.add_command(trust_root)


@token.command(
    "serve",
    epilog="""\b
Examples:
  certd token serve --config /etc/certd/certd.toml
  certd token serve --config /etc/certd/certd.toml --socket /run/certd/token.sock
""",
)
@config_option
@click.option(
    "--socket", "socket_file", type=click.Path(path_type=Path), help="Unix socket to serve; default: [token] socket."
)
def token_serve(config_file: Path, socket_file: Path | None) -> None:
    """Run the token process on a unix socket, for its own user and unit.

    It answers to its own user and to those of [token] allowed_users. PIN file, module configuration and token directory
    should belong to its user alone.
    """
    settings = config.load(config_file)
    log.configure(level=settings.log.level, style=settings.log.format)
    path = socket_file or settings.token.socket
    if path is None:
        raise click.UsageError("name the socket with --socket or as [token] socket in certd.toml")
    _serve_token(settings, path.absolute())


def _serve_token(settings: Config, path: Path) -> None:
    # Not certd.main's: the token process must hold no more code than it needs.
    from certd.ipc.child import UnixListener
    from certd.token import process

    users = frozenset({os.geteuid(), *(_user_id(name) for name in settings.token.allowed_users)})
    process.run(
        config.token_settings(settings),
        # Whoever connects is known by the kernel's word; the file's mode need not tell users apart.
        UnixListener(path=path, allowed_user_ids=users, mode=0o666 if settings.token.allowed_users else 0o600),
    )


def _user_id(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise field_invalid("token.allowed_users", f"there is no user {name} on this machine") from None


@main.command(
    "check-config",
    epilog="""\b
Example:
  certd check-config --config /etc/certd/certd.toml
""",
)
@config_option
def check_config(config_file: Path) -> None:
    """Check certd.toml and print every mistake with its key path."""
    violations: tuple[Violation, ...] = ()
    try:
        config.require_files(config.load(config_file))
    except CertdError as error:
        violations = error.violations
    if not violations:
        click.echo("ok")
        return
    for violation in violations:
        click.echo(f"{violation.field}: {violation.description}")
    click.get_current_context().exit(1)


@main.command(
    epilog="""\b
Example:
  certd migrate --config /etc/certd/certd.toml
"""
)
@config_option
def migrate(config_file: Path) -> None:
    """Bring the database to the schema of this version.

    Repeating it changes nothing. The previous version of certd can still use the database afterwards.
    """
    from certd.store import migration

    migration.migrate(config.load(config_file).database.url)
    click.echo("the database is up to date")


@main.command(
    epilog="""\b
Examples:
  certd completion bash > /etc/bash_completion.d/certd
  certd completion zsh > "${fpath[1]}/_certd"
  certd completion fish > ~/.config/fish/completions/certd.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  # click knows the three shells of the choice.
    click.echo(found(main, {}, "certd", "_CERTD_COMPLETE").source())


for kept in KEEPING:
    main.add_command(kept)
main.add_command(recover_admin)
main.add_command(rotate_system_authority)
main.add_command(install_units)
main.add_command(audit)
