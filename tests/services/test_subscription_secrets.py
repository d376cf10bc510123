"""Secrets of webhooks: two are live at most, they follow the wrapping key, and whatever dies, every one opens."""

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.wrapping_key import WrappingKeyState
from certd.services import wrapping_key_rotation
from certd.services.subscriptions import RotatedSecret
from certd.store import notification_schema
from certd.token.client import TokenClient
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, CrashError, World, crash, two_worlds
from tests.services.rotation_books import (
    FIRST,
    SECOND,
    as_time_goes_by,
    ca,
    check_everything_opens,
    destroy,
    fill,
    get,
    jobs_of,
    left,
    refused,
    retired,
    rotate,
    token_settings,
    told,
)
from tests.services.subscription_books import (
    MAIL,
    Books,
    books_of,
    cleared,
    name_of,
    running_books,
    send_nothing,
)
from tests.softhsm import make_token
from tests.waiting import eventually

__all__ = ["ca", "postgres_server", "postgres_url", "token_settings"]

HOOK = name_of("hook")
HOUR = timedelta(hours=1)
_table = notification_schema.subscription_secrets


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """For tests that leave the wrapping key alone."""
    folder = tmp_path_factory.mktemp("shared")
    with running_books(folder, make_token(folder)) as running:
        yield running


@pytest.fixture
def books(on_sqlite: Books) -> Books:
    return cleared(on_sqlite)


@pytest.fixture
def rotating(ca: World) -> Books:
    """With a wrapping key that a test may rotate."""
    send_nothing(ca)
    return books_of(ca)


def key_of(text: str) -> bytes:
    return base64.b64decode(text.removeprefix("whsec_"), validate=True)


def rotate_secret(books: Books) -> RotatedSecret:
    return books.subscriptions.rotate_secret(ADMINISTRATOR, HOOK)


def rows(books: Books) -> list[tuple[int, int]]:
    """Numbers of the secrets that are kept, and of their wrapping keys."""
    with books.world.core.store.read("test.secrets") as tx:
        found = tx.execute(select(_table.c.number, _table.c.wrapping_key_number).order_by(_table.c.number))
        return [(row.number, row.wrapping_key_number) for row in found]


def opened_afresh(books: Books, uid: str) -> tuple[bytes, ...]:
    """What a daemon has that has just begun."""
    return books_of(books.world).secrets.of(uid)


def test_the_old_one_signs_beside_the_new_one_for_a_day(books: Books) -> None:
    first = key_of(books.make().secret)
    uid = books.row().uid
    rotated = rotate_secret(books)
    second, now = key_of(rotated.secret), books.world.clock.now()
    assert rotated.old_expire_time == now + 24 * HOUR
    assert books.row().revision == 2
    assert books.secrets.of(uid) == opened_afresh(books, uid) == (second, first)
    books.world.clock.advance(24 * HOUR - timedelta(microseconds=1))
    assert books.secrets.of(uid) == (second, first)
    books.secrets.delete_expired()
    assert rows(books) == [(1, 1), (2, 1)]
    books.world.clock.advance(timedelta(microseconds=1))
    assert books.secrets.of(uid) == opened_afresh(books, uid) == (second,)
    books.secrets.delete_expired()
    assert rows(books) == [(2, 1)]
    assert books.secrets.of(uid) == (second,)
    (event,) = books.told(EventType.SUBSCRIPTION_SECRET_ROTATED)
    assert event.resource == str(HOOK)
    assert event.details["number"] == "2"
    # No number is used again, also when those before it are gone.
    third = key_of(rotate_secret(books).secret)
    assert books.secrets.of(uid) == (third, second)
    assert rows(books) == [(2, 1), (3, 1)]


def test_two_are_live_at_most(books: Books) -> None:
    books.make()
    uid = books.row().uid
    second, third = (key_of(rotate_secret(books).secret) for _ in range(2))
    assert books.secrets.of(uid) == opened_afresh(books, uid) == (third, second)
    assert rows(books) == [(2, 1), (3, 1)]


def test_no_secret_stands_in_books_events_or_words(books: Books) -> None:
    made = books.make()
    rotated = rotate_secret(books)
    for text in (made.secret, rotated.secret):
        key = key_of(text)
        with books.world.core.store.read("test.blobs") as tx:
            blobs = tx.execute(select(_table.c.blob)).scalars().all()
        assert len(blobs) == 2
        assert not any(key in blob for blob in blobs)
        assert not any(text in repr(event) for event in books.world.events())
        assert text not in repr(made) + repr(rotated)


def test_nobody_is_told_a_secret_that_is_not_kept(rotating: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrapping key is rotated, or the secret by another, between sealing and writing: it is made again."""
    rotating.make()
    uid, world = rotating.row().uid, rotating.world
    seal = TokenClient.seal_secret
    meanwhile: list[Callable[[], object]] = [lambda: rotate(world), lambda: rotate_secret(rotating)]

    def sealed(token: TokenClient, secret: bytes, **how: object) -> bytes:
        blob = seal(token, secret, **how)  # type: ignore[arg-type]  # As it was called.
        if meanwhile and threading.current_thread() is threading.main_thread():
            meanwhile.pop(0)()
        return blob

    monkeypatch.setattr(TokenClient, "seal_secret", sealed)
    rotated = rotate_secret(rotating)
    assert not meanwhile
    assert rotating.secrets.of(uid)[0] == opened_afresh(rotating, uid)[0] == key_of(rotated.secret)
    meanwhile.append(lambda: rotate(world))
    retired(world)
    made = rotating.make("more")
    assert rotating.secrets.of(rotating.row("more").uid) == (key_of(made.secret),)


def test_callers_that_rotate_at_once_are_each_told_one_that_was_kept(books: Books) -> None:
    books.make()

    def attempt(_number: int) -> str:
        try:
            return rotate_secret(books).secret
        except CertdError as error:
            return "" if error.reason is Reason.TOKEN_UNAVAILABLE else str(error)

    with ThreadPoolExecutor(4) as pool:
        made = [text for text in pool.map(attempt, range(4)) if text]
    assert len(books.told(EventType.SUBSCRIPTION_SECRET_ROTATED)) == len(made) >= 1
    assert {*books.secrets.of(books.row().uid)} & {key_of(text) for text in made}


def test_without_the_token_nothing_is_made_and_what_was_opened_stays_open(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = books.make()
    uid = books.row().uid
    assert books.secrets.of(uid) == (key_of(made.secret),)

    def away(_token: TokenClient, *_given: object, **_named: object) -> bytes:
        raise CertdError(Reason.TOKEN_UNAVAILABLE, "away", retry_after=1.0)

    monkeypatch.setattr(TokenClient, "seal_secret", away)
    monkeypatch.setattr(TokenClient, "open_secret", away)
    assert refused(lambda: rotate_secret(books)).reason is Reason.TOKEN_UNAVAILABLE
    assert refused(lambda: books.make("more")).reason is Reason.TOKEN_UNAVAILABLE
    assert refused(lambda: books.get("more")).reason is Reason.SUBSCRIPTION_NOT_FOUND
    assert books.secrets.of(uid) == (key_of(made.secret),)
    assert refused(lambda: opened_afresh(books, uid)).reason is Reason.TOKEN_UNAVAILABLE
    books.make("mail", target=MAIL)


def test_one_that_was_moved_to_another_subscription_does_not_open(books: Books) -> None:
    books.make("a")
    books.make("b")
    a, b = books.row("a").uid, books.row("b").uid
    store = books.world.core.store
    with store.read("test.blob") as tx:
        blob = tx.execute(select(_table.c.blob).where(_table.c.subscription_uid == a)).scalar_one()
    moved = update(_table).where(_table.c.subscription_uid == b).values(blob=blob)
    store.write("test.move", lambda tx: tx.execute(moved))
    assert refused(lambda: opened_afresh(books, b)).reason is Reason.TOKEN_POLICY_FORBIDS
    assert len(opened_afresh(books, a)) == 1


def fill_secrets(books: Books, count: int) -> dict[str, tuple[bytes, ...]]:
    """Makes subscriptions with two secrets each; returns these by uid, the newest first."""
    made: dict[str, tuple[bytes, ...]] = {}
    for number in range(count):
        first = key_of(books.make(f"s{number}").secret)
        rotated = books.subscriptions.rotate_secret(ADMINISTRATOR, name_of(f"s{number}"))
        made[books.row(f"s{number}").uid] = (key_of(rotated.secret), first)
    return made


def check(secrets: Callable[[str], tuple[bytes, ...]], made: dict[str, tuple[bytes, ...]]) -> None:
    assert {uid: secrets(uid) for uid in made} == made


def test_secrets_follow_a_rotation_and_are_counted(rotating: Books) -> None:
    fill(rotating.world, certificates=2, versions=2)
    made = fill_secrets(rotating, 3)
    rotate(rotating.world)
    old = retired(rotating.world)
    assert (old.reseal_count, old.resealed_count) == (10, 10)
    assert (left(rotating.world), left(rotating.world, SECOND)) == (0, 10)
    assert {number for _, number in rows(rotating)} == {2}
    check(rotating.secrets.of, made)
    check(books_of(rotating.world).secrets.of, made)
    message = destroy(rotating.world)
    assert "private keys and secrets of subscriptions" in message
    assert "one made right before the rotation 10 of them" in message
    as_time_goes_by(rotating.world, lambda: not jobs_of(rotating.world))
    check(books_of(rotating.world).secrets.of, made)


def test_a_wrapping_key_under_which_a_secret_is_sealed_is_not_destroyed(rotating: Books) -> None:
    fill_secrets(rotating, 1)
    rotate(rotating.world)
    retired(rotating.world)
    store = rotating.world.core.store
    store.write("test.bend", lambda tx: tx.execute(update(_table).values(wrapping_key_number=1)))
    error = refused(lambda: destroy(rotating.world))
    assert error.reason is Reason.STATE_FORBIDS
    assert "tenants/default/subscriptions/s0, secret 1 is sealed under it" in error.message


def test_one_that_does_not_open_keeps_the_old_key(rotating: Books) -> None:
    made = fill_secrets(rotating, 2)
    store, (bent, _) = rotating.world.core.store, made
    row = (_table.c.subscription_uid == bent, _table.c.number == 1)
    with store.read("test.blob") as tx:
        blob = tx.execute(select(_table.c.blob).where(*row)).scalar_one()
    store.write(
        "test.bend", lambda tx: tx.execute(update(_table).where(*row).values(blob=blob[:-1] + bytes([blob[-1] ^ 1])))
    )
    rotate(rotating.world)
    as_time_goes_by(rotating.world, lambda: rotating.world.steps.seen.count("rotation.2.resealed") >= 3)
    old = get(rotating.world)
    assert (old.state, old.reseal_count, old.resealed_count) == (WrappingKeyState.DECRYPT_ONLY, 4, 3)
    store.write("test.mend", lambda tx: tx.execute(update(_table).where(*row).values(blob=blob)))
    assert retired(rotating.world).resealed_count == 4
    check(books_of(rotating.world).secrets.of, made)


def test_no_death_at_any_step_leaves_a_secret_that_does_not_open(
    rotating: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are so small that secrets have several of their own; each step is the last of a process once."""
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 3)
    world = rotating.world
    fill(world, certificates=2)
    made = fill_secrets(rotating, 5)
    steps = ("rotation.1.rotated", "rotation.2.resealed", "rotation.3.written", "rotation.4.retired")

    def twice(step: str) -> Callable[[], None]:
        """Once among the keys, once among the secrets."""

        def die() -> None:
            if world.steps.seen.count(step) == 1:
                world.steps.at[step] = die
            crash()

        return die

    world.steps.at.update({step: twice(step) for step in steps[1:3]} | dict.fromkeys((steps[0], steps[3]), crash))
    with pytest.raises(CrashError):
        rotate(world)
    as_time_goes_by(world, lambda: get(world).state is WrappingKeyState.RETIRED and not jobs_of(world))
    # The last step comes behind the commit that is seen.
    eventually(lambda: not world.steps.at)
    assert get(world).resealed_count == 12
    assert (left(world), left(world, SECOND)) == (0, 12)
    check(books_of(world).secrets.of, made)
    check_everything_opens(world, certificates=2)
    assert told(world, EventType.WRAPPING_KEY_RETIRED) == [str(FIRST)]


def test_secrets_that_are_rotated_while_the_wrapping_key_is_open_all_the_same(rotating: Books) -> None:
    made = fill_secrets(rotating, 4)
    world, ended = rotating.world, threading.Event()
    newest: dict[str, bytes] = {}

    def again_and_again() -> None:
        number = 0
        while not ended.is_set() or number < 4:
            name = name_of(f"s{number % 4}")
            text = rotating.subscriptions.rotate_secret(ADMINISTRATOR, name).secret
            newest[rotating.row(name.subscription).uid] = key_of(text)
            number += 1

    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(again_and_again)
        try:
            for name in (FIRST, SECOND):
                rotate(world)
                retired(world, name)
        finally:
            ended.set()
        going_on.result(60)
    afresh = books_of(world).secrets
    assert {uid: afresh.of(uid)[0] for uid in made} == newest
    assert all(len(afresh.of(uid)) == 2 for uid in made)


def test_what_one_daemon_rotates_the_other_signs_with_at_once(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        for world in (first, second):
            send_nothing(world)
        ours, theirs = books_of(first), books_of(second)
        made = key_of(ours.make().secret)
        uid = ours.row().uid
        secrets = (ours.secrets, theirs.secrets)
        assert [each.of(uid) for each in secrets] == [(made,), (made,)]
        rotated = key_of(rotate_secret(theirs).secret)
        assert [each.of(uid) for each in secrets] == [(rotated, made)] * 2
        theirs.subscriptions.delete(ADMINISTRATOR, HOOK, etag="", key=None)
        assert [each.of(uid) for each in secrets] == [()] * 2
