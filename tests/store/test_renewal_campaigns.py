"""Rows of renewal campaigns, and of what they wait for."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from certd.model.managed_certificate import (
    RENEWAL_BLOCKED,
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateType,
)
from certd.model.managed_certificate_filter import ManagedCertificateFilter
from certd.model.names import RenewalCampaignName
from certd.model.renewal_campaign import RenewalCampaign, RenewalCampaignState
from certd.pki.key_spec import KeySpec
from certd.store import managed_certificates, managed_schema, renewal_campaigns
from certd.store.renewal_campaigns import Blocked, Ended
from certd.store.store import Store
from tests.store.samples import LATER, NOW, add_tenant, managed

_managed = managed_schema.managed_certificates


def campaign(campaign_id: str = "leak", **changes: Any) -> RenewalCampaign:
    sample = RenewalCampaign(
        uid=f"uid-of-{campaign_id}",
        name=RenewalCampaignName("default", campaign_id),
        filter=ManagedCertificateFilter(),
        renewals_per_minute=600,
        reason="leaked: ü",
        next_renewal_time=NOW,
        creator="spiffe://example/identities/admin",
        create_time=NOW,
    )
    return replace(sample, **changes)


def add(store: Store, *those: RenewalCampaign) -> None:
    for one in those:
        assert store.write("test", lambda tx, one=one: renewal_campaigns.insert(tx, one))  # type: ignore[misc]  # mypy infers no type for a default.


def add_members(store: Store, of: RenewalCampaign, *ids: str, version: int = 1) -> dict[str, ManagedCertificate]:
    """Adds managed certificates that are wanted renewed, as members."""
    made = {id_: managed(id_, current_version=version, forced_version=version) for id_ in ids}

    def work(tx: Any) -> None:
        for one in made.values():
            managed_certificates.insert(tx, one)
        renewal_campaigns.add_members(tx, of.uid, [(one.uid, version) for one in made.values()])

    store.write("test", work)
    return made


def set_columns(store: Store, one: ManagedCertificate, **columns: Any) -> None:
    statement = update(_managed).where(_managed.c.uid == one.uid).values(**columns)
    store.write("test", lambda tx: tx.execute(statement))


@pytest.fixture
def books(store: Store) -> Store:
    add_tenant(store)
    return store


FILTERS = [
    ManagedCertificateFilter(),
    ManagedCertificateFilter(
        states=frozenset({ManagedCertificateState.ACTIVE, ManagedCertificateState.EXPIRED}),
        type=ManagedCertificateType.PRIVATE,
        authority="tenants/default/authorities/ca",
        profile="end-entity",
        key_spec=KeySpec.EC_P256,
        alternative_name="www.example.internal",
        domain="example.internal",
        labels={"team": "ü", "any": ""},
        not_after_before=LATER,
        issued_before=NOW,
        renewal_blocked=False,
        used=True,
    ),
]


@pytest.mark.parametrize("wanted", FILTERS, ids=["everything", "all-conditions"])
def test_a_campaign_comes_out_as_it_went_in_and_changes(books: Store, wanted: ManagedCertificateFilter) -> None:
    one = campaign(filter=wanted)
    add(books, one)
    with books.read("test") as tx:
        assert renewal_campaigns.get(tx, one.name) == one
        assert renewal_campaigns.get_by_uid(tx, one.uid) == one
        assert renewal_campaigns.get(tx, RenewalCampaignName("other", "leak")) is None
        assert renewal_campaigns.get_by_uid(tx, "leak") is None
    changed = replace(
        one,
        state=RenewalCampaignState.CANCELLED,
        next_renewal_time=LATER,
        selected_up_to="web",
        selection_complete=True,
        selected_count=4,
        renewed_count=1,
        blocked_count=2,
        skipped_count=1,
        blocked=("tenants/default/managedCertificates/web",),
        end_time=LATER,
    )
    books.write("test", lambda tx: renewal_campaigns.update(tx, changed))
    with books.read("test") as tx:
        assert renewal_campaigns.get(tx, one.name) == changed


def test_an_id_is_there_once_in_each_tenant(books: Store) -> None:
    add_tenant(books, "other")
    one = campaign()
    add(books, one, campaign("leak", uid="of-other", name=RenewalCampaignName("other", "leak")))
    again = replace(one, uid="another", reason="another")
    assert not books.write("test", lambda tx: renewal_campaigns.insert(tx, again))
    with books.read("test") as tx:
        assert renewal_campaigns.get(tx, one.name) == one


def test_pages_go_from_the_newest_to_the_oldest(books: Store) -> None:
    add_tenant(books, "other")
    times = {"a": NOW, "b": LATER, "c": NOW, "d": NOW - timedelta(days=1)}
    add(books, *(campaign(id_, create_time=time) for id_, time in times.items()))
    add(books, campaign("x", name=RenewalCampaignName("other", "x")))
    with books.read("test") as tx:
        whole = renewal_campaigns.page(tx, "default", after=None, limit=10)
        assert [one.name.renewal_campaign for one in whole] == ["b", "a", "c", "d"]
        for index, one in enumerate(whole):
            after = (one.create_time, one.name.renewal_campaign)
            assert renewal_campaigns.page(tx, "default", after=after, limit=2) == whole[index + 1 : index + 3]


def test_members_end_when_they_are_renewed_deleted_or_given_up(books: Store) -> None:
    one, other = campaign(), campaign("other")
    add(books, one, other)
    members = add_members(books, one, "waits", "renewed", "gone", "given-up")
    books.write("test", lambda tx: renewal_campaigns.add_members(tx, other.uid, [(members["renewed"].uid, 1)]))
    with books.read("test") as tx:
        assert renewal_campaigns.ended_members(tx, one.uid, limit=10) == Ended((), ())
    set_columns(books, members["renewed"], current_version=2)
    set_columns(books, members["given-up"], forced_version=0, state="REVOKED")
    books.write("test", lambda tx: tx.execute(delete(_managed).where(_managed.c.uid == members["gone"].uid)))
    with books.read("test") as tx:
        ended = renewal_campaigns.ended_members(tx, one.uid, limit=10)
        assert ended.renewed == (members["renewed"].uid,)
        assert set(ended.given_up) == {members["gone"].uid, members["given-up"].uid}
        some = renewal_campaigns.ended_members(tx, one.uid, limit=2)
        assert len(some.renewed) + len(some.given_up) == 2
    for uids, count in ((ended.renewed, 1), (ended.given_up, 2), (ended.given_up, 0), ((), 0)):
        assert books.write("test", lambda tx, uids=uids: renewal_campaigns.delete_members(tx, one.uid, uids)) == count  # type: ignore[misc]  # As above.
    with books.read("test") as tx:
        assert renewal_campaigns.ended_members(tx, one.uid, limit=10) == Ended((), ())
        assert renewal_campaigns.any_member(tx, one.uid)
        # What another campaign waits for is its own.
        assert renewal_campaigns.ended_members(tx, other.uid, limit=10).renewed == (members["renewed"].uid,)


def test_the_blocked_ones_are_counted_and_some_are_named(books: Store) -> None:
    one = campaign()
    add(books, one)
    members = add_members(books, one, *(f"web-{number}" for number in range(5)))
    condition = Condition(type=RENEWAL_BLOCKED, status=True, reason="R", message="M", last_transition_time=NOW)
    with books.read("test") as tx:
        assert renewal_campaigns.blocked_members(tx, one.uid, named=2) == Blocked(0, ())

    def block(tx: Any) -> None:
        for number in range(3):
            member = members[f"web-{number}"]
            managed_certificates.update(tx, replace(member, conditions=(condition,)), expected_revision=member.revision)

    books.write("test", block)
    with books.read("test") as tx:
        assert renewal_campaigns.blocked_members(tx, one.uid, named=20).count == 3
        some = renewal_campaigns.blocked_members(tx, one.uid, named=2)
        assert (some.count, len(some.names)) == (3, 2)
        assert set(some.names) < {f"tenants/default/managedCertificates/web-{number}" for number in range(3)}


def test_members_are_forgotten_a_few_at_a_time(books: Store) -> None:
    one, other = campaign(), campaign("other")
    add(books, one, other)
    add_members(books, one, "a", "b", "c")
    add_members(books, other, "d")
    counts = [
        books.write("test", lambda tx: renewal_campaigns.delete_some_members(tx, one.uid, limit=2)) for _ in "xyz"
    ]
    assert counts == [2, 1, 0]
    with books.read("test") as tx:
        assert not renewal_campaigns.any_member(tx, one.uid)
        assert renewal_campaigns.any_member(tx, other.uid)


@pytest.mark.parametrize("rate", [1, 7, 60, 600, 100_000])
def test_no_minute_holds_more_beginnings_than_it_may(rate: int) -> None:
    pause = campaign(renewals_per_minute=rate).pause
    assert pause * rate >= timedelta(minutes=1)
    assert pause * rate - timedelta(minutes=1) < timedelta(microseconds=rate)
