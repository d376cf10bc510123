"""Rows of managed certificates and of their versions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy import update as update_of

from certd.errors import CertdError, Reason
from certd.model.managed_certificate import (
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateType,
)
from certd.model.renewal import DEFAULT_RENEWAL_POLICY, MaintenanceWindow, RenewalMode, RenewalPolicy
from certd.model.tenant import Quota
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.store import managed_schema, tenant_counts
from certd.store.dialect import Many, insert_if_absent
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

_managed = managed_schema.managed_certificates

MANAGED_CERTIFICATE_COLUMNS = (
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
    _managed.c.type,
    _managed.c.renewal,
    _managed.c.renewal_window_start,
    _managed.c.renewal_window_end,
    _managed.c.forced_version,
    _managed.c.exported_version,
    _managed.c.export_time,
    _managed.c.issue_time,
    _managed.c.association_count,
)
"""What `managed_certificate_of` reads."""
_SELECT: Select[Any] = select(*MANAGED_CERTIFICATE_COLUMNS)
_OF_VERSION = (
    "state",
    "current_version",
    "not_after",
    "issue_time",
    "renewal_window_start",
    "renewal_window_end",
    "next_attempt_time",
    "conditions",
    "renewal_blocked",
    "update_time",
    "revision",
)
"""What changes with the current version."""
_GET = _SELECT.where(_managed.c.tenant == bindparam("of_tenant"), _managed.c.managed_certificate_id == bindparam("id"))
_GET_BY_UID = _SELECT.where(_managed.c.uid == bindparam("key"))
_PAGE = (
    _SELECT.where(_managed.c.tenant == bindparam("of_tenant"), _managed.c.managed_certificate_id > bindparam("after"))
    .order_by(_managed.c.managed_certificate_id)
    .limit(bindparam("most"))
)
_GET_MANY = _SELECT.where(_managed.c.uid.in_(bindparam("keys", expanding=True))).order_by(_managed.c.uid)
# Says nothing on SQLite, where nobody else writes meanwhile.
_GET_MANY_TO_CHANGE = _GET_MANY.with_for_update()
_REVISIONS = (
    select(_managed.c.uid, _managed.c.revision)
    .where(_managed.c.uid.in_(bindparam("keys", expanding=True)))
    .order_by(_managed.c.uid)
    .with_for_update()
)
_THERE = select(_managed.c.uid).where(_managed.c.uid.in_(bindparam("keys", expanding=True)))
_INSERT = insert_if_absent(_managed)
_SET_VERSIONS = Many(
    update_of(_managed)
    .where(_managed.c.uid == bindparam("key"), _managed.c.revision == bindparam("expected_revision"))
    .values({name: bindparam(f"new_{name}") for name in _OF_VERSION}),
    columns=("key", "expected_revision", *(f"new_{name}" for name in _OF_VERSION)),
    sqlite_text=f"""
        UPDATE managed_certificates
        SET {", ".join(f"{name} = made.column{place}" for place, name in enumerate(_OF_VERSION, start=3))}
        FROM (VALUES {{rows}}) AS made
        WHERE managed_certificates.uid = made.column1 AND managed_certificates.revision = made.column2
    """,  # noqa: S608  # Names of columns, all of them ours.
)
_UPDATE = update_of(_managed).where(
    _managed.c.uid == bindparam("key"), _managed.c.revision == bindparam("expected_revision")
)


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


def _renewal_text(policy: RenewalPolicy) -> str:
    if policy == DEFAULT_RENEWAL_POLICY:
        return "{}"
    return json_text(
        {
            "mode": policy.mode,
            "remaining_percent": policy.remaining_percent,
            "maintenance_windows": [
                {"cron": each.cron, "time_zone": each.time_zone, "duration": duration_microseconds(each.duration)}
                for each in policy.maintenance_windows
            ],
        }
    )


def renewal_of(text: str) -> RenewalPolicy:
    """Returns the renewal policy of its column."""
    if text == "{}":
        return DEFAULT_RENEWAL_POLICY
    read = json.loads(text)
    return RenewalPolicy(
        mode=RenewalMode(read["mode"]),
        remaining_percent=read["remaining_percent"],
        maintenance_windows=tuple(
            MaintenanceWindow(cron=each["cron"], time_zone=each["time_zone"], duration=duration_of(each["duration"]))
            for each in read["maintenance_windows"]
        ),
    )


def managed_certificate_of(row: Row[Any]) -> ManagedCertificate:
    """Returns the managed certificate of a row that has MANAGED_CERTIFICATE_COLUMNS."""
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
        type=ManagedCertificateType(row.type),
        renewal=renewal_of(row.renewal),
        renewal_window=(
            None
            if row.renewal_window_start is None
            else (time_of(row.renewal_window_start), time_of(row.renewal_window_end))
        ),
        forced_version=row.forced_version,
        exported_version=row.exported_version,
        export_time=optional_time_of(row.export_time),
        issue_time=optional_time_of(row.issue_time),
        association_count=row.association_count,
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
        "renewal": _renewal_text(managed.renewal),
        "renewal_window_start": optional_microseconds(managed.renewal_window and managed.renewal_window[0]),
        "renewal_window_end": optional_microseconds(managed.renewal_window and managed.renewal_window[1]),
        "forced_version": managed.forced_version,
        "exported_version": managed.exported_version,
        "export_time": optional_microseconds(managed.export_time),
        "issue_time": optional_microseconds(managed.issue_time),
        "association_count": managed.association_count,
        "renewal_blocked": managed.renewal_blocked,
    }


def insert(tx: Transaction, managed: ManagedCertificate) -> None:
    """Inserts a managed certificate; raises MANAGED_CERTIFICATE_EXISTS when its tenant has one with this id."""
    columns = _mutable_columns(managed) | {
        "uid": managed.uid,
        "tenant": managed.tenant,
        "managed_certificate_id": managed.managed_certificate_id,
        "create_time": microseconds(managed.create_time),
        "revision": managed.revision,
        "type": managed.type.value,
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
    return None if row is None else managed_certificate_of(row)


def get_by_uid(tx: Transaction, uid: str) -> ManagedCertificate | None:
    """Returns the managed certificate with this uid; None when there is none."""
    row = tx.execute(_GET_BY_UID, {"key": uid}).first()
    return None if row is None else managed_certificate_of(row)


def get_many(tx: Transaction, uids: Sequence[str], *, to_change: bool = False) -> list[ManagedCertificate]:
    """Returns those managed certificates that are there, by uid.

    With `to_change`, nobody else changes them until the transaction ends.
    """
    rows = tx.execute(_GET_MANY_TO_CHANGE if to_change else _GET_MANY, {"keys": list(uids)})
    return [managed_certificate_of(row) for row in rows]


def revisions(tx: Transaction, uids: Sequence[str]) -> dict[str, int]:
    """Returns the revisions of those that are there, which nobody else changes until the transaction ends."""
    return {row.uid: row.revision for row in tx.execute(_REVISIONS, {"keys": list(uids)})}


def there(tx: Transaction, uids: Sequence[str]) -> frozenset[str]:
    """Returns which of these are there."""
    return frozenset(tx.execute(_THERE, {"keys": list(uids)}).scalars())


def page(tx: Transaction, tenant: str, *, after: str | None, limit: int) -> list[ManagedCertificate]:
    """Returns up to `limit` managed certificates of a tenant in the order of their ids, from behind the id `after`."""
    rows = tx.execute(_PAGE, {"of_tenant": tenant, "after": after or "", "most": limit})
    return [managed_certificate_of(row) for row in rows]


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


def set_versions(tx: Transaction, several: Sequence[ManagedCertificate]) -> int:
    """Replaces all that changes with the current version, of those that still have the revision given here.

    Counts the revisions up by one; returns how many there were.
    """
    rows = []
    for managed in several:
        window = managed.renewal_window
        rows.append(
            {
                "key": managed.uid,
                "expected_revision": managed.revision,
                "new_state": managed.state.value,
                "new_current_version": managed.current_version,
                "new_not_after": optional_microseconds(managed.not_after),
                "new_issue_time": optional_microseconds(managed.issue_time),
                "new_renewal_window_start": optional_microseconds(window and window[0]),
                "new_renewal_window_end": optional_microseconds(window and window[1]),
                "new_next_attempt_time": optional_microseconds(managed.next_attempt_time),
                "new_conditions": _conditions_text(managed.conditions),
                "new_renewal_blocked": managed.renewal_blocked,
                "new_update_time": microseconds(managed.update_time),
                "new_revision": managed.revision + 1,
            }
        )
    return tx.execute_many(_SET_VERSIONS, rows)
