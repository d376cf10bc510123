"""The kinds of values that options take, each refused with a sentence when it is malformed."""

from datetime import datetime, timedelta
from typing import Final

import click
from google.protobuf.descriptor import EnumDescriptor

from certd.cli.certctl.durations import parse_duration, parse_time
from certd.errors import CertdError
from certd.pki import distinguished_name
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    KeySpec,
    RelativeDistinguishedName,
    SignatureAlgorithm,
)


class DurationType(click.ParamType[timedelta]):
    """A duration such as `90d`."""

    name = "duration"

    def convert(self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Returns the duration; fails with a sentence."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TimeType(click.ParamType[datetime]):
    """A time of RFC 3339."""

    name = "time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Returns the time; fails with a sentence."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SubjectType(click.ParamType[DistinguishedName]):
    """A distinguished name such as `CN=Example Root,O=Example` (RFC 4514, in the order written)."""

    name = "name"

    def convert(
        self, value: str | DistinguishedName, param: click.Parameter | None, ctx: click.Context | None
    ) -> DistinguishedName:
        """Returns the structured name; fails with a sentence."""
        if isinstance(value, DistinguishedName):
            return value
        try:
            names = distinguished_name.decode(distinguished_name.parse_text(value))
        except CertdError as error:
            self.fail(error.message, param, ctx)
        return DistinguishedName(
            relative_distinguished_names=[
                RelativeDistinguishedName(
                    attributes=[
                        AttributeTypeAndValue(type=distinguished_name.short_name(oid), value=text) for oid, text in name
                    ]
                )
                for name in names
            ]
        )


def distinguished_name_text(name: DistinguishedName) -> str:
    """Returns a structured name as text (RFC 4514)."""
    relatives = tuple(
        tuple((distinguished_name.oid_of(attribute.type), attribute.value) for attribute in relative.attributes)
        for relative in name.relative_distinguished_names
    )
    return distinguished_name.to_text(distinguished_name.encode(relatives))


class LabelType(click.ParamType[tuple[str, str]]):
    """A label, `key=value`."""

    name = "key=value"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Returns key and value; fails with a sentence."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is no label; write key=value", param, ctx)
        return key, text


class EnumType(click.Choice[str]):
    """A value of an enumeration of the API, in upper or lower case."""

    def __init__(self, enum: EnumDescriptor) -> None:
        super().__init__([name for name in enum.values_by_name if not name.endswith("UNSPECIFIED")])

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name as the API has it; fails with the names that there are."""
        return super().convert(value.upper(), param, ctx)


DURATION: Final = DurationType()
TIME: Final = TimeType()
SUBJECT: Final = SubjectType()
LABEL: Final = LabelType()
KEY_SPEC: Final = EnumType(KeySpec.DESCRIPTOR)
SIGNATURE_ALGORITHM: Final = EnumType(SignatureAlgorithm.DESCRIPTOR)
