"""`certctl authority`: where relying parties learn what is revoked."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from certd.client.messages import duration
from certd.v1.authority_pb2 import Authority
from certd.v1.x509_pb2 import CertificateDescription
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl
from tests.fakes_server import FakeServer, Issued, make_leaf, running

Settings = Authority.RevocationSettings
OTHER, THIRD = "http://crl.example.com", "http://192.0.2.7:8080/pub"


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        server.answer("UpdateAuthority", Authority(name=CA))
        server.answer("CreateAuthority", Authority(name=CA, state=Authority.ENABLED))
        yield server


def hours(count: int) -> Duration:
    return duration(timedelta(hours=count))


@pytest.mark.parametrize(
    ("options", "paths", "settings"),
    [
        (("--no-crl",), ["crl.enabled"], Settings(crl=Settings.Crl(enabled=False))),
        (("--crl", "--ocsp"), ["crl.enabled", "ocsp.enabled"],
         Settings(crl=Settings.Crl(enabled=True), ocsp=Settings.Ocsp(enabled=True))),
        (("--crl-lifetime", "12h", "--crl-partitions", "64"),
         ["crl.lifetime", "crl.partitioned", "crl.partition_count"],
         Settings(crl=Settings.Crl(lifetime=hours(12), partitioned=True, partition_count=64))),
        (("--crl-partitions", "0"), ["crl.partitioned"], Settings(crl=Settings.Crl(partitioned=False))),
        (("--crl-url", OTHER, "--crl-url", THIRD, "--ocsp-url", OTHER, "--issuer-url", THIRD),
         ["crl.base_urls", "ocsp.base_urls", "issuer_base_urls"],
         Settings(crl=Settings.Crl(base_urls=[OTHER, THIRD]), ocsp=Settings.Ocsp(base_urls=[OTHER]),
                  issuer_base_urls=[THIRD])),
        # Back to what the server is known by.
        (("--crl-url", "server", "--issuer-url", "server"), ["crl.base_urls", "issuer_base_urls"],
         Settings(crl=Settings.Crl())),
        (("--no-crl-extension", "--no-ocsp-extension", "--no-issuer-extension"),
         ["crl.omit_extension", "ocsp.omit_extension", "omit_issuer_url"],
         Settings(crl=Settings.Crl(omit_extension=True), ocsp=Settings.Ocsp(omit_extension=True),
                  omit_issuer_url=True)),
        (("--issuer-extension", "--ocsp-lifetime", "1d"), ["ocsp.lifetime", "omit_issuer_url"],
         Settings(ocsp=Settings.Ocsp(lifetime=hours(24)))),
    ],
)  # fmt: skip
def test_an_update_names_what_is_said_and_nothing_else(
    fake: FakeServer, certctl: Certctl, options: tuple[str, ...], paths: list[str], settings: Settings
) -> None:
    ended = certctl("authority", "update", "web-ca", *options)
    assert (ended.code, ended.err) == (0, "")
    (request,) = fake.requests("UpdateAuthority")
    assert sorted(request.update_mask.paths) == sorted(f"revocation.{path}" for path in paths)
    assert request.authority.revocation == settings


def test_deletion_protection_and_labels_go_along(fake: FakeServer, certctl: Certctl) -> None:
    certctl("authority", "update", "web-ca", "--deletion-protection")
    certctl("authority", "update", "web-ca", "--no-deletion-protection", "--no-ocsp", "--label", "a=b")
    first, second = fake.requests("UpdateAuthority")
    assert (list(first.update_mask.paths), first.authority.deletion_protection) == (["deletion_protection"], True)
    assert sorted(second.update_mask.paths) == ["deletion_protection", "labels", "revocation.ocsp.enabled"]
    assert (second.authority.deletion_protection, dict(second.authority.labels)) == (False, {"a": "b"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "say what to change"),
        (("--crl-url", "server", "--crl-url", OTHER), "alone"),
        (("--crl-partitions", "4097"), "4097"),
        (("--crl-lifetime", "soon"), "no duration"),
    ],
)
def test_what_makes_no_sense_asks_nothing(
    fake: FakeServer, certctl: Certctl, options: tuple[str, ...], says: str
) -> None:
    ended = certctl("authority", "update", "web-ca", *options)
    assert (ended.code, fake.requests("UpdateAuthority")) == (2, [])
    assert says in ended.err


def test_a_new_authority_gets_them_all(fake: FakeServer, certctl: Certctl) -> None:
    create = ("authority", "create", "web-ca", "--type", "subordinate", "--issuer", "root", "--subject", "CN=CA")
    assert certctl(*create, "--usage-mode", "short-lived", "--deletion-protection").code == 0
    assert certctl(*create, "--crl-partitions", "8", "--ocsp-url", OTHER).code == 0
    first, second = (request.authority for request in fake.requests("CreateAuthority"))
    assert (first.usage_mode, first.deletion_protection) == (Authority.SHORT_LIVED, True)
    assert not first.HasField("revocation")
    assert (second.usage_mode, second.deletion_protection) == (Authority.GENERAL_PURPOSE, False)
    assert second.revocation == Settings(
        crl=Settings.Crl(partitioned=True, partition_count=8), ocsp=Settings.Ocsp(base_urls=[OTHER])
    )


def test_settings_and_urls_are_shown_and_warnings_are_told(fake: FakeServer, certctl: Certctl) -> None:
    item = Authority(
        name=CA,
        usage_mode=Authority.GENERAL_PURPOSE,
        deletion_protection=True,
        revocation=Settings(
            crl=Settings.Crl(
                enabled=True, partitioned=True, partition_count=16, lifetime=hours(168), base_urls=[OTHER, THIRD]
            ),
            ocsp=Settings.Ocsp(enabled=True, lifetime=hours(48), omit_extension=True),
            omit_issuer_url=True,
        ),
        description=CertificateDescription(crl_urls=["http://a/crl/r/1.crl"], ocsp_urls=["http://a/ocsp/r/1"]),
    )
    fake.answer("GetAuthority", item)
    shown = certctl("authority", "get", "web-ca").out
    for text in (
        "general-purpose", "protected", "holds for 1w, 16 partitions", f"at {OTHER}", f"at {THIRD}",
        "answers hold for 2d, not named by new certificates", "http://a/crl/r/1.crl", "http://a/ocsp/r/1",
    ):  # fmt: skip
        assert text in shown, text
    item.usage_mode = Authority.SHORT_LIVED
    item.revocation.crl.enabled = item.revocation.ocsp.enabled = False
    item.warnings.append(ApiWarning(field="authority.usage_mode", message="authorities may stand below it"))
    fake.answer("UpdateAuthority", item)
    ended = certctl("authority", "update", "web-ca", "--no-crl")
    assert "at most 7 days" in ended.out
    assert "holds for" not in ended.out
    assert "authorities may stand below it" in ended.err
