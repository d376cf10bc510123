"""Rows of everything that an authority signed, the oldest first, for reports."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, or_, select

from certd.model.certificate import Certificate, CertificateState
from certd.store import schema
from certd.store.certificates import CERTIFICATE_COLUMNS, certificate_of
from certd.store.transaction import Transaction
from certd.store.values import microseconds

_certificates = schema.certificates
# The order of the index of lists, the other way round.
_PAGE: Select[Any] = (
    select(*CERTIFICATE_COLUMNS)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.create_time >= bindparam("start"),
        _certificates.c.create_time < bindparam("end"),
        or_(
            _certificates.c.create_time > bindparam("start"),
            _certificates.c.serial < bindparam("before_serial"),
        ),
        _certificates.c.state != CertificateState.PENDING.value,
    )
    .order_by(_certificates.c.create_time, _certificates.c.serial.desc())
    .limit(bindparam("most"))
)
_ABOVE_ALL = "~"
"""Sorts behind every serial."""


def page(
    tx: Transaction,
    authority_uid: str,
    *,
    start: datetime,
    end: datetime,
    after: tuple[datetime, str] | None,
    limit: int,
) -> Sequence[Certificate]:
    """Returns up to `limit` certificates of an authority that were made from `start` on and before `end`.

    The oldest first; `after` is the creation time and the serial of the last one of the page before.
    """
    begin, serial = (start, _ABOVE_ALL) if after is None else after
    parameters = {
        "of_authority": authority_uid,
        "start": microseconds(begin),
        "end": microseconds(end),
        "before_serial": serial,
        "most": limit,
    }
    return [certificate_of(row) for row in tx.execute(_PAGE, parameters)]
