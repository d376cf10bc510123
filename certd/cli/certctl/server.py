"""`certctl server`: the server itself."""

from typing import Final

import click

from certd.cli.certctl import names, output
from certd.cli.certctl.durations import format_time
from certd.cli.certctl.invocation import Invocation, verb
from certd.client.messages import enum_text
from certd.client.roots import Root, describe_root
from certd.v1.server_service_pb2 import (
    GetServerInfoRequest,
    GetTrustBundleRequest,
    PreparationInfo,
    ServerInfo,
    TrustBundle,
)

_HEADER: Final = ("ROOT", "SUBJECT", "NOT AFTER", "SHA-256")


@click.group()
def server() -> None:
    """The server: its version, its token, whom to trust."""


@verb(server, "info", examples="certctl server info\ncertctl server info -o json | jq -r .token.label")
def info(run: Invocation) -> None:
    """Show version, token, prepare processes, isolation and database engine."""
    with run.connect() as client, run.progress("asking the server"):
        found = client.call(client.stubs.get_server_info, GetServerInfoRequest())
    output.print_resource(found, run.output, card=_card(found))


@verb(
    server,
    "trust-bundle",
    examples="""
    certctl server trust-bundle
    certctl server trust-bundle -o pem > roots.pem
    certctl server trust-bundle -o pem --roots system > system-root.pem
    """,
)
@click.option(
    "--roots",
    type=click.Choice(["tenant", "system", "all"]),
    help="tenant: the roots of its authorities. system: the root that vouches for the server and for identities, which "
    "does not belong among the roots that the tenant's relying parties trust.  [default: all; with -o pem: tenant]",
)
def trust_bundle(run: Invocation, *, roots: str | None) -> None:
    """Show the roots to trust."""
    chosen = roots or ("tenant" if run.output is output.Format.PEM else "all")
    call = GetTrustBundleRequest(tenant="" if chosen == "system" else names.tenant_name(run.tenant))
    with run.connect() as client, run.progress("asking the server"):
        bundle = client.call(client.stubs.get_trust_bundle, call)
    if chosen == "tenant":
        del bundle.system_roots[:]
    match run.output:
        case output.Format.JSON:
            output.print_resource(bundle, run.output, card=())
        case output.Format.PEM:
            output.print_pem(output.chain_pem([*bundle.tenant_roots, *bundle.system_roots]))
        case output.Format.TABLE:
            click.echo("\n".join(output.format_table(_HEADER, _rows(bundle))))


def _rows(bundle: TrustBundle) -> list[tuple[str, str, str, str]]:
    return [
        *(_row("system", describe_root(root.der)) for root in bundle.system_roots),
        *(_row("tenant", describe_root(root.der)) for root in bundle.tenant_roots),
    ]


def _row(kind: str, root: Root) -> tuple[str, str, str, str]:
    return kind, root.subject, format_time(root.not_after), root.sha256_fingerprint


def _card(found: ServerInfo) -> list[output.Row]:
    token = found.token
    isolation = {
        "SAME_USER": "SAME_USER: PIN file and token directory are open to the daemon's user",
        "SEPARATE_USER": "SEPARATE_USER: neither PIN file nor token directory is open to the daemon",
    }
    name = enum_text(found, "isolation")
    return [
        ("Version", found.version),
        ("Serving since", output.time_text(found.start_time)),
        ("Trust domain", found.trust_domain),
        ("Database", found.database_engine),
        ("Isolation", isolation.get(name, "unknown: the token process has not answered yet")),
        ("Token", "ready" if token.ready else f"not ready: {token.problem or 'it has not answered yet'}"),
        ("Token label", token.label),
        ("Token serial", token.serial_number),
        ("Token model", " ".join(part for part in (token.manufacturer, token.model) if part)),
        ("PKCS#11 module", token.module),
        ("Preparation", _preparation_text(found.preparation)),
        ("Problems", "\n".join(found.problems)),
        ("Mechanisms", ", ".join(token.mechanisms)),
        ("Missing", "\n".join(token.missing)),
    ]


def _preparation_text(preparation: PreparationInfo) -> str:
    if not preparation.configured_processes:
        return "in the daemon: no prepare processes are configured"
    ready = f"{preparation.ready_processes} of {preparation.configured_processes} processes ready"
    return f"{ready}: {preparation.problem}" if preparation.problem else ready
