"""Searches among managed certificates find what a plain reading of the conditions says, on both engines."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certd.clock import SystemClock
from certd.model.managed_certificate import (
    RENEWAL_BLOCKED,
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateType,
)
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.store import managed_certificate_search, managed_certificates
from certd.store.managed_certificate_filters import filter_of, filter_text
from certd.store.managed_certificate_search import matching
from certd.store.migration import migrate
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import NOW, add_tenant, managed
from tests.store.searched import DOMAINS, HOSTS, LABEL_KEYS, LABEL_VALUES

SPAN = 100
AUTHORITIES = ("tenants/default/authorities/web-ca", "tenants/default/authorities/other-ca")
PROFILES = ("end-entity", "server")
STORED = tuple(state for state in ManagedCertificateState if state is not ManagedCertificateState.EXPIRED)
BLOCKED = Condition(
    type=RENEWAL_BLOCKED, status=True, reason="AUTHORITY_NOT_ENABLED", message="soon", last_transition_time=NOW
)


def rows(count: int) -> list[ManagedCertificate]:
    chosen = random.Random(1)  # The same rows in every run.

    def moment() -> Any:
        return chosen.choice((None, NOW + timedelta(seconds=chosen.randrange(-SPAN, SPAN))))

    def row(number: int) -> ManagedCertificate:
        imported = chosen.random() < 0.2
        return managed(
            f"m-{number:04d}",
            tenant="default" if chosen.random() < 0.9 else "other",
            type=ManagedCertificateType.IMPORTED if imported else ManagedCertificateType.PRIVATE,
            authority_name="" if imported else chosen.choice(AUTHORITIES),
            profile="" if imported else chosen.choice(PROFILES),
            key_spec=chosen.choice((KeySpec.EC_P256, KeySpec.RSA_2048)),
            state=chosen.choices(STORED, weights=(1, 6, 1, 1))[0],
            not_after=moment(),
            issue_time=moment(),
            current_version=chosen.randrange(3),
            exported_version=chosen.randrange(3),
            association_count=chosen.choice((0, 0, 0, 2)),
            conditions=(BLOCKED,) if chosen.random() < 0.2 else (replace(BLOCKED, status=False),),
            names=SubjectAlternativeNames(
                dns_names=tuple(
                    {chosen.choice(HOSTS) + chosen.choice(DOMAINS[:-1]) for _ in range(chosen.randrange(3))}
                ),
                ip_addresses=("10.0.0.1",) if chosen.random() < 0.2 else (),
                uris=("spiffe://example/web",) if chosen.random() < 0.2 else (),
                email_addresses=("jane@example.com",) if chosen.random() < 0.2 else (),
            ),
            labels={chosen.choice(LABEL_KEYS): chosen.choice(LABEL_VALUES) for _ in range(chosen.randrange(4))},
        )

    return [row(number) for number in range(count)]


ROWS = rows(300)
MOMENTS = st.none() | st.integers(-SPAN, SPAN).map(lambda seconds: NOW + timedelta(seconds=seconds))
FILTERS = st.builds(
    ManagedCertificateFilter,
    states=st.frozensets(st.sampled_from(ManagedCertificateState), max_size=2),
    type=st.none() | st.sampled_from(ManagedCertificateType),
    authority=st.sampled_from(("", "", *AUTHORITIES)),
    profile=st.sampled_from(("", "", *PROFILES)),
    key_spec=st.none() | st.sampled_from((KeySpec.EC_P256, KeySpec.RSA_2048)),
    alternative_name=st.sampled_from(
        ("", "", "", "www.example.com", "*.example.com", "10.0.0.1", "spiffe://example/web", "jane@example.com")
    ),
    domain=st.sampled_from(("", "", *DOMAINS)),
    labels=st.just({})
    | st.dictionaries(st.sampled_from((*LABEL_KEYS, "absent")), st.sampled_from(LABEL_VALUES), max_size=1),
    not_after_before=MOMENTS,
    issued_before=MOMENTS,
    renewal_blocked=st.none() | st.booleans(),
    used=st.none() | st.booleans(),
)


def fits(wanted: ManagedCertificateFilter, one: ManagedCertificate) -> bool:
    """Returns whether a managed certificate fits, by the words of the API alone."""
    every_name = (
        *one.names.dns_names,
        *one.names.ip_addresses,
        *one.names.uris,
        *one.names.email_addresses,
    )
    return (
        (not wanted.states or one.state_at(NOW) in wanted.states)
        and wanted.type in {None, one.type}
        and wanted.authority in {"", one.authority_name}
        and wanted.profile in {"", one.profile}
        and wanted.key_spec in {None, one.key_spec}
        and (not wanted.alternative_name or wanted.alternative_name in every_name)
        and (
            not wanted.domain
            or any(name == wanted.domain or name.endswith("." + wanted.domain) for name in one.names.dns_names)
        )
        and all(key in one.labels and value in {"", one.labels[key]} for key, value in wanted.labels.items())
        and (wanted.not_after_before is None or (one.not_after or wanted.not_after_before) < wanted.not_after_before)
        and (wanted.issued_before is None or (one.issue_time or wanted.issued_before) < wanted.issued_before)
        and wanted.renewal_blocked in {None, one.renewal_blocked}
        and wanted.used in {None, one.used}
    )


def fill(store: Store, some: list[ManagedCertificate]) -> None:
    def work(tx: Transaction) -> None:
        for one in some:
            managed_certificates.insert(tx, one)

    store.write("test", work)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that has ROWS, for all tests of the module."""
    server: Any = None
    url = f"sqlite:///{tmp_path_factory.mktemp('search') / 'certd.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = server.create_database()
    migrate(url)
    store = Store.open(url, clock=SystemClock())
    add_tenant(store)
    add_tenant(store, "other")
    fill(store, ROWS)
    yield store
    store.close()
    if server is not None:
        server.drop_database(url)


def found(
    store: Store,
    wanted: ManagedCertificateFilter,
    *,
    tenant: str = "default",
    limit: int = 1000,
    most_looked_at: int = 2_000,
) -> list[ManagedCertificate]:
    """What all calls find, one after the other."""
    gathered: list[ManagedCertificate] = []
    after = None
    for _call in range(2 * len(ROWS)):
        with store.read("test") as tx:
            page = matching(tx, tenant, wanted, now=NOW, after=after, limit=limit, most_looked_at=most_looked_at)
        assert len(page.managed_certificates) <= limit
        gathered += page.managed_certificates
        after = page.after
        if after is None:
            return gathered
    pytest.fail("the search never ends")


@settings(max_examples=150, deadline=None)
@given(
    wanted=FILTERS,
    tenant=st.sampled_from(("default", "other", "absent")),
    limit=st.sampled_from((9, 50, 1000)),
    most_looked_at=st.sampled_from((20, 60, 2_000)),
)
def test_a_search_finds_what_fits_by_id_and_each_once(
    filled: Store, wanted: ManagedCertificateFilter, tenant: str, limit: int, most_looked_at: int
) -> None:
    got = found(filled, wanted, tenant=tenant, limit=limit, most_looked_at=most_looked_at)
    assert got == [one for one in ROWS if one.tenant == tenant and fits(wanted, one)]


@given(wanted=FILTERS)
def test_a_condition_is_written_as_one_text_and_read_again(wanted: ManagedCertificateFilter) -> None:
    text = filter_text(wanted)
    assert filter_of(text) == wanted
    assert filter_text(filter_of(text)) == text


def test_nothing_that_is_not_set_is_written() -> None:
    assert filter_text(ManagedCertificateFilter()) == "{}"
    unused = ManagedCertificateFilter(used=False, states=frozenset(ManagedCertificateState))
    assert filter_text(unused) == '{"states":["ACTIVE","EXPIRED","FAILED","PENDING","REVOKED"],"used":false}'


def test_a_call_that_found_nothing_says_where_to_go_on(filled: Store) -> None:
    """Whatever is asked, one call looks at a bounded number of rows."""
    with filled.read("test") as tx:
        mine = managed_certificates.page(tx, "default", after=None, limit=30)
        for wanted in (
            ManagedCertificateFilter(profile="absent"),
            ManagedCertificateFilter(labels={"absent": ""}),
            ManagedCertificateFilter(domain="absent"),
        ):
            page = matching(tx, "default", wanted, now=NOW, after=None, limit=10, most_looked_at=30)
            assert page.managed_certificates == []
            assert page.after == mine[-1].managed_certificate_id


def test_searches_stay_put_while_others_insert(store: Store) -> None:
    add_tenant(store)
    fill(store, [managed(f"m-{number}") for number in range(6)])
    everything = ManagedCertificateFilter()
    with store.read("test") as tx:
        first = matching(tx, "default", everything, now=NOW, after=None, limit=3)
    fill(store, [managed("a"), managed("m-2-more")])
    with store.read("test") as tx:
        second = matching(tx, "default", everything, now=NOW, after=first.after, limit=10)
    both = [one.managed_certificate_id for one in (*first.managed_certificates, *second.managed_certificates)]
    assert both == ["m-0", "m-1", "m-2", "m-2-more", "m-3", "m-4", "m-5"]
    assert second.after is None


def test_every_search_goes_along_the_ids(sqlite_store: Store) -> None:
    """No condition leads the database to an index of which it would have to read and sort all."""
    add_tenant(sqlite_store)
    fill(sqlite_store, [one for one in ROWS if one.tenant == "default"])
    wanted = ManagedCertificateFilter(
        states=frozenset({ManagedCertificateState.ACTIVE, ManagedCertificateState.FAILED}),
        not_after_before=NOW,
        used=True,
        labels={"team": ""},
    )
    with sqlite_store.read("test") as tx:
        explaining = Explaining(tx)
        matching(explaining, "default", wanted, now=NOW, after="m-0001", limit=10, most_looked_at=50)
    horizon, looked_at = explaining.plans
    by_id = "sqlite_autoindex_managed_certificates_2 (tenant=? AND managed_certificate_id>?"
    assert f"USING COVERING INDEX {by_id}" in horizon
    assert f"USING INDEX {by_id} AND managed_certificate_id<?)" in looked_at
    assert "SORT" not in (horizon + looked_at).upper()
    assert managed_certificate_search.MOST_LOOKED_AT == 2_000
