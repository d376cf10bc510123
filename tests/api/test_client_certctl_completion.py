"""What a shell offers for names: those of a server that answers, and nothing at all from one that does not."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.shell_completion import ShellComplete

from certd.cli.certctl import cli
from certd.cli.certctl.invocation import Invocation
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import ListAuthoritiesResponse
from certd.v1.event_service_pb2 import ListSubscriptionsResponse
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ListManagedCertificatesResponse
from certd.v1.profile_pb2 import Profile
from certd.v1.profile_service_pb2 import ListProfilesResponse
from certd.v1.subscription_pb2 import Subscription
from tests.certctl import settle
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, running


@pytest.fixture
def fake(root: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with running(FakeServer(), make_leaf(root, "localhost"), root) as server:
        settle(tmp_path / "home", server, root, monkeypatch)
        server.answer(
            "ListAuthorities",
            ListAuthoritiesResponse(
                authorities=[Authority(name=f"tenants/default/authorities/{name}") for name in ("web-ca", "web", "lab")]
            ),
        )
        server.answer(
            "ListProfiles",
            ListProfilesResponse(
                profiles=[Profile(name=f"tenants/default/profiles/{name}") for name in ("server", "client")]
            ),
        )
        server.answer(
            "ListManagedCertificates",
            ListManagedCertificatesResponse(
                managed_certificates=[ManagedCertificate(name="tenants/default/managedCertificates/www")]
            ),
        )
        server.answer(
            "ListSubscriptions",
            ListSubscriptionsResponse(subscriptions=[Subscription(name="tenants/default/subscriptions/pager")]),
        )
        yield server


def offered(*words: str) -> list[str]:
    *typed, incomplete = words
    shell = ShellComplete(cli, {"obj": Invocation()}, "certctl", "_CERTCTL_COMPLETE")
    return [item.value for item in shell.get_completions(typed, incomplete)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("authority", "get", "we"), ["web-ca", "web"]),
        (("authority", "disable", ""), ["web-ca", "web", "lab"]),
        (("subscription", "test", "p"), ["pager"]),
        (("authority", "create", "new", "--issuer", "l"), ["lab"]),
        (("certificate", "issue", "--authority", "web-"), ["web-ca"]),
        (("certificate", "issue", "--authority", "web", "--profile", "s"), ["server"]),
        (("certificate", "search", "--authority", "x"), []),
        (("profile", "update", ""), ["server", "client"]),
        (("managed", "export", "w"), ["www"]),
    ],
    ids=" ".join,
)
def test_names_of_the_server_are_offered(fake: FakeServer, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected
    assert len(fake.calls) == 1


def test_the_tenant_of_the_line_is_asked_for(fake: FakeServer) -> None:
    offered("--tenant", "acme", "authority", "get", "")
    assert fake.requests("ListAuthorities")[0].parent == "tenants/acme"


def test_a_server_that_refuses_offers_nothing_and_says_nothing(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer("ListAuthorities", Failing(code=grpc.StatusCode.PERMISSION_DENIED))
    assert offered("authority", "get", "") == []
    assert capsys.readouterr() == ("", "")


def test_a_server_that_is_away_is_not_waited_for(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    assert offered("--address", "localhost:1", "authority", "get", "") == []
    assert time.monotonic() - begun < 10
    assert capsys.readouterr() == ("", "")
    assert not fake.calls


def test_without_credentials_nothing_is_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert offered("authority", "get", "") == []
