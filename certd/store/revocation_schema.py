"""The tables of CRLs, OCSP answers, revocation campaigns, checkpoints and the journal. Goes with `schema`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from certd.store.columns import bytes_column, metadata, number_column, text_column, time_column

# Certificates for a key of an authority that others signed than the issuer of its own certificate.
cross_certificates = Table(
    "cross_certificates",
    metadata,
    text_column("authority_uid"),
    number_column("key_number"),
    bytes_column("certificate_sha256"),
    bytes_column("certificate"),
    time_column("create_time"),
    PrimaryKeyConstraint("authority_uid", "key_number", "certificate_sha256", name="cross_certificates_key"),
)

# One row for each CRL that an authority key signs.
revocation_lists = Table(
    "revocation_lists",
    metadata,
    text_column("authority_uid"),
    number_column("key_number"),
    # 0: the complete CRL, which names no partition.
    number_column("partition"),
    # CRL number of the last one that is published; 0: none is.
    number_column("number"),
    # The highest that was ever given to one being made: no two that differ are signed with one number.
    number_column("claimed_number"),
    time_column("this_update", null=True),
    time_column("next_update", null=True),
    number_column("entry_count"),
    number_column("size_bytes"),
    bytes_column("sha256", null=True),
    # JSON list of every URI that was ever written into a certificate for it.
    text_column("urls"),
    # Since when there is something that the published one does not say; NULL: nothing.
    time_column("changed_time", null=True),
    text_column("last_error"),
    # The last one that was signed after everything had expired; no other follows.
    Column("final", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("authority_uid", "key_number", "partition", name="revocation_lists_key"),
)

FAILED = text("last_error <> ''")
"""Condition of a partial index, as of `schema`."""
Index(
    "revocation_lists_failed",
    revocation_lists.c.authority_uid,
    sqlite_where=FAILED,
    postgresql_where=FAILED,
)
Index("revocation_lists_next_update", revocation_lists.c.next_update)

# Their bytes, which no list of CRLs reads.
revocation_list_contents = Table(
    "revocation_list_contents",
    metadata,
    text_column("authority_uid"),
    number_column("key_number"),
    number_column("partition"),
    bytes_column("der"),
    PrimaryKeyConstraint("authority_uid", "key_number", "partition", name="revocation_list_contents_key"),
)

# Delegated responders (RFC 6960, section 4.2.2.2), each for one key of an authority.
ocsp_responders = Table(
    "ocsp_responders",
    metadata,
    text_column("authority_uid"),
    number_column("key_number"),
    # From 1; the highest with a certificate signs.
    number_column("number"),
    bytes_column("key_id"),
    bytes_column("policy"),
    bytes_column("public_key", null=True),
    bytes_column("certificate", null=True),
    time_column("not_after", null=True),
    time_column("create_time"),
    PrimaryKeyConstraint("authority_uid", "key_number", "number", name="ocsp_responders_key"),
    UniqueConstraint("key_id", name="ocsp_responders_key_id"),
)

# Answers that were signed ahead, without the certificate of their responder.
ocsp_responses = Table(
    "ocsp_responses",
    metadata,
    text_column("authority_uid"),
    number_column("key_number"),
    text_column("serial"),
    number_column("responder_number"),
    bytes_column("der"),
    time_column("this_update"),
    time_column("next_update"),
    PrimaryKeyConstraint("authority_uid", "key_number", "serial", name="ocsp_responses_key"),
    # The row is found by its key alone, and SQLite need not keep that twice.
    sqlite_with_rowid=False,
)
Index("ocsp_responses_next_update", ocsp_responses.c.next_update)

# Sets of certificates that are revoked.
revocation_campaigns = Table(
    "revocation_campaigns",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="revocation_campaigns_tenant")),
    text_column("campaign_id"),
    text_column("uid"),
    text_column("state"),
    # Canonical JSON of authority, selection, reason, invalidity and the rest of what was asked for.
    text_column("request"),
    # JSON of where the search goes on, and when the next managed certificate may be renewed.
    text_column("position"),
    number_column("found_count"),
    number_column("revoked_count"),
    number_column("unchanged_count"),
    number_column("failed_count"),
    # JSON list of names.
    text_column("failed_certificates"),
    text_column("creator"),
    time_column("create_time"),
    time_column("end_time", null=True),
    PrimaryKeyConstraint("tenant", "campaign_id", name="revocation_campaigns_key"),
    UniqueConstraint("uid", name="revocation_campaigns_uid"),
)
Index(
    "revocation_campaigns_page",
    revocation_campaigns.c.tenant,
    revocation_campaigns.c.create_time.desc(),
    revocation_campaigns.c.campaign_id,
)

# Keys in the token that sign checkpoints; the newest does.
checkpoint_keys = Table(
    "checkpoint_keys",
    metadata,
    number_column("number"),
    bytes_column("key_id"),
    bytes_column("policy"),
    bytes_column("public_key", null=True),
    text_column("signature_algorithm"),
    time_column("create_time"),
    PrimaryKeyConstraint("number", name="checkpoint_keys_key"),
    UniqueConstraint("key_id", name="checkpoint_keys_key_id"),
)

# Checkpoints that were signed, the newest of which is sent out.
checkpoints = Table(
    "checkpoints",
    metadata,
    number_column("seq"),
    bytes_column("statement"),
    bytes_column("signature"),
    number_column("key_number"),
    time_column("create_time"),
    PrimaryKeyConstraint("seq", name="checkpoints_key"),
)

# How far the journal of each token process was compared with the books.
journal_positions = Table(
    "journal_positions",
    metadata,
    # Random id that the journal begins with.
    text_column("journal"),
    Column("position", BigInteger, nullable=False),
    bytes_column("chain_hash"),
    time_column("update_time"),
    PrimaryKeyConstraint("journal", name="journal_positions_key"),
)
