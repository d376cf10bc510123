"""Revocation settings of authorities, between messages and the model."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from certd.api import fields
from certd.errors import field_invalid
from certd.model.revocation_settings import (
    DEFAULT_CRL_LIFETIME,
    DEFAULT_OCSP_LIFETIME,
    DEFAULT_PARTITION_COUNT,
    EVERY_SETTING,
    MOST_BASE_URLS,
    MOST_PARTITIONS,
    CrlSettings,
    OcspSettings,
    RevocationSettings,
    SettingsChange,
)
from certd.pki.names import InvalidNameError, excerpt
from certd.pki.status_locations import parse_base_url
from certd.v1.authority_pb2 import Authority

FIELD: Final = "revocation"
_FEWEST_PARTITIONS: Final = 2
_SHORTEST_LIFETIME: Final = timedelta(hours=1)
_LONGEST_CRL_LIFETIME: Final = timedelta(days=366)
_LONGEST_OCSP_LIFETIME: Final = timedelta(days=30)
_MESSAGE: Final = Authority.RevocationSettings.DESCRIPTOR
_KINDS: Final = {
    "crl": Authority.RevocationSettings.Crl.DESCRIPTOR,
    "ocsp": Authority.RevocationSettings.Ocsp.DESCRIPTOR,
}


def _paths() -> Iterator[str]:
    for part in _MESSAGE.fields:
        yield part.name
        if part.name in _KINDS:
            yield from (f"{part.name}.{leaf.name}" for leaf in _KINDS[part.name].fields)


PATHS: Final = frozenset(_paths())
"""Of a mask, below `revocation`."""


def paths_that_are_set(given: Authority.RevocationSettings) -> frozenset[str]:
    """Returns the paths of the settings that a message says, for a request without a mask."""
    found = set()
    for field, value in given.ListFields():
        if field.name in _KINDS:
            found |= {f"{field.name}.{leaf.name}" for leaf, _ in value.ListFields()}
        else:
            found.add(field.name)
    return frozenset(found)


def parse(field: str, given: Authority.RevocationSettings, paths: frozenset[str] = EVERY_SETTING) -> SettingsChange:
    """Returns what of the settings is to become as given; raises FIELD_INVALID with every one that breaks a rule.

    Args:
        field: path of the settings in the request.
        given: the settings.
        paths: those that count, as `PATHS` has them; the others are not looked at.
    """
    said = Authority.RevocationSettings()
    FieldMask(paths=sorted(paths)).MergeMessage(given, said)
    violations = fields.Violations()

    crl, ocsp = said.crl, said.ocsp
    settings = RevocationSettings(
        crl=CrlSettings(
            enabled=crl.enabled if crl.HasField("enabled") else True,
            partitioned=crl.partitioned,
            partition_count=violations.attempt(lambda: _partition_count(f"{field}.crl.partition_count", crl)),
            lifetime=violations.attempt(
                lambda: _lifetime(
                    f"{field}.crl.lifetime", crl, longest=_LONGEST_CRL_LIFETIME, default=DEFAULT_CRL_LIFETIME
                )
            ),
            base_urls=violations.attempt(lambda: _base_urls(f"{field}.crl.base_urls", crl.base_urls)),
            omit_extension=crl.omit_extension,
        ),
        ocsp=OcspSettings(
            enabled=ocsp.enabled if ocsp.HasField("enabled") else True,
            lifetime=violations.attempt(
                lambda: _lifetime(
                    f"{field}.ocsp.lifetime", ocsp, longest=_LONGEST_OCSP_LIFETIME, default=DEFAULT_OCSP_LIFETIME
                )
            ),
            base_urls=violations.attempt(lambda: _base_urls(f"{field}.ocsp.base_urls", ocsp.base_urls)),
            omit_extension=ocsp.omit_extension,
        ),
        omit_issuer_url=said.omit_issuer_url,
        issuer_base_urls=violations.attempt(lambda: _base_urls(f"{field}.issuer_base_urls", said.issuer_base_urls)),
    )
    for path, problem in _contradictions(said, paths):
        violations.add(f"{field}.{path}", problem)
    violations.check()
    enables = frozenset(
        kind for kind, part in (("crl", crl), ("ocsp", ocsp)) if part.HasField("enabled") and part.enabled
    )
    return SettingsChange(given=settings, paths=paths, enables=enables)


def message(settings: RevocationSettings) -> Authority.RevocationSettings:
    """Returns settings as a message that says every one of them."""
    crl, ocsp = settings.crl, settings.ocsp
    return Authority.RevocationSettings(
        crl=Authority.RevocationSettings.Crl(
            enabled=crl.enabled,
            partitioned=crl.partitioned,
            partition_count=crl.partition_count,
            lifetime=_duration(crl.lifetime),
            base_urls=crl.base_urls,
            omit_extension=crl.omit_extension,
        ),
        ocsp=Authority.RevocationSettings.Ocsp(
            enabled=ocsp.enabled,
            lifetime=_duration(ocsp.lifetime),
            base_urls=ocsp.base_urls,
            omit_extension=ocsp.omit_extension,
        ),
        omit_issuer_url=settings.omit_issuer_url,
        issuer_base_urls=settings.issuer_base_urls,
    )


def _contradictions(said: Authority.RevocationSettings, paths: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yields what one request cannot mean; what settings of before make of it, the model knows."""
    parts: tuple[tuple[str, Authority.RevocationSettings.Crl | Authority.RevocationSettings.Ocsp], ...] = (
        ("crl", said.crl),
        ("ocsp", said.ocsp),
    )
    for kind, part in parts:
        if part.HasField("enabled") and not part.enabled:
            for other in _others(part):
                yield f"{kind}.{other}", f"says how something is that {kind}.enabled says is not; say one of the two"
    whole = "crl" in paths
    if said.crl.partition_count and not said.crl.partitioned and (whole or said.crl.HasField("partitioned")):
        yield "crl.partition_count", "says over how many CRLs certificates are spread; crl.partitioned has them spread"


def _others(part: Message) -> Iterable[str]:
    for field, value in part.ListFields():
        # What is said to be off contradicts nothing.
        if field.name != "enabled" and value is not False:
            yield field.name


def _partition_count(field: str, crl: Authority.RevocationSettings.Crl) -> int:
    count = crl.partition_count
    if count == 0:
        return DEFAULT_PARTITION_COUNT
    if not _FEWEST_PARTITIONS <= count <= MOST_PARTITIONS:
        raise field_invalid(
            field, f"must be from {_FEWEST_PARTITIONS} to {MOST_PARTITIONS}, or 0 for {DEFAULT_PARTITION_COUNT}"
        )
    return count


def _lifetime(
    field: str,
    part: Authority.RevocationSettings.Crl | Authority.RevocationSettings.Ocsp,
    *,
    longest: timedelta,
    default: timedelta,
) -> timedelta:
    if not part.HasField("lifetime"):
        return default
    rule = f"must be from 1 hour to {longest.days} days"
    found = fields.lifetime(field, part.lifetime, rule=rule)
    if not _SHORTEST_LIFETIME <= found <= longest:
        raise field_invalid(field, rule)
    return found


def _base_urls(field: str, given: Iterable[str]) -> tuple[str, ...]:
    texts = tuple(given)
    if len(texts) > MOST_BASE_URLS:
        raise field_invalid(field, f"has {len(texts)} URLs; at most {MOST_BASE_URLS} are allowed")
    violations = fields.Violations()
    found = [violations.attempt(lambda: _base_url(f"{field}[{index}]", text)) for index, text in enumerate(texts)]  # noqa: B023  # Called at once.
    violations.check()
    if len(set(found)) < len(found):
        raise field_invalid(field, "has a URL twice")
    return tuple(found)


def _base_url(field: str, text: str) -> str:
    try:
        return parse_base_url(text)
    except InvalidNameError as error:
        raise field_invalid(field, f"{excerpt(text)} {error}; write for example http://pki.example.internal") from error


def _duration(value: timedelta) -> Duration:
    found = Duration()
    found.FromTimedelta(value)
    return found
