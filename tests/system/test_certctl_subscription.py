"""Subscriptions, as a person types them, against a daemon with a real token and a receiver with the README's check."""

import base64
import hashlib
import hmac
import json
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import RunningDaemon, initialise, running
from tests.system.books import rows
from tests.system.calls import must
from tests.waiting import eventually
from tests.webhooks import Received, Receiver, answering, running_receiver

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that may send to this machine."""
    installation = initialise(tmp_path_factory.mktemp("daemon"))
    text = installation.config.read_text()
    allowed = text.replace('# allowed_networks = ["10.20.0.0/16"]', 'allowed_networks = ["127.0.0.1/32"]')
    assert allowed != text
    installation.config.write_text(allowed)
    with running(installation) as started:
        yield started


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with running_receiver(tmp_path) as started:
        (tmp_path / "root.pem").write_text(started.roots)
        yield started


@pytest.fixture(scope="module")
def check() -> Callable[[str, dict[str, str], bytes], None]:
    """How the README has a receiver look at a delivery."""
    (program,) = re.findall(r"```python\n(import base64, hashlib.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)  # What the README shows is what runs.
    found: Callable[[str, dict[str, str], bytes], None] = names["check"]
    return found


def create(daemon: RunningDaemon, receiver: Receiver, folder: Path, name: str, *options: str | Path) -> str:
    """Makes a webhook; returns its secret."""
    secret_file = folder / f"{name}.secret"
    told = must(
        daemon,
        *("subscription", "create", name, "--url", receiver.url, "--trusted-roots", folder / "root.pem"),
        *("--secret-file", secret_file, *options),
    )
    secret = secret_file.read_text().removesuffix("\n")
    assert secret not in told
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    return secret


def taken_tests(receiver: Receiver) -> list[Received]:
    return [one for one in receiver.taken if one.event["type"] == "subscription.test"]


def test_a_webhook_is_made_tried_and_told_of_what_happens(
    daemon: RunningDaemon,
    receiver: Receiver,
    check: Callable[[str, dict[str, str], bytes], None],
    tmp_path: Path,
) -> None:
    secret = create(daemon, receiver, tmp_path, "pager", "--event-type", "tenant.*", "--event-type", "grant.*")
    ended = daemon.certctl("subscription", "test", "pager")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "took the test" in ended.stderr
    (test,) = taken_tests(receiver)
    check(secret, test.headers, test.body)
    with pytest.raises(ValueError, match="signed by nobody"):
        check("whsec_" + "A" * 44, test.headers, test.body)
    with pytest.raises(ValueError, match="signed by nobody"):
        check(secret, test.headers, test.body + b" ")
    stale = signed_at(secret, {**test.headers, "webhook-timestamp": "1900000000"}, test.body)
    with pytest.raises(ValueError, match="older than five minutes"):
        check(secret, stale, test.body)

    must(daemon, "tenant", "update", "default", "--display-name", "Told of at once")
    told = eventually(lambda: [one for one in receiver.taken if one.event["type"] == "tenant.updated"])
    check(secret, told[0].headers, told[0].body)
    assert told[0].event["resource"] == "tenants/default"
    shown = json.loads(must(daemon, "subscription", "get", "pager", "-o", "json"))
    assert shown["webhook"]["url"] == receiver.url
    assert "lastError" not in shown

    # While the secret is replaced, receivers with either accept.
    new_file = tmp_path / "new.secret"
    must(daemon, "subscription", "rotate-secret", "pager", "--secret-file", new_file)
    must(daemon, "subscription", "test", "pager")
    for each in (secret, new_file.read_text().strip()):
        check(each, taken_tests(receiver)[-1].headers, taken_tests(receiver)[-1].body)
    must(daemon, "subscription", "delete", "pager")
    ended = daemon.certctl("subscription", "get", "pager")
    assert ended.stderr.startswith("certctl: SUBSCRIPTION_NOT_FOUND: ")


def signed_at(secret: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """Signs a delivery anew, as one that was kept and sent again would be."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {**headers, "webhook-signature": f"v1,AAAA v1,{signature}"}


def test_what_a_target_refuses_is_told_and_tried_anew(
    daemon: RunningDaemon, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = answering(410, b"gone for good")
    create(daemon, receiver, tmp_path, "refusing", "--disabled")
    ended = daemon.certctl("subscription", "test", "refusing")
    assert ended.returncode == 1
    assert "did not take the test: the target answers 410" in ended.stderr
    assert daemon.certctl("subscription", "failed", "refusing").stdout.splitlines()[1:] == []
    assert must(daemon, "subscription", "retry", "refusing") == "Tried anew  0\n"
    receiver.answer = None
    # What happened meanwhile comes once it is enabled.
    must(daemon, "tenant", "update", "default", "--display-name", "Told of later")
    must(daemon, "subscription", "update", "refusing", "--enable", "--event-type", "tenant.updated")
    eventually(lambda: [one for one in receiver.taken if one.event["type"] == "tenant.updated"])
    lines = must(daemon, "subscription", "list").splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["refusing", "ENABLED", receiver.url.partition("?")[0]]]
    must(daemon, "subscription", "delete", "refusing")


def test_what_cannot_be_sent_to_is_refused_with_what_to_do(daemon: RunningDaemon) -> None:
    def refused(*options: str) -> str:
        ended = daemon.certctl("subscription", "create", "bad", *options)
        assert ended.returncode == 1
        return ended.stderr.removeprefix("certctl: ")

    assert refused("--url", "https://10.1.2.3/").startswith("TARGET_NOT_ALLOWED: ")
    assert refused("--url", "http://hooks.example.com/").startswith("FIELD_INVALID: subscription.webhook.url: ")
    told = refused("--mail", "oncall@example.com")
    assert told.startswith("STATE_FORBIDS: ")
    assert "[notify.smtp]" in told
    assert refused("--mail", "On Call <oncall@example.com>").startswith(
        "FIELD_INVALID: subscription.mail.recipients[0]"
    )


def test_no_secret_lies_about(daemon: RunningDaemon, receiver: Receiver, tmp_path: Path) -> None:
    secret = create(daemon, receiver, tmp_path, "quiet", "--disabled")
    must(daemon, "subscription", "test", "quiet")
    kept = base64.b64decode(secret.removeprefix("whsec_"))
    log = daemon.installation.log.read_bytes()
    assert secret.encode() not in log
    assert kept not in log
    assert b"key=1" not in log
    data = daemon.installation.data
    assert not any(kept in file.read_bytes() or secret.encode() in file.read_bytes() for file in data.glob("certd.db*"))
    details = rows(data / "certd.db", "SELECT details FROM events WHERE type LIKE 'subscription.%'")
    assert details
    assert not any("key=1" in str(row) for row in details)
    must(daemon, "subscription", "delete", "quiet")
