"""Requests about profiles that are repeated, refused and made again, or only checked."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from certd.errors import Reason
from certd.model.event import EventType
from certd.model.names import ProfileName
from certd.services.profile_changes import GivenProfile
from certd.store import request_records
from tests.services.conftest import ADMINISTRATOR
from tests.services.profile_books import Books, key, open_books, refused, told


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with open_books(f"sqlite:///{tmp_path}/certd.db") as opened:
        yield opened


def test_a_repeated_request_makes_nothing_twice(books: Books) -> None:
    create, update, delete = key(), key(), key()
    first = books.create(request=create)
    assert books.create(request=create) == first
    second = books.update(GivenProfile(description="second"), "description", request=update)
    # Read again, as it now is.
    assert books.create(request=create) == second
    third = books.update(GivenProfile(description="third"), "description")
    assert books.update(GivenProfile(description="second"), "description", request=update) == third
    books.delete(request=delete)
    books.delete(request=delete)
    assert [kind for kind, _, _ in told(books)] == [
        EventType.PROFILE_CREATED,
        EventType.PROFILE_UPDATED,
        EventType.PROFILE_UPDATED,
        EventType.PROFILE_DELETED,
    ]
    for call in (
        lambda: books.create(request=create),
        lambda: books.update(GivenProfile(description="second"), "description", request=update),
    ):
        refused(call, Reason.PROFILE_NOT_FOUND, "send a new one")
    # A profile that took the id since is not deleted by the old request.
    again = books.create()
    books.delete(request=delete)
    assert books.get() == again


def test_a_request_id_is_for_one_request(books: Books) -> None:
    used = str(uuid.uuid4())
    first = books.create(request=key(b"a", used))
    for call in (
        lambda: books.create(request=key(b"b", used)),
        lambda: books.create(ProfileName("default", "b"), request=key(b"b", used)),
    ):
        error = refused(call, Reason.REQUEST_ID_REUSED, "send a new one")
        assert error.metadata == {"request_id": used}
    books.update(GivenProfile(description="x"), "description", request=key(b"a", used))
    refused(
        lambda: books.update(GivenProfile(description="y"), "description", request=key(b"b", used)),
        Reason.REQUEST_ID_REUSED,
        "send a new one",
    )
    assert books.get().profile == replace(first.profile, description="x", version=2)
    books.create(ProfileName("default", "b"))
    books.delete(request=key(b"a", used))
    refused(
        lambda: books.delete(ProfileName("default", "b"), request=key(b"b", used)),
        Reason.REQUEST_ID_REUSED,
        "send a new one",
    )
    assert books.get(ProfileName("default", "b")).profile.version == 1


def test_a_refused_request_may_be_made_again(books: Books) -> None:
    create, update, delete = key(), key(), key()
    books.create()
    refused(lambda: books.create(request=create), Reason.PROFILE_EXISTS, "choose another")
    refused(
        lambda: books.update(GivenProfile(description="x"), "description", etag="no", request=update),
        Reason.ETAG_MISMATCH,
        "read it again",
    )
    refused(lambda: books.delete(etag="no", request=delete), Reason.ETAG_MISMATCH, "read it again")
    with books.store.read("test.records") as tx:
        for method, one in (("CreateProfile", create), ("UpdateProfile", update), ("DeleteProfile", delete)):
            assert request_records.get(tx, ADMINISTRATOR.principal, method, one.request_id) is None
    books.update(GivenProfile(description="x"), "description", request=update)
    books.delete(request=delete)
    assert books.create(request=create).profile.version == 3


def test_validate_only_shows_what_would_be_and_changes_nothing(books: Books) -> None:
    request = key()
    planned = books.create(request=request, validate_only=True)
    refused(books.get, Reason.PROFILE_NOT_FOUND, "ListProfiles")
    made = books.create(request=request)
    assert planned == made
    planned = books.update(GivenProfile(description="x"), "description", validate_only=True)
    assert planned.profile == replace(made.profile, description="x", version=2)
    assert books.get() == made
    assert books.update(GivenProfile(description="x"), "description") == planned
    books.delete(validate_only=True)
    assert books.get() == planned
    refused(
        lambda: books.delete(ProfileName("default", "none"), validate_only=True), Reason.PROFILE_NOT_FOUND, "ListProf"
    )
    assert len(told(books)) == 2
