"""Orders and answers cross the frames unchanged, whatever stands in them."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason, Violation
from certd.internal import prepare_pb2
from certd.pki import distinguished_name as dn
from certd.pki import name_constraints
from certd.pki.certificate_request import (
    CertificateRequest,
    Issuer,
    Validity,
    Warning,  # noqa: A004  # The API's word.
)
from certd.pki.csr import RequestedExtension
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared
from certd.pki.profiles import BUILT_IN, SYSTEM
from certd.pki.status_locations import StatusLocations, crl_partition, locations_under
from certd.prepare.messages import (
    Described,
    Wanted,
    parse_request,
    parse_response,
    request_bytes,
    response_bytes,
    result_of,
)
from certd.prepare.order import Csr, Item, Terms
from tests.unit.test_pki_profiles_document import PROFILES

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_FILLED = _TEXTS.filter(bool)
_BYTES = st.binary(max_size=40)
_SECONDS = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  # The zone is the strategy's.
_MOMENTS = _SECONDS.map(lambda moment: moment.replace(microsecond=0))
_LISTS = st.lists(_TEXTS, max_size=3).map(tuple)


def _subset(*values: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=3).map(tuple)


_SUBTREES = st.builds(
    Subtrees,
    dns_names=_subset("example.com", "", "xn--mnchen-3ya.example"),
    ip_ranges=_subset("192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"),
    uri_hosts=_subset(".example.com", "localhost"),
    email_addresses=_subset("Ops@example.com", "example.com", ".example.org"),
    directory_names=st.lists(st.sampled_from([dn.EMPTY, dn.parse_text("O=Müller,C=DE")]), unique=True).map(tuple),
)
_CONSTRAINTS = (
    st.builds(NameConstraints, permitted=_SUBTREES, excluded=_SUBTREES)
    .filter(lambda one: len(one.permitted) + len(one.excluded) > 0)
    .map(lambda one: name_constraints.normalise(one, field="f"))
)
_LOCATIONS = st.builds(
    StatusLocations,
    issuer_urls=_LISTS,
    responder_urls=_LISTS,
    crl_stems=_LISTS,
    partition_count=st.integers(0, 4096),
    short_lived=st.booleans(),
)
_ISSUERS = st.builds(
    Issuer,
    name=_BYTES,
    public_key=_BYTES,
    subject_key_identifier=_BYTES,
    key_spec=st.sampled_from(KeySpec),
    signature_algorithm=st.sampled_from(SignatureAlgorithm),
    not_after=st.none() | _MOMENTS,
    path_length=st.none() | st.integers(0, 9),
    locations=_LOCATIONS,
    name_constraints=st.lists(_CONSTRAINTS, max_size=3).map(tuple),
    reserved_trust_domain=st.none() | _FILLED,
)
_NAMES = st.builds(SubjectAlternativeNames, dns_names=_LISTS, ip_addresses=_LISTS, uris=_LISTS, email_addresses=_LISTS)
_SOURCES = st.builds(Csr, data=_BYTES, subject=st.none() | _BYTES, names=st.none() | _NAMES) | st.builds(
    CertificateRequest,
    public_key=_BYTES,
    subject=_BYTES,
    names=_NAMES,
    extensions=st.lists(
        st.builds(RequestedExtension, oid=_TEXTS, critical=st.booleans(), value=_BYTES), max_size=2
    ).map(tuple),
    path_length=st.none() | st.integers(0, 9),
    name_constraints=st.none() | _CONSTRAINTS,
    subject_key_identifier=st.none() | _BYTES,
    self_issued=st.booleans(),
)
_LIFETIMES = st.timedeltas(-timedelta(days=1), timedelta(days=3_650_000))
_ITEMS = st.builds(
    Item,
    serial=st.integers(1, (1 << 160) - 1),
    source=_SOURCES,
    validity=st.builds(Validity, lifetime=st.none() | _LIFETIMES, not_after=st.none() | _SECONDS),
    now=_SECONDS,
)
_VERSIONED = PROFILES.filter(lambda profile: profile.version < 1 << 31)
_TERMS = st.builds(
    Terms,
    issuer=_ISSUERS,
    profile=st.sampled_from([*BUILT_IN.values(), *SYSTEM.values()]) | _VERSIONED,
)
_WANTED = st.builds(Wanted, lint_certificates=st.booleans(), descriptions=st.booleans())


@given(_TERMS, st.lists(_ITEMS, max_size=4), _WANTED)
def test_an_order_arrives_as_it_was_sent(terms: Terms, items: list[Item], wanted: Wanted) -> None:
    assert parse_request(request_bytes(terms, items, wanted)) == (terms, items, wanted)


def test_every_field_of_an_order_is_drawn_above() -> None:
    """A field that is added to one of these has to cross the frames too."""
    assert [field.name for field in fields(Terms)] == ["issuer", "profile"]
    assert [field.name for field in fields(Item)] == ["serial", "source", "validity", "now"]
    assert [field.name for field in fields(Csr)] == ["data", "subject", "names"]
    assert len(fields(CertificateRequest)) == 8
    assert len(fields(Issuer)) == 10
    assert len(fields(StatusLocations)) == 5
    assert len(fields(Validity)) == 2
    assert len(fields(Wanted)) == 2


_PREPARED = st.builds(
    Prepared,
    tbs=_BYTES,
    serial=st.integers(1, (1 << 160) - 1),
    issuer_name_sha256=st.binary(min_size=32, max_size=32),
    subject_text=_TEXTS,
    not_before=_MOMENTS,
    not_after=_MOMENTS,
    public_key_sha256=_BYTES,
    key_spec=st.sampled_from(KeySpec),
    names=_NAMES,
    warnings=st.lists(st.builds(Warning, _TEXTS, _TEXTS), max_size=3).map(tuple),
    lint_certificate=_BYTES,
)


@given(_TERMS, _PREPARED, _BYTES, _WANTED)
def test_what_was_prepared_arrives_as_it_was_sent(
    terms: Terms, prepared: Prepared, description: bytes, wanted: Wanted
) -> None:
    payload = response_bytes([result_of(Described(prepared, description), wanted)])
    (answer,) = parse_response(payload, terms=terms, serials=[prepared.serial])
    assert isinstance(answer, Described)
    assert answer.description == description
    arrived = answer.prepared
    # The daemon reckons these two itself.
    assert arrived.crl_partition == crl_partition(
        locations_under(terms.issuer.locations, terms.profile), prepared.serial
    )
    reckoned = {"issuer_name_sha256", "crl_partition"}
    for name in {field.name for field in fields(Prepared)} - reckoned - {"lint_certificate"}:
        assert getattr(arrived, name) == getattr(prepared, name), name
    assert arrived.lint_certificate == (prepared.lint_certificate if wanted.lint_certificates else b"")


@given(
    st.sampled_from(Reason),
    _TEXTS,
    st.dictionaries(_TEXTS, _TEXTS, max_size=3),
    st.lists(st.builds(Violation, _TEXTS, _TEXTS), max_size=3).map(tuple),
    st.none() | st.sampled_from([0.001, 0.25, 60.0]),
)
def test_a_refusal_arrives_as_it_was_sent(
    reason: Reason,
    message: str,
    metadata: dict[str, str],
    violations: tuple[Violation, ...],
    retry_after: float | None,
) -> None:
    sent = CertdError(reason, message, metadata=metadata, violations=violations, retry_after=retry_after)
    terms = Terms(issuer=_ISSUER, profile=BUILT_IN["server"])
    (arrived,) = parse_response(response_bytes([result_of(sent, Wanted())]), terms=terms, serials=[1])
    assert isinstance(arrived, CertdError)
    assert vars(arrived) == vars(sent)


_ISSUER = Issuer(
    name=b"",
    public_key=b"",
    subject_key_identifier=b"",
    key_spec=KeySpec.EC_P256,
    signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
    not_after=None,
    path_length=None,
)


def test_a_profile_of_a_tenant_keeps_its_own_rules_under_the_name_of_a_built_in_one() -> None:
    theirs = replace(BUILT_IN["server"], policies=("1.2.3",))
    terms = Terms(issuer=_ISSUER, profile=theirs)
    assert parse_request(request_bytes(terms, [], Wanted()))[0].profile == theirs
    ours = Terms(issuer=_ISSUER, profile=BUILT_IN["server"])
    assert parse_request(request_bytes(ours, [], Wanted()))[0].profile is BUILT_IN["server"]


def _request(**changes: object) -> bytes:
    terms = Terms(issuer=_ISSUER, profile=BUILT_IN["server"])
    message = prepare_pb2.PrepareRequest.FromString(request_bytes(terms, [], Wanted()))
    for name, value in changes.items():
        setattr(message, name, value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        _request(issuer=b"\xff"),
        _request(issuer=prepare_pb2.Issuer(key_spec="RSA_1").SerializeToString()),
        _request(profile_id="built-in/of-a-later-version"),
        _request(profile="no document"),
    ],
)
def test_what_no_daemon_of_this_version_sends_is_not_taken_for_an_order(payload: bytes) -> None:
    with pytest.raises((CertdError, DecodeError, ValueError, KeyError)):
        parse_request(payload)
