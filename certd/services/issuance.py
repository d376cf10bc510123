"""Step 2 of every issuance: what is to be signed, prepared, with what the books will say of it."""

import functools
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from certd.errors import CertdError
from certd.model.authority import Authority
from certd.model.certificate import Intent
from certd.model.names import serial_text
from certd.pki import key_spec as key_specs
from certd.pki import preparation
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.preparation import CertificateRequest, Issuer, Prepared, Validity
from certd.pki.profiles import Profile
from certd.store.request_records import RequestRecord
from certd.store.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """What is to be signed, and what is written with it."""

    intent: Intent
    """`owner_epoch` is filled in by the issuing loop."""
    resource: str
    """Name of the certificate, for the events."""
    tenant: str | None
    principal: str
    key_id: bytes
    key_policy: bytes
    signature_algorithm: SignatureAlgorithm
    record: RequestRecord | None = None
    also: Callable[[Transaction, bytes], None] | None = None
    """Rows that change in the transaction of the completion, given the certificate's DER.

    It may run again, and may raise to refuse the completion; the certificate is then lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedVersion:
    """The managed certificate version that a certificate is for."""

    uid: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of an authority."""

    origin: str
    """Path of the request field that the names and the key came from: `csr`, `authority`, `managed_certificate`."""
    request: CertificateRequest
    profile: Profile
    validity: Validity
    labels: Mapping[str, str] = field(default_factory=dict)
    managed_version: ManagedVersion | None = None


def new_serial() -> int:
    """Returns a serial number with 126 random bits, positive and 16 octets long (RFC 5280, section 4.1.2.2)."""
    return (1 << 126) | secrets.randbits(126)


@functools.cache
def rehearsal_key(spec: KeySpec) -> bytes:
    """Returns the public key (DER) with which an issuance is rehearsed before its own key exists.

    Nobody keeps its private key. One for each kind serves all: a rehearsal must not cost what an RSA key costs.
    """
    return key_specs.public_key_der(key_specs.generate_private_key(spec).public_key())


def issuer_of(authority: Authority, *, public_key: bytes, information_url: str | None) -> Issuer:
    """Returns what a signature needs to know of the authority."""
    return Issuer(
        name=authority.subject,
        public_key=public_key,
        subject_key_identifier=preparation.key_identifier(public_key),
        key_spec=authority.key_spec,
        signature_algorithm=authority.signature_algorithm,
        not_after=authority.not_after,
        path_length=authority.path_length,
        authority_information_url=information_url,
    )


def prepare(order: Order, issuer: Issuer, *, now: datetime) -> Prepared:
    """Admits, builds and lints; raises what `certd.pki.preparation.prepare` raises.

    Violations and warnings name the fields of the call that the order came from.
    """
    try:
        prepared = preparation.prepare(
            issuer=issuer,
            request=order.request,
            profile=order.profile,
            validity=order.validity,
            serial=new_serial(),
            now=now,
        )
    except CertdError as error:
        error.violations = tuple(replace(one, field=_path(order.origin, one.field)) for one in error.violations)
        raise
    warnings = tuple(replace(one, field=_path(order.origin, one.field)) for one in prepared.warnings)
    return replace(prepared, warnings=warnings)


def _path(origin: str, field: str) -> str:
    """Returns the path of a field in the call: a CSR says nothing of the validity, the other origins say everything."""
    if field.startswith("csr.") or (origin == "csr" and field in {"lifetime", "not_after"}):
        return field
    return f"{origin}.{field}"


def issuance_of(
    prepared: Prepared,
    order: Order,
    authority: Authority,
    *,
    principal: str,
    now: datetime,
    record: Callable[[str], RequestRecord] | None = None,
    also: Callable[[Transaction, bytes], None] | None = None,
) -> Issuance:
    """Returns what the issuing loop needs of a prepared certificate.

    Args:
        prepared: what was prepared.
        order: what was asked.
        authority: who signs.
        principal: who asks.
        now: time of the use case.
        record: makes the request record, given the key of the certificate's row (see `row_key`).
        also: see `Issuance.also`.
    """
    serial = serial_text(prepared.serial)
    version = order.managed_version
    return Issuance(
        intent=Intent(
            authority_uid=authority.uid,
            key_number=authority.key.number,
            issuer_name_sha256=hashlib.sha256(authority.subject).digest(),
            serial=serial,
            tbs=prepared.tbs,
            profile=order.profile.profile_id,
            profile_version=1,
            subject_text=prepared.subject_text,
            not_before=prepared.not_before,
            not_after=prepared.not_after,
            public_key_sha256=prepared.public_key_sha256,
            key_spec=key_specs.key_spec_of(key_specs.load_public_key_der(order.request.public_key)),
            names=order.request.names,
            managed_certificate_uid=version.uid if version else None,
            managed_certificate_version=version.number if version else None,
            labels=order.labels,
            owner_epoch=0,
            create_time=now,
        ),
        resource=f"{authority.name}/certificates/{serial}",
        tenant=authority.tenant,
        principal=principal,
        key_id=authority.key.key_id,
        key_policy=authority.key.policy,
        signature_algorithm=authority.signature_algorithm,
        record=None if record is None else record(row_key(authority.uid, serial)),
        also=also,
    )


def row_key(authority_uid: str, serial: str) -> str:
    """Returns how a request record names a certificate: by its row, which recovery knows without looking names up."""
    return f"{authority_uid}/{serial}"
