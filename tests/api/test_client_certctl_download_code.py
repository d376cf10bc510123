"""certctl managed create-download-code: what it asks, and what it shows and hides."""

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from certd.client.messages import timestamp
from certd.v1.managed_certificate_service_pb2 import DownloadCode
from tests.certctl import Certctl
from tests.fakes_server import FakeServer
from tests.store.samples import LATER

WEB = "tenants/default/managedCertificates/web"
CODE = "certddl1-" + "a" * 32


@pytest.fixture
def made(fake: FakeServer) -> FakeServer:
    fake.answer("CreateDownloadCode", DownloadCode(code=CODE, expire_time=timestamp(LATER), path=f"/v1/{WEB}"))
    return fake


def test_a_code_is_made_and_shown_with_how_to_use_it(made: FakeServer, certctl: Certctl) -> None:
    ended = certctl("managed", "create-download-code", "web")
    assert (ended.code, ended.err) == (0, "")
    assert CODE in ended.out
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
