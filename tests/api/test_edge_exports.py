"""Exports at the edge: every form and every recipient is converted whole."""

import pytest

from certd.model.names import ManagedCertificateName
from certd.pki.export_form import ExportForm
from certd.services.managed_export import PassphraseExport, RecipientExport
from certd.v1 import (
    managed_certificate_service_pb2,
)
from tests.api.edge_messages import (
    call,
    encoded,
    export,
)
from tests.api.edge_server import (
    LEAF,
    TENANT_ROOT,
    Edge,
)


def test_export_under_a_passphrase(edge: Edge) -> None:
    answer = call(edge, export(version=2, reason="for the load balancer"))
    assert edge.told.last[1:] == (
        ManagedCertificateName("default", "web"),
        2,
        PassphraseExport(b"correct horse"),
        "for the load balancer",
    )
    pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMANlbmNyeXB0ZWQ=\n-----END ENCRYPTED PRIVATE KEY-----\n"
    assert answer == managed_certificate_service_pb2.ExportManagedCertificateResponse(
        version=2, certificate=encoded(LEAF), chain=[encoded(TENANT_ROOT)], encrypted_private_key_pem=pem
    )


@pytest.mark.parametrize("form", list(ExportForm))
def test_export_in_every_form(edge: Edge, form: ExportForm) -> None:
    kind = managed_certificate_service_pb2.PassphraseProtection
    protection = kind(passphrase=b"correct horse", format=kind.Format.Value(form.value))
    answer = call(edge, export(passphrase=protection))
    assert edge.told.last[3] == PassphraseExport(b"correct horse", form)
    pkcs12 = form in {ExportForm.PKCS12_MODERN, ExportForm.PKCS12_LEGACY}
    assert answer.WhichOneof("private_key") == ("pkcs12" if pkcs12 else "encrypted_private_key_pem")
    assert answer.pkcs12 == (b"\x30\x03encrypted" if pkcs12 else b"")


def test_the_forms_of_the_proto_are_those_of_the_keys() -> None:
    numbers = dict(managed_certificate_service_pb2.PassphraseProtection.Format.items())
    assert numbers.pop("FORMAT_UNSPECIFIED") == 0
    assert set(numbers) == set(ExportForm)


def test_export_to_a_recipient(edge: Edge) -> None:
    recipient = managed_certificate_service_pb2.RecipientProtection(public_key=bytes(range(32)))
    answer = call(edge, export(recipient=recipient))
    assert edge.told.last[2:4] == (None, RecipientExport(bytes(range(32))))
    assert answer == managed_certificate_service_pb2.ExportManagedCertificateResponse(
        version=2,
        certificate=encoded(LEAF),
        chain=[encoded(TENANT_ROOT)],
        sealed_private_key=b"\x30\x03encrypted",
        hpke_info=b"info",
    )
