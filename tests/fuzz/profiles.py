"""Profiles of all sorts, at random: narrow and wide, of authorities and of leaves, mostly such as certd accepts."""

import random
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from certd.pki import der
from certd.v1 import profile_pb2, x509_pb2
from certd.v1.x509_pb2 import KeySpec, KeyUsage

_T = TypeVar("_T")
_DAY = 86_400
_PURPOSES = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.4", "1.3.6.1.4.1.99999.4")
_EXTENSIONS = (
    *("2.5.29.15", "2.5.29.37", "2.5.29.32", "1.3.6.1.5.5.7.1.24", "1.3.6.1.4.1.99999.3", "1.3.6.1.4.1.311.20.2"),
    *("2.5.29.99", "1.3.6.1.5.5.7.48.1.5", "2.5.29.33", "2.5.29.36", "2.5.29.54", "1.3.6.1.4.1.11129.2.4.3"),
)
_VALUES = (
    der.encode(der.UTF8_STRING, b"fixed"),
    der.encode(der.NULL, b""),
    der.sequence(),
    der.sequence(der.encode(0xA0, bytes(2))),
    der.octet_string(bytes(300)),
)


def _some(draw: random.Random, values: Sequence[_T], most: int = 3) -> list[_T]:
    return draw.sample(values, draw.randint(0, min(most, len(values))))


def profile(draw: random.Random) -> profile_pb2.Profile:
    """Returns a profile to make."""
    if draw.random() < 0.1:
        made = profile_pb2.Profile(authority=True, highest_path_length=draw.randrange(3))
    else:
        made = profile_pb2.Profile(extended_key_usages=_some(draw, _PURPOSES) or _PURPOSES[:1])
        made.names.CopyFrom(_names(draw))
        if draw.random() < 0.3:
            made.passed_extensions.extend(["*"] if draw.random() < 0.4 else _some(draw, _EXTENSIONS, 6))
    made.description = draw.choice(("", "of the fuzz", "für Geräte"))
    made.longest_lifetime.CopyFrom(Duration(seconds=draw.choice((_DAY, 30 * _DAY, 90 * _DAY, 300 * _DAY))))
    if draw.random() < 0.2:
        made.backdate.CopyFrom(Duration(seconds=draw.choice((0, 1, 300, _DAY))))
    if draw.random() < 0.2:
        made.shortest_lifetime.CopyFrom(Duration(seconds=draw.choice((1, 60, 3600))))
    if draw.random() < 0.15:
        made.key_specs.extend(_some(draw, KeySpec.values()[1:], 5))
    if draw.random() < 0.3 and not made.authority:
        made.key_usages.extend(_some(draw, [one for one in KeyUsage.values() if one not in {0, 6, 7}]))
    made.policies.extend(_some(draw, ("1.3.6.1.4.1.99999.7", "2.23.140.1.2.1", "2.5.29.32.0"), 2))
    if draw.random() < 0.2:
        made.tls_features.extend(draw.choice(((5,), (5, 17), (17,), (5,))))
    if draw.random() < 0.3:
        made.custom_extensions.add(
            oid=draw.choice(("1.3.6.1.4.1.99999.2", "2.5.29.98", "1.2.3.4")),
            critical=draw.random() < 0.3,
            value=draw.choice(_VALUES),
        )
    made.subject.CopyFrom(_subject(draw))
    made.allow_subject_override = draw.random() < 0.7
    made.allow_names_override = draw.random() < 0.7
    return made


def _names(draw: random.Random) -> profile_pb2.NameRules:
    rules = profile_pb2.NameRules(fewest=draw.choice((0, 0, 0, 1)), most=draw.choice((0, 0, 0, 8, 100)))
    kind = draw.random()
    if kind < 0.6:
        rules.dns_names.allow_any = True
        rules.dns_names.allow_wildcards = draw.random() < 0.7
    else:
        rules.dns_names.suffixes.extend(_some(draw, ("example.internal", "example.com", "internal", "xn--p1ai")))
        rules.dns_names.names.extend(_some(draw, ("localhost", "www.example.internal")))
        rules.dns_names.allow_wildcards = draw.random() < 0.5
        rules.dns_names.fewest_wildcard_labels = draw.choice((0, 2, 3))
    if draw.random() < 0.6:
        rules.ip_addresses.allow_any = draw.random() < 0.8
        rules.ip_addresses.ranges.extend(_some(draw, ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32")))
    if draw.random() < 0.6:
        rules.uris.allow_any = draw.random() < 0.7
        rules.uris.prefixes.extend(_some(draw, ("spiffe://example.org/", "https://www.example.internal/")))
    if draw.random() < 0.6:
        rules.email_addresses.allow_any = draw.random() < 0.7
        rules.email_addresses.domains.extend(_some(draw, ("example.internal", "mail.example.com")))
    return rules


def _subject(draw: random.Random) -> profile_pb2.SubjectRules:
    rules = profile_pb2.SubjectRules()
    rules.presence = draw.choice((0, 0, 0, 0, 1, 2, 3))  # type: ignore[assignment]  # The stubs want constants.
    rules.common_name = draw.choice((0, 0, 1, 2, 2, 3))  # type: ignore[assignment]  # As above.
    if draw.random() < 0.15:
        rules.allowed_attributes.extend(_some(draw, ("CN", "O", "C", "OU", "2.5.4.5"), 5))
    if draw.random() < 0.1:
        rules.required_attributes.extend(_some(draw, ("CN", "O"), 2))
    if draw.random() < 0.05:
        rules.directory_subtrees.append(distinguished_name(("O", "Example")))
    return rules


def distinguished_name(*attributes: tuple[str, str]) -> x509_pb2.DistinguishedName:
    """Returns a name of relative names with one attribute each."""
    return x509_pb2.DistinguishedName(
        relative_distinguished_names=[
            x509_pb2.RelativeDistinguishedName(attributes=[x509_pb2.AttributeTypeAndValue(type=type_, value=value)])
            for type_, value in attributes
        ]
    )
