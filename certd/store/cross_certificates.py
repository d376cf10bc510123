"""Rows of cross-certificates: certificates of a key of an authority beside the authority's own one for it."""

import hashlib
from datetime import datetime

from sqlalchemy import bindparam, select

from certd.store import revocation_schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds

_certificates = revocation_schema.cross_certificates
_INSERT = insert_if_absent(_certificates)
_OF_AUTHORITY = (
    select(_certificates.c.key_number, _certificates.c.certificate)
    .where(_certificates.c.authority_uid == bindparam("of_authority"))
    .order_by(_certificates.c.create_time.desc(), _certificates.c.certificate_sha256)
)


def insert(tx: Transaction, uid: str, key_number: int, certificate: bytes, now: datetime) -> None:
    """Inserts a certificate (DER) for a key of an authority; one that is there stays."""
    columns = {
        "authority_uid": uid,
        "key_number": key_number,
        "certificate_sha256": hashlib.sha256(certificate).digest(),
        "certificate": certificate,
        "create_time": microseconds(now),
    }
    tx.execute(_INSERT, columns)


def of_authority(tx: Transaction, uid: str) -> dict[int, tuple[bytes, ...]]:
    """Returns the DER of those of each key by its number, the newest first."""
    found: dict[int, tuple[bytes, ...]] = {}
    for row in tx.execute(_OF_AUTHORITY, {"of_authority": uid}):
        found[row.key_number] = (*found.get(row.key_number, ()), row.certificate)
    return found
