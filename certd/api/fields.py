"""Fields of requests, parsed once at the edge and trusted after. Every field that breaks a rule is named."""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.errors import CertdError, Reason, field_invalid
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest

LONGEST_LIFETIME: Final = timedelta(days=100 * 365)
_LIFETIME_RULE: Final = f"must be from 1 second to {LONGEST_LIFETIME.days} days"
DEFAULT_PAGE_SIZE: Final = 100
LONGEST_PAGE_TOKEN: Final = 1024
LONGEST_LABEL_KEY: Final = 128
LONGEST_LABEL_VALUE: Final = 256
LARGEST_PAGE_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""gRPC clients refuse answers over 4 MiB unless told otherwise, so no page is larger."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_END_OF_TIME: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that X.509 and Python can write."""
_TOLD: Final = 3
_MOST_ERRORS: Final = 1000
"""Gathered of one request, whose list of wrong values may be as long as a message."""

_EVERY_FIELD: Final = "*"
"""Of a mask (AIP-134)."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class Violations:
    """Gathers what is wrong with a request."""

    def __init__(self) -> None:
        self._errors: list[CertdError] = []

    def add(self, field: str, description: str) -> None:
        """Notes a field that breaks a rule; raises what was noted when that is enough."""
        self._note(field_invalid(field, description))

    def attempt(self, parse: Callable[[], T]) -> T:
        """Returns what `parse` returns, and notes the fields that it complains about.

        After a complaint the value means nothing; `check` raises before anybody uses it. It is called at once when
        enough was noted.
        """
        try:
            return parse()
        except CertdError as error:
            if not error.violations:
                raise
            self._note(error)
            return cast("T", None)

    def _note(self, error: CertdError) -> None:
        self._errors.append(error)
        if len(self._errors) >= _MOST_ERRORS:
            self.check()

    def check(self) -> None:
        """Raises all that was noted as one error: its reason when all have the same, FIELD_INVALID otherwise."""
        if not self._errors:
            return
        first = self._errors[0]
        if len(self._errors) == 1:
            raise first
        reasons = {error.reason for error in self._errors}
        violations = tuple(violation for error in self._errors for violation in error.violations)
        told = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:_TOLD])
        more = f"; and {len(violations) - _TOLD} more" if len(violations) > _TOLD else ""
        reason = first.reason if len(reasons) == 1 else Reason.FIELD_INVALID
        raise CertdError(reason, f"{len(violations)} fields are invalid: {told}{more}", violations=violations)


def required(field: str, *, present: bool) -> None:
    """Raises FIELD_INVALID when a required field is absent."""
    if not present:
        raise field_invalid(field, "is required")


def page_request(size: int, token: str, *, largest: int) -> PageRequest:
    """Returns what a list is asked for; raises FIELD_INVALID. A size of 0 is the default."""
    violations = Violations()
    default = min(DEFAULT_PAGE_SIZE, largest)
    if not 0 <= size <= largest:
        violations.add("page_size", f"must be from 1 to {largest}, or 0 for {default}")
    if len(token) > LONGEST_PAGE_TOKEN:
        violations.add("page_token", "is not a token that this server gave")
    violations.check()
    return PageRequest(size or default, token)


def page_that_fits(request: PageRequest, page: Callable[[PageRequest], Page[T]], answer: Callable[[Page[T]], M]) -> M:
    """Returns the answer with as many entries, up to the size asked for, as every client can receive.

    AIP-158 allows fewer entries. They have a few kilobytes each, so only pages of many hundreds are made twice.
    """
    while True:
        made = answer(page(request))
        size = made.ByteSize()
        if size <= LARGEST_PAGE_BYTES or request.size == 1:
            return made
        request = PageRequest(max(1, request.size * LARGEST_PAGE_BYTES // (size + size // 8)), request.token)


def request_id(field: str, text: str) -> str:
    """Returns the id that makes a call repeatable in lower case, empty when there is none; raises FIELD_INVALID."""
    if text and (not _UUID.fullmatch(text) or text == _NIL_UUID):
        raise field_invalid(field, "must be a UUID such as 1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11, and not the nil UUID")
    return text.lower()


def request_key(method: str, request: Message, text: str) -> RequestKey | None:
    """Returns what makes a call repeatable (AIP-155), None without a `request_id`; raises FIELD_INVALID."""
    known_as = request_id("request_id", text)
    return RequestKey(known_as, request_sha256(method, request)) if known_as else None


def request_sha256(method: str, request: Message) -> bytes:
    """Returns the hash by which a repeated request is told from another one with its `request_id`."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    return hashlib.sha256(method.encode() + b"\0" + bare.SerializeToString(deterministic=True)).digest()


def labels(field: str, given: Mapping[str, str], *, most: int) -> dict[str, str]:
    """Returns labels; raises FIELD_INVALID past `most` and with each that is too long or has control characters."""
    violations = Violations()
    if len(given) > most:
        violations.add(field, f"has {len(given)} labels; at most {most} are allowed")
    for key, value in sorted(given.items()):
        path = f"{field}[{key[:LONGEST_LABEL_KEY]!r}]"
        if not 1 <= len(key) <= LONGEST_LABEL_KEY:
            violations.add(path, f"the key must have 1 to {LONGEST_LABEL_KEY} characters, and has {len(key)}")
        if len(value) > LONGEST_LABEL_VALUE:
            violations.add(path, f"the value must have at most {LONGEST_LABEL_VALUE} characters, and has {len(value)}")
        if _CONTROL.search(key + value):
            violations.add(path, "key and value must not have control characters")
    violations.check()
    return dict(given)


def text(field: str, value: str, *, longest: int) -> str:
    """Returns free text; raises FIELD_INVALID when it is too long or has control characters."""
    if len(value) > longest:
        raise field_invalid(field, f"must have at most {longest} characters, and has {len(value)}")
    if _CONTROL.search(value):
        raise field_invalid(field, "must not have control characters")
    return value


def lifetime(field: str, duration: Duration, *, rule: str = _LIFETIME_RULE) -> timedelta:
    """Returns a lifetime in whole seconds; raises FIELD_INVALID.

    `rule` is said of one that is past any bound; where the services' own bounds are narrower, it is theirs.
    """
    if duration.nanos:
        raise field_invalid(field, "must be whole seconds")
    if not 0 < duration.seconds <= LONGEST_LIFETIME.total_seconds():
        raise field_invalid(field, rule)
    return timedelta(seconds=duration.seconds)


def moment(field: str, timestamp: Timestamp) -> datetime:
    """Returns a time in whole seconds; raises FIELD_INVALID."""
    if timestamp.nanos:
        raise field_invalid(field, "must be to the second")
    if not 0 < timestamp.seconds <= _END_OF_TIME:
        raise field_invalid(field, "must be after 1970-01-01T00:00:00Z and before the year 10000")
    return datetime.fromtimestamp(timestamp.seconds, UTC)


def instant(field: str, timestamp: Timestamp) -> datetime:
    """Returns a time rounded up to microseconds, which changes neither what is at it or later nor what is before.

    Raises FIELD_INVALID.
    """
    moment(field, Timestamp(seconds=timestamp.seconds))
    microseconds = -(-timestamp.nanos // 1000)
    try:
        return datetime.fromtimestamp(timestamp.seconds, UTC) + timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise field_invalid(field, "must be before the year 10000") from error


class _EnumDescriptor(Protocol):
    """The generated wrapper of an enumeration."""

    def Name(self, number: int) -> str:  # noqa: N802  # As protobuf has it.
        """Returns the name of a value; raises ValueError."""


E = TypeVar("E")


def choice(field: str, wrapper: object, number: int, kind: Callable[[str], E]) -> E | None:
    """Returns the member of `kind` that has the name of an enumeration's value.

    None when it is not said (0); raises FIELD_INVALID for a value that this server does not know.
    """
    if number == 0:
        return None
    try:
        return kind(cast("_EnumDescriptor", wrapper).Name(number))
    except ValueError as error:
        raise field_invalid(field, f"has the value {number}, which this server does not know") from error


def changed(resource: Message, mask: FieldMask, *, changeable: frozenset[str], example: str) -> frozenset[str]:
    """Returns the names of the fields to change (AIP-134); raises FIELD_INVALID with every path that is none.

    Args:
        resource: as the request has it.
        mask: empty for every field that is set; `*` alone is all.
        changeable: fields of the first level that may change; the others may be named, and the server decides them.
        example: one of them, to be told.
    """
    paths = frozenset(mask.paths)
    if not paths:
        return frozenset(field.name for field, _ in resource.ListFields()) & changeable
    if paths == {_EVERY_FIELD}:
        return changeable
    known = {field.name for field in resource.DESCRIPTOR.fields}
    violations = Violations()
    for index, path in enumerate(mask.paths):
        if path == _EVERY_FIELD:
            violations.add(f"update_mask.paths[{index}]", "stands for every field, so it stands alone")
        elif path not in known:
            violations.add(
                f"update_mask.paths[{index}]",
                f"{path[:64]!a} is no field of the first level of a {resource.DESCRIPTOR.name.lower()}, as"
                f" `{example}` is",
            )
    violations.check()
    return paths & changeable
