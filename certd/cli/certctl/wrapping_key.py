"""`certctl wrapping-key`: the keys in the token under which the server keeps private keys sealed."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Never
from uuid import UUID

import click

from certd.cli.certctl import completion, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.client.failure import CallFailed
from certd.client.messages import enum_text
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import (
    DestroyWrappingKeyRequest,
    GetWrappingKeyRequest,
    ListWrappingKeysRequest,
    RotateWrappingKeyRequest,
)

if TYPE_CHECKING:
    from certd.client.connection import Client

_PAGE: Final = 500
_HEADER: Final = ("WRAPPING KEY", "STATE", "ESCROW", "SEALED ANEW", "CREATED", "ROTATED", "RETIRED", "DESTROYED")
_POLL: Final = 0.5
_STUCK: Final = 60.0
"""Seconds without progress after which nobody waits any longer."""


@click.group("wrapping-key")
def wrapping_key() -> None:
    """Wrapping keys: a tenant's private keys lie sealed under one, which never leaves the token."""


@verb(wrapping_key, "list", examples="certctl wrapping-key list\ncertctl wrapping-key list -o json | jq -r .state")
def list_(run: Invocation) -> None:
    """List the wrapping keys of a tenant, newest first."""
    call = ListWrappingKeysRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[WrappingKey]]:
        for page in client.pages(client.stubs.list_wrapping_keys, call):
            yield page.wrapping_keys

    with run.connect() as client, run.progress("listing wrapping keys"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(wrapping_key, "show", examples="certctl wrapping-key show 1\ncertctl wrapping-key show 1 --tenant acme -o json")
@click.argument("name", metavar="NUMBER", shell_complete=completion.wrapping_keys)
def show(run: Invocation, *, name: str) -> None:
    """Show one wrapping key, and how far its rotation is."""
    full_name = names.wrapping_key_name(name, run.tenant)
    with run.connect() as client, run.progress("getting the wrapping key"):
        found = client.call(client.stubs.get_wrapping_key, GetWrappingKeyRequest(name=full_name))
    _print(found, run)


@verb(
    wrapping_key,
    "rotate",
    examples="""
    certctl wrapping-key rotate
    certctl wrapping-key rotate --tenant acme --wait
    """,
)
@click.option("--wait", is_flag=True, help="Show how far it is until nothing is sealed under the old key any more.")
@mutation_options(validate_only=False)
def rotate(run: Invocation, *, wait: bool, request_id: UUID) -> None:
    """Make a new wrapping key; the server seals everything anew under it, and goes on working meanwhile."""
    call = RotateWrappingKeyRequest(parent=names.tenant_name(run.tenant), request_id=str(request_id))
    with run.connect() as client:
        with run.progress("rotating the wrapping key"):
            made = client.call(client.stubs.rotate_wrapping_key, call)
        if wait:
            _wait(run, client, _before(made))
    _print(made, run)


@verb(
    wrapping_key,
    "destroy",
    examples="""
    certctl wrapping-key destroy 1 --validate-only
    certctl wrapping-key destroy 1 --confirm 1
    """,
)
@click.argument("name", metavar="NUMBER", shell_complete=completion.wrapping_keys)
@click.option("--confirm", metavar="NUMBER", help="The same number once more: there is no way back.")
@mutation_options(validate_only=True)
def destroy(run: Invocation, *, name: str, confirm: str | None, request_id: UUID, validate_only: bool) -> None:
    """Destroy a RETIRED wrapping key in the token, for good; what only backups hold under it never opens again."""
    full_name = names.wrapping_key_name(name, run.tenant)
    if not validate_only and (confirm is None or names.wrapping_key_name(confirm, run.tenant) != full_name):
        message = f"this cannot be undone; say --confirm {name} if you mean it, or --validate-only to see what it does"
        raise click.UsageError(message)
    with run.connect() as client, run.progress("destroying the wrapping key"):
        found = client.call(client.stubs.get_wrapping_key, GetWrappingKeyRequest(name=full_name))
        call = DestroyWrappingKeyRequest(
            name=full_name, etag=found.etag, request_id=str(request_id), validate_only=validate_only
        )
        gone = client.call(client.stubs.destroy_wrapping_key, call)
    output.print_warnings(gone.warnings, run.output)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    _print(gone, run)


def _before(made: WrappingKey) -> str:
    """Returns the name of the key that another one took the place of."""
    collection, _, number = made.name.rpartition("/")
    return f"{collection}/{int(number) - 1}"


def _wait(run: Invocation, client: "Client", name: str) -> None:
    """Shows the progress of a rotation and returns when the old key is retired.

    Raises CallFailed when it gets no further, or when --timeout is over; the server goes on.
    """
    began = moved = time.monotonic()
    told, done = "", -1
    while True:
        item = client.call(client.stubs.get_wrapping_key, GetWrappingKeyRequest(name=name))
        now = time.monotonic()
        if item.resealed_count != done:
            moved, done = now, item.resealed_count
        if (text := _progress_text(item)) != told:
            run.tell(text)
            told = text
        if item.state in {WrappingKey.RETIRED, WrappingKey.DESTROYED}:
            return
        if now - moved >= _STUCK:
            raise _still_going_on(item, "it gets no further; the log of the server names what does not open")
        if run.timeout is not None and now - began >= run.timeout.total_seconds():
            raise _still_going_on(item, "it is not done yet")
        time.sleep(_POLL)


def _progress_text(item: WrappingKey) -> str:
    progress = f"{item.resealed_count:,} of {item.reseal_count:,} keys under wrapping key {names.short(item.name)} are"
    return f"{progress} sealed anew, it is {enum_text(item, 'state')}"


def _still_going_on(item: WrappingKey, why: str) -> CallFailed:
    return CallFailed(
        "DEADLINE_EXCEEDED",
        f"{_progress_text(item)}: {why}. The server goes on; see certctl wrapping-key show {names.short(item.name)}",
        code="DEADLINE_EXCEEDED",
        resource=item.name,
    )


def _no_pem(_: WrappingKey) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)


def _sealed_anew(item: WrappingKey) -> str:
    return f"{item.resealed_count:,} of {item.reseal_count:,}" if item.HasField("rotate_time") else ""


def _row(item: WrappingKey) -> Sequence[str]:
    return (
        names.short(item.name),
        enum_text(item, "state"),
        "yes" if item.escrowed else "no",
        _sealed_anew(item),
        output.time_text(item.create_time),
        output.time_text(item.rotate_time),
        output.time_text(item.retire_time),
        output.time_text(item.destroy_time),
    )


def _print(item: WrappingKey, run: Invocation) -> None:
    card = [
        ("Name", item.name),
        ("State", enum_text(item, "state")),
        ("Key id", item.key_id),
        ("Escrow", "encrypted to the recovery key" if item.escrowed else "none: it is in the token alone"),
        ("Sealed anew", _sealed_anew(item)),
        ("Created", output.time_text(item.create_time)),
        ("Rotated", output.time_text(item.rotate_time)),
        ("Retired", output.time_text(item.retire_time)),
        ("Destroyed", output.time_text(item.destroy_time)),
        ("Etag", item.etag),
    ]
    output.print_resource(item, run.output, card=card)
