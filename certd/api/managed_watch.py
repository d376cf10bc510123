"""ManagedCertificateService, the stream: convert, call `services.managed_watch`, convert back."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from certd.api import fields
from certd.api.associations import association_message
from certd.api.call import Call, Methods
from certd.api.events import LONGEST_CURSOR, event_message
from certd.api.managed_certificates import managed_certificate_message
from certd.errors import field_invalid
from certd.model.names import ManagedCertificateName, TenantName
from certd.services.managed_watch import ManagedWatch, ManagedWatchRequest
from certd.services.managed_watch_scopes import ManagedChange
from certd.v1 import managed_certificate_service_pb2

_MOST_NAMES: Final = 1000


def methods(managed_watch: ManagedWatch) -> Methods:
    """Returns the functions that answer these methods."""
    return {"WatchManagedCertificates": partial(watch_managed_certificates, managed_watch)}


def watch_managed_certificates(
    managed_watch: ManagedWatch,
    request: managed_certificate_service_pb2.WatchManagedCertificatesRequest,
    call: Call,
) -> Iterator[managed_certificate_service_pb2.WatchManagedCertificatesResponse]:
    """WatchManagedCertificates."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent) if request.parent else None)
    names = violations.attempt(lambda: _names(request.names, request.parent))
    cursor = violations.attempt(lambda: fields.text("cursor", request.cursor, longest=LONGEST_CURSOR))
    violations.check()
    wanted = ManagedWatchRequest(parent=parent, names=names, cursor=cursor)
    return map(change_message, managed_watch.watch(call.caller, wanted, call.open_stream))


def change_message(
    change: ManagedChange,
) -> managed_certificate_service_pb2.WatchManagedCertificatesResponse:
    """Returns what a stream tells as a message."""
    kind = managed_certificate_service_pb2.WatchManagedCertificatesResponse
    managed, association, event = change.managed_certificate, change.association, change.event
    return kind(
        kind=kind.Kind.Value(change.kind),
        name=change.name,
        managed_certificate=None if managed is None else managed_certificate_message(managed),
        association=None if association is None else association_message(association),
        event=None if event is None else event_message(event),
        cursor=change.cursor,
    )


def _names(given: Sequence[str], parent: str) -> frozenset[ManagedCertificateName]:
    if len(given) > _MOST_NAMES:
        raise field_invalid("names", f"must be at most {_MOST_NAMES}; watch all of the tenant, or by several streams")
    violations = fields.Violations()
    names = [
        violations.attempt(lambda number=number, each=each: _name(f"names[{number}]", each, parent))  # type: ignore[misc]  # mypy infers no type for a default.
        for number, each in enumerate(given)
    ]
    violations.check()
    return frozenset(names)


def _name(field: str, given: str, parent: str) -> ManagedCertificateName:
    name = ManagedCertificateName.parse(field, given)
    if parent and str(TenantName(name.tenant)) != parent:
        raise field_invalid(field, f"must be below {parent}")
    return name
