import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certd.errors import Reason
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.csr import RequestedExtension
from certd.pki.description import Description, describe
from certd.pki.extensions import CLIENT_AUTHENTICATION, SERVER_AUTHENTICATION, KeyUsage
from certd.pki.key_spec import KeySpec, key_identifier, public_key_der
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared, assemble
from certd.pki.profiles import BUILT_IN, END_ENTITY, IDENTITY, LISTENER, ROOT_CA, SYSTEM, Profile
from certd.pki.status_locations import NOWHERE
from tests.unit.memory_authority import (
    NOW,
    SERIAL,
    MemoryAuthority,
    prepare_leaf,
    public_key,
    refused_with,
    root,
    subordinate,
)

_SECOND = NOW.replace(microsecond=0)
_NONE = SubjectAlternativeNames()


@pytest.fixture(scope="module")
def authority() -> MemoryAuthority:
    return root()


def _warnings(prepared: Prepared) -> list[tuple[str, str]]:
    return [(warning.field, warning.message) for warning in prepared.warnings]


def _described(prepared: Prepared) -> Description:
    return describe(prepared.lint_certificate)


# What is made.


@pytest.mark.parametrize("spec", KeySpec)
def test_leaf_has_what_the_profile_says(authority: MemoryAuthority, spec: KeySpec) -> None:
    key = public_key(spec)
    prepared = prepare_leaf(authority, key=key, subject="CN=www.example.internal,O=Example")
    described = _described(prepared)
    usages = {KeyUsage.DIGITAL_SIGNATURE} | ({KeyUsage.KEY_ENCIPHERMENT} if spec.startswith("RSA") else set())
    assert set(described.key_usages) == usages
    assert described.extended_key_usages == (SERVER_AUTHENTICATION, CLIENT_AUTHENTICATION)
    assert not described.authority
    assert described.subject_alternative_names == SubjectAlternativeNames(dns_names=("www.example.internal",))
    assert described.subject_text == prepared.subject_text == "CN=www.example.internal,O=Example"
    assert described.subject_key_identifier == key_identifier(key)
    assert described.authority_key_identifier == authority.issuer.subject_key_identifier
    critical = {extension.oid: extension.critical for extension in described.extensions}
    assert critical == {
        "2.5.29.19": True, "2.5.29.15": True, "2.5.29.37": False, "2.5.29.14": False, "2.5.29.35": False,
        "1.3.6.1.5.5.7.1.1": False, "2.5.29.31": False, "2.5.29.17": False,
    }  # fmt: skip
    assert prepared.warnings == ()


def test_books_get_what_the_certificate_says(authority: MemoryAuthority) -> None:
    key = public_key()
    prepared = prepare_leaf(authority, key=key)
    assert prepared.serial == SERIAL
    assert _described(prepared).serial_number == f"{SERIAL:x}"
    assert prepared.public_key_sha256 == hashlib.sha256(key).digest()
    assert prepared.issuer_name_sha256 == hashlib.sha256(authority.issuer.name).digest()
    assert prepared.tbs in prepared.lint_certificate
    assert prepared.subject_text == ""


def test_alternative_names_are_critical_without_a_subject(authority: MemoryAuthority) -> None:
    extensions = {extension.oid: extension.critical for extension in _described(prepare_leaf(authority)).extensions}
    assert extensions["2.5.29.17"]


def test_no_url_no_extension() -> None:
    authority = root()
    without = MemoryAuthority(
        issuer=replace(authority.issuer, locations=NOWHERE),
        private_key=authority.private_key,
        certificate=authority.certificate,
    )
    oids = {extension.oid for extension in _described(prepare_leaf(without)).extensions}
    assert oids.isdisjoint({"1.3.6.1.5.5.7.1.1", "2.5.29.31", "2.5.29.56"})


def test_authorities_have_path_length_and_sign() -> None:
    top = root(path_length=4)
    below = subordinate(top, path_length=3)
    for authority, path_length in ((top, 4), (below, 3)):
        described = describe(authority.certificate)
        assert described.authority
        assert described.path_length == path_length
        assert set(described.key_usages) == {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}
        assert described.extended_key_usages == ()
        assert described.authority_key_identifier == key_identifier(top.issuer.public_key)
        assert described.subject_key_identifier == authority.issuer.subject_key_identifier


def test_issuer_with_another_key_identifier_is_taken_as_it_is() -> None:
    authority = root()
    foreign = replace(authority.issuer, subject_key_identifier=b"\x01\x02\x03")
    other = MemoryAuthority(issuer=foreign, private_key=authority.private_key, certificate=b"")
    assert _described(prepare_leaf(other)).authority_key_identifier == b"\x01\x02\x03"


@pytest.mark.parametrize(
    ("tag", "encoded"),
    [
        (der.PRINTABLE_STRING, b"Example Root"),
        (der.TELETEX_STRING, b"Example Root"),
        (der.BMP_STRING, "Exämple".encode("utf-16-be")),
        (der.UNIVERSAL_STRING, "Exämple".encode("utf-32-be")),
        (der.IA5_STRING, b"Example Root"),
        (der.UTF8_STRING, "Exämple".encode()),
    ],
)
def test_issuer_name_is_copied_byte_for_byte(tag: int, encoded: bytes) -> None:
    name = der.sequence(der.set_of([der.sequence(der.object_identifier("2.5.4.3"), der.encode(tag, encoded))]))
    authority = root()
    other = MemoryAuthority(
        issuer=replace(authority.issuer, name=name), private_key=authority.private_key, certificate=b""
    )
    prepared = prepare_leaf(other)
    assert name in prepared.tbs
    assert prepared.issuer_name_sha256 == hashlib.sha256(name).digest()


@pytest.mark.parametrize(
    "content",
    [
        (der.TELETEX_STRING, b"Ex\xe4mple"),
        (der.PRINTABLE_STRING, b"a*b"),
        (der.BIT_STRING, b"\x00a"),
        (der.BIT_STRING, b""),
    ],
)
def test_name_that_cannot_be_copied_is_refused(content: tuple[int, bytes]) -> None:
    name = der.sequence(der.set_of([der.sequence(der.object_identifier("2.5.4.3"), der.encode(*content))]))
    authority = root()
    other = MemoryAuthority(
        issuer=replace(authority.issuer, name=name), private_key=authority.private_key, certificate=b""
    )
    error = refused_with(lambda: prepare_leaf(other), Reason.NAME_NOT_ALLOWED)
    assert "byte for byte" in error.message
    request_name = SubjectAlternativeNames(dns_names=("a",))
    profile = replace(END_ENTITY, subject=ROOT_CA.subject)
    error = refused_with(
        lambda: prepare_leaf(authority, subject_der=name, names=request_name, profile=profile), Reason.NAME_NOT_ALLOWED
    )
    assert error.violations[0].field == "subject"


def test_assembled_certificate_has_the_stored_bytes(authority: MemoryAuthority) -> None:
    prepared = prepare_leaf(authority)
    certificate = assemble(prepared.tbs, authority.issuer.signature_algorithm, b"signature")
    parsed = x509.load_der_x509_certificate(certificate)
    assert parsed.tbs_certificate_bytes == prepared.tbs
    assert parsed.signature == b"signature"


# Validity.


def test_both_ends_count_and_the_backdate_moves_the_start_alone(authority: MemoryAuthority) -> None:
    prepared = prepare_leaf(authority, lifetime=timedelta(hours=1))
    assert prepared.not_before == _SECOND - timedelta(minutes=5)
    assert prepared.not_after == _SECOND + timedelta(minutes=59, seconds=59)
    described = _described(prepared)
    assert (described.not_before_time, described.not_after_time) == (prepared.not_before, prepared.not_after)


def test_default_lifetime(authority: MemoryAuthority) -> None:
    assert prepare_leaf(authority).not_after == _SECOND + timedelta(days=90, seconds=-1)


def test_exact_end_in_any_zone(authority: MemoryAuthority) -> None:
    end = _SECOND + timedelta(days=7)
    zone = timezone(timedelta(hours=2))
    assert prepare_leaf(authority, not_after=end).not_after == end
    assert prepare_leaf(authority, not_after=end.astimezone(zone), now=NOW.astimezone(zone)).not_after == end


def test_after_2050() -> None:
    authority = root(now=datetime(2049, 6, 1, tzinfo=UTC))
    prepared = prepare_leaf(authority, now=datetime(2049, 12, 31, 12, tzinfo=UTC))
    assert _described(prepared).not_after_time == datetime(2050, 3, 31, 11, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("validity", "reason", "field"),
    [
        ({"lifetime": timedelta(seconds=59)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"lifetime": timedelta(0)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"lifetime": timedelta(days=-1)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"lifetime": timedelta(days=824, seconds=1)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"lifetime": timedelta(days=999_999_999)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"lifetime": timedelta(hours=1, microseconds=1)}, Reason.FIELD_INVALID, "lifetime"),
        ({"not_after": _SECOND - timedelta(seconds=1)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"not_after": datetime.max.replace(microsecond=0, tzinfo=UTC)}, Reason.PROFILE_FORBIDS, "lifetime"),
        ({"not_after": NOW + timedelta(days=1)}, Reason.FIELD_INVALID, "not_after_time"),
        ({"not_after": datetime(2026, 3, 5)}, Reason.FIELD_INVALID, "not_after_time"),  # noqa: DTZ001  # Naive, on purpose.
        ({"not_after": _SECOND + timedelta(days=1), "lifetime": timedelta(days=1)}, Reason.FIELD_INVALID, "lifetime"),
    ],
)
def test_validity_out_of_bounds(
    authority: MemoryAuthority, validity: dict[str, timedelta | datetime], reason: Reason, field: str
) -> None:
    error = refused_with(lambda: prepare_leaf(authority, **validity), reason)  # type: ignore[arg-type]  # Keys fit values.
    assert error.violations[0].field == field


def test_longest_lifetime_is_allowed(authority: MemoryAuthority) -> None:
    longest = END_ENTITY.longest_lifetime
    prepared = prepare_leaf(authority, lifetime=longest)
    assert prepared.not_after - prepared.not_before <= timedelta(days=825)


def test_asked_for_past_the_authority_is_refused() -> None:
    authority = root()
    late = NOW + timedelta(days=10 * 365 - 10)
    for validity in ({"lifetime": timedelta(days=11)}, {"not_after": _SECOND + timedelta(days=10 * 365)}):
        error = refused_with(
            lambda asked=validity: prepare_leaf(authority, now=late, **asked),  # type: ignore[misc]  # Bound early.
            Reason.LIFETIME_EXCEEDS_AUTHORITY,
        )
        assert error.metadata["authority_not_after"] == "2036-03-01T05:06:06Z"
        assert error.metadata["not_after"] > error.metadata["authority_not_after"]
        assert [violation.field for violation in error.violations] == [
            "lifetime" if "lifetime" in validity else "not_after_time"
        ]


def test_asked_for_up_to_the_end_of_the_authority() -> None:
    authority = root()
    end = authority.issuer.not_after
    assert end is not None
    assert prepare_leaf(authority, not_after=end, now=end - timedelta(days=3)).not_after == end


def test_default_is_cut_to_the_end_of_the_authority() -> None:
    authority = root()
    end = authority.issuer.not_after
    assert end is not None
    prepared = prepare_leaf(authority, now=end - timedelta(days=3))
    assert prepared.not_after == end
    assert _warnings(prepared) == [
        ("lifetime", "cut the profile's default to the end of the authority, 2036-03-01T05:06:06Z")
    ]


def test_expired_authority_issues_nothing() -> None:
    authority = root()
    end = authority.issuer.not_after
    assert end is not None
    late = end + timedelta(seconds=1)
    refused_with(lambda: prepare_leaf(authority, now=late), Reason.LIFETIME_EXCEEDS_AUTHORITY)


# Names.


@pytest.mark.parametrize("common_name", ["www.example.internal", "WWW.Example.Internal"])
def test_common_name_among_the_names_is_kept(authority: MemoryAuthority, common_name: str) -> None:
    prepared = prepare_leaf(authority, subject=f"CN={common_name}")
    assert prepared.subject_text == f"CN={common_name}"
    assert prepared.warnings == ()


def test_common_name_that_is_an_address_among_the_names_is_kept(authority: MemoryAuthority) -> None:
    names = SubjectAlternativeNames(ip_addresses=("2001:db8::1",))
    assert prepare_leaf(authority, subject="CN=2001:DB8::1", names=names).subject_text == "CN=2001:DB8::1"


@pytest.mark.parametrize("common_name", ["other.example.internal", "Jane Doe", "192.0.2.1"])
def test_common_name_that_is_no_name_is_dropped_with_a_warning(authority: MemoryAuthority, common_name: str) -> None:
    prepared = prepare_leaf(authority, subject=f"O=Example,CN={common_name},OU=x")
    assert prepared.subject_text == "O=Example,OU=x"
    ((field, message),) = _warnings(prepared)
    assert field == "subject"
    assert common_name in message


def test_subject_left_empty_makes_the_names_critical(authority: MemoryAuthority) -> None:
    described = _described(prepare_leaf(authority, subject="CN=Jane Doe"))
    assert described.subject == dn.EMPTY
    assert next(e.critical for e in described.extensions if e.oid == "2.5.29.17")


@pytest.mark.parametrize(
    ("common_name", "names"),
    [
        ("WWW.example.internal", SubjectAlternativeNames(dns_names=("www.example.internal",))),
        ("*.example.internal", SubjectAlternativeNames(dns_names=("*.example.internal",))),
        ("192.0.2.1", SubjectAlternativeNames(ip_addresses=("192.0.2.1",))),
    ],
)
def test_common_name_becomes_a_name_when_there_is_none(
    authority: MemoryAuthority, common_name: str, names: SubjectAlternativeNames
) -> None:
    prepared = prepare_leaf(authority, subject=f"CN={common_name}", names=_NONE)
    assert _described(prepared).subject_alternative_names == names
    assert prepared.subject_text == f"CN={common_name}"
    ((field, message),) = _warnings(prepared)
    assert field == "subject_alternative_names"
    assert common_name in message


def test_other_attributes_are_kept_byte_for_byte(authority: MemoryAuthority) -> None:
    kept = der.set_of([der.sequence(der.object_identifier("2.5.4.10"), der.encode(der.TELETEX_STRING, b"Example"))])
    dropped = der.set_of([der.sequence(der.object_identifier("2.5.4.3"), der.encode(der.UTF8_STRING, b"x y"))])
    prepared = prepare_leaf(authority, subject_der=der.sequence(dropped, kept))
    assert _described(prepared).subject == der.sequence(kept)


@pytest.mark.parametrize(
    ("subject", "names", "field"),
    [
        ("", _NONE, "subject_alternative_names"),
        ("O=Example", _NONE, "subject_alternative_names"),
        ("CN=Jane Doe", _NONE, "subject_alternative_names"),
        ("", SubjectAlternativeNames(uris=("https://a.example/",)), "subject_alternative_names.uris[0]"),
        (
            "",
            SubjectAlternativeNames(uris=("spiffe://certd.internal/identities/a",)),
            "subject_alternative_names.uris[0]",
        ),
        ("", SubjectAlternativeNames(email_addresses=("a@b",)), "subject_alternative_names.email_addresses[0]"),
        ("", SubjectAlternativeNames(dns_names=("a_b",)), "subject_alternative_names.dns_names[0]"),
        ("", SubjectAlternativeNames(dns_names=tuple(f"h{i}" for i in range(101))), "subject_alternative_names"),
    ],
)
def test_names_not_allowed(
    authority: MemoryAuthority, subject: str, names: SubjectAlternativeNames, field: str
) -> None:
    error = refused_with(lambda: prepare_leaf(authority, subject=subject, names=names), Reason.NAME_NOT_ALLOWED)
    assert [violation.field for violation in error.violations][:1] == [field]


def test_every_forbidden_name_is_told(authority: MemoryAuthority) -> None:
    names = SubjectAlternativeNames(dns_names=("ok",), uris=("https://a/", "spiffe://td/a"), email_addresses=("a@b",))
    error = refused_with(lambda: prepare_leaf(authority, names=names), Reason.NAME_NOT_ALLOWED)
    assert len(error.violations) == 3
    assert "and 2 more" in error.message


def test_too_long_attribute_of_a_csr(authority: MemoryAuthority) -> None:
    long = der.set_of([der.sequence(der.object_identifier("2.5.4.10"), der.encode(der.UTF8_STRING, b"a" * 65))])
    error = refused_with(lambda: prepare_leaf(authority, subject_der=der.sequence(long)), Reason.NAME_NOT_ALLOWED)
    assert error.violations[0].field == "subject"
    assert "1 to 64" in error.message


def test_subject_that_is_none(authority: MemoryAuthority) -> None:
    refused_with(lambda: prepare_leaf(authority, subject_der=b"\x31\x00"), Reason.FIELD_INVALID)


def test_extensions_of_the_csr_are_dropped_each_with_a_warning(authority: MemoryAuthority) -> None:
    prepared = prepare_leaf(
        authority,
        extensions=(
            RequestedExtension(oid="2.5.29.19", critical=True, value=b"\x30\x03\x01\x01\xff"),
            RequestedExtension(oid="1.2.3", critical=False, value=b"nonsense"),
        ),
    )
    assert [field for field, _ in _warnings(prepared)] == ["csr.extensions", "csr.extensions"]
    assert [message.partition(":")[0] for _, message in _warnings(prepared)] == [
        "dropped 2.5.29.19 (basicConstraints)",
        "dropped 1.2.3",
    ]
    assert not _described(prepared).authority


# System profiles.


def test_identity_has_one_spiffe_id_and_no_subject(authority: MemoryAuthority) -> None:
    names = SubjectAlternativeNames(uris=("spiffe://certd.internal/identities/admin",))
    prepared = prepare_leaf(authority, names=names, subject="CN=admin", profile=IDENTITY)
    assert prepared.subject_text == ""
    assert [field for field, _ in _warnings(prepared)] == ["subject"]
    assert prepared.not_after == _SECOND + timedelta(days=30, seconds=-1)


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        (IDENTITY, SubjectAlternativeNames(uris=("spiffe://td/a", "spiffe://td/b"))),
        (IDENTITY, SubjectAlternativeNames(uris=("https://td/a",))),
        (IDENTITY, SubjectAlternativeNames(uris=("spiffe://td/a",), dns_names=("a",))),
        (IDENTITY, _NONE),
        (LISTENER, SubjectAlternativeNames(dns_names=("*.example.internal",))),
        (LISTENER, SubjectAlternativeNames(uris=("spiffe://td/a",))),
    ],
)
def test_system_profiles_refuse_other_names(
    authority: MemoryAuthority, profile: Profile, names: SubjectAlternativeNames
) -> None:
    refused_with(lambda: prepare_leaf(authority, names=names, profile=profile), Reason.NAME_NOT_ALLOWED)


@pytest.mark.parametrize("spec", [KeySpec.EC_P521, KeySpec.ED25519])
def test_system_profiles_refuse_keys_that_peers_do_not_take(authority: MemoryAuthority, spec: KeySpec) -> None:
    error = refused_with(
        lambda: prepare_leaf(authority, key=public_key(spec), profile=LISTENER), Reason.PROFILE_FORBIDS
    )
    assert error.metadata == {"profile": "listener"}
    assert error.violations[0].field == "public_key"


def test_tenants_reach_no_system_profile() -> None:
    assert set(BUILT_IN) == {
        "end-entity", "server", "client", "code-signing", "ocsp-signing", "email", "subordinate-ca", "root-ca", "blank"
    }  # fmt: skip
    assert not set(BUILT_IN) & set(SYSTEM)
    assert {profile.profile_id for profile in BUILT_IN.values() if profile.restricted} == {
        "root-ca", "subordinate-ca", "ocsp-signing", "blank"
    }  # fmt: skip


# Keys.


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ],
)
def test_weak_key(authority: MemoryAuthority, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> None:
    error = refused_with(lambda: prepare_leaf(authority, key=public_key_der(key)), Reason.KEY_TOO_WEAK)
    assert error.violations[0].field == "public_key"


def test_malformed_key(authority: MemoryAuthority) -> None:
    refused_with(lambda: prepare_leaf(authority, key=b"\x30\x00"), Reason.FIELD_INVALID)


def test_key_in_another_encoding_than_the_certificate_would_have(authority: MemoryAuthority) -> None:
    """A compressed point is the same key in other bytes; the books would not find the certificate by it."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    compressed = der.sequence(
        der.sequence(der.object_identifier("1.2.840.10045.2.1"), der.object_identifier("1.2.840.10045.3.1.7")),
        der.bit_string(bytes([2 + key.public_numbers().y % 2]) + key.public_numbers().x.to_bytes(32)),
    )
    error = refused_with(lambda: prepare_leaf(authority, key=compressed), Reason.LINT_FAILED)
    assert "rfc5480_2_1_1_ec_key" in error.metadata["lint"]
