"""EventService, of events: convert, call `services.event_streams`, convert back."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.errors import field_invalid
from certd.model.event import NumberedEvent
from certd.model.event_filter import EventFilter
from certd.model.names import TenantName
from certd.model.request_limits import RequestLimits
from certd.services.event_streams import EventQuery, EventStreams
from certd.services.paging import Page
from certd.v1 import event_pb2, event_service_pb2

_MOST_TYPES: Final = 100
_LONGEST_TYPE: Final = 64
_LONGEST_NAME: Final = 512
LONGEST_CURSOR: Final = 256


def methods(event_streams: EventStreams, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "ListEvents": partial(list_events, event_streams, limits),
        "WatchEvents": partial(watch_events, event_streams),
    }


def list_events(
    event_streams: EventStreams, limits: RequestLimits, request: event_service_pb2.ListEventsRequest, call: Call
) -> event_service_pb2.ListEventsResponse:
    """ListEvents."""
    violations = fields.Violations()
    query = violations.attempt(lambda: _query(request.parent, request.filter))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[NumberedEvent]) -> event_service_pb2.ListEventsResponse:
        return event_service_pb2.ListEventsResponse(
            events=[event_message(event) for event in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(
        asked,
        lambda smaller: event_streams.page(call.caller, query, smaller, descending=request.descending),
        answer,
    )


def watch_events(
    event_streams: EventStreams, request: event_service_pb2.WatchEventsRequest, call: Call
) -> Iterator[event_service_pb2.WatchEventsResponse]:
    """WatchEvents."""
    violations = fields.Violations()
    query = violations.attempt(lambda: _query(request.parent, request.filter))
    if request.filter.HasField("end_time"):
        violations.add("filter.end_time", "must not be set: a stream has no end; ListEvents returns what has happened")
    cursor = violations.attempt(lambda: fields.text("cursor", request.cursor, longest=LONGEST_CURSOR))
    if request.cursor and request.from_beginning:
        violations.add("from_beginning", "must not be set together with cursor, which says where to go on")
    violations.check()
    watched = event_streams.watch(
        call.caller, query, cursor=cursor, from_beginning=request.from_beginning, stream=call.open_stream
    )
    return (
        event_service_pb2.WatchEventsResponse(
            event=None if each.event is None else event_message(each.event), cursor=each.cursor
        )
        for each in watched
    )


def event_message(numbered: NumberedEvent) -> event_pb2.Event:
    """Returns an event as a message."""
    event = numbered.event
    return event_pb2.Event(
        name=f"events/{numbered.seq}",
        seq=numbered.seq,
        time=x509.timestamp(event.time),
        type=event.type.value,
        tenant="" if event.tenant is None else str(TenantName(event.tenant)),
        principal=event.principal,
        resource=event.resource,
        details=event.details,
        chain_hash=numbered.chain_hash,
    )


def _query(parent: str, wanted: event_service_pb2.EventFilter) -> EventQuery:
    violations = fields.Violations()
    tenant = violations.attempt(lambda: TenantName.parse("parent", parent) if parent else None)
    types = violations.attempt(lambda: _types(wanted.types))
    resource = violations.attempt(lambda: fields.text("filter.resource", wanted.resource, longest=_LONGEST_NAME))
    principal = violations.attempt(lambda: fields.text("filter.principal", wanted.principal, longest=_LONGEST_NAME))
    start = violations.attempt(
        lambda: fields.instant("filter.start_time", wanted.start_time) if wanted.HasField("start_time") else None
    )
    end = violations.attempt(
        lambda: fields.instant("filter.end_time", wanted.end_time) if wanted.HasField("end_time") else None
    )
    violations.check()
    if start is not None and end is not None and end <= start:
        raise field_invalid("filter.end_time", "must be after start_time")
    return EventQuery(
        parent=tenant,
        filter=EventFilter(types=types, resource=resource, principal=principal, start_time=start, end_time=end),
    )


def _types(given: Sequence[str]) -> tuple[str, ...]:
    """Returns types, of which there may be some that this server does not know; raises FIELD_INVALID."""
    if len(given) > _MOST_TYPES:
        raise field_invalid("filter.types", f"must be at most {_MOST_TYPES}")
    violations = fields.Violations()
    for number, each in enumerate(given):
        field = f"filter.types[{number}]"
        violations.attempt(lambda field=field, each=each: fields.text(field, each, longest=_LONGEST_TYPE))  # type: ignore[misc]  # mypy infers no type for a default.
        if not each or "*" in each[:-1]:
            violations.add(field, "must be a type such as managed-certificate.renewed, or end in the one * that it has")
    violations.check()
    return tuple(given)
