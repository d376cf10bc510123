"""Batches and campaigns of revocations on a whole daemon: what fails a call, what fails an item, and what is shown."""

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.timestamp_pb2 import Timestamp

from certd.v1.certificate_filter_pb2 import CertificateFilter
from certd.v1.certificate_pb2 import KEY_COMPROMISE, SUPERSEDED, Certificate
from certd.v1.certificate_service_pb2 import (
    BatchRevokeCertificatesRequest,
    BatchRevokeCertificatesResponse,
    CancelRevocationCampaignRequest,
    CreateRevocationCampaignRequest,
    GetRevocationCampaignRequest,
    IssueCertificateRequest,
    ListRevocationCampaignsRequest,
    RevokeCertificateRequest,
)
from certd.v1.revocation_campaign_pb2 import RevocationCampaign
from certd.v1.x509_pb2 import EC_P256
from tests.api.edge_failure import Failure
from tests.api.every_method import csr_of, named
from tests.api.whole_daemon import Installed, call, failure_to, whole_daemon
from tests.waiting import eventually

TENANT, CA = "tenants/default", "tenants/default/authorities/ca"
EVERY = "tenants/default/authorities/-"
_HOLD: Any = 6
"""Of RFC 5280, and no reason here."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with whole_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def issue(installed: Installed, **changes: Any) -> str:
    csr = csr_of(x509.DNSName("www.example.internal"))
    request = IssueCertificateRequest(**({"parent": CA, "csr": csr} | changes))
    issued: Any = call(installed.administrator, named("IssueCertificate"), request)
    return str(issued.name)


def revoke(installed: Installed, *items: RevokeCertificateRequest, **changes: Any) -> BatchRevokeCertificatesResponse:
    request = BatchRevokeCertificatesRequest(**({"parent": EVERY, "requests": items} | changes))
    answer: Any = call(installed.administrator, named("BatchRevokeCertificates"), request)
    assert len(answer.results) == len(items)
    return answer  # type: ignore[no-any-return]


def of(name: str, **changes: Any) -> RevokeCertificateRequest:
    return RevokeCertificateRequest(name=name, **changes)


def refusal(installed: Installed, request: Any) -> Failure:
    method = named(type(request).__name__.removesuffix("Request"))
    failure = failure_to(installed.administrator, method, request)
    assert failure is not None
    return failure


def test_a_batch_answers_each_item_in_its_place(installed: Installed) -> None:
    first, second = issue(installed, labels={"team": "web"}), issue(installed)
    absent = f"{CA}/certificates/ab"
    answer = revoke(installed, of(second, reason=SUPERSEDED), of(absent), of(first, reason=KEY_COMPROMISE))
    done, failed, too = answer.results
    assert (done.certificate.name, too.certificate.name) == (second, first)
    assert (done.certificate.revocation_reason, too.certificate.revocation_reason) == (SUPERSEDED, KEY_COMPROMISE)
    assert {one.certificate.state for one in (done, too)} == {Certificate.REVOKED}
    assert too.certificate.HasField("revoke_time")
    # A thousand with all that they may have are more than a message may be.
    assert not too.certificate.HasField("certificate")
    assert not too.certificate.HasField("description")
    assert (list(too.certificate.chain), dict(too.certificate.labels)) == ([], {})
    assert (failed.error.code, failed.error.reason) == (grpc.StatusCode.NOT_FOUND.value[0], "CERTIFICATE_NOT_FOUND")
    again = revoke(installed, of(second)).results[0].error
    assert (again.reason, again.metadata["reason"]) == ("ALREADY_REVOKED", "SUPERSEDED")


def test_what_is_wrong_with_an_item_fails_that_item(installed: Installed) -> None:
    name = issue(installed)
    broken = {
        "name": of("tenants/default/authorities/other/certificates/ab"),
        "reason": of(name, reason=_HOLD),
        "invalidity_time": of(name, invalidity_time=Timestamp(seconds=1, nanos=1)),
        "request_id": of(name, request_id="1"),
        "validate_only": of(name, validate_only=True),
    }
    *failed, done = revoke(installed, *broken.values(), of(name), parent=CA).results
    assert [[one.field for one in result.error.violations] for result in failed] == [[field] for field in broken]
    assert done.certificate.state == Certificate.REVOKED
    other = of("tenants/other/authorities/xca/certificates/ab")
    assert revoke(installed, other).results[0].error.reason == "FIELD_INVALID"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"parent": ""}, {"parent"}),
        ({"parent": TENANT}, {"parent"}),
        ({"requests": []}, {"requests"}),
        ({"requests": [of(f"{CA}/certificates/ab")] * 1001}, {"requests"}),
        ({"request_id": "1"}, {"request_id"}),
    ],
)
def test_what_is_wrong_with_the_batch_fails_the_call(
    installed: Installed, changes: dict[str, Any], fields: set[str]
) -> None:
    wanted = {"parent": CA, "requests": [of(f"{CA}/certificates/ab")]} | changes
    failure = refusal(installed, BatchRevokeCertificatesRequest(**wanted))
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == fields


def test_a_batch_is_repeated_by_its_id_and_an_item_by_its_own(installed: Installed) -> None:
    names = [issue(installed) for _ in range(2)]
    batch_id, own_id = str(uuid.uuid4()), str(uuid.uuid4())
    items = [of(names[0]), of(names[1], request_id=own_id)]
    first = revoke(installed, *items, request_id=batch_id)
    assert revoke(installed, *items, request_id=batch_id) == first
    alone: Any = call(installed.administrator, named("RevokeCertificate"), items[1])
    assert alone.revoke_time == first.results[1].certificate.revoke_time
    other = revoke(installed, of(names[0], reason=SUPERSEDED), items[1], request_id=batch_id)
    assert other.results[0].error.reason == "REQUEST_ID_REUSED"
    assert other.results[1].certificate == first.results[1].certificate


def create(installed: Installed, campaign: RevocationCampaign, **changes: Any) -> RevocationCampaign:
    wanted: dict[str, Any] = {
        "parent": TENANT,
        "revocation_campaign_id": f"c{uuid.uuid4().hex}",
        "revocation_campaign": campaign,
    }
    request = CreateRevocationCampaignRequest(**(wanted | changes))
    made: Any = call(installed.administrator, named("CreateRevocationCampaign"), request)
    return made  # type: ignore[no-any-return]


def ended(installed: Installed, name: str) -> RevocationCampaign:
    def look() -> Any:
        request = GetRevocationCampaignRequest(name=name)
        found: Any = call(installed.administrator, named("GetRevocationCampaign"), request)
        return found if found.state != RevocationCampaign.RUNNING else None

    found = eventually(look, within=60)
    assert isinstance(found, RevocationCampaign)
    return found


def test_a_key_is_named_by_its_der_or_its_hash(installed: Installed) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = issue(installed, csr=csr_of(x509.DNSName("www.example.internal"), key=key))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    checked = create(installed, RevocationCampaign(public_key=spki), validate_only=True)
    assert (checked.found_count, checked.revoked_count) == (1, 0)
    made = create(
        installed, RevocationCampaign(public_key=hashlib.sha256(spki).digest(), reason=KEY_COMPROMISE, authority=CA)
    )
    done = ended(installed, made.name)
    assert (done.state, done.found_count, done.revoked_count) == (RevocationCampaign.DONE, 1, 1)
    assert (done.public_key, done.reason, done.authority) == (hashlib.sha256(spki).digest(), KEY_COMPROMISE, CA)
    assert done.HasField("end_time")
    assert revoke(installed, of(name)).results[0].error.reason == "ALREADY_REVOKED"


FILTER = CertificateFilter(
    and_filters=CertificateFilter.Filters(
        filters=[
            CertificateFilter(
                or_filters=CertificateFilter.Filters(
                    filters=[CertificateFilter(name="nobody.example.internal"), CertificateFilter(domain="no.internal")]
                )
            ),
            CertificateFilter(not_filter=CertificateFilter(state=Certificate.REVOKED)),
            CertificateFilter(serial_number="0abc"),
            CertificateFilter(profile=f"{TENANT}/profiles/end-entity"),
            CertificateFilter(key_spec=EC_P256),
            CertificateFilter(public_key_sha256=bytes(32)),
            CertificateFilter(not_after=CertificateFilter.TimeRange(from_time=Timestamp(seconds=9, nanos=5000))),
            CertificateFilter(create_time=CertificateFilter.TimeRange(until_time=Timestamp(seconds=9))),
            CertificateFilter(label=CertificateFilter.Label(key="team")),
            CertificateFilter(label=CertificateFilter.Label(key="team", value="")),
            CertificateFilter(managed=False),
        ]
    )
)


@pytest.mark.parametrize(
    "campaign",
    [
        RevocationCampaign(profile=f"{TENANT}/profiles/root-ca", authority=CA, reason=SUPERSEDED),
        RevocationCampaign(consumer=f"{TENANT}/identities/machine", include_expired=True),
        RevocationCampaign(filter=FILTER, invalidity_time=Timestamp(seconds=1_700_000_000)),
    ],
    ids=lambda campaign: str(campaign.WhichOneof("selection")),
)
def test_what_was_asked_is_shown_after_it_was_kept(installed: Installed, campaign: RevocationCampaign) -> None:
    made = ended(installed, create(installed, campaign).name)
    shown = RevocationCampaign()
    for field, value in made.ListFields():
        if field.name in {one.name for one, _ in campaign.ListFields()}:
            getattr(shown, field.name)
            shown.MergeFrom(RevocationCampaign(**{field.name: value}))
    assert shown == campaign
    assert made.creator.endswith("/identities/admin")
    listing = ListRevocationCampaignsRequest(parent=TENANT)
    listed: Any = call(installed.administrator, named("ListRevocationCampaigns"), listing)
    assert listed.revocation_campaigns[0] == made
    cancel = CancelRevocationCampaignRequest(name=made.name, request_id=str(uuid.uuid4()))
    assert call(installed.administrator, named("CancelRevocationCampaign"), cancel) == made


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parent": "tenants"}, "parent"),
        ({"revocation_campaign_id": ""}, "revocation_campaign_id"),
        ({"revocation_campaign_id": "X"}, "revocation_campaign_id"),
        ({"request_id": "1"}, "request_id"),
        ({"revocation_campaign": RevocationCampaign()}, "revocation_campaign.selection"),
        (
            {"revocation_campaign": RevocationCampaign(profile="tenants/other/profiles/a")},
            "revocation_campaign.profile",
        ),
        ({"revocation_campaign": RevocationCampaign(consumer="a")}, "revocation_campaign.consumer"),
        (
            {"revocation_campaign": RevocationCampaign(consumer="tenants/other/identities/a")},
            "revocation_campaign.consumer",
        ),
        ({"revocation_campaign": RevocationCampaign(public_key=bytes(31))}, "revocation_campaign.public_key"),
        ({"revocation_campaign": RevocationCampaign(public_key=bytes(20_000))}, "revocation_campaign.public_key"),
        ({"revocation_campaign": RevocationCampaign(filter=CertificateFilter())}, "revocation_campaign.filter"),
        (
            {
                "revocation_campaign": RevocationCampaign(
                    public_key=bytes(32), authority="tenants/other/authorities/xca"
                )
            },
            "revocation_campaign.authority",
        ),
        (
            {"revocation_campaign": RevocationCampaign(public_key=bytes(32), reason=_HOLD)},
            "revocation_campaign.reason",
        ),
        (
            {
                "revocation_campaign": RevocationCampaign(
                    public_key=bytes(32), invalidity_time=Timestamp(seconds=32_503_680_000)
                )
            },
            "revocation_campaign.invalidity_time",
        ),
    ],
)
def test_what_is_wrong_with_a_campaign_is_told_of_its_field(
    installed: Installed, changes: dict[str, Any], field: str
) -> None:
    wanted: dict[str, Any] = {
        "parent": TENANT,
        "revocation_campaign_id": "wrong",
        "revocation_campaign": RevocationCampaign(public_key=bytes(32)),
    }
    failure = refusal(installed, CreateRevocationCampaignRequest(**(wanted | changes)))
    assert failure.reason == "FIELD_INVALID"
    assert field in {one for one, _ in failure.violations}


def test_what_is_taken_or_absent_is_told(installed: Installed) -> None:
    absent = GetRevocationCampaignRequest(name=f"{TENANT}/revocationCampaigns/absent")
    failure = refusal(installed, absent)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "REVOCATION_CAMPAIGN_NOT_FOUND")
    campaign = RevocationCampaign(public_key=bytes(32))
    create(installed, campaign, revocation_campaign_id="taken")
    again = CreateRevocationCampaignRequest(parent=TENANT, revocation_campaign_id="taken", revocation_campaign=campaign)
    failure = refusal(installed, again)
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REVOCATION_CAMPAIGN_EXISTS")
