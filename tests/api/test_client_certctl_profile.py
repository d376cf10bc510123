"""certctl profile against a server of our own: what it asks, what it prints, how it ends."""

import io
import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from certd.client.messages import duration, timestamp, to_json
from certd.v1.certificate_pb2 import Certificate
from certd.v1.profile_pb2 import (
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    Profile,
    SubjectRules,
    UriRules,
)
from certd.v1.profile_service_pb2 import CheckProfileResponse, ListProfilesResponse
from certd.v1.x509_pb2 import KeySpec, KeyUsage
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl, described, encoded
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf
from tests.store.samples import NOW

WEB = "tenants/default/profiles/web"


def web(**changes: object) -> Profile:
    values: dict[str, object] = {
        "name": WEB,
        "version": 3,
        "description": "Web servers",
        "default_lifetime": duration(timedelta(days=30)),
        "shortest_lifetime": duration(timedelta(minutes=1)),
        "longest_lifetime": duration(timedelta(days=90)),
        "backdate": duration(timedelta(minutes=5)),
        "key_specs": [KeySpec.EC_P256, KeySpec.RSA_2048],
        "key_usages": [KeyUsage.DIGITAL_SIGNATURE],
        "extended_key_usages": ["1.3.6.1.5.5.7.3.1", "1.2.3.4"],
        "names": NameRules(
            dns_names=DnsNameRules(suffixes=["example.internal"], allow_wildcards=True, fewest_wildcard_labels=2),
            most=100,
        ),
        "subject": SubjectRules(presence=SubjectRules.OPTIONAL, common_name=SubjectRules.AMONG_NAMES),
        "create_time": timestamp(NOW),
        "update_time": timestamp(NOW),
        "etag": "web-3",
    }
    return Profile(**(values | changes))  # type: ignore[arg-type]  # Each value has the type of its field.


def test_create_sends_what_flags_say(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateProfile", web())
    ended = certctl(
        *("profile", "create", "web", "--description", "Web servers", "--longest-lifetime", "90d"),
        *("--default-lifetime", "30d", "--key", "ec_p256", "--key", "RSA_2048"),
        *("--usage", "digitalSignature", "--usage", "nonRepudiation", "--usage", "cRLSign", "--usage", "KEY_AGREEMENT"),
        *("--extended-usage", "serverauth", "--extended-usage", "1.2.3.4"),
        *("--dns-name", "a.example", "--dns-suffix", "example.internal", "--dns-suffix", "example.test"),
        *("--allow-any-dns", "--allow-wildcards", "--ip-range", "10.0.0.0/8"),
        *("--uri-prefix", "spiffe://example.internal/w/", "--email-domain", "example.com"),
        *("--allow-subject-override", "--allow-names-override"),
    )
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("CreateProfile")
    assert (request.parent, request.profile_id, request.validate_only) == ("tenants/default", "web", False)
    UUID(request.request_id)
    assert request.profile == Profile(
        description="Web servers",
        allow_subject_override=True,
        allow_names_override=True,
        longest_lifetime=duration(timedelta(days=90)),
        default_lifetime=duration(timedelta(days=30)),
        key_specs=[KeySpec.EC_P256, KeySpec.RSA_2048],
        key_usages=[
            KeyUsage.DIGITAL_SIGNATURE,
            KeyUsage.CONTENT_COMMITMENT,
            KeyUsage.CRL_SIGN,
            KeyUsage.KEY_AGREEMENT,
        ],
        extended_key_usages=["1.3.6.1.5.5.7.3.1", "1.2.3.4"],
        names=NameRules(
            dns_names=DnsNameRules(
                allow_any=True,
                names=["a.example"],
                suffixes=["example.internal", "example.test"],
                allow_wildcards=True,
            ),
            ip_addresses=IpAddressRules(ranges=["10.0.0.0/8"]),
            uris=UriRules(prefixes=["spiffe://example.internal/w/"]),
            email_addresses=EmailAddressRules(domains=["example.com"]),
        ),
    )


def test_what_no_flag_says_is_left_to_the_server(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateProfile", web())
    given = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"
    ended = certctl(
        *("profile", "create", "web", "--longest-lifetime", "1d", "--tenant", "acme"),
        *("--request-id", given, "--validate-only"),
    )
    assert ended.code == 0
    assert "nothing was changed" in ended.err
    (request,) = fake.requests("CreateProfile")
    assert request.profile == Profile(longest_lifetime=duration(timedelta(days=1)))
    assert (request.parent, request.request_id, request.validate_only) == ("tenants/acme", given, True)


def test_create_takes_a_file_and_flags_on_top(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answer("CreateProfile", web())
    file = tmp_path / "web.json"
    file.write_text(to_json(web()))
    certctl("profile", "create", "web", "--file", file, "--longest-lifetime", "10d", "--dns-suffix", "example.test")
    expected = web(longest_lifetime=duration(timedelta(days=10)))
    expected.names.dns_names.suffixes[:] = ["example.test"]
    assert fake.requests("CreateProfile")[0].profile == expected
    # What certctl printed comes back through a pipe.
    fake.answer("GetProfile", web())
    printed = certctl("profile", "get", "web", "-o", "json").out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(printed.encode())))
    assert certctl("profile", "create", "web", "--file", "-").code == 0
    assert fake.requests("CreateProfile")[1].profile == web()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "no profile in the API's JSON mapping"),
        (b'{"longestLifetme": "1s"}', "longestLifetme"),
        (b'{"version": "x"}', "no profile in the API's JSON mapping"),
        (b"\xff\xfe", "no text of UTF-8"),
        (b" " * ((4 << 20) + 1), "longer than a profile may be"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_profile_is_told_and_nothing_is_asked(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, content: bytes | None, told: str
) -> None:
    file = tmp_path / "web.json"
    if content is not None:
        file.write_bytes(content)
    for verb in ("create", "update"):
        ended = certctl("profile", verb, "web", "--file", file)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("certctl: FIELD_INVALID: ")
        assert told in ended.err
    assert not fake.calls


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "web", "--usage", "everything"),
        ("create", "web", "--extended-usage", "everything"),
        ("create", "web", "--extended-usage", "1."),
        ("create", "web", "--key", "RSA_512"),
        ("create", "web", "--longest-lifetime", "soon"),
        ("create", "web", "--request-id", "7"),
        ("get", "web", "--version", "0"),
        ("update", "web"),
        ("update", "web", "--clear", "version"),
        ("update", "web", "--clear", "longest_lifetime"),
        ("delete",),
        ("check", "web"),
        ("check", "web", "--csr", "-", "--file", "-"),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nothing(
    fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...]
) -> None:
    ended = certctl("profile", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage:" in ended.err
    assert not fake.calls


@pytest.mark.parametrize("verb", ["create", "get", "list", "update", "delete", "check"])
def test_every_verb_has_examples(certctl: Certctl, verb: str) -> None:
    ended = certctl("profile", verb, "--help")
    assert ended.code == 0
    assert f"certctl profile {verb}" in ended.out.partition("Examples:")[2]


def test_a_profile_is_shown_whole(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "GetProfile",
        web(
            authority=True,
            highest_path_length=2,
            restricted=True,
            passed_extensions=["1.2.3"],
            policies=["2.5.29.32.0"],
            tls_features=[5],
            custom_extensions=[CustomExtension(oid="1.2.3.9", critical=True, value=b"\x05\x00")],
            allow_subject_override=True,
            names=NameRules(
                dns_names=DnsNameRules(allow_any=True, names=["a.example"]),
                ip_addresses=IpAddressRules(ranges=["10.0.0.0/8"]),
                uris=UriRules(allow_any=True, prefixes=["https://example.com/"]),
                email_addresses=EmailAddressRules(domains=["example.com"], addresses=["a@b.example"]),
                fewest=1,
                most=9,
            ),
            subject=SubjectRules(
                presence=SubjectRules.REQUIRED,
                common_name=SubjectRules.ANY,
                allowed_attributes=["CN", "O"],
                required_attributes=["O"],
            ),
        ),
    )
    ended = certctl("profile", "get", "web", "--version", "3")
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("GetProfile")
    assert (request.name, request.version) == (WEB, 3)
    for part in (
        WEB,
        "default 30d, shortest 1m, longest 90d, backdate 5m",
        "EC_P256, RSA_2048",
        "path length to 2",
        "DIGITAL_SIGNATURE",
        "serverAuth, 1.2.3.4",
        "a.example",
        "10.0.0.0/8",
        "any but SPIFFE ids",
        "https://example.com/",
        "at example.com",
        "a@b.example",
        "1 to 9",
        "required; CN any; allowed CN, O; required O",
        "1.2.3.9 critical 0500",
        "2.5.29.32.0",
        "an authority operator",
        "2026-03-01T12:30:15Z",
        "web-3",
    ):
        assert part in ended.out
    assert json.loads(certctl("profile", "get", "web", "-o", "json").out)["etag"] == "web-3"
    assert fake.requests("GetProfile")[1].version == 0


def test_a_profile_is_no_certificate(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetProfile", web())
    fake.answer("ListProfiles", ListProfilesResponse(profiles=[web()]))
    for arguments in (("get", "web"), ("list",)):
        ended = certctl("profile", *arguments, "-o", "pem")
        assert (ended.code, ended.out) == (2, "")
        assert "no certificate to print as PEM" in ended.err


def test_lists_follow_pages(fake: FakeServer, certctl: Certctl) -> None:
    built_in = web(name="tenants/default/profiles/end-entity", built_in=True, version=1)
    authority = web(name="tenants/default/profiles/root-ca", authority=True, extended_key_usages=[], names=NameRules())
    pages = (
        ListProfilesResponse(profiles=[built_in, authority], next_page_token="2"),
        ListProfilesResponse(profiles=[web()]),
    )
    fake.answer("ListProfiles", *pages)
    ended = certctl("profile", "list")
    header, first, second, third = ended.out.splitlines()
    assert header.split() == ["PROFILE", "VERSION", "LIFETIME", "USAGES", "NAMES", "DESCRIPTION"]
    assert first.split()[:6] == ["end-entity", "built-in", "30d", "to", "90d", "serverAuth,"]
    assert second.split() == ["root-ca", "3", "30d", "to", "90d", "authority", "-", "Web", "servers"]
    assert third.split()[:2] == ["web", "3"]
    assert [request.page_token for request in fake.requests("ListProfiles")] == ["", "2"]
    fake.answer("ListProfiles", *pages)
    lines = [json.loads(line) for line in certctl("profile", "list", "-o", "json").out.splitlines()]
    assert [line["name"].rpartition("/")[2] for line in lines] == ["end-entity", "root-ca", "web"]


def test_update_changes_what_flags_name_where_it_stands(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetProfile", web())
    fake.answer("UpdateProfile", web(version=4))
    ended = certctl(
        *("profile", "update", "web", "--no-allow-wildcards", "--longest-lifetime", "60d", "--ip-range", "10.0.0.0/8"),
        *("--clear", "key_specs", "--clear", "backdate"),
    )
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("UpdateProfile")
    assert sorted(request.update_mask.paths) == ["backdate", "key_specs", "longest_lifetime", "names"]
    expected = web(longest_lifetime=duration(timedelta(days=60)), key_specs=[], backdate=None)
    expected.names.dns_names.allow_wildcards = False
    expected.names.ip_addresses.ranges[:] = ["10.0.0.0/8"]
    assert request.profile == expected
    assert request.profile.etag == "web-3", "not over what another changed meanwhile"
    UUID(request.request_id)


def test_update_by_a_file_replaces_everything(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    fake.answer("UpdateProfile", web(version=4))
    file = tmp_path / "web.json"
    file.write_text('{"longestLifetime": "86400s"}')
    given = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"
    ended = certctl("profile", "update", "web", "--file", file, "--validate-only", "--request-id", given)
    assert ended.code == 0
    assert "nothing was changed" in ended.err
    (request,) = fake.requests("UpdateProfile")
    assert list(request.update_mask.paths) == ["*"]
    assert request.profile == Profile(name=WEB, longest_lifetime=duration(timedelta(days=1)))
    assert (request.validate_only, request.request_id) == (True, given)
    assert not fake.requests("GetProfile")


def test_delete(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("DeleteProfile", Empty())
    ended = certctl("profile", "delete", "web", "--etag", "web-3")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"certctl: {WEB} is deleted\n"
    checked = certctl("profile", "delete", "web", "--validate-only")
    assert checked.err == f"certctl: every check passed; {WEB} is still there\n"
    first, second = fake.requests("DeleteProfile")
    assert (first.name, first.etag, first.validate_only) == (WEB, "web-3", False)
    assert (second.etag, second.validate_only) == ("", True)
    assert first.request_id != second.request_id
    as_json = certctl("profile", "delete", "web", "-o", "json")
    assert (json.loads(as_json.out), as_json.err) == ({}, "")


def test_a_refusal_names_the_remedy(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "DeleteProfile",
        Failing(code=grpc.StatusCode.FAILED_PRECONDITION, reason="PROFILE_IN_USE", message="named by x; delete x"),
    )
    ended = certctl("profile", "delete", "web")
    assert (ended.code, ended.out, ended.err) == (1, "", "certctl: PROFILE_IN_USE: named by x; delete x\n")


def test_check_shows_every_finding_and_ends_with_1(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    kind = CheckProfileResponse.Finding
    found = CheckProfileResponse(
        findings=[
            kind(reason="KEY_TOO_WEAK", field="csr.public_key", description="is of a kind that is not accepted"),
            kind(reason="LINT_FAILED", description="breaks a rule"),
        ],
        warnings=[ApiWarning(field="csr.extensions", message="1.2.3 was dropped")],
    )
    fake.answer("CheckProfile", found)
    csr = tmp_path / "req.pem"
    csr.write_bytes(b"a request")
    ended = certctl("profile", "check", "web", "--csr", csr)
    assert ended.code == 1
    header, first, second = ended.out.splitlines()
    assert header.split() == ["REASON", "FIELD", "FINDING"]
    assert first.split(maxsplit=2) == ["KEY_TOO_WEAK", "csr.public_key", "is of a kind that is not accepted"]
    assert second.split(maxsplit=2) == ["LINT_FAILED", "-", "breaks a rule"]
    assert ended.err == "certctl: warning: csr.extensions: 1.2.3 was dropped\n"
    as_json = certctl("profile", "check", "web", "--csr", csr, "-o", "json")
    assert (as_json.code, as_json.err) == (1, "")
    assert [each["reason"] for each in json.loads(as_json.out)["findings"]] == ["KEY_TOO_WEAK", "LINT_FAILED"]
    assert certctl("profile", "check", "web", "--csr", csr, "-o", "pem").code == 1
    (request, _, _) = fake.requests("CheckProfile")
    assert (request.name, request.csr) == (WEB, b"a request")
    for absent in ("profile", "lifetime", "subject", "subject_alternative_names"):
        assert not request.HasField(absent)


def test_check_shows_what_would_be_issued(fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path) -> None:
    leaf = make_leaf(root, "www.example.internal")
    certificate = Certificate(certificate=encoded(leaf), description=described())
    fake.answer("CheckProfile", CheckProfileResponse(certificate=certificate))
    csr, file = tmp_path / "req.pem", tmp_path / "web.json"
    csr.write_bytes(b"a request")
    file.write_text(to_json(web()))
    arguments = (
        *("profile", "check", "web-next", "--csr", csr, "--file", file, "--authority", "web-ca", "--lifetime", "1d"),
        *("--subject", "CN=x", "--dns", "a.example", "--ip", "10.0.0.1", "--uri", "urn:x", "--email", "a@b.example"),
    )
    ended = certctl(*arguments)
    assert ended.code == 0
    assert ended.err == "certctl: every check passed; nothing was issued\n"
    assert "a.example" in ended.out
    assert "89 days left" in ended.out
    (request,) = fake.requests("CheckProfile")
    assert (request.name, request.authority) == ("tenants/default/profiles/web-next", CA)
    assert request.profile == web()
    assert request.lifetime.ToTimedelta() == timedelta(days=1)
    assert request.subject.relative_distinguished_names[0].attributes[0].value == "x"
    names = request.subject_alternative_names
    assert (list(names.dns_names), list(names.ip_addresses)) == (["a.example"], ["10.0.0.1"])
    assert (list(names.uris), list(names.email_addresses)) == (["urn:x"], ["a@b.example"])
    assert certctl(*arguments, "-o", "pem").out == leaf.certificate_pem.decode()


def test_a_check_is_tried_again(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    csr = tmp_path / "req.pem"
    csr.write_bytes(b"a request")
    fake.answer("CheckProfile", Failing(code=grpc.StatusCode.UNAVAILABLE), CheckProfileResponse())
    assert certctl("profile", "check", "web", "--csr", csr).code == 0
    assert len(fake.requests("CheckProfile")) == 2
