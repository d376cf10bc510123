"""Filters of searches: trees of conditions, deeper than allowed now and then."""

import random
from collections.abc import Callable
from datetime import UTC, datetime

from certd.v1.certificate_filter_pb2 import CertificateFilter
from tests.fuzz import names
from tests.fuzz.world import World

_Fill = Callable[[CertificateFilter, random.Random], object]


def certificate_filter(draw: random.Random, world: World, depth: int) -> CertificateFilter:
    """Returns a tree of at most so many levels below the first."""
    made = CertificateFilter()
    kind = draw.random()
    if not depth or kind < 0.6:
        draw.choice(_leaves(world))(made, draw)
    elif kind < 0.75:
        made.not_filter.CopyFrom(certificate_filter(draw, world, depth - 1))
    else:
        several = made.and_filters if kind < 0.87 else made.or_filters
        several.SetInParent()
        several.filters.extend(certificate_filter(draw, world, depth - 1) for _ in range(draw.randrange(4)))
    return made


def _leaves(world: World) -> tuple[_Fill, ...]:
    def set_to(name: str, value: Callable[[random.Random], object]) -> _Fill:
        return lambda made, draw: setattr(made, name, value(draw))

    def moment(fill: Callable[[CertificateFilter], object]) -> _Fill:
        return lambda made, _draw: fill(made)

    return (
        set_to("name", names.dns_name),
        set_to("domain", lambda draw: draw.choice(("example.internal", "com", "*.a", ""))),
        set_to("serial_number", lambda draw: world.pick(draw, world.certificates, "/1").rpartition("/")[2]),
        set_to("state", lambda draw: draw.randrange(5)),
        set_to("profile", lambda draw: world.pick(draw, world.profiles, "")),
        set_to("key_spec", lambda draw: draw.randrange(9)),
        set_to("public_key_sha256", lambda draw: draw.randbytes(draw.choice((32, 32, 31)))),
        set_to("managed", lambda draw: draw.random() < 0.5),
        moment(lambda made: made.not_after.from_time.FromDatetime(datetime.now(UTC))),
        moment(lambda made: made.create_time.until_time.FromDatetime(datetime.now(UTC))),
        lambda made, draw: setattr(made.label, "key", draw.choice(("team", ""))),
    )
