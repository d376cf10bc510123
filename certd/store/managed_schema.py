"""The tables of managed certificates, and of the keys under which theirs are sealed. Goes with `schema`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from certd.store.columns import bytes_column, metadata, number_column, text_column, time_column

wrapping_keys = Table(
    "wrapping_keys",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="wrapping_keys_tenant")),
    number_column("number"),
    bytes_column("key_id"),
    text_column("state"),
    time_column("create_time"),
    # How many keys were sealed under it when it stopped being primary, and how many of them were sealed anew.
    Column("reseal_count", BigInteger, nullable=False, server_default=text("0")),
    Column("resealed_count", BigInteger, nullable=False, server_default=text("0")),
    time_column("rotate_time", null=True),
    time_column("retire_time", null=True),
    time_column("destroy_time", null=True),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    # The key encrypted to the recovery key, see `pki.escrow`; NULL: it is in the token alone.
    bytes_column("escrow", null=True),
    PrimaryKeyConstraint("tenant", "number", name="wrapping_keys_key"),
    UniqueConstraint("key_id", name="wrapping_keys_key_id"),
)
Index(
    "wrapping_keys_primary",
    wrapping_keys.c.tenant,
    unique=True,
    sqlite_where=text("state = 'PRIMARY'"),
    postgresql_where=text("state = 'PRIMARY'"),
)

managed_certificates = Table(
    "managed_certificates",
    metadata,
    text_column("uid", primary_key=True),
    text_column("tenant", ForeignKey("tenants.tenant_id", name="managed_certificates_tenant")),
    text_column("managed_certificate_id"),
    text_column("authority_uid"),
    text_column("authority_name"),
    text_column("profile"),
    text_column("key_spec"),
    bytes_column("subject"),
    text_column("names"),
    # NULL: the default of the profile.
    time_column("lifetime", null=True),
    Column("exportable", Boolean, nullable=False),
    text_column("state"),
    number_column("current_version"),
    time_column("not_after", null=True),
    text_column("conditions"),
    time_column("next_attempt_time", null=True),
    text_column("labels"),
    time_column("create_time"),
    time_column("update_time"),
    number_column("revision"),
    text_column("type", server_default=text("'PRIVATE'")),
    # Canonical JSON of what differs from the defaults of a renewal policy.
    text_column("renewal", server_default=text("'{}'")),
    time_column("renewal_window_start", null=True),
    time_column("renewal_window_end", null=True),
    # The version that somebody wants replaced now; 0: none.
    Column("forced_version", BigInteger, nullable=False, server_default=text("0")),
    # The version that was last exported; 0: none.
    Column("exported_version", BigInteger, nullable=False, server_default=text("0")),
    time_column("export_time", null=True),
    # When the current version was issued or imported.
    time_column("issue_time", null=True),
    Column("association_count", BigInteger, nullable=False, server_default=text("0")),
    Column("renewal_blocked", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("tenant", "managed_certificate_id", name="managed_certificates_tenant_id"),
)
# Finds what will end soon; all that an authority cut short ends at one moment.
Index(
    "managed_certificates_not_after",
    managed_certificates.c.state,
    managed_certificates.c.not_after,
    managed_certificates.c.uid,
)

managed_certificate_versions = Table(
    "managed_certificate_versions",
    metadata,
    text_column(
        "managed_certificate_uid", ForeignKey("managed_certificates.uid", name="managed_certificate_versions_uid")
    ),
    number_column("number"),
    bytes_column("public_key"),
    # As in the row of its sealed key, which it follows in the same transaction; of the last one when that is deleted.
    number_column("wrapping_key_number"),
    text_column("authority_uid"),
    # Of the certificate that one of our authorities made; NULL until it is issued, and for an imported one.
    text_column("serial", null=True),
    time_column("create_time"),
    # DER of an imported certificate, and of those above it, each preceded by its length in four bytes.
    bytes_column("certificate", null=True),
    bytes_column("chain", null=True),
    time_column("not_before", null=True),
    time_column("not_after", null=True),
    time_column("revoke_time", null=True),
    text_column("revocation_reason", null=True),
    # JSON of the notices that were given of it, see `store.notices`; NULL: none.
    text_column("told", null=True),
    PrimaryKeyConstraint("managed_certificate_uid", "number", name="managed_certificate_versions_key"),
)

# A table of its own, which queries for certificates never touch.
sealed_keys = Table(
    "sealed_keys",
    metadata,
    text_column("managed_certificate_uid"),
    number_column("version"),
    number_column("wrapping_key_number"),
    bytes_column("blob"),
    # When it may be deleted: the end of a version that is no longer the current one; NULL: never.
    time_column("expire_time", null=True),
    PrimaryKeyConstraint("managed_certificate_uid", "version", name="sealed_keys_key"),
    ForeignKeyConstraint(
        ["managed_certificate_uid", "version"],
        ["managed_certificate_versions.managed_certificate_uid", "managed_certificate_versions.number"],
        name="sealed_keys_version",
    ),
)
Index("sealed_keys_expire_time", sealed_keys.c.expire_time)

# Who may lease the keys of a managed certificate.
associations = Table(
    "associations",
    metadata,
    text_column("managed_certificate_uid", ForeignKey("managed_certificates.uid", name="associations_uid")),
    text_column("association_id"),
    text_column("tenant"),
    # Name of the identity, and its SPIFFE id.
    text_column("consumer"),
    text_column("consumer_spiffe_id"),
    text_column("creator"),
    time_column("create_time"),
    # 0: none.
    number_column("leased_version"),
    time_column("lease_time", null=True),
    # Canonical JSON of what the consumer last reported; NULL: never.
    text_column("deployment", null=True),
    # Whether it does not serve the version that was last told to be late with it; 0: none ever was.
    Column("late", Boolean, nullable=False, server_default=text("false")),
    Column("late_version", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("managed_certificate_uid", "association_id", name="associations_key"),
    UniqueConstraint("managed_certificate_uid", "consumer_spiffe_id", name="associations_consumer"),
)
Index("associations_of_consumer", associations.c.tenant, associations.c.consumer_spiffe_id)
Index("associations_everywhere", associations.c.consumer_spiffe_id)

# A key of a managed certificate, sealed for one consumer.
association_keys = Table(
    "association_keys",
    metadata,
    text_column("managed_certificate_uid"),
    text_column("association_id"),
    number_column("version"),
    number_column("wrapping_key_number"),
    bytes_column("blob"),
    PrimaryKeyConstraint("managed_certificate_uid", "association_id", "version", name="association_keys_key"),
    ForeignKeyConstraint(
        ["managed_certificate_uid", "association_id"],
        ["associations.managed_certificate_uid", "associations.association_id"],
        name="association_keys_association",
    ),
)

# Keys to which clients seal what they import.
import_keys = Table(
    "import_keys",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="import_keys_tenant")),
    text_column("import_key_id"),
    bytes_column("public_key"),
    number_column("wrapping_key_number"),
    bytes_column("blob"),
    bytes_column("statement"),
    bytes_column("signature"),
    text_column("signature_algorithm"),
    # DER of the system authority's certificate whose key signed.
    bytes_column("authority_certificate"),
    time_column("create_time"),
    time_column("expire_time"),
    PrimaryKeyConstraint("tenant", "import_key_id", name="import_keys_key"),
)
Index("import_keys_newest", import_keys.c.tenant, import_keys.c.expire_time)

# Sets of managed certificates that are renewed now.
renewal_campaigns = Table(
    "renewal_campaigns",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="renewal_campaigns_tenant")),
    text_column("renewal_campaign_id"),
    text_column("uid"),
    # Canonical JSON.
    text_column("filter"),
    number_column("renewals_per_minute"),
    text_column("reason"),
    text_column("state"),
    # When the next renewal may begin.
    time_column("next_renewal_time"),
    # Id of the managed certificate that was looked at last.
    text_column("selected_up_to"),
    Column("selection_complete", Boolean, nullable=False),
    number_column("selected_count"),
    number_column("renewed_count"),
    number_column("blocked_count"),
    number_column("skipped_count"),
    # JSON list of names.
    text_column("blocked"),
    text_column("creator"),
    time_column("create_time"),
    time_column("end_time", null=True),
    PrimaryKeyConstraint("tenant", "renewal_campaign_id", name="renewal_campaigns_key"),
    UniqueConstraint("uid", name="renewal_campaigns_uid"),
)
Index(
    "renewal_campaigns_page",
    renewal_campaigns.c.tenant,
    renewal_campaigns.c.create_time.desc(),
    renewal_campaigns.c.renewal_campaign_id,
)

# What a campaign waits for.
renewal_campaign_members = Table(
    "renewal_campaign_members",
    metadata,
    text_column("campaign_uid", ForeignKey("renewal_campaigns.uid", name="renewal_campaign_members_uid")),
    text_column("managed_certificate_uid"),
    # The version that was current when it was selected.
    number_column("version"),
    PrimaryKeyConstraint("campaign_uid", "managed_certificate_uid", name="renewal_campaign_members_key"),
)
