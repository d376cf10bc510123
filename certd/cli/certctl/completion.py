"""What a shell offers for the names of resources: those that the server has, when it answers at once."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from certd.cli.certctl import names
from certd.cli.certctl.invocation import Invocation
from certd.cli.certctl.output import Format
from certd.client.failure import CallFailed
from certd.errors import CertdError
from certd.v1.authority_service_pb2 import ListAuthoritiesRequest
from certd.v1.certificate_service_pb2 import ListRevocationCampaignsRequest
from certd.v1.event_service_pb2 import ListSubscriptionsRequest
from certd.v1.managed_certificate_service_pb2 import ListManagedCertificatesRequest, ListRenewalCampaignsRequest
from certd.v1.profile_service_pb2 import ListProfilesRequest
from certd.v1.wrapping_key_service_pb2 import ListWrappingKeysRequest

if TYPE_CHECKING:
    from certd.client.connection import Client

_PATIENCE: Final = timedelta(seconds=2)
_MOST: Final = 1000
"""Of one page; who has more knows their names."""


def authorities(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of authorities that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListAuthoritiesRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_authorities, request).authorities)

    return _beginning(ctx, incomplete, listed)


def profiles(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of profiles that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListProfilesRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_profiles, request).profiles)

    return _beginning(ctx, incomplete, listed)


def managed_certificates(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of managed certificates that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListManagedCertificatesRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_managed_certificates, request).managed_certificates)

    return _beginning(ctx, incomplete, listed)


def campaigns(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of renewal campaigns that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListRenewalCampaignsRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_renewal_campaigns, request).renewal_campaigns)

    return _beginning(ctx, incomplete, listed)


def revocation_campaigns(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of revocation campaigns that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListRevocationCampaignsRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_revocation_campaigns, request).revocation_campaigns)

    return _beginning(ctx, incomplete, listed)


def subscriptions(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of subscriptions that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListSubscriptionsRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_subscriptions, request).subscriptions)

    return _beginning(ctx, incomplete, listed)


def wrapping_keys(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Returns the numbers of wrapping keys that begin so."""

    def listed(client: "Client", tenant: str) -> Iterable[str]:
        request = ListWrappingKeysRequest(parent=tenant, page_size=_MOST)
        return (one.name for one in client.call(client.stubs.list_wrapping_keys, request).wrapping_keys)

    return _beginning(ctx, incomplete, listed)


def _beginning(ctx: click.Context, incomplete: str, listed: Callable[["Client", str], Iterable[str]]) -> list[str]:
    run = ctx.ensure_object(Invocation)
    # Nobody reads what is told beside a line that is being typed, and nobody waits long for it.
    run.output, run.timeout = Format.JSON, _PATIENCE
    try:
        with run.connect() as client:
            found = [names.short(name) for name in listed(client, names.tenant_name(run.tenant))]
    except (CallFailed, CertdError):
        return []
    return [name for name in found if name.startswith(incomplete)]
