"""Rows of revocation campaigns, and conditions on certificates as JSON."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certd.model.certificate import CertificateState, RevocationReason
from certd.model.certificate_filter import (
    AllOf,
    AnyOf,
    CertificateFilter,
    CreatedWithin,
    EndsWithin,
    HasName,
    HasSerial,
    InDomain,
    InState,
    IsManaged,
    Labelled,
    Not,
    OfKey,
    OfKeySpec,
    UnderProfile,
)
from certd.model.names import AuthorityName, RevocationCampaignName
from certd.model.revocation_campaign import (
    OfConsumer,
    OfFilter,
    OfPublicKey,
    RevocationCampaign,
    RevocationCampaignState,
    Selection,
    UnderProfileOf,
)
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.store import revocation_campaigns
from certd.store.certificate_filters import filter_of, filter_value
from certd.store.store import Store
from tests.store.samples import LATER, NOW, add_tenant

FILTERS: list[CertificateFilter] = [
    AllOf((InDomain("example.internal"), Not(UnderProfile("web")))),
    AnyOf((OfKeySpec(KeySpec.EC_P256), IsManaged(True), IsManaged(False))),
    HasName(SubjectAlternativeNames(dns_names=("a.internal",), email_addresses=("a@b.internal",))),
    HasSerial("0abc"),
    InState(CertificateState.REVOKED),
    OfKey(bytes(range(32))),
    EndsWithin(begin=NOW, end=None),
    CreatedWithin(begin=None, end=LATER),
    Labelled("team", None),
    Labelled('"', "ü\n"),
]


def campaign(campaign_id: str = "leak", selection: Selection | None = None, **changes: Any) -> RevocationCampaign:
    sample = RevocationCampaign(
        uid=f"uid-of-{campaign_id}",
        name=RevocationCampaignName("default", campaign_id),
        authority=None,
        selection=selection or UnderProfileOf("web"),
        reason=RevocationReason.UNSPECIFIED,
        invalidity_time=None,
        include_expired=False,
        creator="spiffe://example/identities/admin",
        create_time=NOW,
    )
    return replace(sample, **changes)


def add(store: Store, one: RevocationCampaign) -> bool:
    return store.write("test", lambda tx: revocation_campaigns.insert(tx, one))


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda one: type(one).__name__)
def test_a_condition_is_read_as_it_was_written(wanted: CertificateFilter) -> None:
    assert filter_of(filter_value(wanted)) == wanted


def test_what_nobody_wrote_is_no_condition() -> None:
    with pytest.raises(ValueError, match="no condition"):
        filter_of({"colour": "red"})


@pytest.mark.parametrize(
    "selection",
    [
        UnderProfileOf("web"),
        OfPublicKey(bytes(range(32))),
        OfConsumer("tenants/default/identities/machine"),
        OfFilter(AnyOf(tuple(FILTERS))),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_campaign_is_read_as_it_was_written(store: Store, selection: Selection) -> None:
    add_tenant(store)
    plain = campaign("plain", selection)
    full = campaign(
        "full",
        selection,
        authority=AuthorityName("default", "ca"),
        reason=RevocationReason.KEY_COMPROMISE,
        invalidity_time=NOW - timedelta(days=1),
        include_expired=True,
        state=RevocationCampaignState.CANCELLED,
        position=("a", "b"),
        renewal_time=LATER,
        found_count=4,
        revoked_count=3,
        unchanged_count=2,
        failed_count=1,
        failed_certificates=("a/ü",),
        end_time=LATER,
    )
    for one in (plain, full):
        assert add(store, one)
        with store.read("test") as tx:
            assert revocation_campaigns.get(tx, one.name) == revocation_campaigns.get_by_uid(tx, one.uid) == one


def test_an_id_is_taken_once_in_a_tenant(store: Store) -> None:
    add_tenant(store)
    assert add(store, campaign())
    assert not add(store, campaign(uid="another"))
    with store.read("test") as tx:
        assert revocation_campaigns.get_by_uid(tx, "another") is None
        assert revocation_campaigns.get(tx, RevocationCampaignName("other", "leak")) is None


def test_what_changes_is_replaced_and_what_was_asked_stays(store: Store) -> None:
    add_tenant(store)
    add(store, campaign())
    changed = campaign(state=RevocationCampaignState.DONE, position=("x",), found_count=9, end_time=LATER)
    other = replace(changed, include_expired=True, creator="somebody else")
    store.write("test", lambda tx: revocation_campaigns.update(tx, other))
    with store.read("test") as tx:
        assert revocation_campaigns.get(tx, changed.name) == changed


def test_pages_are_newest_first(store: Store) -> None:
    add_tenant(store)
    times = {"a": NOW, "b": LATER, "c": NOW, "d": LATER + timedelta(seconds=1)}
    for id_, time in times.items():
        add(store, campaign(id_, create_time=time))
    seen: list[str] = []
    after = None
    while True:
        with store.read("test") as tx:
            page = revocation_campaigns.page(tx, "default", after=after, limit=1)
        if not page:
            break
        seen.append(page[0].name.revocation_campaign)
        after = (page[0].create_time, page[0].name.revocation_campaign)
    assert seen == ["d", "b", "a", "c"]
