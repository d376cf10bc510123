"""certctl association against a server of our own: what it asks, and what it shows."""

import json
from pathlib import Path

import pytest

from certd.client.messages import timestamp
from certd.v1.access_service_pb2 import WhoAmIResponse
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import Deployment
from certd.v1.managed_certificate_service_pb2 import DeleteAssociationResponse, ListAssociationsResponse
from tests.certctl import Certctl
from tests.fakes_server import FakeServer
from tests.store.samples import LATER, NOW

WEB = "tenants/default/managedCertificates/web"
NAME = f"{WEB}/associations/machine"
MACHINE = "spiffe://certd.internal/tenants/default/identities/machine"


@pytest.fixture
def association() -> Association:
    return Association(
        name=NAME,
        consumer="tenants/default/identities/machine",
        consumer_spiffe_id=MACHINE,
        leased_version=2,
        lease_time=timestamp(NOW),
        current_version=3,
        deployment=Deployment(
            state=Deployment.FAILED, version=2, message="nginx -t\x1b[2J failed", report_time=timestamp(LATER)
        ),
        create_time=timestamp(NOW),
    )


def test_an_association_is_made(fake: FakeServer, certctl: Certctl, association: Association) -> None:
    fake.answer("CreateAssociation", association)
    ended = certctl("association", "create", "web", "machine")
    assert ended.code == 0
    assert NAME in ended.out
    checked = certctl("association", "create", "web", "identities/edge", "--id", "edge-1", "--validate-only")
    assert "nothing was changed" in checked.err
    first, second = fake.requests("CreateAssociation")
    assert (first.parent, first.association_id) == (WEB, "")
    assert first.association.consumer == "tenants/default/identities/machine"
    assert first.request_id
    assert (second.association_id, second.association.consumer, second.validate_only) == (
        "edge-1",
        "identities/edge",
        True,
    )


def test_associations_are_listed_and_shown(fake: FakeServer, certctl: Certctl, association: Association) -> None:
    bare = Association(name=f"{WEB}/associations/edge", consumer="identities/edge", current_version=3)
    fake.answer(
        "ListAssociations",
        ListAssociationsResponse(associations=[association], next_page_token="more"),
        ListAssociationsResponse(associations=[bare]),
    )
    lines = certctl("association", "list").out.splitlines()
    assert lines[0].split() == [
        "MANAGED",
        "CERTIFICATE",
        "ASSOCIATION",
        *["CONSUMER", "CURRENT", "LEASED", "DEPLOYED", "STATE"],
    ]
    assert lines[1].split() == ["web", "machine", "tenants/default/identities/machine", "3", "2", "2", "FAILED"]
    assert lines[2].split() == ["web", "edge", "identities/edge", "3", "-", "-", "-"]
    certctl("association", "list", "web", "--consumer", "machine", "-o", "json")
    requests = fake.requests("ListAssociations")
    assert [(each.parent, each.consumer) for each in (requests[0], requests[-1])] == [
        ("tenants/default/managedCertificates/-", ""),
        (WEB, "tenants/default/identities/machine"),
    ]
    fake.answer("GetAssociation", association)
    card = certctl("association", "show", "web/machine").out
    assert "version 2, FAILED" in card
    # What a consumer writes moves no cursor.
    assert "nginx -t\\x1b[2J failed" in card
    assert json.loads(certctl("association", "show", NAME, "-o", "json").out)["currentVersion"] == "3"
    assert {request.name for request in fake.requests("GetAssociation")} == {NAME}
    assert certctl("association", "list", "-o", "pem").code == 2


def test_a_managed_certificate_alone_means_ones_own(
    fake: FakeServer, certctl: Certctl, association: Association
) -> None:
    fake.answer("WhoAmI", WhoAmIResponse(principal=MACHINE))
    fake.answer("GetAssociation", association)
    fake.answer("ReportDeployment", association)
    assert certctl("association", "show", "web").code == 0
    assert certctl("association", "report", "web", "--version", "3", "--state", "serving").code == 0
    (request,) = fake.requests("ReportDeployment")
    assert (request.name, request.deployment.state, request.deployment.version) == (NAME, Deployment.SERVING, 3)
    assert fake.requests("GetAssociation")[0].name == NAME


def test_a_report_says_what_was_seen(fake: FakeServer, certctl: Certctl, association: Association) -> None:
    fake.answer("ReportDeployment", association)
    report = ("association", "report", "web/machine", "--version", "3", "--state", "failed")
    digest = bytes(range(32))
    assert certctl(*report, "--sha256", digest.hex(":"), "--message", "kaputt").code == 0
    (request,) = fake.requests("ReportDeployment")
    assert (request.deployment.certificate_sha256, request.deployment.message) == (digest, "kaputt")
    for wrong in ("0a", "xyz"):
        ended = certctl(*report, "--sha256", wrong)
        assert ended.code == 2
        assert "SHA-256" in ended.err
    assert certctl("association", "report", "web/machine", "--version", "3").code == 2


def test_an_association_is_ended(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteAssociation", DeleteAssociationResponse())
    assert f"{NAME} is deleted" in certctl("association", "delete", "web/machine").err
    assert json.loads(certctl("association", "delete", "web/machine", "-o", "json").out) == {}
    first, second = fake.requests("DeleteAssociation")
    assert first.name == second.name == NAME
    assert first.request_id != second.request_id


def test_a_lease_asks_for_nothing_when_its_files_could_not_be_written(
    fake: FakeServer, certctl: Certctl, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert certctl("association", "lease", "web/machine", "--out-dir", file).code == 1
    assert certctl("association", "lease", "web/machine").code == 2
    assert not fake.calls


def test_a_lease_with_credentials_of_another_writes_nothing(
    fake: FakeServer, certctl: Certctl, association: Association, tmp_path: Path
) -> None:
    fake.answer("GetAssociation", association)
    ended = certctl("association", "lease", "web/machine", "--out-dir", tmp_path / "out")
    assert ended.code == 1
    assert ended.err.startswith("certctl: CREDENTIAL_INVALID: ")
    assert not fake.requests("LeaseKey")
    assert not (tmp_path / "out").exists()
