"""The way back to older schemas, for tests of what migrations do with what is there."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, text, update

from certd.model.event import NumberedEvent
from certd.store import schema
from certd.store.transaction import PendingEvent
from tests.store.samples import event


def _new_columns(table: str, *names: str) -> tuple[str, ...]:
    return tuple(f"ALTER TABLE {table} DROP COLUMN {name}" for name in names)


BACK_TO_6 = (
    "DROP TABLE journal_positions",
    *_new_columns("wrapping_keys", "escrow"),
    "DROP TABLE checkpoints",
    "DROP TABLE checkpoint_keys",
    "DROP TABLE revocation_campaigns",
    "DROP TABLE ocsp_responses",
    "DROP TABLE ocsp_responders",
    "DROP TABLE revocation_list_contents",
    "DROP TABLE revocation_lists",
    "DROP TABLE cross_certificates",
    "DROP INDEX certificates_not_after",
    "DROP INDEX certificates_revoked",
    "DROP INDEX certificates_revoked_code",
    *_new_columns("certificates", "crl_partition"),
    *_new_columns(
        "authority_keys",
        "state",
        "state_time",
        "key_spec",
        "signature_algorithm",
        "certificate",
        "chain",
        "not_after",
        "path_length",
        "csr",
        "lifetime",
        "cross_certify",
    ),
    "DROP INDEX authorities_purge_time",
    *_new_columns("authorities", "usage_mode", "revocation", "deletion_protection", "delete_time", "purge_time"),
    "UPDATE alembic_version SET version_num = '0006'",
    "UPDATE schema_compatibility SET schema_number = 6, oldest_code = 6",
)
BACK_TO_5 = (
    *BACK_TO_6,
    *_new_columns("events", "salt"),
    *_new_columns("event_sequence", "salted_from"),
    "ALTER TABLE event_sequence RENAME COLUMN numberer TO holder",
    "UPDATE alembic_version SET version_num = '0005'",
    "UPDATE schema_compatibility SET schema_number = 5, oldest_code = 1",
)
BACK_TO_4 = (
    *BACK_TO_5,
    "DROP INDEX authorities_not_after",
    *_new_columns("authorities", "told"),
    *_new_columns("managed_certificate_versions", "told"),
    *_new_columns("associations", "late", "late_version"),
    "DROP TABLE notice_marks",
    "DROP TABLE download_codes",
    "DROP TABLE deliveries",
    "DROP TABLE subscription_secrets",
    "DROP TABLE subscriptions",
)
BACK_TO_3 = (
    *BACK_TO_4,
    "DROP TABLE renewal_campaign_members",
    "DROP TABLE renewal_campaigns",
    "DROP TABLE import_keys",
    "DROP TABLE association_keys",
    "DROP TABLE associations",
    "DROP INDEX managed_certificates_not_after",
    "DROP INDEX sealed_keys_expire_time",
    *_new_columns(
        "wrapping_keys",
        "reseal_count",
        "resealed_count",
        "rotate_time",
        "retire_time",
        "destroy_time",
        "revision",
    ),
    *_new_columns(
        "managed_certificates",
        "type",
        "renewal",
        "renewal_window_start",
        "renewal_window_end",
        "forced_version",
        "exported_version",
        "export_time",
        "issue_time",
        "association_count",
        "renewal_blocked",
    ),
    *_new_columns(
        "managed_certificate_versions",
        "certificate",
        "chain",
        "not_before",
        "not_after",
        "revoke_time",
        "revocation_reason",
    ),
    *_new_columns("sealed_keys", "expire_time"),
    "UPDATE alembic_version SET version_num = '0003'",
    "UPDATE schema_compatibility SET schema_number = 3",
)
BACK_TO_2 = (
    *BACK_TO_3,
    "DROP TABLE tenant_counts",
    "DROP TABLE enrollment_codes",
    "DROP TABLE identities",
    *(f"ALTER TABLE tenants DROP COLUMN {name}" for name in ("display_name", "settings", "update_time", "revision")),
    *(f"ALTER TABLE grants DROP COLUMN {name}" for name in ("tenant", "creator", "create_time")),
    "UPDATE alembic_version SET version_num = '0002'",
    "UPDATE schema_compatibility SET schema_number = 2",
)


OLD_EVENTS = tuple(
    NumberedEvent(seq=seq, event=sample, chain_hash=bytes.fromhex(chain_hash))
    for seq, sample, chain_hash in (
        (1, event("old-1"), "2d6e4e4a4064dd6a1b3544db72bc99bb593a7edb7982a04237e7041a1b9f08da"),
        (
            2,
            event("old-2", tenant=None, details={}),
            "068aedb67b5579b6915ad4f0238942f2dde9df37b57c73b993b66b4b24bc558b",
        ),
        (
            3,
            event("old-3", principal="spiffe://x/y"),
            "cd9fadbfc57689e6892c36aa63cdff9de53e9cc5e8cc83ed90ae4c4181c5f6c5",
        ),
    )
)
"""Events with the hashes that code of schema 5 gave them."""


def go_back(connection: Connection, statements: Sequence[str]) -> None:
    """Makes an older schema of the newest."""
    for statement in statements:
        connection.execute(text(statement))
    connection.commit()


def insert_old_events(connection: Connection) -> None:
    """Writes OLD_EVENTS as code of schema 5 did, into its tables."""
    for old in OLD_EVENTS:
        columns = {**PendingEvent(old.event).columns, "seq": old.seq, "chain_hash": old.chain_hash}
        connection.execute(insert(schema.events), columns)
    last = OLD_EVENTS[-1]
    connection.execute(update(schema.event_sequence), {"last_seq": last.seq, "last_hash": last.chain_hash})
    connection.commit()
