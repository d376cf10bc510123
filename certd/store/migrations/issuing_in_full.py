"""Migration 2: profiles, names to search by, compromised keys, authorities with outside parents.

Code of migration 1 may go on using the database: what it does not write has defaults or may be NULL.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"

_TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds tables, columns and an index."""
    op.add_column("authorities", sa.Column("csr", sa.LargeBinary(), nullable=True))
    op.add_column("authorities", sa.Column("name_constraints", sa.LargeBinary(), nullable=True))
    op.add_column(
        "certificates", sa.Column("profile_version", sa.BigInteger(), nullable=False, server_default=sa.text("1"))
    )
    op.add_column("certificates", sa.Column("key_spec", _TEXT, nullable=True))
    op.add_column("certificates", sa.Column("invalidity_time", sa.BigInteger(), nullable=True))
    op.create_index("certificates_public_key", "certificates", ["public_key_sha256", "authority_uid"])
    op.create_table(
        "certificate_names",
        _text("authority_uid"),
        _text("serial"),
        _text("kind"),
        _text("name"),
        sa.PrimaryKeyConstraint("authority_uid", "serial", "kind", "name", name="certificate_names_key"),
        sqlite_with_rowid=False,
    )
    op.create_index("certificate_names_search", "certificate_names", ["authority_uid", "kind", "name", "serial"])
    op.create_table(
        "blocked_keys",
        _text("tenant"),
        sa.Column("public_key_sha256", sa.LargeBinary(), nullable=False),
        _text("authority_uid"),
        _text("serial"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("tenant", "public_key_sha256", name="blocked_keys_key"),
    )
    _profiles()
    configuration = op.create_table(
        "configuration_version",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        _number("version"),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("id = 1", name="configuration_version_is_one_row"),
    )
    op.bulk_insert(configuration, [{"id": 1, "version": 1}])
    op.execute("UPDATE schema_compatibility SET schema_number = 2 WHERE id = 1")


def _profiles() -> None:
    op.create_table(
        "profiles",
        _text("tenant"),
        _text("profile_id"),
        _number("version"),
        _number("create_time"),
        _number("update_time"),
        sa.PrimaryKeyConstraint("tenant", "profile_id", name="profiles_key"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="profiles_tenant"),
    )
    op.create_table(
        "profile_versions",
        _text("tenant"),
        _text("profile_id"),
        _number("version"),
        _text("document"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("tenant", "profile_id", "version", name="profile_versions_key"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="profile_versions_tenant"),
    )


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
