"""pkilint finds nothing in what was issued but what one table explains."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import Reason
from certd.pki.key_spec import KeySpec
from tests.interop.conftest import System
from tests.interop.hierarchy import Hierarchy
from tests.interop.pkilint_comparison import DIFFERENCES, compare, explain, lint, lint_pair

_SEED = 2026
_COUNT = 800
"""The short form; `compare` takes any."""


def _unexplained(findings: set[str]) -> set[str]:
    return {finding for finding in findings if explain(finding, ()) is None}


def test_generated_certificates() -> None:
    comparison = compare(_SEED, _COUNT)
    assert comparison.unexplained == ()
    assert {difference for difference in DIFFERENCES if difference not in comparison.occurred} == set()
    # What is refused is refused before it comes to the lints, save what no profile ought to say: of a profile for
    # responders whose purposes were changed, OCSP no check is left.
    reasons = {error.reason for error in comparison.refused}
    assert reasons <= {
        Reason.NAME_NOT_ALLOWED,
        Reason.PROFILE_FORBIDS,
        Reason.FIELD_INVALID,
        Reason.LINT_FAILED,
        Reason.LIFETIME_EXCEEDS_AUTHORITY,
    }
    lints = {error.metadata["lint"] for error in comparison.refused if error.reason is Reason.LINT_FAILED}
    assert lints <= {"rfc6960_4_2_2_2_1_no_check"}


def test_pkilint_finds_nothing_in_any_certificate(hierarchy: Hierarchy) -> None:
    root, subordinate, *leaves = (
        x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER) for path in hierarchy.certificates
    )
    assert len(leaves) == len(KeySpec) + 1
    for der in (root, subordinate, *leaves):
        assert _unexplained(lint(der)) == set()
    for issuer, subject in [(root, root), (root, subordinate), *((subordinate, leaf) for leaf in leaves)]:
        assert _unexplained(lint_pair(issuer, subject)) == set()


def test_pkilint_finds_nothing_in_the_certificates_of_the_server(system: System) -> None:
    made = system.bootstrapped
    for der in (made.system_roots[0], made.server_certificate, made.administrator_certificate):
        assert _unexplained(lint(der)) == set()
        assert _unexplained(lint_pair(made.system_roots[0], der)) == set()


def test_pkilint_is_heard(system: System) -> None:
    made = system.bootstrapped
    server = made.server_certificate
    other_signature = server[:-1] + bytes([server[-1] ^ 1])
    assert _unexplained(lint_pair(made.system_roots[0], other_signature))
    assert _unexplained(lint_pair(made.administrator_certificate, server))
    # An issuer alternative name, which holds no octets, where the subject key identifier was.
    other_extension = server.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d12"))
    assert _unexplained(lint(other_extension))


def test_a_finding_that_certd_must_share_is_no_difference_without_its_warning() -> None:
    finding = "pkix.subject_email_address_not_in_san: Certificate does not have SAN extension"
    assert explain(finding, ()) is None
    assert explain(finding, ("rfc5280_4_1_2_6_email_address",)) is not None
