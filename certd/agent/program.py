"""`certd-agent`: the commands. Exit codes: 0 success, 1 failed, 2 wrong usage.

What one command alone needs is imported inside it: `run` does without what the others load, for it runs for years.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from certd import __version__
from certd.agent import config
from certd.agent.config import Config
from certd.agent.errors import AgentError
from certd.client.failure import CallFailed
from certd.errors import CertdError

if TYPE_CHECKING:
    from certd.agent.status import Status
    from certd.client.connection import Waiting

PROGRAM: Final = "certd-agent"
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_CONFIG: Final = click.option(
    "--config",
    "config_file",
    type=_FILE,
    envvar="CERTD_AGENT_CONFIG",
    show_envvar=True,
    default=config.DEFAULT_FILE,
    show_default=True,
    help="The configuration.",
)


class _Program(click.Group):
    """A group whose commands end with one line and exit code 1 when something is refused, 2 on wrong usage."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # As click declares it.
        try:
            return super().invoke(ctx)
        except (CertdError, CallFailed) as error:
            click.echo(_printable(f"{PROGRAM}: {error.reason}: {error.message}"), err=True)
        except AgentError as error:
            click.echo(_printable(f"{PROGRAM}: {error.message}"), err=True)
        return ctx.exit(1)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="""\b
Examples:
  certd-agent check-config
  certd-agent enroll --code-file web-1.code
  certd-agent run
  certd-agent status -o json
""",
)
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Get renewed certificates to this machine, and have its programs serve them.

    One file configures it, /etc/certd-agent/agent.toml unless --config or CERTD_AGENT_CONFIG names another.
    Exit codes: 0 success, 1 failed, 2 wrong usage.
    """


@main.command(
    epilog="""\b
Examples:
  certd-agent enroll --code-file web-1.code
  pass show web-1 | certd-agent enroll
  certd-agent enroll --config /etc/certd-agent/agent.toml --code-file - --replace < web-1.code
"""
)
@_CONFIG
@click.option(
    "--code-file",
    metavar="FILE",
    default="-",
    help="File with the code.  [default: -, the terminal or standard input]",
)
@click.option("--replace", is_flag=True, help="Replace an identity that is there and has not ended.")
def enroll(*, config_file: Path, code_file: str, replace: bool) -> None:
    """Get this machine its identity, by a code that an administrator made.

    The key is made here and stays here. The server is held against the code before the code is sent. Repeated with the
    same code, it ends what was interrupted. A running agent takes the new identity by itself.
    """
    from datetime import UTC, datetime

    from certd.agent import identity
    from certd.client.enrollment import enroll as call_enroll
    from certd.pki.enrollment_code import parse_code

    settings = config.load(config_file)
    address = settings.enrollment
    if address is None:
        message = f'write enrollment = "host:8444" into {config_file}: what certd.toml of the server calls'
        raise AgentError(f"{message} listen.enrollment")
    identity.prepare(settings.state_directory)
    existing = None
    if not replace:
        # One that is damaged is of no use to anybody.
        with suppress(CertdError):
            existing = identity.IdentityFiles(settings.state_directory).read()
    if existing is not None and existing.not_after > datetime.now(UTC):
        raise AgentError(
            f"{settings.state_directory} has an identity, which is good until {existing.not_after.isoformat()};"
            " --replace replaces it"
        )

    def waiting(waiting: "Waiting") -> None:
        click.echo(_printable(f"{PROGRAM}: {waiting.failure}; trying again in {waiting.delay:.1f}s"), err=True)

    def call(code: Any, csr: bytes) -> Any:  # noqa: ANN401  # Their types are not loaded here.
        enrolled = call_enroll(address, code, csr, on_wait=waiting)
        return enrolled.credential, enrolled.trust_bundle

    credential = identity.enroll(settings.state_directory, parse_code(_read_code(code_file)), call)
    click.echo(_printable(f"enrolled as {credential.identity.spiffe_id}"))
    (newest, *_) = credential.identity.certificates
    click.echo(f"good until {newest.not_after_time.ToJsonString()}; certd-agent run renews it in time")


@main.command(
    epilog="""\b
Examples:
  certd-agent run
  CERTD_AGENT_CONFIG=/etc/certd-agent/agent.toml certd-agent run
"""
)
@_CONFIG
def run(config_file: Path) -> None:
    """Run the agent, in the foreground.

    Prints READY and a JSON object on standard output when what was deployed before is seen to. SIGTERM and SIGINT end
    it; SIGHUP reads the configuration again, and tries again what failed.
    """
    # grpc reads both at its import. Programs are started by exec only, and failures are told in our own words.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from signal import SIGHUP, SIGINT, SIGTERM

    from certd.agent import log
    from certd.agent.agent import Agent
    from certd.client.watch import watch_associations
    from certd.clock import SystemClock

    settings = config.load(config_file)
    log.configure(level=settings.log.level, style=settings.log.format)

    def read_again() -> Config:
        found = config.load(config_file)
        log.configure(level=found.log.level, style=found.log.format)
        return found

    agent = Agent(settings, read_again=read_again, clock=SystemClock(), watch=watch_associations)
    agent.loop.listen((SIGTERM, SIGINT, SIGHUP))
    agent.run(_ready)


def _ready(values: Mapping[str, object]) -> None:
    click.echo(f"READY {json.dumps(values)}")
    sys.stdout.flush()


@main.command(
    epilog="""\b
Examples:
  certd-agent status
  certd-agent status -o json | jq '.certificates[] | select(.state != "SERVING")'
"""
)
@_CONFIG
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(*, config_file: Path, output: str) -> None:
    """Show what is deployed, until when, and what went wrong.

    Exit code 1 when the agent does not run, has a problem, or a certificate is not served as the server has it.
    """
    from datetime import UTC, datetime

    from certd.agent import identity
    from certd.agent import status as statuses

    settings = config.load(config_file)
    found = statuses.read(settings.state_directory, datetime.now(UTC))
    running = identity.is_running(settings.state_directory)
    if found is None:
        raise AgentError(f"no agent has run with {settings.state_directory} yet; certd-agent run does")
    if output == "json":
        click.echo(json.dumps({**found.as_json(), "running": running}, indent=2, sort_keys=True))
    else:
        _print_status(found, running=running)
    fine = running and not found.problem and all(each.state == "SERVING" for each in found.certificates)
    click.get_current_context().exit(0 if fine else 1)


def _print_status(found: "Status", *, running: bool) -> None:
    stream = "connected" if found.connected else "not connected"
    rows = [
        ("Agent", f"certd {found.version}, {'runs' if running else 'does not run'}, process {found.pid}"),
        ("Server", f"{found.server}, {stream if running else 'not connected'}"),
        ("Identity", f"{found.identity}, until {found.identity_not_after}" if found.identity else "none"),
        ("Problem", found.problem),
    ]
    click.echo("\n".join(f"{name:9} {_printable(text)}" for name, text in rows if text))
    table = [("CERTIFICATE", "STATE", "VERSION", "CURRENT", "NOT AFTER", "ERROR")]
    table += [
        (
            each.name,
            each.state,
            str(each.version or "-"),
            str(each.current_version or "-"),
            each.not_after or "-",
            f"{each.error} (again at {each.retry_time})" if each.retry_time else each.error or "-",
        )
        for each in found.certificates
    ]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    click.echo()
    for row in table:
        cells = zip(row, widths, strict=True)
        click.echo("  ".join(_printable(cell).ljust(width) for cell, width in cells).rstrip())


@main.command(
    "check-config",
    epilog="""\b
Example:
  certd-agent check-config --config /etc/certd-agent/agent.toml
""",
)
@_CONFIG
def check_config(config_file: Path) -> None:
    """Check the configuration, and this machine against it; print every finding with its key path."""
    from certd.agent.findings import findings

    try:
        found = findings(config.load(config_file))
    except CertdError as error:
        found = list(error.violations)
    for violation in found:
        click.echo(f"{violation.field}: {violation.description}")
    if not found:
        click.echo("ok")
    click.get_current_context().exit(1 if found else 0)


@main.command(
    "install-unit",
    epilog="""\b
Examples:
  certd-agent install-unit
  certd-agent install-unit --user certd-agent --print
""",
)
@_CONFIG
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="/etc/systemd/system",
    show_default=True,
    help="Gets the unit.",
)
@click.option(
    "--user",
    default="root",
    show_default=True,
    help="User of the agent. Another than root can give files to nobody else, and reload only what it may.",
)
@click.option(
    "--executable", type=_FILE, help="The certd-agent that the unit starts.  [default: the one beside this Python]"
)
@click.option("--print", "only_print", is_flag=True, help="Print the unit and write nothing.")
def install_unit(*, config_file: Path, directory: Path, user: str, executable: Path | None, only_print: bool) -> None:
    """Write a hardened unit of systemd for the agent."""
    from certd.agent import unit
    from certd.credential_files import write

    config_file = config_file.absolute()
    program = (executable or Path(sys.executable).absolute().parent / PROGRAM).absolute()
    if not program.is_file():
        raise click.UsageError(f"there is no program {program}: name certd-agent with --executable")
    settings = config.load(config_file)
    text = unit.unit(settings, config_file=config_file, executable=program, user=user)
    path = directory / unit.NAME
    if only_print:
        click.echo(f"# {path}\n{text}", nl=False)
        return
    try:
        kept = path.exists() and path.read_text() == text
        if not kept:
            write(path, text.encode(), mode=0o644)
    except OSError as error:
        raise AgentError(f"{path} cannot be written ({error.strerror}); become root, or see --print") from error
    click.echo(f"{'kept' if kept else 'made':5} {path}")
    click.echo(unit.next_steps(settings, config_file=config_file, user=user))


@main.command(
    epilog="""\b
Examples:
  eval "$(certd-agent completion bash)"
  certd-agent completion fish > ~/.config/fish/completions/certd-agent.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(kind(main, {}, PROGRAM, "_CERTD_AGENT_COMPLETE").source())


def _read_code(path: str) -> str:
    """Returns the code: typed unseen, or from a file that holds nothing else; never from an argument."""
    from certd.pki.enrollment_code import LONGEST

    if path == "-" and sys.stdin.isatty():
        return str(click.prompt("Enrollment code", hide_input=True))
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            found = file.read(LONGEST + 2)
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return found.decode("ascii", errors="replace")


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
