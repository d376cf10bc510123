"""Exports: what is opened fits what was asked for, or nothing comes out."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from certd.client.connection import Client
from certd.client.credentials import read_credentials
from certd.client.export import ANSWER_INCONSISTENT, export_to_one_time_key, export_under_passphrase
from certd.client.failure import CallFailed
from certd.pki import pkcs8
from certd.pki.sealing import Purpose, SealContext, export_info, hpke_encrypt
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ExportManagedCertificateResponse
from certd.v1.x509_pb2 import EncodedCertificate
from tests.fakes_server import FakeServer, Issued, make_leaf, running, write_credentials

NAME = "tenants/acme/managedCertificates/web"
UID = "uid-of-web"


@pytest.fixture(scope="module")
def web(root: Issued) -> Issued:
    return make_leaf(root, "www.example.internal")


@pytest.fixture
def fake(root: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), make_leaf(root, "localhost"), root) as server:
        server.answer("GetManagedCertificate", ManagedCertificate(name=NAME, uid=UID, current_version=3))
        yield server


@pytest.fixture
def client(fake: FakeServer, root: Issued, tmp_path: Path) -> Iterator[Client]:
    files = write_credentials(tmp_path, make_leaf(root, "client.internal"), root)
    credentials = read_credentials(
        certificate=files.certificate, private_key=files.private_key, trust_bundle=files.trust_bundle
    )
    with Client(fake.address, credentials) as made:
        yield made


def private_key_info(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki_hash(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def exporting(
    web: Issued,
    *,
    tenant: str = "opaque-id-of-acme",
    uid: str = UID,
    version: int = 3,
    sealed_version: int = 3,
    key: ec.EllipticCurvePrivateKey | None = None,
    plaintext: bytes | None = None,
    flip: bool = False,
) -> Callable[[Any, grpc.ServicerContext], ExportManagedCertificateResponse]:
    """Returns the answer of a server that seals in the given context; by default an honest one."""
    sealed_key = key or web.key

    def answer(request: Any, _: grpc.ServicerContext) -> ExportManagedCertificateResponse:
        context = SealContext(
            tenant=tenant,
            certificate=uid,
            version=sealed_version,
            purpose=Purpose.CUSTODY,
            exportable=True,
            public_key_sha256=spki_hash(web.key),
        )
        info = export_info(context)
        sealed = hpke_encrypt(
            plaintext or private_key_info(sealed_key), recipient_public_key=request.recipient.public_key, info=info
        )
        if flip:
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        return ExportManagedCertificateResponse(
            version=version,
            certificate=EncodedCertificate(der=web.certificate.public_bytes(Encoding.DER)),
            sealed_private_key=sealed,
            hpke_info=info,
        )

    return answer


def test_an_honest_export_opens(fake: FakeServer, client: Client, web: Issued) -> None:
    fake.answer("ExportManagedCertificate", exporting(web))
    exported = export_to_one_time_key(client, NAME, reason="a test")
    assert exported.private_key_info == private_key_info(web.key)
    assert exported.response.version == 3
    (request,) = fake.requests("ExportManagedCertificate")
    assert (request.name, request.reason, request.version) == (NAME, "a test", 0)
    assert not request.HasField("passphrase")
    assert repr(exported) == "Exported(version=3)"


def test_every_export_has_a_key_of_its_own(fake: FakeServer, client: Client, web: Issued) -> None:
    fake.answer("ExportManagedCertificate", exporting(web))
    export_to_one_time_key(client, NAME)
    export_to_one_time_key(client, NAME)
    first, second = fake.requests("ExportManagedCertificate")
    assert first.recipient.public_key != second.recipient.public_key


@pytest.mark.parametrize(
    "lie",
    [
        {"uid": "uid-of-another"},
        {"sealed_version": 2},
        {"flip": True},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"plaintext": b"no key at all"},
    ],
    ids=["certificate", "version", "bit", "key", "garbage"],
)
def test_an_export_of_something_else_is_refused(
    fake: FakeServer, client: Client, web: Issued, lie: dict[str, Any]
) -> None:
    fake.answer("ExportManagedCertificate", exporting(web, **lie))
    with pytest.raises(CallFailed) as caught:
        export_to_one_time_key(client, NAME)
    assert caught.value.reason == ANSWER_INCONSISTENT


@pytest.mark.parametrize("info", [b"", b"\xff" * 40, b"\x00\x00\x00\x00\x00\x00\x00\x02\xff\xfe"])
def test_a_context_that_is_none_is_refused(fake: FakeServer, client: Client, web: Issued, info: bytes) -> None:
    def answer(request: Any, context: grpc.ServicerContext) -> ExportManagedCertificateResponse:
        response = exporting(web)(request, context)
        response.hpke_info = info
        return response

    fake.answer("ExportManagedCertificate", answer)
    with pytest.raises(CallFailed) as caught:
        export_to_one_time_key(client, NAME)
    assert caught.value.reason == ANSWER_INCONSISTENT


def test_another_version_than_asked_for_is_refused(fake: FakeServer, client: Client, web: Issued) -> None:
    fake.answer("ExportManagedCertificate", exporting(web))
    with pytest.raises(CallFailed, match="version 3 came instead of 2"):
        export_to_one_time_key(client, NAME, version=2)


def under_passphrase(
    web: Issued, passphrase: bytes, key: ec.EllipticCurvePrivateKey
) -> ExportManagedCertificateResponse:
    return ExportManagedCertificateResponse(
        version=3,
        certificate=EncodedCertificate(der=web.certificate.public_bytes(Encoding.DER)),
        encrypted_private_key_pem=pkcs8.to_pem(pkcs8.encrypt(private_key_info(key), passphrase)).decode(),
    )


def test_an_export_under_a_passphrase_is_checked_too(fake: FakeServer, client: Client, web: Issued) -> None:
    fake.answer("ExportManagedCertificate", under_passphrase(web, b"correct horse", web.key))
    assert export_under_passphrase(client, NAME, passphrase=b"correct horse").version == 3
    with pytest.raises(CallFailed, match="does not open"):
        export_under_passphrase(client, NAME, passphrase=b"battery staple")
    with pytest.raises(CallFailed, match="version 3 came instead of 1"):
        export_under_passphrase(client, NAME, passphrase=b"correct horse", version=1)
    fake.answer(
        "ExportManagedCertificate", under_passphrase(web, b"correct horse", ec.generate_private_key(ec.SECP256R1()))
    )
    with pytest.raises(CallFailed, match="does not belong"):
        export_under_passphrase(client, NAME, passphrase=b"correct horse")
