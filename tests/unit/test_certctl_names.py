import pytest

from certd.cli.certctl import names


def test_short_forms_become_full_names() -> None:
    assert names.tenant_name("acme") == "tenants/acme"
    assert names.authority_name("web-ca", "default") == "tenants/default/authorities/web-ca"
    assert names.authority_name("authorities/web-ca", "acme") == "tenants/acme/authorities/web-ca"
    assert names.profile_name("server", "default") == "tenants/default/profiles/server"
    assert names.managed_certificate_name("web", "default") == "tenants/default/managedCertificates/web"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", "own"),
        ("managedCertificates/web", "own"),
        ("tenants/default/managedCertificates/web", "own"),
        ("web/machine", "machine"),
        ("web/associations/machine", "machine"),
        ("managedCertificates/web/associations/machine", "machine"),
        ("tenants/default/managedCertificates/web/associations/machine", "machine"),
    ],
)
def test_an_association_is_named_within_its_managed_certificate(text: str, expected: str) -> None:
    full_name = f"tenants/default/managedCertificates/web/associations/{expected}"
    assert names.association_name(text, "default", "own") == full_name


def test_a_full_name_wins_over_the_tenant() -> None:
    assert names.authority_name("tenants/acme/authorities/a", "default") == "tenants/acme/authorities/a"
    assert names.tenant_name("tenants/acme") == "tenants/acme"


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("0a:1B", "web-ca"),
        ("web-ca/certificates/0a:1B", None),
        ("authorities/web-ca/certificates/0a:1B", None),
        ("tenants/default/authorities/web-ca/certificates/0a:1B", "another"),
    ],
)
def test_a_certificate_is_named_by_serial_or_name(text: str, authority: str | None) -> None:
    expected = "tenants/default/authorities/web-ca/certificates/0a:1B"
    assert names.certificate_name(text, "default", authority) == expected


def test_a_serial_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="--authority"):
        names.certificate_name("0a1b", "default", None)


def test_a_file_is_not_taken_for_a_serial() -> None:
    with pytest.raises(ValueError, match="openssl x509"):
        names.certificate_name("./leaf.pem", "default", "web-ca")
    assert not names.is_file("tenants/default/authorities/web-ca/certificates/0a1b")


def test_a_new_resource_has_parent_and_id() -> None:
    assert names.parent_and_id("tenants/acme/authorities/a") == ("tenants/acme", "a")
