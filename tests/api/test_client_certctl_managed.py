"""certctl managed against a server of our own: requests, waiting and exports."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certd.v1.managed_certificate_pb2 import Condition, ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ListManagedCertificatesResponse
from tests.api.test_client_export import UID, exporting
from tests.certctl import CA, Certctl, described, encoded
from tests.fakes_server import FakeServer, Issued, make_leaf, running

WEB = "tenants/default/managedCertificates/web"


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


def pending(reason: str = "") -> ManagedCertificate:
    condition = Condition(type="Issued", status=Condition.FALSE, reason=reason, message="the token does not answer")
    return ManagedCertificate(name=WEB, state=ManagedCertificate.PENDING, conditions=[condition])


REQUEST = (
    "managed",
    "request",
    "web",
    "--authority",
    "web-ca",
    "--dns",
    "www.example.internal",
    "--dns",
    "example.internal",
)


def test_request_waits_until_it_is_active(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("RequestManagedCertificate", pending())
    fake.answer("GetManagedCertificate", pending(), ManagedCertificate(name=WEB, state=ManagedCertificate.ACTIVE))
    ended = certctl(*REQUEST)
    assert ended.code == 0
    assert "ACTIVE" in ended.out
    (request,) = fake.requests("RequestManagedCertificate")
    managed = request.managed_certificate
    assert (request.parent, request.managed_certificate_id, managed.authority) == ("tenants/default", "web", CA)
    assert list(managed.subject_alternative_names.dns_names) == ["www.example.internal", "example.internal"]
    assert managed.export_policy == ManagedCertificate.EXPORTABLE


def test_request_does_not_wait_when_told(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("RequestManagedCertificate", pending())
    ended = certctl(*REQUEST, "--no-wait", "--not-exportable")
    assert ended.code == 0
    assert "PENDING" in ended.out
    assert not fake.requests("GetManagedCertificate")
    policy = fake.requests("RequestManagedCertificate")[0].managed_certificate.export_policy
    assert policy == ManagedCertificate.NOT_EXPORTABLE


def test_a_request_that_can_never_be_issued_fails_with_its_reason(fake: FakeServer, certctl: Certctl) -> None:
    failed = pending("LIFETIME_EXCEEDS_AUTHORITY")
    failed.state = ManagedCertificate.FAILED
    fake.answer("RequestManagedCertificate", pending())
    fake.answer("GetManagedCertificate", failed)
    ended = certctl(*REQUEST)
    assert ended.code == 1
    assert ended.err.startswith("certctl: LIFETIME_EXCEEDS_AUTHORITY: ")


def test_a_request_that_waits_too_long_says_for_what(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("RequestManagedCertificate", pending())
    fake.answer("GetManagedCertificate", pending("TOKEN_UNAVAILABLE"))
    ended = certctl(*REQUEST, "--timeout", "2s")
    assert ended.code == 1
    *progress, last = ended.err.splitlines()
    assert last.startswith("certctl: DEADLINE_EXCEEDED: ")
    assert "certctl managed get web" in last
    # What it waits for is told once, after a second.
    assert [line for line in progress if "TOKEN_UNAVAILABLE: the token does not answer" in line] == progress
    assert len(progress) == 1


def test_managed_certificates_are_shown_and_listed(fake: FakeServer, certctl: Certctl, root: Issued) -> None:
    item = ManagedCertificate(
        name=WEB,
        state=ManagedCertificate.ACTIVE,
        authority=CA,
        current_version=2,
        certificate=encoded(root),
        description=described(),
        subject_alternative_names=described().subject_alternative_names,
    )
    fake.answer("GetManagedCertificate", item)
    fake.answer("ListManagedCertificates", ListManagedCertificatesResponse(managed_certificates=[item]))
    assert certctl("managed", "get", "web", "-o", "pem").out == root.certificate_pem.decode()
    assert json.loads(certctl("managed", "get", "web", "-o", "json").out)["currentVersion"] == "2"
    row = certctl("managed", "list").out.splitlines()[1].split()
    assert (row[0], row[1], row[-4:]) == ("web", "ACTIVE", ["89", "-", "no", "-"])


@pytest.mark.parametrize(("status", "used"), [(Condition.TRUE, "late"), (Condition.FALSE, "yes")])
def test_consumers_that_are_late_are_shown_and_block_nothing(
    fake: FakeServer, certctl: Certctl, status: Condition.Status.ValueType, used: str
) -> None:
    late = Condition(type="DeploymentLate", status=status, reason="NotServed", message="Not served in time by db-1.")
    item = ManagedCertificate(
        name=WEB, state=ManagedCertificate.ACTIVE, current_version=2, used=True, conditions=[late], authority=CA
    )
    fake.answer("GetManagedCertificate", item)
    fake.answer("ListManagedCertificates", ListManagedCertificatesResponse(managed_certificates=[item]))
    assert certctl("managed", "list").out.splitlines()[1].split()[-2:] == [used, "-"]
    assert "NotServed: Not served in time by db-1." in certctl("managed", "get", "web").out


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    file = tmp_path / "pass.txt"
    file.write_text("correct horse\n")
    file.chmod(0o600)
    return file


def test_export_encrypts_here_and_writes_three_files(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path, passphrase_file: Path
) -> None:
    web = make_leaf(root, "www.example.internal")
    fake.answer("GetManagedCertificate", ManagedCertificate(name=WEB, uid=UID))

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        response = exporting(web)(request, context)
        response.certificate.CopyFrom(encoded(web))
        response.chain.append(encoded(root))
        return response

    fake.answer("ExportManagedCertificate", answer)
    out = tmp_path / "deep" / "out"
    arguments = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", "pkcs8")
    ended = certctl(*arguments, "--out-dir", out)
    assert (ended.code, ended.err) == (0, "")
    assert str(out / "key.pem") in ended.out
    assert (out / "cert.pem").read_bytes() == web.certificate_pem
    assert (out / "chain.pem").read_bytes() == root.certificate_pem
    key = load_pem_private_key((out / "key.pem").read_bytes(), b"correct horse")
    assert key.public_key() == web.key.public_key()
    assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600
    # Neither the passphrase nor the plain key travelled or was printed.
    assert not any(request.HasField("passphrase") for request in fake.requests("ExportManagedCertificate"))
    pem = certctl(*arguments, "-o", "pem").out
    assert pem.count("BEGIN CERTIFICATE") == 2
    assert pem.count("BEGIN ENCRYPTED PRIVATE KEY") == 1


def test_an_export_for_people_needs_a_directory(fake: FakeServer, certctl: Certctl, passphrase_file: Path) -> None:
    ended = certctl("managed", "export", "web", "--passphrase-file", passphrase_file)
    assert ended.code == 2
    assert "--out-dir" in ended.err
    assert not fake.calls


def test_nothing_is_written_when_the_export_does_not_fit(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path, passphrase_file: Path
) -> None:
    fake.answer("GetManagedCertificate", ManagedCertificate(name=WEB, uid=UID))
    fake.answer("ExportManagedCertificate", exporting(make_leaf(root, "www.example.internal"), uid="another"))
    ended = certctl("managed", "export", "web", "--passphrase-file", passphrase_file, "--out-dir", tmp_path / "out")
    assert ended.code == 1
    assert ended.err.startswith("certctl: ANSWER_INCONSISTENT: ")
    assert not (tmp_path / "out").exists()
