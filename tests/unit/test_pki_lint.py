"""Every lint says nothing about good certificates, and speaks about one that breaks its rule alone or with its kin."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from certd.errors import CertdError, Reason
from certd.pki import der, lint
from certd.pki import distinguished_name as dn
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.lint import Lint
from certd.pki.tbs import parse_tbs_certificate
from tests.unit.lint_broken import BROKEN, BY_NAME, PATCHED
from tests.unit.lint_drafts import (
    AUTHORITY,
    AUTHORITY_INFORMATION_ACCESS,
    ED25519_KEY,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    LEAF,
    ROOT,
    RSA_KEY,
    SUBJECT_ALTERNATIVE_NAME,
    Draft,
    access,
    raw,
    san,
    url,
)

_SERVER, _CODE, _MAIL = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.4")
_TIME, _OCSP = "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9"
_POLICY = x509.ObjectIdentifier("1.2.3.4")
_POINT = x509.DistributionPoint([url("http://pki.example/1.crl")], None, None, None)
_NAMES = x509.NameConstraints([x509.DNSName("example.internal"), x509.IPAddress(IPv4Network("192.0.2.0/24"))], None)

GOOD: dict[str, Draft] = {
    "leaf": LEAF,
    "leaf without subject": replace(LEAF, subject=dn.EMPTY).flipped(SUBJECT_ALTERNATIVE_NAME),
    "leaf without URL": LEAF.without(AUTHORITY_INFORMATION_ACCESS),
    "leaf with every kind of name": replace(LEAF, subject=dn.parse_text("O=Example")).with_(
        san(
            x509.DNSName("*.a.b"),
            x509.DNSName("xn--bcher-kva.example"),
            x509.DNSName("localhost"),
            url("spiffe://td/a"),
            x509.RFC822Name("a@b"),
            x509.OtherName(
                x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9"), der.encode(der.UTF8_STRING, "bücher@a.b".encode())
            ),
        )
    ),
    "leaf with everything else": LEAF.with_(
        x509.CertificatePolicies(
            [
                x509.PolicyInformation(_POLICY, ["https://pki.example/cps", x509.UserNotice(None, "Only for friends")]),
                x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None),
            ]
        )
    )
    .with_(x509.TLSFeature([x509.TLSFeatureType.status_request]))
    .with_(x509.CRLDistributionPoints([_POINT]))
    .with_(x509.FreshestCRL([_POINT]))
    .with_(x509.IssuerAlternativeName([url("http://pki.example/")]))
    .with_(x509.SubjectInformationAccess([x509.AccessDescription(_POLICY, url("http://a.example/"))]))
    .with_(access(AuthorityInformationAccessOID.OCSP, url("http://ocsp.example/")))
    .with_(raw("2.5.29.9", der.sequence(der.sequence(der.object_identifier("2.5.4.3"), der.set_of([b"\x0c\x01a"])))))
    .with_(raw("1.2.3.4.5", b"\x05\x00")),
    "RSA leaf": replace(LEAF, key=RSA_KEY).usages(KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT),
    "Ed25519 leaf": replace(LEAF, key=ED25519_KEY),
    "leaf that agrees": LEAF.usages(KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_AGREEMENT, KeyUsage.ENCIPHER_ONLY),
    "leaf without usages": LEAF.without(KEY_USAGE, EXTENDED_KEY_USAGE),
    "leaf that nobody revokes": LEAF.with_(raw("2.5.29.56", b"\x05\x00")),
    "leaf with two attributes in one": replace(LEAF, subject=dn.parse_text("CN=www.example.internal+O=Example")),
    "code": LEAF.without(SUBJECT_ALTERNATIVE_NAME).for_(_CODE),
    "mail": replace(LEAF, subject=dn.parse_text("CN=Anna,1.2.840.113549.1.9.1=a@B.example"))
    .for_(_MAIL)
    .with_(san(x509.RFC822Name("a@b.example"))),
    "time": LEAF.without(SUBJECT_ALTERNATIVE_NAME).for_(_TIME).flipped(EXTENDED_KEY_USAGE),
    "responder": LEAF.without(SUBJECT_ALTERNATIVE_NAME).for_(_OCSP).with_(x509.OCSPNoCheck()),
    "longest server": replace(LEAF, not_after=LEAF.not_before + timedelta(days=398, seconds=-1)),
    "authority": AUTHORITY,
    "authority with everything": AUTHORITY.with_(_NAMES, critical=True)
    .with_(x509.PolicyConstraints(0, None), critical=True)
    .with_(x509.InhibitAnyPolicy(0), critical=True)
    .with_(
        raw(
            "2.5.29.33",
            der.sequence(der.sequence(der.object_identifier("1.2.3.4"), der.object_identifier("1.2.3.5"))),
        ),
        critical=True,
    ),
    "longest serial": replace(LEAF, serial=(1 << 159) - 1),
    "root": ROOT,
}


@pytest.mark.parametrize("name", GOOD)
def test_good_certificate(name: str) -> None:
    assert lint.findings(GOOD[name].copy()) == []


def test_every_lint_runs_on_a_good_certificate() -> None:
    present = {oid for draft in GOOD.values() for oid in draft.copy().tbs.extensions}
    # Two extensions stand in no good certificate at all.
    never = {"rfc6962_3_1_precertificate", "rfc3820_3_8_proxy"}
    assert {one.name for one in lint.LINTS if one.extension is not None and one.extension not in present} == never
    clean = LEAF.copy()
    assert [BY_NAME[name].check(clean) for name in never] == [None, None]


@pytest.mark.parametrize(("name", "draft", "problem"), BROKEN)
def test_broken_rule(name: str, draft: Draft, problem: str) -> None:
    found = {one.name: text for one, text in lint.findings(draft.copy())}
    assert problem in found.get(name, ""), found


def test_every_lint_has_a_certificate_that_breaks_it() -> None:
    assert {name for name, _, _ in BROKEN} | set(PATCHED) == set(BY_NAME)
    assert len(BY_NAME) == len(lint.LINTS)


def test_names_cite_a_section() -> None:
    for one in lint.LINTS:
        assert one.name.startswith(("rfc", "cabf_"))
        assert sum(part.isdigit() for part in one.name.split("_")) >= 1
        assert one.check.__doc__


@pytest.mark.parametrize(
    ("serial", "problem"), [(0, "not positive"), (-5, "not positive"), (1 << 159, "20 octets"), (1 << 300, "20 octets")]
)
def test_serial_number(serial: int, problem: str) -> None:
    good = LEAF.copy()
    found = BY_NAME["rfc5280_4_1_2_2_serial_number"].check(replace(good, tbs=replace(good.tbs, serial=serial)))
    assert found is not None
    assert problem in found
    with pytest.raises(CertdError, match=problem):
        lint.check_serial_number(serial)


def test_subject_out_of_bounds() -> None:
    good = LEAF.copy()
    long = dn.parse_text("UID=" + "a" * 256).replace(
        b"\x0a\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01", b"\x0a\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19"
    )
    found = BY_NAME["rfc5280_4_1_2_6_subject"].check(replace(good, tbs=replace(good.tbs, subject=long)))
    assert found is not None
    assert "DC must have 1 to 63" in found


_EC = der.object_identifier("1.2.840.10045.2.1")
_P256 = der.object_identifier("1.2.840.10045.3.1.7")


@pytest.mark.parametrize(
    ("name", "draft", "key", "problem"),
    [
        (
            "rfc3279_2_3_1_rsa_key",
            GOOD["RSA leaf"],
            der.sequence(der.sequence(der.object_identifier("1.2.840.113549.1.1.1")), der.bit_string(b"")),
            "NULL",
        ),
        (
            "rfc5480_2_1_1_ec_key",
            LEAF,
            der.sequence(der.sequence(_EC, _P256), der.bit_string(b"\x02" + bytes(32))),
            "compressed",
        ),
        (
            "rfc5480_2_1_1_ec_key",
            LEAF,
            der.sequence(der.sequence(_EC, der.object_identifier("1.3.132.0.10")), der.bit_string(b"\x04" + bytes(64))),
            "accepted",
        ),
        (
            "rfc8410_3_ed25519_key",
            GOOD["Ed25519 leaf"],
            der.sequence(der.sequence(der.object_identifier("1.3.101.112"), b"\x05\x00"), der.bit_string(bytes(32))),
            "parameters",
        ),
    ],
)
def test_algorithm_of_the_key(name: str, draft: Draft, key: bytes, problem: str) -> None:
    good = draft.copy()
    assert BY_NAME[name].check(good) is None
    found = BY_NAME[name].check(replace(good, tbs=replace(good.tbs, public_key=key)))
    assert found is not None
    assert problem in found


def _check(draft: Draft) -> list[str]:
    facts = draft.facts()
    _copy, warnings = lint.check(
        draft.sign().public_bytes(Encoding.DER),
        issuer_name=facts["issuer_name"],
        issuer_key_identifier=facts["issuer_key_identifier"],
        public_key=facts["public_key"],
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
    )
    assert {warning.field for warning in warnings} <= {"certificate"}
    return [warning.message for warning in warnings]


def test_check_passes_what_is_good() -> None:
    for draft in GOOD.values():
        assert _check(draft) == []


def test_check_returns_warnings() -> None:
    days = LEAF.not_before + timedelta(days=500)
    both = replace(LEAF, not_after=days, subject=dn.parse_text("CN=other"))
    names = ["cabf_br_6_3_2_validity_period", "cabf_br_7_1_4_3_common_name"]
    assert [message.partition(":")[0] for message in _check(both)] == names


def _failed(draft: Draft) -> CertdError:
    with pytest.raises(CertdError) as caught:
        _check(draft)
    assert caught.value.reason is Reason.LINT_FAILED
    assert "change the request" in caught.value.message
    return caught.value


def test_check_names_every_lint_that_failed_and_no_warning() -> None:
    days = LEAF.not_before + timedelta(days=500)
    error = _failed(replace(LEAF, not_after=days, has_key_identifier=False).flipped(KEY_USAGE))
    failed = ["rfc5280_4_2_1_2_subject_key_identifier", "rfc5280_4_2_1_3_key_usage"]
    assert error.metadata == {"lint": ",".join(failed)}
    assert [violation.description.partition(":")[0] for violation in error.violations] == failed


def test_check_names_what_the_token_would_not_read() -> None:
    error = _failed(LEAF.usages())
    assert error.metadata == {"lint": "rfc5280_4_1_encoding"}
    assert "BIT STRING" in error.message


@pytest.mark.parametrize(
    "extension",
    [
        raw("2.5.29.32", b"\x04\x00"),
        raw("2.5.29.18", der.sequence(der.encode(0x87, b"abc"))),
        # Empty, where there must be something.
        raw("2.5.29.30", der.sequence()),
        raw("2.5.29.36", der.sequence()),
        raw("2.5.29.37", der.sequence()),
        raw("1.3.6.1.5.5.7.1.24", der.sequence()),
        # A distribution point that says nothing, a policy qualifier that nobody knows, encipherOnly of nothing.
        raw("2.5.29.31", der.sequence(der.sequence())),
        raw(
            "2.5.29.32",
            der.sequence(
                der.sequence(
                    der.object_identifier("1.2.3.4"),
                    der.sequence(der.sequence(der.object_identifier("1.2.3"), der.sequence())),
                )
            ),
        ),
        raw("2.5.29.15", b"\x03\x02\x00\x81"),
    ],
)
def test_check_names_what_the_library_does_not_read(extension: x509.ExtensionType) -> None:
    assert _failed(LEAF.with_(extension)).metadata == {"lint": "rfc5280_4_2_extensions"}


def test_what_does_not_decode_in_a_lint_fails_it() -> None:
    mappings = raw("2.5.29.33", der.sequence(der.sequence(der.integer(1))))
    assert _failed(AUTHORITY.with_(mappings)).metadata == {"lint": "rfc5280_4_2_1_5_policy_mappings"}


def test_sha1_is_not_even_read() -> None:
    good = LEAF.sign().tbs_certificate_bytes
    sha1 = good.replace(b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02", b"\x06\x07\x2a\x86\x48\xce\x3d\x04\x01\x05")
    with pytest.raises(CertdError):
        parse_tbs_certificate(sha1)


def test_usages_are_read_as_the_library_reads_them() -> None:
    alone = [(usage,) for usage in KeyUsage if not usage.endswith("_ONLY")]
    beside = [(KeyUsage.KEY_AGREEMENT, KeyUsage.ENCIPHER_ONLY), (KeyUsage.KEY_AGREEMENT, KeyUsage.DECIPHER_ONLY)]
    for usages in (*alone, *beside, tuple(KeyUsage)):
        assert LEAF.usages(*usages).copy().key_usages == frozenset(usages)


def test_a_lint_is_an_error_or_a_warning() -> None:
    warnings = {one.name for one in lint.LINTS if one.is_warning}
    assert {name for name in BY_NAME if name.startswith("cabf_")} <= warnings
    assert isinstance(lint.LINTS[0], Lint)
    assert not lint.LINTS[0].is_warning
