"""What may be said of a subscription: one reading of each URL and address, and nothing that reaches another tenant."""

import pytest

from certd.errors import CertdError, Reason
from certd.model.names import TenantName
from certd.model.subscription_rules import (
    check_event_types,
    check_recipients,
    check_resource,
    check_trusted_roots,
    check_url,
)
from tests.fakes_server import make_root

ROOT = make_root()
PEM = ROOT.certificate_pem.decode()
PARENT = TenantName("default")


def field_of(error: pytest.ExceptionInfo[CertdError]) -> str:
    assert error.value.reason is Reason.FIELD_INVALID
    (violation,) = error.value.violations
    return violation.field


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com",
        "https://hooks.example.com/",
        "https://hooks.example.com:8443/certd/events?token=a%20b&x=1",
        "https://hooks.example.com?token=1",
        "https://192.0.2.7/hook",
        "https://[2001:db8::7]:443/hook",
        "https://xn--bcher-kva.example/",
        "https://a_b.example/@team/x;y=1,2",
        "https://localhost:1/",
        "https://h.example:65535/",
        "https://h.example/" + "a" * 2030,
    ],
)
def test_a_url_of_a_webhook(url: str) -> None:
    assert check_url("webhook.url", url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://hooks.example.com/",
        "HTTPS://hooks.example.com/",
        "ftp://hooks.example.com/",
        "hooks.example.com",
        "https:",
        "https://",
        "https:///path",
        "https://?query",
        "https://:443/",
        "https://user@hooks.example.com/",
        "https://user:pass@hooks.example.com/",
        "https://@hooks.example.com/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com#",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:65536/",
        "https://hooks.example.com:/",
        "https://hooks.example.com:44x/",
        "https://hooks.example.com:4430000/",
        "https://good.example\\@evil.example/",
        "https://good.example\\.evil.example/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nHost: x",
        "https://hooks.example.com/\n",
        "https://hooks.example.com\t/",
        "https://bücher.example/",
        "https://hooks.example.com/ü",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
        "https://-a.example/",
        "https://.example/",
        "https://a.example./",
        "https://h.example/<script>",
        'https://h.example/"',
        "https://" + "a" * 254 + "/",
        "https://h.example/" + "a" * 2031,
    ],
)
def test_no_url_of_a_webhook(url: str) -> None:
    with pytest.raises(CertdError) as error:
        check_url("webhook.url", url)
    assert field_of(error) == "webhook.url"


def test_roots_are_kept_as_pem_of_certificates_and_nothing_else() -> None:
    assert check_trusted_roots("roots", "") == ""
    assert check_trusted_roots("roots", f"subject=CN = x\n{PEM}\n# and again\n{PEM}") == PEM + PEM


@pytest.mark.parametrize(
    "roots",
    [
        "roots",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAkwADAAAwEAMAA=\n-----END CERTIFICATE-----\n",
        PEM + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        PEM.replace("END CERTIFICATE", "END"),
        PEM + "ü",
        PEM * 200,
        "0\x82",
    ],
)
def test_what_are_no_roots(roots: str) -> None:
    with pytest.raises(CertdError) as error:
        check_trusted_roots("roots", roots)
    assert field_of(error) == "roots"


@pytest.mark.parametrize(
    "address",
    [
        "oncall@example.com",
        "a.b+c@sub.example.com",
        "o'neil@example.com",
        "x" * 64 + "@example.com",
        "root@localhost",
        "a@" + "b" * 63 + ".example",
    ],
)
def test_an_address(address: str) -> None:
    assert check_recipients("recipients", [address]) == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "oncall",
        "@example.com",
        "oncall@",
        "On Call <oncall@example.com>",
        "<oncall@example.com>",
        '"on call"@example.com',
        "oncall@example.com, other@example.com",
        "oncall@example.com\r\nBcc: other@example.com",
        "oncall@example.com\n",
        "on\x00call@example.com",
        "oncall@exam_ple.com",
        "oncall@-example.com",
        "oncall@example..com",
        ".oncall@example.com",
        "on..call@example.com",
        "oncall.@example.com",
        "oncall@[192.0.2.7]",
        "on call@example.com",
        "oncall(comment)@example.com",
        "öncall@example.com",
        "a@b@example.com",
        "x" * 65 + "@example.com",
        "a@" + ".".join(["b" * 60] * 5),
    ],
)
def test_no_address(address: str) -> None:
    with pytest.raises(CertdError) as error:
        check_recipients("recipients", ["first@example.com", address])
    assert field_of(error) == "recipients[1]"


def test_there_are_one_to_twenty_addresses_each_once() -> None:
    many = [f"a{number}@example.com" for number in range(21)]
    assert check_recipients("recipients", many[:20]) == tuple(many[:20])
    for wrong, field in (([], "recipients"), (many, "recipients"), ([*many[:2], many[0]], "recipients[2]")):
        with pytest.raises(CertdError) as error:
            check_recipients("recipients", wrong)
        assert field_of(error) == field


def test_types_are_known_or_the_beginning_of_known_ones() -> None:
    types = ("*", "managed-certificate.*", "managed-certificate.renew*", "certificate.issued", "subscription.test")
    assert check_event_types("event_types", types) == types
    assert check_event_types("event_types", ()) == ()


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "**",
        "*.issued",
        "managed-*.issued",
        "certificate.Issued",
        "certificate.issue",
        "certificates.*",
        "certificate.issued ",
        "certificate.issued\n",
        "c" * 65,
        "certificate.issued",
    ],
)
def test_what_is_no_type_is_named_by_its_place(wanted: str) -> None:
    with pytest.raises(CertdError) as error:
        check_event_types("event_types", ["certificate.issued", wanted])
    assert field_of(error) == "event_types[1]"


def test_a_hundred_types_are_enough() -> None:
    with pytest.raises(CertdError) as error:
        check_event_types("event_types", ["*"] * 101)
    assert field_of(error) == "event_types"


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "tenants/default",
        "tenants/default/managedCertificates",
        "tenants/default/managedCertificates/web",
        "tenants/default/authorities/ca/certificates/0a1b",
    ],
)
def test_a_resource_of_the_tenant(resource: str) -> None:
    assert check_resource("resource", resource, PARENT) == resource


@pytest.mark.parametrize(
    "resource",
    [
        "tenants/other",
        "tenants/other/managedCertificates/web",
        "tenants/defaults",
        "tenants/default/",
        "tenants/default//web",
        "tenants/default/../other",
        "tenants/default/managedCertificates/web*",
        "tenants/default/managedCertificates/w%b",
        "tenants/default/managedCertificates/web\n",
        "*",
        "/",
        "tenants",
        "tenants/default/managedCertificates/" + "a" * 512,
    ],
)
def test_no_resource_of_the_tenant(resource: str) -> None:
    with pytest.raises(CertdError) as error:
        check_resource("resource", resource, PARENT)
    assert field_of(error) == "resource"
