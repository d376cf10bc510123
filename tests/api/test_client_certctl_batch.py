"""certctl certificate issue-batch against a server of our own: what it asks, what it writes, what a second run does."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certd.client.messages import timestamp
from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    BatchIssueCertificatesResponse,
    IssueCertificateRequest,
    ItemError,
)
from certd.v1.x509_pb2 import CertificateDescription
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl, Ended, encoded, settle
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf


class Batch:
    """A directory of requests, a server that issues for them, and certctl."""

    def __init__(self, folder: Path, fake: FakeServer, certctl: Certctl, root: Issued) -> None:
        self.requests = folder / "requests"
        self.out = folder / "out"
        self.requests.mkdir()
        self.fake = fake
        self.certctl = certctl
        self.root = root
        self.keys: dict[bytes, ec.EllipticCurvePrivateKey] = {}
        self.refused: set[bytes] = set()
        fake.answer("BatchIssueCertificates", self.issue)

    def request(self, name: str, *, refused: bool = False) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(Encoding.PEM)
        (self.requests / name).write_bytes(pem)
        self.keys[pem] = key
        if refused:
            self.refused.add(pem)
        return pem

    def issue(self, request: BatchIssueCertificatesRequest, _: Any) -> BatchIssueCertificatesResponse:
        return BatchIssueCertificatesResponse(
            results=[self.result(one) for one in request.requests], chain=[encoded(self.root)]
        )

    def result(self, one: IssueCertificateRequest) -> BatchIssueCertificatesResponse.Result:
        if one.csr in self.refused:
            error = ItemError(code=3, reason="NAME_NOT_ALLOWED", message="no such name\nmay be")
            return BatchIssueCertificatesResponse.Result(error=error)
        leaf = make_leaf(self.root, "www.example.internal", key=self.keys[one.csr])
        certificate = Certificate(
            name=f"{CA}/certificates/0a1b",
            certificate=encoded(leaf),
            description=CertificateDescription(
                serial_number="0a1b", not_after_time=timestamp(leaf.certificate.not_valid_after_utc)
            ),
            warnings=[ApiWarning(field="csr.extensions", message="one was dropped")],
        )
        return BatchIssueCertificatesResponse.Result(certificate=certificate)

    def run(self, *arguments: str | Path) -> Ended:
        return self.certctl(
            *("certificate", "issue-batch", "--authority", "web-ca"),
            *("--csr-dir", self.requests, "--out-dir", self.out, *arguments),
        )

    def asked(self) -> list[IssueCertificateRequest]:
        return [one for call in self.fake.requests("BatchIssueCertificates") for one in call.requests]


@pytest.fixture
def batch(
    fake: FakeServer, root: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Batch:
    settle(tmp_path / "home", fake, root, monkeypatch)
    return Batch(tmp_path, fake, Certctl(capsys), root)


def rows(ended: Ended) -> list[list[str]]:
    return [line.split()[:2] for line in ended.out.splitlines()[1:]]


def test_every_request_of_a_directory_gets_its_certificate(batch: Batch, tmp_path: Path, root: Issued) -> None:
    first, second = batch.request("a.csr"), batch.request("b.csr")
    (batch.requests / "b.key").write_text("not a request")
    chain = tmp_path / "chain.pem"
    ended = batch.run("--profile", "server", "--lifetime", "30d", "--label", "team=web", "--chain-out", chain)
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "certctl: warning: a.csr: csr.extensions: one was dropped",
        "certctl: warning: b.csr: csr.extensions: one was dropped",
        "certctl: 2 issued",
    ]
    assert rows(ended) == [["a.csr", "ISSUED"], ["b.csr", "ISSUED"]]
    (call,) = batch.fake.requests("BatchIssueCertificates")
    assert (call.parent, call.validate_only) == (CA, False)
    assert [one.csr for one in call.requests] == [first, second]
    for one in call.requests:
        assert (one.profile, one.lifetime.seconds) == ("tenants/default/profiles/server", 30 * 86400)
        assert dict(one.labels) == {"team": "web"}
    assert len({UUID(one.request_id) for one in call.requests}) == 2
    for name, csr in (("a.pem", first), ("b.pem", second)):
        certificate = x509.load_pem_x509_certificate((batch.out / name).read_bytes())
        assert certificate.public_key() == batch.keys[csr].public_key()
    assert chain.read_bytes() == root.certificate_pem


def test_a_second_run_issues_only_what_is_missing(batch: Batch) -> None:
    batch.request("a.csr")
    batch.request("b.csr", refused=True)
    first = batch.run()
    assert first.code == 1
    assert rows(first) == [["a.csr", "ISSUED"], ["b.csr", "FAILED"]]
    assert "NAME_NOT_ALLOWED: no such name\\nmay be" in first.out
    assert "1 issued, 1 failed; run it again" in first.err
    kept = (batch.out / "a.pem").read_bytes()
    batch.refused.clear()
    second = batch.run()
    assert second.code == 0
    assert rows(second) == [["a.csr", "KEPT"], ["b.csr", "ISSUED"]]
    assert (batch.out / "a.pem").read_bytes() == kept
    a, b, again = batch.asked()
    assert again == b
    assert a.request_id != b.request_id
    third = batch.run()
    assert (third.code, rows(third)) == (0, [["a.csr", "KEPT"], ["b.csr", "KEPT"]])
    assert len(batch.asked()) == 3


def test_an_answer_that_was_lost_is_asked_for_by_the_same_request_id(batch: Batch) -> None:
    batch.request("a.csr")
    batch.fake.answer("BatchIssueCertificates", Failing(code=grpc.StatusCode.PERMISSION_DENIED))
    assert batch.run().code == 1
    batch.fake.answer("BatchIssueCertificates", batch.issue)
    assert batch.run().code == 0
    lost, found = batch.asked()
    assert lost.request_id == found.request_id
    # What is asked for otherwise is another request, and so is a batch of another id.
    (batch.out / "a.pem").unlink()
    batch.run("--lifetime", "1d")
    (batch.out / "a.pem").unlink()
    batch.run("--request-id", "3f6c1a52-7b64-4dc5-9a3b-6a9c3b7f1d20")
    (batch.out / "a.pem").unlink()
    batch.run()
    *_, other, given, remembered = batch.asked()
    assert len({found.request_id, other.request_id, given.request_id}) == 3
    assert remembered == given


def test_what_is_only_checked_is_not_written(batch: Batch) -> None:
    batch.request("a.csr")
    ended = batch.run("--validate-only")
    assert (ended.code, rows(ended)) == (0, [["a.csr", "CHECKED"]])
    assert "0a1b" not in ended.out
    assert batch.fake.requests("BatchIssueCertificates")[0].validate_only
    assert not batch.out.exists()


def test_many_requests_go_in_several_calls(batch: Batch) -> None:
    pem = batch.request("first.csr")
    for number in range(104):
        (batch.requests / f"n{number:03}.csr").write_bytes(pem)
    ended = batch.run("-o", "json")
    assert (ended.code, ended.err) == (0, "")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["file"] for line in lines] == ["first.csr", *(f"n{number:03}.csr" for number in range(104))]
    assert {line["result"] for line in lines} == {"ISSUED"}
    assert lines[0]["certificate"]["name"] == f"{CA}/certificates/0a1b"
    assert [len(call.requests) for call in batch.fake.requests("BatchIssueCertificates")] == [100, 5]
    assert len({one.request_id for one in batch.asked()}) == 105


def test_no_call_is_larger_than_the_server_takes(batch: Batch) -> None:
    pem = batch.request("000.csr")
    padded = pem + b"#" * 31_000
    batch.keys[padded] = batch.keys[pem]
    for number in range(90):
        (batch.requests / f"{number:03}.csr").write_bytes(padded)
    assert batch.run().code == 0
    calls = batch.fake.requests("BatchIssueCertificates")
    assert sum(len(call.requests) for call in calls) == 90
    assert len(calls) == 2
    assert all(call.ByteSize() < 2_500_000 for call in calls)


def test_what_cannot_be_a_request_or_would_be_overwritten_fails_alone(batch: Batch) -> None:
    batch.request("good.csr")
    (batch.requests / "large.csr").write_bytes(b"x" * 40_000)
    key = ec.generate_private_key(ec.SECP256R1())
    (batch.requests / "key.csr").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + b"more"
    )
    batch.request("other.csr")
    batch.out.mkdir()
    (batch.out / "other.pem").write_bytes(batch.root.certificate_pem)
    ended = batch.run("-o", "json")
    assert ended.code == 1
    told = {line["file"]: line for line in map(json.loads, ended.out.splitlines())}
    assert {name: line["result"] for name, line in told.items()} == {
        "good.csr": "ISSUED",
        "key.csr": "FAILED",
        "large.csr": "FAILED",
        "other.csr": "FAILED",
    }
    assert "private key" in told["key.csr"]["error"]["message"]
    assert "another key" in told["other.csr"]["error"]["message"]
    assert (batch.out / "other.pem").read_bytes() == batch.root.certificate_pem
    assert len(batch.asked()) == 1


def test_pem_is_that_of_every_certificate_that_there_is(batch: Batch) -> None:
    batch.request("a.csr")
    batch.request("b.csr")
    first = batch.run("-o", "pem")
    assert first.out.count("BEGIN CERTIFICATE") == 2
    assert batch.run("-o", "pem").out == first.out


@pytest.mark.parametrize(
    ("names", "arguments", "code", "told"),
    [
        ((), (), 1, "no file of"),
        (("a.csr", "a.pem"), ("--pattern", "*"), 1, "would both become"),
        (("a.csr",), ("--lifetime", "1d", "--not-after", "2030-01-01T00:00:00Z"), 2, "give one"),
        (("a.csr",), ("--request-id", "7"), 2, "not a valid UUID"),
    ],
)
def test_what_makes_no_batch_asks_nothing(
    batch: Batch, names: tuple[str, ...], arguments: tuple[str, ...], code: int, told: str
) -> None:
    for name in names:
        batch.request(name)
    ended = batch.run(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert told in ended.err
    assert not batch.fake.calls


def test_requests_and_certificates_lie_apart(batch: Batch) -> None:
    batch.request("a.csr")
    ended = batch.run("--out-dir", batch.requests)
    assert (ended.code, ended.out) == (2, "")
    assert "are the same" in ended.err


def test_a_request_id_that_is_none_is_told(batch: Batch) -> None:
    batch.request("a.csr")
    batch.out.mkdir()
    (batch.out / ".request-id").write_text("seven\n")
    ended = batch.run()
    assert ended.code == 1
    assert "delete it" in ended.err
