"""What a revocation costs is the same however many there were: nothing that it asks the database for reads a table."""

from dataclasses import replace

import pytest

from certd.model.certificate import CertificateState
from certd.model.certificate_filter import InState
from certd.model.names import CertificateName
from certd.model.revocation_campaign import OfConsumer, OfFilter, OfPublicKey, Selection, UnderProfileOf
from certd.services.revocation import existing_subject
from certd.services.revocation_records import mark_lists, revoked, write_one_of_many
from certd.services.revocation_selection import selected
from certd.store import revocation_campaigns
from certd.store.transaction import Transaction
from tests.services.conftest import World
from tests.services.consumers import active, associate, consumer
from tests.services.incidents import COMPROMISE, issued, serial_of, start
from tests.store.explaining import Explaining

_LARGE = ("certificates", "events", "jobs", "ocsp_responses", "managed_certificate", "association", "request_records")
"""Beginnings of the names of tables that grow."""


def scans(plans: list[str]) -> list[str]:
    """Returns the steps that read all of a table that may be large, or all of its index."""
    steps = [step for plan in plans for step in plan.splitlines()]
    return [step for step in steps if step.startswith("SCAN ") and step.removeprefix("SCAN ").startswith(_LARGE)]


def test_a_revocation_looks_everything_up_by_an_index(ca: World) -> None:
    (plain,) = issued(ca, 1)
    managed = f"tenants/default/authorities/ca/certificates/{serial_of(active(ca).certificate)}"

    def work(tx: Transaction) -> list[str]:
        explaining, now = Explaining(tx), ca.clock.now()
        for name in (plain, managed):
            subject = existing_subject(explaining, CertificateName.parse("name", name))
            row = revoked(subject, reason=COMPROMISE, invalidity_time=None, now=now)
            assert write_one_of_many(explaining, "somebody", subject, row, now) is (name == managed)
            mark_lists(explaining, [row], now)
        return explaining.plans

    plans = ca.core.store.write("test.explain", work)
    assert any("SEARCH certificates USING" in plan for plan in plans)
    assert scans(plans) == []


@pytest.mark.parametrize("kind", ["profile", "public_key", "consumer", "filter"])
def test_a_page_of_a_campaign_looks_everything_up_by_an_index(ca: World, kind: str) -> None:
    issued(ca, 3)
    active(ca)
    who = consumer(ca)
    associate(ca, who)
    selections: dict[str, Selection] = {
        "profile": UnderProfileOf("end-entity"),
        "public_key": OfPublicKey(bytes(32)),
        "consumer": OfConsumer(str(who.name)),
        "filter": OfFilter(InState(CertificateState.ISSUED)),
    }
    campaign = start(ca, selections[kind], validate_only=True)
    with ca.core.store.read("test.explain") as tx:
        explaining = Explaining(tx)
        page = selected(explaining, campaign, limit=1)
        if page.position is not None:
            selected(explaining, replace(campaign, position=page.position), limit=1)
        for read in (revocation_campaigns.get_by_uid(explaining, campaign.uid), campaign):
            assert read in {None, campaign}
        revocation_campaigns.page(explaining, "default", after=(campaign.create_time, "a"), limit=10)
        revocation_campaigns.get(explaining, campaign.name)
    assert scans(explaining.plans) == []
    assert not any("TEMP B-TREE" in plan and "revocation_campaigns" in plan for plan in explaining.plans)
