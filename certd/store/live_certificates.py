"""Certificates that a key of an authority signed, and that relying parties still accept."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import bindparam, select

from certd.model.certificate import CertificateState
from certd.store import revocation_schema, schema
from certd.store.transaction import Transaction
from certd.store.values import microseconds

_certificates = schema.certificates
_responders = revocation_schema.ocsp_responders
_ALIVE = (CertificateState.ISSUED.value, CertificateState.PENDING.value)
_OF_KEY = (
    select(_certificates.c.serial)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number == bindparam("of_number"),
        _certificates.c.not_after >= bindparam("now"),
        _certificates.c.state.in_(_ALIVE),
        _certificates.c.public_key_sha256.not_in(bindparam("own", expanding=True)),
    )
    .order_by(_certificates.c.not_after.desc(), _certificates.c.serial)
    .limit(bindparam("most"))
)
_RESPONDER_KEYS = select(_responders.c.public_key).where(
    _responders.c.authority_uid == bindparam("of_authority"), _responders.c.public_key.is_not(None)
)


def of_key(
    tx: Transaction, uid: str, key_number: int, now: datetime, *, own: Collection[bytes], limit: int
) -> list[str]:
    """Returns the serial numbers of up to `limit` certificates that a key signed and that are alive, the last first.

    Those for public keys with a hash among `own` are passed over: the authority's own, and its responders'.
    """
    parameters = {
        "of_authority": uid,
        "of_number": key_number,
        "now": microseconds(now),
        "own": sorted(own),
        "most": limit,
    }
    return [row.serial for row in tx.execute(_OF_KEY, parameters)]


def responder_keys(tx: Transaction, uid: str) -> list[bytes]:
    """Returns the DER of the public keys of all OCSP responders of an authority."""
    return [row.public_key for row in tx.execute(_RESPONDER_KEYS, {"of_authority": uid})]
