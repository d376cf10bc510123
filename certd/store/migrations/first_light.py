"""Migration 1: the tables of the first release."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None

_TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_COUNTER: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables and their first rows."""
    _bookkeeping()
    _tenants_and_access()
    _authorities()
    _certificates()
    _managed_certificates()
    _work()
    _events()


def _column(name: str, kind: TypeEngine[Any], *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def _text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return _column(name, _TEXT, null=null)


def _number(name: str, *, null: bool = False) -> sa.Column[Any]:
    return _column(name, sa.BigInteger(), null=null)


def _bytes(name: str, *, null: bool = False) -> sa.Column[Any]:
    return _column(name, sa.LargeBinary(), null=null)


def _bookkeeping() -> None:
    compatibility = op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("schema_number", sa.Integer(), nullable=False),
        sa.Column("oldest_code", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("id = 1", name="schema_compatibility_is_one_row"),
    )
    op.bulk_insert(compatibility, [{"id": 1, "schema_number": 1, "oldest_code": 1}])


def _tenants_and_access() -> None:
    op.create_table(
        "tenants",
        _text("tenant_id"),
        _text("uid"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("tenant_id"),
        sa.UniqueConstraint("uid", name="tenants_uid"),
    )
    op.create_table(
        "grants",
        _text("grant_id"),
        _text("principal"),
        _text("role"),
        _text("scope"),
        _text("profiles", null=True),
        sa.PrimaryKeyConstraint("grant_id"),
    )
    op.create_index("grants_principal", "grants", ["principal"])


def _authorities() -> None:
    op.create_table(
        "authorities",
        _text("uid"),
        _text("tenant", null=True),
        _text("authority_id"),
        _text("type"),
        _text("state"),
        _text("key_spec"),
        _text("signature_algorithm"),
        _bytes("subject"),
        _number("lifetime"),
        _number("path_length"),
        _text("issuer_uid", null=True),
        _number("key_number"),
        _bytes("certificate", null=True),
        _bytes("chain"),
        _number("not_after", null=True),
        _text("labels"),
        _number("create_time"),
        _number("update_time"),
        _number("revision"),
        sa.PrimaryKeyConstraint("uid"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="authorities_tenant"),
        sa.UniqueConstraint("tenant", "authority_id", name="authorities_tenant_authority_id"),
    )
    op.create_index(
        "authorities_system_authority_id",
        "authorities",
        ["authority_id"],
        unique=True,
        sqlite_where=sa.text("tenant IS NULL"),
        postgresql_where=sa.text("tenant IS NULL"),
    )
    op.create_table(
        "authority_keys",
        _text("authority_uid"),
        _number("number"),
        _bytes("key_id"),
        _bytes("policy"),
        _bytes("public_key", null=True),
        sa.PrimaryKeyConstraint("authority_uid", "number", name="authority_keys_key"),
        sa.ForeignKeyConstraint(["authority_uid"], ["authorities.uid"], name="authority_keys_authority_uid"),
        sa.UniqueConstraint("key_id", name="authority_keys_key_id"),
    )


def _certificates() -> None:
    op.create_table(
        "certificates",
        _text("authority_uid"),
        _text("serial"),
        _bytes("issuer_name_sha256"),
        _number("key_number"),
        _text("state"),
        _bytes("tbs", null=True),
        _bytes("der", null=True),
        _text("profile"),
        _text("subject_text"),
        _number("not_before"),
        _number("not_after"),
        _bytes("public_key_sha256"),
        _text("managed_certificate_uid", null=True),
        _number("managed_certificate_version", null=True),
        _text("labels"),
        _number("owner_epoch"),
        _number("create_time"),
        _number("revoke_time", null=True),
        _text("revocation_reason", null=True),
        sa.PrimaryKeyConstraint("authority_uid", "serial", name="certificates_key"),
        sa.UniqueConstraint("issuer_name_sha256", "serial", name="certificates_issuer_name_serial"),
    )
    op.create_index("certificates_page", "certificates", ["authority_uid", sa.text("create_time DESC"), "serial"])
    op.create_index(
        "certificates_pending",
        "certificates",
        ["owner_epoch"],
        sqlite_where=sa.text("state = 'PENDING'"),
        postgresql_where=sa.text("state = 'PENDING'"),
    )


def _managed_certificates() -> None:
    op.create_table(
        "wrapping_keys",
        _text("tenant"),
        _number("number"),
        _bytes("key_id"),
        _text("state"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("tenant", "number", name="wrapping_keys_key"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="wrapping_keys_tenant"),
        sa.UniqueConstraint("key_id", name="wrapping_keys_key_id"),
    )
    op.create_index(
        "wrapping_keys_primary",
        "wrapping_keys",
        ["tenant"],
        unique=True,
        sqlite_where=sa.text("state = 'PRIMARY'"),
        postgresql_where=sa.text("state = 'PRIMARY'"),
    )
    op.create_table(
        "managed_certificates",
        _text("uid"),
        _text("tenant"),
        _text("managed_certificate_id"),
        _text("authority_uid"),
        _text("authority_name"),
        _text("profile"),
        _text("key_spec"),
        _bytes("subject"),
        _text("names"),
        _number("lifetime", null=True),
        _column("exportable", sa.Boolean()),
        _text("state"),
        _number("current_version"),
        _number("not_after", null=True),
        _text("conditions"),
        _number("next_attempt_time", null=True),
        _text("labels"),
        _number("create_time"),
        _number("update_time"),
        _number("revision"),
        sa.PrimaryKeyConstraint("uid"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="managed_certificates_tenant"),
        sa.UniqueConstraint("tenant", "managed_certificate_id", name="managed_certificates_tenant_id"),
    )
    op.create_table(
        "managed_certificate_versions",
        _text("managed_certificate_uid"),
        _number("number"),
        _bytes("public_key"),
        _number("wrapping_key_number"),
        _text("authority_uid"),
        _text("serial", null=True),
        _number("create_time"),
        sa.PrimaryKeyConstraint("managed_certificate_uid", "number", name="managed_certificate_versions_key"),
        sa.ForeignKeyConstraint(
            ["managed_certificate_uid"], ["managed_certificates.uid"], name="managed_certificate_versions_uid"
        ),
    )
    op.create_table(
        "sealed_keys",
        _text("managed_certificate_uid"),
        _number("version"),
        _number("wrapping_key_number"),
        _bytes("blob"),
        sa.PrimaryKeyConstraint("managed_certificate_uid", "version", name="sealed_keys_key"),
        sa.ForeignKeyConstraint(
            ["managed_certificate_uid", "version"],
            ["managed_certificate_versions.managed_certificate_uid", "managed_certificate_versions.number"],
            name="sealed_keys_version",
        ),
    )


def _work() -> None:
    op.create_table(
        "request_records",
        _text("principal"),
        _text("method"),
        _text("request_id"),
        _bytes("request_sha256"),
        _text("resource", null=True),
        _number("create_time"),
        sa.PrimaryKeyConstraint("principal", "method", "request_id", name="request_records_key"),
    )
    op.create_index("request_records_create_time", "request_records", ["create_time"])
    op.create_index("request_records_resource", "request_records", ["resource"])
    op.create_table(
        "jobs",
        _text("kind"),
        _text("subject"),
        _number("due_time"),
        _number("available_time"),
        _number("attempt"),
        _number("owner_epoch", null=True),
        sa.PrimaryKeyConstraint("kind", "subject", name="jobs_key"),
    )
    op.create_index("jobs_available_time", "jobs", ["available_time"])
    op.create_index("jobs_claimed", "jobs", ["owner_epoch"])
    op.create_table(
        "owners",
        sa.Column("epoch", _COUNTER, autoincrement=True, nullable=False),
        _number("begin_time"),
        _number("lease_until"),
        _column("ended", sa.Boolean()),
        sa.PrimaryKeyConstraint("epoch"),
        sqlite_autoincrement=True,
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", _COUNTER, autoincrement=False, nullable=False),
        _number("time"),
        _text("type"),
        _text("tenant", null=True),
        _text("principal"),
        _text("resource"),
        _text("details"),
        _bytes("chain_hash"),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("events_tenant", "events", ["tenant", "seq"])
    op.create_table(
        "unnumbered_events",
        sa.Column("id", _COUNTER, autoincrement=True, nullable=False),
        _number("time"),
        _text("type"),
        _text("tenant", null=True),
        _text("principal"),
        _text("resource"),
        _text("details"),
        sa.PrimaryKeyConstraint("id"),
    )
    sequence = op.create_table(
        "event_sequence",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        _number("last_seq"),
        _bytes("last_hash"),
        _text("holder", null=True),
        _number("lease_until", null=True),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("id = 1", name="event_sequence_is_one_row"),
    )
    op.bulk_insert(sequence, [{"id": 1, "last_seq": 0, "last_hash": bytes(32)}])
