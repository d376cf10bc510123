"""Whatever is prepared under a profile obeys it: an oracle reads the certificate with the library alone and judges.

And the other way about: what the oracle finds nothing against is prepared.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import assume, event, given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.certificate_request import CertificateRequest, Validity
from certd.pki.csr import RequestedExtension
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared, findings, prepare
from certd.pki.profiles import (
    END_ENTITY,
    CommonNameRule,
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    Profile,
    SubjectPresence,
    SubjectRules,
    UriRules,
    profile_violations,
)
from tests.unit.memory_authority import NOW, SERIAL, public_key, root

_SECOND = timedelta(seconds=1)
_ROOT = root()
_KEYS = {spec: public_key(spec) for spec in KeySpec}
_OWN = "1.3.6.1.4.1.99999.1"

_DNS_NAMES = ("a.internal", "b.internal", "x.a.internal", "example.org", "*.internal.example", "*.a.internal", "host")
_ADDRESSES = ("192.0.2.1", "192.0.3.1", "2001:db8::1", "2001:db9::1")
_URIS = ("https://a.internal/x", "https://b.internal/x", "spiffe://td/a", "spiffe://other/a", "urn:example:a")
_MAILBOXES = ("jane@a.internal", "joe@b.internal")
_COMMON_NAMES = ("a.internal", "192.0.2.1", "jane@a.internal", "Jane Doe")


def _some(*values: str, fewest: int = 0, most: int = 3) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), unique=True, min_size=fewest, max_size=most).map(tuple)


_NAME_RULES = st.builds(
    NameRules,
    dns_names=st.none()
    | st.builds(
        DnsNameRules,
        allow_any=st.booleans(),
        names=_some(*_DNS_NAMES),
        suffixes=_some("internal", "a.internal", "org", fewest=1),
        allow_wildcards=st.booleans(),
        fewest_wildcard_labels=st.integers(2, 3),
    ),
    ip_addresses=st.none()
    | st.builds(
        IpAddressRules, allow_any=st.booleans(), ranges=_some("192.0.2.0/24", "2001:db8::/32", "192.0.3.1/32", fewest=1)
    ),
    uris=st.none()
    | st.builds(
        UriRules,
        allow_any=st.booleans(),
        prefixes=_some("https://a.internal/", "spiffe://td/", "spiffe://td/b", fewest=1),
    ),
    email_addresses=st.none()
    | st.builds(
        EmailAddressRules,
        allow_any=st.booleans(),
        domains=_some("a.internal", fewest=1),
        addresses=_some("joe@b.internal"),
    ),
    fewest=st.sampled_from([0, 0, 1, 2]),
    most=st.sampled_from([1, 3, 5]),
)
_LIFETIMES = st.sampled_from([1, 2, 60, 3600, 86_400, 90 * 86_400]).map(lambda seconds: timedelta(seconds=seconds))
_DRAFTS = st.builds(
    Profile,
    profile_id=st.just("own"),
    default_lifetime=_LIFETIMES,
    shortest_lifetime=_LIFETIMES,
    longest_lifetime=_LIFETIMES,
    backdate=st.sampled_from([timedelta(0), _SECOND, timedelta(minutes=5), timedelta(days=1)]),
    key_specs=st.frozensets(st.sampled_from([KeySpec.EC_P256, KeySpec.RSA_2048, KeySpec.ED25519]), min_size=1),
    key_usages=st.frozensets(st.sampled_from(KeyUsage), max_size=4),
    extended_key_usages=_some("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.2.3.4"),
    names=_NAME_RULES,
    subject=st.builds(
        SubjectRules,
        presence=st.sampled_from(SubjectPresence),
        common_name=st.sampled_from(CommonNameRule),
        allowed_attributes=_some("2.5.4.3", "2.5.4.10", "2.5.4.6"),
        required_attributes=st.sampled_from([(), (), ("2.5.4.3",), ("2.5.4.10",)]),
        directory_subtrees=st.sampled_from([(), (), (dn.parse_text("O=Example"),)]),
    ),
    passed_extensions=st.sampled_from([(), ("*",), (_OWN,), ("2.5.29.15", "2.5.29.37")]),
    policies=_some("1.2.3.5"),
    tls_features=st.sampled_from([(), (5,)]),
    custom_extensions=st.sampled_from([(), (CustomExtension(oid="1.2.3.6", value=b"\x05\x00"),)]),
)


def _mended(profile: Profile) -> Profile:
    """Repairs what would break the rules of a profile most often, so that few are thrown away."""
    shortest, default, longest = sorted((profile.default_lifetime, profile.shortest_lifetime, profile.longest_lifetime))
    usages = profile.key_usages - {KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN} - {KeyUsage.ENCIPHER_ONLY}
    usages -= {KeyUsage.DECIPHER_ONLY}
    rules = profile.names
    kinds = [rules.dns_names, rules.ip_addresses, rules.uris, rules.email_addresses]
    fewest = min(rules.fewest, rules.most) if any(kinds) else 0
    left_to_csr = {"*", "2.5.29.15"} & set(profile.passed_extensions)
    return replace(
        profile,
        shortest_lifetime=shortest,
        default_lifetime=default,
        longest_lifetime=longest,
        key_usages=frozenset() if left_to_csr else usages | {KeyUsage.DIGITAL_SIGNATURE},
        extended_key_usages=() if "2.5.29.37" in profile.passed_extensions else profile.extended_key_usages,
        names=replace(rules, fewest=fewest),
    )


_PROFILES = _DRAFTS.map(_mended).filter(lambda profile: profile_violations(profile) == ())
_SUBJECTS = st.builds(
    lambda common_name, rest: dn.parse_text(",".join(filter(None, (common_name, rest)))),
    st.sampled_from(["", *(f"CN={name}" for name in _COMMON_NAMES)]),
    st.sampled_from(["", "O=Example", "O=Other", "OU=x,O=Example", "O=Example,C=DE"]),
)
_REQUESTED = st.lists(
    st.sampled_from(
        [
            RequestedExtension(
                oid="2.5.29.15",
                critical=True,
                value=key_usage_extension({KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_ENCIPHERMENT}).public_bytes(),
            ),
            RequestedExtension(
                oid="2.5.29.37", critical=False, value=der.sequence(der.object_identifier("1.3.6.1.5.5.7.3.1"))
            ),
            RequestedExtension(oid="2.5.29.19", critical=True, value=der.sequence(b"\x01\x01\xff")),
            RequestedExtension(oid=_OWN, critical=False, value=b"\x05\x00"),
        ]
    ),
    unique=True,
).map(tuple)
_REQUESTS = st.builds(
    CertificateRequest,
    public_key=st.sampled_from([_KEYS[KeySpec.EC_P256], _KEYS[KeySpec.RSA_2048], _KEYS[KeySpec.ED25519]]),
    subject=_SUBJECTS,
    names=st.builds(
        SubjectAlternativeNames,
        dns_names=_some(*_DNS_NAMES, most=2),
        ip_addresses=_some(*_ADDRESSES, most=1),
        uris=_some(*_URIS, most=1),
        email_addresses=_some(*_MAILBOXES, most=1),
    ),
    extensions=_REQUESTED,
)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[CertificateRequest, Profile, timedelta | None]:
    """A profile, and a request that keeps more of it than any request would, so that many are prepared."""
    profile = draw(_PROFILES)
    rules = profile.names
    drawn = draw(_REQUESTS)
    stray = draw(st.integers(0, 9)) == 0
    names = SubjectAlternativeNames(
        dns_names=drawn.names.dns_names if rules.dns_names or stray else (),
        ip_addresses=drawn.names.ip_addresses if rules.ip_addresses or stray else (),
        uris=drawn.names.uris if rules.uris or stray else (),
        email_addresses=drawn.names.email_addresses if rules.email_addresses or stray else (),
    )
    key = _KEYS[draw(st.sampled_from(sorted(profile.key_specs)))]
    lifetime = draw(st.sampled_from([None, profile.shortest_lifetime, profile.longest_lifetime, timedelta(seconds=60)]))
    return replace(drawn, names=names, public_key=drawn.public_key if stray else key), profile, lifetime


_REASONS = {Reason.NAME_NOT_ALLOWED, Reason.PROFILE_FORBIDS, Reason.LINT_FAILED}


def _outcome(request: CertificateRequest, profile: Profile, validity: Validity) -> Prepared | CertdError:
    try:
        return prepare(issuer=_ROOT.issuer, request=request, profile=profile, validity=validity, serial=SERIAL, now=NOW)
    except CertdError as error:
        return error


@given(_cases())
def test_what_is_prepared_obeys_the_profile(case: tuple[CertificateRequest, Profile, timedelta | None]) -> None:
    request, profile, lifetime = case
    prepared = _outcome(request, profile, Validity(lifetime=lifetime))
    event(str(prepared.reason) if isinstance(prepared, CertdError) else "prepared")
    if isinstance(prepared, CertdError):
        assert prepared.reason in _REASONS, prepared
        return
    certificate = x509.load_der_x509_certificate(prepared.lint_certificate)
    _judge_names(certificate, profile)
    _judge_subject(certificate, request, profile)
    _judge_extensions(certificate, request, profile)
    _judge_period(certificate, profile, lifetime)
    assert _spec(certificate) in profile.key_specs


def _spec(certificate: x509.Certificate) -> KeySpec:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return KeySpec(f"RSA_{key.key_size}")
    if isinstance(key, ec.EllipticCurvePublicKey):
        return KeySpec(f"EC_P{key.curve.key_size}")
    assert isinstance(key, ed25519.Ed25519PublicKey)
    return KeySpec.ED25519


def _alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _judge_names(certificate: x509.Certificate, profile: Profile) -> None:
    found = _alternative_names(certificate)
    rules = profile.names
    assert rules.fewest <= len(found) <= rules.most
    for name in found:
        if isinstance(name, x509.DNSName):
            assert rules.dns_names is not None
            assert _fits_dns(name.value, rules.dns_names)
        elif isinstance(name, x509.IPAddress):
            address = cast("IPv4Address | IPv6Address", name.value)
            assert rules.ip_addresses is not None
            assert rules.ip_addresses.allow_any or any(
                address in ip_network(each) for each in rules.ip_addresses.ranges
            )
        elif isinstance(name, x509.UniformResourceIdentifier):
            assert rules.uris is not None
            fits = any(name.value.startswith(prefix) for prefix in rules.uris.prefixes)
            assert fits or (rules.uris.allow_any and not name.value.startswith("spiffe:"))
        else:
            assert isinstance(name, x509.RFC822Name)
            mail = rules.email_addresses
            assert mail is not None
            assert mail.allow_any or name.value in mail.addresses or name.value.split("@")[1] in mail.domains


def _fits_dns(name: str, rules: DnsNameRules) -> bool:
    if name in rules.names:
        return True
    patterns = [f"*.{suffix}" for suffix in rules.suffixes]
    if not name.startswith("*."):
        return rules.allow_any or any(fnmatchcase(name, pattern) for pattern in patterns)
    if not rules.allow_wildcards or name.count(".") < rules.fewest_wildcard_labels:
        return False
    return rules.allow_any or name[2:] in rules.names or any(fnmatchcase(name, pattern) for pattern in patterns)


def _judge_subject(certificate: x509.Certificate, request: CertificateRequest, profile: Profile) -> None:
    rules = profile.subject
    subject = certificate.subject
    attributes = list(subject)
    assert set(attributes) <= set(x509.Name.from_bytes(request.subject))
    assert rules.presence is not SubjectPresence.DROPPED or not attributes
    assert rules.presence is not SubjectPresence.REQUIRED or attributes
    assert attributes or _alternative_names(certificate)
    types = {attribute.oid.dotted_string for attribute in attributes}
    assert not rules.allowed_attributes or types <= set(rules.allowed_attributes)
    assert not attributes or types >= set(rules.required_attributes)
    if attributes and rules.directory_subtrees:
        assert (attributes[0].oid, attributes[0].value) == (x509.NameOID.ORGANIZATION_NAME, "Example")
    common_names = {str(each.value) for each in subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)}
    if rules.common_name is CommonNameRule.AMONG_NAMES:
        assert common_names <= {str(name.value) for name in _alternative_names(certificate)}
    assert rules.common_name is not CommonNameRule.NONE or not common_names


def _judge_extensions(certificate: x509.Certificate, request: CertificateRequest, profile: Profile) -> None:
    found = {extension.oid.dotted_string: extension for extension in certificate.extensions}
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    passes = set(profile.passed_extensions)
    asked = {extension.oid: extension for extension in request.extensions}
    usage = cast("x509.KeyUsage | None", found["2.5.29.15"].value if "2.5.29.15" in found else None)
    assert usage is None or not (usage.key_cert_sign or usage.crl_sign)
    if isinstance(certificate.public_key(), rsa.RSAPublicKey):
        assert usage is None or not usage.key_agreement
    else:
        assert usage is None or not (usage.key_encipherment or usage.data_encipherment)
    if profile.key_usages:
        assert usage is not None
        assert usage.digital_signature is (KeyUsage.DIGITAL_SIGNATURE in profile.key_usages)
        assert usage.content_commitment is (KeyUsage.CONTENT_COMMITMENT in profile.key_usages)
    else:
        assert ("2.5.29.15" in found) is ("2.5.29.15" in asked)
        assert passes & {"*", "2.5.29.15"}
    purposes = [each.dotted_string for each in found["2.5.29.37"].value] if "2.5.29.37" in found else []
    wanted = list(profile.extended_key_usages) or (["1.3.6.1.5.5.7.3.1"] if "2.5.29.37" in asked else [])
    assert purposes == wanted
    assert (_OWN in found) is (_OWN in asked and bool(passes & {"*", _OWN}))
    assert ("2.5.29.32" in found) is bool(profile.policies)
    assert ("1.3.6.1.5.5.7.1.24" in found) is bool(profile.tls_features)
    assert ("1.2.3.6" in found) is bool(profile.custom_extensions)


def _judge_period(certificate: x509.Certificate, profile: Profile, lifetime: timedelta | None) -> None:
    now = NOW.replace(microsecond=0)
    wanted = profile.default_lifetime if lifetime is None else lifetime
    assert certificate.not_valid_before_utc == now - profile.backdate
    assert certificate.not_valid_after_utc == now + wanted - _SECOND
    assert profile.shortest_lifetime <= wanted <= profile.longest_lifetime


_ANYTHING = replace(
    END_ENTITY,
    names=NameRules(
        dns_names=DnsNameRules(allow_any=True, allow_wildcards=True),
        ip_addresses=IpAddressRules(allow_any=True),
        uris=UriRules(allow_any=True, prefixes=("spiffe://td/", "spiffe://other/")),
        email_addresses=EmailAddressRules(allow_any=True),
    ),
    subject=SubjectRules(common_name=CommonNameRule.ANY),
)


@given(request=_REQUESTS, rules=_NAME_RULES)
def test_names_that_the_rules_allow_are_issued(request: CertificateRequest, rules: NameRules) -> None:
    profile = replace(_ANYTHING, names=rules)
    assume(profile_violations(profile) == ())
    assume(request.names or request.subject != dn.EMPTY)
    whole = _outcome(request, _ANYTHING, Validity())
    assert isinstance(whole, Prepared)
    outcome = _outcome(request, profile, Validity())
    try:
        _judge_names(x509.load_der_x509_certificate(whole.lint_certificate), profile)
        allowed = True
    except AssertionError:
        allowed = False
    assert isinstance(outcome, Prepared) is allowed, outcome


# Validity at its edges.


@given(
    remaining=st.integers(1, 10_000),
    wanted=st.one_of(st.none(), st.integers(59, 10_001)),
    backdate=st.integers(0, 86_400),
)
def test_no_certificate_outlives_its_authority(remaining: int, wanted: int | None, backdate: int) -> None:
    now = NOW.replace(microsecond=0)
    issuer = replace(_ROOT.issuer, not_after=now + timedelta(seconds=remaining))
    profile = replace(
        END_ENTITY,
        default_lifetime=timedelta(seconds=5_000),
        longest_lifetime=timedelta(seconds=10_000),
        backdate=timedelta(seconds=backdate),
    )
    validity = Validity(lifetime=None if wanted is None else timedelta(seconds=wanted))
    request = CertificateRequest(
        public_key=_KEYS[KeySpec.EC_P256], subject=dn.EMPTY, names=SubjectAlternativeNames(dns_names=("a",))
    )
    try:
        prepared = prepare(issuer=issuer, request=request, profile=profile, validity=validity, serial=SERIAL, now=NOW)
    except CertdError as error:
        prepared, reason = None, error.reason
    if prepared is None:
        assert wanted is not None
        expected = Reason.PROFILE_FORBIDS if not 60 <= wanted <= 10_000 else Reason.LIFETIME_EXCEEDS_AUTHORITY
        assert reason is expected
        assert expected is Reason.PROFILE_FORBIDS or wanted - 1 > remaining
        return
    assert prepared.not_before == now - profile.backdate
    assert prepared.not_after <= cast("datetime", issuer.not_after)
    assert prepared.not_after == now + timedelta(seconds=min(5_000 - 1, remaining) if wanted is None else wanted - 1)


@given(_cases())
def test_findings_agree_with_preparing(case: tuple[CertificateRequest, Profile, timedelta | None]) -> None:
    request, profile, lifetime = case
    validity = Validity(lifetime=lifetime)
    found = findings(issuer=_ROOT.issuer, request=request, profile=profile, validity=validity, serial=SERIAL, now=NOW)
    outcome = _outcome(request, profile, validity)
    if isinstance(outcome, CertdError):
        assert outcome.reason in {error.reason for error in found.errors}
        assert found.prepared is None
    else:
        assert found.errors == ()
        assert found.prepared is not None
        assert found.prepared.tbs == outcome.tbs
        assert found.warnings == outcome.warnings
