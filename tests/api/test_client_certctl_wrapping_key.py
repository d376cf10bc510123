"""certctl wrapping-key and managed search against a server of our own: what they ask, print, and how they end."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from certd.cli.certctl import wrapping_key as program
from certd.client.messages import timestamp
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import SearchManagedCertificatesResponse
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import ListWrappingKeysResponse
from certd.v1.x509_pb2 import RSA_3072, Warning  # noqa: A004  # The API's word.
from tests.certctl import CA, Certctl
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, running
from tests.store.samples import LATER, NOW

OLD, NEW = "tenants/default/wrappingKeys/1", "tenants/default/wrappingKeys/2"


@pytest.fixture
def fake(root: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), make_leaf(root, "localhost"), root) as server:
        server.answer("RotateWrappingKey", WrappingKey(name=NEW, state=WrappingKey.PRIMARY, create_time=timestamp(NOW)))
        yield server


def old(done: int, state: "WrappingKey.State.ValueType" = WrappingKey.DECRYPT_ONLY, **changes: Any) -> WrappingKey:
    return WrappingKey(
        name=OLD,
        state=state,
        key_id="0a" * 16,
        reseal_count=12_000,
        resealed_count=done,
        create_time=timestamp(NOW),
        rotate_time=timestamp(LATER),
        etag="0a-7",
        **changes,
    )


def test_keys_are_listed_and_shown_with_their_progress(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "ListWrappingKeys",
        ListWrappingKeysResponse(
            wrapping_keys=[WrappingKey(name=NEW, state=WrappingKey.PRIMARY, escrowed=True)], next_page_token="more"
        ),
        ListWrappingKeysResponse(wrapping_keys=[old(2_000)]),
    )
    fake.answer("GetWrappingKey", old(2_000))
    lines = certctl("wrapping-key", "list").out.splitlines()
    assert lines[0].split()[:5] == ["WRAPPING", "KEY", "STATE", "ESCROW", "SEALED"]
    assert lines[1].split()[:4] == ["2", "PRIMARY", "yes", "-"]
    assert lines[2].split()[:6] == ["1", "DECRYPT_ONLY", "no", "2,000", "of", "12,000"]
    card = certctl("wrapping-key", "show", "1").out
    assert "Escrow       none: it is in the token alone\nSealed anew  2,000 of 12,000\n" in card
    shown = json.loads(certctl("wrapping-key", "show", OLD, "--tenant", "other", "-o", "json").out)
    assert shown["resealedCount"] == "2000"
    assert certctl("wrapping-key", "show", "1", "--tenant", "acme").code == 0
    names = [request.name for request in fake.requests("GetWrappingKey")]
    assert names == [OLD, OLD, "tenants/acme/wrappingKeys/1"]
    assert [request.page_token for request in fake.requests("ListWrappingKeys")] == ["", "more"]
    assert certctl("wrapping-key", "list", "-o", "pem").code == 2


def test_a_rotation_answers_at_once(fake: FakeServer, certctl: Certctl) -> None:
    ended = certctl("wrapping-key", "rotate", "--request-id", "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11")
    assert ended.code == 0
    assert "State    PRIMARY\n" in ended.out
    (request,) = fake.requests("RotateWrappingKey")
    assert (request.parent, request.request_id) == ("tenants/default", "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11")
    assert not fake.requests("GetWrappingKey")


def test_a_rotation_that_is_waited_for_shows_how_far_it_is(
    fake: FakeServer, certctl: Certctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_POLL", 0.0)
    fake.answer("GetWrappingKey", old(0), old(5_000), old(5_000), old(12_000), old(12_000, WrappingKey.RETIRED))
    ended = certctl("wrapping-key", "rotate", "--wait")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        f"certctl: {done} of 12,000 keys under wrapping key 1 are sealed anew, it is {state}"
        for done, state in (
            ("0", "DECRYPT_ONLY"),
            ("5,000", "DECRYPT_ONLY"),
            ("12,000", "DECRYPT_ONLY"),
            ("12,000", "RETIRED"),
        )
    ]
    assert NEW in ended.out
    assert {request.name for request in fake.requests("GetWrappingKey")} == {OLD}
    # Programs get the new key alone.
    fake.answer("GetWrappingKey", old(12_000, WrappingKey.RETIRED))
    ended = certctl("wrapping-key", "rotate", "--wait", "-o", "json")
    assert json.loads(ended.out)["name"] == NEW
    assert ended.err == ""


@pytest.mark.parametrize(
    ("options", "stuck", "why"),
    [
        (["--timeout", "1s"], 60.0, "it is not done yet"),
        ([], 0.0, "the log of the server names what does not open"),
    ],
)
def test_a_rotation_that_gets_no_further_says_so(
    fake: FakeServer, certctl: Certctl, monkeypatch: pytest.MonkeyPatch, options: list[str], stuck: float, why: str
) -> None:
    monkeypatch.setattr(program, "_POLL", 0.01)
    monkeypatch.setattr(program, "_STUCK", stuck)
    fake.answer("GetWrappingKey", old(11_999))
    ended = certctl("wrapping-key", "rotate", "--wait", *options)
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("certctl: DEADLINE_EXCEEDED: 11,999 of 12,000 keys")
    assert why in last
    assert "certctl wrapping-key show 1" in last


@pytest.mark.parametrize(
    "confirm", [[], ["--confirm", "2"], ["--confirm", ""], ["--confirm", "tenants/other/wrappingKeys/1"]]
)
def test_nothing_is_destroyed_that_is_not_said_twice(fake: FakeServer, certctl: Certctl, confirm: list[str]) -> None:
    ended = certctl("wrapping-key", "destroy", "1", *confirm)
    assert ended.code == 2
    assert "--confirm 1" in ended.err
    assert fake.calls == []


@pytest.mark.parametrize("confirm", ["1", OLD])
def test_what_is_destroyed_is_what_was_read(fake: FakeServer, certctl: Certctl, confirm: str) -> None:
    fake.answer("GetWrappingKey", old(12_000, WrappingKey.RETIRED))
    warning = Warning(field="name", message="backups hold 12000 keys")
    fake.answer("DestroyWrappingKey", old(12_000, WrappingKey.DESTROYED, warnings=[warning]))
    ended = certctl("wrapping-key", "destroy", "1", "--confirm", confirm)
    assert ended.code == 0
    assert "backups hold 12000 keys" in ended.err
    assert "DESTROYED" in ended.out
    (request,) = fake.requests("DestroyWrappingKey")
    assert (request.name, request.etag, request.validate_only) == (OLD, "0a-7", False)
    assert request.request_id


def test_a_destruction_may_be_tried(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetWrappingKey", old(0, WrappingKey.PRIMARY))
    fake.answer("DestroyWrappingKey", old(0, WrappingKey.DESTROYED))
    ended = certctl("wrapping-key", "destroy", "1", "--validate-only")
    assert (ended.code, ended.err) == (0, "certctl: every check passed; nothing was changed\n")
    assert fake.requests("DestroyWrappingKey")[0].validate_only


def found(managed_id: str) -> ManagedCertificate:
    return ManagedCertificate(name=f"tenants/default/managedCertificates/{managed_id}", state=ManagedCertificate.ACTIVE)


def test_every_condition_of_a_search_has_its_option(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("SearchManagedCertificates", SearchManagedCertificatesResponse(managed_certificates=[found("web")]))
    ended = certctl(
        *("managed", "search", "--state", "active", "--state", "EXPIRED", "--type", "private", "--authority", "web-ca"),
        *("--profile", "server", "--key", "RSA_3072", "--name", "www.example.internal", "--domain", "example.internal"),
        *("--label", "team=web", "--label", "any=", "--expires-before", "2027-01-31T00:00:00Z"),
        *("--issued-before", "2026-01-31T00:00:00Z", "--not-blocked", "--used"),
    )
    assert ended.code == 0
    assert ended.out.splitlines()[1].split()[:2] == ["web", "ACTIVE"]
    (request,) = fake.requests("SearchManagedCertificates")
    wanted = request.filter
    assert request.parent == "tenants/default"
    assert list(wanted.states) == [ManagedCertificate.ACTIVE, ManagedCertificate.EXPIRED]
    assert (wanted.type, wanted.key_spec) == (ManagedCertificate.PRIVATE, RSA_3072)
    assert (wanted.authority, wanted.profile) == (CA, "tenants/default/profiles/server")
    assert (wanted.alternative_name, wanted.domain) == ("www.example.internal", "example.internal")
    assert dict(wanted.labels) == {"team": "web", "any": ""}
    assert wanted.not_after_before == timestamp(datetime(2027, 1, 31, tzinfo=UTC))
    assert wanted.issued_before == timestamp(datetime(2026, 1, 31, tzinfo=UTC))
    assert wanted.HasField("renewal_blocked")
    assert not wanted.renewal_blocked
    assert wanted.used


def test_a_search_that_says_nothing_asks_for_everything(fake: FakeServer, certctl: Certctl) -> None:
    pages = [
        SearchManagedCertificatesResponse(managed_certificates=[found("a"), found("b")], next_page_token="1"),
        # Shorter than asked for, and not the last.
        SearchManagedCertificatesResponse(next_page_token="2"),
        SearchManagedCertificatesResponse(managed_certificates=[found("c")]),
    ]
    fake.answer("SearchManagedCertificates", *pages)
    ended = certctl("managed", "search", "-o", "json")
    assert [json.loads(line)["name"][-1] for line in ended.out.splitlines()] == ["a", "b", "c"]
    requests = fake.requests("SearchManagedCertificates")
    assert [request.page_token for request in requests] == ["", "1", "2"]
    assert all(request.filter.ByteSize() == 0 for request in requests)
    fake.answer("SearchManagedCertificates", *pages)
    ended = certctl("managed", "search", "--limit", "1", "-o", "json")
    assert [json.loads(line)["name"][-1] for line in ended.out.splitlines()] == ["a"]
    assert fake.requests("SearchManagedCertificates")[-1].page_size == 1


def test_what_expires_within_a_time_expires_before_a_moment(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("SearchManagedCertificates", SearchManagedCertificatesResponse())
    before = datetime.now(UTC)
    assert certctl("managed", "search", "--expires-within", "30d").code == 0
    (request,) = fake.requests("SearchManagedCertificates")
    moment = request.filter.not_after_before.ToDatetime(UTC)
    assert before + timedelta(days=30) <= moment <= datetime.now(UTC) + timedelta(days=30)
    ended = certctl("managed", "search", "--expires-within", "30d", "--expires-before", "2027-01-31T00:00:00Z")
    assert ended.code == 2
    assert "not both" in ended.err


def test_a_refusal_is_told(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "RotateWrappingKey",
        Failing(code=grpc.StatusCode.FAILED_PRECONDITION, reason="STATE_FORBIDS", message="goes on"),
    )
    ended = certctl("wrapping-key", "rotate")
    assert (ended.code, ended.err) == (1, "certctl: STATE_FORBIDS: goes on\n")
