"""`certctl`: the API on the command line. Exit codes: 0 success, 1 failed, 2 wrong usage."""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import click
from click.shell_completion import get_completion_class

from certd import __version__
from certd.cli.certctl import (
    association,
    audit_report,
    authority_import,
    campaign,
    enrollment,
    grant,
    identity,
    issue_batch,
    managed_watch,
    output,
    profile,
    revocation_campaign,
    revocation_list,
    server,
    subscription_deliveries,
    tenant,
    wrapping_key,
)
from certd.cli.certctl.invocation import Invocation, connection_options, example_text, shared_options
from certd.client.failure import CallFailed
from certd.errors import CertdError

FAILED: Final = 1
_COMPLETION_VARIABLE: Final = "_CERTCTL_COMPLETE"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=example_text(
        """
        certctl authority create web-root --type root --key EC_P384 --subject "CN=Example Root,O=Example" --lifetime 10y
        certctl certificate issue --authority web-ca --csr req.pem --lifetime 90d --out leaf.pem
        certctl managed request web --authority web-ca --dns www.example.internal --dns example.internal
        certctl managed export web --passphrase-file pass.txt --out-dir ./out
        certctl --address ca.example.internal:8443 server info -o json
        """
    ),
)
@click.version_option(__version__, prog_name=output.PROGRAM)
@shared_options
@connection_options
def cli() -> None:
    """Speak to a certd server.

    Names may be short: web-ca stands for tenants/default/authorities/web-ca. Durations are 30s, 12h, 90d, 10y (of
    365 days each); times are RFC 3339. The connection comes from flags, then CERTCTL_ADDRESS, CERTCTL_CERTIFICATE,
    CERTCTL_PRIVATE_KEY (or CERTCTL_TOKEN_FILE) and CERTCTL_TRUST_BUNDLE, then ~/.config/certd/certctl.toml.
    """


cli.add_command(association.association)
cli.add_command(audit_report.authority)
cli.add_command(authority_import.authority)
cli.add_command(revocation_list.authority)
cli.add_command(issue_batch.certificate)
cli.add_command(enrollment.enrollment)
cli.add_command(enrollment.enroll)
cli.add_command(audit_report.event)
cli.add_command(grant.grant)
cli.add_command(grant.whoami)
cli.add_command(identity.identity)
cli.add_command(campaign.campaign)
cli.add_command(managed_watch.managed)
cli.add_command(profile.profile)
cli.add_command(revocation_campaign.revocation_campaign)
cli.add_command(server.server)
cli.add_command(subscription_deliveries.subscription)
cli.add_command(tenant.tenant)
cli.add_command(wrapping_key.wrapping_key)


@cli.command(
    "completion",
    epilog=example_text(
        """
        eval "$(certctl completion bash)"
        certctl completion fish > ~/.config/fish/completions/certctl.fish
        """
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        message = f"there is no completion for {shell}"
        raise click.UsageError(message)
    click.echo(kind(cli, {}, output.PROGRAM, _COMPLETION_VARIABLE).source())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the program `certctl`; ends the process."""
    # Failures are told in our own words; the library's log of the same would only stand between them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs certctl and returns its exit code: 0 success, 1 failed, 2 wrong usage."""
    invocation = Invocation()
    try:
        result = cli.main(
            list(arguments),
            prog_name=output.PROGRAM,
            complete_var=_COMPLETION_VARIABLE,
            standalone_mode=False,
            obj=invocation,
        )
    except click.UsageError as error:
        if _asks_for_json(arguments):
            output.print_json_failure("USAGE", error.format_message())
        else:
            error.show()
        return error.exit_code
    except (CallFailed, CertdError) as error:
        output.print_failure(error, invocation.output, verbose=invocation.verbose)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        output.note("interrupted; what the server had begun, it may still finish")
        return FAILED
    return result if isinstance(result, int) else 0


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for JSON; used where they could not be parsed."""
    pairs = pairwise([*arguments, ""])
    return any(
        (word in {"-o", "--output"} and following == "json") or word in {"-ojson", "--output=json"}
        for word, following in pairs
    )
