"""Cursors: where a reader of events stands, in a form that means something to this server alone.

One holds the number of an event and the beginning of its chain hash. So no number can be made up, and a cursor of books
that are no longer these, because an older copy of them was restored, is not taken for one of these.
"""

import base64
import binascii
from typing import Final

from certd.errors import CertdError, Reason
from certd.store import events
from certd.store.event_chain import ChainHead
from certd.store.store import Transaction

_FORM: Final = b"\x01"
_NUMBER: Final = 8
_CHECK: Final = 8
_OCTETS: Final = len(_FORM) + _NUMBER + _CHECK
_LONGEST: Final = 64


def cursor_of(head: ChainHead) -> str:
    """Returns the cursor of one who has everything up to an event."""
    return base64.urlsafe_b64encode(_FORM + head.seq.to_bytes(_NUMBER) + head.chain_hash[:_CHECK]).decode().rstrip("=")


def place_of(tx: Transaction, cursor: str) -> ChainHead:
    """Returns up to where one has everything who shows a cursor; raises CURSOR_INVALID."""
    number, check = _read(cursor)
    found = events.head_at(tx, number)
    if found is None or found.chain_hash[:_CHECK] != check:
        raise _invalid()
    return found


def _read(cursor: str) -> tuple[int, bytes]:
    if len(cursor) > _LONGEST or not cursor.isascii():
        raise _invalid()
    try:
        octets = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise _invalid() from error
    number = int.from_bytes(octets[len(_FORM) : len(_FORM) + _NUMBER])
    if len(octets) != _OCTETS or not octets.startswith(_FORM) or number >= 1 << 63:
        raise _invalid()
    return number, octets[-_CHECK:]


def _invalid() -> CertdError:
    return CertdError(
        Reason.CURSOR_INVALID,
        "the cursor is none that this server gave, or its books were restored from before it: begin anew without one",
    )
