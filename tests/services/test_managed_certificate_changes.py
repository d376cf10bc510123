"""Managed certificates are updated, renewed now and deleted; no crash and no crowd does anything twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import delete, insert

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState, VersionState
from certd.model.names import ManagedCertificateName
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, RenewalMode, RenewalPolicy
from certd.model.tenant import Quota
from certd.services.authority_changes import Change
from certd.services.managed_certificate_changes import LABELS, RENEWAL_FIELDS, ManagedCertificateChange
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.paging import PageRequest
from certd.store import managed_schema, tenant_counts
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash, two_worlds
from tests.services.consumers import WEB, active, associate, consumer
from tests.services.managed_books import (
    as_time_goes_by,
    at_version,
    count,
    events_of,
    get,
    jobs_of,
    new_key,
    renew,
    renewed,
    rewrite,
    stands,
    states_of_certificates,
    versions,
)
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

ABSENT = ManagedCertificateName("default", "absent")
NEVER = RenewalPolicy(mode=RenewalMode.NEVER)
REQUESTED = EventType.MANAGED_CERTIFICATE_RENEWAL_REQUESTED


@pytest.fixture
def web(ca: World) -> World:
    active(ca)
    return ca


def change_of(**wanted: Any) -> ManagedCertificateChange:
    said: dict[str, Any] = {"name": WEB, "fields": frozenset({LABELS})}
    return ManagedCertificateChange(**(said | wanted))


def update(world: World, *, key: Any = None, validate_only: bool = False, **wanted: Any) -> ManagedCertificateView:
    change = change_of(**wanted)
    return world.core.managed_certificate_changes.update(ADMINISTRATOR, change, key=key, validate_only=validate_only)


def remove(world: World, name: ManagedCertificateName = WEB, **options: Any) -> None:
    wanted: dict[str, Any] = {"etag": "", "key": None, "validate_only": False, "caller": ADMINISTRATOR} | options
    world.core.managed_certificate_changes.delete(wanted.pop("caller"), name, **wanted)


def refusal(world: World, call: Callable[[], object]) -> CertdError:
    """Why a call fails, which changes nothing."""
    before = world.events()
    with pytest.raises(CertdError) as refused:
        call()
    assert world.events() == before
    return refused.value


def test_labels_are_replaced_as_a_whole(web: World) -> None:
    update(web, labels={"team": "web", "stage": "test"})
    before = stands(web)
    web.clock.advance(timedelta(minutes=1))
    view = update(web, labels={"team": "platform"})
    assert view.managed_certificate.labels == {"team": "platform"}
    assert view.managed_certificate.revision == before.revision + 1
    assert view.managed_certificate.update_time == web.clock.now()
    assert get(web) == view
    event = web.events()[-1]
    assert (event.type, event.principal, event.resource, event.details["fields"]) == (
        EventType.MANAGED_CERTIFICATE_UPDATED,
        ADMINISTRATOR.principal,
        str(WEB),
        "labels",
    )


def test_what_is_the_same_changes_nothing(web: World) -> None:
    before, told = stands(web), web.events()
    everything = change_of(fields=RENEWAL_FIELDS | {LABELS}, renewal=DEFAULT_RENEWAL_POLICY)
    view = web.core.managed_certificate_changes.update(ADMINISTRATOR, everything, key=None, validate_only=False)
    assert view.managed_certificate == before == stands(web)
    assert web.events() == told


def test_a_part_of_the_policy_leaves_the_others(web: World) -> None:
    update(web, fields=RENEWAL_FIELDS, renewal=RenewalPolicy(mode=RenewalMode.WHEN_USED, remaining_percent=20))
    view = update(web, fields=frozenset({"renewal.mode"}), renewal=NEVER)
    assert view.managed_certificate.renewal == RenewalPolicy(mode=RenewalMode.NEVER, remaining_percent=20)
    details = events_of(web, EventType.MANAGED_CERTIFICATE_UPDATED)[-1].details
    assert (details["fields"], details["renewal.mode"]) == ("renewal.mode", "NEVER")
    assert "renewal.remaining_percent" not in details


def test_a_policy_that_is_not_said_is_the_default_one(web: World) -> None:
    update(web, fields=RENEWAL_FIELDS, renewal=NEVER)
    assert update(web, fields=RENEWAL_FIELDS, renewal=None).managed_certificate.renewal == DEFAULT_RENEWAL_POLICY


def test_its_renewal_is_planned_anew_after_another_policy(web: World) -> None:
    planned = eventually(lambda: stands(web).renewal_window)
    never = update(web, fields=RENEWAL_FIELDS, renewal=NEVER).managed_certificate
    assert (never.renewal_window, never.next_attempt_time) == (None, None)
    assert stands(web).renewal_window is None
    update(web, fields=RENEWAL_FIELDS, renewal=RenewalPolicy(remaining_percent=80))
    earlier = eventually(lambda: stands(web).renewal_window)
    assert earlier < planned
    assert stands(web).current_version == 1


def test_a_policy_that_makes_it_due_renews_it(web: World) -> None:
    view = get(web)
    begins, ends = view.managed_certificate.issue_time, view.managed_certificate.not_after
    assert begins is not None
    assert ends is not None
    update(web, fields=RENEWAL_FIELDS, renewal=RenewalPolicy(remaining_percent=5))
    # By that policy it is weeks too early, by the next one too late to choose a moment.
    web.clock.advance((ends - begins) * 0.7)
    assert stands(web).current_version == 1
    update(web, fields=RENEWAL_FIELDS, renewal=RenewalPolicy(remaining_percent=80))
    at_version(web, 2)


def test_what_is_pending_keeps_its_next_attempt(ca: World) -> None:
    change = Change(name=CA)
    ca.steps.at["managed.3.key-sealed"] = lambda: ca.core.authority_changes.disable(ADMINISTRATOR, change)
    ca.request()
    eventually(lambda: stands(ca).conditions[0].reason == Reason.AUTHORITY_NOT_ENABLED)
    before = stands(ca)
    after = update(ca, fields=RENEWAL_FIELDS, renewal=NEVER).managed_certificate
    assert after.renewal == NEVER
    assert after.next_attempt_time == before.next_attempt_time is not None


def test_an_imported_one_has_no_renewal_policy(web: World) -> None:
    rewrite(web, stands(web).uid, type="IMPORTED")
    error = refusal(web, lambda: update(web, fields=frozenset({"renewal.mode"}), renewal=DEFAULT_RENEWAL_POLICY))
    assert error.reason is Reason.FIELD_INVALID
    assert error.violations[0].field == "managed_certificate.renewal"
    assert "imported" in error.message
    # Its labels are its own, and that a policy which it has not is not said is no mistake.
    labels = update(web, fields=RENEWAL_FIELDS | {LABELS}, labels={"a": "b"}).managed_certificate.labels
    assert labels == {"a": "b"}


def test_an_update_of_another_revision_is_refused(web: World) -> None:
    etag = stands(web).etag
    update(web, labels={"a": "1"}, etag=etag)
    error = refusal(web, lambda: update(web, labels={"a": "2"}, etag=etag))
    assert (error.reason, error.metadata) == (Reason.ETAG_MISMATCH, {"etag": stands(web).etag})
    assert stands(web).labels == {"a": "1"}


def test_an_update_that_is_only_checked_changes_nothing(web: World) -> None:
    before, told = stands(web), web.events()
    view = update(web, labels={"a": "1"}, validate_only=True)
    assert view.managed_certificate.labels == {"a": "1"}
    assert (stands(web), web.events()) == (before, told)


def test_a_repeated_update_is_made_once(web: World) -> None:
    key = new_key()
    update(web, labels={"a": "1"}, key=key)
    update(web, labels={"a": "2"})
    assert update(web, labels={"a": "1"}, key=key).managed_certificate.labels == {"a": "2"}
    other = type(key)(key.request_id, b"b")
    assert refusal(web, lambda: update(web, key=other)).reason is Reason.REQUEST_ID_REUSED


def test_a_renewal_makes_a_new_key_and_version_and_keeps_the_old_one(web: World) -> None:
    first = get(web)
    web.clock.advance(timedelta(hours=1))
    asked = renew(web, reason="the gateway was rebuilt")
    assert asked.managed_certificate.current_version == 1
    assert asked.managed_certificate.next_attempt_time == web.clock.now()
    second = at_version(web, 2)
    old, new = (x509.load_der_x509_certificate(view.certificate or b"") for view in (first, second))
    assert old.serial_number != new.serial_number
    assert old.public_key() != new.public_key()
    assert new.not_valid_after_utc > old.not_valid_after_utc
    assert second.managed_certificate.uid == first.managed_certificate.uid
    (event,) = events_of(web, REQUESTED)
    assert (event.principal, event.resource) == (ADMINISTRATOR.principal, str(WEB))
    assert (event.details["reason"], event.details["current_version"]) == ("the gateway was rebuilt", "1")
    newest, oldest = versions(web)
    assert (newest.state, newest.certificate) == (VersionState.CURRENT, second.certificate)
    assert (oldest.state, oldest.certificate) == (VersionState.SUPERSEDED, first.certificate)
    assert oldest.key_available


def test_any_number_of_callers_at_once_make_one_version(web: World) -> None:
    with ThreadPoolExecutor(16) as callers:
        for view in callers.map(lambda _: renew(web), range(16)):
            assert view.managed_certificate.current_version in {1, 2}
    at_version(web, 2)
    renewals = events_of(web, EventType.MANAGED_CERTIFICATE_RENEWED)
    # Who came when the new one was there asked for yet another one.
    assert len(renewals) == len(events_of(web, REQUESTED)) == len(versions(web)) - 1


def test_callers_while_one_is_on_its_way_make_no_other(web: World) -> None:
    asked: list[int] = []

    def ask_again() -> None:
        with ThreadPoolExecutor(8) as callers:
            asked.extend(
                view.managed_certificate.current_version for view in callers.map(lambda _: renew(web), "a" * 8)
            )

    web.steps.at["issue.3.intended"] = ask_again
    renew(web)
    at_version(web, 2)
    assert asked == [1] * 8
    assert len(events_of(web, REQUESTED)) == 1
    # Nothing that was asked is left to be done.
    as_time_goes_by(web, lambda: len(versions(web)) == 2, step=timedelta(hours=1))
    assert not stands(web).forced


def test_two_daemons_make_one_version(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        active(first)
        worlds = [first, second] * 8
        with ThreadPoolExecutor(16) as callers:
            list(callers.map(renew, worlds))
        eventually(lambda: stands(second).current_version > 1 and not stands(second).forced)
        made = len(versions(second)) - 1
        # On PostgreSQL an event is numbered a moment after its commit.
        eventually(lambda: len(events_of(second, EventType.MANAGED_CERTIFICATE_RENEWED)) == made)
        eventually(lambda: len(events_of(second, REQUESTED)) == made)
        assert set(states_of_certificates(second, stands(second).uid)) == {CertificateState.ISSUED}


def test_a_repeated_call_renews_once(web: World) -> None:
    key = new_key()
    renew(web, key=key)
    at_version(web, 2)
    assert renew(web, key=key).managed_certificate.current_version == 2
    assert not stands(web).forced
    assert len(events_of(web, REQUESTED)) == 1


def test_what_was_asked_for_is_done_though_the_daemon_died(web: World) -> None:
    web.steps.at["renew.1.committed"] = crash
    with pytest.raises(CrashError):
        renew(web)
    at_version(web, 2)


def test_what_is_pending_is_on_its_way_anyway(ca: World) -> None:
    ca.steps.at["managed.2.wrapping-key"] = lambda: asked.append(renew(ca))
    asked: list[ManagedCertificateView] = []
    ca.request()
    at_version(ca, 1)
    assert [view.state for view in asked] == [ManagedCertificateState.PENDING]
    assert events_of(ca, REQUESTED) == []


def test_an_expired_one_is_renewed(web: World) -> None:
    update(web, fields=RENEWAL_FIELDS, renewal=NEVER)
    web.clock.advance(timedelta(days=90))
    assert get(web).state is ManagedCertificateState.EXPIRED
    renewed(web)
    assert get(web).state is ManagedCertificateState.ACTIVE


def test_one_whose_policy_is_never_is_renewed_when_somebody_asks(web: World) -> None:
    update(web, fields=RENEWAL_FIELDS, renewal=NEVER)
    renewed(web)


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [({"type": "IMPORTED"}, "ImportManagedCertificate"), ({"state": "FAILED"}, "request another")],
)
def test_what_nobody_can_make_again_is_not_renewed(web: World, columns: dict[str, str], remedy: str) -> None:
    rewrite(web, stands(web).uid, **columns)
    error = refusal(web, lambda: renew(web))
    assert (error.reason, error.resource) == (Reason.NOT_RENEWABLE, str(WEB))
    assert remedy in error.message
    assert not stands(web).forced


@pytest.mark.parametrize("reason", list(RevocationReason))
def test_what_was_revoked_is_renewed_only_when_it_was_compromised(web: World, reason: RevocationReason) -> None:
    update(web, fields=RENEWAL_FIELDS, renewal=NEVER)
    revocation = NewManagedRevocation(name=WEB, version=None, reason=reason)
    web.core.managed_revocation.revoke(ADMINISTRATOR, revocation, key=None)
    assert get(web).state is ManagedCertificateState.REVOKED
    if reason.value.endswith("Compromise"):
        assert renewed(web).state is ManagedCertificateState.ACTIVE
    else:
        error = refusal(web, lambda: renew(web))
        assert error.reason is Reason.NOT_RENEWABLE
        assert reason.name in error.message


def test_a_deleted_one_leaves_nothing_but_its_certificates_and_events(web: World) -> None:
    renewed(web)
    uid = stands(web).uid
    remove(web)
    tables = managed_schema
    for table in (tables.managed_certificates, tables.managed_certificate_versions, tables.sealed_keys):
        assert count(web, table) == 0
    assert jobs_of(web, uid) == 0
    assert states_of_certificates(web, uid) == [CertificateState.ISSUED] * 2
    with web.core.store.read("test.quota") as tx:
        assert tenant_counts.get(tx, "default", Quota.MANAGED_CERTIFICATES) == 0
    event = web.events()[-1]
    assert (event.type, event.resource, event.details["uid"], event.details["current_version"]) == (
        EventType.MANAGED_CERTIFICATE_DELETED,
        str(WEB),
        uid,
        "2",
    )
    assert refusal(web, lambda: get(web)).reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND
    # The name is free, and what comes under it is another one.
    assert active(web).managed_certificate.uid != uid


def test_one_that_is_in_use_is_not_deleted_and_says_by_whom(web: World) -> None:
    associate(web, consumer(web, "gateway"))
    associate(web, consumer(web, "mailer"))
    for validate_only in (True, False):
        error = refusal(web, lambda: remove(web, validate_only=validate_only))  # noqa: B023  # Called at once.
        names = "tenants/default/identities/gateway, tenants/default/identities/mailer"
        assert (error.reason, error.metadata) == (Reason.CERTIFICATE_IN_USE, {"consumers": names})
        assert names in error.message
        assert "DeleteAssociation" in error.message


def test_the_first_twenty_consumers_are_named(web: World) -> None:
    rows = [
        {
            "managed_certificate_uid": stands(web).uid,
            "association_id": f"a{number:02}",
            "tenant": "default",
            "consumer": f"tenants/default/identities/m{number:02}",
            "consumer_spiffe_id": f"spiffe://test/{number}",
            "creator": "test",
            "create_time": 0,
            "leased_version": 0,
        }
        for number in range(25)
    ]
    web.core.store.write("test.associate", lambda tx: tx.execute(insert(managed_schema.associations), rows))
    error = refusal(web, lambda: remove(web))
    named = error.metadata["consumers"].removesuffix(" and more").split(", ")
    assert named == [f"tenants/default/identities/m{number:02}" for number in range(20)]


def test_a_deletion_is_repeatable_and_bound_to_a_revision(web: World) -> None:
    key, etag = new_key(), stands(web).etag
    update(web, labels={"a": "1"})
    assert refusal(web, lambda: remove(web, etag=etag)).reason is Reason.ETAG_MISMATCH
    remove(web, etag=stands(web).etag, validate_only=True)
    assert stands(web).labels == {"a": "1"}
    remove(web, etag=stands(web).etag, key=key)
    told = web.events()
    remove(web, etag=etag, key=key)
    assert web.events() == told
    other = type(key)(key.request_id, b"b")
    assert refusal(web, lambda: remove(web, key=other)).reason is Reason.REQUEST_ID_REUSED
    assert refusal(web, lambda: remove(web)).reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND


@pytest.mark.parametrize("step", ["managed.2.wrapping-key", "managed.3.key-sealed", "issue.3.intended"])
def test_a_first_issue_on_its_way_ends_without_a_row(ca: World, step: str) -> None:
    ca.steps.at[step] = lambda: remove(ca)
    uid = ca.request().managed_certificate.uid
    eventually(lambda: not ca.steps.at)
    # Whatever the run makes of it, the next one finds that there is nothing left to do.
    as_time_goes_by(ca, lambda: jobs_of(ca, uid) == 0)
    _nothing_is_left(ca, uid)


@pytest.mark.parametrize("step", ["renewal.2.key-sealed", "issue.3.intended"])
def test_a_renewal_on_its_way_ends_without_a_row(web: World, step: str) -> None:
    uid = stands(web).uid
    web.steps.at[step] = lambda: remove(web)
    renew(web)
    eventually(lambda: not web.steps.at)
    as_time_goes_by(web, lambda: jobs_of(web, uid) == 0)
    _nothing_is_left(web, uid)


def _nothing_is_left(world: World, uid: str) -> None:
    tables = managed_schema
    for table in (tables.managed_certificates, tables.managed_certificate_versions, tables.sealed_keys):
        assert count(world, table) == 0
    # Who is at work on it may yet order a certificate. One that was being signed counts as revoked, whoever has it.
    world.core.scheduler.stop()
    eventually(lambda: CertificateState.PENDING not in states_of_certificates(world, uid))
    assert states_of_certificates(world, uid)[1:] in ([], [CertificateState.LOST])
    assert events_of(world, EventType.MANAGED_CERTIFICATE_RENEWED) == []


def test_versions_are_shown_newest_first_page_by_page(web: World) -> None:
    for _ in range(2):
        renewed(web)
    changes = web.core.managed_certificate_changes
    first = changes.versions(ADMINISTRATOR, WEB, PageRequest(2, ""))
    rest = changes.versions(ADMINISTRATOR, WEB, PageRequest(2, first.next_page_token))
    assert [view.name for view in (*first.items, *rest.items)] == [f"{WEB}/versions/{number}" for number in (3, 2, 1)]
    assert rest.next_page_token == ""
    sealed = managed_schema.sealed_keys
    web.core.store.write("test.tidy", lambda tx: tx.execute(delete(sealed).where(sealed.c.version == 2)))
    assert [view.key_available for view in versions(web)] == [True, False, True]


def test_a_version_in_the_making_has_no_certificate(ca: World) -> None:
    shown: list[Any] = []
    ca.steps.at["managed.3.key-sealed"] = lambda: shown.extend(versions(ca))
    active(ca)
    assert [(view.state, view.certificate, view.key_available) for view in shown] == [
        (VersionState.PENDING, None, True)
    ]


@pytest.mark.parametrize("token", ["x", "-1", "1" * 40, "²"])
def test_a_page_token_of_the_callers_own_making_is_refused(web: World, token: str) -> None:
    from certd.services.paging import page_until

    forged = page_until([], f"versions {WEB}", after=[token]).next_page_token
    request = PageRequest(2, forged)
    error = refusal(web, lambda: web.core.managed_certificate_changes.versions(ADMINISTRATOR, WEB, request))
    assert error.reason is Reason.FIELD_INVALID


@pytest.mark.parametrize("name", [WEB, ABSENT])
def test_a_stranger_learns_nothing(web: World, name: ManagedCertificateName) -> None:
    changes = web.core.managed_certificate_changes
    for call in (
        lambda: changes.update(STRANGER, change_of(name=name), key=None, validate_only=False),
        lambda: renew(web, name, caller=STRANGER),
        lambda: remove(web, name, caller=STRANGER),
        lambda: changes.versions(STRANGER, name, PageRequest(2, "")),
    ):
        assert refusal(web, call).reason is Reason.PERMISSION_MISSING


def test_what_is_not_there_is_not_found(web: World) -> None:
    changes = web.core.managed_certificate_changes
    for call in (
        lambda: changes.update(ADMINISTRATOR, change_of(name=ABSENT), key=None, validate_only=False),
        lambda: renew(web, ABSENT),
        lambda: remove(web, ABSENT),
        lambda: changes.versions(ADMINISTRATOR, ABSENT, PageRequest(2, "")),
    ):
        error = refusal(web, call)
        assert (error.reason, error.resource) == (Reason.MANAGED_CERTIFICATE_NOT_FOUND, str(ABSENT))
