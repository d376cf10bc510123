"""A new machine gets in by a code, as people do it; and what else the enrollment port answers: nothing."""

import json
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certd.api.server import SERVICES
from certd.client.connection import Client
from certd.client.credentials import ServerRoots, read_credentials
from certd.client.failure import CallFailed
from certd.v1.access_service_pb2 import EnrollRequest
from certd.v1.server_service_pb2 import GetTrustBundleRequest
from tests.daemon import RunningDaemon, initialise, run_program, running

_SYSTEM = {"/certd.v1.AccessService/Enroll", "/certd.v1.ServerService/GetTrustBundle"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running(initialise(tmp_path_factory.mktemp("enrollment"))) as started:
        yield started


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with running(initialise(tmp_path_factory.mktemp("other"))) as started:
        yield started


def _code(daemon: RunningDaemon, folder: Path, identity: str, *options: str | Path) -> Path:
    file = folder / f"{identity.replace('/', '-')}.code"
    ended = daemon.certctl("enrollment", "create-code", identity, "--code-file", file, *options)
    assert ended.returncode == 0, ended.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in ended.stdout + ended.stderr
    return file


def _enroll(address: str, code: Path, credentials: Path, *options: str | Path) -> tuple[int, str, str]:
    arguments: tuple[str | Path, ...] = ("--address", address, "--code-file", code, "--credentials-dir", credentials)
    ended = run_program("certctl", "enroll", *arguments, *options)
    return ended.returncode, ended.stdout, ended.stderr


def test_a_machine_enrolls_and_calls(daemon: RunningDaemon, tmp_path: Path) -> None:
    code, place = _code(daemon, tmp_path, "web-1"), tmp_path / "web"
    ended, out, err = _enroll(daemon.enrollment, code, place, "--api-address", daemon.grpc)
    assert ended == 0, err
    assert "spiffe://certd.internal/tenants/default/identities/web-1" in out
    assert code.read_text().strip() not in out + err
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {
        "identity.pem": 0o600,
        "identity.key": 0o600,
        "root.pem": 0o644,
        "certctl.toml": 0o600,
    }
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert tomllib.loads((place / "certctl.toml").read_text())["tenant"] == "default"
    who = run_program("certctl", "--config", place / "certctl.toml", "whoami", "-o", "json")
    assert who.returncode == 0, who.stderr
    assert json.loads(who.stdout)["principal"] == "spiffe://certd.internal/tenants/default/identities/web-1"
    shown = json.loads(daemon.certctl("identity", "get", "web-1", "-o", "json").stdout)
    assert shown["state"] == "ACTIVE"
    # The code is used: another key gets nothing, and what is there stays.
    before = (place / "identity.pem").read_bytes()
    ended, _, err = _enroll(daemon.enrollment, code, place)
    assert ended == 1
    assert "ENROLLMENT_CODE_INVALID" in err
    assert (place / "identity.pem").read_bytes() == before


def test_an_interrupted_run_is_ended_by_the_next(daemon: RunningDaemon, tmp_path: Path) -> None:
    code, first, second = _code(daemon, tmp_path, "web-2"), tmp_path / "first", tmp_path / "second"
    assert _enroll(daemon.enrollment, code, first)[0] == 0
    # As it lies when the answer was lost: the key, and no certificate.
    second.mkdir(mode=0o700)
    (second / "identity.key.next").write_bytes((first / "identity.key").read_bytes())
    assert _enroll(daemon.enrollment, code, second)[0] == 0
    assert (second / "identity.pem").read_bytes() == (first / "identity.pem").read_bytes()
    assert not (second / "identity.key.next").exists()


def test_a_code_for_a_key(daemon: RunningDaemon, tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert _enroll(daemon.enrollment, _code(daemon, tmp_path, "key-maker"), own)[0] == 0
    key = load_pem_private_key((own / "identity.key").read_bytes(), None)
    public = tmp_path / "own.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    code = _code(daemon, tmp_path, "identities/owner", "--public-key", public)
    assert "ENROLLMENT_CODE_INVALID" in _enroll(daemon.enrollment, code, tmp_path / "thief")[2]
    ended, out, err = _enroll(daemon.enrollment, code, tmp_path / "owner", "--private-key", own / "identity.key")
    assert ended == 0, err
    assert "spiffe://certd.internal/identities/owner" in out


def test_another_server_does_not_get_the_code(daemon: RunningDaemon, other: RunningDaemon, tmp_path: Path) -> None:
    code, place = _code(daemon, tmp_path, "web-3"), tmp_path / "web"
    ended, _, err = _enroll(other.enrollment, code, place)
    assert ended == 1
    assert "is not the server that the enrollment code is for, so the code was not sent" in err
    assert _calls(other, "ServerService/GetTrustBundle") > 0
    assert _calls(other, "AccessService/Enroll") == 0
    # The right one still takes it.
    assert _enroll(daemon.enrollment, code, place)[0] == 0
    # A folder that trusts one server does not take credentials of another.
    ended, _, err = _enroll(other.enrollment, _code(other, tmp_path, "web-3"), place)
    assert ended == 1
    assert "is of another server" in err


def _calls(daemon: RunningDaemon, method: str) -> int:
    with urlopen(f"http://{daemon.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(f'method="/certd.v1.{method}"' in line for line in lines)


def test_the_api_port_is_no_enrollment_port(daemon: RunningDaemon, tmp_path: Path) -> None:
    code = _code(daemon, tmp_path, "web-4")
    ended, _, err = _enroll(daemon.grpc, code, tmp_path / "web", "--timeout", "5s")
    assert ended == 1, err
    ended, _, err = _enroll(daemon.http, code, tmp_path / "web")
    assert "listen.enrollment" in err


def test_codes_are_no_arguments(daemon: RunningDaemon, tmp_path: Path) -> None:
    shown = daemon.certctl("enrollment", "create-code", "web-5", "-o", "json")
    code = json.loads(shown.stdout)["code"]
    arguments: tuple[str | Path, ...] = ("--address", daemon.enrollment, "--credentials-dir", tmp_path / "web")
    assert run_program("certctl", "enroll", *arguments, code).returncode == 2
    ended = run_program("certctl", "enroll", *arguments, stdin=f"{code}\n".encode())
    assert ended.returncode == 0, ended.stderr
    assert code not in daemon.installation.log.read_text()
    assert code.split("-")[1] not in daemon.installation.log.read_text()


def _stranger(daemon: RunningDaemon) -> grpc.Channel:
    trust = grpc.ssl_channel_credentials(root_certificates=daemon.installation.trust_bundle.read_bytes())
    return grpc.secure_channel(daemon.enrollment, trust)


def test_the_enrollment_port_has_exactly_its_methods(daemon: RunningDaemon) -> None:
    with _stranger(daemon) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        for service in SERVICES:
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
                if path in _SYSTEM:
                    continue
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=10)
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED, path
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            list(reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_strangers_learn_the_system_root_and_nothing_of_tenants(daemon: RunningDaemon) -> None:
    trust = ServerRoots(daemon.installation.trust_bundle.read_bytes())
    with Client(daemon.enrollment, trust) as client:
        bundle = client.call(client.stubs.get_trust_bundle, GetTrustBundleRequest())
        root = x509.load_pem_x509_certificate(trust.trust_bundle)
        assert [one.der for one in bundle.system_roots] == [root.public_bytes(Encoding.DER)]
        assert not bundle.tenant_roots
        answers = set()
        for tenant in ("tenants/default", "tenants/nowhere"):
            with pytest.raises(CallFailed) as failed:
                client.call(client.stubs.get_trust_bundle, GetTrustBundleRequest(tenant=tenant))
            answers.add((failed.value.reason, failed.value.message))
        assert len(answers) == 1
        with pytest.raises(CallFailed) as failed:
            client.call(client.stubs.enroll, EnrollRequest(code="certd1-a-b", csr=b"none"))
        assert (failed.value.reason, failed.value.code) == ("ENROLLMENT_CODE_INVALID", "UNAUTHENTICATED")


def test_who_has_enrolled_does_not_enroll_on_the_api_port(daemon: RunningDaemon, tmp_path: Path) -> None:
    installation = daemon.installation
    credentials = read_credentials(
        certificate=installation.certificate,
        private_key=installation.private_key,
        trust_bundle=installation.trust_bundle,
    )
    code = _code(daemon, tmp_path, "web-6").read_text().strip()
    with Client(daemon.grpc, credentials) as client, pytest.raises(CallFailed) as failed:
        client.call(client.stubs.enroll, EnrollRequest(code=code, csr=b"none"))
    assert failed.value.reason == "STATE_FORBIDS"
