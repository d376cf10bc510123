"""Extensions of the CSR under profiles that let them pass, and what profiles write themselves."""

from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki.certificate_request import request_of
from certd.pki.csr import RequestedExtension, parse_csr
from certd.pki.description import DescribedExtension, describe
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import KeySpec, generate_private_key
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared, Validity, prepare
from certd.pki.profiles import BLANK, END_ENTITY, SUBORDINATE_CA, CustomExtension, Profile
from tests.unit.memory_authority import (
    NOW,
    SERIAL,
    MemoryAuthority,
    csr,
    der_of,
    prepare_leaf,
    public_key,
    refused_with,
    root,
)

_KEY_USAGE = "2.5.29.15"
_EXTENDED = "2.5.29.37"
_BASIC_CONSTRAINTS = "2.5.29.19"
_POLICIES = "2.5.29.32"
_TLS_FEATURE = "1.3.6.1.5.5.7.1.24"
_OWN = "1.3.6.1.4.1.99999.1"
_VALUE = der.sequence(der.encode(der.UTF8_STRING, "é".encode()))


@pytest.fixture(scope="module")
def authority() -> MemoryAuthority:
    return root()


def _asked(oid: str, value: bytes, *, critical: bool = False) -> RequestedExtension:
    return RequestedExtension(oid=oid, critical=critical, value=value)


def _usages(*usages: KeyUsage, critical: bool = True) -> RequestedExtension:
    return _asked(_KEY_USAGE, key_usage_extension(set(usages)).public_bytes(), critical=critical)


def _purposes(*purposes: str, critical: bool = False) -> RequestedExtension:
    return _asked(_EXTENDED, der.sequence(*map(der.object_identifier, purposes)), critical=critical)


_SIGNS = _usages(KeyUsage.DIGITAL_SIGNATURE)
_SERVES = _purposes("1.3.6.1.5.5.7.3.1")


def _found(prepared: Prepared) -> dict[str, DescribedExtension]:
    return {extension.oid: extension for extension in describe(prepared.lint_certificate).extensions}


def _told(prepared: Prepared) -> list[str]:
    return [warning.message for warning in prepared.warnings if warning.field == "csr.extensions"]


def test_what_passes_stands_there_byte_for_byte(authority: MemoryAuthority) -> None:
    profile = replace(END_ENTITY, passed_extensions=(_OWN,))
    for critical in (False, True):
        asked = (_asked(_OWN, _VALUE, critical=critical), _asked("1.2.3", _VALUE))
        prepared = prepare_leaf(authority, profile=profile, extensions=asked)
        assert _found(prepared)[_OWN] == DescribedExtension(oid=_OWN, critical=critical, value=_VALUE)
        assert "1.2.3" not in _found(prepared)
        assert _told(prepared) == ["dropped 1.2.3: profile end-entity decides on extensions"]


def test_blank_passes_what_may_pass(authority: MemoryAuthority) -> None:
    template = x509.MSCertificateTemplate(x509.ObjectIdentifier("1.2.3"), 1, 2).public_bytes()
    asked = (
        _SIGNS,
        _SERVES,
        _asked(_OWN, _VALUE),
        _asked("1.3.6.1.4.1.311.21.7", template),
        _asked(_POLICIES, der.sequence(der.sequence(der.object_identifier("1.2.3")))),
        _asked(_TLS_FEATURE, der.sequence(der.integer(5))),
        _asked(_BASIC_CONSTRAINTS, der.sequence(b"\x01\x01\xff"), critical=True),
        _asked("2.5.29.14", der.octet_string(b"own")),
        _asked("1.3.6.1.5.5.7.48.1.5", b"\x05\x00"),
        _asked("2.5.29.7", der.sequence(der.encode(0x82, b"victim.example"))),
        _asked("2.5.29.10", der.sequence(b"\x03\x02\x07\x80")),
    )
    prepared = prepare_leaf(authority, profile=BLANK, extensions=asked)
    found = _found(prepared)
    for extension in asked[:6]:
        assert found[extension.oid].value == extension.value
    described = describe(prepared.lint_certificate)
    assert not described.authority
    assert described.subject_key_identifier != b"own"
    assert found.keys().isdisjoint({"1.3.6.1.5.5.7.48.1.5", "2.5.29.7", "2.5.29.10"})
    assert _told(prepared) == [
        f"dropped {text}: only the authority can say it"
        for text in (
            "2.5.29.19 (basicConstraints)",
            "2.5.29.14 (subjectKeyIdentifier)",
            "1.3.6.1.5.5.7.48.1.5 (OCSP no check)",
            "2.5.29.7 (subjectAltName of the drafts)",
            "2.5.29.10 (basicConstraints of the drafts)",
        )
    ]


def test_what_the_profile_decides_does_not_pass(authority: MemoryAuthority) -> None:
    profile = replace(
        END_ENTITY,
        passed_extensions=("*",),
        policies=("1.2.3.4",),
        tls_features=(5,),
        custom_extensions=(CustomExtension(oid=_OWN, value=_VALUE),),
    )
    other = der.sequence(der.sequence(der.object_identifier("1.2.3.5")))
    asked = (
        _usages(KeyUsage.CONTENT_COMMITMENT),
        _purposes("1.3.6.1.5.5.7.3.3"),
        _asked(_POLICIES, other),
        _asked(_TLS_FEATURE, der.sequence(der.integer(17))),
        _asked(_OWN, b"\x05\x00"),
    )
    prepared = prepare_leaf(authority, profile=profile, extensions=asked)
    found = _found(prepared)
    assert found[_POLICIES].value == der.sequence(der.sequence(der.object_identifier("1.2.3.4")))
    assert found[_TLS_FEATURE].value == der.sequence(der.integer(5))
    assert found[_OWN] == DescribedExtension(oid=_OWN, critical=False, value=_VALUE)
    described = describe(prepared.lint_certificate)
    assert described.key_usages == (KeyUsage.DIGITAL_SIGNATURE,)
    assert described.extended_key_usages == END_ENTITY.extended_key_usages
    assert all(message.endswith("profile end-entity decides on it") for message in _told(prepared))
    assert len(_told(prepared)) == len(asked)


def test_nothing_of_usages_passes_into_an_authority(authority: MemoryAuthority) -> None:
    profile = replace(SUBORDINATE_CA, passed_extensions=("*",))
    prepared = prepare_leaf(
        authority,
        profile=profile,
        subject="CN=Below",
        names=SubjectAlternativeNames(),
        extensions=(_SERVES, _usages(KeyUsage.CRL_SIGN), _asked(_OWN, _VALUE)),
    )
    described = describe(prepared.lint_certificate)
    assert set(described.key_usages) == {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}
    assert described.extended_key_usages == ()
    assert _OWN in _found(prepared)
    assert len(_told(prepared)) == 2


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ((_usages(KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_CERT_SIGN), _SERVES), "KEY_CERT_SIGN"),
        ((_usages(KeyUsage.CRL_SIGN), _SERVES), "CRL_SIGN"),
        ((_usages(KeyUsage.KEY_ENCIPHERMENT), _SERVES), "EC"),
        ((_SIGNS, _purposes("1.3.6.1.5.5.7.3.1", "2.5.29.37.0")), "anyExtendedKeyUsage"),
        ((_SIGNS, _purposes("1.3.6.1.5.5.7.3.9")), "OCSPSigning"),
    ],
)
def test_usages_that_no_request_may_choose(
    authority: MemoryAuthority, asked: tuple[RequestedExtension, ...], word: str
) -> None:
    error = refused_with(lambda: prepare_leaf(authority, profile=BLANK, extensions=asked), Reason.PROFILE_FORBIDS)
    assert [violation.field for violation in error.violations] == ["csr.extensions"]
    assert word in error.violations[0].description
    assert error.metadata == {"profile": "blank"}


def test_every_forbidden_usage_is_told(authority: MemoryAuthority) -> None:
    asked = (_usages(KeyUsage.KEY_CERT_SIGN), _purposes("2.5.29.37.0", "1.3.6.1.5.5.7.3.9"))
    error = refused_with(lambda: prepare_leaf(authority, profile=BLANK, extensions=asked), Reason.PROFILE_FORBIDS)
    assert len(error.violations) == 3
    assert "and 2 more" in error.message


def test_usages_are_made_to_fit(authority: MemoryAuthority) -> None:
    asked = (
        _usages(KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT, critical=False),
        _purposes("1.3.6.1.5.5.7.3.2", critical=True),
    )
    prepared = prepare_leaf(authority, profile=BLANK, extensions=asked)
    found = _found(prepared)
    assert found[_KEY_USAGE].critical
    assert not found[_EXTENDED].critical
    assert describe(prepared.lint_certificate).key_usages == (KeyUsage.DIGITAL_SIGNATURE,)
    assert [message.split()[0] for message in _told(prepared)] == ["dropped", "made", "made"]
    rsa = prepare_leaf(authority, key=public_key(KeySpec.RSA_2048), profile=BLANK, extensions=asked)
    assert describe(rsa.lint_certificate).key_usages == (KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT)


def test_time_stamps_are_critical(authority: MemoryAuthority) -> None:
    stamps = "1.3.6.1.5.5.7.3.8"
    profile = replace(END_ENTITY, extended_key_usages=(stamps,))
    assert _found(prepare_leaf(authority, profile=profile))[_EXTENDED].critical
    prepared = prepare_leaf(authority, profile=BLANK, extensions=(_SIGNS, _purposes(stamps)))
    assert _found(prepared)[_EXTENDED].critical
    assert _told(prepared) == ["made extKeyUsage critical"]


@pytest.mark.parametrize(
    "value",
    [b"", b"nonsense", _VALUE + b"\x00", b"\x30\x80\x00\x00", b"\x02\x02\x00\x01", b"\x1f\x01\x00", b"\x30\x01" * 40],
)
def test_value_that_is_not_der(authority: MemoryAuthority, value: bytes) -> None:
    asked = (_SIGNS, _SERVES, _asked(_OWN, value), _asked("1.2.3", value))
    error = refused_with(lambda: prepare_leaf(authority, profile=BLANK, extensions=asked), Reason.FIELD_INVALID)
    assert [violation.field for violation in error.violations] == ["csr.extensions", "csr.extensions"]
    assert _OWN in error.violations[0].description
    # Where it does not pass, nobody minds what it is.
    assert len(_told(prepare_leaf(authority, extensions=asked))) == 4


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        (_KEY_USAGE, b"\x05\x00"),
        (_EXTENDED, der.sequence()),
        (_TLS_FEATURE, der.sequence(der.integer(99))),
        (_POLICIES, b"\x02\x01\x05"),
    ],
)
def test_known_value_that_does_not_decode(authority: MemoryAuthority, oid: str, value: bytes) -> None:
    error = refused_with(
        lambda: prepare_leaf(authority, profile=BLANK, extensions=(_asked(oid, value),)), Reason.FIELD_INVALID
    )
    assert oid in error.message


@given(
    st.lists(
        st.builds(
            _asked,
            st.sampled_from([_KEY_USAGE, _EXTENDED, _POLICIES, _TLS_FEATURE, _OWN, "1.3.6.1.5.5.7.1.11", "2.5.29.9"]),
            st.one_of(
                st.binary(max_size=12),
                st.binary(max_size=8).map(der.octet_string),
                st.binary(max_size=12).map(lambda content: der.encode(der.SEQUENCE, content)),
                st.sampled_from([_SIGNS.value, _SERVES.value, _VALUE]),
            ),
            critical=st.booleans(),
        ),
        max_size=4,
        unique_by=lambda extension: extension.oid,
    ).map(tuple)
)
def test_odd_values_surprise_nobody(asked: tuple[RequestedExtension, ...]) -> None:
    prepared = _outcome(asked)
    if isinstance(prepared, Reason):
        assert prepared in {Reason.FIELD_INVALID, Reason.PROFILE_FORBIDS, Reason.LINT_FAILED}
        return
    described = describe(prepared.lint_certificate)
    assert not described.authority
    assert not {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN} & set(described.key_usages)
    assert not {"2.5.29.37.0", "1.3.6.1.5.5.7.3.9"} & set(described.extended_key_usages)


_ROOT = root()
_KEY = public_key()


def _outcome(asked: tuple[RequestedExtension, ...]) -> Prepared | Reason:
    try:
        return prepare_leaf(_ROOT, key=_KEY, profile=BLANK, extensions=asked)
    except CertdError as error:
        return error.reason


# From the CSR itself.


def _issue(authority: MemoryAuthority, request: x509.CertificateSigningRequest, profile: Profile) -> Prepared:
    made, overridden = request_of(parse_csr(der_of(request)), profile=profile, subject=None, names=None)
    assert overridden == ()
    return prepare(issuer=authority.issuer, request=made, profile=profile, validity=Validity(), serial=SERIAL, now=NOW)


def test_csr_with_everything(authority: MemoryAuthority) -> None:
    request = csr(
        generate_private_key(KeySpec.EC_P256),
        san=[x509.DNSName("www.example.internal")],
        extensions=[
            key_usage_extension({KeyUsage.DIGITAL_SIGNATURE}),
            x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")]),
            x509.UnrecognizedExtension(x509.ObjectIdentifier(_OWN), _VALUE),
        ],
    )
    found = _found(_issue(authority, request, BLANK))
    assert found[_OWN].value == _VALUE
    assert found[_EXTENDED].value == der.sequence(der.object_identifier("1.2.3.4"))
    assert _OWN not in _found(_issue(authority, request, END_ENTITY))


def test_written_by_the_profile(authority: MemoryAuthority) -> None:
    custom = CustomExtension(oid="1.3.6.1.4.1.311.25.2", critical=True, value=_VALUE)
    profile = replace(END_ENTITY, policies=("1.2.3", "1.2.4"), tls_features=(5, 17), custom_extensions=(custom,))
    found = _found(prepare_leaf(authority, profile=profile))
    policies = [der.sequence(der.object_identifier(oid)) for oid in profile.policies]
    assert found[_POLICIES] == DescribedExtension(oid=_POLICIES, critical=False, value=der.sequence(*policies))
    assert found[_TLS_FEATURE].value == der.sequence(der.integer(5), der.integer(17))
    assert found[custom.oid] == DescribedExtension(oid=custom.oid, critical=True, value=_VALUE)
