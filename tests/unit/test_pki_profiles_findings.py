"""Every finding about a request instead of the first, and the name constraints of the authorities above it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from certd.errors import Reason
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.certificate_request import CertificateRequest, Issuer, Validity
from certd.pki.csr import RequestedExtension
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import KeySpec
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared, findings, prepare
from certd.pki.profiles import END_ENTITY, SUBORDINATE_CA, Profile
from tests.unit.memory_authority import NOW, SERIAL, MemoryAuthority, prepare_leaf, public_key, refused_with, root

_ROOT = root()
_KEY = public_key()


def _prepare(request: CertificateRequest, profile: Profile) -> Prepared:
    return prepare(issuer=_ROOT.issuer, request=request, profile=profile, validity=Validity(), serial=SERIAL, now=NOW)


def _findings(issuer: Issuer, request: CertificateRequest, profile: Profile, validity: Validity) -> list[Reason]:
    found = findings(issuer=issuer, request=request, profile=profile, validity=validity, serial=SERIAL, now=NOW)
    assert (found.prepared is None) is bool(found.errors)
    return [error.reason for error in found.errors]


def test_every_finding_is_told() -> None:
    issuer = replace(_ROOT.issuer, name_constraints=(NameConstraints(permitted=Subtrees(dns_names=("example.org",))),))
    profile = replace(
        END_ENTITY, key_specs=frozenset({KeySpec.RSA_3072}), passed_extensions=("*",), key_usages=frozenset()
    )
    request = CertificateRequest(
        public_key=issuer.public_key,
        subject=dn.EMPTY,
        names=SubjectAlternativeNames(dns_names=("a.internal",)),
        path_length=1,
        extensions=(
            RequestedExtension(
                oid="2.5.29.15", critical=True, value=key_usage_extension({KeyUsage.KEY_CERT_SIGN}).public_bytes()
            ),
        ),
    )
    assert _findings(issuer, request, profile, Validity(lifetime=timedelta(days=1000))) == [
        Reason.PROFILE_FORBIDS,  # The kind of key.
        Reason.PROFILE_FORBIDS,  # The authority's own key.
        Reason.NAME_CONSTRAINT_VIOLATED,
        Reason.PROFILE_FORBIDS,  # The path length.
        Reason.PROFILE_FORBIDS,  # The key usage.
        Reason.PROFILE_FORBIDS,  # The lifetime.
    ]


@pytest.mark.parametrize(
    "names", [SubjectAlternativeNames(dns_names=("ok", "a b")), SubjectAlternativeNames(uris=("spiffe://td/a",))]
)
def test_names_do_not_hide_the_rest(names: SubjectAlternativeNames) -> None:
    long = der.set_of([der.sequence(der.object_identifier("2.5.4.10"), der.encode(der.UTF8_STRING, b"a" * 65))])
    request = CertificateRequest(public_key=_KEY, subject=der.sequence(long), names=names)
    found = findings(
        issuer=_ROOT.issuer, request=request, profile=END_ENTITY, validity=Validity(), serial=SERIAL, now=NOW
    )
    (error,) = found.errors
    assert error.reason is Reason.NAME_NOT_ALLOWED
    assert "subject" in {violation.field for violation in error.violations}


# Name constraints.


def test_names_outside_the_constraints_of_any_authority_above() -> None:
    authority: MemoryAuthority = replace(
        _ROOT,
        issuer=replace(
            _ROOT.issuer,
            name_constraints=(
                NameConstraints(permitted=Subtrees(dns_names=("internal",))),
                NameConstraints(excluded=Subtrees(dns_names=("b.internal",))),
            ),
        ),
    )
    prepare_leaf(authority, names=SubjectAlternativeNames(dns_names=("a.internal",)))
    names = SubjectAlternativeNames(dns_names=("a.internal", "example.org", "x.b.internal"))
    error = refused_with(lambda: prepare_leaf(authority, names=names), Reason.NAME_CONSTRAINT_VIOLATED)
    assert [violation.field for violation in error.violations] == [
        "subject_alternative_names.dns_names[1]",
        "subject_alternative_names.dns_names[2]",
    ]
    assert "and 1 more" in error.message


def test_constraints_are_for_authorities() -> None:
    constraints = NameConstraints(permitted=Subtrees(dns_names=("internal",)))
    request = CertificateRequest(
        public_key=_KEY,
        subject=dn.parse_text("CN=Below"),
        names=SubjectAlternativeNames(),
        name_constraints=constraints,
    )
    prepared = _prepare(request, SUBORDINATE_CA)
    certificate = x509.load_der_x509_certificate(prepared.lint_certificate)
    written = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert written.critical
    assert written.value.permitted_subtrees == [x509.DNSName("internal")]
    named = replace(request, names=SubjectAlternativeNames(dns_names=("a",)))
    refused = refused_with(lambda: _prepare(named, END_ENTITY), Reason.PROFILE_FORBIDS)
    assert refused.violations[0].field == "name_constraints"
