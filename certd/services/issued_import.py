"""What another CA issued under the key of an authority: taken over, so that its CRLs and answers go on being right.

A call is one transaction, and a repeated one changes nothing: what is in the books stays as it is, but for a revocation
that they lack.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.names import AuthorityName, normalise_serial, serial_text
from certd.model.revocation_list import RevocationListKey
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.issued_certificate import issued_certificate
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.authority_changes import check_not_purged
from certd.services.authority_views import authority_with_key, event_of
from certd.services.revocation_records import revoked, subject_of, write_revocation
from certd.store import blocked_keys, certificates, issued_import, ocsp_responses, revocation_lists
from certd.store.issued_import import IssuedRecord
from certd.store.store import Store, Transaction

_LONGEST_SUBJECT = 1024
_MOST_VIOLATIONS = 100
_SKEW = timedelta(minutes=5)
"""By which the clock of another CA, or of who reads its records, may be ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCertificate:
    """What a caller tells of a certificate."""

    certificate: bytes = b""
    """PEM or DER; empty: nobody has it any more."""
    serial_number: str = ""
    not_after: datetime | None = None
    subject: str = ""
    revoke_time: datetime | None = None
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    invalidity_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCertificates:
    """What is taken over."""

    authority: AuthorityName
    certificates: Sequence[GivenCertificate]
    key_number: int | None = None
    """None: of the key that signs."""
    next_crl_number: int = 0
    """The lowest that the next complete CRL may have; 0: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of it."""

    imported: int = 0
    revoked: int = 0
    unchanged: int = 0
    warnings: tuple[Warning, ...] = ()


class IssuedImport:
    """Takes over what another CA issued."""

    def __init__(self, *, store: Store, clock: Clock, access: Access) -> None:
        self._store = store
        self._clock = clock
        self._access = access

    def take(self, caller: Caller, given: GivenCertificates, *, validate_only: bool) -> Imported:
        """Writes what the books lack.

        Raises AUTHORITY_NOT_FOUND, AUTHORITY_KEY_NOT_FOUND, STATE_FORBIDS for a key without a certificate, and
        FIELD_INVALID with every certificate that the key did not sign.
        """
        self._access.require(caller, Permission.CERTIFICATE_IMPORT, str(given.authority))
        now = self._clock.now()
        with self._store.read("issued.import") as tx:
            authority = authority_with_key(tx, existing_authority(tx, given.authority), given.key_number)
        check_not_purged(authority)
        if authority.key.public_key is None or authority.certificate is None:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"key {authority.key.number} of {authority.name} has no certificate yet, and has issued nothing",
                metadata={"key_number": str(authority.key.number)},
                resource=authority.name,
            )
        # Signatures take their time, which no transaction need wait for.
        records, warnings = _records(authority, authority.key.public_key, given.certificates, now)
        take = partial(self._take, caller=caller, authority=authority, given=given, records=records, now=now)
        if validate_only:
            with self._store.read("issued.validate") as tx:
                found = take(tx, write=False)
        else:
            found = self._store.write("issued.import", partial(take, write=True))
        return replace(found, warnings=(*warnings, *found.warnings))

    def _take(
        self,
        tx: Transaction,
        *,
        caller: Caller,
        authority: Authority,
        given: GivenCertificates,
        records: dict[str, tuple[str, IssuedRecord]],
        now: datetime,
        write: bool,
    ) -> Imported:
        issuer = hashlib.sha256(authority.subject).digest()
        known = issued_import.known(tx, issuer, list(records))
        fresh = [record for serial, (_, record) in records.items() if serial not in known]
        warnings = [
            Warning(field, f"{serial} is in the books of another authority of the same name, and was passed over")
            for serial, (field, _) in records.items()
            if known.get(serial, authority.uid) != authority.uid
        ]
        count = 0
        for serial, (field, record) in records.items():
            if known.get(serial) == authority.uid and record.revoke_time is not None:
                try:
                    count += _revoke(tx, caller, authority, record, now, write=write)
                except CertdError as error:
                    warnings.append(Warning(field, error.message))
        warnings += _numbered(tx, authority, given.next_crl_number, now, write=write)
        if write:
            _insert(tx, authority, fresh, issuer, now)
            tx.event(
                event_of(
                    EventType.CERTIFICATES_IMPORTED,
                    authority,
                    caller.principal,
                    now,
                    imported=str(len(fresh)),
                    revoked=str(count),
                    unchanged=str(len(records) - len(fresh) - count),
                )
            )
        return Imported(
            imported=len(fresh),
            revoked=count,
            unchanged=len(records) - len(fresh) - count,
            warnings=tuple(warnings),
        )


def _records(
    authority: Authority, public_key: bytes, given: Sequence[GivenCertificate], now: datetime
) -> tuple[dict[str, tuple[str, IssuedRecord]], list[Warning]]:
    """Returns what is told, with its place in the request, by serial number."""
    records: dict[str, tuple[str, IssuedRecord]] = {}
    warnings: list[Warning] = []
    violations: list[Violation] = []
    for index, one in enumerate(given):
        field = f"certificates[{index}]"
        try:
            record = _record(field, one, authority, public_key, now, warnings.append)
        except CertdError as error:
            violations += error.violations
            continue
        if record.serial in records:
            violations.append(Violation(field, f"has the serial number of {records[record.serial][0]}"))
        records[record.serial] = (field, record)
    if violations:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{first.field} {first.description}{more}",
            violations=tuple(violations[:_MOST_VIOLATIONS]),
        )
    return records, warnings


def _record(
    field: str,
    one: GivenCertificate,
    authority: Authority,
    public_key: bytes,
    now: datetime,
    warn: Callable[[Warning], None],
) -> IssuedRecord:
    revoke_time = _past(f"{field}.revoke_time", one.revoke_time, now)
    invalidity_time = _past(f"{field}.invalidity_time", one.invalidity_time, now)
    if one.certificate:
        found = issued_certificate(
            one.certificate, field=f"{field}.certificate", issuer=authority.subject, public_key=public_key
        )
        serial = serial_text(found.serial)
        if one.serial_number and normalise_serial(f"{field}.serial_number", one.serial_number) != serial:
            raise field_invalid(f"{field}.serial_number", f"is not that of the certificate, {serial}")
        if not found.readable:
            warn(Warning(field, f"{serial} cannot be shown: it is known by its serial number from now on"))
        record = IssuedRecord(
            serial=serial,
            not_after=found.not_after,
            subject_text=found.subject_text,
            der=found.der if found.readable else None,
            not_before=found.not_before,
            public_key_sha256=found.public_key_sha256,
            key_spec=found.key_spec,
            names=found.names,
        )
    else:
        if one.not_after is None:
            raise field_invalid(f"{field}.not_after_time", "must be said of a certificate that is not sent")
        if len(one.subject) > _LONGEST_SUBJECT or not one.subject.isprintable():
            rule = f"must be at most {_LONGEST_SUBJECT} printable characters"
            raise field_invalid(f"{field}.subject", rule)
        serial = normalise_serial(f"{field}.serial_number", one.serial_number)
        record = IssuedRecord(serial=serial, not_after=one.not_after, subject_text=one.subject)
    return replace(record, revoke_time=revoke_time, reason=one.reason, invalidity_time=invalidity_time)


def _past(field: str, moment: datetime | None, now: datetime) -> datetime | None:
    """Returns a time that is not in the future; raises FIELD_INVALID for one that is by more than clocks differ."""
    if moment is None:
        return None
    if moment > now + _SKEW:
        raise field_invalid(field, f"is in the future; the server's clock says {rfc3339(now)}")
    return min(moment, now)


def _revoke(
    tx: Transaction, caller: Caller, authority: Authority, record: IssuedRecord, now: datetime, *, write: bool
) -> bool:
    """Revokes what the books have as issued; returns whether they had."""
    row = certificates.get(tx, authority.uid, record.serial)
    if row is None or row.state is not CertificateState.ISSUED:
        return False
    subject = subject_of(authority_with_key(tx, authority, row.key_number), row)
    changed = revoked(subject, reason=record.reason, invalidity_time=record.invalidity_time, now=now)
    if write:
        write_revocation(tx, caller.principal, subject, replace(changed, revoke_time=record.revoke_time), now)
    return True


def _insert(tx: Transaction, authority: Authority, fresh: Sequence[IssuedRecord], issuer: bytes, now: datetime) -> None:
    number = authority.key.number
    issued_import.insert(tx, authority.uid, number, fresh, issuer_name_sha256=issuer, now=now)
    for record in fresh:
        if record.revoke_time is not None and record.reason is RevocationReason.KEY_COMPROMISE and record.der:
            blocked_keys.block(
                tx,
                authority.tenant,
                record.public_key_sha256,
                authority_uid=authority.uid,
                serial=record.serial,
                now=now,
            )
    for record in fresh:
        # Somebody may have asked for it, and was told that nobody here knows it.
        ocsp_responses.forget(tx, authority.uid, number, record.serial)
    if any(record.revoke_time is not None for record in fresh):
        revocation_lists.mark_changed(tx, authority.uid, number, None, now)


def _numbered(tx: Transaction, authority: Authority, next_number: int, now: datetime, *, write: bool) -> list[Warning]:
    """Has the next complete CRL numbered higher than those of the other CA."""
    if not next_number:
        return []
    key = RevocationListKey(authority.uid, authority.key.number, revocation_lists.COMPLETE)
    found = revocation_lists.get(tx, key)
    if found is None:
        return [
            Warning(
                "next_crl_number",
                "has no effect: no CRL of this key is signed; set revocation.crl.enabled (UpdateAuthority) and repeat",
            )
        ]
    if write:
        revocation_lists.raise_number(tx, found, next_number - 1)
        revocation_lists.mark_changed(tx, authority.uid, authority.key.number, None, now)
    return []
