"""`certctl subscription`: who is told of events, by webhook or by mail."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Never, TypeVar
from uuid import UUID

import click
from google.protobuf.field_mask_pb2 import FieldMask

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import Invocation, mutation_options, verb
from certd.client.messages import enum_text
from certd.v1.event_service_pb2 import (
    CreateSubscriptionRequest,
    DeleteSubscriptionRequest,
    GetSubscriptionRequest,
    ListSubscriptionsRequest,
    RotateSubscriptionSecretRequest,
    UpdateSubscriptionRequest,
)
from certd.v1.subscription_pb2 import Mail, Subscription, Webhook

_PAGE: Final = 500
_HEADER: Final = ("SUBSCRIPTION", "STATE", "TARGET", "TYPES", "DELIVERED", "FAILED", "LAST ERROR")
_LONGEST_URL: Final = 2048
_LARGEST_ROOTS: Final = 64 * 1024
_TYPES_SHOWN: Final = 2
_CLEARABLE: Final = ("event_types", "resource", "display_name", "trusted_roots")

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@click.group()
def subscription() -> None:
    """Subscriptions: events of a tenant, sent to a webhook or by mail, each at least once."""


def _said(command: CommandT) -> CommandT:
    """Adds the options that say what a subscription is."""
    for option in reversed(
        (
            click.option("--url", help="https URL to which events are posted."),
            click.option(
                "--url-file",
                metavar="FILE",
                help="File with that URL, for one that holds a token; - for standard input.",
            ),
            click.option(
                "--trusted-roots",
                "roots_file",
                metavar="FILE",
                help="PEM of the roots that vouch for the webhook's certificate.  [default: those of the system]",
            ),
            click.option(
                "--mail", "recipients", multiple=True, metavar="ADDRESS", help="Mail events here; repeatable."
            ),
            click.option(
                "--event-type",
                "event_types",
                multiple=True,
                metavar="TYPE",
                help="Send this type; may end in * and be repeated.  [default: to webhooks all, by mail the notices]",
            ),
            click.option(
                "--resource",
                help="Only events of this resource and those below it; managedCertificates/web is one of the tenant.",
            ),
            click.option("--display-name", help="A name for people."),
        )
    ):
        command = option(command)
    return command


def _secret_file(command: CommandT) -> CommandT:
    return click.option(
        "--secret-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File for the secret, mode 0600; it is then not shown.",
    )(command)


@verb(
    subscription,
    "create",
    examples="""
    certctl subscription create pager --url https://hooks.example.com/certd --secret-file pager.secret
    certctl subscription create pager --url-file pager.url --event-type 'managed-certificate.*' -o json | jq -r .secret
    certctl subscription create on-call --mail oncall@example.com --mail ops@example.com
    certctl subscription create web --url https://10.0.0.7/ --trusted-roots root.pem --resource managedCertificates/web
    """,
)
@click.argument("name", metavar="SUBSCRIPTION")
@_said
@click.option("--disabled", is_flag=True, help="Send nothing until it is enabled.")
@click.option("--after-seq", type=click.IntRange(min=1), help="Begin after the event of this number.  [default: now]")
@_secret_file
@click.option("--validate-only", is_flag=True, help="Run every check, show what would be made, change nothing.")
def create(
    run: Invocation,
    *,
    name: str,
    url: str | None,
    url_file: str | None,
    roots_file: str | None,
    recipients: Sequence[str],
    event_types: Sequence[str],
    resource: str | None,
    display_name: str | None,
    disabled: bool,
    after_seq: int | None,
    secret_file: Path | None,
    validate_only: bool,
) -> None:
    """Have events sent from now on.

    The answer alone has the secret by which a webhook knows that a delivery is ours; nobody can read it again.
    """
    if secret_file is not None:
        files.check_writable([secret_file])
    target = _url(run, url, url_file)
    if (target is None) == (not recipients):
        message = "say where events go: --url (or --url-file), or --mail, and not both"
        raise click.UsageError(message)
    if target is None and roots_file is not None:
        message = "--trusted-roots is for webhooks; mail goes by the server's own mail server"
        raise click.UsageError(message)
    parent, id_ = names.parent_and_id(names.subscription_name(name, run.tenant))
    wanted = Subscription(
        event_types=event_types,
        resource=names.resource_name(resource or "", run.tenant),
        state=Subscription.DISABLED if disabled else Subscription.ENABLED,
        display_name=display_name or "",
    )
    if target is None:
        wanted.mail.CopyFrom(Mail(recipients=recipients))
    else:
        wanted.webhook.CopyFrom(Webhook(url=target, trusted_roots=_roots(roots_file)))
    request = CreateSubscriptionRequest(
        parent=parent,
        subscription_id=id_,
        subscription=wanted,
        validate_only=validate_only,
        after_seq=after_seq or 0,
    )
    with run.connect() as client, run.progress("making the subscription"):
        made = client.call(client.stubs.create_subscription, request)
    _tell_checked(run, validate_only=validate_only)
    if secret_file is not None and made.secret:
        _write_secret(run, secret_file, made.secret)
        made.secret = ""
    output.print_resource(made, run.output, card=[*_card(made.subscription), ("Secret", made.secret)])


@verb(subscription, "get", examples="certctl subscription get pager\ncertctl subscription get pager -o json")
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
def get(run: Invocation, *, name: str) -> None:
    """Show one subscription, and how far its events were sent."""
    request = GetSubscriptionRequest(name=names.subscription_name(name, run.tenant))
    with run.connect() as client, run.progress("getting the subscription"):
        found = client.call(client.stubs.get_subscription, request)
    _print(found, run)


@verb(subscription, "list", examples="certctl subscription list\ncertctl subscription list -o json | jq -r .name")
def list_(run: Invocation) -> None:
    """List the subscriptions of a tenant."""
    request = ListSubscriptionsRequest(parent=names.tenant_name(run.tenant), page_size=_PAGE)

    def pages() -> Iterator[Sequence[Subscription]]:
        for page in client.pages(client.stubs.list_subscriptions, request):
            yield page.subscriptions

    with run.connect() as client, run.progress("listing subscriptions"):
        output.print_pages(pages(), run.output, header=_HEADER, row=_row, pem=_no_pem)


@verb(
    subscription,
    "update",
    examples="""
    certctl subscription update pager --disable
    certctl subscription update pager --url https://hooks.example.com/new --enable
    certctl subscription update on-call --mail oncall@example.com --event-type 'managed-certificate.expir*'
    certctl subscription update pager --clear resource --clear event_types
    """,
)
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
@_said
@click.option("--enable/--disable", "enabled", default=None, help="Send events, or keep them until it is enabled.")
@click.option(
    "--clear", "cleared", type=click.Choice(_CLEARABLE), multiple=True, help="Field to set back to its default."
)
@click.option("--etag", default="", help="Change it only while this is its etag.")
@mutation_options(validate_only=True)
def update(
    run: Invocation,
    *,
    name: str,
    url: str | None,
    url_file: str | None,
    roots_file: str | None,
    recipients: Sequence[str],
    event_types: Sequence[str],
    resource: str | None,
    display_name: str | None,
    enabled: bool | None,
    cleared: Sequence[str],
    etag: str,
    request_id: UUID,
    validate_only: bool,
) -> None:
    """Change what flags name; the rest stays. What changes is tried at once."""
    target = _url(run, url, url_file)
    of_webhook = target is not None or roots_file is not None or "trusted_roots" in cleared
    if of_webhook and recipients:
        message = "a subscription has either a webhook or mail; make another one for the other"
        raise click.UsageError(message)
    said = {
        "webhook.url": target is not None,
        "webhook.trusted_roots": roots_file is not None or "trusted_roots" in cleared,
        "mail.recipients": bool(recipients),
        "event_types": bool(event_types) or "event_types" in cleared,
        "resource": resource is not None or "resource" in cleared,
        "state": enabled is not None,
        "display_name": display_name is not None or "display_name" in cleared,
    }
    if not any(said.values()):
        message = "say what to change, by flags or --clear"
        raise click.UsageError(message)
    wanted = Subscription(
        name=names.subscription_name(name, run.tenant),
        event_types=event_types,
        resource=names.resource_name(resource or "", run.tenant),
        state=Subscription.DISABLED if enabled is False else Subscription.ENABLED,
        display_name=display_name or "",
        etag=etag,
    )
    if of_webhook:
        wanted.webhook.CopyFrom(Webhook(url=target or "", trusted_roots=_roots(roots_file)))
    if recipients:
        wanted.mail.CopyFrom(Mail(recipients=recipients))
    request = UpdateSubscriptionRequest(
        subscription=wanted,
        update_mask=FieldMask(paths=sorted(path for path, is_said in said.items() if is_said)),
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress("changing the subscription"):
        changed = client.call(client.stubs.update_subscription, request)
    _tell_checked(run, validate_only=validate_only)
    _print(changed, run)


@verb(
    subscription,
    "delete",
    examples='certctl subscription delete pager\ncertctl subscription delete pager --etag "$ETAG"',
)
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
@click.option("--etag", default="", help="Delete it only while this is its etag.")
@mutation_options(validate_only=False)
def delete(run: Invocation, *, name: str, etag: str, request_id: UUID) -> None:
    """Delete a subscription with its secret and its failed deliveries; what was not sent is sent no more."""
    full_name = names.subscription_name(name, run.tenant)
    request = DeleteSubscriptionRequest(name=full_name, etag=etag, request_id=str(request_id))
    with run.connect() as client, run.progress("deleting the subscription"):
        client.call(client.stubs.delete_subscription, request)
    run.tell(f"{full_name} is deleted")


@verb(
    subscription,
    "rotate-secret",
    examples="""
    certctl subscription rotate-secret pager --secret-file pager.secret
    certctl subscription rotate-secret pager -o json | jq -r .secret
    """,
)
@click.argument("name", metavar="SUBSCRIPTION", shell_complete=completion.subscriptions)
@_secret_file
def rotate_secret(run: Invocation, *, name: str, secret_file: Path | None) -> None:
    """Replace the secret of a webhook; for a day deliveries are signed by the old one too.

    Give the new one to the receiver within that day. Of two that are older than the newest, the older ends at once.
    """
    if secret_file is not None:
        files.check_writable([secret_file])
    request = RotateSubscriptionSecretRequest(name=names.subscription_name(name, run.tenant))
    with run.connect() as client, run.progress("replacing the secret"):
        rotated = client.call(client.stubs.rotate_subscription_secret, request)
    if secret_file is not None:
        _write_secret(run, secret_file, rotated.secret)
        rotated.secret = ""
    card = [("Secret", rotated.secret), ("Old one until", output.time_text(rotated.old_secret_expire_time))]
    output.print_resource(rotated, run.output, card=card)


def _url(run: Invocation, url: str | None, url_file: str | None) -> str | None:
    """Returns the URL that options name; None for none."""
    if url is not None and url_file is not None:
        message = "--url and --url-file both say where events go; give one of them"
        raise click.UsageError(message)
    if url_file is None:
        return url
    found, warning = files.read_secret_line(url_file, longest=_LONGEST_URL, what="URL")
    if warning is not None:
        run.tell(f"warning: {warning}")
    return found


def _roots(path: str | None) -> str:
    if path is None:
        return ""
    return files.read_certificates(path, longest=_LARGEST_ROOTS, what="file of roots").decode("ascii", "replace")


def _write_secret(run: Invocation, path: Path, secret: str) -> None:
    files.write([files.Output(path=path, content=f"{secret}\n".encode(), mode=files.SECRET_MODE)])
    run.tell(f"the secret is in {path}")


def _tell_checked(run: Invocation, *, validate_only: bool) -> None:
    if validate_only:
        run.tell("every check passed; nothing was changed")


def _no_pem(_: Subscription) -> Never:
    message = "there is no certificate to print as PEM; leave out -o pem"
    raise click.UsageError(message)


def _target(item: Subscription) -> str:
    return item.webhook.url if item.HasField("webhook") else "\n".join(item.mail.recipients)


def _failed(item: Subscription) -> str:
    return f"{item.failed_delivery_count:,}" if item.failed_delivery_count else ""


def _row(item: Subscription) -> Sequence[str]:
    types = [*item.event_types[:_TYPES_SHOWN], *(["…"] if len(item.event_types) > _TYPES_SHOWN else [])]
    # A query may hold a token, which is not for a table that others look at.
    target = _target(item).partition("?")[0].replace("\n", ", ")
    return (
        names.short(item.name),
        enum_text(item, "state"),
        target,
        ", ".join(types),
        str(item.delivered_seq),
        _failed(item),
        item.last_error,
    )


def _card(item: Subscription) -> list[output.Row]:
    return [
        ("Name", item.name),
        ("Display name", item.display_name),
        ("State", enum_text(item, "state")),
        ("Webhook" if item.HasField("webhook") else "Mail", _target(item)),
        ("Trusted roots", item.webhook.trusted_roots.strip()),
        ("Types", "\n".join(item.event_types)),
        ("Resource", item.resource),
        ("Delivered", f"up to event {item.delivered_seq}"),
        ("Last delivery", output.time_text(item.delivery_time)),
        ("Last error", item.last_error),
        ("Next attempt", output.time_text(item.next_attempt_time)),
        ("Failed", _failed(item)),
        ("Creator", item.creator),
        ("Created", output.time_text(item.create_time)),
        ("Updated", output.time_text(item.update_time)),
        ("Etag", item.etag),
    ]


def _print(item: Subscription, run: Invocation) -> None:
    output.print_resource(item, run.output, card=_card(item))
