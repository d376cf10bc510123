"""What certificates say of where their status and their issuer are found."""

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import Reason
from certd.pki.description import describe
from certd.pki.extensions import CRL_DISTRIBUTION_POINTS, NO_REVOCATION_AVAILABLE, NULL_VALUE, OCSP_NO_CHECK
from certd.pki.names import InvalidNameError, SubjectAlternativeNames
from certd.pki.preparation import Prepared
from certd.pki.profile import CustomExtension
from certd.pki.profiles import BUILT_IN, END_ENTITY, ROOT_CA, SUBORDINATE_CA
from certd.pki.status_locations import (
    NOWHERE,
    StatusLocations,
    crl_partition,
    crl_stem,
    crl_url,
    location_extensions,
    location_values,
    locations_under,
    named_partition,
    parse_base_url,
)
from certd.prepare.order import Terms, is_as_told
from tests.unit.memory_authority import LOCATIONS, MemoryAuthority, prepare_leaf, refused_with, root

SHORT = StatusLocations(issuer_urls=LOCATIONS.issuer_urls, short_lived=True)
PARTITIONED = replace(LOCATIONS, partition_count=16)


@pytest.fixture(scope="module")
def authority() -> MemoryAuthority:
    return root()


def saying(authority: MemoryAuthority, locations: StatusLocations) -> MemoryAuthority:
    return replace(authority, issuer=replace(authority.issuer, locations=locations))


def oids(prepared: Prepared) -> list[str]:
    return [extension.oid for extension in describe(prepared.lint_certificate).extensions]


def test_the_extensions_are_those_that_the_library_writes() -> None:
    for partition, suffix in ((None, ".crl"), (7, "/7.crl")):
        values = location_values(LOCATIONS, partition)
        access = x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
                for method, url in (
                    (AuthorityInformationAccessOID.OCSP, "http://pki.example.internal/ocsp/u1/1"),
                    (AuthorityInformationAccessOID.CA_ISSUERS, "http://pki.example.internal/ca/u1/1.cer"),
                )
            ]
        )
        # One point with all URLs: several points would each be another part of what is revoked.
        names = [x509.UniformResourceIdentifier(f"{stem}{suffix}") for stem in LOCATIONS.crl_stems]
        points = x509.CRLDistributionPoints([x509.DistributionPoint(names, None, None, None)])
        assert dict(values) == {"1.3.6.1.5.5.7.1.1": access.public_bytes(), "2.5.29.31": points.public_bytes()}


def test_they_stand_in_this_order(authority: MemoryAuthority) -> None:
    assert oids(prepare_leaf(authority)) == [
        "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.35", "1.3.6.1.5.5.7.1.1", "2.5.29.31", "2.5.29.17",
    ]  # fmt: skip
    assert oids(prepare_leaf(saying(authority, SHORT), lifetime=timedelta(days=7))) == [
        "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.35", "1.3.6.1.5.5.7.1.1", "2.5.29.56", "2.5.29.17",
    ]  # fmt: skip


def test_a_description_tells_the_urls(authority: MemoryAuthority) -> None:
    serial = (1 << 126) | 5
    prepared = prepare_leaf(saying(authority, PARTITIONED), serial=serial)
    assert prepared.crl_partition == 1 + serial % 16
    described = describe(prepared.lint_certificate)
    assert described.crl_urls == tuple(crl_url(stem, prepared.crl_partition) for stem in LOCATIONS.crl_stems)
    assert described.ocsp_urls == LOCATIONS.responder_urls
    assert prepared.description is not None
    assert (prepared.description.crl_urls, prepared.description.ocsp_urls) == (described.crl_urls, described.ocsp_urls)
    without = describe(prepare_leaf(saying(authority, NOWHERE)).lint_certificate)
    assert (without.crl_urls, without.ocsp_urls) == ((), ())


@given(st.lists(st.integers(1 << 126, (1 << 127) - 1), min_size=1, max_size=50), st.integers(2, 4096))
def test_a_partition_is_one_of_those_that_there_are_and_always_the_same(serials: list[int], count: int) -> None:
    locations = replace(LOCATIONS, partition_count=count)
    for serial in serials:
        partition = crl_partition(locations, serial)
        assert partition is not None
        assert 1 <= partition <= count
        assert partition == crl_partition(locations, serial)


@pytest.mark.parametrize("partition", [None, 1, 16, 4096])
def test_the_partition_that_a_certificate_names_is_read_again(partition: int | None) -> None:
    stems = tuple(crl_stem(base, "0a" * 16, 12) for base in ("http://pki.example.internal", "http://10.0.0.1/crl"))
    points = location_values(replace(LOCATIONS, crl_stems=stems), partition)[CRL_DISTRIBUTION_POINTS]
    assert named_partition(points) == (partition or 0)


@pytest.mark.parametrize("points", [b"", b"http://host/crl/x.crl", b"http://host/crl/" + b"a" * 32 + b"/1/00000.crl"])
def test_what_names_no_crl_of_a_key_names_no_partition(points: bytes) -> None:
    assert named_partition(points) is None


@pytest.mark.parametrize("count", [2, 3, 16, 100])
def test_certificates_of_one_moment_are_spread_evenly(count: int) -> None:
    # Serials begin with the time, which moves nothing; what follows it is random.
    locations, draw = replace(LOCATIONS, partition_count=count), random.Random(2026)
    drawn = Counter(crl_partition(locations, (1 << 126) | (77 << 86) | draw.getrandbits(86)) for _ in range(20_000))
    assert len(drawn) == count
    assert max(drawn.values()) < 1.5 * 20_000 / count
    assert min(drawn.values()) > 0.6 * 20_000 / count


def test_without_partitions_or_without_urls_there_is_none() -> None:
    assert crl_partition(LOCATIONS, 5) is None
    assert crl_partition(replace(PARTITIONED, crl_stems=()), 5) is None
    assert location_extensions(NOWHERE, None) == ()


def test_each_profile_says_what_its_certificates_can() -> None:
    assert locations_under(PARTITIONED, END_ENTITY) is PARTITIONED
    assert locations_under(PARTITIONED, SUBORDINATE_CA) is PARTITIONED
    for locations in (PARTITIONED, SHORT):
        assert locations_under(locations, ROOT_CA) == NOWHERE
    # NoRevAvail is never an authority's.
    assert locations_under(SHORT, SUBORDINATE_CA) == replace(SHORT, short_lived=False)
    # A responder's certificate, and what a profile declares to be asked for by nobody.
    only = StatusLocations(issuer_urls=LOCATIONS.issuer_urls)
    own = replace(END_ENTITY, custom_extensions=(CustomExtension(oid=NO_REVOCATION_AVAILABLE, value=NULL_VALUE),))
    for profile in (BUILT_IN["ocsp-signing"], own):
        for locations in (PARTITIONED, SHORT):
            assert locations_under(locations, profile) == only


def test_a_profile_of_its_own_with_no_revocation_available_says_it_once(authority: MemoryAuthority) -> None:
    own = replace(END_ENTITY, custom_extensions=(CustomExtension(oid=NO_REVOCATION_AVAILABLE, value=NULL_VALUE),))
    for locations in (PARTITIONED, SHORT):
        issuer = saying(authority, locations)
        prepared = prepare_leaf(issuer, profile=own, lifetime=timedelta(days=1))
        assert oids(prepared).count(NO_REVOCATION_AVAILABLE) == 1
        assert "2.5.29.31" not in oids(prepared)
        assert prepared.crl_partition is None
        assert is_as_told(prepared, Terms(issuer=issuer.issuer, profile=own))


def test_a_responder_has_no_place_where_it_is_asked_about(authority: MemoryAuthority) -> None:
    prepared = prepare_leaf(
        saying(authority, PARTITIONED),
        subject="CN=Responder",
        names=SubjectAlternativeNames(),
        profile=BUILT_IN["ocsp-signing"],
    )
    assert {OCSP_NO_CHECK, "1.3.6.1.5.5.7.1.1"} <= set(oids(prepared))
    assert describe(prepared.lint_certificate).ocsp_urls == ()
    assert describe(prepared.lint_certificate).crl_urls == ()


def test_what_a_prepare_process_makes_up_is_not_as_told(authority: MemoryAuthority) -> None:
    issuer = saying(authority, PARTITIONED)
    prepared = prepare_leaf(issuer)
    told = Terms(issuer=issuer.issuer, profile=END_ENTITY)
    assert is_as_told(prepared, told)
    # Another partition than the books would say, no place at all, others' places, and a lifetime that nobody asks for.
    assert not is_as_told(replace(prepared, crl_partition=(prepared.crl_partition or 0) % 16 + 1), told)
    assert not is_as_told(replace(prepared, crl_partition=None), told)
    for locations in (NOWHERE, SHORT, replace(PARTITIONED, responder_urls=("http://evil.example",))):
        other = prepare_leaf(saying(authority, locations), lifetime=timedelta(days=1))
        assert not is_as_told(replace(other, crl_partition=prepared.crl_partition), told)


def test_seven_days_are_the_most(authority: MemoryAuthority) -> None:
    issuer = saying(authority, SHORT)
    prepare_leaf(issuer, lifetime=timedelta(days=7))
    error = refused_with(
        lambda: prepare_leaf(issuer, lifetime=timedelta(days=7, seconds=1)), Reason.LIFETIME_EXCEEDS_AUTHORITY
    )
    assert error.violations[0].field == "lifetime"
    prepared = prepare_leaf(issuer)
    assert prepared.not_after - prepared.not_before - END_ENTITY.backdate == timedelta(days=7, seconds=-1)
    assert [warning.field for warning in prepared.warnings] == ["lifetime"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://crl.example.com", "http://crl.example.com"),
        ("HTTP://CRL.Example.COM:8080/Pub", "http://crl.example.com:8080/Pub"),
        ("http://192.0.2.7/a/b-c_d.e", "http://192.0.2.7/a/b-c_d.e"),
        ("http://[2001:db8:0::1]:80", "http://[2001:db8::1]:80"),
        ("http://localhost", "http://localhost"),
        ("http://h/...", "http://h/..."),
    ],
)
def test_base_urls_in_their_normal_form(text: str, normal: str) -> None:
    assert parse_base_url(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "", "crl.example.com", "https://crl.example.com", "ldap://crl.example.com", "http:", "http://", "http:///a",
        "http://crl.example.com/", "http://crl.example.com/a/", "http://u@h.example", "http://u:p@h.example",
        "http://h.example?q", "http://h.example/a?q", "http://h.example#f", "http://h.example/#", "http://h.example//a",
        "http://h.example/../a", "http://h.example/a/.", "http://h.example/%2e%2e", "http://h.example/a b",
        "http://-h.example", "http://h_h.example", "http://*.example.com", "http://h..example", "http://300.1.1.1",
        "http://1.2.3", "http://h.example:65536", "http://h.example:x", "http://[::1", "http://[fe80::1%25eth0]",
        "http://bücher.example", "http://h.example/ü", "http://h.example/\n", "http://h.example\x00", " http://h.example",
        "http://" + "h" * 64 + ".example", "http://h.example/" + "a" * 255,
    ],
)  # fmt: skip
def test_what_is_no_base_url(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        parse_base_url(text)
    assert str(caught.value)
