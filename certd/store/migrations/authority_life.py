"""Migration 7: CRLs, OCSP answers, keys of authorities that follow one another, and what proves the record.

Code of migration 6 must not issue any more: what it issues names no CRL that new settings ask for, and it does not know
of keys that took another's place.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0007"
down_revision = "0006"

_TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_REVOKED = sa.text("state IN ('REVOKED', 'LOST')")
_FAILED = sa.text("last_error <> ''")
_CODE_SIGNING = "06082b06010505070303"


def upgrade() -> None:
    """Adds tables, columns and indexes."""
    _widen_authorities()
    _widen_certificates()
    _add_revocation_lists()
    _add_responders()
    _add_campaigns()
    _add_proofs()
    op.execute("UPDATE schema_compatibility SET schema_number = 7, oldest_code = 7 WHERE id = 1")


def _widen_authorities() -> None:
    op.add_column("authorities", _text("usage_mode", default="GENERAL_PURPOSE"))
    # Nothing of before names a CRL or a responder, and its operator has not asked for them.
    op.add_column("authorities", _text("revocation", default="{}"))
    settings = sa.bindparam("settings", '{"crl":{"enabled":false},"ocsp":{"enabled":false}}', sa.Text())
    op.execute(sa.text("UPDATE authorities SET revocation = :settings WHERE tenant IS NOT NULL").bindparams(settings))
    op.add_column(
        "authorities", sa.Column("deletion_protection", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    )
    op.add_column("authorities", _number("delete_time", null=True))
    op.add_column("authorities", _number("purge_time", null=True))
    op.create_index("authorities_purge_time", "authorities", ["purge_time"])
    op.add_column("authority_keys", _text("state", default="ACTIVE"))
    op.add_column(
        "authority_keys", sa.Column("state_time", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("authority_keys", _text("key_spec", null=True))
    op.add_column("authority_keys", _text("signature_algorithm", null=True))
    op.add_column("authority_keys", _bytes("certificate", null=True))
    op.add_column("authority_keys", _bytes("chain", null=True))
    op.add_column("authority_keys", _number("not_after", null=True))
    op.add_column("authority_keys", _number("path_length", null=True))
    op.add_column("authority_keys", _bytes("csr", null=True))
    op.add_column("authority_keys", _number("lifetime", null=True))
    op.add_column(
        "authority_keys", sa.Column("cross_certify", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    )
    for column in ("key_spec", "signature_algorithm", "certificate", "chain", "not_after", "path_length", "csr"):
        op.execute(
            f"UPDATE authority_keys SET {column} = (SELECT authorities.{column} FROM authorities"  # noqa: S608  # Our own.
            " WHERE authorities.uid = authority_keys.authority_uid)"
        )
    op.create_table(
        "cross_certificates",
        _text("authority_uid"),
        _number("key_number"),
        _bytes("certificate_sha256"),
        _bytes("certificate"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("authority_uid", "key_number", "certificate_sha256", name="cross_certificates_key"),
    )


def _widen_certificates() -> None:
    op.add_column("certificates", _number("crl_partition", null=True))
    op.create_index(
        "certificates_revoked",
        "certificates",
        ["authority_uid", "key_number", "crl_partition", "not_after", "serial"],
        sqlite_where=_REVOKED,
        postgresql_where=_REVOKED,
    )
    op.create_index(
        "certificates_revoked_code",
        "certificates",
        ["authority_uid", "key_number", "crl_partition", "not_after", "serial"],
        sqlite_where=sa.text(f"{_REVOKED.text} AND instr(coalesce(der, tbs), X'{_CODE_SIGNING}') > 0"),
        postgresql_where=sa.text(
            f"{_REVOKED.text} AND position('\\x{_CODE_SIGNING}'::bytea IN coalesce(der, tbs)) > 0"
        ),
    )
    op.create_index("certificates_not_after", "certificates", ["authority_uid", "key_number", "not_after", "serial"])


def _add_revocation_lists() -> None:
    op.create_table(
        "revocation_lists",
        _text("authority_uid"),
        _number("key_number"),
        _number("partition"),
        _number("number"),
        _number("claimed_number"),
        _number("this_update", null=True),
        _number("next_update", null=True),
        _number("entry_count"),
        _number("size_bytes"),
        _bytes("sha256", null=True),
        _text("urls"),
        _number("changed_time", null=True),
        _text("last_error"),
        sa.Column("final", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("authority_uid", "key_number", "partition", name="revocation_lists_key"),
    )
    op.create_index(
        "revocation_lists_failed",
        "revocation_lists",
        ["authority_uid"],
        sqlite_where=_FAILED,
        postgresql_where=_FAILED,
    )
    op.create_index("revocation_lists_next_update", "revocation_lists", ["next_update"])
    op.create_table(
        "revocation_list_contents",
        _text("authority_uid"),
        _number("key_number"),
        _number("partition"),
        _bytes("der"),
        sa.PrimaryKeyConstraint("authority_uid", "key_number", "partition", name="revocation_list_contents_key"),
    )


def _add_responders() -> None:
    op.create_table(
        "ocsp_responders",
        _text("authority_uid"),
        _number("key_number"),
        _number("number"),
        _bytes("key_id"),
        _bytes("policy"),
        _bytes("public_key", null=True),
        _bytes("certificate", null=True),
        _number("not_after", null=True),
        _number("create_time"),
        sa.PrimaryKeyConstraint("authority_uid", "key_number", "number", name="ocsp_responders_key"),
        sa.UniqueConstraint("key_id", name="ocsp_responders_key_id"),
    )
    op.create_table(
        "ocsp_responses",
        _text("authority_uid"),
        _number("key_number"),
        _text("serial"),
        _number("responder_number"),
        _bytes("der"),
        _number("this_update"),
        _number("next_update"),
        sa.PrimaryKeyConstraint("authority_uid", "key_number", "serial", name="ocsp_responses_key"),
        sqlite_with_rowid=False,
    )
    op.create_index("ocsp_responses_next_update", "ocsp_responses", ["next_update"])


def _add_campaigns() -> None:
    op.create_table(
        "revocation_campaigns",
        _text("tenant"),
        _text("campaign_id"),
        _text("uid"),
        _text("state"),
        _text("request"),
        _text("position"),
        _number("found_count"),
        _number("revoked_count"),
        _number("unchanged_count"),
        _number("failed_count"),
        _text("failed_certificates"),
        _text("creator"),
        _number("create_time"),
        _number("end_time", null=True),
        sa.PrimaryKeyConstraint("tenant", "campaign_id", name="revocation_campaigns_key"),
        sa.UniqueConstraint("uid", name="revocation_campaigns_uid"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="revocation_campaigns_tenant"),
    )
    op.create_index(
        "revocation_campaigns_page", "revocation_campaigns", ["tenant", sa.text("create_time DESC"), "campaign_id"]
    )


def _add_proofs() -> None:
    op.create_table(
        "checkpoint_keys",
        _number("number"),
        _bytes("key_id"),
        _bytes("policy"),
        _bytes("public_key", null=True),
        _text("signature_algorithm"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("number", name="checkpoint_keys_key"),
        sa.UniqueConstraint("key_id", name="checkpoint_keys_key_id"),
    )
    op.create_table(
        "checkpoints",
        _number("seq"),
        _bytes("statement"),
        _bytes("signature"),
        _number("key_number"),
        _number("create_time"),
        sa.PrimaryKeyConstraint("seq", name="checkpoints_key"),
    )
    op.add_column("wrapping_keys", _bytes("escrow", null=True))
    op.create_table(
        "journal_positions",
        _text("journal"),
        _number("position"),
        _bytes("chain_hash"),
        _number("update_time"),
        sa.PrimaryKeyConstraint("journal", name="journal_positions_key"),
    )


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=null, server_default=None if default is None else sa.text(f"'{default}'"))


def _number(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _bytes(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=null)
