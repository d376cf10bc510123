"""`certctl authority`: how one goes on under a new certificate, and how it ends."""

from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest

from certd.client.messages import timestamp
from certd.v1.authority_pb2 import Authority
from tests.certctl import CA, Certctl
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, running

REQUEST_ID = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"
DELETED = Authority(
    name=CA,
    state=Authority.DELETED,
    delete_time=timestamp(datetime(2030, 1, 1, tzinfo=UTC)),
    purge_time=timestamp(datetime(2030, 1, 31, tzinfo=UTC)),
)


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


def test_a_deletion_tells_until_when_it_can_be_taken_back(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteAuthority", DELETED)
    ended = certctl("authority", "delete", "web-ca", "--etag", "uid-3", "--request-id", REQUEST_ID)
    assert ended.code == 0
    for line in ("DELETED", "Deleted", "2030-01-01", "Purged from", "2030-01-31"):
        assert line in ended.out
    (request,) = fake.requests("DeleteAuthority")
    assert (request.name, request.etag, request.request_id) == (CA, "uid-3", REQUEST_ID)
    assert not request.HasField("window")
    assert (request.allow_live_certificates, request.validate_only) == (False, False)


def test_a_deletion_is_sent_as_the_flags_say(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteAuthority", DELETED)
    ended = certctl(
        "authority", "delete", "web-ca", "--window", "7d", "--allow-live-certificates", "--yes", "--validate-only"
    )
    assert ended.code == 0
    assert "nothing was changed" in ended.err
    (request,) = fake.requests("DeleteAuthority")
    assert request.window.seconds == 7 * 86400
    assert (request.allow_live_certificates, request.validate_only) == (True, True)


def test_why_it_is_refused_is_told(fake: FakeServer, certctl: Certctl) -> None:
    failing = Failing(code=grpc.StatusCode.FAILED_PRECONDITION, reason="AUTHORITY_ENABLED", message="disable it first")
    fake.answer("DeleteAuthority", failing)
    ended = certctl("authority", "delete", "web-ca")
    assert (ended.code, ended.err) == (1, "certctl: AUTHORITY_ENABLED: disable it first\n")


def test_it_is_brought_back(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("UndeleteAuthority", Authority(name=CA, state=Authority.DISABLED))
    ended = certctl("authority", "undelete", "web-ca", "--etag", "uid-3", "--request-id", REQUEST_ID)
    assert ended.code == 0
    assert "DISABLED" in ended.out
    assert "Purged" not in ended.out
    (request,) = fake.requests("UndeleteAuthority")
    assert (request.name, request.etag, request.request_id) == (CA, "uid-3", REQUEST_ID)


def test_one_that_is_purged_is_shown_so(fake: FakeServer, certctl: Certctl) -> None:
    purged = Authority(state=Authority.PURGED, purge_time=DELETED.purge_time, delete_time=DELETED.delete_time)
    fake.answer("GetAuthority", purged)
    ended = certctl("authority", "get", "purged-0123456789abcdef0123456789abcdef")
    assert "PURGED" in ended.out
    assert "Purged from" not in ended.out


def test_a_new_certificate_is_asked_for_as_the_flags_say(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("ReissueAuthorityCertificate", Authority(name=CA, state=Authority.ENABLED))
    assert certctl("authority", "reissue", "web-ca").code == 0
    ended = certctl(
        *("authority", "reissue", "web-ca", "--lifetime", "2y", "--allow-broken-certificates"),
        *("--etag", "uid-3", "--request-id", REQUEST_ID, "--validate-only"),
    )
    assert ended.code == 0
    first, second = fake.requests("ReissueAuthorityCertificate")
    assert (first.name, first.HasField("lifetime"), first.allow_broken_certificates) == (CA, False, False)
    assert (second.lifetime.seconds, second.allow_broken_certificates) == (730 * 86400, True)
    assert (second.etag, second.request_id, second.validate_only) == ("uid-3", REQUEST_ID, True)
