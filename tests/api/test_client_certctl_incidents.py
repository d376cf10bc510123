"""certctl, many certificates revoked: several names, files of them, campaigns, against a server of our own."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from certd.cli.certctl import revocation_batch, revocation_campaign
from certd.client.messages import timestamp
from certd.v1.certificate_filter_pb2 import CertificateFilter
from certd.v1.certificate_pb2 import KEY_COMPROMISE, SUPERSEDED, Certificate
from certd.v1.certificate_service_pb2 import (
    BatchRevokeCertificatesRequest,
    BatchRevokeCertificatesResponse,
    ItemError,
    ListRevocationCampaignsResponse,
    RevokeCertificateRequest,
)
from certd.v1.revocation_campaign_pb2 import RevocationCampaign
from tests.certctl import CA, Certctl
from tests.fakes_server import Failing, FakeServer
from tests.fakes_server import Issued as IssuedCertificate

ID = "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11"
SINCE = datetime(2026, 11, 3, 7, 0, tzinfo=UTC)
LEAK = "tenants/default/revocationCampaigns/leak"
KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def name(serial: str) -> str:
    return f"{CA}/certificates/{serial}"


def answer(request: BatchRevokeCertificatesRequest, _: Any) -> BatchRevokeCertificatesResponse:
    """Revokes all but what ends in `e`, which was revoked before, and in `f`, which is not there."""

    def result(one: RevokeCertificateRequest) -> BatchRevokeCertificatesResponse.Result:
        if one.name.endswith("e"):
            error = ItemError(code=9, reason="ALREADY_REVOKED", message="it is revoked; nothing is left to do")
            return BatchRevokeCertificatesResponse.Result(error=error)
        if one.name.endswith("f"):
            error = ItemError(code=5, reason="CERTIFICATE_NOT_FOUND", message="it does not\nexist")
            return BatchRevokeCertificatesResponse.Result(error=error)
        certificate = Certificate(
            name=one.name,
            state=Certificate.REVOKED,
            revoke_time=timestamp(SINCE),
            revocation_reason=one.reason,
        )
        return BatchRevokeCertificatesResponse.Result(certificate=certificate)

    return BatchRevokeCertificatesResponse(results=[result(one) for one in request.requests])


def test_several_are_revoked_by_one_call_with_a_line_for_each(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("BatchRevokeCertificates", answer)
    arguments = ("certificate", "revoke", "0A:1B", "0a1e", name("0a1f"), "--authority", "web-ca", "--request-id", ID)
    ended = certctl(*arguments, "--reason", "superseded", "--invalid-since", "2026-11-03T07:00:00Z")
    assert ended.code == 1
    assert [line.split()[:3] for line in ended.out.splitlines()] == [
        ["SERIAL", "AUTHORITY", "RESULT"],
        ["0A:1B", "web-ca", "REVOKED"],
        ["0a1e", "web-ca", "UNCHANGED"],
        ["0a1f", "web-ca", "FAILED"],
    ]
    assert "CERTIFICATE_NOT_FOUND: it does not\\nexist" in ended.out
    assert "1 revoked, 1 unchanged, 1 failed" in ended.err
    (call,) = fake.requests("BatchRevokeCertificates")
    assert (call.parent, call.validate_only) == ("tenants/default/authorities/-", False)
    assert [one.name for one in call.requests] == [name("0A:1B"), name("0a1e"), name("0a1f")]
    assert {(one.reason, one.invalidity_time.seconds) for one in call.requests} == {(SUPERSEDED, SINCE.timestamp())}
    ids = [one.request_id for one in call.requests]
    assert len({UUID(one) for one in ids}) == 3
    # The same again asks for the same.
    certctl(*arguments)
    assert [one.request_id for one in fake.requests("BatchRevokeCertificates")[1].requests] == ids


def test_what_is_revoked_already_is_no_failure(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("BatchRevokeCertificates", answer)
    ended = certctl("certificate", "revoke", name("1e"), name("2e"), "-o", "json")
    assert (ended.code, ended.err) == (0, "")
    first, second = (json.loads(line) for line in ended.out.splitlines())
    assert (first["name"], first["result"], first["error"]["reason"]) == (name("1e"), "UNCHANGED", "ALREADY_REVOKED")
    assert second["result"] == "UNCHANGED"


def test_a_file_of_names_is_revoked_in_parts(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_batch, "_CHUNK", 2)
    fake.answer("BatchRevokeCertificates", answer)
    file = tmp_path / "stolen.txt"
    other = "tenants/other/authorities/ca/certificates/07"
    file.write_text(f"# what was on the disk\n\n 01 \n02\nmail-ca/certificates/03\n{other}\n01\n")
    ended = certctl("certificate", "revoke", "--from", file, "--authority", "web-ca", "--validate-only", "-o", "json")
    assert ended.code == 0
    results = [json.loads(line) for line in ended.out.splitlines()]
    assert [one["result"] for one in results] == ["CHECKED"] * 4
    calls = fake.requests("BatchRevokeCertificates")
    assert [(call.parent, [one.name for one in call.requests]) for call in calls] == [
        ("tenants/default/authorities/-", [name("01"), name("02")]),
        ("tenants/default/authorities/-", ["tenants/default/authorities/mail-ca/certificates/03"]),
        ("tenants/other/authorities/-", [other]),
    ]
    assert {call.validate_only for call in calls} == {True}
    # One in a file is a batch too: its lines are read by a program.
    file.write_text("04\n")
    assert certctl("certificate", "revoke", "--from", file, "--authority", "web-ca").out.splitlines()[1].split()[
        :3
    ] == [
        "04",
        "web-ca",
        "REVOKED",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--from", "absent.txt"), 1, "absent.txt cannot be read"),
        (("--from", "empty.txt"), 2, "--from"),
        (("01", "02"), 2, "--authority"),
        (("01", "02", "--authority", "web-ca", "-o", "pem"), 2, "leave out -o pem"),
    ],
)
def test_what_cannot_be_asked_is_said(
    certctl: Certctl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    ended = certctl("certificate", "revoke", *arguments)
    assert ended.code == code
    assert told in ended.err


def campaign(**changes: Any) -> RevocationCampaign:
    wanted: dict[str, Any] = {
        "name": LEAK,
        "public_key": hashlib.sha256(SPKI).digest(),
        "reason": KEY_COMPROMISE,
        "state": RevocationCampaign.RUNNING,
        "found_count": 3,
        "revoked_count": 2,
        "create_time": timestamp(SINCE),
        "creator": "spiffe://example/identities/admin",
    }
    return RevocationCampaign(**(wanted | changes))


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (("--profile", "web"), "profile", "tenants/default/profiles/web"),
        (("--consumer", "machine-7"), "consumer", "tenants/default/identities/machine-7"),
        (("--consumer", "identities/machine-7"), "consumer", "identities/machine-7"),
        (("--public-key-sha256", "AB:" * 31 + "ab"), "public_key", b"\xab" * 32),
        (("--domain", "example.internal"), "filter", CertificateFilter(domain="example.internal")),
        (
            ("--label", "team=web", "--filter", '{"managed": true}'),
            "filter",
            CertificateFilter(
                and_filters=CertificateFilter.Filters(
                    filters=[
                        CertificateFilter(label=CertificateFilter.Label(key="team", value="web")),
                        CertificateFilter(managed=True),
                    ]
                )
            ),
        ),
    ],
)
def test_create_says_which_certificates(
    fake: FakeServer, certctl: Certctl, options: tuple[str, ...], field: str, value: object
) -> None:
    fake.answer("CreateRevocationCampaign", campaign())
    ended = certctl(
        *("revocation-campaign", "create", "leak", "--authority", "web-ca", *options, "--reason", "keyCompromise"),
        *("--invalid-since", "2026-11-03T07:00:00Z", "--include-expired", "--request-id", ID),
    )
    assert (ended.code, ended.err) == (0, "")
    assert "Found    3\n" in ended.out
    (call,) = fake.requests("CreateRevocationCampaign")
    asked = call.revocation_campaign
    assert (call.parent, call.revocation_campaign_id, call.request_id) == ("tenants/default", "leak", ID)
    assert (asked.authority, asked.reason, asked.include_expired) == (CA, KEY_COMPROMISE, True)
    assert asked.invalidity_time.seconds == SINCE.timestamp()
    assert (asked.WhichOneof("selection"), getattr(asked, field)) == (field, value)


@pytest.mark.parametrize("kind", ["pem", "der", "certificate", "certificate-der"])
def test_a_key_is_read_from_a_file(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, root: IssuedCertificate, kind: str
) -> None:
    fake.answer("CreateRevocationCampaign", campaign())
    key, file = (root.certificate.public_key() if kind.startswith("cert") else KEY.public_key()), tmp_path / "key"
    form = PublicFormat.SubjectPublicKeyInfo
    file.write_bytes(
        {
            "pem": KEY.public_key().public_bytes(Encoding.PEM, form),
            "der": SPKI,
            "certificate": root.certificate.public_bytes(Encoding.PEM),
            "certificate-der": root.certificate.public_bytes(Encoding.DER),
        }[kind]
    )
    assert certctl("revocation-campaign", "create", "leak", "--public-key", file).code == 0
    (call,) = fake.requests("CreateRevocationCampaign")
    assert call.revocation_campaign.public_key == key.public_bytes(Encoding.DER, form)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "nothing is given"),
        (("--profile", "web", "--consumer", "a"), "--profile and --consumer are given"),
        (("--profile", "web", "--label", "a=b"), "are given"),
        (("--public-key-sha256", "ab"), "64 hexadecimal digits"),
        (("--public-key-sha256", "x" * 64), "64 hexadecimal digits"),
        (("--public-key", "private.pem"), "is no public key"),
        (("--filter", "{"), "no CertificateFilter"),
        (("--profile", "web", "--reason", "hold"), "is none of"),
    ],
)
def test_what_selects_nothing_or_too_much_is_refused(
    certctl: Certctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(private)
    ended = certctl("revocation-campaign", "create", "leak", *options)
    assert ended.code == 2
    assert told in ended.err


def test_wait_ends_with_the_campaign_and_fails_with_what_failed(
    fake: FakeServer, certctl: Certctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_campaign, "_POLL", 0.0)
    fake.answer("CreateRevocationCampaign", campaign())
    left = [
        campaign(found_count=5, revoked_count=4),
        campaign(
            state=RevocationCampaign.DONE,
            found_count=6,
            revoked_count=4,
            unchanged_count=1,
            failed_count=1,
            failed_certificates=[name("0a")],
            end_time=timestamp(SINCE),
        ),
    ]
    fake.answer("GetRevocationCampaign", lambda _request, _context: left.pop(0))
    ended = certctl("revocation-campaign", "create", "leak", "--profile", "web", "--wait")
    assert ended.code == 1
    assert "leak: 3 found, 2 revoked" in ended.err
    assert "leak: 6 found, 4 revoked, 1 were revoked already, 1 failed" in ended.err
    assert name("0a") in ended.out


def test_validate_only_tells_how_many_there_would_be(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateRevocationCampaign", campaign(found_count=10_000))
    ended = certctl("revocation-campaign", "create", "leak", "--profile", "web", "--validate-only", "--wait")
    assert ended.code == 0
    assert "Found    10,000\n" in ended.out
    assert "nothing was changed" in ended.err
    assert [call.validate_only for call in fake.requests("CreateRevocationCampaign")] == [True]


def test_get_list_and_cancel(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetRevocationCampaign", campaign())
    fake.answer("CancelRevocationCampaign", campaign(state=RevocationCampaign.CANCELLED))
    fake.answer("ListRevocationCampaigns", ListRevocationCampaignsResponse(revocation_campaigns=[campaign()]))
    shown = certctl("revocation-campaign", "get", "leak")
    assert (shown.code, shown.err) == (0, "")
    assert hashlib.sha256(SPKI).hexdigest() in shown.out
    listed = certctl("revocation-campaign", "list")
    assert listed.out.splitlines()[1].split()[:6] == ["leak", "RUNNING", "3", "2", "0", "0"]
    cancelled = certctl("revocation-campaign", "cancel", "leak", "--request-id", ID, "-o", "json")
    assert json.loads(cancelled.out)["state"] == "CANCELLED"
    assert [call.name for call in fake.requests("GetRevocationCampaign")] == [LEAK]
    assert [call.parent for call in fake.requests("ListRevocationCampaigns")] == ["tenants/default"]
    assert [(call.name, call.request_id) for call in fake.requests("CancelRevocationCampaign")] == [(LEAK, ID)]


def test_what_the_server_refuses_is_told(fake: FakeServer, certctl: Certctl) -> None:
    refused = Failing(
        code=grpc.StatusCode.ALREADY_EXISTS,
        reason="REVOCATION_CAMPAIGN_EXISTS",
        message="it exists already; choose another",
    )
    fake.answer("CreateRevocationCampaign", refused)
    ended = certctl("revocation-campaign", "create", "leak", "--profile", "web", "-o", "json")
    assert ended.code == 1
    assert json.loads(ended.err)["reason"] == "REVOCATION_CAMPAIGN_EXISTS"
