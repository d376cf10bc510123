"""Leases by a client: what it signs, what it takes, and that it takes nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from certd.client.connection import Client
from certd.client.credentials import Credentials, read_credentials
from certd.client.failure import CallFailed
from certd.client.lease import lease
from certd.client.messages import moment
from certd.errors import CertdError, Reason
from certd.pki.lease import lease_statement, verify_lease_signature
from certd.pki.sealing import hpke_encrypt
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_service_pb2 import LeaseKeyResponse
from tests.certctl import encoded
from tests.fakes_server import FakeServer, Issued, make_leaf, write_credentials

CONSUMER = "spiffe://certd.internal/tenants/acme/identities/machine"
ASSOCIATION = Association(
    name="tenants/acme/managedCertificates/web/associations/machine",
    consumer_spiffe_id=CONSUMER,
    tenant_uid="uid-of-acme",
    managed_certificate_uid="uid-of-web",
    current_version=3,
)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def credentials_of(key: Key, uri: str = CONSUMER, *more: str) -> Credentials:
    """What an identity has, from an authority that nobody asks about here."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if uri:
        uris = [x509.UniformResourceIdentifier(each) for each in (uri, *more)]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=True)
    certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return Credentials(
        certificate_chain=certificate.public_bytes(Encoding.PEM),
        private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        trust_bundle=b"",
        not_after=now,
    )


MACHINE = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def web(root: Issued) -> Issued:
    return make_leaf(root, "www.example.internal")


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


def statement_of(request: Any, **changes: Any) -> bytes:
    """What a request is a request for, as the server knows it."""
    values = {
        "tenant": ASSOCIATION.tenant_uid,
        "certificate": ASSOCIATION.managed_certificate_uid,
        "version": request.version,
        "consumer": CONSUMER,
        "public_key": request.public_key,
        "sign_time": moment(request.sign_time),
    }
    return lease_statement(**(values | changes))


def leasing(
    web: Issued, *, version: int = 0, plaintext: bytes | None = None, flip: bool = False, **statement: Any
) -> Callable[[Any, grpc.ServicerContext], LeaseKeyResponse]:
    """Returns the answer of a server that seals under such a statement; by default an honest one."""

    def answer(request: Any, _: grpc.ServicerContext) -> LeaseKeyResponse:
        sealed = hpke_encrypt(
            plaintext or private_key_info(web.key),
            recipient_public_key=request.public_key,
            info=statement_of(request, **statement),
        )
        return LeaseKeyResponse(
            version=version or request.version,
            certificate=encoded(web),
            sealed_private_key=sealed[:-1] + bytes([sealed[-1] ^ flip]),
        )

    return answer


@pytest.mark.parametrize(
    "key",
    [
        MACHINE,
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_an_identity_signs_and_an_honest_answer_opens(fake: FakeServer, client: Client, web: Issued, key: Key) -> None:
    fake.answer("LeaseKey", leasing(web))
    credentials = credentials_of(key)
    leased = lease(client, ASSOCIATION, 0, credentials)
    assert leased.private_key_info == private_key_info(web.key)
    assert repr(leased) == "Leased(version=3)"
    (request,) = fake.requests("LeaseKey")
    assert (request.name, request.version) == (ASSOCIATION.name, 3)
    signed = verify_lease_signature(
        key.public_key().public_bytes(*_SPKI), statement=statement_of(request), signature=request.signature
    )
    assert signed
    shown = x509.load_der_x509_certificate(request.certificate)
    assert shown == x509.load_pem_x509_certificate(credentials.certificate_chain)
    assert abs(moment(request.sign_time) - datetime.now(UTC)) < timedelta(minutes=1)


def test_every_lease_has_a_key_and_a_statement_of_its_own(fake: FakeServer, client: Client, web: Issued) -> None:
    fake.answer("LeaseKey", leasing(web))
    for _ in range(2):
        lease(client, ASSOCIATION, 2, credentials_of(MACHINE))
    first, second = fake.requests("LeaseKey")
    assert first.version == second.version == 2
    assert first.public_key != second.public_key
    assert first.signature != second.signature


@pytest.mark.parametrize(
    "lie",
    [
        {"version": 2},
        {"certificate": "uid-of-another"},
        {"tenant": "uid-of-another"},
        {"consumer": "spiffe://certd.internal/identities/another"},
        {"sign_time": datetime(2030, 1, 1, tzinfo=UTC)},
        {"flip": True},
        {"plaintext": private_key_info(ec.generate_private_key(ec.SECP256R1()))},
        {"plaintext": b"no key at all"},
    ],
    ids=["version", "certificate", "tenant", "consumer", "time", "bit", "key", "garbage"],
)
def test_what_was_not_signed_for_is_not_taken(
    fake: FakeServer, client: Client, web: Issued, lie: dict[str, Any]
) -> None:
    fake.answer("LeaseKey", leasing(web, **lie))
    with pytest.raises(CallFailed) as refused:
        lease(client, ASSOCIATION, 3, credentials_of(MACHINE))
    assert refused.value.reason == "ANSWER_INCONSISTENT"
    assert ASSOCIATION.name in refused.value.message


def test_an_older_version_under_the_number_of_the_new_one_is_not_taken(
    fake: FakeServer, client: Client, web: Issued
) -> None:
    def older(request: Any, context: grpc.ServicerContext) -> LeaseKeyResponse:
        answer = leasing(web)(request, context)
        answer.sealed_private_key = hpke_encrypt(
            private_key_info(web.key), recipient_public_key=request.public_key, info=statement_of(request, version=2)
        )
        return answer

    fake.answer("LeaseKey", older)
    with pytest.raises(CallFailed, match="encrypted for something else"):
        lease(client, ASSOCIATION, 3, credentials_of(MACHINE))


@pytest.mark.parametrize(
    "uris", [("spiffe://certd.internal/identities/other",), ("",), (CONSUMER, "spiffe://certd.internal/identities/x")]
)
def test_nobody_signs_for_another_consumer(fake: FakeServer, client: Client, uris: tuple[str, ...]) -> None:
    with pytest.raises(CertdError) as refused:
        lease(client, ASSOCIATION, 3, credentials_of(MACHINE, *uris))
    assert refused.value.reason is Reason.CREDENTIAL_INVALID
    assert not fake.requests("LeaseKey")


def test_what_has_no_version_is_not_leased(fake: FakeServer, client: Client) -> None:
    pending = Association()
    pending.CopyFrom(ASSOCIATION)
    pending.current_version = 0
    with pytest.raises(CertdError) as refused:
        lease(client, pending, 0, credentials_of(MACHINE))
    assert refused.value.reason is Reason.STATE_FORBIDS
    assert not fake.requests("LeaseKey")


def test_a_key_of_a_kind_that_identities_do_not_have_signs_nothing(fake: FakeServer, client: Client) -> None:
    odd = replace(credentials_of(MACHINE), private_key=credentials_of(ed25519.Ed25519PrivateKey.generate()).private_key)
    with pytest.raises(CertdError) as refused:
        lease(client, ASSOCIATION, 3, odd)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert not fake.requests("LeaseKey")
