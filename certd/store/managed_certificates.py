"""Rows of managed certificates and of their versions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from certd.errors import CertdError, Reason
from certd.model.managed_certificate import (
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateVersion,
)
from certd.model.tenant import Quota
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.store import schema, tenant_counts
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import (
    duration_microseconds,
    duration_of,
    json_text,
    labels_of,
    labels_text,
    microseconds,
    optional_microseconds,
    optional_time_of,
    time_of,
)

_managed = schema.managed_certificates
_versions = schema.managed_certificate_versions

_SELECT: Select[Any] = select(
    _managed.c.uid,
    _managed.c.tenant,
    _managed.c.managed_certificate_id,
    _managed.c.authority_uid,
    _managed.c.authority_name,
    _managed.c.profile,
    _managed.c.key_spec,
    _managed.c.subject,
    _managed.c.names,
    _managed.c.lifetime,
    _managed.c.exportable,
    _managed.c.state,
    _managed.c.current_version,
    _managed.c.not_after,
    _managed.c.conditions,
    _managed.c.next_attempt_time,
    _managed.c.labels,
    _managed.c.create_time,
    _managed.c.update_time,
    _managed.c.revision,
)
_GET = _SELECT.where(_managed.c.tenant == bindparam("of_tenant"), _managed.c.managed_certificate_id == bindparam("id"))
_GET_BY_UID = _SELECT.where(_managed.c.uid == bindparam("key"))
_PAGE = (
    _SELECT.where(_managed.c.tenant == bindparam("of_tenant"), _managed.c.managed_certificate_id > bindparam("after"))
    .order_by(_managed.c.managed_certificate_id)
    .limit(bindparam("most"))
)
_INSERT = insert_if_absent(_managed)
_UPDATE = update_of(_managed).where(
    _managed.c.uid == bindparam("key"), _managed.c.revision == bindparam("expected_revision")
)
_INSERT_VERSION = insert_into(_versions)
_VERSION_FITS = (
    _versions.c.managed_certificate_uid == bindparam("key"),
    _versions.c.number == bindparam("of_number"),
)
_GET_VERSION: Select[Any] = select(
    _versions.c.managed_certificate_uid,
    _versions.c.number,
    _versions.c.public_key,
    _versions.c.wrapping_key_number,
    _versions.c.authority_uid,
    _versions.c.serial,
    _versions.c.create_time,
).where(*_VERSION_FITS)
_SET_SERIAL = update_of(_versions).where(*_VERSION_FITS)


def _names_text(names: SubjectAlternativeNames) -> str:
    return json_text(
        {
            "dns_names": names.dns_names,
            "ip_addresses": names.ip_addresses,
            "uris": names.uris,
            "email_addresses": names.email_addresses,
        }
    )


def _names(text: str) -> SubjectAlternativeNames:
    kinds: dict[str, list[str]] = json.loads(text)
    return SubjectAlternativeNames(**{kind: tuple(names) for kind, names in kinds.items()})


def _conditions_text(conditions: Sequence[Condition]) -> str:
    return json_text(
        [
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "last_transition_time": microseconds(condition.last_transition_time),
            }
            for condition in conditions
        ]
    )


def _conditions(text: str) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            type=condition["type"],
            status=condition["status"],
            reason=condition["reason"],
            message=condition["message"],
            last_transition_time=time_of(condition["last_transition_time"]),
        )
        for condition in json.loads(text)
    )


def _managed_certificate(row: Row[Any]) -> ManagedCertificate:
    return ManagedCertificate(
        uid=row.uid,
        tenant=row.tenant,
        managed_certificate_id=row.managed_certificate_id,
        authority_uid=row.authority_uid,
        authority_name=row.authority_name,
        profile=row.profile,
        key_spec=KeySpec(row.key_spec),
        subject=row.subject,
        names=_names(row.names),
        lifetime=None if row.lifetime is None else duration_of(row.lifetime),
        exportable=row.exportable,
        state=ManagedCertificateState(row.state),
        current_version=row.current_version,
        not_after=optional_time_of(row.not_after),
        conditions=_conditions(row.conditions),
        next_attempt_time=optional_time_of(row.next_attempt_time),
        labels=labels_of(row.labels),
        create_time=time_of(row.create_time),
        update_time=time_of(row.update_time),
        revision=row.revision,
    )


def _mutable_columns(managed: ManagedCertificate) -> dict[str, object]:
    return {
        "authority_uid": managed.authority_uid,
        "authority_name": managed.authority_name,
        "profile": managed.profile,
        "key_spec": managed.key_spec.value,
        "subject": managed.subject,
        "names": _names_text(managed.names),
        "lifetime": None if managed.lifetime is None else duration_microseconds(managed.lifetime),
        "exportable": managed.exportable,
        "state": managed.state.value,
        "current_version": managed.current_version,
        "not_after": optional_microseconds(managed.not_after),
        "conditions": _conditions_text(managed.conditions),
        "next_attempt_time": optional_microseconds(managed.next_attempt_time),
        "labels": labels_text(managed.labels),
        "update_time": microseconds(managed.update_time),
    }


def insert(tx: Transaction, managed: ManagedCertificate) -> None:
    """Inserts a managed certificate; raises MANAGED_CERTIFICATE_EXISTS when its tenant has one with this id."""
    columns = _mutable_columns(managed) | {
        "uid": managed.uid,
        "tenant": managed.tenant,
        "managed_certificate_id": managed.managed_certificate_id,
        "create_time": microseconds(managed.create_time),
        "revision": managed.revision,
    }
    if tx.execute(_INSERT, columns).rowcount != 1:
        raise CertdError(
            Reason.MANAGED_CERTIFICATE_EXISTS,
            f"{managed.name} exists already: choose another id",
            resource=str(managed.name),
        )
    tenant_counts.add(tx, managed.tenant, Quota.MANAGED_CERTIFICATES)


def get(tx: Transaction, tenant: str, managed_certificate_id: str) -> ManagedCertificate | None:
    """Returns a managed certificate of a tenant; None when there is none."""
    row = tx.execute(_GET, {"of_tenant": tenant, "id": managed_certificate_id}).first()
    return None if row is None else _managed_certificate(row)


def get_by_uid(tx: Transaction, uid: str) -> ManagedCertificate | None:
    """Returns the managed certificate with this uid; None when there is none."""
    row = tx.execute(_GET_BY_UID, {"key": uid}).first()
    return None if row is None else _managed_certificate(row)


def page(tx: Transaction, tenant: str, *, after: str | None, limit: int) -> list[ManagedCertificate]:
    """Returns up to `limit` managed certificates of a tenant in the order of their ids, from behind the id `after`."""
    rows = tx.execute(_PAGE, {"of_tenant": tenant, "after": after or "", "most": limit})
    return [_managed_certificate(row) for row in rows]


def update(tx: Transaction, managed: ManagedCertificate, expected_revision: int) -> ManagedCertificate | None:
    """Replaces what may change, if the row still has `expected_revision`, and counts the revision up by one.

    Returns the managed certificate as it now stands; None, with nothing changed, when another was faster.
    """
    revision = expected_revision + 1
    columns = _mutable_columns(managed) | {
        "key": managed.uid,
        "expected_revision": expected_revision,
        "revision": revision,
    }
    return replace(managed, revision=revision) if tx.execute(_UPDATE, columns).rowcount == 1 else None


def insert_version(tx: Transaction, version: ManagedCertificateVersion) -> None:
    """Inserts a version."""
    tx.execute(
        _INSERT_VERSION,
        {
            "managed_certificate_uid": version.managed_certificate_uid,
            "number": version.number,
            "public_key": version.public_key,
            "wrapping_key_number": version.wrapping_key_number,
            "authority_uid": version.authority_uid,
            "serial": version.serial,
            "create_time": microseconds(version.create_time),
        },
    )


def get_version(tx: Transaction, managed_certificate_uid: str, number: int) -> ManagedCertificateVersion | None:
    """Returns a version; None when there is none."""
    row = tx.execute(_GET_VERSION, {"key": managed_certificate_uid, "of_number": number}).first()
    if row is None:
        return None
    return ManagedCertificateVersion(
        managed_certificate_uid=row.managed_certificate_uid,
        number=row.number,
        public_key=row.public_key,
        wrapping_key_number=row.wrapping_key_number,
        authority_uid=row.authority_uid,
        serial=row.serial,
        create_time=time_of(row.create_time),
    )


def set_version_serial(tx: Transaction, managed_certificate_uid: str, number: int, serial: str) -> bool:
    """Records the serial of a version's certificate; returns whether there is such a version."""
    parameters = {"key": managed_certificate_uid, "of_number": number, "serial": serial}
    return tx.execute(_SET_SERIAL, parameters).rowcount == 1
