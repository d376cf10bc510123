"""Downloads by curl: each format, what costs nothing, who gets nothing."""

import http.client
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import update

from certd.errors import Reason
from certd.model.access import Caller, Role
from certd.model.event import Event, EventType
from certd.model.names import IdentityName, ManagedCertificateName
from certd.pki.download_code import new_download_code, parse_download_code
from certd.services.code_guesses import FROM_A_NETWORK, Guesses
from certd.services.downloads import EXPORTS
from certd.services.rates import Rates
from certd.store import identities, notification_schema
from certd.store.download_codes import get
from certd.web.device_formats import DeviceFormat
from tests.devices.site import ADMINISTRATOR, PASSPHRASE, WEB, Site, run_openssl
from tests.fakes import FakeClock

_WITH_KEY = ("pkcs8", "pkcs12-modern", "pkcs12-legacy", "acm-compatible")
_ACM = "acm-compatible"
"""The quickest."""


def _exports(site: Site) -> list[Event]:
    return [event for event in site.events() if event.type is EventType.MANAGED_CERTIFICATE_EXPORTED]


def _leaf(site: Site, name: ManagedCertificateName = WEB) -> x509.Certificate:
    return x509.load_der_x509_certificate(site.get(name).certificate or b"")


def _public_key(site: Site, name: ManagedCertificateName = WEB) -> bytes:
    return _leaf(site, name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _certificates(site: Site) -> list[x509.Certificate]:
    view = site.get()
    return [x509.load_der_x509_certificate(der) for der in (view.certificate or b"", *view.chain)]


@pytest.mark.parametrize("format_", ["pkcs8", _ACM])
def test_a_key_in_pem_comes_encrypted_with_its_certificate_and_chain(site: Site, format_: str) -> None:
    answer = site.curl(format_)
    assert answer.status == 200
    labels = re.findall(rb"-----BEGIN ([A-Z ]+)-----", answer.body)
    assert labels == [b"ENCRYPTED PRIVATE KEY"] + [b"CERTIFICATE"] * len(_certificates(site))
    assert x509.load_pem_x509_certificates(answer.body) == _certificates(site)
    opened = run_openssl("pkey", "-passin", f"pass:{PASSPHRASE}", "-pubout", stdin=answer.body)
    assert opened == _public_key(site)
    assert answer.headers["content-type"] == "application/x-pem-file"
    assert answer.headers["content-disposition"] == 'attachment; filename="web.pem"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(("format_", "options"), [("pkcs12-modern", ()), ("pkcs12-legacy", ("-legacy",))])
def test_a_pkcs12_opens(site: Site, format_: str, options: tuple[str, ...]) -> None:
    answer = site.curl(format_)
    assert answer.headers["content-type"] == "application/x-pkcs12"
    assert answer.headers["content-disposition"] == 'attachment; filename="web.p12"'
    opened = run_openssl("pkcs12", "-passin", f"pass:{PASSPHRASE}", "-nodes", *options, stdin=answer.body)
    assert run_openssl("pkey", "-pubout", stdin=opened) == _public_key(site)
    assert x509.load_pem_x509_certificates(opened) == _certificates(site)


def test_what_has_no_key_needs_no_passphrase_and_is_not_recorded(site: Site, tmp_path: Path) -> None:
    before = len(site.events())
    leaf, *chain = _certificates(site)
    pem = site.curl("pem", passphrase=None)
    assert x509.load_pem_x509_certificates(pem.body) == [leaf, *chain]
    assert pem.headers["cache-control"] == "private, no-cache"
    der = site.curl("der", passphrase=None)
    assert run_openssl("x509", "-inform", "DER", "-outform", "PEM", stdin=der.body) == leaf.public_bytes(Encoding.PEM)
    pkcs7 = site.curl("pkcs7", passphrase=None)
    printed = run_openssl("pkcs7", "-inform", "DER", "-print_certs", stdin=pkcs7.body)
    assert set(x509.load_pem_x509_certificates(printed)) == {leaf, *chain}
    ca = site.curl("ca", passphrase=None)
    (tmp_path / "ca.pem").write_bytes(ca.body)
    (tmp_path / "chain.pem").write_bytes(pem.body)
    run_openssl("verify", "-x509_strict", "-CAfile", f"{tmp_path}/ca.pem", f"{tmp_path}/chain.pem")
    types = [each.headers["content-type"] for each in (pem, der, pkcs7, ca)]
    assert types == [
        "application/pem-certificate-chain",
        "application/pkix-cert",
        "application/pkcs7-mime; smime-type=certs-only",
        "application/pem-certificate-chain",
    ]
    assert len(site.events()) == before


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/x-pkcs12", "application/x-pkcs12"),
        ("text/html, application/pkix-cert;q=0.9, */*;q=0.1", "application/pkix-cert"),
        ("application/pkix-cert;q=0.2, application/pkcs7-mime", "application/pkcs7-mime; smime-type=certs-only"),
        ("application/pkix-cert;q=0, application/pem-certificate-chain;q=0.1", "application/pem-certificate-chain"),
    ],
)
def test_accept_stands_for_a_format(site: Site, accept: str, media_type: str) -> None:
    answer = site.curl(None, headers={"Accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (200, media_type)


@pytest.mark.parametrize("format_", ["", "PEM", "jks", "pkcs8%00", None])
def test_an_unknown_format_is_answered_with_those_there_are(site: Site, format_: str | None) -> None:
    answer = site.curl(format_)
    assert answer.outcome == (400, "FIELD_INVALID")
    assert all(known in answer.json["detail"] for known in DeviceFormat)


@pytest.mark.parametrize("query", ["pem&format=der", "pem&passphrase=hidden-away", "pem&version=1"])
def test_a_query_is_one_format_and_is_not_repeated(site: Site, query: str) -> None:
    answer = site.curl(query)
    assert answer.outcome == (400, "FIELD_INVALID")
    assert b"hidden-away" not in answer.body


def test_an_export_is_recorded_as_that_of_the_api_is(site: Site) -> None:
    name = site.managed("recorded")
    site.identity("recording", Role.EXPORTER, str(name))
    answer = site.curl(_ACM, name=name, who="recording", headers={"Certd-Reason": "nächster Router"})
    assert answer.status == 200
    event = _exports(site)[-1]
    assert event.principal.endswith("/identities/recording")
    assert event.resource == f"{name}/versions/1"
    told = {key: event.details[key] for key in ("protection", "form", "version", "reason")}
    assert told == {
        "protection": "passphrase",
        "form": "ACM_COMPATIBLE",
        "version": "1",
        "reason": "nächster Router",
    }
    managed = site.get(name).managed_certificate
    assert (managed.exported_version, managed.used) == (1, True)


@pytest.mark.parametrize("reason", ["x" * 257, "a\x7fb"])
def test_a_reason_is_short_and_printable(site: Site, reason: str) -> None:
    assert site.curl(_ACM, headers={"Certd-Reason": reason}).outcome == (400, "FIELD_INVALID")


@pytest.mark.parametrize("format_", list(DeviceFormat))
def test_an_unchanged_certificate_costs_an_answer_without_a_body(site: Site, format_: DeviceFormat) -> None:
    known = site.curl(format_, "--head", passphrase=None)
    before = len(site.events())
    assert re.fullmatch(rf'W/"[0-9a-f-]+\.1\.{format_}\.[0-9a-f]{{16}}"', known.headers["etag"])
    for given in (
        known.headers["etag"],
        known.headers["etag"].removeprefix("W/"),
        f'"x", {known.headers["etag"]}',
        "*",
    ):
        # Nor does it need a passphrase.
        answer = site.curl(format_, passphrase=None, headers={"If-None-Match": given})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == known.headers["etag"]
    assert len(site.events()) == before
    other = site.curl("der" if format_ != "der" else "pem", headers={"If-None-Match": known.headers["etag"]})
    assert other.status == 200


def test_answers_are_counted(site: Site) -> None:
    host, _, port = site.installed.ready.metrics.rpartition(":")

    def counted(status: int) -> float:
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(rf'^certd_downloads_total{{status="{status}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = {status: counted(status) for status in (200, 304, 400)}
    tag = site.curl("pem").headers["etag"]
    site.curl("pem", headers={"If-None-Match": tag})
    site.curl("nonsense")
    assert {status: counted(status) for status in before} == {status: count + 1 for status, count in before.items()}


def test_head_tells_what_there_is_and_exports_nothing(site: Site) -> None:
    before = len(site.events())
    answer = site.curl("pkcs8", "--head")
    assert (answer.status, answer.body) == (200, b"")
    assert "content-length" not in answer.headers
    assert answer.headers["last-modified"].endswith(" GMT")
    assert len(site.events()) == before
    assert site.curl("der", "--head").headers["content-length"] == str(len(_leaf(site).public_bytes(Encoding.DER)))


def test_a_renewed_certificate_is_another(site: Site) -> None:
    name = site.managed("renewed")
    site.identity("renewing", Role.EXPORTER, str(name))
    first = site.curl(_ACM, name=name, who="renewing")
    site.installed.core.managed_certificate_changes.renew(ADMINISTRATOR, name, reason="", key=None)
    site.at_version(2, name)
    second = site.curl(_ACM, name=name, who="renewing", headers={"If-None-Match": first.headers["etag"]})
    assert second.status == 200
    assert second.headers["etag"] != first.headers["etag"]
    assert run_openssl("pkey", "-passin", f"pass:{PASSPHRASE}", "-pubout", stdin=second.body) == _public_key(site, name)


def test_what_may_not_be_exported_leaves_without_its_key_alone(site: Site) -> None:
    name = site.managed("kept", exportable=False)
    site.identity("keeping", Role.EXPORTER, str(name))
    assert site.curl("pkcs8", name=name, who="keeping").outcome == (409, "NOT_EXPORTABLE")
    assert site.curl("pem", name=name, who="keeping").status == 200


@pytest.mark.parametrize(
    ("passphrase", "says"),
    [
        (None, "is required"),
        ("short", "8 to"),
        ("x" * 1025, "8 to 1024 bytes"),
        ("pässphrase", "printable ASCII"),
    ],
)
def test_a_passphrase_is_asked_for_by_its_rules_and_not_repeated(site: Site, passphrase: str | None, says: str) -> None:
    before = len(site.events())
    answer = site.curl("pkcs8", passphrase=passphrase)
    assert answer.outcome == (400, "FIELD_INVALID")
    assert says in answer.json["detail"]
    assert passphrase is None or passphrase not in answer.body.decode()
    assert len(site.events()) == before


def test_without_a_credential_there_is_nothing(site: Site) -> None:
    for name in (WEB, ManagedCertificateName("default", "no-web")):
        answer = site.curl("pem", name=name, who=None)
        assert answer.outcome == (401, "CREDENTIAL_MISSING")
        assert answer.headers["www-authenticate"] == 'Bearer realm="certd"'
        assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_grant_there_is_nothing_whether_it_exists_or_not(site: Site) -> None:
    site.identity("nobody")
    site.identity("consumer", Role.CONSUMER, "tenants/default")
    site.identity("neighbour", Role.EXPORTER, "tenants/default/managedCertificates/web-1")
    site.identity("foreigner", Role.ADMINISTRATOR, "tenants/other", tenant="other")
    missing = ManagedCertificateName("default", "no-web")
    for who in ("nobody", "consumer", "neighbour", "foreigner"):
        shown = []
        for name in (WEB, missing):
            for format_ in ("pkcs8", "pem"):
                answer = site.curl(format_, name=name, who=who)
                assert answer.outcome == (403, "PERMISSION_MISSING")
                shown.append(answer.body.decode().replace(name.managed_certificate, "…"))
        assert len(set(shown)) == 1


def test_who_may_is_told_of_what_there_is_not(site: Site) -> None:
    site.identity("wide", Role.EXPORTER, "tenants/default")
    missing = ManagedCertificateName("default", "no-web")
    assert site.curl("pem", name=missing, who="wide").outcome == (404, "MANAGED_CERTIFICATE_NOT_FOUND")
    bent = ManagedCertificateName("default", "Web_")
    assert site.curl("pem", name=bent, who="wide").outcome == (400, "FIELD_INVALID")


def test_a_revoked_identity_gets_nothing(site: Site) -> None:
    site.identity("revoked", Role.EXPORTER, str(WEB))
    assert site.curl("pem", who="revoked").status == 200
    site.installed.core.identity_changes.revoke(
        ADMINISTRATOR, IdentityName(None, "revoked"), key=None, validate_only=False
    )
    answer = site.curl("pem", who="revoked")
    assert answer.outcome == (401, "CREDENTIAL_REVOKED")


def test_a_revocation_is_felt_by_a_connection_that_stays_open(site: Site) -> None:
    site.identity("staying", Role.EXPORTER, str(WEB))
    connection = site.connection("staying")

    def asked() -> int:
        connection.request("GET", f"/v1/{WEB}?format=der")
        response = connection.getresponse()
        response.read()
        return response.status

    assert asked() == 200
    held = connection.sock
    site.installed.core.identity_changes.revoke(
        ADMINISTRATOR, IdentityName(None, "staying"), key=None, validate_only=False
    )
    assert asked() == 401
    assert connection.sock is held
    connection.close()


def test_a_caller_has_a_rate_with_and_without_a_code(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    code, other = site.code(), site.code()
    monkeypatch.setattr(site.installed.core.downloads, "_rates", Rates(calls_per_second=1, burst=2, clock=lambda: 1.0))
    for credentials in ({"who": "device"}, {"who": None, "code": code}):
        answers = [site.curl("pem", "--head", **credentials) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
    # One code uses up nothing of another, nor of who made both.
    assert site.curl("pem", "--head", who=None, code=other).status == 200


def test_the_configuration_may_allow_shorter_passphrases_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.installed.core.downloads, "_passphrase_bytes", 10)
    answer = site.curl("pkcs8", passphrase="x" * 11)
    assert answer.outcome == (400, "FIELD_INVALID")
    assert "8 to 10 bytes" in answer.json["detail"]


def test_refused_calls_are_counted_as_events(site: Site) -> None:
    site.identity("curious")
    for _ in range(3):
        assert site.curl("pem", who="curious").status == 403
    site.installed.core.refusals.flush(whole_minutes=False)
    told = [
        event
        for event in site.events()
        if event.type is EventType.CALL_REFUSED and event.principal.endswith("/identities/curious")
    ]
    assert {event.resource for event in told} == {"devices/Download"}
    assert sum(int(event.details["count"]) for event in told) == 3
    assert {event.details["peer"] for event in told} == {"127.0.0.1"}


def test_a_code_is_good_for_one_export(site: Site) -> None:
    code = site.code(reason="a new router")
    # What has no key, what is only looked at and what is refused leave it as it is.
    for answer in (
        site.curl("pem", who=None, code=code),
        site.curl("pkcs8", "--head", who=None, code=code),
        site.curl("pkcs8", who=None, code=code, headers={"If-None-Match": "*"}),
        site.curl("pkcs8", who=None, code=code, passphrase="short"),
    ):
        assert answer.status in {200, 304, 400}
    answer = site.curl(_ACM, who=None, code=f" {code.upper()} ")
    assert answer.status == 200
    assert run_openssl("pkey", "-passin", f"pass:{PASSPHRASE}", "-pubout", stdin=answer.body) == _public_key(site)
    event = _exports(site)[-1]
    assert (event.principal, event.details["reason"]) == (ADMINISTRATOR.principal, "a new router")
    assert event.details["address"] == "127.0.0.1"
    (made,) = [one for one in site.events() if one.details.get("download_code") == event.details["download_code"]][:1]
    assert (made.type, made.resource) == (EventType.DOWNLOAD_CODE_CREATED, str(WEB))
    assert code not in repr(site.events())
    for format_ in (_ACM, "pem"):
        assert site.curl(format_, who=None, code=code).outcome == (401, "DOWNLOAD_CODE_INVALID")


def test_no_code_tells_why_it_opens_nothing(site: Site) -> None:
    other = site.managed("coded")
    expired, foreign, elsewhere = site.code(), site.code(other), site.code(source_networks=("192.0.2.0/24",))
    codes = notification_schema.download_codes
    end = update(codes).where(codes.c.code_sha256 == parse_download_code(expired).secret_sha256).values(expire_time=1)
    site.installed.core.store.write("test.expire", lambda tx: tx.execute(end))
    missing = ManagedCertificateName("default", "no-web")
    answers = [
        site.curl(_ACM, who=None, code=expired),
        site.curl(_ACM, who=None, code=foreign),
        site.curl(_ACM, who=None, code=elsewhere),
        site.curl(_ACM, who=None, code="certddl1-" + "a" * 32),
        site.curl(_ACM, who=None, code="nonsense"),
        site.curl(_ACM, who=None, code=foreign, name=missing),
        # A code is looked at also where the certificate would do.
        site.curl(_ACM, code="nonsense"),
    ]
    assert {answer.outcome for answer in answers} == {(401, "DOWNLOAD_CODE_INVALID")}
    assert len({answer.body for answer in answers}) == 1
    assert site.curl(_ACM, who=None, code=foreign, name=other).status == 200
    site.installed.core.download_codes.tell_all()
    refused = [event for event in site.events() if event.type is EventType.DOWNLOAD_REFUSED]
    assert {event.details["address"] for event in refused} == {"127.0.0.1"}
    assert sum(int(event.details["count"]) for event in refused) >= len(answers)


@pytest.mark.parametrize("authorization", ["Basic YTpi", "Bearer", "certddl1-aaaa", ""])
def test_an_authorization_that_is_no_code_opens_nothing(site: Site, authorization: str) -> None:
    connection = site.connection("device")
    connection.request("GET", f"/v1/{WEB}?format=pem", headers={"Authorization": authorization})
    response = connection.getresponse()
    assert response.status == 401
    assert b"DOWNLOAD_CODE_INVALID" in response.read()
    connection.close()


def test_after_too_many_wrong_codes_wrong_ones_wait_and_right_ones_do_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = site.installed.core.download_codes
    guesses = Guesses(kind="download codes", reason=Reason.DOWNLOAD_CODE_INVALID)
    monkeypatch.setattr(codes, "_guesses", guesses)
    # So that no minute begins in between.
    monkeypatch.setattr(codes, "_clock", FakeClock(site.installed.core.clock.now()))
    code = site.code()
    outcomes = [site.curl("pem", who=None, code="wrong").outcome for _ in range(FROM_A_NETWORK + 1)]
    assert outcomes == [(401, "DOWNLOAD_CODE_INVALID")] * FROM_A_NETWORK + [(429, "RATE_LIMITED")]
    assert site.curl("pem", who=None, code=code).status == 200
    answer = site.curl("pem", who=None, code=new_download_code().text())
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    # Who comes with a certificate guesses nothing.
    assert site.curl("pem").status == 200


def test_a_code_ends_with_what_its_maker_may(site: Site) -> None:
    maker = Caller(principal=site.identity("maker", Role.EXPORTER, str(WEB)), serial="")
    code = site.code(creator=maker)
    assert site.curl("pem", who=None, code=code).status == 200
    site.installed.core.identity_changes.revoke(
        ADMINISTRATOR, IdentityName(None, "maker"), key=None, validate_only=False
    )
    assert site.curl("pem", who=None, code=code).outcome == (401, "DOWNLOAD_CODE_INVALID")
    with site.installed.core.store.read("test.code") as tx:
        assert get(tx, parse_download_code(code).secret_sha256) is None
        assert identities.get(tx, IdentityName(None, "maker")) is not None


def test_of_many_at_once_with_one_code_one_gets_it(site: Site) -> None:
    code = site.code()
    before = len(_exports(site))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _number: site.curl(_ACM, who=None, code=code), range(4)))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]
    assert len(_exports(site)) == before + 1


def test_as_many_exports_as_there_may_be_leave_a_code_unused(site: Site) -> None:
    code = site.code()
    running = site.installed.core.downloads._exports
    for _ in range(EXPORTS):
        assert running.acquire(timeout=20)
    answer = site.curl(_ACM, who=None, code=code)
    running.release(EXPORTS)
    assert answer.outcome == (429, "SERVER_BUSY")
    assert answer.headers["retry-after"] == "2"
    assert site.curl(_ACM, who=None, code=code).status == 200


def test_the_program_that_people_use_shows_no_secret_in_the_process_list(site: Site) -> None:
    """As the README has it."""
    code = site.code()
    script = (
        "{ printf 'Authorization: Bearer '; cat code; printf 'Certd-Passphrase: '; cat pass; } |"
        f" curl -q -fsS --cacert ca.pem -H @- -o web.pem '{site.url(format_='pkcs8')}'"
    )
    (site.folder / "code").write_text(f"{code}\n")
    (site.folder / "pass").write_text(f"{PASSPHRASE}\n")
    subprocess.run(["sh", "-c", script], cwd=site.folder, check=True, timeout=60)
    pem = (site.folder / "web.pem").read_bytes()
    assert run_openssl("pkey", "-passin", f"pass:{PASSPHRASE}", "-pubout", stdin=pem) == _public_key(site)
