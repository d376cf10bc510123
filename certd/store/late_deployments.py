"""Which consumers are late with a version: columns of associations that their other queries leave alone."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy import update as update_of

from certd.model.association import Association
from certd.store import managed_schema
from certd.store.transaction import Transaction

_associations = managed_schema.associations
_OF_ALL: Select[Any] = select(_associations.c.association_id, _associations.c.late, _associations.c.late_version).where(
    _associations.c.managed_certificate_uid == bindparam("key")
)
_OF_ONE = _OF_ALL.where(_associations.c.association_id == bindparam("id"))
_LATE = (
    select(_associations.c.association_id)
    .where(_associations.c.managed_certificate_uid == bindparam("key"), _associations.c.late.is_(True))
    .order_by(_associations.c.association_id)
)
_SET = (
    update_of(_associations)
    .where(
        _associations.c.managed_certificate_uid == bindparam("key"), _associations.c.association_id == bindparam("id")
    )
    .values(late=bindparam("is_late"), late_version=bindparam("of_version"))
)


@dataclass(frozen=True, slots=True)
class Lateness:
    """What was told of a consumer that is late."""

    is_late: bool
    """Whether it still is."""
    version: int
    """The version with which it was late last; 0: none."""


def of_all(tx: Transaction, managed_certificate_uid: str) -> dict[str, Lateness]:
    """Returns the lateness of every consumer of a managed certificate, by id of the association."""
    rows = tx.execute(_OF_ALL, {"key": managed_certificate_uid})
    return {row.association_id: Lateness(row.late, row.late_version) for row in rows}


def of(tx: Transaction, association: Association) -> Lateness:
    """Returns the lateness of a consumer."""
    row = tx.execute(_OF_ONE, _key(association)).first()
    return Lateness(is_late=False, version=0) if row is None else Lateness(row.late, row.late_version)


def late(tx: Transaction, managed_certificate_uid: str) -> list[str]:
    """Returns the ids of the associations whose consumers are late, in their order."""
    return list(tx.execute(_LATE, {"key": managed_certificate_uid}).scalars())


def put(tx: Transaction, association: Association, lateness: Lateness) -> None:
    """Records the lateness of a consumer."""
    tx.execute(_SET, {**_key(association), "is_late": lateness.is_late, "of_version": lateness.version})


def _key(association: Association) -> dict[str, object]:
    return {"key": association.managed_certificate_uid, "id": association.name.association}
