"""`certd install-units`: the daemon and the token process as two units of systemd under two users."""

import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from certd import config
from certd.cli.configuration import config_option
from certd.config import Config, token_settings
from certd.credential_files import write
from certd.errors import CertdError, Reason, Violation, field_invalid

DAEMON_UNIT: Final = "certd.service"
TOKEN_UNIT: Final = "certd-token.service"  # noqa: S105  # The name of a file.

_RUN: Final = Path("/run")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_HOMES: Final = tuple(Path(path) for path in ("/home", "/root", "/run/user"))
_PRIVILEGED_PORTS: Final = range(1, 1024)

# What both processes do without. See systemd.exec(5).
_CONFINEMENT: Final = """\
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
NoNewPrivileges=yes
UMask=0077
LimitCORE=0
KeyringMode=private
LockPersonality=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @debug @mount
"""

_TOKEN_TEXT: Final = """\
# Written by certd install-units.
[Unit]
Description=Token process of certd, the only user of its PKCS#11 token
Before={daemon_unit}
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
Group={user}
ExecStart={executable} token serve --config {config_file}
Restart=on-failure
RestartSec=1
KillMode=mixed
TimeoutStopSec=30
{runtime_directory}{network}{devices}{confinement}{writable}
[Install]
WantedBy=multi-user.target
"""  # noqa: S105  # The text of a file.

_DAEMON_TEXT: Final = """\
# Written by certd install-units.
[Unit]
Description=certd, the certificate manager
Wants=network-online.target {token_unit}
After=network-online.target {token_unit}
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
Group={user}
ExecStart={executable} serve --config {config_file}
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=1
KillMode=mixed
TimeoutStopSec=60
LimitNOFILE=65536
PrivateDevices=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{confinement}{writable}{unreachable}
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The text of the two units."""

    daemon: str
    token: str


def units(settings: Config, *, config_file: Path, executable: Path, user: str, token_user: str) -> Units:
    """Returns the units for a configuration in which the token process is one of its own.

    Raises:
        CertdError: FIELD_INVALID with a violation per key that two units cannot work with.
    """
    socket = _check(settings, config_file=config_file, user=user, token_user=token_user)
    softhsm_paths = _softhsm_paths(settings)
    start = (config_file, executable)
    daemon_paths = _daemon_paths(settings)
    # Beside the PIN lie the lock that programs of certd share, and the mark of a PIN that was refused.
    token_paths = {*softhsm_paths, settings.token.pin_file.parent, token_settings(settings).journal.parent}
    roots = token_settings(settings).system_roots
    runtime = _runtime_directory(socket)
    if runtime is None:
        token_paths.add(socket.parent)
    low = any(
        address.port in _PRIVILEGED_PORTS
        for address in (getattr(settings.listen, name) for name in type(settings.listen).model_fields)
        if address is not None
    )
    return Units(
        daemon=_DAEMON_TEXT.format(
            token_unit=TOKEN_UNIT,
            user=user,
            executable=_word(executable),
            config_file=_word(config_file),
            confinement=_CONFINEMENT.format(
                capabilities="CAP_NET_BIND_SERVICE" if low else "", home=_home((*start, *daemon_paths))
            ),
            writable=_paths("ReadWritePaths", _without_children(daemon_paths)),
            # The users keep them apart already; these hold when somebody opens a mode.
            unreachable=_paths(
                "InaccessiblePaths",
                _without_parents(
                    {*softhsm_paths, settings.token.pin_file, token_settings(settings).journal},
                    of=(*start, *daemon_paths),
                ),
                optional=True,
            ),
        ),
        token=_TOKEN_TEXT.format(
            daemon_unit=DAEMON_UNIT,
            user=token_user,
            executable=_word(executable),
            config_file=_word(config_file),
            runtime_directory=""
            if runtime is None
            else f"RuntimeDirectory={_word(runtime)}\nRuntimeDirectoryMode=0755\n",
            # Other modules than SoftHSM's reach their token over the network or a device, which only they know.
            network="RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"
            if not softhsm_paths
            else "PrivateNetwork=yes\nRestrictAddressFamilies=AF_UNIX\n",
            devices="PrivateDevices=yes\n" if softhsm_paths else "",
            confinement=_CONFINEMENT.format(
                capabilities="",
                home=_home((*start, *token_paths, settings.token.pin_file, settings.token.module, roots)),
            ),
            writable=_paths("ReadWritePaths", _without_children(token_paths)),
        ),
    )


def _check(settings: Config, *, config_file: Path, user: str, token_user: str) -> Path:
    """Returns the socket between the two processes."""
    violations = [
        Violation(option, f"{name!r} is no name of a user: write lower-case letters, digits, '-' and '_'")
        for option, name in (("--user", user), ("--token-user", token_user))
        if not _USER.fullmatch(name)
    ]
    if user == token_user:
        violations.append(Violation("--token-user", "must be another user than --user, or nothing is kept apart"))
    socket = settings.token.socket
    if socket is None:
        violations.append(
            Violation("token.socket", f'is missing: write socket = "/run/certd-token/token.sock" into {config_file}')
        )
    elif socket.parent == _RUN:
        violations.append(Violation("token.socket", "needs a folder of its own, as /run/certd-token/token.sock has"))
    if user not in settings.token.allowed_users:
        violations.append(
            Violation("token.allowed_users", f'lacks the daemon\'s user: write allowed_users = ["{user}"]')
        )
    for key, path in (
        ("token.pin_file", settings.token.pin_file),
        ("token.softhsm_conf", settings.token.softhsm_conf),
        # Whoever writes it says who consumers are.
        ("token.system_roots", settings.token.system_roots),
    ):
        if path is not None and any(path.is_relative_to(folder) for folder in _daemon_paths(settings)):
            violations.append(
                Violation(key, f"{path} lies in a folder of the daemon: move it to one of the token process's user")
            )
    if violations or socket is None:
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise CertdError(Reason.FIELD_INVALID, summary, violations=tuple(violations))
    return socket


def _runtime_directory(socket: Path) -> Path | None:
    """Returns the folder of the socket below /run, which systemd makes; None for one that the operator makes."""
    return socket.parent.relative_to(_RUN) if socket.parent.is_relative_to(_RUN) else None


def _softhsm_paths(settings: Config) -> set[Path]:
    """Returns the folders that SoftHSM writes: its objects, and the lock beside its configuration; none without it."""
    configuration = settings.token.softhsm_conf
    if configuration is None:
        return set()
    found = {configuration.parent}
    try:
        lines = configuration.read_text().splitlines()
    except OSError as error:
        raise field_invalid(
            "token.softhsm_conf", f"{configuration} cannot be read ({error.strerror}); become root to write the units"
        ) from error
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "directories.tokendir":
            found.add(Path(value.strip()))
    return _without_children(found)


def _without_children(paths: set[Path]) -> set[Path]:
    return {path for path in paths if not any(other in path.parents for other in paths)}


def _without_parents(paths: set[Path], *, of: Iterable[Path]) -> set[Path]:
    """Returns those paths in which none of the others lies."""
    needed = tuple(of)
    return {path for path in paths if not any(one.is_relative_to(path) for one in needed)}


def _daemon_paths(settings: Config) -> set[Path]:
    """Returns the folders that the daemon writes: its database, and its certificate when it renews it."""
    url = settings.database.url
    sqlite = "sqlite:///"
    database = {Path(url.removeprefix(sqlite)).parent} if url.startswith(sqlite) else set()
    return {settings.tls.certificate.parent, settings.tls.private_key.parent, *database}


def _home(paths: Iterable[Path]) -> str:
    """Returns how far home directories are closed: a server that lies in one must see it."""
    return "read-only" if any(path.is_relative_to(home) for path in paths for home in _HOMES) else "yes"


def _paths(key: str, paths: Iterable[Path], *, optional: bool = False) -> str:
    sign = "-" if optional else ""
    return "".join(f"{key}={_word(path, before=sign)}\n" for path in sorted(set(paths)))


def _word(path: Path, *, before: str = "") -> str:
    """Returns a path as one word of a unit file: quoted, and without specifiers and variables (systemd.syntax(7))."""
    text = str(path)
    if not text.isprintable():
        raise field_invalid("config", f"the path {text!r} cannot stand in a unit file; name another")
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if "$" in text:
        raise field_invalid("config", f"the path {text!r} has a dollar sign, which systemd would replace; name another")
    return f'"{before}{text}"' if set(text) & set(" '\"\\;") else f"{before}{text}"


def _own_executable() -> Path:
    """Returns the `certd` that belongs to this interpreter."""
    return Path(sys.executable).absolute().parent / "certd"


@click.command(
    "install-units",
    epilog="""\b
Examples:
  certd install-units --config /etc/certd/certd.toml
  certd install-units --config /etc/certd/certd.toml --print
""",
)
@config_option
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="/etc/systemd/system",
    show_default=True,
    help="Gets the two units.",
)
@click.option("--user", default="certd", show_default=True, help="User of the daemon.")
@click.option("--token-user", default="certd-token", show_default=True, help="User of the token process.")
@click.option(
    "--executable",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The certd that the units start. [default: the one beside this Python]",
)
@click.option("--print", "only_print", is_flag=True, help="Print the units and write nothing.")
def install_units(
    *, config_file: Path, directory: Path, user: str, token_user: str, executable: Path | None, only_print: bool
) -> None:
    """Write units of systemd for the daemon and for the token process, under two users, hardened.

    certd.toml must name [token] socket and the daemon's user in allowed_users. Both users read certd.toml; PIN file,
    token and pinned roots belong to the token process's user, database and TLS files to the daemon's.
    """
    config_file = config_file.absolute()
    program = (executable or _own_executable()).absolute()
    if not program.is_file():
        raise click.UsageError(f"there is no program {program}: name certd with --executable")
    made = units(
        config.load(config_file), config_file=config_file, executable=program, user=user, token_user=token_user
    )
    texts = {TOKEN_UNIT: made.token, DAEMON_UNIT: made.daemon}
    if only_print:
        click.echo("\n".join(f"# {directory / name}\n{text}" for name, text in texts.items()), nl=False)
        return
    for name, text in texts.items():
        path = directory / name
        try:
            kept = path.exists() and path.read_text() == text
            if not kept:
                write(path, text.encode(), mode=0o644)
        except OSError as error:
            raise field_invalid(
                "--directory", f"{path} cannot be written ({error.strerror}); become root, or see --print"
            ) from error
        click.echo(f"{'kept' if kept else 'made':5} {path}")
    click.echo(_next_steps((token_user, user), config_file))


def _next_steps(users: tuple[str, ...], config_file: Path) -> str:
    lines = [
        f"  useradd --system --shell /usr/sbin/nologin {shlex.quote(user)}   # Unless there is one." for user in users
    ]
    return "\n".join(
        [
            "",
            "Next:",
            *lines,
            "  # The root.pem of the administrator's credentials; later that of every new system authority, too.",
            f"  certd token trust-root root.pem --config {shlex.quote(str(config_file))}",
            "  systemctl daemon-reload",
            f"  systemctl enable --now {TOKEN_UNIT} {DAEMON_UNIT}",
        ]
    )
