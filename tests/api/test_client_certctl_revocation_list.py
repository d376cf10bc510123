"""`certctl authority crl`: what is asked, what is shown, and what is written."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.v1.authority_service_pb2 import RevocationList
from tests.certctl import CA, Certctl
from tests.fakes_server import FakeServer, Issued, make_leaf, running

SHOWN = RevocationList(
    authority=CA,
    key_number=1,
    number=1_900_000_000_000,
    entry_count=2,
    size_bytes=3,
    sha256_fingerprint=b"\x01" * 32,
    urls=["http://pki.example/crl/u/1.crl"],
    der=b"der",
)
WORDS = {"get": "GetRevocationList", "generate": "GenerateRevocationList"}


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


@pytest.mark.parametrize("word", WORDS)
def test_a_list_is_asked_for_and_shown(fake: FakeServer, certctl: Certctl, word: str) -> None:
    fake.answer(WORDS[word], SHOWN)
    ended = certctl("authority", "crl", word, "web-ca")
    assert ended.code == 0, ended.err
    for shown in ("1900000000000", "http://pki.example/crl/u/1.crl", "01" * 32, "it is complete"):
        assert shown in ended.out
    (request,) = fake.requests(WORDS[word])
    assert (request.name, request.key_number, request.partition) == (CA, 0, 0)


@pytest.mark.parametrize("word", WORDS)
def test_a_partition_of_a_key_is_written(fake: FakeServer, certctl: Certctl, word: str, tmp_path: Path) -> None:
    fake.answer(WORDS[word], SHOWN)
    out = tmp_path / "list.crl"
    ended = certctl("authority", "crl", word, "web-ca", "--key", "2", "--partition", "7", "--out", out)
    assert ended.code == 0, ended.err
    assert out.read_bytes() == b"der"
    (request,) = fake.requests(WORDS[word])
    assert (request.key_number, request.partition) == (2, 7)


def test_what_does_not_fit_is_fetched_elsewhere(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    large = RevocationList()
    large.CopyFrom(SHOWN)
    large.ClearField("der")
    fake.answer("GetRevocationList", large)
    ended = certctl("authority", "crl", "get", "web-ca", "--out", tmp_path / "list.crl")
    assert ended.code != 0
    assert "http://pki.example/crl/u/1.crl" in ended.err
    assert not (tmp_path / "list.crl").exists()


def test_pem_and_json(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetRevocationList", SHOWN)
    pem = certctl("authority", "crl", "get", "web-ca", "-o", "pem").out
    assert pem == "-----BEGIN X509 CRL-----\nZGVy\n-----END X509 CRL-----\n"
    assert json.loads(certctl("authority", "crl", "get", "web-ca", "-o", "json").out)["entryCount"] == "2"


@pytest.mark.parametrize("partition", ["0", "4097", "one"])
def test_a_partition_that_is_none_is_not_asked_for(fake: FakeServer, certctl: Certctl, partition: str) -> None:
    ended = certctl("authority", "crl", "get", "web-ca", "--partition", partition)
    assert ended.code == 2
    assert fake.requests("GetRevocationList") == []
