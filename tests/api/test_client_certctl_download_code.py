"""certctl managed …-download-code: what they ask, and what they show and hide."""

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from certd.cli.certctl.durations import format_time
from certd.client.messages import timestamp
from certd.v1.managed_certificate_service_pb2 import (
    DeleteDownloadCodeResponse,
    DownloadCode,
    ListDownloadCodesResponse,
)
from tests.certctl import Certctl
from tests.fakes_server import FakeServer
from tests.store.samples import LATER

WEB = "tenants/default/managedCertificates/web"
NAME = f"{WEB}/downloadCodes/0f5c6d7e8a9b0c1d"
CODE = "certddl1-" + "a" * 32


@pytest.fixture
def made(fake: FakeServer) -> FakeServer:
    code = DownloadCode(name=NAME, code=CODE, expire_time=timestamp(LATER), path=f"/v1/{WEB}")
    fake.answer("CreateDownloadCode", code)
    return fake


def test_a_code_is_made_and_shown_with_how_to_use_it(made: FakeServer, certctl: Certctl) -> None:
    ended = certctl("managed", "create-download-code", "web")
    assert (ended.code, ended.err) == (0, "")
    assert CODE in ended.out
    assert NAME in ended.out
    assert f"'https://HOST:8446/v1/{WEB}?format=pkcs8'" in ended.out
    assert "-H @-" in ended.out
    (request,) = made.requests("CreateDownloadCode")
    assert (request.name, request.HasField("lifetime"), list(request.source_networks)) == (WEB, False, [])


def test_everything_that_may_be_said_is_asked_for(made: FakeServer, certctl: Certctl) -> None:
    ended = certctl(
        *("managed", "create-download-code", "web", "--lifetime", "10m", "--reason", "new router", "-o", "json"),
        *("--source", "192.0.2.0/24", "--source", "2001:db8::/32"),
    )
    assert json.loads(ended.out)["code"] == CODE
    (request,) = made.requests("CreateDownloadCode")
    assert request.lifetime.ToTimedelta() == timedelta(minutes=10)
    assert (list(request.source_networks), request.reason) == (["192.0.2.0/24", "2001:db8::/32"], "new router")


def test_a_code_in_a_file_is_shown_nowhere_else(made: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    file = tmp_path / "the code"
    ended = certctl(
        *("managed", "create-download-code", "web", "--code-file", str(file)),
        *("--devices-address", "ca.example.internal:9446"),
    )
    assert ended.code == 0
    assert file.read_text() == f"{CODE}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert CODE not in ended.out + ended.err
    assert f"cat '{file}'" in ended.out
    assert "https://ca.example.internal:9446/v1/" in ended.out
    assert made.requests("CreateDownloadCode")


def test_what_cannot_be_is_told_before_a_code_is_made(made: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    for options in (
        ("--code-file", str(tmp_path / "missing" / "code")),
        ("--devices-address", "https://ca.example.internal"),
        ("--lifetime", "soon"),
    ):
        assert certctl("managed", "create-download-code", "web", *options).code in {1, 2}
    assert not made.requests("CreateDownloadCode")


def test_codes_are_listed_page_by_page(fake: FakeServer, certctl: Certctl) -> None:
    creator = "spiffe://example/identities/alice"
    unused = DownloadCode(
        name=NAME,
        creator=creator,
        expire_time=timestamp(LATER),
        source_networks=["192.0.2.0/24", "2001:db8::/32"],
        reason="new \x1b[2Jrouter",
    )
    used = DownloadCode(name=NAME, creator=creator, expire_time=timestamp(LATER), use_time=timestamp(LATER))
    fake.answer(
        "ListDownloadCodes",
        ListDownloadCodesResponse(download_codes=[unused], next_page_token="more"),
        ListDownloadCodesResponse(download_codes=[used]),
    )
    lines = certctl("managed", "list-download-codes").out.splitlines()
    assert lines[0].split() == ["MANAGED", "CERTIFICATE", "CODE", "EXPIRES", "USED", "CREATOR", "SOURCES", "REASON"]
    ends = format_time(LATER)
    # What a caller wrote moves no cursor.
    assert lines[1].split() == [
        *("web", "0f5c6d7e8a9b0c1d", ends, "-", creator, "192.0.2.0/24", "2001:db8::/32", "new", "\\x1b[2Jrouter")
    ]
    assert lines[2].split() == ["web", "0f5c6d7e8a9b0c1d", ends, ends, creator, "-", "-"]
    ended = certctl("managed", "list-download-codes", "web", "-o", "json")
    assert [json.loads(line)["name"] for line in ended.out.splitlines()] == [NAME]
    requests = fake.requests("ListDownloadCodes")
    assert [request.parent for request in requests] == [f"{WEB.removesuffix('web')}-"] * 2 + [WEB]
    assert requests[1].page_token == "more"
    assert certctl("managed", "list-download-codes", "-o", "pem").code == 2


def test_a_code_is_withdrawn(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteDownloadCode", DeleteDownloadCodeResponse())
    assert f"{NAME} is withdrawn" in certctl("managed", "delete-download-code", "web/0f5c6d7e8a9b0c1d").err
    assert json.loads(certctl("managed", "delete-download-code", NAME, "-o", "json").out) == {}
    first, second = fake.requests("DeleteDownloadCode")
    assert first.name == second.name == NAME
    assert first.request_id != second.request_id


@pytest.mark.parametrize("name", [CODE, f"web/{CODE.upper()}", f"{WEB}/downloadCodes/{CODE}"])
def test_a_code_itself_is_told_to_nobody(fake: FakeServer, certctl: Certctl, name: str) -> None:
    ended = certctl("managed", "delete-download-code", name)
    assert ended.code == 2
    assert "list-download-codes" in ended.err
    assert CODE not in (ended.out + ended.err).lower()
    assert not fake.calls
