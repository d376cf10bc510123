"""Searches find what a plain reading of the conditions says, on both engines, at a bounded cost by index."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from certd.clock import SystemClock
from certd.model.certificate import CertificateState, Intent
from certd.model.certificate_filter import (
    AllOf,
    AnyOf,
    CertificateFilter,
    HasName,
    HasSerial,
    InDomain,
    InState,
    Labelled,
    Not,
    OfKey,
    UnderProfile,
)
from certd.pki.names import SubjectAlternativeNames
from certd.store import certificate_search, certificates, schema
from certd.store.migration import migrate
from certd.store.store import Store
from certd.store.transaction import Transaction
from tests.store.explaining import Explaining
from tests.store.samples import NOW, intent
from tests.store.searched import AUTHORITIES, expected, filters, rows

ROWS = rows(300)


def fill(store: Store, some: Sequence[tuple[Intent, CertificateState]]) -> None:
    table = schema.certificates

    def work(tx: Transaction) -> None:
        certificates.insert_intents(tx, [one for one, _state in some])
        for one, state in some:
            key = (table.c.authority_uid == one.authority_uid, table.c.serial == one.serial)
            tx.execute(update(table).where(*key).values(state=state.value))

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
    fill(store, ROWS)
    yield store
    store.close()
    if server is not None:
        server.drop_database(url)


def found(
    store: Store,
    wanted: CertificateFilter | None,
    authorities: Sequence[str] = AUTHORITIES,
    *,
    limit: int = 1000,
    most_looked_at: int = 10_000,
) -> list[str]:
    """Serials of all calls, one after the other."""
    serials: list[str] = []
    after = None
    for _call in range(2 * len(ROWS)):
        with store.read("test") as tx:
            page = certificate_search.search(
                tx, authorities, wanted, after=after, limit=limit, most_looked_at=most_looked_at
            )
        assert len(page.certificates) <= limit
        serials += [one.serial for one in page.certificates]
        after = page.after
        if after is None:
            return serials
    pytest.fail("the search never ends")


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.none() | filters,
    authorities=st.lists(st.sampled_from((*AUTHORITIES, "absent")), unique=True),
    limit=st.sampled_from((10, 50, 1000)),
    most_looked_at=st.sampled_from((20, 60, 10_000)),
)
def test_a_search_finds_what_fits_newest_first_and_each_once(
    filled: Store, wanted: CertificateFilter | None, authorities: list[str], limit: int, most_looked_at: int
) -> None:
    got = found(filled, wanted, authorities, limit=limit, most_looked_at=most_looked_at)
    assert got == expected(wanted, ROWS, authorities)


def test_a_search_in_the_smallest_steps_ends_and_misses_nothing(filled: Store) -> None:
    wanted = Not(UnderProfile("server"))
    assert found(filled, wanted, limit=1, most_looked_at=2) == expected(wanted, ROWS, AUTHORITIES)


def test_a_call_that_found_nothing_says_where_to_go_on(filled: Store) -> None:
    """Whatever is asked, one call looks at a bounded number of rows."""
    with filled.read("test") as tx:
        page = certificate_search.search(tx, ["a0"], UnderProfile("absent"), after=None, limit=10, most_looked_at=30)
        mine = certificates.page(tx, ["a0"], after=None, limit=30)
    assert page.certificates == []
    assert page.after == (mine[-1].create_time, mine[-1].serial)


def test_pending_certificates_are_not_found(store: Store) -> None:
    one = intent(names=SubjectAlternativeNames(dns_names=("www.example.com",)))
    fill(store, [(one, CertificateState.PENDING)])
    conditions = [
        None,
        InState(CertificateState.PENDING),
        Not(InState(CertificateState.ISSUED)),
        HasSerial(one.serial),
        InDomain("example.com"),
        OfKey(one.public_key_sha256),
    ]
    assert [found(store, wanted, ["authority"]) for wanted in conditions] == [[]] * len(conditions)


def test_searches_stay_put_while_others_insert(store: Store) -> None:
    issued = CertificateState.ISSUED
    intents = [intent(create_time=NOW + timedelta(seconds=number)) for number in range(6)]
    fill(store, [(one, issued) for one in intents])
    with store.read("test") as tx:
        first = certificate_search.search(tx, ["authority"], InState(issued), after=None, limit=3)
    fill(store, [(intent(create_time=NOW + timedelta(seconds=100)), issued) for _ in range(5)])
    with store.read("test") as tx:
        second = certificate_search.search(tx, ["authority"], InState(issued), after=first.after, limit=3)
    both = [one.serial for one in (*first.certificates, *second.certificates)]
    assert both == [one.serial for one in reversed(intents)]
    assert second.after is None


def plans(store: Store, wanted: CertificateFilter | None, **options: Any) -> list[str]:
    with store.read("test") as tx:
        explaining = Explaining(tx)
        certificate_search.search(explaining, AUTHORITIES, wanted, after=None, limit=10, **options)
    return explaining.plans


BY_NAME = "SEARCH certificate_names USING COVERING INDEX certificate_names_search (authority_uid=? AND kind=? AND name"
BY_KEY = "sqlite_autoindex_certificates_1 (authority_uid=? AND serial=?)"


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (HasName(SubjectAlternativeNames(dns_names=("www.example.com",))), BY_NAME + "=?)"),
        (InDomain("example.com"), BY_NAME + ">? AND name<?)"),
        (HasSerial("0001"), f"USING COVERING INDEX {BY_KEY}"),
        (OfKey(bytes(32)), "certificates_public_key (public_key_sha256=? AND authority_uid=?)"),
        (AllOf((UnderProfile("server"), Not(HasSerial("0001")), InDomain("example.com"))), BY_NAME),
        (AnyOf((HasSerial("0001"), AllOf((UnderProfile("server"), InDomain("example.com"))))), BY_NAME),
    ],
)
def test_names_domains_serials_and_keys_are_found_by_index(
    sqlite_store: Store, wanted: CertificateFilter, index: str
) -> None:
    counted, looked_at = plans(sqlite_store, wanted)
    assert index in counted
    assert index in looked_at
    assert f"SEARCH certificates USING INDEX {BY_KEY}" in looked_at
    assert "SCAN certificate" not in counted + looked_at


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        UnderProfile("server"),
        Labelled("team", "web"),
        Not(OfKey(bytes(32))),
        AnyOf((UnderProfile("server"), InDomain("example.com"))),
        # Too many have the name, so they are looked at from the newest on.
        AllOf((InDomain("example.com"), OfKey(hashlib.sha256(b"\0").digest()))),
    ],
)
def test_what_no_index_answers_looks_at_the_newest_rows_alone(
    sqlite_store: Store, wanted: CertificateFilter | None
) -> None:
    fill(sqlite_store, ROWS)
    told = plans(sqlite_store, wanted, most_looked_at=12)
    newest = [plan for plan in told if "certificates_page" in plan]
    assert len(newest) >= 2 * len(AUTHORITIES), told
    for plan in newest:
        assert "SEARCH certificates USING COVERING INDEX certificates_page (authority_uid=?" in plan
        assert "certificates_public_key" not in plan
    assert any(f"SEARCH certificates USING INDEX {BY_KEY}" in plan for plan in newest)
    assert "SCAN certificate" not in "".join(told)
