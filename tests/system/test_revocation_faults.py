"""kill -9 of the daemon between the pages of a revocation campaign, and between the parts of a batch."""

import uuid
from collections import Counter
from typing import Any

import pytest

from certd.v1.certificate_pb2 import KEY_COMPROMISE
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    BatchRevokeCertificatesRequest,
    CreateRevocationCampaignRequest,
    GetRevocationCampaignRequest,
    IssueCertificateRequest,
    RevokeCertificateRequest,
)
from certd.v1.revocation_campaign_pb2 import RevocationCampaign
from tests.daemon import Installation
from tests.faults.asking import CA, ask, authority_request
from tests.faults.served import DAEMON, TENANT, Served
from tests.system.books import rows
from tests.waiting import eventually

_ISSUED = 80
LEAK = f"{TENANT}/revocationCampaigns/leak"


def issue(served: Served) -> list[str]:
    """Makes an authority and certificates of one profile; returns their names."""
    csr = ask("www.example.internal").request.csr
    request = BatchIssueCertificatesRequest(
        parent=CA, requests=[IssueCertificateRequest(csr=csr) for _ in range(_ISSUED)], certificates_only=True
    )
    with served.client() as client:
        client.call(client.stubs.create_authority, authority_request("root", ""))
        client.call(client.stubs.create_authority, authority_request("ca", f"{TENANT}/authorities/root"))
        answer = client.stubs.batch_issue_certificates(request, timeout=60)
    return [result.certificate.name for result in answer.results]


def each_is_revoked_once(installation: Installation, names: list[str]) -> None:
    database = installation.data / "certd.db"
    told = rows(database, "SELECT resource FROM events WHERE type = 'certificate.revoked'")
    assert Counter(name for (name,) in told) == Counter(names)
    assert rows(database, "SELECT count(*) FROM certificates WHERE state = 'REVOKED'") == [(len(names),)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("step", "occurrence"),
    [("revocation-campaign.1.created", 1), ("revocation-campaign.2.page", 1), ("revocation-campaign.2.page", 2)],
)
def test_a_campaign_goes_on_where_it_was_killed(installation: Installation, step: str, occurrence: int) -> None:
    with Served(installation) as served:
        names = issue(served)
        request = CreateRevocationCampaignRequest(
            parent=TENANT,
            revocation_campaign_id="leak",
            revocation_campaign=RevocationCampaign(profile=f"{TENANT}/profiles/end-entity", reason=KEY_COMPROMISE),
            request_id=str(uuid.uuid4()),
        )
        before = served.pid_of(DAEMON)
        served.running.arm(step, occurrence, DAEMON)
        served.insist(lambda client: client.stubs.create_revocation_campaign(request, timeout=20))
        eventually(lambda: served.pid_of(DAEMON) not in {before, None}, within=120)

        def ended() -> Any:
            get = GetRevocationCampaignRequest(name=LEAK)
            found = served.insist(lambda client: client.stubs.get_revocation_campaign(get, timeout=20))
            return found if found.state == RevocationCampaign.DONE else None

        done = eventually(ended, within=120)
        assert (done.found_count, done.revoked_count, done.unchanged_count, done.failed_count) == (
            _ISSUED,
            _ISSUED,
            0,
            0,
        )
        served.stop()
    each_is_revoked_once(installation, names)


@pytest.mark.timeout(600)
def test_a_batch_that_was_killed_is_repeated(installation: Installation) -> None:
    with Served(installation) as served:
        names = issue(served)
        request = BatchRevokeCertificatesRequest(
            parent=CA,
            requests=[RevokeCertificateRequest(name=name) for name in names],
            request_id=str(uuid.uuid4()),
        )
        served.running.arm("revoke-batch.1.committed", 2, DAEMON)
        answer = served.insist(lambda client: client.stubs.batch_revoke_certificates(request, timeout=60))
        assert [result.certificate.name for result in answer.results] == names
        served.stop()
    each_is_revoked_once(installation, names)
