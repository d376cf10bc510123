"""Between protobuf's own types and Python's, and the JSON mapping of messages."""

from datetime import UTC, datetime, timedelta

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def duration(value: timedelta) -> Duration:
    """Returns a protobuf duration."""
    message = Duration()
    message.FromTimedelta(value)
    return message


def timestamp(value: datetime) -> Timestamp:
    """Returns a protobuf timestamp of an aware time."""
    message = Timestamp()
    message.FromDatetime(value)
    return message


def moment(value: Timestamp) -> datetime:
    """Returns an aware time in UTC."""
    return value.ToDatetime(tzinfo=UTC)


def to_json(message: Message, *, indent: int | None = None) -> str:
    """Returns the JSON mapping of protobuf: on one line, or indented by so many spaces."""
    return json_format.MessageToJson(message, indent=indent)


def enum_text(message: Message, field: str) -> str:
    """Returns the name of an enumeration field's value; its number when a newer server sent one that we do not know."""
    number: int = getattr(message, field)
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    value = None if enum is None else enum.values_by_number.get(number)
    return str(number) if value is None else value.name
