"""What one run of certctl knows: how to connect, as which tenant, and how to print. Options shared by all commands."""

import functools
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from certd.cli.certctl import settings
from certd.cli.certctl.output import Format, note
from certd.cli.certctl.parameters import DURATION
from certd.client.failure import CallFailed
from certd.errors import CertdError, Reason

if TYPE_CHECKING:
    from certd.client.connection import Client, Waiting
    from certd.client.credentials import Credentials, TokenCredentials
    from certd.credential_files import CredentialFiles
    from certd.v1.identity_pb2 import IdentityCredential

SLOW: Final = 1.0
"""Seconds after which a call shows that it still runs."""
RENEWAL_TIMEOUT: Final = 5.0
"""Seconds that a renewal in passing may take."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """One run of certctl, filled as its options are read."""

    output: Format = Format.TABLE
    verbose: bool = False
    timeout: timedelta | None = None
    tenant_flag: str | None = None
    settings_file: Path | None = None
    flags: dict[str, str] = field(default_factory=dict)
    """Connection settings by key, as given by flags."""
    told: str = ""
    """Message of the failure that was shown last while waiting."""

    @property
    def tenant(self) -> str:
        """Id of the tenant that short names belong to."""
        return settings.resolve_tenant(self.tenant_flag, os.environ, self._file())

    @contextmanager
    def connect(self) -> Iterator["Client"]:
        """Yields a connection; raises CertdError when settings or credentials are missing or do not fit.

        A certificate of which less than a third of the lifetime is left is renewed after what the caller does.
        """
        with self._connection() as (client, files, trust_bundle):
            yield client
            if files is not None:
                self._renew_when_due(client, files, trust_bundle)

    def renew(self) -> tuple["IdentityCredential", "CredentialFiles"]:
        """Renews the certificate that certctl connects with; returns what was answered, and the files it stands in.

        Raises CertdError, also for a caller with a token, which has no certificate.
        """
        from certd.client.renewal import renew

        with self._connection() as (client, files, trust_bundle):
            if files is None:
                raise CertdError(
                    Reason.FIELD_INVALID, "a caller with a token has no certificate to renew; take a new token instead"
                )
            answer = renew(
                files,
                lambda request: client.call(client.stubs.renew_identity, request),
                trust_bundle=trust_bundle,
            )
            return answer, files

    @contextmanager
    def _connection(self) -> Iterator[tuple["Client", "CredentialFiles | None", Path]]:
        """Yields a connection, the files of the certificate that it shows, None with a token, and the trust bundle."""
        # Late, so that --help and completion start without loading gRPC, which takes a quarter of a second.
        from certd.client.connection import Client
        from certd.client.credentials import read_token_credentials
        from certd.client.renewal import read_settled
        from certd.credential_files import CredentialFiles

        sources = (self.flags, os.environ, self._file(), self._file_path())
        by_token = settings.resolve_token(*sources)
        credentials: Credentials | TokenCredentials
        files = None
        if by_token is not None:
            address, trust_bundle = by_token.address, by_token.trust_bundle
            credentials = read_token_credentials(token_file=by_token.token_file, trust_bundle=trust_bundle)
        else:
            chosen = settings.resolve(*sources)
            address, trust_bundle = chosen.address, chosen.trust_bundle
            files = CredentialFiles(certificate=chosen.certificate, private_key=chosen.private_key)
            credentials = read_settled(files, trust_bundle=trust_bundle)
        seconds = None if self.timeout is None else self.timeout.total_seconds()
        with Client(address, credentials, timeout=seconds, on_wait=self.tell_waiting) as client:
            yield client, files, trust_bundle

    def _renew_when_due(self, client: "Client", files: "CredentialFiles", trust_bundle: Path) -> None:
        """Renews in passing; what fails is tried again by the next run, and the certificate is good until then."""
        from certd.client.renewal import renew_when_due

        try:
            renew_when_due(
                files,
                lambda request: client.call_once(client.stubs.renew_identity, request, timeout=RENEWAL_TIMEOUT),
                trust_bundle=trust_bundle,
            )
        except (CallFailed, CertdError, OSError) as error:
            if self.verbose:
                self.tell(f"the certificate {files.certificate} could not be renewed: {error}")

    @contextmanager
    def progress(self, doing: str) -> Iterator[None]:
        """Shows people what runs when it takes longer than a second."""
        timer = threading.Timer(SLOW, self.tell, (f"{doing} …",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def tell(self, text: str) -> None:
        """Shows progress to people; programs that read JSON get none."""
        if self.output is not Format.JSON:
            note(text)

    def tell_waiting(self, waiting: "Waiting") -> None:
        """Shows people that a call failed and will be tried again."""
        if waiting.delay < SLOW and not self.verbose:
            return
        # The same words again and again would only bury them.
        told, self.told = self.told, waiting.failure.message
        failure = "the same" if told == self.told else f"{waiting.failure.reason}: {self.told}"
        self.tell(f"{failure}; trying again in {waiting.delay:.1f}s")

    def _file_path(self) -> Path:
        return self.settings_file or settings.settings_file(os.environ)

    def _file(self) -> dict[str, str]:
        named = self.settings_file is not None or bool(os.environ.get("CERTCTL_CONFIG"))
        return settings.read_file(self._file_path(), required=named)


def invocation() -> Invocation:
    """Returns the running invocation."""
    return click.get_current_context().ensure_object(Invocation)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Returns a callback that stores an option in the invocation; the innermost place where it is given wins."""

    def store(ctx: click.Context, _: click.Parameter, value: Any) -> None:  # noqa: ANN401  # Options have many types.
        if value is not None:
            setattr(ctx.ensure_object(Invocation), name, value)

    return store


def _set_format(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).output = Format(value)


def _set_flag(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and param.name is not None:
        ctx.ensure_object(Invocation).flags[param.name] = value


def shared_options(command: CommandT) -> CommandT:
    """Adds the options that stand before or after the verb alike."""
    for option in reversed(
        (
            click.option(
                "-o",
                "--output",
                type=click.Choice([f.value for f in Format]),
                expose_value=False,
                callback=_set_format,
                help="What to print: a table or card for people, JSON (bytes in base64), or certificates as PEM.  "
                "[default: table]",
            ),
            click.option(
                "--tenant",
                metavar="ID",
                expose_value=False,
                callback=_set("tenant_flag"),
                help="Tenant that short names belong to.  [default: CERTCTL_TENANT, or the settings file, or default]",
            ),
            click.option(
                "--timeout",
                type=DURATION,
                expose_value=False,
                callback=_set("timeout"),
                help="Longest time for a call with all its tries.  [default: 1m for each, none after 10s]",
            ),
            click.option(
                "-v",
                "--verbose",
                is_flag=True,
                default=None,
                expose_value=False,
                callback=_set("verbose"),
                help="Show the details of errors, and every new try.",
            ),
        )
    ):
        command = option(command)
    return command


def connection_options(command: CommandT) -> CommandT:
    """Adds the options that say where to connect, and as whom."""
    helps = {
        "address": ("HOST:PORT", "Address of the gRPC API."),
        "certificate": ("FILE", "PEM of the client certificate."),
        "private_key": ("FILE", "PEM of its private key."),
        "trust_bundle": ("FILE", "PEM of the roots that vouch for the server."),
        "token_file": ("FILE", "A bearer token, instead of certificate and private key."),
    }
    for key in reversed(settings.CONNECTION_KEYS):
        metavar, text = helps[key]
        command = click.option(
            f"--{key.replace('_', '-')}",
            key,
            metavar=metavar,
            expose_value=False,
            callback=_set_flag,
            help=f"{text}  [or CERTCTL_{key.upper()}]",
        )(command)
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_set("settings_file"),
        help="Settings file.  [default: CERTCTL_CONFIG, or ~/.config/certd/certctl.toml]",
    )(command)


def mutation_options(*, validate_only: bool) -> Callable[[CommandT], CommandT]:
    """Adds `--request-id`, and `--validate-only` where the API has it."""

    def add(command: CommandT) -> CommandT:
        if validate_only:
            command = click.option(
                "--validate-only", is_flag=True, help="Run every check, show what would be made, change nothing."
            )(command)
        return click.option(
            "--request-id",
            type=click.UUID,
            default=uuid.uuid4,
            show_default="a new one",
            help="UUID of this request: repeating it within 24 hours returns what the first one made.",
        )(command)

    return add


def verb(group: click.Group, name: str, *, examples: str) -> Callable[[Callable[..., None]], click.Command]:
    """Registers a command with the shared options and its examples in the help."""

    def register(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(*args: object, **kwargs: object) -> None:
            function(invocation(), *args, **kwargs)

        return group.command(name, epilog=example_text(examples))(shared_options(run))

    return register


def example_text(examples: str) -> str:
    """Returns examples, one per line, as an epilog that click does not wrap."""
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    return f"\b\nExamples:\n{lines}"
