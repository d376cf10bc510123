"""Subscriptions: who is told of a tenant's events. What is sent, and how far it came, is `deliveries`'.

Whoever makes one reads by it what they have sent to themselves, so that needs the permission to read events as well.
"""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.names import SubscriptionName, TenantName
from certd.model.subscription import (
    MOST_OF_A_TENANT,
    MailTarget,
    Subscription,
    SubscriptionState,
    Target,
    WebhookTarget,
    default_event_types,
)
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey
from certd.services.access import Access
from certd.services.idempotency import RequestKey, is_repeated
from certd.services.issuing_refusals import token_unavailable
from certd.services.paging import Page, PageRequest, page_of
from certd.services.rates import Rates
from certd.services.subscription_plan import (
    WHO_READS_WHAT,
    NewSubscription,
    SubscriptionChange,
    SubscriptionView,
    differences,
    etag_mismatch,
    event_of,
    exists,
    told,
)
from certd.services.subscription_secrets import OVERLAP, NewSecret, SubscriptionSecrets, keep
from certd.services.tenants import existing_tenant
from certd.store import deliveries, events, jobs, subscription_secrets, subscriptions, wrapping_keys
from certd.store.store import Store, Transaction

_UPDATE, _DELETE = "UpdateSubscription", "DeleteSubscription"
_TRIES: Final = 3
"""Rotations, of the wrapping key or of the secret, that one call sees through."""
TESTS_PER_MINUTE: Final = 10
"""Of a tenant: each dials where a caller says."""
TESTS_AT_ONCE: Final = 4
"""Of all callers, for each of them holds a thread while the target thinks."""


class Webhooks(Protocol):
    """Knows where webhooks may be posted to."""

    def check(self, url: str) -> None:
        """Raises TARGET_NOT_ALLOWED for a URL whose host is none of these."""


class Tester(Protocol):
    """Sends tests."""

    def test(self, subscription: Subscription, now: datetime) -> str:
        """Sends one now; returns why the target did not take it, empty when it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSubscription:
    """A subscription with its secret, which nobody can read again."""

    view: SubscriptionView
    secret: str = field(default="", repr=False)
    """Empty for mail, and when nothing was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedSecret:
    """A new secret, which nobody can read again."""

    secret: str = field(repr=False)
    old_expire_time: datetime
    """Until when the one before it signs too."""


@dataclass(frozen=True, slots=True)
class _Room:
    """What the books say before something is made or sealed."""

    owner: Tenant
    wrapping_key: WrappingKey | None
    newest_seq: int


class Subscriptions:
    """The use cases of subscriptions."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        secrets: SubscriptionSecrets,
        webhooks: Webhooks,
        tester: Tester,
        sends_mail: bool,
        wake_scheduler: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._secrets = secrets
        self._webhooks = webhooks
        self._tester = tester
        self._sends_mail = sends_mail
        self._wake_scheduler = wake_scheduler
        self._tests = Rates(calls_per_second=TESTS_PER_MINUTE / 60, burst=TESTS_PER_MINUTE)
        self._testing = threading.BoundedSemaphore(TESTS_AT_ONCE)

    def create(self, caller: Caller, new: NewSubscription, *, validate_only: bool) -> MadeSubscription:
        """Makes a subscription; that of a webhook with a secret, which is told this once.

        Raises TENANT_NOT_FOUND, SUBSCRIPTION_EXISTS, QUOTA_EXCEEDED, TARGET_NOT_ALLOWED, TOKEN_UNAVAILABLE,
        FIELD_INVALID, and STATE_FORBIDS for mail where no mail server is configured.
        """
        parent = str(TenantName(new.name.tenant))
        self._access.require(caller, Permission.SUBSCRIPTION_WRITE, parent)
        self._access.require(caller, Permission.EVENT_READ, parent)
        now = self._clock.now()
        with self._store.read("subscriptions.create") as tx:
            room = _room_for(tx, new)
        self._check_target(new.name, new.target)
        made = Subscription(
            tenant=new.name.tenant,
            subscription_id=new.name.subscription,
            uid=uuid.uuid4().hex,
            target=new.target,
            event_types=new.event_types or default_event_types(new.target),
            resource=new.resource,
            state=new.state,
            delivered_seq=new.after_seq or room.newest_seq,
            display_name=new.display_name,
            creator=caller.principal,
            create_time=now,
            update_time=now,
        )
        if validate_only:
            return MadeSubscription(view=SubscriptionView(subscription=made))
        for _ in range(_TRIES):
            secret = None
            if isinstance(made.target, WebhookTarget):
                secret = self._secrets.seal_new(room.owner, made.uid, number=1, known=room.wrapping_key)
            kept = self._store.write(
                "subscriptions.create", partial(_create, new=new, made=made, secret=secret, now=now)
            )
            if kept is not None:
                self._wake_scheduler()
                told_once = "" if secret is None else secret.text
                return MadeSubscription(view=SubscriptionView(subscription=kept), secret=told_once)
            with self._store.read("subscriptions.create-again") as tx:
                room = _room_for(tx, new)
        raise token_unavailable("the wrapping key was rotated while a secret was sealed under it")

    def get(self, caller: Caller, name: SubscriptionName) -> SubscriptionView:
        """Returns a subscription; raises SUBSCRIPTION_NOT_FOUND."""
        self._access.require(caller, Permission.SUBSCRIPTION_READ, str(name))
        with self._store.read("subscriptions.get") as tx:
            return _view(tx, existing_subscription(tx, name))

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[SubscriptionView]:
        """Returns a page of a tenant's subscriptions, by name. Raises TENANT_NOT_FOUND."""
        self._access.require(caller, Permission.SUBSCRIPTION_READ, f"{parent}/subscriptions")
        query = f"subscriptions {parent}"
        after = request.after(query)
        with self._store.read("subscriptions.page") as tx:
            existing_tenant(tx, parent.tenant)
            rows = subscriptions.page(tx, parent.tenant, after=after[0] if after else None, limit=request.size + 1)
            views = [_view(tx, one) for one in rows]
        return page_of(views, request, query, key=lambda view: [view.subscription.subscription_id])

    def update(
        self, caller: Caller, change: SubscriptionChange, *, key: RequestKey | None, validate_only: bool
    ) -> SubscriptionView:
        """Changes a subscription; when nothing is changed, it stays at its revision.

        Where events go, and which, is for those alone who may read them. A target that is new, or is to be sent to
        again, is tried at once. Raises SUBSCRIPTION_NOT_FOUND, ETAG_MISMATCH, FIELD_INVALID, TARGET_NOT_ALLOWED,
        STATE_FORBIDS, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.SUBSCRIPTION_WRITE, str(change.name))
        if change.fields & WHO_READS_WHAT:
            self._access.require(caller, Permission.EVENT_READ, str(TenantName(change.name.tenant)))
        now = self._clock.now()
        with self._store.read("subscriptions.update") as tx:
            view = _view(tx, existing_subscription(tx, change.name))
        found = view.subscription
        planned = change.applied(found)
        if planned.target != found.target:
            self._check_target(change.name, planned.target)
        if validate_only:
            if change.etag not in {"", found.etag}:
                raise etag_mismatch(found)
            if planned == found:
                return view
            return replace(view, subscription=replace(planned, update_time=now, revision=found.revision + 1))
        changed = self._store.write("subscriptions.update", lambda tx: _update(tx, caller, change, key=key, now=now))
        self._wake_scheduler()
        return changed

    def delete(self, caller: Caller, name: SubscriptionName, *, etag: str, key: RequestKey | None) -> None:
        """Deletes a subscription with what was not delivered. Raises SUBSCRIPTION_NOT_FOUND, ETAG_MISMATCH."""
        self._access.require(caller, Permission.SUBSCRIPTION_WRITE, str(name))
        now = self._clock.now()
        uid = self._store.write("subscriptions.delete", lambda tx: _delete(tx, caller, name, etag, key=key, now=now))
        if uid:
            self._secrets.forget(uid)

    def rotate_secret(self, caller: Caller, name: SubscriptionName) -> RotatedSecret:
        """Replaces the secret of a webhook. The one before signs beside it for a day; one before that ends now.

        Raises SUBSCRIPTION_NOT_FOUND, TOKEN_UNAVAILABLE, and STATE_FORBIDS for mail, which has no secret.
        """
        self._access.require(caller, Permission.SUBSCRIPTION_WRITE, str(name))
        now = self._clock.now()
        for _ in range(_TRIES):
            with self._store.read("subscriptions.rotatable") as tx:
                found = _existing_webhook(tx, name)
                owner = existing_tenant(tx, name.tenant)
                number = subscription_secrets.newest_number(tx, found.uid) + 1
                primary = wrapping_keys.primary(tx, name.tenant)
            new = self._secrets.seal_new(owner, found.uid, number=number, known=primary)
            rotated = self._store.write(
                "subscriptions.rotate-secret", partial(_rotate, caller=caller, name=name, new=new, now=now)
            )
            if rotated:
                return RotatedSecret(secret=new.text, old_expire_time=now + OVERLAP)
        raise token_unavailable(f"the wrapping key or the secret of {name} was rotated by another at the same moment")

    def test(self, caller: Caller, name: SubscriptionName) -> str:
        """Sends a test; returns why the target did not take it, empty when it did.

        Raises SUBSCRIPTION_NOT_FOUND, RATE_LIMITED.
        """
        self._access.require(caller, Permission.SUBSCRIPTION_WRITE, str(name))
        now = self._clock.now()
        with self._store.read("subscriptions.test") as tx:
            found = existing_subscription(tx, name)
        self._take_test(name)
        if not self._testing.acquire(blocking=False):
            raise CertdError(
                Reason.RATE_LIMITED,
                f"{TESTS_AT_ONCE} tests of subscriptions wait for their targets already; try again in a moment",
                retry_after=1.0,
                resource=str(name),
            )
        try:
            return self._tester.test(found, now)
        finally:
            self._testing.release()

    def _take_test(self, name: SubscriptionName) -> None:
        parent = str(TenantName(name.tenant))
        try:
            self._tests.take(parent)
        except CertdError as error:
            raise CertdError(
                Reason.RATE_LIMITED,
                f"{parent} has had {TESTS_PER_MINUTE} subscriptions tested in a minute, as many as it may; try again"
                " later",
                retry_after=error.retry_after,
                resource=parent,
            ) from None

    def _check_target(self, name: SubscriptionName, target: Target) -> None:
        match target:
            case WebhookTarget():
                self._webhooks.check(target.url)
            case MailTarget():
                if not self._sends_mail:
                    raise CertdError(
                        Reason.STATE_FORBIDS,
                        f"{name} cannot send mail: this server has no mail server. Have its operator set [notify.smtp]"
                        " in certd.toml, or use a webhook",
                        resource=str(name),
                    )


def existing_subscription(tx: Transaction, name: SubscriptionName) -> Subscription:
    """Returns a subscription; raises SUBSCRIPTION_NOT_FOUND."""
    found = subscriptions.get(tx, name)
    if found is None:
        raise CertdError(Reason.SUBSCRIPTION_NOT_FOUND, f"{name} does not exist", resource=str(name))
    return found


def _view(tx: Transaction, found: Subscription) -> SubscriptionView:
    return SubscriptionView(subscription=found, failed_delivery_count=deliveries.count_failed(tx, found.uid))


def _existing_webhook(tx: Transaction, name: SubscriptionName) -> Subscription:
    found = existing_subscription(tx, name)
    if not isinstance(found.target, WebhookTarget):
        raise CertdError(
            Reason.STATE_FORBIDS, f"{name} sends mail, which is not signed: it has no secret", resource=str(name)
        )
    return found


def _room_for(tx: Transaction, new: NewSubscription) -> _Room:
    """Returns what is needed to make a subscription; raises why it cannot be made."""
    name = new.name
    owner = existing_tenant(tx, name.tenant)
    if subscriptions.get(tx, name) is not None:
        raise exists(name)
    if subscriptions.has_as_many(tx, name.tenant, MOST_OF_A_TENANT):
        raise CertdError(
            Reason.QUOTA_EXCEEDED,
            f"{owner.name} has {MOST_OF_A_TENANT} subscriptions, as many as it may have; delete one that is not used",
            metadata={"limit": str(MOST_OF_A_TENANT), "quota": "subscriptions"},
            resource=owner.name,
        )
    newest_seq = events.head(tx).seq
    if new.after_seq > newest_seq:
        raise field_invalid("after_seq", f"must be the number of an event, and the newest is {newest_seq}")
    return _Room(owner, wrapping_keys.primary(tx, name.tenant), newest_seq)


def _create(
    tx: Transaction, new: NewSubscription, made: Subscription, secret: NewSecret | None, now: datetime
) -> Subscription | None:
    """Writes a subscription; returns None, with nothing written, when its secret must be sealed again."""
    room = _room_for(tx, new)
    if secret is not None and not wrapping_keys.seals(tx, made.tenant, secret.wrapping_key.number):
        return None
    kept = replace(made, delivered_seq=new.after_seq or room.newest_seq)
    if not subscriptions.insert(tx, kept):
        raise exists(new.name)
    if secret is not None:
        keep(tx, secret)
    details = told(kept)
    if new.after_seq:
        details["after_seq"] = str(new.after_seq)
    tx.event(event_of(EventType.SUBSCRIPTION_CREATED, kept, kept.creator, now, details))
    _deliver(tx, kept, now)
    return kept


def _update(
    tx: Transaction, caller: Caller, change: SubscriptionChange, *, key: RequestKey | None, now: datetime
) -> SubscriptionView:
    if is_repeated(tx, caller, _UPDATE, key, resource=str(change.name), now=now):
        return _view(tx, existing_subscription(tx, change.name))
    found = existing_subscription(tx, change.name)
    if change.etag not in {"", found.etag}:
        raise etag_mismatch(found)
    planned = change.applied(found)
    if planned == found:
        return _view(tx, found)
    changed = subscriptions.update(tx, replace(planned, update_time=now), found.revision)
    if changed is None:
        raise etag_mismatch(found)
    if changed.target != found.target or changed.state is not found.state:
        # What went wrong with the target before says nothing of now.
        changed = replace(changed, attempts=0, last_error="", next_attempt_time=None)
        subscriptions.set_progress(tx, changed)
    tx.event(event_of(EventType.SUBSCRIPTION_UPDATED, changed, caller.principal, now, differences(found, changed)))
    _deliver(tx, changed, now)
    return _view(tx, changed)


def _delete(
    tx: Transaction, caller: Caller, name: SubscriptionName, etag: str, *, key: RequestKey | None, now: datetime
) -> str:
    """Returns the uid of what is gone; empty when it was before."""
    if is_repeated(tx, caller, _DELETE, key, resource=str(name), now=now):
        return ""
    found = existing_subscription(tx, name)
    if etag not in {"", found.etag}:
        raise etag_mismatch(found)
    subscriptions.delete(tx, found.uid)
    jobs.finish(tx, JobKind.DELIVER_EVENTS, found.uid)
    details = {"target": found.target.place, "delivered_seq": str(found.delivered_seq)}
    tx.event(event_of(EventType.SUBSCRIPTION_DELETED, found, caller.principal, now, details))
    return found.uid


def _rotate(tx: Transaction, caller: Caller, name: SubscriptionName, new: NewSecret, now: datetime) -> bool:
    """Writes a new secret; returns False, with nothing written, when it must be made again."""
    found = _existing_webhook(tx, name)
    old = new.number - 1
    if found.uid != new.subscription_uid or subscription_secrets.newest_number(tx, found.uid) != old:
        return False
    if not keep(tx, new):
        return False
    # It changed, and who deletes it at the same moment is told so.
    if subscriptions.update(tx, replace(found, update_time=now), found.revision) is None:
        raise etag_mismatch(found)
    ends = now + OVERLAP
    subscription_secrets.outdate(tx, found.uid, old, ends)
    details = {"number": str(new.number), "old_secret_expire_time": rfc3339(ends)}
    tx.event(event_of(EventType.SUBSCRIPTION_SECRET_ROTATED, found, caller.principal, now, details))
    return True


def _deliver(tx: Transaction, subscription: Subscription, now: datetime) -> None:
    """Has what waits be sent now."""
    if subscription.state is SubscriptionState.ENABLED:
        # Whoever delivers at the moment finds out at its end; two at once would not keep the order.
        jobs.hasten(tx, JobKind.DELIVER_EVENTS, subscription.uid, now)
