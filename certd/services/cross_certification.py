"""Certificates of keys of authorities beside the authorities' own: cross-certificates.

Of a root's own keys, each is certified by the other (RFC 4210, section 4.4): relying parties that know the old root
only find a chain for what the new key signs, and those that know the new one only, for what the old key has signed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.authority import HIGHEST_PATH_LENGTH, Authority
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.names import AuthorityName, serial_text
from certd.pki import distinguished_name, key_spec, name_constraints
from certd.pki.authority_certificate import standing_of
from certd.pki.certificate_request import CertificateRequest, Validity, Warning  # noqa: A004  # The API's word.
from certd.pki.cross_certificate import (
    CertifiedCertificate,
    certified_certificate,
    is_signed_by,
    narrowed_path_length,
)
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared
from certd.pki.profiles import BUILT_IN
from certd.services.access import Access
from certd.services.authorities import check_enabled, every_authority, existing_authority
from certd.services.authority_views import authority_with_key, event_of
from certd.services.idempotency import RequestKey, record_of
from certd.services.issuance import Order, issuance_of, issuer_of, prepare, rehearsal_key
from certd.services.issuing_loop import Issued, IssuingLoop, Replayed
from certd.services.status_locations import locations_of
from certd.services.steps import StepHook
from certd.store import authorities, authority_keys, certificates, cross_certificates, jobs
from certd.store.request_records import RequestRecord
from certd.store.store import Store, Transaction
from certd.token.client import CertifiedKey

_METHOD: Final = "CreateCrossCertificate"
# What is self-issued may be as deep as a root.
_PROFILE: Final = replace(BUILT_IN["subordinate-ca"], highest_path_length=HIGHEST_PATH_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCrossCertificate:
    """What a caller asks for."""

    authority: AuthorityName
    """That signs."""
    certificate: bytes
    """PEM or DER of the one whose key is certified."""
    lifetime: timedelta | None = None
    """None: to the end of the earlier of the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCertificate:
    """A cross-certificate, as its maker sees it."""

    name: str
    """Of the certificate; empty where none was made."""
    der: bytes
    """Empty where none was made."""
    warnings: tuple[Warning, ...] = ()


class CrossCertifier:
    """Has keys of authorities certify others.

    Args:
        store: the books.
        clock: the time.
        access: who may.
        loop: through which everything that is signed goes.
        base_url: under which others reach this server; None: they do not.
        step: is called with the name of each numbered step when it is done.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        loop: IssuingLoop,
        base_url: str | None,
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._loop = loop
        self._base_url = base_url
        self._step = step

    def create(
        self, caller: Caller, new: NewCrossCertificate, *, key: RequestKey | None, validate_only: bool
    ) -> CrossCertificate:
        """Certifies the key of another authority, here or elsewhere, or of another key of this one.

        Raises AUTHORITY_NOT_FOUND, AUTHORITY_NOT_ENABLED, what `pki.cross_certificate.certified_certificate` raises,
        PROFILE_FORBIDS when the authority may have none below it, NAME_CONSTRAINT_VIOLATED,
        LIFETIME_EXCEEDS_AUTHORITY, LINT_FAILED, REQUEST_ID_REUSED, and what the issuing loop raises.
        """
        self._access.require(caller, Permission.AUTHORITY_CROSS_CERTIFY, str(new.authority))
        now = self._clock.now()
        with self._store.read("cross-certificates.create") as tx:
            signer = existing_authority(tx, new.authority)
            check_enabled(signer, now)
            other = certified_certificate(new.certificate, now=now)
            certified = _key_in_books(tx, signer, other)
        prepared, order, warnings = self._prepared(signer, other, now, lifetime=new.lifetime)
        if validate_only:
            return CrossCertificate(name="", der=b"", warnings=warnings)
        record = None if key is None else _recorder(caller, key, now)
        outcome = self._issue(signer, prepared, order, certified, caller.principal, now, record=record)
        if isinstance(outcome, Replayed):
            return self._replayed(signer, outcome)
        serial = serial_text(prepared.serial)
        return CrossCertificate(name=f"{signer.name}/certificates/{serial}", der=outcome.der, warnings=warnings)

    def rehearse(self, signer: Authority, planned: Authority, now: datetime) -> tuple[Warning, ...]:
        """Checks that a key of a root may certify one that does not exist yet; returns who will not believe it."""
        public_key = rehearsal_key(planned.key_spec)
        self._prepared(signer, _own(signer, planned, public_key), now)
        with self._store.read("cross-certificates.below") as tx:
            # A chain has the root, the cross-certificate, one of these, and as many more as that has path length.
            deep = [one.name for one in authorities.below(tx, signer.uid) if one.path_length + 2 > signer.path_length]
        if not deep:
            return ()
        # RFC 5280, section 6.1.4 (l), does not; `tests/interop/test_rotated_authorities.py` shows who does.
        problem = f"GnuTLS, Go and mbedTLS count a cross-certificate in the path length, which is {signer.path_length}"
        consequence = f"they find no chain through it to what {', '.join(deep[:3])} issued"
        return (
            Warning("cross_certify", f"{problem}: {consequence}; give them the new root before its key is activated"),
        )

    def certify_each_other(self, uid: str, number: int, *, principal: str) -> None:
        """Has the key that signs and the one with this number certify each other, where they have not; idempotent."""
        for by_new in (False, True):
            now = self._clock.now()
            with self._store.read("cross-certificates.own") as tx:
                current = authorities.get_by_uid(tx, uid)
                if current is None:
                    return
                new = authority_with_key(tx, current, number)
                made = cross_certificates.of_authority(tx, uid)
            signer, other = (new, current) if by_new else (current, new)
            if any(is_signed_by(one, _public_key(signer)) for one in made.get(other.key.number, ())):
                continue
            prepared, order, _ = self._prepared(signer, _own(signer, other, _public_key(other)), now)
            self._issue(signer, prepared, order, other, principal, now, own=True)
            self._step("key.5.cross-certified")

        def settle(tx: Transaction) -> None:
            authority_keys.set_cross_certified(tx, uid, number, self._clock.now())
            jobs.finish(tx, JobKind.ADVANCE_AUTHORITY_KEY, f"{uid}/{number}")

        self._store.write("cross-certificates.settled", settle)

    def _prepared(
        self, signer: Authority, other: CertifiedCertificate, now: datetime, *, lifetime: timedelta | None = None
    ) -> tuple[Prepared, Order, tuple[Warning, ...]]:
        own = other.subject == signer.subject
        bound = signer.path_length if own else max(0, signer.path_length - 1)
        path_length, narrowed = narrowed_path_length(other.path_length, bound)
        ends = [end for end in (other.not_after, signer.not_after) if end is not None]
        order = Order(
            origin="certificate",
            source=CertificateRequest(
                public_key=other.public_key,
                subject=other.subject,
                names=SubjectAlternativeNames(),
                path_length=path_length,
                name_constraints=other.name_constraints,
                subject_key_identifier=other.subject_key_identifier,
                self_issued=own,
            ),
            profile=_PROFILE,
            validity=Validity(lifetime=lifetime) if lifetime is not None else Validity(not_after=min(ends)),
        )
        issuer = issuer_of(signer, public_key=_public_key(signer), locations=locations_of(signer, self._base_url))
        prepared = prepare(order, issuer, now=now)
        return prepared, order, (*narrowed, *prepared.warnings)

    def _issue(
        self,
        signer: Authority,
        prepared: Prepared,
        order: Order,
        certified: Authority | None,
        principal: str,
        now: datetime,
        *,
        record: Callable[[str], RequestRecord] | None = None,
        own: bool = False,
    ) -> Issued | Replayed:
        def keep(tx: Transaction, der: bytes) -> None:
            if certified is not None:
                cross_certificates.insert(tx, certified.uid, certified.key.number, der, now)
            tx.event(
                event_of(
                    EventType.AUTHORITY_CROSS_CERTIFIED,
                    signer,
                    principal,
                    now,
                    serial=serial_text(prepared.serial),
                    subject=prepared.subject_text,
                    not_after=prepared.not_after.isoformat(),
                    public_key_sha256=prepared.public_key_sha256.hex(),
                )
            )

        issuance = issuance_of(
            prepared,
            order,
            signer,
            principal=principal,
            now=now,
            record=record,
            by_enabled_authority=not own,
            by_current_key=not own,
            also=keep,
        )
        if certified is not None and certified.uid == signer.uid:
            issuance = replace(issuance, certified=CertifiedKey(certified.key.key_id, certified.key.policy))
        return self._loop.issue(issuance)

    def _replayed(self, signer: Authority, outcome: Replayed) -> CrossCertificate:
        uid, _, serial = outcome.resource.partition("/")
        with self._store.read("cross-certificates.replay") as tx:
            row = certificates.get(tx, uid, serial)
        if row is None or row.der is None:
            raise CertdError(
                Reason.REQUEST_IN_PROGRESS, "the first call with this request_id is still running", retry_after=0.2
            )
        return CrossCertificate(name=f"{signer.name}/certificates/{serial}", der=row.der)


def _recorder(caller: Caller, key: RequestKey, now: datetime) -> Callable[[str], RequestRecord]:
    return lambda row: record_of(caller, _METHOD, key, resource=row, now=now)


def _own(signer: Authority, other: Authority, public_key: bytes) -> CertifiedCertificate:
    """Returns what is to be certified of another key of the same root."""
    certificate = other.certificate
    standing = None if certificate is None else standing_of(certificate, ())
    ends = [end for end in (other.not_after, signer.not_after) if end is not None]
    return CertifiedCertificate(
        subject=signer.subject,
        public_key=public_key,
        subject_key_identifier=(standing.subject_key_identifier if standing is not None else None)
        or key_spec.key_identifier(public_key),
        path_length=min(signer.path_length, other.path_length),
        name_constraints=None if certificate is None else name_constraints.of_certificate(certificate),
        not_after=min(ends),
    )


def _public_key(authority: Authority) -> bytes:
    # Whoever has a certificate has a key.
    return authority.key.public_key or b""


def _key_in_books(tx: Transaction, signer: Authority, other: CertifiedCertificate) -> Authority | None:
    """Returns the authority of the same tenant whose key is certified, as it is where that signs; None for no such.

    Raises IMPORT_KEY_MISMATCH for another's key under the signing authority's own name, which would be its equal.
    """
    for authority in every_authority(tx, signer.tenant or ""):
        for key in authorities.keys(tx, authority.uid):
            if key.public_key == other.public_key:
                return authority.with_key(key)
    if distinguished_name.comparable(signer.subject) == distinguished_name.comparable(other.subject):
        raise CertdError(
            Reason.IMPORT_KEY_MISMATCH,
            f"certificate has the name of {signer.name}, and is for a key that is none of its own; no authority"
            " certifies another one under its own name",
            resource=signer.name,
        )
    return None
