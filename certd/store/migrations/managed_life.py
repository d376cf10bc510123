"""Migration 4: the whole life of managed certificates: renewal, import, associations, campaigns, rotated wrapping keys.

Code of migration 3 may go on using the database: what it does not write has defaults. A renewal that it finds due it
takes for something finished; newer code looks for what has no job any more, and puts it again.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0004"
down_revision = "0003"

_TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds columns, tables and indexes, and a job for everything that will have to be renewed."""
    _add_columns()
    _add_associations()
    _add_import_keys()
    _add_campaigns()
    op.create_index("managed_certificates_not_after", "managed_certificates", ["state", "not_after", "uid"])
    op.create_index("sealed_keys_expire_time", "sealed_keys", ["expire_time"])
    _copy_certificates()
    op.execute(
        "INSERT INTO jobs (kind, subject, due_time, available_time, attempt) "
        "SELECT 'advance-managed-certificate', uid, update_time, update_time, 0 FROM managed_certificates "
        "WHERE state = 'ACTIVE' AND uid NOT IN "
        "(SELECT subject FROM jobs WHERE kind = 'advance-managed-certificate')"
    )
    op.execute("UPDATE schema_compatibility SET schema_number = 4 WHERE id = 1")


def _copy_certificates() -> None:
    """Says of versions what their certificates say; what has no version that lives is REVOKED."""
    of_version = (
        "(SELECT {} FROM certificates WHERE certificates.authority_uid = managed_certificate_versions.authority_uid"
        " AND certificates.serial = managed_certificate_versions.serial)"
    )
    columns = ("not_before", "not_after", "revoke_time", "revocation_reason")
    copied = ", ".join(f"{column} = {of_version.format(column)}" for column in columns)
    op.execute(f"UPDATE managed_certificate_versions SET {copied} WHERE serial IS NOT NULL")  # noqa: S608  # Constants.
    op.execute(
        "UPDATE managed_certificates SET state = 'REVOKED', next_attempt_time = NULL WHERE state = 'ACTIVE'"
        " AND EXISTS (SELECT 1 FROM managed_certificate_versions"
        " WHERE managed_certificate_versions.managed_certificate_uid = managed_certificates.uid"
        " AND managed_certificate_versions.number = managed_certificates.current_version"
        " AND managed_certificate_versions.revoke_time IS NOT NULL)"
    )


def _add_columns() -> None:
    for column in (
        _counter("reseal_count"),
        _counter("resealed_count"),
        _number("rotate_time", null=True),
        _number("retire_time", null=True),
        _number("destroy_time", null=True),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
    ):
        op.add_column("wrapping_keys", column)
    for column in (
        sa.Column("type", _TEXT, nullable=False, server_default=sa.text("'PRIVATE'")),
        sa.Column("renewal", _TEXT, nullable=False, server_default=sa.text("'{}'")),
        _number("renewal_window_start", null=True),
        _number("renewal_window_end", null=True),
        _counter("forced_version"),
        _counter("exported_version"),
        _number("export_time", null=True),
        _number("issue_time", null=True),
        _counter("association_count"),
        sa.Column("renewal_blocked", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    ):
        op.add_column("managed_certificates", column)
    for column in (
        _bytes("certificate", null=True),
        _bytes("chain", null=True),
        _number("not_before", null=True),
        _number("not_after", null=True),
        _number("revoke_time", null=True),
        _text("revocation_reason", null=True),
    ):
        op.add_column("managed_certificate_versions", column)
    op.add_column("sealed_keys", _number("expire_time", null=True))


def _add_associations() -> None:
    op.create_table(
        "associations",
        _text("managed_certificate_uid"),
        _text("association_id"),
        _text("tenant"),
        _text("consumer"),
        _text("consumer_spiffe_id"),
        _text("creator"),
        _number("create_time"),
        _number("leased_version"),
        _number("lease_time", null=True),
        _text("deployment", null=True),
        sa.PrimaryKeyConstraint("managed_certificate_uid", "association_id", name="associations_key"),
        sa.UniqueConstraint("managed_certificate_uid", "consumer_spiffe_id", name="associations_consumer"),
        sa.ForeignKeyConstraint(["managed_certificate_uid"], ["managed_certificates.uid"], name="associations_uid"),
    )
    op.create_index("associations_of_consumer", "associations", ["tenant", "consumer_spiffe_id"])
    op.create_table(
        "association_keys",
        _text("managed_certificate_uid"),
        _text("association_id"),
        _number("version"),
        _number("wrapping_key_number"),
        _bytes("blob"),
        sa.PrimaryKeyConstraint("managed_certificate_uid", "association_id", "version", name="association_keys_key"),
        sa.ForeignKeyConstraint(
            ["managed_certificate_uid", "association_id"],
            ["associations.managed_certificate_uid", "associations.association_id"],
            name="association_keys_association",
        ),
    )


def _add_import_keys() -> None:
    op.create_table(
        "import_keys",
        _text("tenant"),
        _text("import_key_id"),
        _bytes("public_key"),
        _number("wrapping_key_number"),
        _bytes("blob"),
        _bytes("statement"),
        _bytes("signature"),
        _text("signature_algorithm"),
        _bytes("authority_certificate"),
        _number("create_time"),
        _number("expire_time"),
        sa.PrimaryKeyConstraint("tenant", "import_key_id", name="import_keys_key"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="import_keys_tenant"),
    )
    op.create_index("import_keys_newest", "import_keys", ["tenant", "expire_time"])


def _add_campaigns() -> None:
    op.create_table(
        "renewal_campaigns",
        _text("tenant"),
        _text("renewal_campaign_id"),
        _text("uid"),
        _text("filter"),
        _number("renewals_per_minute"),
        _text("reason"),
        _text("state"),
        _number("next_renewal_time"),
        _text("selected_up_to"),
        sa.Column("selection_complete", sa.Boolean(), nullable=False),
        _number("selected_count"),
        _number("renewed_count"),
        _number("blocked_count"),
        _number("skipped_count"),
        _text("blocked"),
        _text("creator"),
        _number("create_time"),
        _number("end_time", null=True),
        sa.PrimaryKeyConstraint("tenant", "renewal_campaign_id", name="renewal_campaigns_key"),
        sa.UniqueConstraint("uid", name="renewal_campaigns_uid"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="renewal_campaigns_tenant"),
    )
    op.create_index(
        "renewal_campaigns_page",
        "renewal_campaigns",
        ["tenant", sa.text("create_time DESC"), "renewal_campaign_id"],
    )
    op.create_table(
        "renewal_campaign_members",
        _text("campaign_uid"),
        _text("managed_certificate_uid"),
        _number("version"),
        sa.PrimaryKeyConstraint("campaign_uid", "managed_certificate_uid", name="renewal_campaign_members_key"),
        sa.ForeignKeyConstraint(["campaign_uid"], ["renewal_campaigns.uid"], name="renewal_campaign_members_uid"),
    )


def _text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=null)


def _number(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _counter(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def _bytes(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=null)
