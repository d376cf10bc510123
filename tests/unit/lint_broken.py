"""Certificates that break a rule each: the name of the lint, the draft, and a part of what the lint says."""

from dataclasses import replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID

from certd.pki import der, lint
from certd.pki import distinguished_name as dn
from certd.pki.extensions import KeyUsage
from tests.unit.lint_drafts import (
    AUTHORITY,
    AUTHORITY_INFORMATION_ACCESS,
    AUTHORITY_KEY_IDENTIFIER,
    BASIC_CONSTRAINTS,
    EC_KEY,
    ED25519_KEY,
    EXTENDED_KEY_USAGE,
    ISSUER,
    ISSUER_IDENTIFIER,
    ISSUER_KEY,
    KEY_USAGE,
    LEAF,
    NOW,
    RSA_KEY,
    SUBJECT_ALTERNATIVE_NAME,
    Draft,
    access,
    raw,
    san,
    url,
)

BY_NAME = {one.name: one for one in lint.LINTS}
PATCHED = (
    "rfc5280_4_1_2_2_serial_number",
    "rfc3279_2_3_1_rsa_key",
    "rfc5480_2_1_1_ec_key",
    "rfc8410_3_ed25519_key",
)
"""What the library would not even write, and is tried on the copy."""

_SKI = x509.SubjectKeyIdentifier
_AKI = x509.AuthorityKeyIdentifier
_SERVER, _CODE, _MAIL = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.4")
_TIME, _OCSP, _ANY = "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9", "2.5.29.37.0"
_EMPTY = der.sequence()
_NULL = b"\x05\x00"
_POLICY = der.object_identifier("1.2.3.4")
_OTHER_POLICY = der.object_identifier("1.2.3.5")
_ANY_POLICY = der.object_identifier("2.5.29.32.0")
_CPS = der.object_identifier("1.3.6.1.5.5.7.2.1")
_NOTICE = der.object_identifier("1.3.6.1.5.5.7.2.2")
_NO_STATUS = "2.5.29.56"
_NO_CHECK = "1.3.6.1.5.5.7.48.1.5"
_RSA_LEAF = replace(LEAF, key=RSA_KEY)


def _policies(*policies: bytes) -> Draft:
    return LEAF.with_(raw("2.5.29.32", der.sequence(*policies)))


def _qualified(*qualifiers: bytes) -> Draft:
    return _policies(der.sequence(_POLICY, der.sequence(*qualifiers)))


def _noticed(*parts: bytes) -> Draft:
    return _qualified(der.sequence(_NOTICE, der.sequence(*parts)))


def _mapped(*mappings: tuple[bytes, bytes]) -> Draft:
    return AUTHORITY.with_(raw("2.5.29.33", der.sequence(*(der.sequence(*pair) for pair in mappings))), critical=True)


def _mailbox(value: bytes) -> Draft:
    name = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9"), value)
    return LEAF.with_(san(x509.DNSName("www.example.internal"), name))


def _point(location: x509.GeneralName) -> x509.DistributionPoint:
    return x509.DistributionPoint([location], None, None, None)


def _old_string(tag: int, encoded: bytes) -> bytes:
    return der.sequence(der.set_of([der.sequence(der.object_identifier("2.5.4.3"), der.encode(tag, encoded))]))


_SAN_LINT = "rfc5280_4_2_1_6_subject_alternative_name"
_AKI_LINT = "rfc5280_4_2_1_1_authority_key_identifier"
_SKI_LINT = "rfc5280_4_2_1_2_subject_key_identifier"
_AIA_LINT = "rfc5280_4_2_2_1_authority_information_access"
_SIA_LINT = "rfc5280_4_2_2_2_subject_information_access"
_POINTS_LINT = "rfc5280_4_2_1_13_crl_distribution_points"
_FRESHEST_LINT = "rfc5280_4_2_1_15_freshest_crl"
_SMTP_LINT = "rfc8398_3_smtp_utf8_mailbox"

_FIELDS: list[tuple[str, Draft, str]] = [
    ("rfc5280_4_1_2_3_signature", replace(LEAF, hash=hashes.SHA384()), "algorithm"),
    ("rfc5280_4_1_2_4_issuer", replace(LEAF, issuer=dn.EMPTY), "empty"),
    ("rfc5280_4_1_2_4_issuer", replace(LEAF, issuer=dn.parse_text("CN=example CA,O=Example")), "byte for byte"),
    ("rfc5280_4_1_2_5_validity", replace(LEAF, not_after=NOW), "begin before"),
    ("rfc5280_4_1_2_5_validity", replace(LEAF, not_after=NOW - timedelta(seconds=1)), "begin before"),
    ("rfc5280_4_1_2_6_subject", replace(AUTHORITY, subject=dn.EMPTY), "empty"),
    ("rfc5280_4_1_2_6_string_types", replace(LEAF, subject=_old_string(der.TELETEX_STRING, b"a")), "names of old"),
    ("rfc5280_4_1_2_6_string_types", replace(LEAF, subject=_old_string(der.BMP_STRING, b"\x00a")), "names of old"),
    ("rfc4512_2_3_1_relative_name", replace(LEAF, subject=dn.parse_text("OU=a+OU=b")), "two attributes"),
    ("rfc5280_4_1_2_7_subject_public_key", replace(LEAF, key=ISSUER_KEY, certified_key=EC_KEY), "byte for byte"),
    (
        "rfc5280_4_1_2_7_subject_public_key",
        replace(LEAF, key=ec.generate_private_key(ec.SECP256K1())),
        "not accepted",
    ),
]

_PATH: list[tuple[str, Draft, str]] = [
    (_AKI_LINT, LEAF.without(AUTHORITY_KEY_IDENTIFIER), "missing"),
    (_AKI_LINT, LEAF.flipped(AUTHORITY_KEY_IDENTIFIER), "critical"),
    (_AKI_LINT, LEAF.with_(_AKI(b"other", None, None)), "not the issuer's"),
    (
        _AKI_LINT,
        LEAF.with_(_AKI(ISSUER_IDENTIFIER, [x509.DirectoryName(x509.Name.from_bytes(ISSUER))], 1)),
        "serial number",
    ),
    (_SKI_LINT, replace(LEAF, has_key_identifier=False), "missing"),
    (_SKI_LINT, LEAF.with_(_SKI(b"x" * 20), critical=True), "critical"),
    (_SKI_LINT, LEAF.with_(_SKI(b"")), "empty"),
    (_SKI_LINT, LEAF.with_(_SKI(ISSUER_IDENTIFIER)), "another key"),
    (_SKI_LINT, replace(AUTHORITY, subject=ISSUER), "another key"),
    ("rfc7093_2_key_identifier_length", LEAF.with_(_SKI(b"x" * 32)), "32 octets"),
    ("rfc5280_4_2_1_9_basic_constraints", LEAF.without(BASIC_CONSTRAINTS), "missing"),
    ("rfc5280_4_2_1_9_basic_constraints", LEAF.flipped(BASIC_CONSTRAINTS), "not critical"),
    ("rfc5280_4_2_1_9_basic_constraints", LEAF.usages(KeyUsage.KEY_CERT_SIGN), "disagree"),
    (
        "rfc5280_4_2_1_9_basic_constraints",
        AUTHORITY.with_(x509.BasicConstraints(ca=True, path_length=None), critical=True),
        "no path length",
    ),
    (
        "rfc5280_4_2_1_10_name_constraints",
        LEAF.with_(x509.NameConstraints([x509.DNSName("a")], None), critical=True),
        "authority",
    ),
    ("rfc5280_4_2_1_10_name_constraints", AUTHORITY.with_(x509.NameConstraints([x509.DNSName("a")], None)), "critical"),
    (
        "rfc5280_4_2_1_10_name_constraints",
        AUTHORITY.with_(x509.NameConstraints([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], None), critical=True),
        "decode",
    ),
    ("rfc5280_4_2_1_11_policy_constraints", LEAF.with_(x509.PolicyConstraints(0, 0), critical=True), "authority"),
    ("rfc5280_4_2_1_11_policy_constraints", AUTHORITY.with_(x509.PolicyConstraints(0, 0)), "critical"),
    ("rfc5280_4_2_1_14_inhibit_any_policy", LEAF.with_(x509.InhibitAnyPolicy(0), critical=True), "authority"),
    ("rfc5280_4_2_1_14_inhibit_any_policy", AUTHORITY.with_(x509.InhibitAnyPolicy(0)), "critical"),
    ("rfc5280_6_1_self_issued", replace(LEAF, subject=ISSUER), "not the issuer's own"),
    (
        "rfc5280_6_1_self_issued",
        replace(AUTHORITY, subject=dn.parse_text("CN=EXAMPLE CA,O=example")),
        "not the issuer's own",
    ),
]

_USAGES: list[tuple[str, Draft, str]] = [
    ("rfc5280_4_2_1_3_key_usage", AUTHORITY.without(KEY_USAGE), "missing"),
    ("rfc5280_4_2_1_3_key_usage", LEAF.flipped(KEY_USAGE), "not critical"),
    ("rfc5280_4_2_1_3_key_usage", LEAF.usages(KeyUsage.KEY_CERT_SIGN), "no authority's"),
    ("rfc5280_4_2_1_3_key_usage", LEAF.usages(KeyUsage.CRL_SIGN), "no authority's"),
    ("rfc5280_4_2_1_3_key_usage", AUTHORITY.usages(KeyUsage.CRL_SIGN), "lacks keyCertSign"),
    (
        "rfc5280_4_2_1_3_agreement",
        LEAF.usages(KeyUsage.KEY_AGREEMENT, KeyUsage.ENCIPHER_ONLY, KeyUsage.DECIPHER_ONLY),
        "contradict",
    ),
    ("rfc5280_4_2_1_3_named_bits", LEAF.with_(raw(KEY_USAGE, b"\x03\x02\x00\x80"), critical=True), "zero bits"),
    ("rfc5280_4_2_1_3_named_bits", LEAF.with_(raw(KEY_USAGE, b"\x03\x03\x07\x80\x00"), critical=True), "zero bits"),
    ("rfc5280_4_2_1_3_crl_sign", AUTHORITY.usages(KeyUsage.KEY_CERT_SIGN), "lacks cRLSign"),
    ("rfc4055_1_2_key_usage", _RSA_LEAF.usages(KeyUsage.KEY_AGREEMENT), "cannot do"),
    ("rfc5480_3_key_usage", LEAF.usages(KeyUsage.KEY_ENCIPHERMENT), "cannot do"),
    ("rfc5480_3_key_usage", LEAF.usages(KeyUsage.DATA_ENCIPHERMENT), "cannot do"),
    ("rfc8410_5_key_usage", replace(LEAF, key=ED25519_KEY).usages(KeyUsage.KEY_AGREEMENT), "all that"),
    ("rfc8410_5_key_usage", replace(LEAF, key=ED25519_KEY).usages(KeyUsage.KEY_ENCIPHERMENT), "all that"),
    ("rfc5280_4_2_1_12_extended_key_usage", LEAF.for_(_SERVER, _SERVER), "twice"),
    ("rfc5280_4_2_1_12_authority", AUTHORITY.for_(_SERVER), "authority"),
    ("rfc5280_4_2_1_12_consistency", LEAF.usages(KeyUsage.CONTENT_COMMITMENT), "cannot serve"),
    ("rfc5280_4_2_1_12_consistency", _RSA_LEAF.usages(KeyUsage.KEY_ENCIPHERMENT).for_(_OCSP), "cannot serve"),
    ("rfc3161_2_3_time_stamping", LEAF.for_(_TIME), "not critical"),
    ("rfc3161_2_3_time_stamping", LEAF.for_(_TIME, _SERVER).flipped(EXTENDED_KEY_USAGE), "only purpose"),
]

_NAMES: list[tuple[str, Draft, str]] = [
    (_SAN_LINT, replace(AUTHORITY, subject=dn.EMPTY), "neither"),
    (_SAN_LINT, replace(LEAF, subject=dn.EMPTY), "critical"),
    (_SAN_LINT, LEAF.flipped(SUBJECT_ALTERNATIVE_NAME), "critical"),
    (_SAN_LINT, LEAF.with_(san()), "empty"),
    (_SAN_LINT, LEAF.with_(san(x509.DNSName("A.example"))), "normal form"),
    (_SAN_LINT, LEAF.with_(san(x509.DNSName("a"), x509.DNSName("a"))), "twice"),
    (_SAN_LINT, LEAF.with_(san(x509.DNSName("a_b"))), "other characters"),
    (_SAN_LINT, LEAF.with_(san(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))), "unknown kind"),
    (_SAN_LINT, LEAF.with_(san(x509.OtherName(x509.ObjectIdentifier("1.2.3"), _NULL))), "unknown kind"),
    ("rfc9549_2_2_a_labels", LEAF.with_(san(x509.DNSName("xn--a.example"))), "A-label"),
    ("rfc9549_2_2_a_labels", LEAF.with_(san(x509.RFC822Name("a@xn--a.example"))), "A-label"),
    ("rfc9549_2_2_a_labels", LEAF.with_(san(url("https://xn--a.example/"))), "A-label"),
    ("rfc9525_6_3_wildcard", LEAF.with_(san(x509.DNSName("www*.example.org"))), "wildcard"),
    ("rfc9525_6_3_wildcard", LEAF.with_(san(x509.DNSName("*.example"))), "wildcard"),
    ("rfc9525_6_3_wildcard", LEAF.with_(san(x509.DNSName("*.*.example"))), "wildcard"),
    (_SMTP_LINT, _mailbox(_NULL), "no UTF8String"),
    (_SMTP_LINT, _mailbox(der.encode(der.UTF8_STRING, b"\xff")), "no UTF8String"),
    (_SMTP_LINT, _mailbox(der.encode(der.UTF8_STRING, b"ascii@a.example")), "in ASCII"),
    (_SMTP_LINT, _mailbox(der.encode(der.UTF8_STRING, "ü@bücher.example".encode())), "A-labels"),
    (_SMTP_LINT, _mailbox(der.encode(der.UTF8_STRING, "bücher".encode())), "no mailbox"),
    ("rfc5280_4_2_1_7_issuer_alternative_name", LEAF.with_(x509.IssuerAlternativeName([])), "empty"),
    (
        "rfc5280_4_2_1_7_issuer_alternative_name",
        LEAF.with_(x509.IssuerAlternativeName([x509.DNSName("a")]), critical=True),
        "critical",
    ),
    ("rfc5280_4_2_1_8_subject_directory_attributes", LEAF.with_(raw("2.5.29.9", _EMPTY)), "empty"),
    ("rfc5280_4_2_1_8_subject_directory_attributes", LEAF.with_(raw("2.5.29.9", _EMPTY), critical=True), "critical"),
    (
        "rfc5280_4_1_2_6_email_address",
        replace(LEAF, subject=dn.parse_text("1.2.840.113549.1.9.1=a@b.example")),
        "not among",
    ),
]

_POLICIES: list[tuple[str, Draft, str]] = [
    ("rfc5280_4_2_1_4_certificate_policies", _policies(), "empty"),
    ("rfc5280_4_2_1_4_certificate_policies", _policies(der.sequence(_POLICY), der.sequence(_POLICY)), "twice"),
    ("rfc5280_4_2_1_4_qualifiers", _qualified(), "empty"),
    ("rfc5280_4_2_1_4_qualifiers", _qualified(der.sequence(_CPS, der.encode(der.IA5_STRING, b"text"))), "no URI"),
    ("rfc6818_3_explicit_text", _noticed(der.encode(der.VISIBLE_STRING, b"text")), "neither"),
    ("rfc6818_3_explicit_text", _noticed(der.encode(der.BMP_STRING, b"\x00a")), "neither"),
    ("rfc6818_3_explicit_text", _noticed(der.encode(der.UTF8_STRING, b"a" * 201)), "200"),
    ("rfc6818_3_explicit_text", _noticed(der.encode(der.UTF8_STRING, b"")), "200"),
    ("rfc6818_3_explicit_text_form", _noticed(der.encode(der.IA5_STRING, b"text")), "normalization"),
    ("rfc6818_3_explicit_text_form", _noticed(der.encode(der.UTF8_STRING, "u\u0308".encode())), "normalization"),
    ("rfc6818_3_explicit_text_form", _noticed(der.encode(der.UTF8_STRING, b"a\x07")), "control"),
    (
        "rfc5280_4_2_1_4_notice_reference",
        _noticed(der.sequence(der.encode(der.UTF8_STRING, b"a"), der.sequence(der.integer(1)))),
        "elsewhere",
    ),
    ("rfc5280_4_2_1_5_policy_mappings", _mapped(), "empty"),
    ("rfc5280_4_2_1_5_policy_mappings", _mapped((_POLICY, _ANY_POLICY)), "anyPolicy"),
    ("rfc5280_4_2_1_5_policy_mappings", LEAF.with_(raw("2.5.29.33", _EMPTY), critical=True), "authority"),
    ("rfc5280_4_2_1_5_policy_mappings", AUTHORITY.with_(raw("2.5.29.33", _NULL)), "decode"),
    ("rfc9618_2_2_policy_mappings", _mapped((_POLICY, _POLICY), (_POLICY, _OTHER_POLICY)), "more than once"),
    ("rfc9618_2_2_policy_mappings", _mapped((_POLICY, _POLICY), (_OTHER_POLICY, _POLICY)), "more than once"),
]

_REVOCATION: list[tuple[str, Draft, str]] = [
    (_AIA_LINT, LEAF.flipped(AUTHORITY_INFORMATION_ACCESS), "critical"),
    (_AIA_LINT, LEAF.with_(x509.AuthorityInformationAccess([])), "empty"),
    (_AIA_LINT, LEAF.with_(access(x509.ObjectIdentifier("1.2.3"), url("http://a/"))), "something else"),
    (_AIA_LINT, LEAF.with_(access(AuthorityInformationAccessOID.CA_ISSUERS, url("https://a/"))), "something else"),
    (_AIA_LINT, LEAF.with_(access(AuthorityInformationAccessOID.CA_ISSUERS, x509.DNSName("a"))), "something else"),
    (_SIA_LINT, LEAF.with_(x509.SubjectInformationAccess([])), "empty"),
    (
        _SIA_LINT,
        LEAF.with_(
            x509.SubjectInformationAccess(
                [x509.AccessDescription(x509.ObjectIdentifier("1.3.6.1.5.5.7.48.5"), url("http://a/"))]
            )
        ),
        "no authority's",
    ),
    (_POINTS_LINT, LEAF.with_(x509.CRLDistributionPoints([])), "empty"),
    (_POINTS_LINT, LEAF.with_(x509.CRLDistributionPoints([_point(x509.DNSName("a"))])), "something else"),
    (
        _POINTS_LINT,
        LEAF.with_(x509.CRLDistributionPoints([_point(url("http://a/"))]), critical=True),
        "critical",
    ),
    (_FRESHEST_LINT, LEAF.with_(x509.FreshestCRL([])), "empty"),
    (_FRESHEST_LINT, LEAF.with_(x509.FreshestCRL([_point(url("https://a/"))])), "something else"),
    ("rfc6960_4_2_2_2_1_no_check", LEAF.with_(x509.OCSPNoCheck()), "OCSPSigning"),
    ("rfc6960_4_2_2_2_1_no_check", LEAF.for_(_OCSP).with_(x509.OCSPNoCheck(), critical=True), "critical"),
    ("rfc6960_4_2_2_2_1_responder_status", LEAF.for_(_OCSP), "cannot know"),
    ("rfc9608_2_no_revocation_available", AUTHORITY.with_(raw(_NO_STATUS, _NULL)), "authority"),
    ("rfc9608_2_no_revocation_available", LEAF.with_(raw(_NO_STATUS, _NULL), critical=True), "critical"),
    ("rfc9608_2_no_revocation_available", LEAF.with_(raw(_NO_STATUS, _EMPTY)), "not NULL"),
    (
        "rfc9608_3_other_extensions",
        LEAF.with_(raw(_NO_STATUS, _NULL)).with_(access(AuthorityInformationAccessOID.OCSP, url("http://a/"))),
        "beside",
    ),
    (
        "rfc9608_3_other_extensions",
        LEAF.with_(raw(_NO_STATUS, _NULL)).with_(x509.CRLDistributionPoints([_point(url("http://a/"))])),
        "beside",
    ),
    (
        "rfc7633_4_tls_feature",
        LEAF.with_(x509.TLSFeature([x509.TLSFeatureType.status_request, x509.TLSFeatureType.status_request])),
        "twice",
    ),
    (
        "rfc7633_4_servers",
        LEAF.for_(_CODE).with_(x509.TLSFeature([x509.TLSFeatureType.status_request])),
        "no server",
    ),
]

_FORMS: list[tuple[str, Draft, str]] = [
    ("rfc5280_4_2_value", LEAF.with_(raw("1.2.3.4.5", b"")), "DER"),
    ("rfc5280_4_2_value", LEAF.with_(raw("1.2.3.4.5", _NULL + _NULL)), "DER"),
    ("rfc5280_4_2_value", LEAF.with_(raw("1.2.3.4.5", b"\x30\x80\x00\x00")), "DER"),
    ("rfc5280_4_2_value", LEAF.with_(raw("1.2.3.4.5", b"\x01\x01\x01")), "DER"),
    ("rfc5280_4_2_critical", LEAF.with_(raw("1.2.3.4.5", _NULL), critical=True), "refuse"),
    (
        "rfc5280_4_2_critical",
        LEAF.with_(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=True),
        "refuse",
    ),
    ("rfc6962_3_1_precertificate", LEAF.with_(x509.PrecertPoison(), critical=True), "poison"),
    ("rfc3820_3_8_proxy", LEAF.with_(raw("1.3.6.1.5.5.7.1.14", _EMPTY)), "proxy"),
]

_FORUM: list[tuple[str, Draft, str]] = [
    ("cabf_br_6_3_2_validity_period", replace(LEAF, not_after=NOW + timedelta(days=398)), "398 days"),
    ("cabf_br_7_1_2_7_12_alternative_name", LEAF.without(SUBJECT_ALTERNATIVE_NAME), "no DNS name"),
    ("cabf_br_7_1_4_3_common_name", replace(LEAF, subject=dn.parse_text("CN=other.example")), "not among"),
    ("cabf_br_7_1_4_2_1_internal_name", LEAF.with_(san(x509.DNSName("intranet"))), "single label"),
    ("cabf_br_7_1_2_7_10_purposes", LEAF.for_(_ANY), "every purpose"),
    ("cabf_br_7_1_2_7_10_purposes", LEAF.for_(_SERVER, _CODE), "of its own"),
    (
        "cabf_br_7_1_2_7_11_key_usage",
        _RSA_LEAF.usages(KeyUsage.DIGITAL_SIGNATURE, KeyUsage.DATA_ENCIPHERMENT),
        "no use",
    ),
    ("cabf_smime_7_1_4_2_1_mailbox", LEAF.for_(_MAIL), "no e-mail address"),
    ("cabf_cs_6_1_5_2_key_size", _RSA_LEAF.for_(_CODE), "3072"),
]

BROKEN = [*_FIELDS, *_PATH, *_USAGES, *_NAMES, *_POLICIES, *_REVOCATION, *_FORMS, *_FORUM]
