"""Lints: what the RFCs want of a certificate, checked on the bytes that will be signed.

Each lint is a function named by the document and section whose rule it checks; it returns the problem, or None. They
repeat on purpose what the builder and admission ensure: they judge the result and trust neither. What breaks a rule
that verifiers rely on is refused. What is unwise, or against rules of public trust that make sense elsewhere, is issued
with a warning.
"""

from functools import lru_cache

from cryptography import x509

from certd.errors import CertdError, Reason, Violation
from certd.pki import der
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.extensions import UNDECODABLE
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.lint import (
    alternative_names,
    browser_forum,
    extension_forms,
    fields,
    path,
    policies,
    revocation,
    usages,
)
from certd.pki.lint.judged import Lint, LintCopy, judged, names_of
from certd.pki.tbs import parse_tbs_certificate

__all__ = ["LINTS", "Lint", "LintCopy", "check", "check_serial_number", "findings", "judged", "names_of"]

LINTS: tuple[Lint, ...] = (
    *fields.LINTS,
    *path.LINTS,
    *usages.LINTS,
    *alternative_names.LINTS,
    *policies.LINTS,
    *revocation.LINTS,
    *extension_forms.LINTS,
    *browser_forum.LINTS,
)

_FIELD = "certificate"


def check_serial_number(serial: int) -> None:
    """Checks a serial number before anything is built with it; LINT_FAILED."""
    problem = fields.serial_number_problem(serial)
    if problem is not None:
        raise _failed([(fields.rfc5280_4_1_2_2_serial_number.__name__, problem)])


def check(
    certificate: bytes,
    *,
    issuer_name: bytes,
    issuer_key_identifier: bytes,
    public_key: bytes,
    signature_algorithm: SignatureAlgorithm,
    self_issued: bool = False,
) -> tuple[LintCopy, tuple[Warning, ...]]:
    """Runs every lint on the DER of a certificate.

    Returns the certificate as the lints read it, and what is unwise, each with the name of its lint.

    LINT_FAILED with the names of those that the certificate may not break, separated by commas, in the metadata `lint`.
    What the token process would not even read fails as `rfc5280_4_1_encoding`, and extensions that the library does
    not read as `rfc5280_4_2_extensions`.
    """
    try:
        tbs = parse_tbs_certificate(_to_be_signed(certificate))
    except (CertdError, der.MalformedError) as error:
        raise _failed([("rfc5280_4_1_encoding", str(error))]) from error
    try:
        copy = judged(
            x509.load_der_x509_certificate(certificate),
            tbs,
            issuer_name=issuer_name,
            issuer_key_identifier=issuer_key_identifier,
            public_key=public_key,
            signature_algorithm=signature_algorithm,
            self_issued=self_issued,
        )
    except (CertdError, *UNDECODABLE) as error:
        raise _failed([("rfc5280_4_2_extensions", "an extension or the public key does not decode")]) from error
    found = findings(copy)
    if not found:
        return copy, ()
    errors = [(lint.name, problem) for lint, problem in found if not lint.is_warning]
    if errors:
        raise _failed(errors)
    return copy, tuple(Warning(_FIELD, f"{lint.name}: {problem}") for lint, problem in found)


def _to_be_signed(certificate: bytes) -> bytes:
    return der.Reader(certificate).enter(der.SEQUENCE).read_whole(der.SEQUENCE)


def findings(copy: LintCopy) -> list[tuple[Lint, str]]:
    """Returns every lint that found something, with what it found."""
    found: list[tuple[Lint, str]] = []
    for lint in _lints_of(tuple(copy.tbs.extensions)):
        try:
            problem = lint.check(copy)
        except der.MalformedError as error:
            problem = f"the extension does not decode: it {error}"
        if problem is not None:
            found.append((lint, problem))
    return found


@lru_cache(maxsize=256)
def _lints_of(extensions: tuple[str, ...]) -> tuple[Lint, ...]:
    """Returns the lints that are worth a run on a certificate with these extensions."""
    return tuple(lint for lint in LINTS if lint.extension is None or lint.extension in extensions)


def _failed(found: list[tuple[str, str]]) -> CertdError:
    identifiers = [identifier for identifier, _ in found]
    return CertdError(
        Reason.LINT_FAILED,
        f"the certificate would break a rule: {found[0][1]} ({', '.join(identifiers)}); change the request",
        metadata={"lint": ",".join(identifiers)},
        violations=tuple(Violation(_FIELD, f"{identifier}: {problem}") for identifier, problem in found),
    )
