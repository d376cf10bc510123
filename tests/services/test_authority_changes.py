"""What changes of an authority: whether it issues, and its labels."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState
from certd.model.event import EventType
from certd.model.names import AuthorityName
from certd.services.authority_changes import Change, NewSettings
from certd.services.authority_views import AuthorityView
from certd.services.idempotency import RequestKey
from tests.services.awaiting import SUB, create_awaiting
from tests.services.conftest import ADMINISTRATOR, STRANGER, World

ROOT = AuthorityName("default", "root")
_CHANGES = {EventType.AUTHORITY_UPDATED, EventType.AUTHORITY_ENABLED, EventType.AUTHORITY_DISABLED}


def key(content: bytes = b"a") -> RequestKey:
    return RequestKey(str(uuid.uuid4()), content)


def enable(world: World, change: Change | None = None) -> AuthorityView:
    return world.core.authority_changes.enable(ADMINISTRATOR, change or Change(name=ROOT))


def disable(world: World, change: Change | None = None) -> AuthorityView:
    return world.core.authority_changes.disable(ADMINISTRATOR, change or Change(name=ROOT))


def update(world: World, labels: dict[str, str] | None, change: Change | None = None) -> AuthorityView:
    return world.core.authority_changes.update(ADMINISTRATOR, change or Change(name=ROOT), NewSettings(labels=labels))


def changes(world: World) -> list[EventType]:
    return [event.type for event in world.events() if event.type in _CHANGES]


def refused(reason: Reason, call: Callable[[], object], *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message
    return caught.value


def test_a_disabled_authority_issues_nothing_until_it_is_enabled(world: World) -> None:
    created = world.create_root()
    world.issue("www.example.internal", authority="root")
    view = disable(world)
    assert (view.state, view.authority.revision) == (AuthorityState.DISABLED, created.authority.revision + 1)
    error = refused(
        Reason.AUTHORITY_NOT_ENABLED, lambda: world.issue("www.example.internal", authority="root"), says="enable it"
    )
    assert error.metadata == {"state": "DISABLED"}
    refused(Reason.AUTHORITY_NOT_ENABLED, world.create_subordinate, says="DISABLED")
    assert enable(world).state is AuthorityState.ENABLED
    world.issue("www.example.internal", authority="root")
    assert changes(world) == [EventType.AUTHORITY_DISABLED, EventType.AUTHORITY_ENABLED]


def test_what_is_so_already_stays_so(world: World) -> None:
    created = world.create_root()
    assert enable(world) == created
    first = disable(world)
    assert disable(world) == first
    assert changes(world) == [EventType.AUTHORITY_DISABLED]


@pytest.mark.parametrize("change", [enable, disable])
def test_one_that_awaits_its_certificate_is_neither(world: World, change: Callable[..., AuthorityView]) -> None:
    create_awaiting(world)
    error = refused(Reason.STATE_FORBIDS, lambda: change(world, Change(name=SUB)), says="ActivateAuthority")
    assert (error.metadata, error.resource) == ({"state": "AWAITING_CERTIFICATE"}, str(SUB))


def test_an_expired_one_is_not_enabled_and_remembers_that_it_was_disabled(world: World) -> None:
    world.create_root(lifetime=timedelta(hours=2))
    world.clock.advance(timedelta(hours=3))
    error = refused(Reason.STATE_FORBIDS, lambda: enable(world), says="ReissueAuthorityCertificate")
    assert error.metadata == {"state": "EXPIRED"}
    view = disable(world)
    assert (view.state, view.authority.state) == (AuthorityState.EXPIRED, AuthorityState.DISABLED)
    refused(Reason.STATE_FORBIDS, lambda: enable(world), says="ReissueAuthorityCertificate")


def test_labels_are_replaced_as_a_whole(world: World) -> None:
    created = world.create_root(labels={"team": "web", "stage": "test"})
    assert update(world, None) == created
    view = update(world, {"team": "mail"})
    assert view.authority.labels == {"team": "mail"}
    assert view.authority.etag != created.authority.etag
    assert world.core.authorities.get(ADMINISTRATOR, ROOT) == view
    assert update(world, {"team": "mail"}) == view
    assert update(world, {}).authority.labels == {}
    assert changes(world) == [EventType.AUTHORITY_UPDATED] * 2


def label(world: World, change: Change) -> AuthorityView:
    return update(world, {"a": "b"}, change)


_EACH: dict[str, tuple[Callable[[World, Change], AuthorityView], str]] = {
    "UpdateAuthority": (label, "authority.etag"),
    "EnableAuthority": (enable, "etag"),
    "DisableAuthority": (disable, "etag"),
}


def _prepared(world: World, method: str) -> AuthorityView:
    """A root that the method would change."""
    created = world.create_root()
    return disable(world) if method == "EnableAuthority" else created


@pytest.mark.parametrize("method", _EACH)
def test_an_outdated_etag_is_refused(world: World, method: str) -> None:
    change, field = _EACH[method]
    view = _prepared(world, method)
    before = world.events()
    error = refused(
        Reason.ETAG_MISMATCH, lambda: change(world, Change(name=ROOT, etag="old", key=key())), says="read it again"
    )
    assert [violation.field for violation in error.violations] == [field]
    assert (error.metadata, error.resource) == ({"etag": view.authority.etag}, str(ROOT))
    assert world.events() == before
    assert change(world, Change(name=ROOT, etag=view.authority.etag)).authority.etag != view.authority.etag


@pytest.mark.parametrize("method", _EACH)
def test_validate_only_tells_what_would_be_and_changes_nothing(world: World, method: str) -> None:
    change, _ = _EACH[method]
    view = _prepared(world, method)
    before = world.events()
    planned = change(world, Change(name=ROOT, validate_only=True, key=key()))
    assert planned != view
    assert world.core.authorities.get(ADMINISTRATOR, ROOT) == view
    assert world.events() == before
    refused(Reason.ETAG_MISMATCH, lambda: change(world, Change(name=ROOT, etag="old", validate_only=True)), says="etag")


@pytest.mark.parametrize("method", _EACH)
def test_a_repeated_request_is_answered_and_changes_nothing_more(world: World, method: str) -> None:
    change, _ = _EACH[method]
    view = _prepared(world, method)
    repeated = Change(name=ROOT, etag=view.authority.etag, key=key())
    first = change(world, repeated)
    before = world.events()
    # The etag is outdated now, and the request was made before.
    assert change(world, repeated) == first
    assert world.events() == before
    assert repeated.key is not None
    other = Change(name=ROOT, key=RequestKey(repeated.key.request_id, b"other"))
    refused(Reason.REQUEST_ID_REUSED, lambda: change(world, other), says="send a new one")


def test_a_refused_change_leaves_no_request_record(world: World) -> None:
    create_awaiting(world)
    again = Change(name=SUB, key=key())
    for _ in range(2):
        refused(Reason.STATE_FORBIDS, lambda: disable(world, again), says="AWAITING_CERTIFICATE")


@pytest.mark.parametrize("method", _EACH)
def test_a_stranger_learns_nothing(world: World, method: str) -> None:
    world.create_root()
    services = world.core.authority_changes
    calls: dict[str, Callable[[Change], AuthorityView]] = {
        "UpdateAuthority": lambda change: services.update(STRANGER, change, NewSettings(labels={})),
        "EnableAuthority": lambda change: services.enable(STRANGER, change),
        "DisableAuthority": lambda change: services.disable(STRANGER, change),
    }
    for name in (ROOT, AuthorityName("default", "absent")):
        refused(Reason.PERMISSION_MISSING, lambda n=name: calls[method](Change(name=n)), says="grant")  # type: ignore[misc]
    absent = Change(name=AuthorityName("default", "absent"))
    refused(Reason.AUTHORITY_NOT_FOUND, lambda: _EACH[method][0](world, absent), says="does not exist")
