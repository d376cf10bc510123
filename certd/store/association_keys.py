"""Keys sealed for consumers: one blob for each version and association."""

from sqlalchemy import bindparam, select
from sqlalchemy import delete as delete_from

from certd.store import managed_schema, sealed_keys
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction

_keys = managed_schema.association_keys
_INSERT = insert_if_absent(_keys)
_OF_ASSOCIATION = (
    _keys.c.managed_certificate_uid == bindparam("key"),
    _keys.c.association_id == bindparam("of_association"),
)
_GET = select(_keys.c.blob).where(*_OF_ASSOCIATION, _keys.c.version == bindparam("of_version"))
_DELETE_OF = delete_from(_keys).where(*_OF_ASSOCIATION)


def insert(
    tx: Transaction, managed_uid: str, association_id: str, version: int, *, wrapping_key_number: int, blob: bytes
) -> bool:
    """Inserts the key of a version, sealed for the consumer of an association that is there already.

    Returns False, and changes nothing, when there is one: the first that came stays.
    Raises STATE_FORBIDS when the wrapping key is no longer the tenant's primary one: seal again under that.
    """
    sealed_keys.check_primary(tx, managed_uid, wrapping_key_number)
    columns = {
        "managed_certificate_uid": managed_uid,
        "association_id": association_id,
        "version": version,
        "wrapping_key_number": wrapping_key_number,
        "blob": blob,
    }
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, managed_uid: str, association_id: str, version: int) -> bytes | None:
    """Returns the key of a version, sealed for the consumer of an association; None when there is none."""
    parameters = {"key": managed_uid, "of_association": association_id, "of_version": version}
    blob: bytes | None = tx.execute(_GET, parameters).scalar()
    return blob


def delete_of(tx: Transaction, managed_uid: str, association_id: str) -> int:
    """Deletes the keys of every version that are sealed for the consumer of an association; returns how many."""
    return tx.execute(_DELETE_OF, {"key": managed_uid, "of_association": association_id}).rowcount
