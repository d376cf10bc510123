"""certctl certificate, its issue, get, search and revoke, against a server of our own: what they ask and print."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from certd.client.messages import timestamp
from certd.v1.certificate_filter_pb2 import CertificateFilter
from certd.v1.certificate_pb2 import CESSATION_OF_OPERATION, KEY_COMPROMISE, SUPERSEDED, Certificate
from certd.v1.certificate_service_pb2 import SearchCertificatesResponse
from certd.v1.x509_pb2 import AttributeTypeAndValue, CertificateDescription, Extension, KeySpec, SubjectAlternativeNames
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl, described, encoded
from tests.fakes_server import Failing, FakeServer, Issued

LEAF = f"{CA}/certificates/0a1b"
SINCE = datetime(2026, 11, 3, 7, 0, tzinfo=UTC)


class Terminal(io.StringIO):
    """Standard input at which a person sits."""

    def isatty(self) -> bool:
        return True


def revoked(root: Issued, **changes: Any) -> Certificate:
    certificate = Certificate(
        name=LEAF,
        state=Certificate.REVOKED,
        certificate=encoded(root),
        description=described(),
        profile="tenants/default/profiles/server",
        profile_version=3,
        revoke_time=timestamp(SINCE + timedelta(hours=1)),
        revocation_reason=KEY_COMPROMISE,
        invalidity_time=timestamp(SINCE),
    )
    certificate.MergeFrom(Certificate(**changes))
    return certificate


def csr_file(folder: Path) -> Path:
    path = folder / "req.pem"
    path.write_bytes(b"a CSR")
    return path


def test_issue_replaces_subject_and_names_of_the_csr(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    fake.answer("IssueCertificate", Certificate(name=LEAF))
    arguments = ("certificate", "issue", "--authority", "web-ca", "--csr", csr_file(tmp_path))
    assert certctl(*arguments).code == 0
    ended = certctl(
        *(*arguments, "--profile", "gateway", "--subject", "CN=gw1,O=Example", "--label", "team=web"),
        *("--not-after", "2027-01-31T12:00:00Z", "--dns", "gw1.internal", "--dns", "gw.internal"),
        *("--ip", "192.0.2.1", "--uri", "spiffe://a/b", "--email", "a@example.internal"),
    )
    assert ended.code == 0
    plain, replacing = fake.requests("IssueCertificate")
    assert not plain.HasField("subject")
    assert not plain.HasField("subject_alternative_names")
    assert [list(one.attributes) for one in replacing.subject.relative_distinguished_names] == [
        [AttributeTypeAndValue(type="O", value="Example")],
        [AttributeTypeAndValue(type="CN", value="gw1")],
    ]
    assert replacing.subject_alternative_names == SubjectAlternativeNames(
        dns_names=["gw1.internal", "gw.internal"],
        ip_addresses=["192.0.2.1"],
        uris=["spiffe://a/b"],
        email_addresses=["a@example.internal"],
    )
    assert replacing.not_after_time.ToJsonString() == "2027-01-31T12:00:00Z"
    assert dict(replacing.labels) == {"team": "web"}


def test_warnings_are_a_line_each_for_people_and_part_of_the_resource_in_json(
    fake: FakeServer, certctl: Certctl, tmp_path: Path
) -> None:
    warnings = [
        ApiWarning(field="csr.extensions", message="1.2.3 was dropped\nand so on"),
        ApiWarning(field="lifetime", message="it was cut"),
    ]
    fake.answer("IssueCertificate", Certificate(name=LEAF, warnings=warnings))
    arguments = ("certificate", "issue", "--authority", "web-ca", "--csr", csr_file(tmp_path))
    assert certctl(*arguments).err.splitlines() == [
        r"certctl: warning: csr.extensions: 1.2.3 was dropped\nand so on",
        "certctl: warning: lifetime: it was cut",
    ]
    as_json = certctl(*arguments, "-o", "json")
    assert as_json.err == ""
    assert [one["field"] for one in json.loads(as_json.out)["warnings"]] == ["csr.extensions", "lifetime"]


def test_a_card_shows_names_as_people_write_them_and_where_the_issuer_is(fake: FakeServer, certctl: Certctl) -> None:
    access = bytes.fromhex("3023302106082b060105050730028615") + b"http://pki.internal/a"
    fake.answer(
        "GetCertificate",
        Certificate(
            name=LEAF,
            description=CertificateDescription(
                subject_alternative_names=SubjectAlternativeNames(
                    dns_names=["a.example", "xn--mnchen-3ya.example", "xn--a", "b.example"], ip_addresses=["192.0.2.1"]
                ),
                unicode_dns_names=["m\u00fcnchen.example", "xn--a"],
                extensions=[Extension(oid="1.3.6.1.5.5.7.1.1", value=access)],
                sha256_fingerprint=bytes(range(32)),
            ),
        ),
    )
    shown = certctl("certificate", "get", LEAF).out
    names = ["a.example", "xn--mnchen-3ya.example (m\u00fcnchen.example)", "xn--a", "b.example", "IP:192.0.2.1"]
    lines = [line.removeprefix("Names").strip() for line in shown.splitlines()]
    assert names == lines[lines.index("a.example") :][: len(names)]
    assert lines[lines.index("a.example") + len(names) :][0].split() == ["Issuer", "at", "http://pki.internal/a"]
    assert bytes(range(32)).hex() in shown


@pytest.mark.parametrize("cut", [1, 5, 12, 30])
def test_a_place_of_the_issuer_that_does_not_decode_is_not_shown(fake: FakeServer, certctl: Certctl, cut: int) -> None:
    access = (bytes.fromhex("3023302106082b060105050730028615") + b"http://pki.internal/a")[:cut]
    description = CertificateDescription(extensions=[Extension(oid="1.3.6.1.5.5.7.1.1", value=access)])
    fake.answer("GetCertificate", Certificate(name=LEAF, description=description))
    ended = certctl("certificate", "get", LEAF)
    assert (ended.code, "Issuer at" in ended.out) == (0, False)


@pytest.mark.parametrize(
    ("state", "hours_left", "told", "code"),
    [
        (Certificate.ISSUED, 1, "GOOD", 0),
        (Certificate.ISSUED, -1, "EXPIRED", 1),
        (Certificate.REVOKED, 1, "REVOKED", 1),
        (Certificate.LOST, 1, "LOST", 1),
    ],
)
def test_status_says_whether_a_certificate_is_good(
    fake: FakeServer, certctl: Certctl, state: Certificate.State.ValueType, hours_left: int, told: str, code: int
) -> None:
    end = timestamp(datetime.now(UTC) + timedelta(hours=hours_left))
    fake.answer(
        "GetCertificate",
        Certificate(name=LEAF, state=state, description=CertificateDescription(not_after_time=end)),
    )
    ended = certctl("certificate", "status", LEAF)
    lines = [line.split() for line in ended.out.splitlines()]
    assert (ended.code, ["Status", told] in lines) == (code, True), ended.out


def test_search_joins_its_flags(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "SearchCertificates",
        SearchCertificatesResponse(next_page_token="2"),
        SearchCertificatesResponse(certificates=[Certificate(name=LEAF, description=described())]),
    )
    ended = certctl(
        *("certificate", "search", "--authority", "web-ca", "--name", "www.example.internal", "--domain", "internal"),
        *("--serial", "0A:1B", "--state", "revoked", "--profile", "server", "--key-spec", "ec_p256"),
        *("--expires-after", "2027-01-01T00:00:00Z", "--expires-before", "2027-02-01T00:00:00Z"),
        *("--label", "team=web", "--label", "a=b", "--filter", '{"managed": true}'),
    )
    assert (ended.code, ended.err) == (0, "")
    header, row = ended.out.splitlines()
    assert header.startswith("SERIAL")
    assert row.split()[:2] == ["0a1b", "web-ca"]
    first, second = fake.requests("SearchCertificates")
    assert (first.parent, first.page_token, second.page_token) == (CA, "", "2")
    assert first.filter == second.filter
    span = CertificateFilter.TimeRange()
    span.from_time.FromJsonString("2027-01-01T00:00:00Z")
    span.until_time.FromJsonString("2027-02-01T00:00:00Z")
    assert list(first.filter.and_filters.filters) == [
        CertificateFilter(name="www.example.internal"),
        CertificateFilter(domain="internal"),
        CertificateFilter(serial_number="0A:1B"),
        CertificateFilter(state=Certificate.REVOKED),
        CertificateFilter(profile="tenants/default/profiles/server"),
        CertificateFilter(key_spec=KeySpec.EC_P256),
        CertificateFilter(not_after=span),
        CertificateFilter(label=CertificateFilter.Label(key="team", value="web")),
        CertificateFilter(label=CertificateFilter.Label(key="a", value="b")),
        CertificateFilter(managed=True),
    ]


def test_one_condition_stands_alone_and_none_finds_everything(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("SearchCertificates", SearchCertificatesResponse())
    certctl("certificate", "search", "--domain", "example.internal")
    certctl("certificate", "search")
    one, everything = fake.requests("SearchCertificates")
    assert one.parent == everything.parent == "tenants/default/authorities/-"
    assert one.filter == CertificateFilter(domain="example.internal")
    assert not everything.HasField("filter")


def test_search_stops_at_its_limit(fake: FakeServer, certctl: Certctl) -> None:
    some = [Certificate(name=f"{LEAF}{number}", description=described()) for number in range(3)]
    fake.answer("SearchCertificates", SearchCertificatesResponse(certificates=some, next_page_token="2"))
    ended = certctl("certificate", "search", "--limit", "4", "-o", "json")
    assert [json.loads(line)["name"][-1] for line in ended.out.splitlines()] == ["0", "1", "2", "0"]
    assert [request.page_size for request in fake.requests("SearchCertificates")] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("search", "--filter", "not json"), "no CertificateFilter"),
        (("search", "--filter", '{"no": "such field"}'), "no CertificateFilter"),
        (("search", "--state", "pending"), "is not one of"),
        (("search", "--label", "team"), "is no label"),
        (("search", "--expires-before", "soon"), "soon"),
        (("revoke", "0a1b"), "--authority"),
        (("revoke", "0a1b", "--authority", "web-ca", "--reason", "certificateHold"), "is none of unspecified"),
        (("revoke", "0a1b", "--authority", "web-ca", "--invalid-since", "yesterday"), "yesterday"),
        (("revoke",), "NAME|SERIAL"),
    ],
)
def test_wrong_usage_asks_nothing(fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...], told: str) -> None:
    ended = certctl("certificate", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert not fake.calls


def test_revoke_shows_what_became_of_the_certificate(fake: FakeServer, certctl: Certctl, root: Issued) -> None:
    warning = ApiWarning(field="invalidity_time", message="it was cut")
    fake.answer("RevokeCertificate", revoked(root, warnings=[warning]))
    arguments = ("certificate", "revoke", "0A:1B", "--authority", "web-ca", "--reason", "key-compromise")
    ended = certctl(*arguments, "--invalid-since", "2026-11-03T07:00:00Z")
    assert (ended.code, ended.err) == (0, "certctl: warning: invalidity_time: it was cut\n")
    for shown in ("REVOKED", "(KEY_COMPROMISE)", "Invalid since", "server (version 3)"):
        assert shown in ended.out
    (request,) = fake.requests("RevokeCertificate")
    assert (request.name, request.reason) == (f"{CA}/certificates/0A:1B", KEY_COMPROMISE)
    assert request.invalidity_time == timestamp(SINCE)
    assert not request.validate_only
    UUID(request.request_id)
    as_json = certctl(*arguments, "-o", "json")
    assert json.loads(as_json.out)["revocationReason"] == "KEY_COMPROMISE"


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("superseded", SUPERSEDED),
        ("keyCompromise", KEY_COMPROMISE),
        ("CESSATION_OF_OPERATION", CESSATION_OF_OPERATION),
        ("unspecified", 0),
        (None, 0),
    ],
)
def test_reasons_are_written_as_people_do(
    fake: FakeServer, certctl: Certctl, root: Issued, written: str | None, number: int
) -> None:
    fake.answer("RevokeCertificate", revoked(root))
    ended = certctl("certificate", "revoke", LEAF, *(() if written is None else ("--reason", written)))
    assert ended.code == 0
    (request,) = fake.requests("RevokeCertificate")
    assert (request.name, request.reason) == (LEAF, number)
    assert not request.HasField("invalidity_time")


@pytest.mark.parametrize(("typed", "revokes"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_is_asked(
    fake: FakeServer,
    certctl: Certctl,
    root: Issued,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    revokes: bool,  # noqa: FBT001  # A parameter of the test.
) -> None:
    fake.answer("RevokeCertificate", revoked(root))
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    ended = certctl("certificate", "revoke", LEAF)
    assert f"Revoke {LEAF} for ever?" in ended.err
    assert (ended.code == 0, len(fake.requests("RevokeCertificate")) == 1) == (revokes, revokes)
    assert ("nothing was revoked" in ended.err) is not revokes


@pytest.mark.parametrize("flag", ["--yes", "--validate-only"])
def test_a_person_who_is_sure_or_only_checks_is_not_asked(
    fake: FakeServer, certctl: Certctl, root: Issued, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    fake.answer("RevokeCertificate", revoked(root))
    monkeypatch.setattr("sys.stdin", Terminal(""))
    ended = certctl("certificate", "revoke", LEAF, flag)
    assert ended.code == 0
    assert "for ever?" not in ended.err
    (request,) = fake.requests("RevokeCertificate")
    assert request.validate_only is (flag == "--validate-only")
    assert ("nothing was changed" in ended.err) is request.validate_only


def test_what_is_revoked_already_is_told(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "RevokeCertificate",
        Failing(
            code=grpc.StatusCode.ALREADY_EXISTS,
            reason="ALREADY_REVOKED",
            message="it is revoked; nothing is left to do",
            metadata={"reason": "SUPERSEDED", "revoke_time": "2026-11-03T07:00:00+00:00"},
        ),
    )
    ended = certctl("certificate", "revoke", LEAF, "-o", "json")
    failure = json.loads(ended.err)
    assert (ended.code, failure["reason"], failure["metadata"]["reason"]) == (1, "ALREADY_REVOKED", "SUPERSEDED")
