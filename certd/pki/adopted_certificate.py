"""The certificate of an authority that is taken over with its key: a root's own, or one with its chain."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.pki import name_constraints
from certd.pki.authority_certificate import (
    LONGEST_CERTIFICATE,
    Accepted,
    Awaiting,
    accept,
    check_own_extensions,
)
from certd.pki.certificate_chain import Element, check_algorithms, check_validity, is_root, parse, parse_bundle
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.key_spec import KeySpec, key_spec_of, load_public_key_der

_CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedCertificate:
    """What follows from it."""

    root: bool
    subject: bytes
    """DER."""
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    key_spec: KeySpec
    lifetime: timedelta
    """From its begin to its end, both of which count."""
    name_constraints: bytes | None
    """Value of the extension."""
    accepted: Accepted


def adopted_certificate(
    certificate: bytes, chain: bytes, *, highest_path_length: int, now: datetime
) -> AdoptedCertificate:
    """Reads and checks the certificate of an authority, as PEM or DER; the chain is empty for a root.

    Raises what `authority_certificate.accept` raises, of a root what of it is about the certificate alone.
    """
    found = parse_bundle(certificate, field=_CERTIFICATE, longest=LONGEST_CERTIFICATE)
    if len(found) != 1:
        problem = f"has {len(found)} certificates"
        raise CertdError(
            Reason.IMPORT_NOT_PEM,
            f"{_CERTIFICATE} {problem}; send the authority's alone, and those above it as the chain",
            violations=(Violation(_CERTIFICATE, problem),),
        )
    own = parse(found[0], field=_CERTIFICATE)
    spec = key_spec_of(load_public_key_der(own.public_key))
    if spec is None:
        raise own.refuse(
            Reason.IMPORT_NOT_COMPATIBLE,
            "is for a key of a kind that authorities here do not have",
            f"adopt one whose key is of the kind {', '.join(KeySpec)}",
        )
    root = is_root(own)
    constraints = own.name_constraints
    lifetime = own.parsed.not_valid_after_utc - own.parsed.not_valid_before_utc + timedelta(seconds=1)
    if root:
        if chain:
            raise field_invalid("chain", "must be empty for a root, which nothing stands above")
        accepted = _accepted_root(own, highest_path_length, now)
    elif not chain:
        raise own.refuse(
            Reason.IMPORT_CHAIN_INVALID,
            "is not self-signed, and there is no chain",
            "send the certificates from its issuer up to the root",
        )
    else:
        awaiting = Awaiting(
            public_key=own.public_key,
            subject=own.subject,
            path_length=highest_path_length if own.path_length is None else own.path_length,
            name_constraints=constraints,
            longest_lifetime=lifetime,
            highest_path_length=highest_path_length,
        )
        accepted = accept(certificate, chain, awaiting=awaiting, now=now)
    return AdoptedCertificate(
        root=root,
        subject=own.subject,
        public_key=own.public_key,
        key_spec=spec,
        lifetime=lifetime,
        name_constraints=None if constraints is None else name_constraints.encode(constraints),
        accepted=accepted,
    )


def _accepted_root(own: Element, highest_path_length: int, now: datetime) -> Accepted:
    check_own_extensions(own)
    check_algorithms(own, trust_anchor=True)
    check_validity(own, now)
    written = own.path_length
    warnings: tuple[Warning, ...] = ()
    path_length = highest_path_length if written is None else min(written, highest_path_length)
    if written != path_length:
        said = "has no path length" if written is None else f"has the path length {written}"
        message = f"{said}; its key signs no deeper hierarchy than {path_length} below it here"
        warnings = (Warning(_CERTIFICATE, message),)
    return Accepted(
        certificate=own.der,
        chain=(),
        not_after=own.parsed.not_valid_after_utc,
        path_length=path_length,
        warnings=warnings,
    )
