"""Migration 3: identities, enrollment codes, grants with their makers, tenants with settings.

Code of migration 2 may go on using the database: what it does not write has defaults. What it makes meanwhile is not
counted against the quotas of its tenant, which that code does not know.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0003"
down_revision = "0002"

_TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds tables, columns and indexes."""
    op.add_column("tenants", sa.Column("display_name", _TEXT, nullable=False, server_default=sa.text("''")))
    op.add_column("tenants", sa.Column("settings", _TEXT, nullable=False, server_default=sa.text("'{}'")))
    op.add_column("tenants", sa.Column("update_time", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("tenants", sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")))
    op.add_column("grants", sa.Column("tenant", _TEXT, nullable=False, server_default=sa.text("''")))
    op.add_column("grants", sa.Column("creator", _TEXT, nullable=False, server_default=sa.text("'certd'")))
    op.add_column("grants", sa.Column("create_time", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.create_table(
        "identities",
        _text("tenant"),
        _text("identity_id"),
        _text("spiffe_id"),
        _text("state"),
        _number("create_time"),
        _number("update_time"),
        sa.PrimaryKeyConstraint("tenant", "identity_id", name="identities_key"),
        sa.UniqueConstraint("spiffe_id", name="identities_spiffe_id"),
    )
    op.create_table(
        "enrollment_codes",
        sa.Column("code_sha256", sa.LargeBinary(), nullable=False),
        _text("tenant"),
        _text("identity_id"),
        sa.Column("public_key_sha256", sa.LargeBinary(), nullable=True),
        _text("source_networks"),
        _text("creator"),
        _number("create_time"),
        _number("expire_time"),
        sa.Column("used_public_key_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("serial", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("code_sha256", name="enrollment_codes_key"),
    )
    op.create_index("enrollment_codes_identity", "enrollment_codes", ["tenant", "identity_id"])
    op.create_index("enrollment_codes_expire_time", "enrollment_codes", ["expire_time"])
    op.create_table(
        "tenant_counts",
        _text("tenant"),
        _text("kind"),
        _number("number"),
        sa.PrimaryKeyConstraint("tenant", "kind", name="tenant_counts_key"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="tenant_counts_tenant"),
    )
    for table in ("authorities", "managed_certificates", "profiles"):
        op.execute(
            f"INSERT INTO tenant_counts (tenant, kind, number) "  # noqa: S608  # Three names of our own.
            f"SELECT tenant, '{table}', count(*) FROM {table} WHERE tenant IS NOT NULL GROUP BY tenant"
        )
    op.execute("UPDATE schema_compatibility SET schema_number = 3 WHERE id = 1")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
