"""Epochs of daemons: whoever completes a certificate proves by its epoch that it is still the one who intended it."""

from datetime import datetime

from sqlalchemy import bindparam, insert, select, update

from certd.store import schema
from certd.store.dialect import SQLITE
from certd.store.transaction import Transaction
from certd.store.values import microseconds

_owners = schema.owners
LIVE_EPOCHS = select(_owners.c.epoch).where(_owners.c.ended.is_(False), _owners.c.lease_until > bindparam("now"))
"""For conditions of other tables: the epochs of daemons that live at `now`."""
_BEGIN = insert(_owners).returning(_owners.c.epoch)
_END_ALL = update(_owners).where(_owners.c.ended.is_(False)).values(ended=True)
_IS_LIVE = (_owners.c.epoch == bindparam("of_epoch"), _owners.c.ended.is_(False))
_RENEW = update(_owners).where(*_IS_LIVE)
_END = update(_owners).where(*_IS_LIVE).values(ended=True)


def begin(tx: Transaction, now: datetime, lease_until: datetime) -> int:
    """Begins an epoch and returns its number, which was never used before.

    On SQLite, which serves one daemon, every other epoch ends.
    """
    if tx.engine_name == SQLITE:
        tx.execute(_END_ALL)
    columns = {"begin_time": microseconds(now), "lease_until": microseconds(lease_until), "ended": False}
    epoch: int = tx.execute(_BEGIN, columns).scalar_one()
    return epoch


def end_all(tx: Transaction) -> None:
    """Ends every epoch: those of daemons that served these books before they were put back."""
    tx.execute(_END_ALL)


def renew(tx: Transaction, epoch: int, lease_until: datetime) -> bool:
    """Prolongs the lease of an epoch; returns False when it has ended."""
    return tx.execute(_RENEW, {"of_epoch": epoch, "lease_until": microseconds(lease_until)}).rowcount == 1


def end(tx: Transaction, epoch: int) -> None:
    """Ends an epoch: what is still PENDING under it may be recovered."""
    tx.execute(_END, {"of_epoch": epoch})
