"""Deletion: what it is refused for, what a deleted authority still does, and how it comes back."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState
from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.names import AuthorityName, TenantName
from certd.services.authority_changes import Change, NewSettings
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from tests.services.authority_lives import (
    CA,
    ROOT,
    delete,
    disable,
    enable,
    get,
    purge_job,
    reissue,
    revoke_authority,
    undelete,
)
from tests.services.awaiting import SUB, activate, certified, create_awaiting, parents
from tests.services.conftest import ADMINISTRATOR, STRANGER, World
from tests.services.revocation_books import entries, published, revoke, settle

DAY = timedelta(days=1)
_CHANGES = {EventType.AUTHORITY_DELETED, EventType.AUTHORITY_UNDELETED}


def refused(reason: Reason, call: Callable[[], object], *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message, caught.value.message
    return caught.value


def changes(world: World) -> list[EventType]:
    return [event.type for event in world.events() if event.type in _CHANGES]


def protect(world: World, *, protected: bool) -> None:
    new = NewSettings(deletion_protection=protected)
    world.core.authority_changes.update(ADMINISTRATOR, Change(name=CA), new)


def test_one_that_is_disabled_is_deleted_and_comes_back_disabled(ca: World) -> None:
    before = disable(ca)
    view = delete(ca)
    now = ca.clock.now()
    authority = view.authority
    assert (view.state, authority.delete_time, authority.purge_time) == (AuthorityState.DELETED, now, now + 30 * DAY)
    assert authority.revision == before.authority.revision + 1
    assert get(ca) == view
    job = purge_job(ca, authority.uid)
    assert job is not None
    assert (job.kind, job.due_time) == (JobKind.PURGE_AUTHORITY, now + 30 * DAY)
    back = undelete(ca)
    assert (back.state, back.authority.delete_time, back.authority.purge_time) == (AuthorityState.DISABLED, None, None)
    assert purge_job(ca, authority.uid) is None
    assert enable(ca).state is AuthorityState.ENABLED
    ca.issue("www.example.internal")
    deleted, undeleted = (event for event in ca.events() if event.type in _CHANGES)
    assert (deleted.type, deleted.resource, deleted.principal) == (
        EventType.AUTHORITY_DELETED,
        str(CA),
        ADMINISTRATOR.principal,
    )
    assert deleted.details["allow_live_certificates"] == "false"
    assert undeleted.type is EventType.AUTHORITY_UNDELETED


def test_it_stands_in_lists_and_in_the_quota(ca: World) -> None:
    disable(ca)
    delete(ca)
    page = ca.core.authorities.page(ADMINISTRATOR, TenantName("default"), PageRequest(10, ""))
    states = {view.authority.authority_id: view.state for view in page.items}
    assert states == {"ca": AuthorityState.DELETED, "root": AuthorityState.ENABLED}
    refused(Reason.AUTHORITY_EXISTS, ca.create_subordinate, says="exists already")


def test_it_issues_nothing_and_still_revokes_and_publishes(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    disable(ca)
    delete(ca, live=True)
    error = refused(Reason.AUTHORITY_NOT_ENABLED, lambda: ca.issue("www.example.internal"), says="undelete")
    assert error.metadata == {"state": "DELETED"}
    serial = revoke(ca, issued, RevocationReason.KEY_COMPROMISE)
    settle(ca)
    assert set(entries(published(ca))) == {serial}
    # Weeks later too: the CRL is replaced in time.
    ca.clock.advance(20 * DAY)
    settle(ca)
    next_update = published(ca).next_update_utc
    assert next_update is not None
    assert next_update > ca.clock.now()


def test_one_that_is_enabled_is_not_deleted(ca: World) -> None:
    error = refused(Reason.AUTHORITY_ENABLED, lambda: delete(ca), says="DisableAuthority")
    assert (error.metadata, error.resource) == ({"state": "ENABLED"}, str(CA))
    assert changes(ca) == []


def test_one_that_is_protected_is_not_deleted_until_that_is_taken_back(ca: World) -> None:
    protect(ca, protected=True)
    disable(ca)
    refused(Reason.DELETION_PROTECTED, lambda: delete(ca, live=True), says="deletion_protection")
    protect(ca, protected=False)
    delete(ca)
    refused(Reason.STATE_FORBIDS, lambda: protect(ca, protected=True), says="DELETED")


def test_what_is_alive_below_it_is_named(ca: World) -> None:
    serials = [ca.issue(f"www{place}.example.internal").name for place in range(4)]
    disable(ca)
    error = refused(Reason.CERTIFICATE_IN_USE, lambda: delete(ca), says="allow_live_certificates")
    told = error.metadata["alive"]
    assert told.endswith(" and more")
    assert all(name in serials for name in told.removesuffix(" and more").split(", "))
    disable(ca, ROOT)
    # Not the certificate of the root itself, which it signed too.
    error = refused(Reason.CERTIFICATE_IN_USE, lambda: delete(ca, ROOT), says=str(CA))
    assert error.metadata == {"alive": str(CA)}
    assert delete(ca, live=True).state is AuthorityState.DELETED
    assert [event.details["allow_live_certificates"] for event in ca.events() if event.type in _CHANGES] == ["true"]


def test_what_is_revoked_or_has_ended_does_not_count(ca: World) -> None:
    revoke(ca, ca.issue("revoked.example.internal"))
    ca.issue("short.example.internal", lifetime=timedelta(hours=1))
    disable(ca)
    refused(Reason.CERTIFICATE_IN_USE, lambda: delete(ca), says="alive")
    ca.clock.advance(timedelta(hours=2))
    assert delete(ca).state is AuthorityState.DELETED


def test_an_authority_below_that_is_revoked_does_not_count(ca: World) -> None:
    disable(ca, ROOT)
    refused(Reason.CERTIFICATE_IN_USE, lambda: delete(ca, ROOT), says=str(CA))
    revoke_authority(ca, CA, ROOT)
    assert delete(ca, ROOT).state is AuthorityState.DELETED


def test_an_expired_one_is_deleted_without_being_disabled(ca: World) -> None:
    ca.clock.advance(timedelta(days=6 * 365))
    assert get(ca).state is AuthorityState.EXPIRED
    assert delete(ca).state is AuthorityState.DELETED
    back = undelete(ca)
    assert (back.state, back.authority.state) == (AuthorityState.EXPIRED, AuthorityState.DISABLED)


def test_one_that_awaits_its_certificate_is_deleted_and_awaits_it_again(world: World) -> None:
    create_awaiting(world)
    parent = parents(world)
    certificate = certified(world, parent)
    assert delete(world, SUB).state is AuthorityState.DELETED
    refused(Reason.STATE_FORBIDS, lambda: activate(world, certificate, parent.chain), says="UndeleteAuthority")
    assert undelete(world, SUB).state is AuthorityState.AWAITING_CERTIFICATE
    assert activate(world, certificate, parent.chain).state is AuthorityState.ENABLED


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(delete, id="delete"),
        pytest.param(enable, id="enable"),
        pytest.param(disable, id="disable"),
        pytest.param(reissue, id="reissue"),
    ],
)
def test_nothing_else_is_done_to_a_deleted_one(ca: World, change: Callable[[World], object]) -> None:
    disable(ca)
    deleted = delete(ca)
    error = refused(Reason.STATE_FORBIDS, lambda: change(ca), says="UndeleteAuthority")
    assert error.metadata == {"state": "DELETED"}
    assert get(ca) == deleted


def test_one_that_is_not_deleted_is_not_undeleted(ca: World) -> None:
    error = refused(Reason.STATE_FORBIDS, lambda: undelete(ca), says="not deleted")
    assert error.metadata == {"state": "ENABLED"}


@pytest.mark.parametrize("window", [7 * DAY, 30 * DAY])
def test_the_window_is_of_7_to_30_days(ca: World, window: timedelta) -> None:
    disable(ca)
    assert delete(ca, window=window).authority.purge_time == ca.clock.now() + window


@pytest.mark.parametrize("window", [7 * DAY - timedelta(seconds=1), 30 * DAY + timedelta(seconds=1)])
def test_no_other_window_is_taken(ca: World, window: timedelta) -> None:
    disable(ca)
    error = refused(Reason.FIELD_INVALID, lambda: delete(ca, window=window), says="7 to 30 days")
    assert [violation.field for violation in error.violations] == ["window"]


def test_what_is_only_checked_changes_nothing(ca: World) -> None:
    before = disable(ca)
    assert delete(ca, validate_only=True).state is AuthorityState.DELETED
    assert get(ca) == before
    deleted = delete(ca)
    assert undelete(ca, validate_only=True).state is AuthorityState.DISABLED
    assert get(ca) == deleted
    assert purge_job(ca, deleted.authority.uid) is not None


def test_a_repeated_request_does_it_once(ca: World) -> None:
    disable(ca)
    key = RequestKey(str(uuid.uuid4()), b"a")
    first = delete(ca, key=key)
    assert delete(ca, key=key) == first
    refused(Reason.REQUEST_ID_REUSED, lambda: delete(ca, key=RequestKey(key.request_id, b"b")), says="another request")
    undelete(ca)
    # It was done once, and is not done again.
    assert delete(ca, key=key).state is AuthorityState.DISABLED
    assert changes(ca) == [EventType.AUTHORITY_DELETED, EventType.AUTHORITY_UNDELETED]


def test_another_etag_is_refused(ca: World) -> None:
    before = get(ca).authority.etag
    after = disable(ca).authority.etag
    refused(Reason.ETAG_MISMATCH, lambda: delete(ca, etag=before), says="changed")
    delete(ca, etag=after)
    refused(Reason.ETAG_MISMATCH, lambda: undelete(ca, etag=after), says="changed")


@pytest.mark.parametrize("change", [delete, undelete])
def test_a_stranger_does_neither(ca: World, change: Callable[..., object]) -> None:
    disable(ca)
    refused(Reason.PERMISSION_MISSING, lambda: change(ca, caller=STRANGER), says="authority.delete")


def test_one_that_does_not_exist_is_not_found(ca: World) -> None:
    name = AuthorityName("default", "other")
    refused(Reason.AUTHORITY_NOT_FOUND, lambda: delete(ca, name), says="does not exist")
    refused(Reason.AUTHORITY_NOT_FOUND, lambda: undelete(ca, name), says="does not exist")
