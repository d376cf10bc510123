"""Imports at the edge: what comes in broken is refused with every field that is, and what is secret leaves no trace."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from certd.model.names import ImportKeyName, ManagedCertificateName, TenantName
from certd.services.managed_import_plan import NewImport, PlainPrivateKey, SealedPrivateKey
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    GetImportKeyRequest,
    ImportKey,
    ImportManagedCertificateRequest,
    RollBackManagedCertificateRequest,
)
from certd.v1.managed_certificate_service_pb2 import SealedPrivateKey as SealedMessage
from certd.v1.x509_pb2 import ECDSA_WITH_SHA384
from tests.api.edge_messages import MANAGED_NAME, REQUEST_ID, call, encoded, moment_of, refused
from tests.api.edge_server import NOW, SYSTEM_ROOT, Edge

IMPORT_KEY = "tenants/default/importKeys/k0123456789abcdef"


def importing(**changes: Any) -> ImportManagedCertificateRequest:
    wanted: dict[str, Any] = {
        "parent": "tenants/default",
        "managed_certificate_id": "shop",
        "certificate": b"certificate",
        "certificate_chain": b"chain",
    }
    if "sealed_private_key" not in changes:
        wanted["plain_private_key"] = b"private key"
    return ImportManagedCertificateRequest(**(wanted | changes))


def sealed(**changes: Any) -> SealedMessage:
    return SealedMessage(**({"import_key": IMPORT_KEY, "ciphertext": b"sealed"} | changes))


_BAD: list[tuple[Message, set[str]]] = [
    (ImportManagedCertificateRequest(), {"parent", "managed_certificate_id", "certificate", "private_key"}),
    (
        importing(
            parent="default",
            managed_certificate_id="-shop",
            certificate=b"",
            certificate_chain=bytes((2 << 20) + 1),
            plain_private_key=bytes((16 << 10) + 1),
            export_policy=9,
            labels={"": "x"},
            request_id="1",
        ),
        {
            "parent",
            "managed_certificate_id",
            "certificate",
            "certificate_chain",
            "plain_private_key",
            "export_policy",
            "labels['']",
            "request_id",
        },
    ),
    (importing(certificate=bytes((32 << 10) + 1)), {"certificate"}),
    (importing(certificate_chain=bytes((2 << 20) + 1)), {"certificate_chain"}),
    (importing(plain_private_key=b""), {"plain_private_key"}),
    (importing(plain_private_key=bytes((16 << 10) + 1)), {"plain_private_key"}),
    (
        importing(sealed_private_key=SealedMessage()),
        {"sealed_private_key.import_key", "sealed_private_key.ciphertext"},
    ),
    (
        importing(sealed_private_key=sealed(ciphertext=bytes((16 << 10) + 32 + 16 + 1))),
        {"sealed_private_key.ciphertext"},
    ),
    (importing(sealed_private_key=sealed(import_key="k0123456789abcdef")), {"sealed_private_key.import_key"}),
    (
        importing(sealed_private_key=sealed(import_key="tenants/other/importKeys/k0123456789abcdef")),
        {"sealed_private_key.import_key"},
    ),
    (importing(labels={f"label-{number}": "" for number in range(51)}), {"labels"}),
    (GetImportKeyRequest(), {"parent"}),
    (GetImportKeyRequest(parent="tenants/-"), {"parent"}),
    (RollBackManagedCertificateRequest(version=-1, request_id="x"), {"name", "version", "request_id"}),
    (RollBackManagedCertificateRequest(name="tenants/default/managedCertificates/-"), {"name"}),
]


@pytest.mark.parametrize(("request_", "fields"), _BAD)
def test_every_field_that_is_wrong_is_named(edge: Edge, request_: Message, fields: set[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields
    assert b"private key".decode() not in failure.message


def test_as_much_as_is_allowed_gets_in(edge: Edge) -> None:
    call(
        edge,
        importing(certificate=bytes(32 << 10), certificate_chain=bytes(2 << 20), plain_private_key=bytes(16 << 10)),
    )
    call(edge, importing(sealed_private_key=sealed(ciphertext=bytes((16 << 10) + 48))))
    assert len(edge.told.calls) == 2


def test_an_import_goes_in_whole(edge: Edge) -> None:
    answer = call(
        edge,
        importing(
            export_policy=ManagedCertificate.EXPORTABLE,
            labels={"team": "web"},
            replace=True,
            request_id=REQUEST_ID,
            validate_only=True,
        ),
    )
    _, new, key, validate_only = edge.told.last
    assert new == NewImport(
        name=ManagedCertificateName("default", "shop"),
        certificate=b"certificate",
        chain=b"chain",
        private_key=PlainPrivateKey(b"private key"),
        exportable=True,
        labels={"team": "web"},
        replace=True,
    )
    assert key.request_id == REQUEST_ID.lower()
    assert validate_only is True
    assert (answer.name, answer.type) == (MANAGED_NAME, ManagedCertificate.IMPORTED)
    assert answer.import_time == moment_of(NOW)
    assert "private key" not in repr(new)
    assert [warning.field for warning in answer.warnings]


def test_what_is_not_said_is_left_to_the_service(edge: Edge) -> None:
    call(edge, importing(sealed_private_key=sealed()))
    _, new, key, validate_only = edge.told.last
    assert new.private_key == SealedPrivateKey(ImportKeyName("default", "k0123456789abcdef"), b"sealed")
    assert (new.exportable, new.labels, new.replace, key, validate_only) == (None, {}, False, None, False)
    call(edge, importing(export_policy=ManagedCertificate.NOT_EXPORTABLE))
    assert edge.told.last[1].exportable is False


Change = Callable[[ImportManagedCertificateRequest], None]


def another_plain_key(request: ImportManagedCertificateRequest) -> None:
    request.plain_private_key = b"another private key"


def a_sealed_key(request: ImportManagedCertificateRequest) -> None:
    request.sealed_private_key.CopyFrom(sealed())


def sealed_to_another(request: ImportManagedCertificateRequest) -> None:
    request.sealed_private_key.CopyFrom(sealed(import_key="tenants/default/importKeys/k00000000000000ff"))


def another_certificate(request: ImportManagedCertificateRequest) -> None:
    request.certificate = b"another"


def a_replacement(request: ImportManagedCertificateRequest) -> None:
    request.replace = True


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (another_plain_key, True),
        (a_sealed_key, True),
        (sealed_to_another, True),
        (another_certificate, False),
        (a_replacement, False),
    ],
    ids=lambda change: getattr(change, "__name__", str(change)),
)
def test_the_private_key_is_no_part_of_what_makes_a_call_the_same(edge: Edge, change: Change, *, same: bool) -> None:
    """No hash of a secret stands in the books, and sealing is another every time."""
    request = importing(request_id=REQUEST_ID)
    call(edge, request)
    first = edge.told.last[2]
    change(request)
    call(edge, request)
    assert (edge.told.last[2] == first) is same


def test_an_import_key_goes_out_with_what_vouches_for_it(edge: Edge) -> None:
    answer = call(edge, GetImportKeyRequest(parent="tenants/default"))
    assert edge.told.last[1] == TenantName("default")
    assert answer == ImportKey(
        name=IMPORT_KEY,
        public_key=b"p" * 32,
        statement=b"statement",
        signature=b"signature",
        signature_algorithm=ECDSA_WITH_SHA384,
        authority_certificate=encoded(SYSTEM_ROOT),
        expire_time=moment_of(NOW + timedelta(days=30)),
    )
    assert b"never shown" not in answer.SerializeToString()


def test_a_return_goes_in_whole(edge: Edge) -> None:
    request = RollBackManagedCertificateRequest(name=MANAGED_NAME, version=3, etag="e", request_id=REQUEST_ID)
    assert call(edge, request).name == MANAGED_NAME
    _, name, version, etag, key = edge.told.last
    assert (name, version, etag) == (ManagedCertificateName("default", "web"), 3, "e")
    assert key.request_id == REQUEST_ID.lower()
    call(edge, RollBackManagedCertificateRequest(name=MANAGED_NAME))
    assert edge.told.last[2:] == (None, "", None)
