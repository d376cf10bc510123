"""Migrations make what the schema says, and say who may use it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, inspect, text

from certd.clock import SystemClock
from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.tenant import Quota
from certd.store import (
    authorities,
    certificates,
    dialect,
    managed_certificates,
    managed_schema,
    managed_versions,
    notification_schema,
    profiles,
    revocation_schema,
    revocations,
    schema,
    tenant_counts,
)
from certd.store.columns import metadata
from certd.store.migration import migrate
from certd.store.store import Store, Transaction
from tests.store.older_schemas import BACK_TO_2, BACK_TO_3, go_back
from tests.store.samples import LATER, NOW, add_tenant, authority, completion, intent, managed, version
from tests.store.waiting import run_together


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Any:
    """An engine on the empty database, apart from the store."""
    url = dialect.parse_url(database_url)
    is_sqlite = dialect.engine_name(url) == dialect.SQLITE
    made = dialect.sqlite_writer_engine(url) if is_sqlite else dialect.postgresql_engine(url)
    yield made
    made.dispose()


def shape(connection: Connection) -> dict[str, Any]:
    """Everything that can be told of the tables, in a form that can be compared."""
    inspector = inspect(connection)
    tables: dict[str, Any] = {}
    for name in inspector.get_table_names():
        if name == "alembic_version":
            continue
        tables[name] = {
            "columns": [
                {**column, "type": str(column["type"]), "comment": None} for column in inspector.get_columns(name)
            ],
            "primary key": inspector.get_pk_constraint(name),
            "foreign keys": sorted(inspector.get_foreign_keys(name), key=str),
            "unique": sorted(inspector.get_unique_constraints(name), key=str),
            "checks": sorted(inspector.get_check_constraints(name), key=str),
        }
    if connection.dialect.name == "sqlite":
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    indexes += " AND {} <> 'alembic_version'".format("tbl_name" if "sqlite" in indexes else "tablename")
    tables["indexes"] = sorted((row[0], " ".join(row[1].split())) for row in connection.execute(text(indexes)))
    return tables


def test_the_migrations_make_what_the_schema_says(database_url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        metadata.create_all(connection)
        from_schema = shape(connection)
        metadata.drop_all(connection)
        connection.commit()
    assert len(from_schema) == len(metadata.tables) + 1
    of_each_module = {
        managed_schema.associations.name,
        notification_schema.notice_marks.name,
        revocation_schema.revocation_lists.name,
    }
    assert of_each_module <= from_schema.keys()
    migrate(database_url)
    with engine.connect() as connection:
        migrated = shape(connection)
    assert migrated == from_schema


def test_migrating_twice_changes_nothing(database_url: str, open_store: Callable[[str], Store], engine: Engine) -> None:
    store = open_store(database_url)
    add_tenant(store)
    store.close()
    with engine.connect() as connection:
        before = shape(connection)
    migrate(database_url)
    with engine.connect() as connection:
        assert shape(connection) == before
        assert connection.execute(text("SELECT tenant_id FROM tenants")).scalars().all() == ["default"]


def test_what_tenants_had_before_there_were_quotas_is_counted(
    database_url: str, open_store: Callable[[str], Store], engine: Engine
) -> None:
    migrate(database_url)
    store = open_store(database_url)
    for tenant_id, ids in (("default", ("a", "b")), ("other", ("a",))):
        add_tenant(store, tenant_id)
        for authority_id in ids:
            made = authority(authority_id, tenant=tenant_id)
            store.write("test", lambda tx, made=made: authorities.insert(tx, made))  # type: ignore[misc]  # Of lambdas.
    system = authority("system", tenant=None)
    store.write("test", lambda tx: authorities.insert(tx, system))
    store.write("test", lambda tx: profiles.insert(tx, "default", "own", document="{}", now=NOW))
    store.close()
    with engine.connect() as connection:
        go_back(connection, BACK_TO_2)
    migrate(database_url)
    with open_store(database_url).read("test") as tx:
        found = {
            (tenant_id, quota): number
            for tenant_id in ("default", "other")
            for quota in Quota
            if (number := tenant_counts.get(tx, tenant_id, quota))
        }
    assert found == {
        ("default", Quota.AUTHORITIES): 2,
        ("default", Quota.PROFILES): 1,
        ("other", Quota.AUTHORITIES): 1,
    }


def test_versions_of_before_learn_what_became_of_their_certificates(
    database_url: str, open_store: Callable[[str], Store], engine: Engine
) -> None:
    """The release before kept that with the certificates alone, and had one version of each."""
    migrate(database_url)
    store = open_store(database_url)
    add_tenant(store)
    # Names, whether it was issued, and whether it was revoked.
    cases = {"lives": (True, False), "revoked": (True, True), "pending": (False, False)}
    uids: dict[str, str] = {}

    def fill(tx: Transaction) -> None:
        for name, (issued, revoked) in cases.items():
            made = managed(name, state=ManagedCertificateState.ACTIVE, current_version=1 if issued else 0)
            uids[name] = made.uid
            managed_certificates.insert(tx, made)
            if issued:
                serial = f"0{len(uids)}"
                certificate = intent(serial=serial, authority_uid="ca", not_before=NOW, not_after=LATER)
                certificates.insert_intents(tx, [certificate])
                certificates.complete(tx, [completion(certificate)])
                managed_versions.insert(tx, replace(version(made), authority_uid="ca", serial=serial))
                if revoked:
                    reason = RevocationReason.SUPERSEDED
                    revocations.revoke(tx, "ca", serial, revoke_time=LATER, reason=reason, invalidity_time=None)

    store.write("test", fill)
    store.close()
    with engine.connect() as connection:
        go_back(connection, BACK_TO_3)
    migrate(database_url)
    with open_store(database_url).read("test") as tx:
        found = {name: managed_versions.get(tx, uid, 1) for name, uid in uids.items()}
        states = {name: managed_certificates.get_by_uid(tx, uid) for name, uid in uids.items()}
        jobs_of = tx.execute(text("SELECT subject FROM jobs")).scalars().all()
    told = {
        name: None if one is None else (one.not_before, one.not_after, one.revoke_time, one.revocation_reason)
        for name, one in found.items()
    }
    assert told == {
        "lives": (NOW, LATER, None, None),
        "revoked": (NOW, LATER, LATER, RevocationReason.SUPERSEDED),
        "pending": None,
    }
    assert {name: one.state.value for name, one in states.items() if one is not None} == {
        "lives": "ACTIVE",
        "revoked": "REVOKED",
        "pending": "ACTIVE",
    }
    # What was revoked is not renewed by itself.
    assert set(jobs_of) == {uids["lives"], uids["pending"]}


def test_migrations_beside_each_other_wait(empty_postgres_url: str) -> None:
    run_together([lambda: migrate(empty_postgres_url)] * 4)
    Store.open(empty_postgres_url, clock=SystemClock()).close()


def test_a_database_without_tables_is_refused(database_url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE something (id INTEGER)"))
        connection.commit()
    with pytest.raises(CertdError, match="run `certd migrate`") as caught:
        Store.open(database_url, clock=SystemClock())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    migrate(database_url)
    Store.open(database_url, clock=SystemClock()).close()


@pytest.mark.parametrize(
    ("schema_number", "oldest_code", "message"),
    [
        (schema.SCHEMA_NUMBER - 1, 1, "run `certd migrate`"),
        (schema.SCHEMA_NUMBER + 2, schema.SCHEMA_NUMBER + 1, "install the newer release"),
        (schema.SCHEMA_NUMBER + 1, schema.SCHEMA_NUMBER, None),
    ],
)
def test_the_database_says_which_code_may_use_it(
    database_url: str, engine: Engine, schema_number: int, oldest_code: int, message: str | None
) -> None:
    migrate(database_url)
    with engine.connect() as connection:
        connection.execute(
            text(f"UPDATE schema_compatibility SET schema_number = {schema_number}, oldest_code = {oldest_code}")
        )
        connection.commit()
    if message is None:
        Store.open(database_url, clock=SystemClock()).close()
        # The migrations of a newer release are left alone.
        migrate(database_url)
        return
    with pytest.raises(CertdError, match=message) as caught:
        Store.open(database_url, clock=SystemClock())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    if oldest_code > schema.SCHEMA_NUMBER:
        with pytest.raises(CertdError, match=message):
            migrate(database_url)


def test_the_newest_migration_says_the_number_of_the_schema(database_url: str, engine: Engine) -> None:
    migrate(database_url)
    with engine.connect() as connection:
        number, revision = connection.execute(
            text("SELECT schema_number, version_num FROM schema_compatibility, alembic_version")
        ).one()
    assert number == schema.SCHEMA_NUMBER == int(revision)
