"""Step 2 of every issuance: what is to be signed, prepared, with what the books will say of it."""

import functools
import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from certd.errors import CertdError
from certd.model.authority import Authority
from certd.model.certificate import Intent
from certd.model.event import Event, EventType
from certd.model.names import serial_text
from certd.pki import key_spec as key_specs
from certd.pki import preparation
from certd.pki.authority_certificate import Standing, standing_of
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.preparation import CertificateRequest, Issuer, Prepared, Validity
from certd.pki.profiles import Profile
from certd.pki.status_locations import NOWHERE, StatusLocations
from certd.prepare.order import Csr, Item, Terms, prepare_item
from certd.store.request_records import RequestRecord
from certd.store.store import Transaction
from certd.token.client import CertifiedKey

_SERIAL_TICKS = 256
"""Of a second, in the time with which serial numbers begin."""
_SERIAL_TIME = (1 << 40) - 1
_SERIAL_RANDOM_BITS = 86


Together = Callable[[Transaction, Sequence["Issuance"]], None]
"""As `Issuance.also`, for all of a round that have the same one."""


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
    by_enabled_authority: bool = True
    """Whether the authority must be ENABLED when the intent is written; one in the making is not yet."""
    by_current_key: bool = True
    """Whether the key must be the one that signs when the intent is written; others sign certificates of keys only."""
    record: RequestRecord | None = None
    also: Callable[[Transaction, bytes], None] | None = None
    """Rows that change in the transaction of the completion, given the certificate's DER.

    It may run again, and may raise to refuse the completion; the certificate is then lost."""
    together: Together | None = None
    certified: CertifiedKey | None = None
    """The other key of a root that a cross-certificate of its own name is for."""


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
    source: Csr | CertificateRequest
    profile: Profile
    validity: Validity
    labels: Mapping[str, str] = field(default_factory=dict)
    managed_version: ManagedVersion | None = None
    together: Together | None = None
    """See `Issuance.together`."""


def new_serial(now: datetime) -> int:
    """Returns a serial number with 86 random bits, positive and 16 octets long (RFC 5280, section 4.1.2.2).

    It begins with the time, which the certificate tells as well: so the rows of one moment are neighbours in every
    index over serials, and a commit writes few pages instead of one for each certificate.
    """
    ticks = int(now.timestamp() * _SERIAL_TICKS) & _SERIAL_TIME
    return (1 << 126) | (ticks << _SERIAL_RANDOM_BITS) | secrets.randbits(_SERIAL_RANDOM_BITS)


@functools.cache
def rehearsal_key(spec: KeySpec) -> bytes:
    """Returns the public key (DER) with which an issuance is rehearsed before its own key exists.

    Nobody keeps its private key. One for each kind serves all: a rehearsal must not cost what an RSA key costs.
    """
    return key_specs.public_key_der(key_specs.generate_private_key(spec).public_key())


def issuer_of(
    authority: Authority,
    *,
    public_key: bytes,
    locations: StatusLocations = NOWHERE,
    reserved_trust_domain: str | None = None,
) -> Issuer:
    """Returns what a signature needs to know of the authority."""
    certificate = authority.certificate
    # An outside parent computes identifiers of keys in its own way, and names what may stand below.
    standing = Standing() if certificate is None else standing_of(certificate, authority.chain)
    return Issuer(
        name=authority.subject,
        public_key=public_key,
        subject_key_identifier=standing.subject_key_identifier or preparation.key_identifier(public_key),
        key_spec=authority.key_spec,
        signature_algorithm=authority.signature_algorithm,
        not_after=authority.not_after,
        path_length=authority.path_length,
        locations=locations,
        reserved_trust_domain=reserved_trust_domain,
        name_constraints=standing.name_constraints,
    )


def prepare(order: Order, issuer: Issuer, *, now: datetime) -> Prepared:
    """Admits, builds and lints in this thread; raises what `certd.prepare.order.prepare_item` raises.

    Violations and warnings name the fields of the call that the order came from.
    """
    try:
        prepared = prepare_item(Terms(issuer=issuer, profile=order.profile), item_of(order, now))
    except CertdError as error:
        raise told(order, error) from error
    return with_paths(order, prepared)


def item_of(order: Order, now: datetime) -> Item:
    """Returns an order as an item to prepare, with a serial number of its own."""
    return Item(serial=new_serial(now), source=order.source, validity=order.validity, now=now)


def told(order: Order, error: CertdError) -> CertdError:
    """Returns an error of preparing whose violations name the fields of the call."""
    error.violations = tuple(replace(one, field=_path(order, one.field)) for one in error.violations)
    return error


def with_paths(order: Order, prepared: Prepared) -> Prepared:
    """Returns what was prepared with warnings that name the fields of the call."""
    if not prepared.warnings:
        return prepared
    return replace(prepared, warnings=tuple(replace(one, field=_path(order, one.field)) for one in prepared.warnings))


def _path(order: Order, field: str) -> str:
    """Returns the path of a field in the call: a CSR says nothing of the validity, the other origins say everything."""
    part = field.partition(".")[0].partition("[")[0]
    source = order.source
    if isinstance(source, Csr):
        replaced = {"subject": source.subject is not None, "subject_alternative_names": source.names is not None}
        if part in {"csr", "lifetime", "not_after_time", "profile"} or replaced.get(part, False):
            return field
    return f"{order.origin}.{field}"


def issuance_of(
    prepared: Prepared,
    order: Order,
    authority: Authority,
    *,
    principal: str,
    now: datetime,
    record: Callable[[str], RequestRecord] | None = None,
    by_enabled_authority: bool = True,
    by_current_key: bool = True,
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
        by_enabled_authority: see `Issuance.by_enabled_authority`.
        by_current_key: see `Issuance.by_current_key`.
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
            profile_version=order.profile.version,
            subject_text=prepared.subject_text,
            not_before=prepared.not_before,
            not_after=prepared.not_after,
            public_key_sha256=prepared.public_key_sha256,
            key_spec=prepared.key_spec,
            names=prepared.names,
            crl_partition=prepared.crl_partition,
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
        by_enabled_authority=by_enabled_authority,
        by_current_key=by_current_key,
        record=None if record is None else record(row_key(authority.uid, serial)),
        also=also,
        together=order.together,
    )


def by_together(issuances: Iterable[Issuance]) -> dict[Together, list[Issuance]]:
    """Returns which issuances are completed by one call."""
    found: dict[Together, list[Issuance]] = {}
    for issuance in issuances:
        if issuance.together is not None:
            found.setdefault(issuance.together, []).append(issuance)
    return found


def certificate_event(issuance: Issuance, type_: EventType, principal: str, now: datetime) -> Event:
    """Returns the event of something that happens to the certificate of an issuance."""
    intent = issuance.intent
    return Event(
        time=now,
        type=type_,
        tenant=issuance.tenant,
        principal=principal,
        resource=issuance.resource,
        details={
            "profile": intent.profile,
            "subject": intent.subject_text,
            "not_after": intent.not_after.isoformat(),
            "public_key_sha256": intent.public_key_sha256.hex(),
        },
    )


def row_key(authority_uid: str, serial: str) -> str:
    """Returns how a request record names a certificate: by its row, which recovery knows without looking names up."""
    return f"{authority_uid}/{serial}"
