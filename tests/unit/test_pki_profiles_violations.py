"""What a profile may not say: each rule broken once, alone."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certd.errors import Violation
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.profiles import (
    BLANK,
    BUILT_IN,
    END_ENTITY,
    OCSP_SIGNING,
    SUBORDINATE_CA,
    CommonNameRule,
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    Profile,
    SubjectPresence,
    SubjectRules,
    UriRules,
    profile_violations,
)

_SECOND = timedelta(seconds=1)
_PURPOSES = END_ENTITY.extended_key_usages
_OCSP = "1.3.6.1.5.5.7.3.9"
_VALUE = der.sequence(der.integer(1))
_CN = "2.5.4.3"
_O = "2.5.4.10"


def _names(**kinds: Any) -> dict[str, NameRules]:
    return {"names": NameRules(**kinds)}


def _subject(**rules: Any) -> dict[str, SubjectRules]:
    return {"subject": SubjectRules(**rules)}


def _custom(oid: str = "1.2.3", *, value: bytes = _VALUE, critical: bool = False) -> CustomExtension:
    return CustomExtension(oid=oid, critical=critical, value=value)


_LEAF = END_ENTITY
_BROKEN: list[tuple[Profile, dict[str, Any], str]] = [
    (_LEAF, {"description": "a" * 257}, "description"),
    (_LEAF, {"longest_lifetime": timedelta(days=40 * 365, seconds=1)}, "longest_lifetime"),
    (_LEAF, {"longest_lifetime": timedelta(days=100, microseconds=1)}, "longest_lifetime"),
    (_LEAF, {"default_lifetime": timedelta(days=10, microseconds=1)}, "default_lifetime"),
    (_LEAF, {"default_lifetime": _LEAF.longest_lifetime + _SECOND}, "default_lifetime"),
    (_LEAF, {"default_lifetime": _LEAF.shortest_lifetime - _SECOND}, "default_lifetime"),
    (_LEAF, {"shortest_lifetime": timedelta(0)}, "shortest_lifetime"),
    (_LEAF, {"shortest_lifetime": -_SECOND}, "shortest_lifetime"),
    (_LEAF, {"shortest_lifetime": _SECOND, "backdate": timedelta(0)}, "shortest_lifetime"),
    (_LEAF, {"backdate": -_SECOND}, "backdate"),
    (_LEAF, {"backdate": timedelta(days=1, seconds=1)}, "backdate"),
    (_LEAF, {"backdate": timedelta(microseconds=1)}, "backdate"),
    (_LEAF, {"highest_path_length": 1}, "highest_path_length"),
    (SUBORDINATE_CA, {"highest_path_length": 5}, "highest_path_length"),
    (SUBORDINATE_CA, {"highest_path_length": -1}, "highest_path_length"),
    (SUBORDINATE_CA, {"self_signed": True}, ""),
    (_LEAF, {"key_specs": frozenset()}, "key_specs"),
    # Usages.
    (_LEAF, {"key_usages": frozenset()}, "key_usages"),
    (_LEAF, {"key_usages": _LEAF.key_usages | {KeyUsage.KEY_CERT_SIGN}}, "key_usages"),
    (_LEAF, {"key_usages": _LEAF.key_usages | {KeyUsage.CRL_SIGN}}, "key_usages"),
    (_LEAF, {"key_usages": _LEAF.key_usages | {KeyUsage.ENCIPHER_ONLY}}, "key_usages"),
    (
        _LEAF,
        {"key_usages": frozenset(KeyUsage) - {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}},
        "key_usages",
    ),
    (
        _LEAF,
        {"key_usages": frozenset({KeyUsage.KEY_ENCIPHERMENT}), "key_specs": frozenset({KeySpec.EC_P256})},
        "key_usages",
    ),
    (SUBORDINATE_CA, {"key_usages": frozenset({KeyUsage.KEY_CERT_SIGN})}, "key_usages"),
    (_LEAF, {"extended_key_usages": ()}, "extended_key_usages"),
    (_LEAF, {"extended_key_usages": tuple(f"1.2.3.{arc}" for arc in range(17))}, "extended_key_usages"),
    (_LEAF, {"extended_key_usages": ("1.2.3", "serverAuth")}, "extended_key_usages[1]"),
    (_LEAF, {"extended_key_usages": (*_PURPOSES, _PURPOSES[0])}, "extended_key_usages[2]"),
    (_LEAF, {"extended_key_usages": ("1.2.3", "2.5.29.37.0")}, "extended_key_usages[1]"),
    (_LEAF, {"extended_key_usages": ("1.2.3", _OCSP)}, "extended_key_usages[1]"),
    (SUBORDINATE_CA, {"extended_key_usages": ("1.2.3",)}, "extended_key_usages"),
    # Names.
    (_LEAF, _names(dns_names=DnsNameRules()), "names.dns_names"),
    (_LEAF, _names(dns_names=DnsNameRules(names=("a", "a b"))), "names.dns_names.names[1]"),
    (_LEAF, _names(dns_names=DnsNameRules(suffixes=("a", ".example"))), "names.dns_names.suffixes[1]"),
    (_LEAF, _names(dns_names=DnsNameRules(suffixes=("*.a.example",))), "names.dns_names.suffixes[0]"),
    (_LEAF, _names(dns_names=DnsNameRules(suffixes=("",))), "names.dns_names.suffixes[0]"),
    (_LEAF, _names(dns_names=DnsNameRules(names=tuple(f"h{i}" for i in range(1001)))), "names.dns_names.names"),
    (
        _LEAF,
        _names(dns_names=DnsNameRules(allow_any=True, fewest_wildcard_labels=1)),
        "names.dns_names.fewest_wildcard_labels",
    ),
    (_LEAF, _names(ip_addresses=IpAddressRules()), "names.ip_addresses"),
    (_LEAF, _names(ip_addresses=IpAddressRules(ranges=("10.0.0.1/8",))), "names.ip_addresses.ranges[0]"),
    (_LEAF, _names(ip_addresses=IpAddressRules(ranges=("10.0.0.0",))), "names.ip_addresses.ranges[0]"),
    (_LEAF, _names(ip_addresses=IpAddressRules(ranges=("10.0.0.0/255.0.0.0",))), "names.ip_addresses.ranges[0]"),
    (_LEAF, _names(ip_addresses=IpAddressRules(ranges=("::/129",))), "names.ip_addresses.ranges[0]"),
    (_LEAF, _names(uris=UriRules()), "names.uris"),
    (_LEAF, _names(uris=UriRules(prefixes=("spiffe://td/", "spiffe://td"))), "names.uris.prefixes[1]"),
    (_LEAF, _names(uris=UriRules(prefixes=("spiffe://",))), "names.uris.prefixes[0]"),
    (_LEAF, _names(email_addresses=EmailAddressRules()), "names.email_addresses"),
    (_LEAF, _names(email_addresses=EmailAddressRules(domains=("@a",))), "names.email_addresses.domains[0]"),
    (_LEAF, _names(email_addresses=EmailAddressRules(addresses=("a",))), "names.email_addresses.addresses[0]"),
    (_LEAF, _names(dns_names=DnsNameRules(allow_any=True), most=0), "names.most"),
    (_LEAF, _names(dns_names=DnsNameRules(allow_any=True), most=101), "names.most"),
    (_LEAF, _names(dns_names=DnsNameRules(allow_any=True), fewest=3, most=2), "names.fewest"),
    (_LEAF, _names(dns_names=DnsNameRules(allow_any=True), fewest=-1), "names.fewest"),
    (_LEAF, _names(fewest=1), "names.fewest"),
    # Subjects.
    (_LEAF, _subject(presence=SubjectPresence.DROPPED) | _names(), "subject.presence"),
    (SUBORDINATE_CA, _subject(presence=SubjectPresence.DROPPED, common_name=CommonNameRule.ANY), "subject.presence"),
    (SUBORDINATE_CA, _subject(presence=SubjectPresence.OPTIONAL, common_name=CommonNameRule.ANY), "subject.presence"),
    (SUBORDINATE_CA, _subject(presence=SubjectPresence.REQUIRED), "subject.common_name"),
    (_LEAF, _subject(allowed_attributes=(_O, "O")), "subject.allowed_attributes[1]"),
    (_LEAF, _subject(allowed_attributes=(_O, _O)), "subject.allowed_attributes[1]"),
    (_LEAF, _subject(allowed_attributes=tuple(f"1.2.{arc}" for arc in range(33))), "subject.allowed_attributes"),
    (_LEAF, _subject(required_attributes=("",)), "subject.required_attributes[0]"),
    (_LEAF, _subject(required_attributes=(_CN,), allowed_attributes=(_O,)), "subject.required_attributes[0]"),
    (_LEAF, _subject(required_attributes=(_CN,), common_name=CommonNameRule.NONE), "subject.required_attributes[0]"),
    (_LEAF, _subject(required_attributes=(_O,), presence=SubjectPresence.DROPPED), "subject.required_attributes"),
    (_LEAF, _subject(directory_subtrees=(b"\x30\x01",)), "subject.directory_subtrees[0]"),
    (_LEAF, _subject(directory_subtrees=(dn.EMPTY,)), "subject.directory_subtrees[0]"),
    (_LEAF, _subject(directory_subtrees=(dn.parse_text("O=a"),) * 101), "subject.directory_subtrees"),
    # Extensions.
    (_LEAF, {"passed_extensions": ("*", "1.2.3")}, "passed_extensions"),
    (_LEAF, {"passed_extensions": tuple(f"1.2.3.{arc}" for arc in range(33))}, "passed_extensions"),
    (_LEAF, {"passed_extensions": ("1.2.3", "1.2.3")}, "passed_extensions[1]"),
    (_LEAF, {"passed_extensions": ("keyUsage",)}, "passed_extensions[0]"),
    (_LEAF, {"passed_extensions": ("2.5.29.15",)}, "passed_extensions[0]"),
    (_LEAF, {"passed_extensions": ("2.5.29.37",)}, "passed_extensions[0]"),
    (_LEAF, {"passed_extensions": ("2.5.29.32",), "policies": ("1.2.3",)}, "passed_extensions[0]"),
    (_LEAF, {"passed_extensions": ("1.3.6.1.5.5.7.1.24",), "tls_features": (5,)}, "passed_extensions[0]"),
    (_LEAF, {"passed_extensions": ("1.2.3",), "custom_extensions": (_custom(),)}, "passed_extensions[0]"),
    *(
        (_LEAF, {"passed_extensions": (oid,)}, "passed_extensions[0]")
        for oid in (
            "2.5.29.14", "2.5.29.17", "2.5.29.18", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.33", "2.5.29.35",
            "2.5.29.36", "2.5.29.46", "2.5.29.54", "2.5.29.56", "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.1.14",
            "1.3.6.1.5.5.7.48.1.5", "1.3.6.1.4.1.11129.2.4.2", "1.3.6.1.4.1.11129.2.4.3", "2.16.840.1.113730.1.1",
            "1.3.6.1.4.1.311.21.10", "1.3.6.1.4.1.311.25.2", "2.5.29.1", "2.5.29.7", "2.5.29.10", "2.5.29.25",
        )
    ),
    (_LEAF, {"policies": ("1.2.3", "1.2.3")}, "policies[1]"),
    (_LEAF, {"policies": ("1.2.3", "2.5.29.32.0")}, "policies[1]"),
    (_LEAF, {"policies": tuple(f"1.2.3.{arc}" for arc in range(17))}, "policies"),
    (_LEAF, {"tls_features": (6,)}, "tls_features[0]"),
    (_LEAF, {"tls_features": (5, 5)}, "tls_features[1]"),
    (_LEAF, {"custom_extensions": (_custom("1"),)}, "custom_extensions[0].oid"),
    (_LEAF, {"custom_extensions": (_custom("1.2.3"), _custom("1.2.3"))}, "custom_extensions[1].oid"),
    (_LEAF, {"custom_extensions": tuple(_custom(f"1.2.3.{arc}") for arc in range(17))}, "custom_extensions"),
    (_LEAF, {"custom_extensions": (_custom(value=b""),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x04\x03ab"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=_VALUE + b"\x00"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x30\x03\x02\x02\x00"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x30\x03\x01\x01\x01"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x30\x04\x02\x02\x00\x01"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x05\x01\x00"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x06\x01\x80"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=b"\x30\x80\x00\x00"),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom(value=der.octet_string(bytes(4096))),)}, "custom_extensions[0].value"),
    (_LEAF, {"custom_extensions": (_custom("1.3.6.1.5.5.7.1.11", value=b"\x05\x00"),)}, "custom_extensions[0].value"),
    *(
        (_LEAF, {"custom_extensions": (_custom(oid, value=value),)}, "custom_extensions[0].oid")
        for oid, value in {
            "2.5.29.7": der.sequence(der.encode(0x82, b"a")),
            "2.5.29.10": der.sequence(b"\x03\x02\x07\x80"),
            "2.5.29.14": b"\x04\x01a",
            "2.5.29.15": b"\x03\x02\x07\x80",
            "2.5.29.17": der.sequence(der.encode(0x82, b"a")),
            "2.5.29.19": der.sequence(),
            "2.5.29.31": der.sequence(),
            "2.5.29.32": der.sequence(der.sequence(der.object_identifier("1.2.3"))),
            "2.5.29.35": der.sequence(der.encode(0x80, b"a")),
            "2.5.29.37": der.sequence(der.object_identifier("1.2.3")),
            "2.5.29.54": der.integer(0),
            "1.3.6.1.5.5.7.1.24": der.sequence(der.integer(5)),
            "1.3.6.1.5.5.7.48.1.5": b"\x05\x00",
            "2.16.840.1.113730.1.1": b"\x03\x02\x07\x80",
        }.items()
    ),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "changes", "field"), _BROKEN)
def test_broken_rule(profile: Profile, changes: dict[str, Any], field: str) -> None:
    found = profile_violations(replace(profile, **changes))
    assert [violation.field for violation in found] == [f"profile.{field}" if field else "profile"], found
    assert found[0].description


@pytest.mark.parametrize(
    ("profile", "changes"),
    [
        (
            _LEAF,
            {"description": "ä" * 256, "backdate": timedelta(days=1), "longest_lifetime": timedelta(days=40 * 365)},
        ),
        (_LEAF, {"shortest_lifetime": _SECOND}),
        (_LEAF, {"shortest_lifetime": 2 * _SECOND, "backdate": timedelta(0)}),
        (
            _LEAF,
            {"shortest_lifetime": _SECOND, "default_lifetime": _SECOND, "longest_lifetime": _SECOND},
        ),
        (
            SUBORDINATE_CA,
            {"highest_path_length": 4, "custom_extensions": (_custom("2.5.29.54", value=der.integer(0)),)},
        ),
        (SUBORDINATE_CA, {"key_usages": SUBORDINATE_CA.key_usages | {KeyUsage.DIGITAL_SIGNATURE}}),
        (SUBORDINATE_CA, {"policies": ("2.5.29.32.0",)}),
        (OCSP_SIGNING, {"custom_extensions": ()}),
        (BLANK, {"passed_extensions": ("2.5.29.15", "2.5.29.37", "1.2.3")}),
        (_LEAF, {"policies": ("1.2.3",), "tls_features": (5, 17), "custom_extensions": (_custom(critical=True),)}),
        (_LEAF, {"extended_key_usages": ("1.3.6.1.5.5.7.3.8",)}),
        (_LEAF, _names(dns_names=DnsNameRules(names=tuple(f"h{i}" for i in range(1000))), fewest=100)),
        (_LEAF, _names(uris=UriRules(prefixes=("spiffe://example.internal/workloads/", "https://a.example:8443/x")))),
        (_LEAF, _subject(required_attributes=(_CN,), allowed_attributes=(_O, _CN))),
        (_LEAF, _subject(presence=SubjectPresence.DROPPED)),
    ],
)
def test_kept_rules(profile: Profile, changes: dict[str, Any]) -> None:
    assert profile_violations(replace(profile, **changes)) == ()


def test_every_broken_rule_is_told() -> None:
    broken = replace(
        BUILT_IN["server"],
        backdate=timedelta(days=2),
        extended_key_usages=("x",),
        names=NameRules(dns_names=DnsNameRules(suffixes=(".a", "b", ".c"))),
        policies=("y",),
    )
    assert {violation.field for violation in profile_violations(broken)} == {
        "profile.backdate",
        "profile.extended_key_usages[0]",
        "profile.names.dns_names.suffixes[0]",
        "profile.names.dns_names.suffixes[2]",
        "profile.policies[0]",
    }


def test_lifetimes_in_the_wrong_order() -> None:
    broken = replace(_LEAF, shortest_lifetime=timedelta(days=2), default_lifetime=_SECOND, longest_lifetime=_SECOND)
    assert profile_violations(broken) == (
        Violation("profile.shortest_lifetime", "must not be longer than the longest lifetime"),
        Violation("profile.default_lifetime", "must lie between the shortest and the longest lifetime"),
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"extended_key_usages": "identifiers"}, "extended_key_usages"),
        ({"policies": "identifiers"}, "policies"),
        ({"passed_extensions": "identifiers"}, "passed_extensions"),
        ({"tls_features": "numbers"}, "tls_features"),
        ({"custom_extensions": "extensions"}, "custom_extensions"),
        (_subject(allowed_attributes="identifiers"), "subject.allowed_attributes"),
        (_subject(required_attributes="identifiers"), "subject.required_attributes"),
    ],
)
def test_a_list_as_long_as_a_message_is_not_looked_at_to_its_end(changes: dict[str, Any], field: str) -> None:
    """Each value held against all others took minutes; the test ends because that is over."""
    identifiers = tuple(f"1.2.3.{number}" for number in range(100_000))
    lists: dict[str, Any] = {
        "identifiers": identifiers,
        "numbers": tuple(range(100_000)),
        "extensions": tuple(_custom(oid) for oid in identifiers),
    }
    ((name, value),) = changes.items()
    if isinstance(value, SubjectRules):
        inner = field.rpartition(".")[2]
        value = replace(value, **{inner: lists[getattr(value, inner)]})
    else:
        value = lists[value]
    found = profile_violations(replace(_LEAF, **{name: value}))
    assert any(violation.field == f"profile.{field}" and "at most" in violation.description for violation in found)
    assert len(found) < 50
