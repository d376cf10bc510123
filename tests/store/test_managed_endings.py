"""Managed certificates by their end: each once, page after page, and which of them nobody will look after."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from certd.model.job import Job, JobKind
from certd.model.managed_certificate import ManagedCertificateState, ManagedCertificateType
from certd.model.renewal import RenewalMode, RenewalPolicy
from certd.store import jobs, managed_certificates, managed_endings
from certd.store.managed_endings import Ending
from certd.store.store import Store, Transaction
from tests.store.explaining import Explaining
from tests.store.samples import NOW, add_tenant, managed

DAY = timedelta(days=1)
NEVER = RenewalPolicy(mode=RenewalMode.NEVER)


@pytest.fixture
def tenant(store: Store) -> Store:
    add_tenant(store)
    return store


def put(store: Store, name: str, *, ends: datetime = NOW, job: datetime | None = None, **changes: Any) -> str:
    """Inserts a managed certificate; returns its uid."""
    wanted: dict[str, Any] = {
        "state": ManagedCertificateState.ACTIVE,
        "current_version": 1,
        "not_after": ends,
        "renewal": RenewalPolicy(),
    }
    one = replace(managed(name), **(wanted | changes))

    def work(tx: Transaction) -> None:
        managed_certificates.insert(tx, one)
        if job is not None:
            jobs.put(tx, Job(kind=JobKind.ADVANCE_MANAGED_CERTIFICATE, subject=one.uid, due_time=job))

    store.write("test", work)
    return one.uid


def pages(store: Store, size: int, until: datetime = NOW + DAY) -> Iterator[list[Ending]]:
    after = (NOW - DAY, "")
    while True:
        with store.read("test") as tx:
            found = managed_endings.page(tx, after=after, until=until, now=NOW, limit=size)
        if not found:
            return
        yield found
        after = (found[-1].not_after, found[-1].uid)


def test_each_comes_once_by_its_end_however_large_the_pages_are(tenant: Store) -> None:
    """Some end at one moment."""
    ends = [NOW, NOW, NOW, NOW - DAY / 2, NOW + DAY / 2, NOW + DAY, NOW + DAY]
    expected = sorted((end, put(tenant, f"m{number}", ends=end)) for number, end in enumerate(ends))
    for size in (1, 2, 3, 100):
        found = [one for page in pages(tenant, size) for one in page]
        assert [(one.not_after, one.uid) for one in found] == expected


def test_what_ends_outside_the_span_or_is_over_does_not_come(tenant: Store) -> None:
    put(tenant, "early", ends=NOW - 2 * DAY)
    put(tenant, "late", ends=NOW + 2 * DAY)
    put(tenant, "revoked", state=ManagedCertificateState.REVOKED)
    put(tenant, "pending", state=ManagedCertificateState.PENDING, current_version=0, not_after=None)
    assert list(pages(tenant, 10)) == []


@pytest.mark.parametrize(
    ("changes", "is_forgotten"),
    [
        ({}, True),
        ({"job": NOW}, False),
        # It comes too late, as by a clock that was ahead; a look from time to time does not.
        ({"job": NOW + DAY}, False),
        ({"job": NOW + 3 * DAY}, True),
        ({"renewal": RenewalPolicy(mode=RenewalMode.WHEN_USED)}, True),
        ({"renewal": NEVER}, False),
        ({"renewal": NEVER, "forced_version": 1}, True),
        ({"renewal": NEVER, "forced_version": 1, "current_version": 2}, False),
        ({"type": ManagedCertificateType.IMPORTED}, False),
    ],
)
def test_what_is_to_be_renewed_and_has_no_job_is_forgotten(
    tenant: Store, changes: dict[str, Any], *, is_forgotten: bool
) -> None:
    uid = put(tenant, "web", **changes)
    assert list(pages(tenant, 10)) == [[Ending(uid=uid, not_after=NOW, is_forgotten=is_forgotten)]]


def test_a_job_of_another_kind_is_not_its_job(tenant: Store) -> None:
    uid = put(tenant, "web")
    other = Job(kind=JobKind.ADVANCE_AUTHORITY, subject=uid, due_time=NOW)
    tenant.write("test", lambda tx: jobs.put(tx, other))
    ((found,),) = pages(tenant, 10)
    assert found.is_forgotten


def test_a_page_is_read_from_where_the_last_one_ended_also_of_those_that_end_at_one_moment(sqlite_store: Store) -> None:
    """As all do that their authority cut short."""
    with sqlite_store.read("test") as tx:
        explaining = Explaining(tx)
        managed_endings.page(explaining, after=(NOW, "m"), until=NOW + DAY, now=NOW, limit=10)
    (plan,) = explaining.plans
    assert "managed_certificates_not_after (state=? AND (not_after,uid)>(?,?) AND not_after<?)" in plan
    assert "ORDER BY" not in plan
