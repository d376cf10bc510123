"""Rows of OCSP answers that were signed ahead.

Whoever changes what a certificate's answer must say calls `forget` in the transaction of the change. Whoever signs one
reads the certificate, signs, and stores the answer by `put`, which does so only where the certificate still is as it
was read: so no answer outlives a change that it does not tell of.
"""

from sqlalchemy import bindparam, delete

from certd.store import revocation_schema
from certd.store.transaction import Transaction

_responses = revocation_schema.ocsp_responses
_FITS = (
    _responses.c.authority_uid == bindparam("of_authority"),
    _responses.c.key_number == bindparam("of_key"),
    _responses.c.serial == bindparam("of_serial"),
)
_FORGET = delete(_responses).where(*_FITS)


def forget(tx: Transaction, authority_uid: str, key_number: int, serial: str) -> None:
    """Drops the answer of a certificate; the next who asks, or the next round of the responder, has one signed."""
    tx.execute(_FORGET, {"of_authority": authority_uid, "of_key": key_number, "of_serial": serial})
