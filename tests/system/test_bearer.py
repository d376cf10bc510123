"""Callers by token: a daemon that people run, an issuer of its own, certctl and plain gRPC."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certd.v1 import server_service_pb2, server_service_pb2_grpc
from tests.api.edge_failure import failure_of
from tests.daemon import RunningDaemon, installed, run_program, running
from tests.oidc import AUDIENCE, EC_KEY, Issuer, jwk, running_issuer, token
from tests.waiting import eventually

if TYPE_CHECKING:
    import subprocess

_INFO = server_service_pb2.GetServerInfoRequest()


@dataclass(frozen=True, slots=True)
class World:
    """A daemon, and an issuer whose tokens it takes."""

    daemon: RunningDaemon
    issuer: Issuer
    folder: Path

    def token(self, subject: str, key: Any = EC_KEY, key_id: str = "ec", **claims: object) -> str:
        return token(self.issuer.claims(datetime.now(UTC), sub=subject, **claims), key, "ES256", key_id)

    def certctl(self, shown: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs certctl with a token, beside settings that name the administrator's certificate."""
        file = self.folder / "token"
        file.write_text(shown + "\n")
        environment = {
            "CERTCTL_CONFIG": str(self.daemon.installation.credentials / "certctl.toml"),
            "CERTCTL_ADDRESS": self.daemon.bearer,
            "CERTCTL_TOKEN_FILE": str(file),
        }
        return run_program("certctl", *arguments, environment=environment)

    def channel(self, address: str, *, certificate: bool = False) -> grpc.Channel:
        made = self.daemon.installation
        own = (made.private_key.read_bytes(), made.certificate.read_bytes()) if certificate else (None, None)
        return grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(made.trust_bundle.read_bytes(), *own),
            [("grpc.use_local_subchannel_pool", 1)],
        )

    def reason(self, address: str, *authorization: str, certificate: bool = False) -> str:
        """Calls with these values of `authorization` and returns why it fails; nothing when it does not."""
        with closing(self.channel(address, certificate=certificate)) as channel:
            stub: Any = server_service_pb2_grpc.ServerServiceStub(channel)  # type: ignore[no-untyped-call]  # Generated.
            try:
                stub.GetServerInfo(_INFO, metadata=[("authorization", value) for value in authorization], timeout=20)
            except grpc.RpcError as error:
                return failure_of(error).reason or error.code().name
            return ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bearer")
    with running_issuer(folder) as issuer:
        issuer.keys = [jwk(EC_KEY, "ec")]
        installation = installed(folder)
        text = installation.config.read_text().replace("[listen]\n", '[listen]\nbearer = "127.0.0.1:0"\n', 1)
        installation.config.write_text(
            f"{text}\n[[oidc]]\n"
            f'name = "ci"\nissuer = "{issuer.url}"\naudience = "{AUDIENCE}"\n'
            f'jwks_url = "{issuer.jwks_url}"\nca_file = "{issuer.ca_file}"\n'
        )
        with running(installation) as daemon:
            yield World(daemon, issuer, folder)


def test_a_caller_by_token_may_do_what_grants_allow(world: World) -> None:
    shown = world.token("repo:example/app")
    told = world.certctl(shown, "whoami")
    assert told.returncode == 0, told.stderr
    assert "spiffe://certd.internal/oidc/ci/repo_3Aexample/app" in told.stdout
    refused = world.certctl(shown, "server", "info")
    assert refused.returncode == 1
    assert "PERMISSION_MISSING" in refused.stderr
    principal = "spiffe://certd.internal/oidc/ci/repo_3Aexample/*"
    granted = world.daemon.certctl("grant", "create", principal, "auditor", "--server", "--scope", "*", "--id", "ci")
    assert granted.returncode == 0, granted.stderr
    told = world.certctl(shown, "server", "info")
    assert told.returncode == 0, told.stderr
    assert world.certctl(world.token("repo:example-2/app"), "server", "info").returncode == 1
    withdrawn = world.daemon.certctl("grant", "delete", "grants/ci")
    assert withdrawn.returncode == 0, withdrawn.stderr
    assert world.certctl(shown, "server", "info").returncode == 1


def test_a_certificate_or_a_token_by_what_is_named_first(world: World) -> None:
    made = world.daemon.installation
    # Of the environment comes a token, of the flags a certificate: the flags are first.
    told = world.certctl(
        *("unused", "--address", world.daemon.grpc, "--certificate", str(made.certificate)),
        *("--private-key", str(made.private_key), "server", "info"),
    )
    assert told.returncode == 0, told.stderr
    both = world.certctl("unused", "--certificate", "a", "--token-file", "b", "server", "info")
    assert both.returncode == 1
    assert "only one is shown" in both.stderr
    empty = world.certctl("", "server", "info")
    assert "holds no token" in empty.stderr


def test_who_shows_no_good_token_is_refused(world: World) -> None:
    bearer, good = world.daemon.bearer, world.token("alice")
    other = ec.generate_private_key(ec.SECP256R1())
    assert world.reason(bearer, f"Bearer {good}") == "PERMISSION_MISSING"
    assert world.reason(bearer, f"bearer  {good} ") == "PERMISSION_MISSING"
    assert world.reason(bearer) == "CREDENTIAL_MISSING"
    # A certificate is not asked for here, and nothing that is shown uncalled-for counts.
    assert world.reason(bearer, certificate=True) == "CREDENTIAL_MISSING"
    assert world.reason(bearer, f"Bearer {good}", f"Bearer {good}") == "CREDENTIAL_INVALID"
    assert world.reason(bearer, f"Basic {good}") == "CREDENTIAL_INVALID"
    assert world.reason(bearer, good) == "CREDENTIAL_INVALID"
    assert world.reason(bearer, "Bearer ") == "CREDENTIAL_INVALID"
    assert world.reason(bearer, f"Bearer {world.token('alice', other)}") == "CREDENTIAL_INVALID"
    assert world.reason(bearer, f"Bearer {world.token('alice', aud='other')}") == "CREDENTIAL_INVALID"


def test_tokens_count_on_their_own_port_alone(world: World) -> None:
    shown = f"Bearer {world.token('alice')}"
    assert world.reason(world.daemon.grpc, shown) == "UNAVAILABLE", "the handshake wants a certificate"
    # With the administrator's certificate the call is the administrator's, whatever token comes along.
    assert world.reason(world.daemon.grpc, shown, certificate=True) == ""
    assert world.reason(world.daemon.grpc, "Bearer nonsense", certificate=True) == ""


def test_health_is_open_and_reflection_is_not(world: World) -> None:
    with closing(world.channel(world.daemon.bearer)) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        )
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as raised:
            list(reflection.ServerReflectionInfo(asked, timeout=20))
        assert failure_of(raised.value).reason == "CREDENTIAL_MISSING"


def test_a_new_key_of_the_issuer_is_taken(world: World) -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    world.issuer.keys.append(jwk(new, "new"))
    shown = f"Bearer {world.token('alice', new, 'new')}"
    assert world.reason(world.daemon.bearer, shown) == "PERMISSION_MISSING"


def test_tokens_stand_in_no_log(world: World) -> None:
    shown = world.token("carol")
    world.reason(world.daemon.bearer, f"Bearer {shown}")
    world.reason(world.daemon.bearer, f"Bearer {shown}x")
    log = world.daemon.installation.log
    eventually(lambda: "oidc/ci/carol" in log.read_text())
    text = log.read_text()
    assert shown not in text
    assert shown.split(".")[1] not in text
    assert shown.split(".")[2] not in text
