"""The agent as a unit of systemd, confined as far as the programs that it reloads allow."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from certd.agent.config import Config
from certd.errors import field_invalid

NAME: Final = "certd-agent.service"
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_HOMES: Final = tuple(Path(path) for path in ("/home", "/root", "/run/user"))
# To give files to other users, to signal and to reload what they run, and for checks such as `nginx -t`, which bind.
_CAPABILITIES: Final = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE"

_TEXT: Final = """\
# Written by certd-agent install-unit.
[Unit]
Description=certd-agent, keeps the certificates of this machine renewed
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
User={user}
Group={user}
ExecStart={executable} run --config {config_file}
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
KillMode=mixed
TimeoutStartSec=600
TimeoutStopSec=15
# Few threads with little to do: more arenas would only hold memory.
Environment=MALLOC_ARENA_MAX=2
CapabilityBoundingSet={capabilities}
AmbientCapabilities=
NoNewPrivileges=yes
UMask=0077
LimitCORE=0
KeyringMode=private
LockPersonality=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# Not strict: checks such as `nginx -t` write their logs and process ids.
ProtectSystem=full
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@clock @debug @module @mount @raw-io @reboot @swap
{writable}
[Install]
WantedBy=multi-user.target
"""


def unit(config: Config, *, config_file: Path, executable: Path, user: str) -> str:
    """Returns the text of the unit; raises FIELD_INVALID for a path or user that it cannot name."""
    if not _USER.fullmatch(user):
        raise field_invalid("--user", f"{user!r} is no name of a user: write lower-case letters, digits, '-' and '_'")
    writable = {config.state_directory, *(each.directory for each in config.certificates if each.files)}
    if config.sds is not None:
        writable.add(config.sds.socket.parent)
    writable = {path for path in writable if not any(other in path.parents for other in writable)}
    return _TEXT.format(
        user=user,
        executable=_word(executable),
        config_file=_word(config_file),
        capabilities=_CAPABILITIES if user == "root" else "",
        home="read-only" if _in_a_home((executable, config_file, *writable)) else "yes",
        # What is not there yet is made by the agent, or by who installs the program that reads it.
        writable="".join(f"ReadWritePaths={_word(path, before='-')}\n" for path in sorted(writable)),
    )


def next_steps(config: Config, *, config_file: Path, user: str) -> str:
    """Returns what to do after the unit was written."""
    this = f"--config {shlex.quote(str(config_file))}"
    folder = shlex.quote(str(config.state_directory))
    lines = [] if user == "root" else [f"  useradd --system --shell /usr/sbin/nologin {user}   # Unless there is one."]
    return "\n".join(
        [
            "",
            "Next:",
            *lines,
            f"  install -d -m 700 -o {user} {folder}",
            f"  certd-agent check-config {this}",
            f"  certd-agent enroll {this} --code-file CODE",
            "  systemctl daemon-reload",
            f"  systemctl enable --now {NAME}",
        ]
    )


def _in_a_home(paths: Iterable[Path]) -> bool:
    return any(path.is_relative_to(home) for path in paths for home in _HOMES)


def _word(path: Path, *, before: str = "") -> str:
    """Returns a path as one word of a unit file: quoted, and without specifiers and variables (systemd.syntax(7))."""
    text = str(path)
    if not text.isprintable() or "$" in text:
        raise field_invalid("--config", f"the path {text!r} cannot stand in a unit file; name another")
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{before}{text}"' if set(text) & set(" '\"\\;") else f"{before}{text}"
