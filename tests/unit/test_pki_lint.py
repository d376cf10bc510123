"""Every lint says nothing about a good certificate, and speaks about one that breaks its rule alone or with its kin."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from certd.errors import CertdError, Reason
from certd.pki import distinguished_name as dn
from certd.pki import lint
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import SignatureAlgorithm, key_identifier, public_key_der
from certd.pki.tbs import parse_tbs_certificate

_NOW = datetime(2026, 3, 4, tzinfo=UTC)
_ISSUER_KEY = ec.generate_private_key(ec.SECP256R1())
_SUBJECT_KEY = ec.generate_private_key(ec.SECP256R1())
_ISSUER = dn.parse_text("CN=Example CA,O=Example")
_SUBJECT = dn.parse_text("CN=www.example.internal")
_ISSUER_IDENTIFIER = key_identifier(public_key_der(_ISSUER_KEY.public_key()))
_SUBJECT_PUBLIC_KEY = public_key_der(_SUBJECT_KEY.public_key())
_URL = x509.UniformResourceIdentifier("http://pki.example/ca.cer")

_Extensions = dict[type[x509.ExtensionType], tuple[x509.ExtensionType, bool]]


def _leaf_extensions() -> _Extensions:
    return {
        x509.BasicConstraints: (x509.BasicConstraints(ca=False, path_length=None), True),
        x509.KeyUsage: (key_usage_extension({KeyUsage.DIGITAL_SIGNATURE}), True),
        x509.ExtendedKeyUsage: (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        x509.SubjectKeyIdentifier: (x509.SubjectKeyIdentifier(key_identifier(_SUBJECT_PUBLIC_KEY)), False),
        x509.AuthorityKeyIdentifier: (x509.AuthorityKeyIdentifier(_ISSUER_IDENTIFIER, None, None), False),
        x509.AuthorityInformationAccess: (_access(AuthorityInformationAccessOID.CA_ISSUERS, _URL), False),
        x509.SubjectAlternativeName: (x509.SubjectAlternativeName([x509.DNSName("www.example.internal")]), False),
    }


def _authority_extensions() -> _Extensions:
    extensions = _leaf_extensions()
    del extensions[x509.ExtendedKeyUsage], extensions[x509.SubjectAlternativeName]
    usages = {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN}
    extensions[x509.BasicConstraints] = (x509.BasicConstraints(ca=True, path_length=0), True)
    extensions[x509.KeyUsage] = (key_usage_extension(usages), True)
    return extensions


def _access(method: x509.ObjectIdentifier, location: x509.GeneralName) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess([x509.AccessDescription(method, location)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """What the certificate says; the defaults are a good leaf."""

    issuer: bytes = _ISSUER
    subject: bytes = _SUBJECT
    serial: int = 7
    not_before: datetime = _NOW
    not_after: datetime = _NOW + timedelta(days=1)
    subject_key: ec.EllipticCurvePrivateKey = _SUBJECT_KEY
    hash: hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA256)
    extensions: _Extensions = field(default_factory=_leaf_extensions)

    def copy(self) -> lint.LintCopy:
        certificate = self.sign()
        return lint.LintCopy(
            certificate=certificate,
            tbs=parse_tbs_certificate(certificate.tbs_certificate_bytes),
            extensions={type(extension.value): extension for extension in certificate.extensions},
            issuer_name=_ISSUER,
            issuer_key_identifier=_ISSUER_IDENTIFIER,
            public_key=_SUBJECT_PUBLIC_KEY,
            signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        )

    def sign(self) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=x509.Name.from_bytes(self.issuer),
            subject_name=x509.Name.from_bytes(self.subject),
            public_key=self.subject_key.public_key(),
            serial_number=self.serial,
            not_valid_before=self.not_before,
            not_valid_after=self.not_after,
        )
        for extension, critical in self.extensions.values():
            builder = builder.add_extension(extension, critical)
        return builder.sign(_ISSUER_KEY, self.hash)


_LEAF = _Draft()
_AUTHORITY = _Draft(subject=dn.parse_text("CN=Below"), extensions=_authority_extensions())


def _with(draft: _Draft, extension: x509.ExtensionType, *, critical: bool = False) -> _Draft:
    return replace(draft, extensions=draft.extensions | {type(extension): (extension, critical)})


def _without(draft: _Draft, extension: type[x509.ExtensionType]) -> _Draft:
    return replace(draft, extensions={kind: value for kind, value in draft.extensions.items() if kind is not extension})


def _flipped(draft: _Draft, extension: type[x509.ExtensionType]) -> _Draft:
    value, critical = draft.extensions[extension]
    return _with(draft, value, critical=not critical)


def _usages(draft: _Draft, *usages: KeyUsage) -> _Draft:
    return _with(draft, key_usage_extension(set(usages)), critical=True)


def _san(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(names)


_ROOT = replace(
    _with(_AUTHORITY, x509.SubjectKeyIdentifier(_ISSUER_IDENTIFIER)), subject=_ISSUER, subject_key=_ISSUER_KEY
)
_GOOD = {
    "leaf": _LEAF,
    "leaf without subject": _flipped(replace(_LEAF, subject=dn.EMPTY), x509.SubjectAlternativeName),
    "leaf without URL": _without(_LEAF, x509.AuthorityInformationAccess),
    "leaf with every kind of name": _with(
        _LEAF, _san(x509.DNSName("*.a.b"), x509.UniformResourceIdentifier("spiffe://td/a"), x509.RFC822Name("a@b"))
    ),
    "authority": _AUTHORITY,
    "longest serial": replace(_LEAF, serial=(1 << 159) - 1),
}


@pytest.mark.parametrize("check", lint.LINTS)
@pytest.mark.parametrize("name", _GOOD)
def test_good_certificate(name: str, check: lint.Lint) -> None:
    assert check(_GOOD[name].copy()) is None


@pytest.mark.parametrize("check", lint.LINTS)
def test_good_root(check: lint.Lint) -> None:
    own_key = public_key_der(_ISSUER_KEY.public_key())
    assert check(replace(_ROOT.copy(), public_key=own_key)) is None


_SKI = x509.SubjectKeyIdentifier
_AKI = x509.AuthorityKeyIdentifier
_ACCESS = x509.AuthorityInformationAccess
_BAD: list[tuple[lint.Lint, _Draft, str]] = [
    (lint.rfc5280_4_1_2_3_signature, replace(_LEAF, hash=hashes.SHA384()), "algorithm"),
    (lint.rfc5280_4_1_2_4_issuer, replace(_LEAF, issuer=dn.EMPTY), "empty"),
    (lint.rfc5280_4_1_2_4_issuer, replace(_LEAF, issuer=dn.parse_text("CN=example CA,O=Example")), "byte for byte"),
    (lint.rfc5280_4_1_2_5_validity, replace(_LEAF, not_after=_NOW), "begin before"),
    (lint.rfc5280_4_1_2_5_validity, replace(_LEAF, not_after=_NOW - timedelta(seconds=1)), "begin before"),
    (lint.rfc5280_4_1_2_6_subject, replace(_AUTHORITY, subject=dn.EMPTY), "empty"),
    (lint.rfc5280_4_1_2_7_subject_public_key, replace(_LEAF, subject_key=_ISSUER_KEY), "byte for byte"),
    (lint.rfc5280_4_2_1_1_authority_key_identifier, _without(_LEAF, _AKI), "missing"),
    (lint.rfc5280_4_2_1_1_authority_key_identifier, _flipped(_LEAF, _AKI), "critical"),
    (lint.rfc5280_4_2_1_1_authority_key_identifier, _with(_LEAF, _AKI(b"other", None, None)), "not the issuer's"),
    (
        lint.rfc5280_4_2_1_1_authority_key_identifier,
        _with(_LEAF, _AKI(_ISSUER_IDENTIFIER, [x509.DirectoryName(x509.Name.from_bytes(_ISSUER))], 1)),
        "serial number",
    ),
    (lint.rfc5280_4_2_1_2_subject_key_identifier, _without(_LEAF, _SKI), "missing"),
    (lint.rfc5280_4_2_1_2_subject_key_identifier, _flipped(_LEAF, _SKI), "critical"),
    (lint.rfc5280_4_2_1_2_subject_key_identifier, _with(_LEAF, _SKI(b"")), "empty"),
    (lint.rfc5280_4_2_1_2_subject_key_identifier, _with(_LEAF, _SKI(_ISSUER_IDENTIFIER)), "another key"),
    (lint.rfc5280_4_2_1_2_subject_key_identifier, replace(_AUTHORITY, subject=_ISSUER), "another key"),
    (lint.rfc5280_4_2_1_3_key_usage, _without(_LEAF, x509.KeyUsage), "missing"),
    (lint.rfc5280_4_2_1_3_key_usage, _flipped(_LEAF, x509.KeyUsage), "not critical"),
    (lint.rfc5280_4_2_1_3_key_usage, _usages(_LEAF, KeyUsage.KEY_CERT_SIGN), "no authority's"),
    (lint.rfc5280_4_2_1_3_key_usage, _usages(_LEAF, KeyUsage.CRL_SIGN), "no authority's"),
    (lint.rfc5280_4_2_1_3_key_usage, _usages(_LEAF, KeyUsage.KEY_ENCIPHERMENT), "cannot do"),
    (lint.rfc5280_4_2_1_3_key_usage, _usages(_AUTHORITY, KeyUsage.KEY_CERT_SIGN), "lacks"),
    (lint.rfc5280_4_2_1_6_subject_alternative_name, replace(_AUTHORITY, subject=dn.EMPTY), "neither"),
    (lint.rfc5280_4_2_1_6_subject_alternative_name, replace(_LEAF, subject=dn.EMPTY), "critical"),
    (lint.rfc5280_4_2_1_6_subject_alternative_name, _flipped(_LEAF, x509.SubjectAlternativeName), "critical"),
    (lint.rfc5280_4_2_1_6_subject_alternative_name, _with(_LEAF, _san(x509.DNSName("A.example"))), "normal form"),
    (lint.rfc5280_4_2_1_6_subject_alternative_name, _with(_LEAF, _san(x509.DNSName("a"), x509.DNSName("a"))), "twice"),
    (lint.rfc5280_4_2_1_6_subject_alternative_name, _with(_LEAF, _san(x509.DNSName("a_b"))), "other characters"),
    (
        lint.rfc5280_4_2_1_6_subject_alternative_name,
        _with(_LEAF, _san(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))),
        "unknown kind",
    ),
    (lint.rfc5280_4_2_1_9_basic_constraints, _without(_LEAF, x509.BasicConstraints), "missing"),
    (lint.rfc5280_4_2_1_9_basic_constraints, _flipped(_LEAF, x509.BasicConstraints), "not critical"),
    (lint.rfc5280_4_2_1_9_basic_constraints, _usages(_LEAF, KeyUsage.KEY_CERT_SIGN), "disagree"),
    (
        lint.rfc5280_4_2_1_9_basic_constraints,
        _with(_AUTHORITY, x509.BasicConstraints(ca=True, path_length=None), critical=True),
        "no path length",
    ),
    (lint.rfc5280_4_2_1_12_extended_key_usage, _without(_LEAF, x509.ExtendedKeyUsage), "missing"),
    (lint.rfc5280_4_2_1_12_extended_key_usage, _flipped(_LEAF, x509.ExtendedKeyUsage), "critical"),
    (
        lint.rfc5280_4_2_1_12_extended_key_usage,
        _with(_LEAF, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])),
        "anyExtendedKeyUsage",
    ),
    (
        lint.rfc5280_4_2_1_12_extended_key_usage,
        _with(_AUTHORITY, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        "an authority",
    ),
    (lint.rfc5280_4_2_2_1_authority_information_access, _flipped(_LEAF, _ACCESS), "critical"),
    (
        lint.rfc5280_4_2_2_1_authority_information_access,
        _with(_LEAF, _access(AuthorityInformationAccessOID.OCSP, _URL)),
        "something else",
    ),
    (
        lint.rfc5280_4_2_2_1_authority_information_access,
        _with(_LEAF, _access(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("https://a/"))),
        "something else",
    ),
    (
        lint.rfc5280_4_2_2_1_authority_information_access,
        _with(_LEAF, _access(AuthorityInformationAccessOID.CA_ISSUERS, x509.DNSName("a"))),
        "something else",
    ),
    (lint.rfc5280_6_1_self_issued, replace(_LEAF, subject=_ISSUER), "not the issuer's own"),
    (
        lint.rfc5280_6_1_self_issued,
        replace(_AUTHORITY, subject=dn.parse_text("CN=EXAMPLE CA,O=example")),
        "not the issuer's own",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "draft", "problem"), _BAD)
def test_broken_rule(check: lint.Lint, draft: _Draft, problem: str) -> None:
    found = check(draft.copy())
    assert found is not None
    assert problem in found


@pytest.mark.parametrize(
    ("serial", "problem"), [(0, "not positive"), (-5, "not positive"), (1 << 159, "20 octets"), (1 << 300, "20 octets")]
)
def test_serial_number(serial: int, problem: str) -> None:
    good = _LEAF.copy()
    found = lint.rfc5280_4_1_2_2_serial_number(replace(good, tbs=replace(good.tbs, serial=serial)))
    assert found is not None
    assert problem in found
    with pytest.raises(CertdError, match=problem):
        lint.check_serial_number(serial)


def test_subject_out_of_bounds() -> None:
    good = _LEAF.copy()
    long = dn.parse_text("UID=" + "a" * 256).replace(
        b"\x0a\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01", b"\x0a\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19"
    )
    found = lint.rfc5280_4_1_2_6_subject(replace(good, tbs=replace(good.tbs, subject=long)))
    assert found is not None
    assert "DC must have 1 to 63" in found


def test_weak_key() -> None:
    weak = ec.generate_private_key(ec.SECP256K1())
    draft = replace(_LEAF, subject_key=weak)
    found = lint.rfc5280_4_1_2_7_subject_public_key(replace(draft.copy(), public_key=public_key_der(weak.public_key())))
    assert found is not None
    assert "not accepted" in found


def test_every_lint_has_a_certificate_that_breaks_it() -> None:
    broken = {check for check, _, _ in _BAD}
    assert broken | {lint.rfc5280_4_1_2_2_serial_number} == set(lint.LINTS)


def _check(draft: _Draft) -> None:
    lint.check(
        draft.sign(),
        issuer_name=_ISSUER,
        issuer_key_identifier=_ISSUER_IDENTIFIER,
        public_key=_SUBJECT_PUBLIC_KEY,
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
    )


def test_check_passes_what_is_good() -> None:
    _check(_LEAF)
    _check(_AUTHORITY)


def test_check_names_every_lint_that_failed() -> None:
    with pytest.raises(CertdError) as caught:
        _check(_without(_without(_LEAF, _SKI), x509.ExtendedKeyUsage))
    assert caught.value.reason is Reason.LINT_FAILED
    failed = ["rfc5280_4_2_1_2_subject_key_identifier", "rfc5280_4_2_1_12_extended_key_usage"]
    assert caught.value.metadata == {"lint": ",".join(failed)}
    assert [violation.description.partition(":")[0] for violation in caught.value.violations] == failed


def test_check_names_what_the_token_would_not_read() -> None:
    with pytest.raises(CertdError, match="BIT STRING") as caught:
        _check(_usages(_LEAF))
    assert caught.value.metadata == {"lint": "rfc5280_4_1_encoding"}


def test_sha1_is_not_even_read() -> None:
    good = _LEAF.sign().tbs_certificate_bytes
    sha1 = good.replace(b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02", b"\x06\x07\x2a\x86\x48\xce\x3d\x04\x01\x05")
    with pytest.raises(CertdError):
        parse_tbs_certificate(sha1)
