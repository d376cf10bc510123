"""Rows of certificates that are revoked, or revoked anew."""

from datetime import datetime

from sqlalchemy import bindparam, update

from certd.model.certificate import CertificateState, RevocationReason
from certd.store import schema
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_microseconds

_certificates = schema.certificates
_REVOKE = (
    update(_certificates)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.serial == bindparam("of_serial"),
        _certificates.c.state.in_([CertificateState.ISSUED.value, CertificateState.REVOKED.value]),
    )
    .values(
        state=CertificateState.REVOKED.value,
        revoke_time=bindparam("new_time"),
        revocation_reason=bindparam("new_reason"),
        invalidity_time=bindparam("new_invalidity_time"),
    )
)


def revoke(
    tx: Transaction,
    authority_uid: str,
    serial: str,
    *,
    revoke_time: datetime,
    reason: RevocationReason,
    invalidity_time: datetime | None,
) -> bool:
    """Writes a revocation over whatever there was; returns False, and changes nothing, for what was never issued.

    Args:
        tx: the transaction.
        authority_uid: who issued it.
        serial: of the certificate.
        revoke_time: when it was revoked.
        reason: why.
        invalidity_time: since when its key is known or thought to be compromised; None when nobody said.
    """
    parameters = {
        "of_authority": authority_uid,
        "of_serial": serial,
        "new_time": microseconds(revoke_time),
        "new_reason": reason.value,
        "new_invalidity_time": optional_microseconds(invalidity_time),
    }
    return tx.execute(_REVOKE, parameters).rowcount == 1
