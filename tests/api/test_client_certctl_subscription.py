"""certctl subscription against a server of our own: what it asks and prints, and that a secret is shown once."""

import json
import stat
from pathlib import Path

import pytest

from certd.client.messages import timestamp
from certd.v1 import event_service_pb2
from certd.v1.event_pb2 import Event
from certd.v1.event_service_pb2 import (
    CreateSubscriptionResponse,
    DeleteSubscriptionResponse,
    ListFailedDeliveriesResponse,
    ListSubscriptionsResponse,
    RetryFailedDeliveriesResponse,
    RotateSubscriptionSecretResponse,
)
from certd.v1.subscription_pb2 import FailedDelivery, Mail, Subscription, Webhook
from tests.certctl import Certctl
from tests.fakes_server import FakeServer, Issued
from tests.store.samples import LATER, NOW

_Tested = event_service_pb2.TestSubscriptionResponse
NAME = "tenants/default/subscriptions/pager"
URL = "https://hooks.example.com/certd?token=t0ken"
SECRET = "whsec_c2VjcmV0"
HOOK = Subscription(
    name=NAME,
    webhook=Webhook(url=URL),
    event_types=["certificate.*", "grant.*", "tenant.*"],
    state=Subscription.ENABLED,
    delivered_seq=12,
    failed_delivery_count=3,
    last_error="the target answers 503",
    next_attempt_time=timestamp(LATER),
    create_time=timestamp(NOW),
    etag="e-1",
)
MAIL = Subscription(name=NAME, mail=Mail(recipients=["a@example.com", "b@example.com"]), state=Subscription.DISABLED)


def test_a_webhook_is_made_and_its_secret_shown_once(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateSubscription", CreateSubscriptionResponse(subscription=HOOK, secret=SECRET))
    ended = certctl(
        *("subscription", "create", "pager", "--url", URL, "--event-type", "certificate.*", "--event-type", "grant.*"),
        *("--resource", "managedCertificates/web", "--display-name", "Pager", "--after-seq", "7", "--disabled"),
    )
    assert ended.code == 0, ended.err
    assert f"Secret        {SECRET}\n" in ended.out
    assert f"Webhook       {URL}\n" in ended.out
    shown = json.loads(certctl("subscription", "create", "pager", "--url", URL, "-o", "json").out)
    assert (shown["secret"], shown["subscription"]["name"]) == (SECRET, NAME)
    first, second = fake.requests("CreateSubscription")
    assert (first.parent, first.subscription_id, first.after_seq) == ("tenants/default", "pager", 7)
    assert first.subscription == Subscription(
        webhook=Webhook(url=URL),
        event_types=["certificate.*", "grant.*"],
        resource="tenants/default/managedCertificates/web",
        state=Subscription.DISABLED,
        display_name="Pager",
    )
    assert second.subscription == Subscription(webhook=Webhook(url=URL), state=Subscription.ENABLED)


def test_a_secret_in_a_file_is_for_its_owner_and_not_shown(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, root: Issued
) -> None:
    fake.answer("CreateSubscription", CreateSubscriptionResponse(subscription=HOOK, secret=SECRET))
    fake.answer(
        "RotateSubscriptionSecret",
        RotateSubscriptionSecretResponse(secret=SECRET, old_secret_expire_time=timestamp(LATER)),
    )
    file, roots, url = tmp_path / "pager.secret", tmp_path / "root.pem", tmp_path / "url"
    roots.write_bytes(root.certificate_pem)
    url.write_text(f"{URL}\n")
    url.chmod(0o600)
    create = ("subscription", "create", "pager", "--url-file", url, "--trusted-roots", roots, "--secret-file", file)
    for command in (create, ("subscription", "rotate-secret", "pager", "--secret-file", file)):
        for form in ("table", "json"):
            ended = certctl(*command, "-o", form)
            assert ended.code == 0, ended.err
            assert SECRET not in ended.out + ended.err
            assert file.read_text() == f"{SECRET}\n"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            file.unlink()
    assert fake.requests("CreateSubscription")[0].subscription.webhook == Webhook(
        url=URL, trusted_roots=root.certificate_pem.decode()
    )
    # What could not be written is not asked for.
    asked = len(fake.requests("RotateSubscriptionSecret"))
    missing = tmp_path / "missing" / "secret"
    assert certctl("subscription", "rotate-secret", "pager", "--secret-file", missing).code == 1
    assert len(fake.requests("RotateSubscriptionSecret")) == asked
    shown = certctl("subscription", "rotate-secret", "pager").out
    assert shown.splitlines()[0] == f"Secret         {SECRET}"
    assert json.loads(certctl("subscription", "rotate-secret", "pager", "-o", "json").out)["secret"] == SECRET


def test_mail_is_made_without_a_secret(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateSubscription", CreateSubscriptionResponse(subscription=MAIL))
    ended = certctl(
        *("subscription", "create", "pager", "--mail", "a@example.com", "--mail", "b@example.com", "--validate-only")
    )
    assert ended.code == 0
    assert "Secret" not in ended.out
    assert "every check passed" in ended.err
    assert "Mail       a@example.com\n           b@example.com\n" in ended.out
    (request,) = fake.requests("CreateSubscription")
    assert request.validate_only
    assert list(request.subscription.mail.recipients) == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "pager"),
        ("create", "pager", "--url", URL, "--mail", "a@example.com"),
        ("create", "pager", "--url", URL, "--url-file", "-"),
        ("create", "pager", "--mail", "a@example.com", "--trusted-roots", "root.pem"),
        ("update", "pager"),
        ("update", "pager", "--etag", "e"),
        ("update", "pager", "--url", URL, "--mail", "a@example.com"),
        ("update", "pager", "--clear", "trusted_roots", "--mail", "a@example.com"),
        ("update", "pager", "--clear", "url"),
        ("retry", "pager", "0"),
        ("list", "-o", "pem", "--unknown"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...]) -> None:
    assert certctl("subscription", *arguments).code == 2
    assert not fake.calls


def test_they_are_listed_without_the_query_of_a_url_and_shown_whole(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "ListSubscriptions",
        ListSubscriptionsResponse(subscriptions=[HOOK], next_page_token="more"),
        ListSubscriptionsResponse(subscriptions=[MAIL]),
    )
    fake.answer("GetSubscription", HOOK)
    ended = certctl("subscription", "list")
    lines = ended.out.splitlines()
    assert lines[0].split()[:3] == ["SUBSCRIPTION", "STATE", "TARGET"]
    assert lines[1].split()[:7] == [
        "pager",
        "ENABLED",
        "https://hooks.example.com/certd",
        "certificate.*,",
        "grant.*,",
        "…",
        "12",
    ]
    assert "a@example.com, b@example.com" in lines[2]
    assert "t0ken" not in ended.out
    shown = certctl("subscription", "get", NAME).out
    assert f"Webhook       {URL}\n" in shown
    assert "Failed        3\n" in shown
    assert json.loads(certctl("subscription", "get", "pager", "-o", "json").out)["deliveredSeq"] == "12"
    assert [request.name for request in fake.requests("GetSubscription")] == [NAME, NAME]
    assert certctl("subscription", "list", "-o", "pem").code == 2


def test_what_flags_name_is_changed(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("UpdateSubscription", HOOK)
    update = ("subscription", "update", "pager")
    assert certctl(*update, "--url", URL, "--disable", "--etag", "e-1").code == 0
    assert certctl(*update, "--mail", "a@example.com", "--event-type", "*").code == 0
    assert certctl(*update, "--clear", "resource", "--clear", "event_types", "--enable", "--validate-only").code == 0
    assert certctl(*update, "--clear", "trusted_roots", "--display-name", "New").code == 0
    one, two, three, four = fake.requests("UpdateSubscription")
    assert list(one.update_mask.paths) == ["state", "webhook.url"]
    assert one.subscription == Subscription(
        name=NAME, webhook=Webhook(url=URL), state=Subscription.DISABLED, etag="e-1"
    )
    assert list(two.update_mask.paths) == ["event_types", "mail.recipients"]
    assert two.subscription.mail.recipients == ["a@example.com"]
    assert list(three.update_mask.paths) == ["event_types", "resource", "state"]
    assert (three.subscription.state, three.validate_only) == (Subscription.ENABLED, True)
    assert list(four.update_mask.paths) == ["display_name", "webhook.trusted_roots"]
    assert len({request.request_id for request in (one, two, three, four)}) == 4


def test_one_is_deleted(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteSubscription", DeleteSubscriptionResponse())
    request_id = "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11"
    ended = certctl("subscription", "delete", "pager", "--etag", "e-1", "--request-id", request_id)
    assert (ended.code, ended.err) == (0, f"certctl: {NAME} is deleted\n")
    (request,) = fake.requests("DeleteSubscription")
    assert (request.name, request.etag, request.request_id) == (NAME, "e-1", request_id)


def test_a_test_fails_as_its_target_does(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "TestSubscription",
        _Tested(delivered=True),
        _Tested(error="the target answers 503"),
        _Tested(error="the target answers 503"),
    )
    assert certctl("subscription", "test", "pager").code == 0
    ended = certctl("subscription", "test", "pager")
    assert ended.code == 1
    assert ended.err == f"certctl: the target of {NAME} did not take the test: the target answers 503\n"
    ended = certctl("subscription", "test", "pager", "-o", "json")
    assert (ended.code, json.loads(ended.out)) == (1, {"error": "the target answers 503"})


def test_failed_deliveries_are_listed_and_tried_anew(fake: FakeServer, certctl: Certctl) -> None:
    event = Event(name="events/7", seq=7, time=timestamp(NOW), type="certificate.issued", resource="tenants/default/x")
    failed = FailedDelivery(name=f"{NAME}/failedDeliveries/7", event=event, attempts=12, error="410")
    fake.answer("ListFailedDeliveries", ListFailedDeliveriesResponse(failed_deliveries=[failed]))
    fake.answer("RetryFailedDeliveries", RetryFailedDeliveriesResponse(retried_count=2))
    lines = certctl("subscription", "failed", "pager").out.splitlines()
    assert lines[1].split()[0] == "7"
    assert lines[1].split()[-1] == "410"
    assert json.loads(certctl("subscription", "failed", "pager", "-o", "json").out)["event"]["seq"] == "7"
    assert certctl("subscription", "retry", "pager").out == "Tried anew  2\n"
    certctl("subscription", "retry", "pager", "7", "9")
    assert [list(request.seqs) for request in fake.requests("RetryFailedDeliveries")] == [[], [7, 9]]
    assert fake.requests("ListFailedDeliveries")[0].parent == NAME
