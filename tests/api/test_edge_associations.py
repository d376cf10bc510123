"""Associations and leases at the edge: every field converted, every bad one named."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.api.managed_certificates import managed_certificate_message
from certd.model.association import DeploymentState
from certd.model.names import WILDCARD, AssociationName, IdentityName, ManagedCertificateName
from certd.services.associations import NewAssociation
from certd.services.leases import GivenDeployment, SignedLease
from certd.services.paging import PageRequest
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import Deployment, Use
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    DeleteAssociationRequest,
    DeleteAssociationResponse,
    GetAssociationRequest,
    LeaseKeyRequest,
    LeaseKeyResponse,
    ListAssociationsRequest,
    ReportDeploymentRequest,
)
from tests.api.edge_associations import ASSOCIATION, CURRENT_SHA256, MADE, NEVER_LEASED, REVOKED_SHA256, WEB
from tests.api.edge_messages import MANAGED_NAME, REQUEST_ID, call, encoded, moment_of, refused
from tests.api.edge_server import LEAF, TENANT_ROOT, Edge, FakeManagedCertificates

NAME = f"{MANAGED_NAME}/associations/machine"
MACHINE = "tenants/default/identities/machine"
DEPLOYMENT = Deployment(
    state=Deployment.FAILED,
    version=2,
    certificate_sha256=bytes(range(32)),
    message="nginx -t failed",
    report_time=moment_of(MADE + timedelta(days=2)),
)
SHOWN = Association(
    name=NAME,
    consumer=MACHINE,
    consumer_spiffe_id="spiffe://example/tenants/default/identities/machine",
    tenant_uid="uid-of-default",
    managed_certificate_uid="uid-of-web",
    leased_version=2,
    lease_time=moment_of(MADE + timedelta(days=1)),
    deployment=DEPLOYMENT,
    creator="spiffe://example/identities/alice",
    create_time=moment_of(MADE),
    current_version=3,
    current_certificate_sha256=CURRENT_SHA256,
    revoked_certificate_sha256=REVOKED_SHA256,
)
SIGNED = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


def lease(**changes: Any) -> LeaseKeyRequest:
    sign_time = Timestamp()
    sign_time.FromDatetime(SIGNED)
    wanted: dict[str, Any] = {
        "name": NAME,
        "version": 3,
        "public_key": bytes(range(32)),
        "sign_time": sign_time,
        "certificate": LEAF.pem,
        "signature": b"signature",
    }
    return LeaseKeyRequest(**(wanted | changes))


def report(**changes: Any) -> ReportDeploymentRequest:
    wanted: dict[str, Any] = {"state": Deployment.SERVING, "version": 3} | changes
    return ReportDeploymentRequest(name=NAME, deployment=Deployment(**wanted))


def test_an_association_comes_in_and_goes_out_whole(edge: Edge) -> None:
    request = CreateAssociationRequest(
        parent=MANAGED_NAME,
        association_id="edge",
        association=Association(consumer=MACHINE, leased_version=7, name="ignored"),
        request_id=REQUEST_ID,
        validate_only=True,
    )
    assert call(edge, request) == SHOWN
    _, new, key, validate_only = edge.told.last
    assert new == NewAssociation(
        managed_certificate=WEB, association_id="edge", consumer=IdentityName("default", "machine")
    )
    assert (key.request_id, validate_only) == (REQUEST_ID.lower(), True)
    call(edge, CreateAssociationRequest(parent=MANAGED_NAME, association=Association(consumer="identities/machine")))
    new = edge.told.last[1]
    assert (new.consumer, new.name) == (IdentityName(None, "machine"), AssociationName(WEB, "machine"))


def test_associations_are_asked_for_by_name_and_by_page(edge: Edge) -> None:
    name = AssociationName(WEB, "machine")
    assert call(edge, GetAssociationRequest(name=NAME)) == SHOWN
    assert edge.told.last[1:] == (name,)
    request = ListAssociationsRequest(
        parent="tenants/default/managedCertificates/-", consumer=MACHINE, page_size=5, page_token="token"
    )
    answer = call(edge, request)
    assert edge.told.last[1:] == (
        ManagedCertificateName("default", WILDCARD),
        PageRequest(5, "token"),
        IdentityName("default", "machine"),
    )
    assert answer.next_page_token == "next"
    first, second = answer.associations
    assert first == SHOWN
    assert not second.HasField("lease_time")
    assert not second.HasField("deployment")
    call(edge, ListAssociationsRequest(parent=MANAGED_NAME))
    assert edge.told.last[1:] == (WEB, PageRequest(100, ""), None)
    assert call(edge, DeleteAssociationRequest(name=NAME, request_id=REQUEST_ID)) == DeleteAssociationResponse()
    _, deleted, key = edge.told.last
    assert (deleted, key.request_id) == (name, REQUEST_ID.lower())


@pytest.mark.parametrize("certificate", [LEAF.pem, LEAF.der], ids=["PEM", "DER"])
def test_a_lease_comes_in_and_goes_out_whole(edge: Edge, certificate: bytes) -> None:
    answer = call(edge, lease(certificate=certificate))
    _, name, signed = edge.told.last
    assert name == AssociationName(WEB, "machine")
    assert signed == SignedLease(
        version=3, public_key=bytes(range(32)), sign_time=SIGNED, certificate=LEAF.der, signature=b"signature"
    )
    assert answer == LeaseKeyResponse(
        version=3, certificate=encoded(LEAF), chain=[encoded(TENANT_ROOT)], sealed_private_key=b"encrypted"
    )


def test_a_report_comes_in_whole(edge: Edge) -> None:
    request = report(state=Deployment.FAILED, certificate_sha256=bytes(32), message="kaputt: ü")
    assert call(edge, request) == SHOWN
    _, name, given = edge.told.last
    assert name == AssociationName(WEB, "machine")
    assert given == GivenDeployment(
        state=DeploymentState.FAILED, version=3, certificate_sha256=bytes(32), message="kaputt: ü"
    )


_BAD: list[tuple[Message, set[str]]] = [
    (CreateAssociationRequest(), {"parent", "association", "association.consumer"}),
    (
        CreateAssociationRequest(
            parent="tenants/default/managedCertificates/-",
            association_id="Not_An_Id",
            association=Association(consumer="machine"),
            request_id="x",
        ),
        {"parent", "association_id", "association.consumer", "request_id"},
    ),
    (GetAssociationRequest(name=MANAGED_NAME), {"name"}),
    (
        ListAssociationsRequest(parent="tenants/-/managedCertificates/web", consumer="x", page_size=-1),
        {"parent", "consumer", "page_size"},
    ),
    (DeleteAssociationRequest(name=f"{NAME}/", request_id="x"), {"name", "request_id"}),
    (LeaseKeyRequest(), {"name", "version", "public_key", "sign_time", "certificate", "signature"}),
    (lease(version=-1), {"version"}),
    (lease(public_key=bytes(31)), {"public_key"}),
    (lease(sign_time=Timestamp(seconds=1, nanos=1)), {"sign_time"}),
    (lease(sign_time=Timestamp(seconds=-1)), {"sign_time"}),
    (lease(certificate=b"no certificate"), {"certificate"}),
    (lease(certificate=LEAF.pem + TENANT_ROOT.pem), {"certificate"}),
    (lease(certificate=LEAF.pem + LEAF.key_pem), {"certificate"}),
    (lease(certificate=LEAF.pem + b"\n" * 40_000), {"certificate"}),
    (lease(signature=bytes(1025)), {"signature"}),
    (ReportDeploymentRequest(), {"name", "deployment", "deployment.state", "deployment.version"}),
    (report(state=9), {"deployment.state"}),
    (report(version=-1), {"deployment.version"}),
    (report(certificate_sha256=bytes(31)), {"deployment.certificate_sha256"}),
    (report(message="x" * 1025), {"deployment.message"}),
    (report(message="line\nline"), {"deployment.message"}),
]


@pytest.mark.parametrize(("request_", "fields"), _BAD, ids=lambda value: type(value).__name__)
def test_every_bad_field_is_named(edge: Edge, request_: Message, fields: set[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields


def test_a_managed_certificate_shows_who_uses_it(edge: Edge) -> None:
    managed = edge.managed_certificates
    assert isinstance(managed, FakeManagedCertificates)
    used = replace(managed.view.managed_certificate, association_count=2)
    message = managed_certificate_message(
        replace(managed.view, managed_certificate=used, used_by=(ASSOCIATION, NEVER_LEASED))
    )
    assert message.used
    assert list(message.used_by) == [
        Use(
            association=NAME,
            consumer="spiffe://example/tenants/default/identities/machine",
            leased_version=2,
            lease_time=moment_of(MADE + timedelta(days=1)),
            deployment=DEPLOYMENT,
        ),
        Use(association=f"{MANAGED_NAME}/associations/other", consumer="spiffe://example/identities/other"),
    ]
    assert not managed_certificate_message(managed.view).used
