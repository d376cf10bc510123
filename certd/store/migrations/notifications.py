"""Migration 5: subscriptions, notices before certificates end, and codes for downloads.

Code of migration 4 may go on using the database: it knows nothing of these tables, and does no job of the new kinds.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0005"
down_revision = "0004"

_TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds tables and indexes."""
    _add_subscriptions()
    _add_deliveries()
    _add_notices()
    _add_download_codes()
    op.create_index("associations_everywhere", "associations", ["consumer_spiffe_id"])
    op.execute("UPDATE schema_compatibility SET schema_number = 5 WHERE id = 1")


def _add_subscriptions() -> None:
    op.create_table(
        "subscriptions",
        _text("tenant"),
        _text("subscription_id"),
        _text("uid"),
        _text("kind"),
        _text("target"),
        _text("event_types"),
        _text("resource"),
        _text("state"),
        _number("delivered_seq"),
        _number("delivery_time", null=True),
        _number("attempts"),
        _text("last_error"),
        _number("next_attempt_time", null=True),
        _text("display_name"),
        _text("creator"),
        _number("create_time"),
        _number("update_time"),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("tenant", "subscription_id", name="subscriptions_key"),
        sa.UniqueConstraint("uid", name="subscriptions_uid"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="subscriptions_tenant"),
    )
    op.create_table(
        "subscription_secrets",
        _text("subscription_uid"),
        _number("number"),
        _text("tenant"),
        _number("wrapping_key_number"),
        _bytes("blob"),
        _number("expire_time", null=True),
        sa.PrimaryKeyConstraint("subscription_uid", "number", name="subscription_secrets_key"),
        sa.ForeignKeyConstraint(["subscription_uid"], ["subscriptions.uid"], name="subscription_secrets_uid"),
    )
    op.create_index("subscription_secrets_wrapping_key", "subscription_secrets", ["tenant", "wrapping_key_number"])
    op.create_index("subscription_secrets_expire_time", "subscription_secrets", ["expire_time"])


def _add_deliveries() -> None:
    op.create_table(
        "deliveries",
        _text("subscription_uid"),
        _number("seq"),
        _text("resource"),
        _text("state"),
        _number("attempts"),
        _text("error"),
        _number("due_time", null=True),
        _number("fail_time", null=True),
        sa.PrimaryKeyConstraint("subscription_uid", "seq", name="deliveries_key"),
        sa.ForeignKeyConstraint(["subscription_uid"], ["subscriptions.uid"], name="deliveries_uid"),
    )
    op.create_index("deliveries_state", "deliveries", ["subscription_uid", "state", "seq"])
    op.create_index("deliveries_resource", "deliveries", ["subscription_uid", "resource", "seq"])


def _add_notices() -> None:
    op.create_table(
        "notice_marks",
        _text("kind"),
        _number("days"),
        _number("told_until"),
        _text("told_uid"),
        sa.PrimaryKeyConstraint("kind", "days", name="notice_marks_key"),
    )
    op.add_column("managed_certificate_versions", sa.Column("told", _TEXT, nullable=True))
    op.add_column("authorities", sa.Column("told", _TEXT, nullable=True))
    op.create_index("authorities_not_after", "authorities", ["not_after", "uid"])
    for column in (
        sa.Column("late", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("late_version", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("associations", column)


def _add_download_codes() -> None:
    op.create_table(
        "download_codes",
        _bytes("code_sha256"),
        _text("managed_certificate_uid"),
        _text("source_networks"),
        _text("reason"),
        _text("creator"),
        _number("create_time"),
        _number("expire_time"),
        _number("use_time", null=True),
        sa.PrimaryKeyConstraint("code_sha256", name="download_codes_key"),
    )
    op.create_index("download_codes_managed_certificate", "download_codes", ["managed_certificate_uid"])
    op.create_index("download_codes_expire_time", "download_codes", ["expire_time"])


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _number(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _bytes(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)
