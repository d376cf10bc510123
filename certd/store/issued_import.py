"""Rows of certificates that another CA issued under the key of an authority, taken over from its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import bindparam, select

from certd.model.certificate import CertificateState, RevocationReason
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.store import certificate_names, schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import EPOCH, microseconds, optional_microseconds

_certificates = schema.certificates
_COLUMNS = (
    "authority_uid",
    "serial",
    "issuer_name_sha256",
    "key_number",
    "state",
    "der",
    "profile",
    "profile_version",
    "subject_text",
    "not_before",
    "not_after",
    "public_key_sha256",
    "key_spec",
    "labels",
    "owner_epoch",
    "create_time",
    "revoke_time",
    "revocation_reason",
    "invalidity_time",
)
_INSERT = Many(insert_if_absent(_certificates), columns=_COLUMNS)
_KNOWN = select(_certificates.c.serial, _certificates.c.authority_uid).where(
    _certificates.c.issuer_name_sha256 == bindparam("of_issuer"),
    _certificates.c.serial.in_(bindparam("serials", expanding=True)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedRecord:
    """What another CA knew of a certificate."""

    serial: str
    """Even-length lower-case hexadecimal."""
    not_after: datetime
    subject_text: str = ""
    der: bytes | None = None
    """None: nobody has it any more. What follows is empty then."""
    not_before: datetime | None = None
    public_key_sha256: bytes = b""
    key_spec: KeySpec | None = None
    names: SubjectAlternativeNames = field(default_factory=SubjectAlternativeNames)
    revoke_time: datetime | None = None
    """None: it is not revoked, and no reason is given."""
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    invalidity_time: datetime | None = None


def known(tx: Transaction, issuer_name_sha256: bytes, serials: Sequence[str]) -> Mapping[str, str]:
    """Returns which serial numbers are taken under an issuer name, with the uid of the authority that has each."""
    rows = tx.execute(_KNOWN, {"of_issuer": issuer_name_sha256, "serials": list(serials)})
    return {row.serial: row.authority_uid for row in rows}


def insert(
    tx: Transaction,
    authority_uid: str,
    key_number: int,
    records: Sequence[IssuedRecord],
    *,
    issuer_name_sha256: bytes,
    now: datetime,
) -> None:
    """Inserts certificates with their names, none of which is `known`."""
    if not records:
        return
    tx.execute_many(
        _INSERT,
        [
            {
                "authority_uid": authority_uid,
                "serial": one.serial,
                "issuer_name_sha256": issuer_name_sha256,
                "key_number": key_number,
                "state": (CertificateState.ISSUED if one.revoke_time is None else CertificateState.REVOKED).value,
                "der": one.der,
                # No profile of ours was looked at.
                "profile": "",
                "profile_version": 0,
                "subject_text": one.subject_text,
                "not_before": microseconds(one.not_before or EPOCH),
                "not_after": microseconds(one.not_after),
                "public_key_sha256": one.public_key_sha256,
                "key_spec": None if one.key_spec is None else one.key_spec.value,
                "labels": "{}",
                "owner_epoch": 0,
                "create_time": microseconds(now),
                "revoke_time": optional_microseconds(one.revoke_time),
                "revocation_reason": None if one.revoke_time is None else one.reason.value,
                "invalidity_time": optional_microseconds(one.invalidity_time),
            }
            for one in records
        ],
    )
    certificate_names.insert(tx, [(authority_uid, one.serial, one.names) for one in records if one.names])
