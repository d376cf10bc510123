"""Profiles as texts: what is read is what was written, and nothing else is read."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeySpec
from certd.pki.profile_document import from_document, to_document
from certd.pki.profiles import (
    BUILT_IN,
    END_ENTITY,
    SYSTEM,
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
)

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_LISTS = st.lists(_TEXTS, max_size=3).map(tuple)
_LIFETIMES = st.integers(-1, 1 << 40).map(lambda seconds: timedelta(seconds=seconds))
PROFILES = st.builds(
    Profile,
    profile_id=_TEXTS,
    version=st.integers(1, 1 << 31),
    description=_TEXTS,
    default_lifetime=_LIFETIMES,
    shortest_lifetime=_LIFETIMES,
    longest_lifetime=_LIFETIMES,
    backdate=_LIFETIMES,
    authority=st.booleans(),
    self_signed=st.booleans(),
    highest_path_length=st.integers(-1, 9),
    key_specs=st.frozensets(st.sampled_from(KeySpec)),
    key_usages=st.frozensets(st.sampled_from(KeyUsage)),
    extended_key_usages=_LISTS,
    names=st.builds(
        NameRules,
        dns_names=st.none()
        | st.builds(
            DnsNameRules,
            allow_any=st.booleans(),
            names=_LISTS,
            suffixes=_LISTS,
            allow_wildcards=st.booleans(),
            fewest_wildcard_labels=st.integers(0, 9),
        ),
        ip_addresses=st.none() | st.builds(IpAddressRules, allow_any=st.booleans(), ranges=_LISTS),
        uris=st.none() | st.builds(UriRules, allow_any=st.booleans(), prefixes=_LISTS),
        email_addresses=st.none()
        | st.builds(EmailAddressRules, allow_any=st.booleans(), domains=_LISTS, addresses=_LISTS),
        fewest=st.integers(0, 9),
        most=st.integers(0, 100),
    ),
    subject=st.builds(
        SubjectRules,
        presence=st.sampled_from(SubjectPresence),
        common_name=st.sampled_from(CommonNameRule),
        allowed_attributes=_LISTS,
        required_attributes=_LISTS,
        directory_subtrees=st.lists(st.binary(max_size=9), max_size=2).map(tuple),
    ),
    passed_extensions=_LISTS,
    policies=_LISTS,
    tls_features=st.lists(st.integers(0, 1 << 16), max_size=3).map(tuple),
    custom_extensions=st.lists(
        st.builds(CustomExtension, oid=_TEXTS, critical=st.booleans(), value=st.binary(max_size=9)), max_size=2
    ).map(tuple),
    allow_subject_override=st.booleans(),
    allow_names_override=st.booleans(),
)


@given(PROFILES)
def test_what_is_written_is_read(profile: Profile) -> None:
    document = to_document(profile)
    read = from_document(document, profile_id=profile.profile_id, version=profile.version)
    assert read == profile
    assert to_document(read) == document


@pytest.mark.parametrize("profile", [*BUILT_IN.values(), *SYSTEM.values()], ids=lambda profile: profile.profile_id)
def test_every_profile_of_certd(profile: Profile) -> None:
    assert from_document(to_document(profile), profile_id=profile.profile_id, version=1) == profile


def test_documents_are_canonical() -> None:
    document = to_document(END_ENTITY)
    assert document == json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Neither id nor version is in it, and the order of a set is not its content.
    assert to_document(replace(END_ENTITY, profile_id="other", version=7)) == document
    assert to_document(replace(END_ENTITY, key_specs=frozenset(reversed(list(KeySpec))))) == document


def test_the_same_document_is_the_same_object() -> None:
    """The compiled forms of its rules hang on it."""
    document = to_document(END_ENTITY)
    first = from_document(document, profile_id="a", version=2)
    assert from_document(document, profile_id="a", version=2) is first
    assert from_document(document, profile_id="a", version=3) == replace(first, version=3)


def _changed(**changes: Any) -> str:
    fields = json.loads(to_document(END_ENTITY))
    fields.update(changes)
    return json.dumps(fields)


def _without(field: str) -> str:
    fields = json.loads(to_document(END_ENTITY))
    del fields[field]
    return json.dumps(fields)


_NAMES = json.loads(to_document(END_ENTITY))["names"]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"description":',
        "[" * 100_000,
        *(_without(field) for field in json.loads(to_document(END_ENTITY))),
        _changed(unknown=1),
        _changed(description=None),
        _changed(authority=1),
        _changed(backdate=True),
        _changed(backdate=1.5),
        _changed(backdate=1 << 80),
        _changed(key_specs=["RSA_1024"]),
        _changed(key_specs="RSA_2048"),
        _changed(key_usages=[None]),
        _changed(policies={}),
        _changed(names=None),
        _changed(names=_NAMES | {"more": 1}),
        _changed(names=_NAMES | {"dns_names": {}}),
        _changed(names=_NAMES | {"ip_addresses": {"allow_any": True, "ranges": [1]}}),
        _changed(subject={"presence": "NEVER"}),
        _changed(custom_extensions=[{"oid": "1.2.3", "critical": False, "value": "xyz"}]),
    ],
)
def test_what_certd_never_wrote(document: str) -> None:
    with pytest.raises(CertdError) as caught:
        from_document(document, profile_id="web", version=3)
    assert caught.value.reason is Reason.INTERNAL
    assert "version 3 of profile web" in caught.value.message
