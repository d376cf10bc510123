"""Imports by the client library: for what certificate and export policy it seals, and when it sends nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from certd.client.connection import Client
from certd.client.credentials import read_credentials
from certd.client.failure import CallFailed
from certd.client.managed_import import import_sealed
from certd.errors import CertdError, Reason
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ImportManagedCertificateRequest
from tests.api.imports_of_clients import SHOP, Importing, importing, shop
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, write_credentials
from tests.imports import Pair

__all__ = ["importing", "shop"]


@pytest.fixture
def client(fake: FakeServer, root: Issued, tmp_path: Path) -> Iterator[Client]:
    files = write_credentials(tmp_path, make_leaf(root, "client.internal"), root)
    credentials = read_credentials(
        certificate=files.certificate, private_key=files.private_key, trust_bundle=files.trust_bundle
    )
    with Client(fake.address, credentials) as made:
        yield made


def asking(shop: Pair, **changes: Any) -> ImportManagedCertificateRequest:
    wanted: dict[str, Any] = {
        "parent": "tenants/default",
        "managed_certificate_id": "shop",
        "certificate": shop.pem,
        "certificate_chain": shop.chain_pem,
    }
    return ImportManagedCertificateRequest(**(wanted | changes))


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, ManagedCertificate.NOT_EXPORTABLE),
        ({"export_policy": ManagedCertificate.NOT_EXPORTABLE}, ManagedCertificate.NOT_EXPORTABLE),
        ({"export_policy": ManagedCertificate.EXPORTABLE}, ManagedCertificate.EXPORTABLE),
        ({"export_policy": ManagedCertificate.EXPORTABLE, "replace": True}, ManagedCertificate.EXPORTABLE),
    ],
    ids=str,
)
def test_it_seals_for_what_it_is_told_and_says_so(
    fake: FakeServer, client: Client, importing: Importing, shop: Pair, changes: dict[str, Any], policy: int
) -> None:
    request = asking(shop, **changes)
    before = ImportManagedCertificateRequest()
    before.CopyFrom(request)
    assert import_sealed(client, request, shop.key_pem).name == SHOP
    assert request == before
    (sent,) = fake.requests("ImportManagedCertificate")
    assert sent.export_policy == policy
    assert importing.opened() == shop.key_pem
    # What is told needs no permission to read.
    assert not fake.requests("GetManagedCertificate")


@pytest.mark.parametrize("policy", [ManagedCertificate.EXPORTABLE, ManagedCertificate.NOT_EXPORTABLE])
def test_a_new_version_is_sealed_for_the_policy_of_what_is_there(
    fake: FakeServer,
    client: Client,
    importing: Importing,
    shop: Pair,
    policy: ManagedCertificate.ExportPolicy.ValueType,
) -> None:
    fake.answer("GetManagedCertificate", ManagedCertificate(name=SHOP, export_policy=policy))
    import_sealed(client, asking(shop, certificate=shop.der, replace=True), shop.key_der)
    (asked,) = fake.requests("GetManagedCertificate")
    assert asked.name == SHOP
    (sent,) = fake.requests("ImportManagedCertificate")
    assert sent.export_policy == policy
    assert importing.opened() == shop.key_der


@pytest.mark.usefixtures("importing")
@pytest.mark.parametrize("policy", [0, 9])
def test_nothing_is_sealed_for_a_policy_that_is_none(fake: FakeServer, client: Client, shop: Pair, policy: int) -> None:
    fake.answer("GetManagedCertificate", ManagedCertificate(name=SHOP, export_policy=policy))  # type: ignore[arg-type]
    with pytest.raises(CallFailed, match="shop has an export policy that this client does not know") as caught:
        import_sealed(client, asking(shop, replace=True), shop.key_der)
    assert (caught.value.reason, caught.value.resource) == ("ANSWER_INCONSISTENT", SHOP)
    assert not fake.requests("ImportManagedCertificate")


@pytest.mark.usefixtures("importing")
def test_who_may_not_read_what_is_there_is_told(fake: FakeServer, client: Client, shop: Pair) -> None:
    failing = Failing(code=grpc.StatusCode.PERMISSION_DENIED, reason="PERMISSION_MISSING", message="may not read it")
    fake.answer("GetManagedCertificate", failing)
    with pytest.raises(CallFailed) as caught:
        import_sealed(client, asking(shop, replace=True), shop.key_der)
    assert caught.value.reason == "PERMISSION_MISSING"
    assert not fake.requests("ImportManagedCertificate")


Broken = Callable[[Pair], bytes]


def nothing(_shop: Pair) -> bytes:
    return b""


def text(_shop: Pair) -> bytes:
    return b"nonsense"


def of_a_version_that_there_is_not(shop: Pair) -> bytes:
    return shop.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1)


def with_a_key_of_an_unknown_kind(shop: Pair) -> bytes:
    ec_public_key = bytes.fromhex("06072a8648ce3d0201")
    assert shop.der.count(ec_public_key) == 1
    return shop.der.replace(ec_public_key, ec_public_key[:-1] + b"\x09")


@pytest.mark.usefixtures("importing")
@pytest.mark.parametrize(
    ("broken", "reason", "says"),
    [
        (nothing, Reason.FIELD_INVALID, "certificate"),
        (text, Reason.FIELD_INVALID, "certificate"),
        (of_a_version_that_there_is_not, Reason.IMPORT_NOT_PEM, "is not the DER of a certificate that decodes"),
        (with_a_key_of_an_unknown_kind, Reason.FIELD_INVALID, "has a key of a kind that is not known here"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_is_sealed_for_what_is_no_certificate(
    fake: FakeServer, client: Client, shop: Pair, broken: Broken, reason: Reason, says: str
) -> None:
    with pytest.raises(CertdError, match=says) as caught:
        import_sealed(client, asking(shop, certificate=broken(shop)), shop.key_der)
    assert caught.value.reason is reason
    assert [violation.field for violation in caught.value.violations] == ["certificate"]
    assert not fake.calls
