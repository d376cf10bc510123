"""What somebody who looks a server over asks of its books; some of it takes as long as there are rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Select, bindparam, exists, func, literal_column, or_, select, text

from certd.model.authority import AuthorityType
from certd.model.event import EventType
from certd.model.wrapping_key import WrappingKeyState
from certd.store import managed_schema, notification_schema, revocation_schema, schema
from certd.store.dialect import POSTGRESQL
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_time_of, time_of

_authorities = schema.authorities
_certificates = schema.certificates
_lists = revocation_schema.revocation_lists
_responders = revocation_schema.ocsp_responders
_subscriptions = notification_schema.subscriptions
_MOST: Final = 20

_TROUBLED_LISTS: Select[Any] = (
    select(_lists, _authorities.c.tenant, _authorities.c.authority_id)
    .join(_authorities, _authorities.c.uid == _lists.c.authority_uid)
    .where(
        _lists.c.final.is_(False),
        or_(
            _lists.c.last_error != "",
            _lists.c.next_update < bindparam("now"),
            _lists.c.changed_time < bindparam("long_ago"),
        ),
    )
    .order_by(_lists.c.next_update)
    .limit(_MOST)
)
_NEWEST_RESPONDERS: Select[Any] = select(
    _responders.c.authority_uid,
    _responders.c.key_number,
    func.max(_responders.c.not_after).label("not_after"),
    func.max(_responders.c.create_time).label("create_time"),
).group_by(_responders.c.authority_uid, _responders.c.key_number)
_LEAVES: Select[Any] = (
    select(_authorities.c.tenant, _authorities.c.authority_id, _certificates.c.serial, _certificates.c.profile)
    .join(_certificates, _certificates.c.authority_uid == _authorities.c.uid)
    .where(
        _authorities.c.type == AuthorityType.ROOT.value,
        _authorities.c.tenant.is_not(None),
        _certificates.c.state == literal_column("'ISSUED'"),
        _certificates.c.not_after > bindparam("now"),
        _certificates.c.profile.not_in(bindparam("of_authorities", expanding=True)),
    )
    .limit(_MOST)
)
_STUCK: Select[Any] = (
    select(schema.jobs.c.kind, schema.jobs.c.subject, schema.jobs.c.attempt, schema.jobs.c.available_time)
    .where(or_(schema.jobs.c.attempt >= bindparam("many"), schema.jobs.c.available_time < bindparam("long_ago")))
    .order_by(schema.jobs.c.available_time)
    .limit(_MOST)
)
_FAILING: Select[Any] = (
    select(
        _subscriptions.c.tenant,
        _subscriptions.c.subscription_id,
        _subscriptions.c.attempts,
        _subscriptions.c.last_error,
    )
    .where(_subscriptions.c.state == "ENABLED", _subscriptions.c.attempts > 0)
    .limit(_MOST)
)
_LAST_BACKUP = (
    select(schema.events.c.time)
    .where(schema.events.c.type == EventType.BACKUP_MADE.value)
    .order_by(schema.events.c.seq.desc())
    .limit(1)
)
_GRANTS: Select[Any] = (
    select(schema.grants.c.grant_id, schema.grants.c.principal, schema.grants.c.role, schema.grants.c.scope)
    .where(schema.grants.c.role == bindparam("of_role"), schema.grants.c.profiles.is_(None))
    .order_by(schema.grants.c.grant_id)
    .limit(_MOST)
)
_PROFILES: Select[Any] = (
    select(
        schema.profile_versions.c.tenant,
        schema.profile_versions.c.profile_id,
        schema.profile_versions.c.version,
        schema.profile_versions.c.document,
    )
    .join(
        schema.profiles,
        (schema.profiles.c.tenant == schema.profile_versions.c.tenant)
        & (schema.profiles.c.profile_id == schema.profile_versions.c.profile_id)
        & (schema.profiles.c.version == schema.profile_versions.c.version),
    )
    .order_by(schema.profile_versions.c.tenant, schema.profile_versions.c.profile_id)
)
_LIVE_OWNERS = (
    select(func.count())
    .select_from(schema.owners)
    .where(schema.owners.c.ended.is_(False), schema.owners.c.lease_until > bindparam("now"))
)
_UNESCROWED = select(managed_schema.wrapping_keys.c.tenant, managed_schema.wrapping_keys.c.number).where(
    managed_schema.wrapping_keys.c.escrow.is_(None),
    managed_schema.wrapping_keys.c.state.in_([literal_column("'PRIMARY'"), literal_column("'DECRYPT_ONLY'")]),
)


def _without_key(tenant: ColumnElement[Any], number: ColumnElement[Any], source: FromClause) -> Select[Any]:
    """Counts what is sealed under a wrapping key that is not there, or is destroyed."""
    keys = managed_schema.wrapping_keys
    key = exists().where(
        keys.c.tenant == tenant, keys.c.number == number, keys.c.state != WrappingKeyState.DESTROYED.value
    )
    return select(func.count()).select_from(source).where(~key)


_managed = managed_schema.managed_certificates
_custody = managed_schema.sealed_keys
_for_consumers = managed_schema.association_keys
_SEALED_WITHOUT_KEY: Final = (
    _without_key(
        _managed.c.tenant,
        _custody.c.wrapping_key_number,
        _custody.join(_managed, _managed.c.uid == _custody.c.managed_certificate_uid),
    ),
    _without_key(
        _managed.c.tenant,
        _for_consumers.c.wrapping_key_number,
        _for_consumers.join(_managed, _managed.c.uid == _for_consumers.c.managed_certificate_uid),
    ),
    *(
        _without_key(table.c.tenant, table.c.wrapping_key_number, table)
        for table in (managed_schema.import_keys, notification_schema.subscription_secrets)
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubledList:
    """A CRL that is not as it should be."""

    name: str
    """Of the authority, with key and partition."""
    next_update: datetime | None
    last_error: str
    changed_time: datetime | None


def troubled_lists(tx: Transaction, now: datetime, *, changed_before: datetime) -> list[TroubledList]:
    """Returns CRLs that cannot be signed, have ended, or lack what changed long ago; the first of them."""
    rows = tx.execute(_TROUBLED_LISTS, {"now": microseconds(now), "long_ago": microseconds(changed_before)})
    return [
        TroubledList(
            name=f"{_name(row)}, key {row.key_number}" + (f", partition {row.partition}" if row.partition else ""),
            next_update=optional_time_of(row.next_update),
            last_error=row.last_error,
            changed_time=optional_time_of(row.changed_time),
        )
        for row in rows
    ]


def newest_responders(tx: Transaction) -> dict[tuple[str, int], tuple[datetime, datetime]]:
    """Returns begin and end of the newest responder of each key of an authority, by uid and number."""
    return {
        (row.authority_uid, row.key_number): (time_of(row.create_time), time_of(row.not_after))
        for row in tx.execute(_NEWEST_RESPONDERS)
        if row.not_after is not None
    }


def leaves_of_roots(tx: Transaction, now: datetime, *, authority_profiles: Sequence[str]) -> list[str]:
    """Returns certificates that roots issued and that are none of authorities or responders; the first of them."""
    rows = tx.execute(_LEAVES, {"now": microseconds(now), "of_authorities": list(authority_profiles)})
    return [f"{_name(row)}/certificates/{row.serial} (profile {row.profile or 'none'})" for row in rows]


def stuck_jobs(tx: Transaction, now: datetime, *, attempts: int, overdue: timedelta) -> list[str]:
    """Returns jobs that were tried so often or are due for so long, in words; the first of them."""
    parameters = {"many": attempts, "long_ago": microseconds(now - overdue)}
    return [
        f"{row.kind} of {row.subject}: {row.attempt} attempts, due {time_of(row.available_time).isoformat()}"
        for row in tx.execute(_STUCK, parameters)
    ]


def failing_subscriptions(tx: Transaction) -> list[str]:
    """Returns subscriptions whose targets took nothing when they were last tried, in words; the first of them."""
    return [
        f"tenants/{row.tenant}/subscriptions/{row.subscription_id}: {row.attempts} attempts, {row.last_error}"
        for row in tx.execute(_FAILING)
    ]


def last_backup(tx: Transaction) -> datetime | None:
    """Returns when the last backup was recorded; looks at all events when there is none."""
    return optional_time_of(tx.execute(_LAST_BACKUP).scalar())


def grants_of_every_profile(tx: Transaction, role: str) -> list[tuple[str, str, str]]:
    """Returns principal, scope and id of grants of a role that are not limited to profiles; the first of them."""
    return [(row.principal, row.scope, row.grant_id) for row in tx.execute(_GRANTS, {"of_role": role})]


def profile_documents(tx: Transaction) -> list[tuple[str, str, int, str]]:
    """Returns tenant, id, version and document of each profile's newest version."""
    return [(row.tenant, row.profile_id, row.version, row.document) for row in tx.execute(_PROFILES)]


def daemons(tx: Transaction, now: datetime) -> int:
    """Returns how many daemons use the books."""
    found: int = tx.execute(_LIVE_OWNERS, {"now": microseconds(now)}).scalar_one()
    return found


def keys_without_escrow(tx: Transaction) -> list[str]:
    """Returns the names of wrapping keys that are in use and in no escrow."""
    return [f"tenants/{row.tenant}/wrappingKeys/{row.number}" for row in tx.execute(_UNESCROWED)]


def sealed_without_key(tx: Transaction) -> int:
    """Returns how many keys and secrets are sealed under a wrapping key that the books do not have any more."""
    return sum(int(tx.execute(one).scalar_one()) for one in _SEALED_WITHOUT_KEY)


def server_time(tx: Transaction) -> datetime | None:
    """Returns what the clock of a PostgreSQL server says; None on SQLite, which has none of its own."""
    if tx.engine_name != POSTGRESQL:
        return None
    found: datetime = tx.execute(text("SELECT clock_timestamp()")).scalar_one()
    return found


def server_settings(tx: Transaction) -> Mapping[str, str]:
    """Returns the settings of a PostgreSQL server on which it depends what a power cut leaves; none on SQLite."""
    if tx.engine_name != POSTGRESQL:
        return {}
    names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    # Of what the session asked for itself, the value of before.
    value = "CASE name WHEN 'synchronous_commit' THEN reset_val ELSE setting END AS value"
    rows = tx.execute(text(f"SELECT name, {value} FROM pg_settings"))  # noqa: S608  # Our own.
    return {str(row.name): str(row.value) for row in rows if row.name in names}


def _name(row: Any) -> str:  # noqa: ANN401  # Rows of several statements.
    return f"tenants/{row.tenant or '-'}/authorities/{row.authority_id}"
