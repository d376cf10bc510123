"""Rows of certificates of which nothing is left but that a journal tells of their signatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select

from certd.model.certificate import CertificateState
from certd.store import schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds

_certificates = schema.certificates
_INSERT = Many(
    insert_if_absent(_certificates),
    columns=(
        "authority_uid",
        "serial",
        "issuer_name_sha256",
        "key_number",
        "state",
        "profile",
        "profile_version",
        "subject_text",
        "not_before",
        "not_after",
        "public_key_sha256",
        "labels",
        "owner_epoch",
        "create_time",
        "revoke_time",
        "crl_partition",
    ),
)
_KNOWN = select(_certificates.c.issuer_name_sha256, _certificates.c.serial).where(
    _certificates.c.serial.in_(bindparam("serials", expanding=True))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCertificate:
    """What a journal tells of a certificate."""

    authority_uid: str
    key_number: int
    issuer_name_sha256: bytes
    serial: str
    """Even-length lower-case hexadecimal."""
    tbs_sha256: str
    """Of what was signed, in hexadecimal, as the journal tells; no row has it."""
    sign_time: datetime
    not_after: datetime
    crl_partition: int | None


def insert_missing(tx: Transaction, several: Sequence[LostCertificate], now: datetime) -> list[LostCertificate]:
    """Inserts those that the books do not have, LOST and revoked from `now`; returns these."""
    rows = tx.execute(_KNOWN, {"serials": [one.serial for one in several]})
    known = {(bytes(row.issuer_name_sha256), row.serial) for row in rows}
    fresh: dict[tuple[bytes, str], LostCertificate] = {}
    for one in several:
        if (one.issuer_name_sha256, one.serial) not in known:
            fresh.setdefault((one.issuer_name_sha256, one.serial), one)
    tx.execute_many(
        _INSERT,
        [
            {
                "authority_uid": one.authority_uid,
                "serial": one.serial,
                "issuer_name_sha256": one.issuer_name_sha256,
                "key_number": one.key_number,
                "state": CertificateState.LOST.value,
                "profile": "",
                "profile_version": 0,
                "subject_text": "",
                "not_before": microseconds(one.sign_time),
                "not_after": microseconds(one.not_after),
                "public_key_sha256": b"",
                "labels": "{}",
                "owner_epoch": 0,
                "create_time": microseconds(one.sign_time),
                "revoke_time": microseconds(now),
                "crl_partition": one.crl_partition,
            }
            for one in fresh.values()
        ],
    )
    return list(fresh.values())
