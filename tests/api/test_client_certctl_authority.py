"""`certctl authority`: outside parents, name constraints, and what becomes of an authority."""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import AuthorityCsr
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    NameConstraints,
    RelativeDistinguishedName,
    Subtrees,
)
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl, encoded
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, running

CSR = AuthorityCsr(der=b"der", pem="-----BEGIN CERTIFICATE REQUEST-----\nZGVy\n-----END CERTIFICATE REQUEST-----\n")
REQUEST_ID = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


def named(organization: str) -> DistinguishedName:
    attribute = AttributeTypeAndValue(type="O", value=organization)
    return DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName(attributes=[attribute])])


def test_without_an_issuer_it_awaits_and_the_next_step_is_told(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateAuthority", Authority(name=CA, state=Authority.AWAITING_CERTIFICATE))
    ended = certctl("authority", "create", "web-ca", "--type", "subordinate", "--subject", "CN=CA")
    assert ended.code == 0
    assert "AWAITING_CERTIFICATE" in ended.out
    assert "certctl authority csr web-ca" in ended.err
    (request,) = fake.requests("CreateAuthority")
    assert request.authority.issuer == ""
    assert request.authority.type == Authority.SUBORDINATE
    assert not request.authority.HasField("name_constraints")


def test_name_constraints_are_sent_as_the_flags_say(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateAuthority", Authority(name=CA, state=Authority.ENABLED))
    ended = certctl(
        *("authority", "create", "web-ca", "--type", "subordinate", "--issuer", "root", "--subject", "CN=CA"),
        *("--permit-dns", "a.internal", "--permit-dns", "b.internal", "--permit-ip", "192.0.2.0/24"),
        *("--permit-directory", "O=Example", "--exclude-uri", ".bad.internal", "--exclude-email", "bad.internal"),
        *("--exclude-dns", ""),
    )
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("CreateAuthority")
    assert request.authority.name_constraints == NameConstraints(
        permitted=Subtrees(
            dns_names=["a.internal", "b.internal"], ip_ranges=["192.0.2.0/24"], directory_names=[named("Example")]
        ),
        excluded=Subtrees(dns_names=[""], uri_hosts=[".bad.internal"], email_addresses=["bad.internal"]),
    )


def test_name_constraints_and_etag_are_shown(fake: FakeServer, certctl: Certctl) -> None:
    constraints = NameConstraints(
        permitted=Subtrees(dns_names=["a.internal"], directory_names=[named("Example")]),
        excluded=Subtrees(dns_names=[""]),
    )
    fake.answer("GetAuthority", Authority(name=CA, name_constraints=constraints, etag="uid-3"))
    ended = certctl("authority", "get", "web-ca")
    for line in ("dns a.internal", "directory O=Example", "dns every one", "uid-3"):
        assert line in ended.out


def test_the_card_tells_what_is_served_where(fake: FakeServer, certctl: Certctl, root: Issued) -> None:
    shown = Authority(name=CA, uid="4aa1", certificate=encoded(root), key=Authority.Key(number=2))
    shown.revocation.crl.enabled = True
    fake.answer("GetAuthority", shown)
    words = certctl("authority", "get", "web-ca").out.split()
    assert ("/ca/4aa1/2.cer" in words, "/crl/4aa1/2.crl" in words, "/ocsp/4aa1/2" in words) == (True, True, False)


def test_the_csr_is_printed_or_written(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    fake.answer("GetAuthorityCsr", CSR)
    for arguments in ((), ("-o", "pem")):
        ended = certctl("authority", "csr", "web-ca", *arguments)
        assert (ended.code, ended.out, ended.err) == (0, CSR.pem, "")
    assert [request.name for request in fake.requests("GetAuthorityCsr")] == [CA, CA]
    assert json.loads(certctl("authority", "csr", "web-ca", "-o", "json").out)["pem"] == CSR.pem
    ended = certctl("authority", "csr", "web-ca", "--out", tmp_path / "ca.csr")
    assert (ended.code, ended.out) == (0, "")
    assert (tmp_path / "ca.csr").read_text() == CSR.pem


def test_activation_sends_both_files_and_tells_the_warnings(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    (tmp_path / "own.pem").write_bytes(b"certificate")
    (tmp_path / "chain.pem").write_bytes(b"chain")
    warning = ApiWarning(field="chain", message="was sorted")
    fake.answer(
        "ActivateAuthority",
        Authority(name=CA, state=Authority.ENABLED, certificate=encoded(root), warnings=[warning]),
    )
    arguments = ("authority", "activate", "web-ca", "--certificate", tmp_path / "own.pem")
    ended = certctl(*arguments, "--chain", tmp_path / "chain.pem", "--etag", "uid-3", "--request-id", REQUEST_ID)
    assert ended.code == 0
    assert "ENABLED" in ended.out
    assert "warning: chain: was sorted" in ended.err
    (request,) = fake.requests("ActivateAuthority")
    assert (request.name, request.certificate, request.chain) == (CA, b"certificate", b"chain")
    assert (request.etag, request.request_id, request.validate_only) == ("uid-3", REQUEST_ID, False)
    ended = certctl(*arguments, "--chain", tmp_path / "chain.pem", "--validate-only")
    assert "nothing was changed" in ended.err
    assert fake.requests("ActivateAuthority")[-1].validate_only
    assert not fake.requests("ActivateAuthority")[-1].allow_broken_certificates
    certctl(*arguments, "--chain", tmp_path / "chain.pem", "--allow-broken-certificates")
    assert fake.requests("ActivateAuthority")[-1].allow_broken_certificates


def test_a_file_that_is_absent_or_too_long_asks_nothing(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    (tmp_path / "long.pem").write_bytes(b"x" * (32 * 1024 + 1))
    for name, says in (("absent.pem", "cannot be read"), ("long.pem", "longer than a certificate may be")):
        ended = certctl("authority", "activate", "web-ca", "--certificate", tmp_path / name, "--chain", "c.pem")
        assert ended.code == 1
        assert says in ended.err
    assert not fake.calls


@pytest.mark.parametrize("word", ["enable", "disable"])
def test_enable_and_disable(fake: FakeServer, certctl: Certctl, word: str) -> None:
    method = f"{word.capitalize()}Authority"
    fake.answer(method, Authority(name=CA, state=Authority.DISABLED))
    ended = certctl("authority", word, "web-ca", "--etag", "uid-3", "--request-id", REQUEST_ID, "--validate-only")
    assert ended.code == 0
    assert "DISABLED" in ended.out
    (request,) = fake.requests(method)
    assert (request.name, request.etag, request.request_id) == (CA, "uid-3", REQUEST_ID)
    assert request.validate_only
    fake.answer(
        method,
        Failing(
            code=grpc.StatusCode.FAILED_PRECONDITION, reason="STATE_FORBIDS", message="it is EXPIRED: make another"
        ),
    )
    ended = certctl("authority", word, "web-ca")
    assert (ended.code, ended.err) == (1, "certctl: STATE_FORBIDS: it is EXPIRED: make another\n")


def test_labels_are_replaced(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("UpdateAuthority", Authority(name=CA, labels={"team": "web"}))
    ended = certctl("authority", "update", "web-ca", "--label", "team=web", "--label", "a=b", "--etag", "uid-3")
    assert ended.code == 0
    assert "team=web" in ended.out
    certctl("authority", "update", "web-ca", "--no-labels")
    first, second = fake.requests("UpdateAuthority")
    assert (first.authority.name, first.authority.etag) == (CA, "uid-3")
    assert dict(first.authority.labels) == {"team": "web", "a": "b"}
    assert (list(first.update_mask.paths), list(second.update_mask.paths)) == (["labels"], ["labels"])
    assert dict(second.authority.labels) == {}
