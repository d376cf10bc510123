"""`certctl authority`: keys that follow one another, cross-certificates, adoption."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.client.messages import timestamp
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    AuthorityCsr,
    CreateCrossCertificateResponse,
    ImportIssuedCertificatesResponse,
)
from certd.v1.x509_pb2 import KeySpec
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl, encoded
from tests.fakes_server import FakeServer, Issued, make_leaf, running

ID = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"
_END = timestamp(datetime(2040, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    keys = [
        Authority.Key(
            number=2,
            state=Authority.Key.PREPARED,
            certificate=encoded(root),
            cross_certificates=[encoded(root)],
            not_after_time=_END,
        ),
        Authority.Key(number=1, state=Authority.Key.ACTIVE, certificate=encoded(root), not_after_time=_END),
    ]
    with running(FakeServer(), server_leaf, root) as server:
        changed = Authority(name=CA, state=Authority.ENABLED, keys=keys)
        for verb in ("Prepare", "Activate", "Taint", "Retire"):
            server.answer(f"{verb}AuthorityKey", changed)
        yield server


def test_a_key_is_prepared_as_the_flags_say(fake: FakeServer, certctl: Certctl) -> None:
    ended = certctl(
        *("authority", "prepare-key", "web-ca", "--key", "EC_P384", "--lifetime", "20y", "--cross-certify"),
        *("--etag", "uid-3", "--request-id", ID),
    )
    assert ended.code == 0, ended.err
    assert "certctl authority get web-ca --key-number 2 -o pem" in ended.err
    assert "certctl authority activate-key web-ca 2" in ended.err
    assert "2  PREPARED until 2040-01-01" in ended.out
    assert "1 cross-certificate" in ended.out
    (request,) = fake.requests("PrepareAuthorityKey")
    assert (request.name, request.etag, request.request_id) == (CA, "uid-3", ID)
    assert (request.key_spec, request.cross_certify, request.validate_only) == (KeySpec.EC_P384, True, False)
    assert request.lifetime.ToTimedelta() == timedelta(days=7300)
    certctl("authority", "prepare-key", "web-ca")
    _, plain = fake.requests("PrepareAuthorityKey")
    assert not plain.HasField("lifetime")
    assert plain.request_id


def test_a_key_that_awaits_its_parent_says_what_to_do(fake: FakeServer, certctl: Certctl) -> None:
    awaiting = Authority.Key(number=2, state=Authority.Key.PREPARED)
    fake.answer("PrepareAuthorityKey", Authority(name=CA, keys=[awaiting, Authority.Key(number=1)]))
    ended = certctl("authority", "prepare-key", "web-ca")
    assert "certctl authority csr web-ca --key-number 2" in ended.err
    assert "without a certificate" in ended.out


@pytest.mark.parametrize("verb", ["activate", "taint", "retire"])
def test_the_other_steps_name_the_key(fake: FakeServer, certctl: Certctl, verb: str) -> None:
    ended = certctl("authority", f"{verb}-key", "web-ca", "1", "--request-id", ID, "--validate-only")
    assert ended.code == 0, ended.err
    assert "nothing was changed" in ended.err
    (request,) = fake.requests(f"{verb.capitalize()}AuthorityKey")
    assert (request.name, request.key_number, request.request_id, request.validate_only) == (CA, 1, ID, True)
    assert certctl("authority", f"{verb}-key", "web-ca", "0").code == 2


def test_a_key_is_retired_although_something_is_alive(fake: FakeServer, certctl: Certctl) -> None:
    certctl("authority", "retire-key", "web-ca", "1", "--allow-live-certificates")
    (request,) = fake.requests("RetireAuthorityKey")
    assert request.allow_live_certificates


def test_csr_and_activation_name_a_key(fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path) -> None:
    fake.answer("GetAuthorityCsr", AuthorityCsr(pem="csr"))
    fake.answer("ActivateAuthority", Authority(name=CA))
    (tmp_path / "ca.pem").write_text(encoded(root).pem)
    certctl("authority", "csr", "web-ca", "--key-number", "2")
    certctl("authority", "csr", "web-ca")
    certctl("authority", "activate", "web-ca", "--certificate", tmp_path / "ca.pem", "--chain", tmp_path / "ca.pem",
            "--key-number", "2")  # fmt: skip
    assert [request.key_number for request in fake.requests("GetAuthorityCsr")] == [2, 0]
    assert fake.requests("ActivateAuthority")[0].key_number == 2


def test_a_cross_certificate_is_made_and_written(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    made = CreateCrossCertificateResponse(
        certificate_name=f"{CA}/certificates/0a",
        certificate=encoded(root),
        warnings=[ApiWarning(field="certificate", message="narrowed")],
    )
    fake.answer("CreateCrossCertificate", made)
    (tmp_path / "partner.pem").write_text(encoded(root).pem)
    command = ("authority", "cross-certify", "web-ca", "--certificate", tmp_path / "partner.pem")
    ended = certctl(*command, "--lifetime", "2y", "--out", tmp_path / "cross.pem")
    assert ended.code == 0, ended.err
    assert "narrowed" in ended.err
    assert f"{CA}/certificates/0a" in ended.out
    assert (tmp_path / "cross.pem").read_text() == encoded(root).pem
    (request,) = fake.requests("CreateCrossCertificate")
    assert (request.parent, request.certificate) == (CA, encoded(root).pem.encode())
    assert certctl(*command, "-o", "pem").out == encoded(root).pem
    assert certctl(*command, "--validate-only").out == ""


def test_an_authority_is_adopted(fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path) -> None:
    fake.answer("AdoptAuthority", Authority(name=CA, state=Authority.ENABLED))
    (tmp_path / "root.pem").write_text(encoded(root).pem)
    ended = certctl(
        *("authority", "adopt", "web-ca", "--key-id", "a1:b2", "--certificate", tmp_path / "root.pem"),
        *("--label", "a=b", "--no-ocsp", "--request-id", ID),
    )
    assert ended.code == 0, ended.err
    assert "import-issued web-ca" in ended.err
    (request,) = fake.requests("AdoptAuthority")
    assert (request.parent, request.authority_id, request.key_id) == ("tenants/default", "web-ca", "a1:b2")
    assert (request.certificate, request.chain) == (encoded(root).pem.encode(), b"")
    assert (dict(request.labels), request.revocation.ocsp.enabled) == ({"a": "b"}, False)


def test_what_was_issued_is_sent_in_calls_that_are_not_too_large(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    key = Authority.Key(number=1, certificate=encoded(root), public_key=_public_key(root), not_after_time=_END)
    fake.answer("GetAuthority", Authority(name=CA, key=key, keys=[key]))
    fake.answer(
        "ImportIssuedCertificates",
        ImportIssuedCertificatesResponse(imported_count=900, unchanged_count=100, revoked_count=1),
    )
    lines = [f"V\t270301120000Z\t\t{serial:04X}\tunknown\t/CN=leaf\n" for serial in range(1, 2502)]
    # Twice the same, as a copied line is.
    (tmp_path / "index.txt").write_text("".join([*lines, lines[0]]))
    ended = certctl(
        *("authority", "import-issued", "web-ca", "--format", "openssl-index", tmp_path / "index.txt"),
        *("--next-crl-number", "99"),
    )
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == ["Imported            2,700", "Known, now revoked  3", "Known, unchanged    300"]
    requests = fake.requests("ImportIssuedCertificates")
    assert [len(request.certificates) for request in requests] == [1000, 1000, 501]
    assert [request.next_crl_number for request in requests] == [0, 0, 99]
    assert {(request.parent, request.key_number) for request in requests} == {(CA, 1)}


def test_the_certificate_of_a_prepared_key_is_printed(fake: FakeServer, certctl: Certctl, root: Issued) -> None:
    keys = [Authority.Key(number=number) for number in (3, 2, 1)]
    keys[1].certificate.CopyFrom(encoded(root))
    fake.answer("GetAuthority", Authority(name=CA, keys=keys))
    ended = certctl("authority", "get", "web-ca", "--key-number", "2", "-o", "pem")
    assert (ended.code, ended.out) == (0, encoded(root).pem), ended.err
    ended = certctl("authority", "get", "web-ca", "--key-number", "3", "-o", "pem")
    assert (ended.code, "no key 3 with a certificate; keys with one: 2" in ended.err) == (1, True)
    ended = certctl("authority", "get", "web-ca", "--key-number", "2")
    assert (ended.code, "for -o pem" in ended.err) == (2, True)


def test_cross_certificates_are_printed_for_who_trusts_another_key(
    fake: FakeServer, certctl: Certctl, root: Issued, server_leaf: Issued
) -> None:
    crossed = [encoded(root), encoded(server_leaf)]
    keys = [Authority.Key(number=2, cross_certificates=crossed), Authority.Key(number=1, certificate=encoded(root))]
    fake.answer("GetAuthority", Authority(name=CA, key=Authority.Key(number=2), keys=keys))
    command = ("authority", "get", "web-ca", "--cross-certificates")
    ended = certctl(*command, "-o", "pem")
    assert (ended.code, ended.out) == (0, crossed[0].pem + crossed[1].pem), ended.err
    ended = certctl(*command, "--key-number", "1", "-o", "pem")
    assert (ended.code, "no key 1 with a cross-certificate; keys with one: 2" in ended.err) == (1, True)
    assert (certctl(*command).code, fake.requests("GetAuthority")[2:]) == (2, [])


def test_files_without_anything_of_the_key_are_refused(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    key = Authority.Key(number=1, certificate=encoded(root), public_key=_public_key(root), not_after_time=_END)
    fake.answer("GetAuthority", Authority(name=CA, key=key, keys=[key]))
    (tmp_path / "index.txt").write_text("")
    ended = certctl("authority", "import-issued", "web-ca", "--format", "openssl-index", tmp_path / "index.txt")
    assert (ended.code, "nothing in the files" in ended.err) == (1, True)
    ended = certctl("authority", "import-issued", "web-ca", "--format", "step-ca", "--key-number", "2", tmp_path)
    assert (ended.code, "no key 2" in ended.err) == (1, True)


def _public_key(issued: Issued) -> bytes:
    return issued.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
