"""pkilint, which reads RFC 5280 to the letter, finds nothing in what was issued but what is listed here."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint.bin.lint_pkix_signer_signee_cert_chain import (
    create_decoder_validation_container,
    create_issuer_validation_container,
    create_subject_validation_container,
)
from pkilint.loader import RFC5280CertificateDocumentLoader
from pkilint.pkix import certificate, extension, name

from certd.pki.key_spec import KeySpec
from tests.interop.conftest import System
from tests.interop.hierarchy import Hierarchy

ALLOWED = {
    # Praise, not blame: it says which of the methods of RFC 7093 made the key identifier.
    "pkix.subject_key_identifier_rfc7093_method_1_identified: ",
    # RFC 5280 leaves wildcards undefined; RFC 9525, section 6.3, defines them, and every TLS client knows them.
    'pkix.invalid_domain_name_syntax: Invalid domain name syntax: "*.apps.example.internal"',
    # One label is a name (RFC 1034, section 3.1), and this one is every machine's own (RFC 6761, section 6.3).
    'pkix.invalid_domain_name_syntax: Invalid domain name syntax: "localhost"',
    # It knows the schemes of the web alone; this URI is one (RFC 3986), of the scheme that SPIFFE ids have.
    'pkix.invalid_uri_syntax: Invalid URI syntax: "spiffe://test.internal/identities/admin"',
}
"""Findings that are no faults, each with its reason."""

LINTS = certificate.create_pkix_certificate_validator_container(
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
DECODING = create_decoder_validation_container()
LOADER = RFC5280CertificateDocumentLoader()


def findings(results: Iterable[object]) -> set[str]:
    return {
        f"{found.finding.code}: {found.message or ''}"
        for result in results
        for found in result.finding_descriptions  # type: ignore[attr-defined]  # pkilint has no types.
    }


def lint(der: bytes) -> set[str]:
    """What is wrong with a certificate by itself, at every severity."""
    return findings(LINTS.validate(LOADER.load_der_document(der).root))


def lint_pair(issuer: bytes, subject: bytes) -> set[str]:
    """What is wrong between two certificates: names, key identifiers, signature."""
    documents: dict[str, object] = {}
    for role, der in (("issuer", issuer), ("subject", subject)):
        documents[role] = LOADER.load_der_document(der, role, role, documents)
    roots = {role: loaded.root for role, loaded in documents.items()}  # type: ignore[attr-defined]  # As above.
    return findings(
        [
            *DECODING.validate(roots["issuer"]),
            *DECODING.validate(roots["subject"]),
            *create_issuer_validation_container().validate(roots["issuer"]),
            *create_subject_validation_container().validate(roots["subject"]),
        ]
    )


def test_pkilint_finds_nothing_in_any_certificate(hierarchy: Hierarchy) -> None:
    root, subordinate, *leaves = (
        x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER) for path in hierarchy.certificates
    )
    assert len(leaves) == len(KeySpec) + 1
    for der in (root, subordinate, *leaves):
        assert lint(der) - ALLOWED == set()
    for issuer, subject in [(root, root), (root, subordinate), *((subordinate, leaf) for leaf in leaves)]:
        assert lint_pair(issuer, subject) - ALLOWED == set()


def test_pkilint_finds_nothing_in_the_certificates_of_the_server(system: System) -> None:
    made = system.bootstrapped
    for der in (made.system_root, made.server_certificate, made.administrator_certificate):
        assert lint(der) - ALLOWED == set()
        assert lint_pair(made.system_root, der) - ALLOWED == set()


def test_every_finding_that_is_allowed_occurs(hierarchy: Hierarchy, system: System) -> None:
    leaf = x509.load_pem_x509_certificate(hierarchy.leaves[KeySpec.EC_P256].read_bytes())
    made = system.bootstrapped
    ders = (leaf.public_bytes(Encoding.DER), made.server_certificate, made.administrator_certificate)
    assert set().union(*map(lint, ders)) == ALLOWED


def test_pkilint_is_heard(system: System) -> None:
    made = system.bootstrapped
    server = made.server_certificate
    other_signature = server[:-1] + bytes([server[-1] ^ 1])
    assert lint_pair(made.system_root, other_signature) - ALLOWED
    assert lint_pair(made.administrator_certificate, server) - ALLOWED
    # An issuer alternative name, which holds no octets, where the subject key identifier was.
    other_extension = server.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d12"))
    assert lint(other_extension) - ALLOWED
