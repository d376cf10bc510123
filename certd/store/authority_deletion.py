"""The end of an authority: deleted, undeleted within its window, or purged. Its row stays, under another id."""

from datetime import datetime

from sqlalchemy import bindparam, update

from certd.model.authority import Authority
from certd.model.names import purged_id
from certd.model.tenant import Quota
from certd.store import schema, tenant_counts
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_microseconds

_authorities = schema.authorities
_OF_AUTHORITY = _authorities.c.uid == bindparam("of_authority")
_CHANGED = {"update_time": bindparam("now"), "revision": _authorities.c.revision + 1}
_DELETE = (
    update(_authorities)
    .where(_OF_AUTHORITY)
    .values(
        state=bindparam("new_state"),
        delete_time=bindparam("new_delete_time"),
        purge_time=bindparam("new_purge_time"),
        **_CHANGED,
    )
)
_SET_ID = update(_authorities).where(_OF_AUTHORITY).values(authority_id=bindparam("new_id"), **_CHANGED)


def set_deleted(tx: Transaction, authority: Authority, now: datetime) -> None:
    """Stores the state and the times of deletion that `authority` has; None takes them back."""
    parameters = {
        "of_authority": authority.uid,
        "new_state": authority.state.value,
        "new_delete_time": optional_microseconds(authority.delete_time),
        "new_purge_time": optional_microseconds(authority.purge_time),
        "now": microseconds(now),
    }
    tx.execute(_DELETE, parameters)


def set_purged(tx: Transaction, authority: Authority, now: datetime) -> None:
    """Frees the id of an authority that is purged, and its place in the quota; not to be done a second time."""
    tenant_counts.add(tx, authority.tenant, Quota.AUTHORITIES, -1)
    tx.execute(
        _SET_ID,
        {"of_authority": authority.uid, "new_id": purged_id(authority.uid), "now": microseconds(now)},
    )
