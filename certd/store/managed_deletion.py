"""All rows of a managed certificate, deleted together, and those of a version that will never be issued."""

from sqlalchemy import bindparam, delete, select

from certd.model.managed_certificate import ManagedCertificate
from certd.model.tenant import Quota
from certd.store import managed_schema, notification_schema, tenant_counts
from certd.store.transaction import Transaction

_associations = managed_schema.associations
_CONSUMERS = (
    select(_associations.c.consumer)
    .where(_associations.c.managed_certificate_uid == bindparam("key"))
    .order_by(_associations.c.consumer)
    .limit(bindparam("most"))
)
# What refers to another comes before it.
_DELETES = tuple(
    delete(table).where(table.c.managed_certificate_uid == bindparam("key"))
    for table in (
        notification_schema.download_codes,
        managed_schema.association_keys,
        managed_schema.associations,
        managed_schema.sealed_keys,
        managed_schema.managed_certificate_versions,
    )
)
_DELETE = delete(managed_schema.managed_certificates).where(
    managed_schema.managed_certificates.c.uid == bindparam("key")
)


_versions, _sealed = managed_schema.managed_certificate_versions, managed_schema.sealed_keys
_IN_MAKING = (
    _versions.c.managed_certificate_uid == bindparam("key"),
    _versions.c.number == bindparam("of_number"),
    _versions.c.serial.is_(None),
    _versions.c.certificate.is_(None),
)
_DELETE_KEY_IN_MAKING = delete(_sealed).where(
    _sealed.c.managed_certificate_uid == bindparam("key"),
    _sealed.c.version == bindparam("of_number"),
    select(_versions.c.number).where(*_IN_MAKING).exists(),
)
_DELETE_IN_MAKING = delete(_versions).where(*_IN_MAKING)


def consumers(tx: Transaction, managed_certificate_uid: str, *, most: int) -> list[str]:
    """Returns the names of up to `most` identities that may lease the keys of a managed certificate."""
    rows = tx.execute(_CONSUMERS, {"key": managed_certificate_uid, "most": most})
    return [row.consumer for row in rows]


def delete_all(tx: Transaction, managed: ManagedCertificate) -> bool:
    """Deletes a managed certificate with its versions and every sealed key; returns whether it was there."""
    for statement in _DELETES:
        tx.execute(statement, {"key": managed.uid})
    if tx.execute(_DELETE, {"key": managed.uid}).rowcount != 1:
        return False
    tenant_counts.add(tx, managed.tenant, Quota.MANAGED_CERTIFICATES, -1)
    return True


def delete_in_making(tx: Transaction, managed_certificate_uid: str, number: int) -> bool:
    """Deletes a version that was never issued, with its key; returns whether there was one."""
    parameters = {"key": managed_certificate_uid, "of_number": number}
    tx.execute(_DELETE_KEY_IN_MAKING, parameters)
    return tx.execute(_DELETE_IN_MAKING, parameters).rowcount == 1
