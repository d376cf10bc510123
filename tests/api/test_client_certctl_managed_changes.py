"""certctl managed update, renew, revoke, delete and versions, and campaigns, against a server of our own."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from certd.cli.certctl import campaign
from certd.client.messages import timestamp
from certd.v1.certificate_pb2 import KEY_COMPROMISE, SUPERSEDED
from certd.v1.managed_certificate_pb2 import (
    Condition,
    Deployment,
    ManagedCertificate,
    ManagedCertificateVersion,
    RenewalPolicy,
)
from certd.v1.managed_certificate_service_pb2 import (
    DeleteManagedCertificateResponse,
    ListManagedCertificateVersionsResponse,
    ListRenewalCampaignsResponse,
)
from certd.v1.renewal_campaign_pb2 import RenewalCampaign
from certd.v1.x509_pb2 import Warning  # noqa: A004  # The API's word.
from tests.certctl import CA, Certctl, described, encoded
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, running

WEB = "tenants/default/managedCertificates/web"
LEAK = "tenants/default/renewalCampaigns/leak"


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


def at(version: int, *conditions: Condition) -> ManagedCertificate:
    return ManagedCertificate(
        name=WEB, state=ManagedCertificate.ACTIVE, current_version=version, conditions=conditions, etag="e-1"
    )


def blocked(message: str = "the authority is disabled") -> Condition:
    return Condition(type="RenewalBlocked", status=Condition.TRUE, reason="AUTHORITY_NOT_ENABLED", message=message)


def making(**changes: object) -> RenewalCampaign:
    wanted: dict[str, object] = {
        "name": LEAK,
        "state": RenewalCampaign.RUNNING,
        "renewals_per_minute": 600,
        "create_time": timestamp(datetime.now(UTC) - timedelta(seconds=90)),
    }
    return RenewalCampaign(**(wanted | changes))  # type: ignore[arg-type]  # They are its fields.


def test_update_changes_what_is_named(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("UpdateManagedCertificate", at(1))
    window = "0 2 * * SAT;Europe/Berlin;4h"
    ended = certctl(
        "managed", "update", "web", "--label", "team=web", "--renewal", "when-used", "--maintenance-window", window
    )
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("UpdateManagedCertificate")
    assert list(request.update_mask.paths) == ["labels", "renewal.maintenance_windows", "renewal.mode"]
    changed = request.managed_certificate
    assert (changed.name, dict(changed.labels), changed.renewal.mode) == (
        WEB,
        {"team": "web"},
        RenewalPolicy.WHEN_USED,
    )
    (wanted,) = changed.renewal.maintenance_windows
    assert (wanted.cron, wanted.time_zone, wanted.duration.seconds) == ("0 2 * * SAT", "Europe/Berlin", 4 * 3600)


def test_update_sets_back_to_defaults(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("UpdateManagedCertificate", at(1))
    certctl("managed", "update", "web", "--clear", "labels", "--clear", "maintenance-windows", "--etag", "e-1")
    certctl("managed", "update", "web", "--clear", "renewal", "--renew-at-percent", "20", "--validate-only")
    parts, whole = fake.requests("UpdateManagedCertificate")
    assert list(parts.update_mask.paths) == ["labels", "renewal.maintenance_windows"]
    assert (dict(parts.managed_certificate.labels), parts.managed_certificate.etag) == ({}, "e-1")
    assert list(whole.update_mask.paths) == ["renewal"]
    assert whole.validate_only


@pytest.mark.parametrize(
    "arguments",
    [
        ("update", "web"),
        ("update", "web", "--maintenance-window", "0 2 * * SAT"),
        ("update", "web", "--maintenance-window", "0 2 * * SAT;UTC;soon"),
        ("update", "web", "--renew-at-percent", "4"),
        ("renew",),
        ("renew", "web", "--all"),
        ("renew", "web", "--rate", "10/s"),
        ("renew", "--all", "--domain", "example.internal"),
        ("renew", "--all", "--rate", "0/min"),
        ("renew", "--all", "--rate", "10/h"),
        ("revoke", "web"),
        ("revoke", "web", "--version", "1", "--all-versions"),
        ("revoke", "web", "--version", "0"),
        ("revoke", "web", "--all-versions", "--reason", "hold"),
    ],
)
def test_what_makes_no_sense_is_not_sent(fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...]) -> None:
    ended = certctl("managed", *arguments)
    assert ended.code == 2
    assert not fake.calls


def test_a_maintenance_window_needs_no_time_zone(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("UpdateManagedCertificate", at(1))
    assert certctl("managed", "update", "web", "--maintenance-window", "0 2 * * *;30m").code == 0
    (window,) = fake.requests("UpdateManagedCertificate")[0].managed_certificate.renewal.maintenance_windows
    assert (window.cron, window.time_zone, window.duration.seconds) == ("0 2 * * *", "", 1800)


def test_a_request_says_when_it_is_renewed(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("RequestManagedCertificate", at(1))
    arguments = ("managed", "request", "web", "--authority", "web-ca", "--dns", "www.example.internal")
    assert certctl(*arguments, "--renewal", "never", "--renew-at-percent", "20").code == 0
    policy = fake.requests("RequestManagedCertificate")[0].managed_certificate.renewal
    assert (policy.mode, policy.remaining_percent) == (RenewalPolicy.NEVER, 20)


def test_renew_waits_for_the_version_after_the_one_that_was(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetManagedCertificate", at(3), at(3), at(4))
    # The reply to the first try was lost, and this one finds that it is done.
    fake.answer("RenewManagedCertificate", at(3))
    ended = certctl("managed", "renew", "web", "--reason", "moved", "-o", "json")
    assert (ended.code, json.loads(ended.out)["currentVersion"]) == (0, "4")
    (request,) = fake.requests("RenewManagedCertificate")
    assert (request.name, request.reason) == (WEB, "moved")
    fake.answer("GetManagedCertificate", at(3))
    fake.answer("RenewManagedCertificate", at(4))
    assert certctl("managed", "renew", "web").code == 0


def test_renew_does_not_wait_when_told(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetManagedCertificate", at(3))
    fake.answer("RenewManagedCertificate", at(3))
    assert certctl("managed", "renew", "web", "--no-wait").code == 0
    assert len(fake.requests("GetManagedCertificate")) == 1


def test_a_renewal_that_is_blocked_says_by_what(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetManagedCertificate", at(3), at(3, blocked()))
    fake.answer("RenewManagedCertificate", at(3))
    ended = certctl("managed", "renew", "web", "--timeout", "2s")
    assert ended.code == 1
    *progress, last = ended.err.splitlines()
    assert progress == ["certctl: web is at version 3: AUTHORITY_NOT_ENABLED: the authority is disabled"]
    assert last.startswith("certctl: DEADLINE_EXCEEDED: ")
    assert "still at version 3: AUTHORITY_NOT_ENABLED" in last


def test_what_cannot_be_renewed_says_why(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetManagedCertificate", at(3))
    refused = Failing(code=grpc.StatusCode.FAILED_PRECONDITION, reason="NOT_RENEWABLE", message="it was imported")
    fake.answer("RenewManagedCertificate", refused)
    ended = certctl("managed", "renew", "web")
    assert (ended.code, ended.err) == (1, "certctl: NOT_RENEWABLE: it was imported\n")


def test_conditions_make_a_campaign_and_show_its_progress(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateRenewalCampaign", making())
    fake.answer(
        "GetRenewalCampaign",
        making(selected_count=300, renewed_count=120, skipped_count=3, blocked_count=2),
        making(
            state=RenewalCampaign.DONE,
            selected_count=303,
            selection_complete=True,
            renewed_count=300,
            skipped_count=3,
            end_time=timestamp(datetime.now(UTC)),
        ),
    )
    ended = certctl(
        "managed", "renew", "--authority", "web-ca", "--label", "team=web", "--domain", "example.internal", "--rate",
        "10/s", "--issued-before", "2030-01-01T00:00:00Z", "--reason", "leaked", "--campaign-id", "leak",
    )  # fmt: skip
    assert ended.code == 0
    (request,) = fake.requests("CreateRenewalCampaign")
    wanted = request.renewal_campaign
    assert (request.parent, request.renewal_campaign_id) == ("tenants/default", "leak")
    assert (wanted.renewals_per_minute, wanted.reason) == (600, "leaked")
    assert (wanted.filter.authority, dict(wanted.filter.labels), wanted.filter.domain) == (
        CA,
        {"team": "web"},
        "example.internal",
    )
    assert wanted.filter.issued_before.seconds == 1893456000
    lines = ended.err.splitlines()
    assert lines[0] == f"certctl: {LEAK} renews every managed certificate, 600 in a minute"
    assert "certctl: campaign leak: 0 of 0 and more renewed" in lines
    assert lines[-1] == "certctl: campaign leak: 300 of 303 renewed, 3 skipped"
    assert "DONE" in ended.out


def test_all_is_said_by_an_empty_filter(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateRenewalCampaign", making())
    ended = certctl("managed", "renew", "--all", "--no-wait", "-o", "json")
    assert (ended.code, json.loads(ended.out)["name"]) == (0, LEAK)
    (request,) = fake.requests("CreateRenewalCampaign")
    assert request.renewal_campaign.HasField("filter")
    assert not request.renewal_campaign.filter.ByteSize()
    assert not fake.requests("GetRenewalCampaign")


def test_a_campaign_that_is_only_checked_is_not_waited_for(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateRenewalCampaign", making())
    ended = certctl("managed", "renew", "--all", "--validate-only")
    assert (ended.code, ended.err) == (0, "certctl: every check passed; nothing was changed\n")
    assert fake.requests("CreateRenewalCampaign")[0].validate_only


def test_nobody_waits_for_ever_for_what_is_blocked(
    fake: FakeServer, certctl: Certctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "_STUCK", 0.5)
    stuck = making(
        selected_count=3,
        selection_complete=True,
        renewed_count=1,
        blocked_count=2,
        blocked_managed_certificates=[WEB, f"{WEB}-2"],
    )
    fake.answer("GetRenewalCampaign", stuck)
    ended = certctl("campaign", "show", "leak", "--wait")
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("certctl: DEADLINE_EXCEEDED: campaign leak: 1 of 3 renewed, 2 blocked; ")
    assert "blocked: web, web-2" in last
    assert "certctl campaign show leak" in last
    late = certctl("campaign", "show", "leak", "--wait", "--timeout", "1s")
    assert late.code == 1


def test_campaigns_are_shown_listed_and_cancelled(fake: FakeServer, certctl: Certctl) -> None:
    item = making(
        selected_count=1200,
        renewed_count=1000,
        blocked_count=2,
        blocked_managed_certificates=[WEB],
        reason="leaked",
    )
    item.filter.authority = CA
    fake.answer("GetRenewalCampaign", item)
    fake.answer("ListRenewalCampaigns", ListRenewalCampaignsResponse(renewal_campaigns=[item]))
    fake.answer("CancelRenewalCampaign", making(state=RenewalCampaign.CANCELLED))
    shown = certctl("campaign", "show", "leak").out
    for text in ("RUNNING", CA, "1,200, and looking for more", "1,000", "web", "leaked"):
        assert text in shown
    row = certctl("campaign", "list").out.splitlines()[1].split()
    assert row[:7] == ["leak", "RUNNING", "1,000", "2", "0", "1,200…", "600"]
    assert "CANCELLED" in certctl("campaign", "cancel", "leak").out
    assert fake.requests("CancelRenewalCampaign")[0].name == LEAK


def test_revoke_says_which_versions_and_why(fake: FakeServer, certctl: Certctl) -> None:
    answer = at(2)
    answer.warnings.append(Warning(field="invalidity_time", message="was cut"))
    fake.answer("RevokeManagedCertificate", answer)
    ended = certctl("managed", "revoke", "web", "--version", "1", "--reason", "superseded")
    assert (ended.code, ended.err) == (0, "certctl: warning: invalidity_time: was cut\n")
    since = "2030-01-01T00:00:00Z"
    certctl("managed", "revoke", "web", "--all-versions", "--reason", "keyCompromise", "--invalid-since", since)
    one, every = fake.requests("RevokeManagedCertificate")
    assert (one.name, one.version, one.reason) == (WEB, 1, SUPERSEDED)
    assert (every.WhichOneof("versions"), every.reason) == ("all_versions", KEY_COMPROMISE)
    assert every.invalidity_time.seconds == 1893456000


def test_delete_says_what_is_gone_or_who_uses_it(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteManagedCertificate", DeleteManagedCertificateResponse())
    ended = certctl("managed", "delete", "web", "--etag", "e-1")
    assert (ended.code, ended.out.split()) == (0, ["Deleted", WEB])
    assert certctl("managed", "delete", "web", "--validate-only").out.strip() == ""
    first, second = fake.requests("DeleteManagedCertificate")
    assert (first.name, first.etag, first.validate_only, second.validate_only) == (WEB, "e-1", False, True)
    in_use = Failing(code=grpc.StatusCode.FAILED_PRECONDITION, reason="CERTIFICATE_IN_USE", message="by gateway")
    fake.answer("DeleteManagedCertificate", in_use)
    refused = certctl("managed", "delete", "web")
    assert (refused.code, refused.err) == (1, "certctl: CERTIFICATE_IN_USE: by gateway\n")


def test_versions_are_listed(fake: FakeServer, certctl: Certctl, root: Issued) -> None:
    kind = ManagedCertificateVersion
    revoked = kind(name=f"{WEB}/versions/1", version=1, state=kind.REVOKED, revocation_reason=SUPERSEDED)
    revoked.revoke_time.CopyFrom(timestamp(datetime(2030, 1, 1, tzinfo=UTC)))
    current = kind(
        name=f"{WEB}/versions/2",
        version=2,
        state=kind.CURRENT,
        certificate=encoded(root),
        description=described(),
        key_available=True,
    )
    fake.answer("ListManagedCertificateVersions", ListManagedCertificateVersionsResponse(versions=[current, revoked]))
    first, second = (line.split() for line in certctl("managed", "versions", "web").out.splitlines()[1:])
    assert (first[0], first[1], first[2], first[5], first[6], first[7]) == (
        "2", "CURRENT", "0a1b", "89", "sealed", "-",
    )  # fmt: skip
    assert (second[:2], second[-3:]) == (["1", "REVOKED"], ["deleted", "2030-01-01T00:00:00Z", "SUPERSEDED"])
    assert certctl("managed", "versions", "web", "-o", "pem").out == root.certificate_pem.decode()


def test_what_is_listed_and_shown_says_when_it_is_renewed_and_who_uses_it(fake: FakeServer, certctl: Certctl) -> None:
    item = at(2, blocked())
    item.description.CopyFrom(described())
    item.used = True
    item.next_attempt_time.CopyFrom(timestamp(datetime(2030, 2, 1, tzinfo=UTC)))
    item.renewal.mode, item.renewal.remaining_percent = RenewalPolicy.ALWAYS, 33
    window = item.renewal.maintenance_windows.add(cron="0 2 * * SAT", time_zone="UTC")
    window.duration.seconds = 4 * 3600
    item.renewal_window.start_time.CopyFrom(timestamp(datetime(2030, 1, 20, tzinfo=UTC)))
    item.renewal_window.end_time.CopyFrom(timestamp(datetime(2030, 2, 20, tzinfo=UTC)))
    use = item.used_by.add(association=f"{WEB}/associations/gateway", leased_version=2)
    use.lease_time.CopyFrom(timestamp(datetime(2030, 1, 2, tzinfo=UTC)))
    use.deployment.version, use.deployment.state, use.deployment.message = 1, Deployment.FAILED, "no reload"
    fake.answer("GetManagedCertificate", item)
    shown = certctl("managed", "get", "web").out
    for text in (
        "always, when 33 % of the lifetime are left",
        "in 0 2 * * SAT;UTC;4h",
        "2030-01-20T00:00:00Z to 2030-02-20T00:00:00Z",
        "gateway, leased version 2 at 2030-01-02T00:00:00Z, failed version 1",
        "no reload",
        "RenewalBlocked=TRUE AUTHORITY_NOT_ENABLED: the authority is disabled",
    ):
        assert text in shown
