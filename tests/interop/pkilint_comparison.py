"""What pkilint, which reads RFC 5280 to the letter, says of certificates, held against what certd's own lints say."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pkilint.bin.lint_pkix_signer_signee_cert_chain import (
    create_decoder_validation_container,
    create_issuer_validation_container,
    create_subject_validation_container,
)
from pkilint.document import SubstrateDecodingFailedError
from pkilint.loader import RFC5280CertificateDocumentLoader
from pkilint.pkix import certificate, extension, name

from certd.errors import CertdError
from tests.interop.generated import Generated, generated_certificates


@dataclass(frozen=True, slots=True)
class Difference:
    """A kind of finding that is no fault of certd's, and why."""

    finding: str
    """A pattern of the whole finding."""
    why: str
    warning: str | None = None
    """The lint of certd that must have said the same as a warning; None when certd says nothing."""


DIFFERENCES = (
    Difference(
        r"pkix\.subject_key_identifier_rfc7093_method_1_identified: ",
        "Praise, not blame: it says which of the methods of RFC 7093 made the key identifier.",
    ),
    Difference(
        r'pkix\.invalid_domain_name_syntax: Invalid domain name syntax: "\*\.[a-z0-9.-]+"',
        "RFC 5280 leaves wildcards undefined; RFC 9525, section 6.3, defines them, and every TLS client knows them.",
    ),
    Difference(
        r'pkix\.invalid_domain_name_syntax: Invalid domain name syntax: "[a-z0-9-]+"',
        "One label is a name (RFC 1034, section 3.1). certd warns of it in servers, save for localhost.",
    ),
    Difference(
        r'pkix\.name_domain_components_invalid_domain_name: Invalid domain name in domainComponents: "[a-z]+"',
        "The same, of a subject with one domain component.",
    ),
    Difference(
        r'pkix\.invalid_email_address_syntax: Invalid e-mail address syntax: "[^@ ]+@[a-z0-9-]+"',
        "The same, of the host of a mailbox.",
    ),
    Difference(
        r'pkix\.invalid_uri_syntax: Invalid URI syntax: "https?://[a-z0-9-]+(:[0-9]+)?(/[^ ]*)?"',
        "The same, of the host of a URI.",
    ),
    Difference(
        r'pkix\.invalid_uri_syntax: Invalid URI syntax: "(spiffe|urn|tag|sip):[^ ]+"',
        "It knows the schemes of the web alone; these are URIs (RFC 3986), SPIFFE ids among them.",
    ),
    Difference(r"pkix\.ldap_uri_not_validated: .*", "It says that it has not looked."),
    Difference(
        r"pkix\.certificate_policies_policy_has_qualifier: ",
        "RFC 5280, section 4.2.1.4, would rather have none; it allows these two, and who issues knows why.",
    ),
    Difference(
        r"pkix\.extended_key_usage_extension_with_timestamping_not_critical: ",
        "Both say it: the purpose is what a profile or CSR wrote, and it serves other ends than RFC 3161 too.",
        warning="rfc3161_2_3_time_stamping",
    ),
    Difference(
        r"pkix\.subject_email_address_not_in_san: .*",
        "Both say it.",
        warning="rfc5280_4_1_2_6_email_address",
    ),
    Difference(
        r"certificate does not decode: .*unknown/unsupported ASN\.1 DER tag: 0x1c",
        "Its decoder has no UniversalString, which RFC 5280 allows in the names of old.",
        warning="rfc5280_4_1_2_6_string_types",
    ),
)
"""Every difference between the two, in one table. A test fails when an entry no longer occurs."""

_LINTS = certificate.create_pkix_certificate_validator_container(
    certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
    [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ],
)
"""What pkilint's program `lint_pkix_cert` checks."""
_DECODING = create_decoder_validation_container()
_ISSUER = create_issuer_validation_container()
_SUBJECT = create_subject_validation_container()
_LOADER = RFC5280CertificateDocumentLoader()


def _findings(results: Iterable[object]) -> set[str]:
    return {
        f"{found.finding.code}: {found.message or ''}"
        for result in results
        for found in result.finding_descriptions  # type: ignore[attr-defined]  # pkilint has no types.
    }


def lint(der: bytes) -> set[str]:
    """What is wrong with a certificate by itself, at every severity."""
    try:
        return _findings(_LINTS.validate(_LOADER.load_der_document(der).root))
    except SubstrateDecodingFailedError as error:
        return {f"certificate does not decode: {error}"}


def lint_pair(issuer: bytes, subject: bytes) -> set[str]:
    """What is wrong between two certificates: names, key identifiers, signature."""
    documents: dict[str, object] = {}
    try:
        for role, der in (("issuer", issuer), ("subject", subject)):
            documents[role] = _LOADER.load_der_document(der, role, role, documents)
    except SubstrateDecodingFailedError as error:
        return {f"certificate does not decode: {error}"}
    roots = {role: loaded.root for role, loaded in documents.items()}  # type: ignore[attr-defined]  # As above.
    return _findings(
        [
            *_DECODING.validate(roots["issuer"]),
            *_DECODING.validate(roots["subject"]),
            *_ISSUER.validate(roots["issuer"]),
            *_SUBJECT.validate(roots["subject"]),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What many certificates showed."""

    unexplained: tuple[str, ...]
    """Findings that no difference explains, each with the profile of the certificate."""
    occurred: frozenset[Difference]
    refused: tuple[CertdError, ...]


def explain(finding: str, warnings: Iterable[str]) -> Difference | None:
    """Returns the difference that a finding is, given the lints of certd that warned."""
    for difference in DIFFERENCES:
        if re.fullmatch(difference.finding, finding) and (difference.warning is None or difference.warning in warnings):
            return difference
    return None


def compare(seed: int, count: int) -> Comparison:
    """Compares the two on `count` generated certificates."""
    unexplained: list[str] = []
    occurred: set[Difference] = set()
    refused: list[CertdError] = []
    for generated in generated_certificates(seed, count, refused=refused.append):
        for finding in _found(generated):
            warned = {warning.message.partition(":")[0] for warning in generated.warnings}
            difference = explain(finding, warned)
            if difference is None:
                unexplained.append(f"{generated.profile.profile_id}: {finding}")
            else:
                occurred.add(difference)
    return Comparison(unexplained=tuple(unexplained), occurred=frozenset(occurred), refused=tuple(refused))


def _found(generated: Generated) -> set[str]:
    return lint(generated.certificate) | lint_pair(generated.issuer_certificate, generated.certificate)
