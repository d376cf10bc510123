"""Rows of associations. Their names, and the version to lease, are told by the row of the managed certificate."""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, literal_column, or_, select
from sqlalchemy import delete as delete_from
from sqlalchemy import update as update_of

from certd.model.association import Association, Deployment, DeploymentState
from certd.model.names import AssociationName, ManagedCertificateName
from certd.store import managed_schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text, microseconds, optional_microseconds, optional_time_of, time_of

_associations = managed_schema.associations
_managed = managed_schema.managed_certificates
_INSERT = insert_if_absent(_associations)
_SELECT: Select[Any] = select(
    _associations.c.managed_certificate_uid,
    _associations.c.association_id,
    _associations.c.tenant,
    _associations.c.consumer,
    _associations.c.consumer_spiffe_id,
    _associations.c.creator,
    _associations.c.create_time,
    _associations.c.leased_version,
    _associations.c.lease_time,
    _associations.c.deployment,
    _managed.c.managed_certificate_id,
    _managed.c.current_version,
).join_from(_managed, _associations, _associations.c.managed_certificate_uid == _managed.c.uid)
_GET = _SELECT.where(
    _managed.c.tenant == bindparam("of_tenant"),
    _managed.c.managed_certificate_id == bindparam("of_managed"),
    _associations.c.association_id == bindparam("id"),
)
_OF_CONSUMER = _SELECT.where(
    _associations.c.managed_certificate_uid == bindparam("key"),
    _associations.c.consumer_spiffe_id == bindparam("of_consumer"),
)
_PAGE = (
    _SELECT.where(
        _associations.c.managed_certificate_uid == bindparam("key"),
        _associations.c.association_id > bindparam("after"),
    )
    .order_by(_associations.c.association_id)
    .limit(bindparam("most"))
)
_BY_NAME = _SELECT.order_by(_managed.c.managed_certificate_id, _associations.c.association_id).limit(bindparam("most"))
_BEHIND = (
    # The first alone begins at a place of the index.
    _managed.c.managed_certificate_id >= bindparam("after_managed"),
    or_(
        _managed.c.managed_certificate_id > bindparam("after_managed"),
        _associations.c.association_id > bindparam("after"),
    ),
)
_PAGE_OF_TENANT = _BY_NAME.where(
    _managed.c.tenant == bindparam("of_tenant"),
    _managed.c.association_count > literal_column("0"),
    *_BEHIND,
)
_PAGE_OF_CONSUMER = _BY_NAME.where(
    _associations.c.tenant == bindparam("of_tenant"),
    _associations.c.consumer_spiffe_id == bindparam("of_consumer"),
    *_BEHIND,
)
_KEY_FITS = and_(
    _associations.c.managed_certificate_uid == bindparam("key"), _associations.c.association_id == bindparam("id")
)
_PAGE_OF_CALLER = (
    _SELECT.where(
        _associations.c.consumer_spiffe_id == bindparam("of_consumer"),
        or_(
            _associations.c.tenant > bindparam("after_tenant"),
            and_(
                _associations.c.tenant == bindparam("after_tenant"),
                _managed.c.managed_certificate_id > bindparam("after_managed"),
            ),
        ),
    )
    .order_by(_associations.c.tenant, _managed.c.managed_certificate_id)
    .limit(bindparam("most"))
)
_DELETE = delete_from(_associations).where(_KEY_FITS)
_UPDATE = update_of(_associations).where(_KEY_FITS)


def insert(tx: Transaction, association: Association) -> bool:
    """Inserts an association; returns False, and changes nothing, when its id or its consumer has one already."""
    columns = {
        "managed_certificate_uid": association.managed_certificate_uid,
        "association_id": association.name.association,
        "tenant": association.name.managed_certificate.tenant,
        "consumer": association.consumer,
        "consumer_spiffe_id": association.consumer_spiffe_id,
        "creator": association.creator,
        "create_time": microseconds(association.create_time),
        "leased_version": association.leased_version,
        "lease_time": optional_microseconds(association.lease_time),
        "deployment": None if association.deployment is None else _deployment_text(association.deployment),
    }
    return tx.execute(_INSERT, columns).rowcount == 1


def get(tx: Transaction, name: AssociationName) -> Association | None:
    """Returns an association; None when there is none, or no managed certificate of that name."""
    parent = name.managed_certificate
    parameters = {"of_tenant": parent.tenant, "of_managed": parent.managed_certificate, "id": name.association}
    row = tx.execute(_GET, parameters).first()
    return None if row is None else _association(row)


def of_consumer(tx: Transaction, managed_certificate_uid: str, spiffe_id: str) -> Association | None:
    """Returns the association of a managed certificate with a consumer; None when there is none."""
    row = tx.execute(_OF_CONSUMER, {"key": managed_certificate_uid, "of_consumer": spiffe_id}).first()
    return None if row is None else _association(row)


def page(tx: Transaction, managed_certificate_uid: str, *, after: str, limit: int) -> list[Association]:
    """Returns up to `limit` associations of a managed certificate in the order of their ids, from behind `after`."""
    parameters = {"key": managed_certificate_uid, "after": after, "most": limit}
    return [_association(row) for row in tx.execute(_PAGE, parameters)]


def page_of_tenant(tx: Transaction, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[Association]:
    """Returns up to `limit` associations of a tenant by name.

    They are from behind `after`, ids of a managed certificate and of an association.
    """
    parameters = {"of_tenant": tenant, "after_managed": after[0], "after": after[1], "most": limit}
    return [_association(row) for row in tx.execute(_PAGE_OF_TENANT, parameters)]


def page_of_consumer(
    tx: Transaction, tenant: str, spiffe_id: str, *, after: tuple[str, str] = ("", ""), limit: int
) -> list[Association]:
    """Returns up to `limit` associations of a tenant with a consumer, by name; `after` as in `page_of_tenant`."""
    parameters = {
        "of_tenant": tenant,
        "of_consumer": spiffe_id,
        "after_managed": after[0],
        "after": after[1],
        "most": limit,
    }
    return [_association(row) for row in tx.execute(_PAGE_OF_CONSUMER, parameters)]


def page_everywhere(
    tx: Transaction, spiffe_id: str, *, after: tuple[str, str] = ("", ""), limit: int
) -> list[Association]:
    """Returns up to `limit` associations of a consumer in all tenants, by tenant and managed certificate.

    They are from behind `after`, ids of a tenant and of a managed certificate. A consumer has one with each at most.
    """
    parameters = {"of_consumer": spiffe_id, "after_tenant": after[0], "after_managed": after[1], "most": limit}
    return [_association(row) for row in tx.execute(_PAGE_OF_CALLER, parameters)]


def delete(tx: Transaction, association: Association) -> bool:
    """Deletes an association that has no keys any more; returns whether it was there."""
    return tx.execute(_DELETE, _key(association)).rowcount == 1


def set_leased(tx: Transaction, association: Association, version: int, lease_time: datetime) -> bool:
    """Records which version is leased, and when; returns whether the association is there."""
    columns = {"leased_version": version, "lease_time": microseconds(lease_time)}
    return tx.execute(_UPDATE, _key(association) | columns).rowcount == 1


def set_deployment(tx: Transaction, association: Association, deployment: Deployment) -> bool:
    """Records what the consumer reports; returns whether the association is there."""
    columns = {"deployment": _deployment_text(deployment)}
    return tx.execute(_UPDATE, _key(association) | columns).rowcount == 1


def _key(association: Association) -> dict[str, object]:
    return {"key": association.managed_certificate_uid, "id": association.name.association}


def _deployment_text(deployment: Deployment) -> str:
    return json_text(
        {
            "state": deployment.state.value,
            "version": deployment.version,
            "certificate_sha256": deployment.certificate_sha256.hex(),
            "message": deployment.message,
            "report_time": microseconds(deployment.report_time),
        }
    )


def _deployment(text: str) -> Deployment:
    found = json.loads(text)
    return Deployment(
        state=DeploymentState(found["state"]),
        version=found["version"],
        certificate_sha256=bytes.fromhex(found["certificate_sha256"]),
        message=found["message"],
        report_time=time_of(found["report_time"]),
    )


def _association(row: Row[Any]) -> Association:
    parent = ManagedCertificateName(row.tenant, row.managed_certificate_id)
    return Association(
        managed_certificate_uid=row.managed_certificate_uid,
        name=AssociationName(parent, row.association_id),
        consumer=row.consumer,
        consumer_spiffe_id=row.consumer_spiffe_id,
        creator=row.creator,
        create_time=time_of(row.create_time),
        leased_version=row.leased_version,
        lease_time=optional_time_of(row.lease_time),
        deployment=None if row.deployment is None else _deployment(row.deployment),
        current_version=row.current_version,
    )
