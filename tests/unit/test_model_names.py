import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.model.names import (
    AuthorityName,
    CertificateName,
    ManagedCertificateName,
    ProfileName,
    TenantName,
    check_id,
    normalise_serial,
    serial_text,
)

_ID = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(_ID)
def test_well_formed_ids(value: str) -> None:
    assert check_id("authority_id", value) == value


@pytest.mark.parametrize("value", ["", "-", "a-", "1a", "A", "a_b", "a" * 64, "a b", "ä", "a\n", "-a"])
def test_other_ids(value: str) -> None:
    with pytest.raises(CertdError) as caught:
        check_id("authority_id", value)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "authority_id"


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("0", "00"), ("1", "01"), ("0A", "0a"), ("00:0a", "0a"), ("ABC", "0abc"), ("0abc", "0abc"),
        ("ff" * 20, "ff" * 20), (":".join(["ff"] * 20), "ff" * 20), ("00" + "ff" * 20, "ff" * 20),
    ],
)  # fmt: skip
def test_serials(text: str, serial: str) -> None:
    assert normalise_serial("name", text) == serial


@pytest.mark.parametrize("text", ["", ":", "g", "0x1", " 1", "1\n", "-1", "f" * 43, "é"])
def test_what_is_no_serial(text: str) -> None:
    with pytest.raises(CertdError) as caught:
        normalise_serial("name", text)
    assert caught.value.violations[0].field == "name"


@given(st.integers(0, (1 << 160) - 1))
def test_serial_round_trips(serial: int) -> None:
    text = serial_text(serial)
    assert len(text) % 2 == 0
    assert int(text, 16) == serial
    assert normalise_serial("name", text) == text
    assert normalise_serial("name", text.upper()) == text


@given(_ID, _ID)
def test_names_round_trip(tenant: str, other: str) -> None:
    assert TenantName.parse("f", f"tenants/{tenant}") == TenantName(tenant)
    for kind in (AuthorityName, ProfileName, ManagedCertificateName):
        name = kind(tenant, other)
        assert kind.parse("f", str(name)) == name
    certificate = CertificateName(tenant, other, "0abc")
    assert CertificateName.parse("f", f"tenants/{tenant}/authorities/{other}/certificates/A:BC") == certificate
    assert CertificateName.parse("f", str(certificate)) == certificate


def test_forms() -> None:
    assert str(TenantName("t")) == "tenants/t"
    assert str(AuthorityName("t", "a")) == "tenants/t/authorities/a"
    assert str(ProfileName("t", "p")) == "tenants/t/profiles/p"
    assert str(ManagedCertificateName("t", "m")) == "tenants/t/managedCertificates/m"
    assert ManagedCertificateName("t", "m").version(3) == "tenants/t/managedCertificates/m/versions/3"


def test_wildcard_stands_for_every_authority_where_it_may() -> None:
    assert AuthorityName.parse("parent", "tenants/t/authorities/-", wildcard=True) == AuthorityName("t", "-")
    for text in ("tenants/t/authorities/-", "tenants/-/authorities/a"):
        with pytest.raises(CertdError):
            AuthorityName.parse("parent", text)
    with pytest.raises(CertdError):
        AuthorityName.parse("parent", "tenants/-/authorities/-", wildcard=True)


@pytest.mark.parametrize(
    "text",
    [
        "", "tenants", "tenants/", "tenants/t/", "/tenants/t", "Tenants/t", "tenants/t/authorities", "tenants/T",
        "tenants/t/authorities/a/", "tenants/t/authorities/a/b", "tenants//authorities/a",
    ],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    for kind in (TenantName, AuthorityName, ProfileName, CertificateName, ManagedCertificateName):
        with pytest.raises(CertdError) as caught:
            kind.parse("parent", text)
        assert caught.value.reason is Reason.FIELD_INVALID
        assert caught.value.violations[0].field == "parent"
