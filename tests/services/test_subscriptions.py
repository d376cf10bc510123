"""Subscriptions are made and changed by those who may read what they send; their secrets are told once."""

import base64
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.delivery import Delivery, DeliveryState
from certd.model.event import EventType
from certd.model.names import TenantName
from certd.model.subscription import MOST_OF_A_TENANT, NOTICES, MailTarget, SubscriptionState, WebhookTarget
from certd.services import subscriptions as services
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.services.subscription_plan import CHANGEABLE, OF_BOTH, OF_WEBHOOKS, WHO_READS_WHAT
from certd.store import deliveries, events, subscriptions
from certd.store.store import Transaction
from certd.token.settings import TokenSettings
from tests.postgres import PostgresServer, postgres_server
from tests.services.conftest import ADMINISTRATOR, STRANGER
from tests.services.subscription_books import (
    DEFAULT,
    HOOK,
    MAIL,
    URL,
    Books,
    books_of,
    cleared,
    name_of,
    refused,
    running_books,
)
from tests.softhsm import make_token
from tests.waiting import eventually

__all__ = ["postgres_server"]


@pytest.fixture(scope="module")
def shared_token(tmp_path_factory: pytest.TempPathFactory) -> TokenSettings:
    return make_token(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, shared_token: TokenSettings) -> Iterator[Books]:
    with running_books(tmp_path_factory.mktemp("sqlite"), shared_token) as running:
        yield running


@pytest.fixture(scope="module")
def on_postgresql(
    tmp_path_factory: pytest.TempPathFactory, shared_token: TokenSettings, postgres_server: PostgresServer
) -> Iterator[Books]:
    url = postgres_server.create_database()
    folder = tmp_path_factory.mktemp("postgresql")
    psycopg_url = url.replace("postgresql://", "postgresql+psycopg://")
    with running_books(folder, shared_token, database_url=psycopg_url) as running:
        yield running
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest) -> Books:
    return cleared(request.getfixturevalue(f"on_{request.param}"))


@pytest.fixture
def light(on_sqlite: Books) -> Books:
    """On SQLite alone, where the engine makes no difference."""
    return cleared(on_sqlite)


def test_one_is_made_with_a_secret_that_is_told_once(books: Books) -> None:
    made = books.make(display_name="On call", resource="tenants/default/managedCertificates")
    assert made.secret.startswith("whsec_")
    secret = base64.b64decode(made.secret.removeprefix("whsec_"), validate=True)
    assert len(secret) == 32
    one = made.view.subscription
    assert books.secrets.of(one.uid) == (secret,)
    # Another daemon has it from the books.
    assert books_of(books.world).secrets.of(one.uid) == (secret,)
    assert books.get() == made.view
    assert (one.event_types, one.state, one.creator) == (("*",), SubscriptionState.ENABLED, ADMINISTRATOR.principal)
    assert books.jobs() == [one.uid]
    assert made.secret not in repr(made)

    eventually(lambda: books.told(EventType.SUBSCRIPTION_CREATED))
    (event,) = books.told(EventType.SUBSCRIPTION_CREATED)
    assert (event.tenant, event.resource, event.principal) == (
        "default",
        "tenants/default/subscriptions/hook",
        ADMINISTRATOR.principal,
    )
    assert event.details["target"] == "https://hooks.example.com:8443"
    assert one.fits(event) is False  # It is not below the resource.
    # What happens from now on begins with its own creation.
    with books.world.core.store.read("test.events") as tx:
        behind = events.page(tx, after_seq=one.delivered_seq, limit=10)
    assert EventType.SUBSCRIPTION_CREATED in {each.event.type for each in behind}


def test_mail_has_no_secret_and_tells_people_what_needs_them(books: Books) -> None:
    made = books.make("mail", target=MAIL)
    assert made.secret == ""
    assert made.view.subscription.event_types == NOTICES
    assert books.secrets.of(made.view.subscription.uid) == ()
    error = refused(lambda: books.subscriptions.rotate_secret(ADMINISTRATOR, name_of("mail")))
    assert error.reason is Reason.STATE_FORBIDS
    assert "no secret" in error.message


def test_no_mail_where_no_mail_server_is(light: Books) -> None:
    light.make("mail", target=MAIL)
    without = books_of(light.world, sends_mail=False)
    error = refused(lambda: without.make("more", target=MAIL))
    assert error.reason is Reason.STATE_FORBIDS
    assert "[notify.smtp]" in error.message
    more = MailTarget(recipients=("other@example.com",))
    for validate_only in (True, False):
        error = refused(
            partial(
                without.change,
                "mail",
                fields=frozenset({"mail.recipients"}),
                recipients=more.recipients,
                validate_only=validate_only,
            )
        )
        assert error.reason is Reason.STATE_FORBIDS
    without.change("mail", fields=frozenset({"display_name"}), display_name="Still there")


def test_validate_only_checks_everything_and_makes_nothing(books: Books) -> None:
    made = books.make(validate_only=True)
    assert made.secret == ""
    assert made.view.subscription.target == HOOK
    assert refused(books.get).reason is Reason.SUBSCRIPTION_NOT_FOUND
    assert books.events() == []
    assert books.jobs() == []
    books.target.forbidden.add(URL)
    assert refused(lambda: books.make(validate_only=True)).reason is Reason.TARGET_NOT_ALLOWED
    books.target.forbidden.clear()
    books.make()
    assert refused(lambda: books.make(validate_only=True)).reason is Reason.SUBSCRIPTION_EXISTS


def test_an_id_that_is_taken_answers_so_and_never_with_a_secret(books: Books) -> None:
    first = books.make()
    error = refused(books.make)
    assert error.reason is Reason.SUBSCRIPTION_EXISTS
    assert error.resource == "tenants/default/subscriptions/hook"
    assert "RotateSubscriptionSecret" in error.message
    assert "whsec_" not in error.message
    assert books.get() == first.view


def test_two_at_once_make_one(books: Books) -> None:
    def attempt(_number: int) -> str:
        try:
            return books.make().secret
        except Exception as error:  # noqa: BLE001  # Of whichever kind, looked at below.
            return str(getattr(error, "reason", error))

    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(attempt, range(4)))
    assert found[:3] == ["SUBSCRIPTION_EXISTS"] * 3
    assert books.secrets.of(books.row().uid) == (base64.b64decode(found[3].removeprefix("whsec_")),)


def test_a_tenant_has_a_hundred_at_most(light: Books) -> None:
    first = light.make("s0", target=MAIL).view.subscription

    def fill(tx: Transaction) -> None:
        for number in range(1, MOST_OF_A_TENANT):
            subscriptions.insert(tx, replace(first, subscription_id=f"s{number}", uid=f"uid-{number}"))

    light.world.core.store.write("test.fill", fill)
    for validate_only in (True, False):
        error = refused(partial(light.make, "more", validate_only=validate_only))
        assert error.reason is Reason.QUOTA_EXCEEDED
        assert error.metadata == {"limit": "100", "quota": "subscriptions"}
    light.subscriptions.delete(ADMINISTRATOR, name_of("s7"), etag="", key=None)
    light.make("more")


def test_one_begins_after_the_event_that_is_named(light: Books) -> None:
    assert light.make("early", after_seq=3).view.subscription.delivered_seq == 3
    newest = light.make("now").view.subscription.delivered_seq
    error = refused(lambda: light.make("late", after_seq=newest + 5))
    assert [violation.field for violation in error.violations] == ["after_seq"]
    assert light.told(EventType.SUBSCRIPTION_CREATED)[0].details["after_seq"] == "3"


def test_it_takes_two_permissions_to_have_events_sent(light: Books) -> None:
    """Neither who may write subscriptions alone, nor who may read events alone."""
    for caller, permission in ((light.writer, "event.read"), (light.auditor, "subscription.write")):
        for validate_only in (True, False):
            error = refused(partial(light.make, caller=caller, validate_only=validate_only))
            assert error.reason is Reason.PERMISSION_MISSING
            assert error.metadata["permission"] == permission
    both = light.make().view.subscription
    wanted: dict[str, Any] = {"url": "https://evil.example/", "event_types": ("*",)}
    for field in sorted(WHO_READS_WHAT):
        error = refused(partial(light.change, caller=light.writer, fields=frozenset({field}), **wanted))
        assert (error.reason, error.metadata["permission"]) == (Reason.PERMISSION_MISSING, "event.read")
    harmless = CHANGEABLE - WHO_READS_WHAT
    view = light.change(
        caller=light.writer, fields=harmless, state=SubscriptionState.DISABLED, display_name="Off for now"
    )
    assert view.subscription.state is SubscriptionState.DISABLED
    assert view.subscription.target == both.target
    error = refused(lambda: light.failed.page(light.writer, name_of("hook"), PageRequest(10, "")))
    assert error.metadata["permission"] == "event.read"
    assert light.failed.page(light.auditor, name_of("hook"), PageRequest(10, "")).items == ()


def test_strangers_learn_nothing(light: Books) -> None:
    light.make()
    key = None
    one = light.subscriptions
    for name in (name_of("hook"), name_of("none"), name_of("hook", "nowhere")):
        parent = TenantName(name.tenant)
        calls = {
            "subscription.read": (
                lambda name=name: one.get(STRANGER, name),
                lambda parent=parent: one.page(STRANGER, parent, PageRequest(1, "")),
                lambda name=name: light.failed.page(STRANGER, name, PageRequest(1, "")),
            ),
            "subscription.write": (
                lambda name=name: one.delete(STRANGER, name, etag="", key=key),
                lambda name=name: one.rotate_secret(STRANGER, name),
                lambda name=name: one.test(STRANGER, name),
                lambda name=name: light.failed.retry(STRANGER, name, ()),
            ),
        }
        for permission, several in calls.items():
            for call in several:
                error = refused(call)
                assert error.reason is Reason.PERMISSION_MISSING
                assert error.metadata["permission"] == permission
    assert light.target.tested == []


def test_what_is_not_there_is_not_found(light: Books) -> None:
    absent, one = name_of("none"), light.subscriptions
    for call in (
        lambda: one.get(ADMINISTRATOR, absent),
        lambda: light.change("none", fields=frozenset({"display_name"})),
        lambda: one.delete(ADMINISTRATOR, absent, etag="", key=None),
        lambda: one.rotate_secret(ADMINISTRATOR, absent),
        lambda: one.test(ADMINISTRATOR, absent),
        lambda: light.failed.page(ADMINISTRATOR, absent, PageRequest(1, "")),
        lambda: light.failed.retry(ADMINISTRATOR, absent, ()),
    ):
        error = refused(call)
        assert (error.reason, error.resource) == (Reason.SUBSCRIPTION_NOT_FOUND, str(absent))
    nowhere = TenantName("nowhere")
    assert refused(lambda: one.page(ADMINISTRATOR, nowhere, PageRequest(1, ""))).reason is Reason.TENANT_NOT_FOUND
    error = refused(lambda: light.make(name=name_of("hook", "nowhere")))
    assert error.reason is Reason.TENANT_NOT_FOUND


def test_pages_follow_one_another(books: Books) -> None:
    for id_ in ("c", "a", "b"):
        books.make(id_, target=MAIL)
    page = books.subscriptions.page(ADMINISTRATOR, DEFAULT, PageRequest(2, ""))
    rest = books.subscriptions.page(ADMINISTRATOR, DEFAULT, PageRequest(2, page.next_page_token))
    assert [view.subscription.subscription_id for view in (*page.items, *rest.items)] == ["a", "b", "c"]
    assert (bool(page.next_page_token), rest.next_page_token) == (True, "")


def test_a_change_is_one_of_what_is_named_and_is_told_without_the_query(books: Books) -> None:
    made = books.make(event_types=("certificate.*",), display_name="Before").view.subscription
    url = "https://hooks.example.com:8443/certd?token=an0ther"
    view = books.change(fields=frozenset({"webhook.url", "display_name"}), url=url, resource="ignored")
    changed = view.subscription
    assert changed == replace(
        made,
        target=WebhookTarget(url=url),
        display_name="",
        revision=2,
        update_time=changed.update_time,
    )
    assert changed.etag != made.etag
    assert books.get() == view
    eventually(lambda: books.told(EventType.SUBSCRIPTION_UPDATED))
    (event,) = books.told(EventType.SUBSCRIPTION_UPDATED)
    assert event.details == {"target": "https://hooks.example.com:8443", "display_name": ""}
    assert not any("t0ken" in str(event) or "an0ther" in str(event) for event in books.events())
    # The default of its kind stands for nothing.
    assert books.change(fields=frozenset({"event_types"})).subscription.event_types == ("*",)


def test_what_changes_nothing_leaves_the_revision(light: Books) -> None:
    made = light.make().view
    before = light.events()
    assert light.change(fields=OF_WEBHOOKS | OF_BOTH, url=URL, event_types=("*",)) == made
    assert light.events() == before


def test_a_change_wants_the_etag_that_was_read_and_the_kind_that_it_has(books: Books) -> None:
    made = books.make().view.subscription
    books.change(fields=frozenset({"display_name"}), display_name="Meanwhile", etag=made.etag)
    for validate_only in (True, False):
        error = refused(
            partial(books.change, fields=frozenset({"display_name"}), etag=made.etag, validate_only=validate_only)
        )
        assert error.reason is Reason.ETAG_MISMATCH
        assert error.metadata["etag"] == books.row().etag
    error = refused(lambda: books.change(fields=frozenset({"mail.recipients"}), recipients=MAIL.recipients))
    assert [violation.field for violation in error.violations] == ["subscription.mail.recipients"]
    books.make("mail", target=MAIL)
    error = refused(lambda: books.change("mail", fields=frozenset({"webhook.url"}), url=URL))
    assert [violation.field for violation in error.violations] == ["subscription.webhook.url"]


def test_a_change_that_is_repeated_is_made_once(books: Books) -> None:
    books.make()
    key = RequestKey(str(uuid.uuid4()), b"a")
    first = books.change(fields=frozenset({"display_name"}), display_name="Once", key=key)
    books.change(fields=frozenset({"display_name"}), display_name="Twice")
    again = books.change(fields=frozenset({"display_name"}), display_name="Once", key=key)
    assert (first.subscription.revision, again.subscription.revision) == (2, 3)
    assert again.subscription.display_name == "Twice"
    other = RequestKey(key.request_id, b"b")
    error = refused(lambda: books.change(fields=frozenset({"display_name"}), key=other))
    assert error.reason is Reason.REQUEST_ID_REUSED


def test_validate_only_shows_a_change_and_makes_none(light: Books) -> None:
    made = light.make().view
    shown = light.change(fields=frozenset({"display_name"}), display_name="New", validate_only=True)
    assert (shown.subscription.display_name, shown.subscription.revision) == ("New", 2)
    assert light.get() == made
    light.target.forbidden.add("https://127.0.0.1/")
    for validate_only in (True, False):
        error = refused(
            partial(
                light.change,
                fields=frozenset({"webhook.url"}),
                url="https://127.0.0.1/",
                validate_only=validate_only,
            )
        )
        assert error.reason is Reason.TARGET_NOT_ALLOWED
    assert light.get() == made


def test_a_new_target_and_one_that_is_enabled_again_is_tried_at_once(books: Books) -> None:
    made = books.make(state=SubscriptionState.DISABLED).view.subscription
    assert books.jobs() == []
    now = books.world.clock.now()
    failing = replace(made, attempts=4, last_error="refused", next_attempt_time=now, delivered_seq=5)
    store = books.world.core.store
    store.write("test.fail", lambda tx: subscriptions.set_progress(tx, failing))
    kept = books.change(fields=frozenset({"display_name"}), display_name="Other").subscription
    assert (kept.attempts, kept.last_error, kept.delivered_seq) == (4, "refused", 5)
    enabled = books.change(fields=frozenset({"state"})).subscription
    assert (enabled.attempts, enabled.last_error, enabled.next_attempt_time) == (0, "", None)
    assert books.get().subscription == enabled
    assert enabled.delivered_seq == 5
    assert books.jobs() == [made.uid]
    store.write("test.fail", lambda tx: subscriptions.set_progress(tx, failing))
    moved = books.change(fields=frozenset({"webhook.url"}), url="https://new.example/").subscription
    assert (moved.attempts, moved.last_error) == (0, "")


def test_one_is_deleted_with_all_that_belongs_to_it(books: Books) -> None:
    made = books.make().view.subscription
    store = books.world.core.store
    waiting = Delivery(subscription_uid=made.uid, seq=3, resource="r", due_time=books.world.clock.now())
    store.write("test.put", lambda tx: deliveries.put(tx, waiting))
    assert books.secrets.of(made.uid)
    error = refused(lambda: books.subscriptions.delete(ADMINISTRATOR, name_of("hook"), etag="other", key=None))
    assert error.reason is Reason.ETAG_MISMATCH
    key = RequestKey(str(uuid.uuid4()), b"a")
    books.subscriptions.delete(ADMINISTRATOR, name_of("hook"), etag=made.etag, key=key)
    books.subscriptions.delete(ADMINISTRATOR, name_of("hook"), etag=made.etag, key=key)
    assert refused(books.get).reason is Reason.SUBSCRIPTION_NOT_FOUND
    assert books.secrets.of(made.uid) == ()
    assert books.jobs() == []
    eventually(lambda: books.told(EventType.SUBSCRIPTION_DELETED))
    assert [event.resource for event in books.told(EventType.SUBSCRIPTION_DELETED)] == [str(made.name)]
    # One of the same name is another one.
    again = books.make().view.subscription
    assert again.uid != made.uid
    assert refused(lambda: books.change(fields=frozenset({"state"}), etag=made.etag)).reason is Reason.ETAG_MISMATCH


def test_one_that_is_deleted_while_its_secret_is_replaced_is_gone_with_it(books: Books) -> None:
    """Whoever comes first; the other is told, and nobody of a defect."""
    told: set[str] = set()

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except CertdError as error:
            told.add(error.reason)

    for _ in range(5):
        uid = books.make().view.subscription.uid
        with ThreadPoolExecutor(3) as pool:
            calls = [partial(books.subscriptions.rotate_secret, ADMINISTRATOR, name_of("hook"))] * 2
            list(
                pool.map(
                    attempt,
                    [*calls, partial(books.subscriptions.delete, ADMINISTRATOR, name_of("hook"), etag="", key=None)],
                )
            )
        assert refused(books.get).reason is Reason.SUBSCRIPTION_NOT_FOUND
        assert books.secrets.of(uid) == ()
    assert told <= {Reason.SUBSCRIPTION_NOT_FOUND, Reason.TOKEN_UNAVAILABLE}


def test_tests_are_told_how_they_went_and_are_few(light: Books) -> None:
    light.make()
    light.make("mail", target=MAIL)
    light.target.answer = "the target does not answer in time"
    test = light.subscriptions.test
    assert test(ADMINISTRATOR, name_of("hook")) == "the target does not answer in time"
    light.target.answer = ""
    assert {test(ADMINISTRATOR, name_of("mail")) for _ in range(services.TESTS_PER_MINUTE - 1)} == {""}
    error = refused(lambda: test(ADMINISTRATOR, name_of("hook")))
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after is not None
    assert error.resource == "tenants/default"
    assert len(light.target.tested) == services.TESTS_PER_MINUTE


def test_targets_that_think_hold_few_threads(light: Books) -> None:
    light.make()
    light.target.hold = threading.Event()
    try:
        with ThreadPoolExecutor(services.TESTS_AT_ONCE) as pool:
            running = [
                pool.submit(light.subscriptions.test, ADMINISTRATOR, name_of("hook"))
                for _ in range(services.TESTS_AT_ONCE)
            ]
            eventually(lambda: len(light.target.tested) == services.TESTS_AT_ONCE)
            error = refused(lambda: light.subscriptions.test(ADMINISTRATOR, name_of("hook")))
            assert error.reason is Reason.RATE_LIMITED
            light.target.hold.set()
            assert {one.result(20) for one in running} == {""}
    finally:
        light.target.hold.set()
    assert light.subscriptions.test(ADMINISTRATOR, name_of("hook")) == ""


def test_failed_deliveries_are_read_with_their_events_and_tried_anew(books: Books) -> None:
    made = books.make(state=SubscriptionState.DISABLED).view.subscription
    now, store = books.world.clock.now(), books.world.core.store

    def fail(tx: Transaction) -> None:
        for seq in (2, 5, 9):
            deliveries.put(
                tx,
                Delivery(
                    subscription_uid=made.uid,
                    seq=seq,
                    resource="r",
                    state=DeliveryState.FAILED,
                    attempts=12,
                    error="410",
                    due_time=None,
                    fail_time=now,
                ),
            )

    store.write("test.fail", fail)
    assert books.get().failed_delivery_count == 3
    page = books.failed.page(ADMINISTRATOR, name_of("hook"), PageRequest(2, ""))
    rest = books.failed.page(ADMINISTRATOR, name_of("hook"), PageRequest(2, page.next_page_token))
    found = [*page.items, *rest.items]
    assert [(one.event.seq, one.delivery.error) for one in found] == [(2, "410"), (5, "410"), (9, "410")]
    assert rest.next_page_token == ""
    with store.read("test.event") as tx:
        assert found[1].event == events.page(tx, after_seq=4, limit=1)[0]
    assert books.failed.retry(ADMINISTRATOR, name_of("hook"), (5, 5, 77)) == 1
    assert books.jobs() == [made.uid]
    assert books.failed.retry(ADMINISTRATOR, name_of("hook"), ()) == 2
    assert books.failed.retry(ADMINISTRATOR, name_of("hook"), ()) == 0
    assert books.get().failed_delivery_count == 0
    eventually(lambda: len(books.told(EventType.SUBSCRIPTION_UPDATED)) == 2)
    counts = [event.details["retried_count"] for event in books.told(EventType.SUBSCRIPTION_UPDATED)]
    assert counts == ["1", "2"]
