"""Every table, as the migrations leave them; a test equates the two on both engines.

Times and durations are integer microseconds, certificates are DER, labels, names and details are canonical JSON text.
Keys sort by bytes on both engines, so that pages have one order.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from certd.store.columns import COUNTER, MICROSECONDS, bytes_column, metadata, number_column, text_column, time_column

SCHEMA_NUMBER = 7
"""Number of the newest migration that this code knows."""
PENDING = text("state = 'PENDING'")
REVOKED = text("state IN ('REVOKED', 'LOST')")
"""Conditions of partial indexes; SQLite uses them only where a query says the same literally."""
_CODE_SIGNING = "06082b06010505070303"
"""The identifier of the purpose in DER. Where it stands for something else, the certificate is kept for nothing."""
SQLITE_REVOKED_CODE = text(f"{REVOKED.text} AND instr(coalesce(der, tbs), X'{_CODE_SIGNING}') > 0")
POSTGRESQL_REVOKED_CODE = text(f"{REVOKED.text} AND position('\\x{_CODE_SIGNING}'::bytea IN coalesce(der, tbs)) > 0")
"""Revoked certificates of code: what they signed and had time-stamped is looked at long after their end."""


schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Number of the newest migration that ran.
    Column("schema_number", Integer, nullable=False),
    # The oldest code, by the newest migration it knows, that may use the database.
    Column("oldest_code", Integer, nullable=False),
    CheckConstraint("id = 1", name="schema_compatibility_is_one_row"),
)

tenants = Table(
    "tenants",
    metadata,
    text_column("tenant_id", primary_key=True),
    text_column("uid"),
    time_column("create_time"),
    text_column("display_name", server_default=text("''")),
    # Canonical JSON of what differs from the defaults: quotas, and days of expiry notices.
    text_column("settings", server_default=text("'{}'")),
    # 0: never changed.
    Column("update_time", MICROSECONDS, nullable=False, server_default=text("0")),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    UniqueConstraint("uid", name="tenants_uid"),
)

# How many of something each tenant has, by the names of its quotas.
tenant_counts = Table(
    "tenant_counts",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="tenant_counts_tenant")),
    text_column("kind"),
    number_column("number"),
    PrimaryKeyConstraint("tenant", "kind", name="tenant_counts_key"),
)

authorities = Table(
    "authorities",
    metadata,
    text_column("uid", primary_key=True),
    # NULL: the system authority.
    text_column("tenant", ForeignKey("tenants.tenant_id", name="authorities_tenant"), null=True),
    text_column("authority_id"),
    text_column("type"),
    text_column("state"),
    text_column("key_spec"),
    text_column("signature_algorithm"),
    bytes_column("subject"),
    time_column("lifetime"),
    number_column("path_length"),
    text_column("issuer_uid", null=True),
    # Number of the key that signs at present.
    number_column("key_number"),
    bytes_column("certificate", null=True),
    # Each certificate preceded by its length in four bytes.
    bytes_column("chain"),
    time_column("not_after", null=True),
    text_column("labels"),
    time_column("create_time"),
    time_column("update_time"),
    number_column("revision"),
    # DER of the CSR for an outside parent; NULL until it is asked for, and for ever where the parent is one of ours.
    bytes_column("csr", null=True),
    # DER of the extension that was asked for; NULL: none.
    bytes_column("name_constraints", null=True),
    # JSON of the notices that were given of its certificate, see `store.notices`; NULL: none.
    text_column("told", null=True),
    # GENERAL_PURPOSE or SHORT_LIVED.
    text_column("usage_mode", server_default=text("'GENERAL_PURPOSE'")),
    # Canonical JSON of what differs from the defaults of `model.revocation_settings`.
    text_column("revocation", server_default=text("'{}'")),
    Column("deletion_protection", Boolean, nullable=False, server_default=text("false")),
    # NULL: not deleted.
    time_column("delete_time", null=True),
    time_column("purge_time", null=True),
    UniqueConstraint("tenant", "authority_id", name="authorities_tenant_authority_id"),
)
# A unique constraint does not compare NULLs.
Index(
    "authorities_system_authority_id",
    authorities.c.authority_id,
    unique=True,
    sqlite_where=text("tenant IS NULL"),
    postgresql_where=text("tenant IS NULL"),
)
# Finds what will end soon.
Index("authorities_not_after", authorities.c.not_after, authorities.c.uid)
Index("authorities_purge_time", authorities.c.purge_time)

authority_keys = Table(
    "authority_keys",
    metadata,
    text_column("authority_uid", ForeignKey("authorities.uid", name="authority_keys_authority_uid")),
    number_column("number"),
    bytes_column("key_id"),
    bytes_column("policy"),
    bytes_column("public_key", null=True),
    # As `model.authority.AuthorityKeyState`.
    text_column("state", server_default=text("'ACTIVE'")),
    Column("state_time", MICROSECONDS, nullable=False, server_default=text("0")),
    text_column("key_spec", null=True),
    text_column("signature_algorithm", null=True),
    # Of the key that signs at present, the row of the authority has the same.
    bytes_column("certificate", null=True),
    bytes_column("chain", null=True),
    time_column("not_after", null=True),
    number_column("path_length", null=True),
    bytes_column("csr", null=True),
    # Of the certificate that is asked for; NULL: as the authority says.
    time_column("lifetime", null=True),
    # Whether the key that signs and this one are still to certify each other before its preparation is over.
    Column("cross_certify", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("authority_uid", "number", name="authority_keys_key"),
    UniqueConstraint("key_id", name="authority_keys_key_id"),
)

certificates = Table(
    "certificates",
    metadata,
    # No foreign key: what was intended stays on record after an authority that never came to be is deleted.
    text_column("authority_uid"),
    text_column("serial"),
    bytes_column("issuer_name_sha256"),
    number_column("key_number"),
    text_column("state"),
    # What is to be signed; NULL once the certificate, which contains it, is there.
    bytes_column("tbs", null=True),
    bytes_column("der", null=True),
    text_column("profile"),
    text_column("subject_text"),
    time_column("not_before"),
    time_column("not_after"),
    bytes_column("public_key_sha256"),
    text_column("managed_certificate_uid", null=True),
    number_column("managed_certificate_version", null=True),
    text_column("labels"),
    number_column("owner_epoch"),
    time_column("create_time"),
    time_column("revoke_time", null=True),
    text_column("revocation_reason", null=True),
    Column("profile_version", BigInteger, nullable=False, server_default=text("1")),
    # NULL in rows that a release before this column wrote.
    text_column("key_spec", null=True),
    time_column("invalidity_time", null=True),
    # The CRL that it names; NULL: the complete one, or none.
    number_column("crl_partition", null=True),
    PrimaryKeyConstraint("authority_uid", "serial", name="certificates_key"),
    UniqueConstraint("issuer_name_sha256", "serial", name="certificates_issuer_name_serial"),
)
Index(
    "certificates_page",
    certificates.c.authority_uid,
    certificates.c.create_time.desc(),
    certificates.c.serial,
)
Index("certificates_public_key", certificates.c.public_key_sha256, certificates.c.authority_uid)
Index("certificates_pending", certificates.c.owner_epoch, sqlite_where=PENDING, postgresql_where=PENDING)
# What stands on CRLs, and until when.
Index(
    "certificates_revoked",
    certificates.c.authority_uid,
    certificates.c.key_number,
    certificates.c.crl_partition,
    certificates.c.not_after,
    certificates.c.serial,
    sqlite_where=REVOKED,
    postgresql_where=REVOKED,
)
# What stays on CRLs for ever.
Index(
    "certificates_revoked_code",
    certificates.c.authority_uid,
    certificates.c.key_number,
    certificates.c.crl_partition,
    certificates.c.not_after,
    certificates.c.serial,
    sqlite_where=SQLITE_REVOKED_CODE,
    postgresql_where=POSTGRESQL_REVOKED_CODE,
)
# What of a key is alive, and when the last of it ends.
Index(
    "certificates_not_after",
    certificates.c.authority_uid,
    certificates.c.key_number,
    certificates.c.not_after,
    certificates.c.serial,
)

# The alternative names of certificates, for searches.
certificate_names = Table(
    "certificate_names",
    metadata,
    text_column("authority_uid"),
    text_column("serial"),
    # A kind of `store.certificate_names`.
    text_column("kind"),
    # A DNS name with its labels in reverse order, so that what lies below a domain is a range; other kinds as they are.
    text_column("name"),
    # The names of a certificate are found by this key, and the certificates of a name by the index below.
    PrimaryKeyConstraint("authority_uid", "serial", "kind", "name", name="certificate_names_key"),
    # The rows are all key, and SQLite need not keep them twice.
    sqlite_with_rowid=False,
)
Index(
    "certificate_names_search",
    certificate_names.c.authority_uid,
    certificate_names.c.kind,
    certificate_names.c.name,
    certificate_names.c.serial,
)

# Keys of a tenant that were reported as compromised and are never certified again.
blocked_keys = Table(
    "blocked_keys",
    metadata,
    # Empty: of the system authority.
    text_column("tenant"),
    bytes_column("public_key_sha256"),
    # The certificate whose revocation blocked the key.
    text_column("authority_uid"),
    text_column("serial"),
    time_column("create_time"),
    PrimaryKeyConstraint("tenant", "public_key_sha256", name="blocked_keys_key"),
)

profiles = Table(
    "profiles",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="profiles_tenant")),
    text_column("profile_id"),
    # The newest of its versions.
    number_column("version"),
    time_column("create_time"),
    time_column("update_time"),
    PrimaryKeyConstraint("tenant", "profile_id", name="profiles_key"),
)

# Every version of every profile that there ever was: certificates name them also after a profile is deleted.
profile_versions = Table(
    "profile_versions",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="profile_versions_tenant")),
    text_column("profile_id"),
    number_column("version"),
    # As `pki.profile_document` writes it.
    text_column("document"),
    time_column("create_time"),
    PrimaryKeyConstraint("tenant", "profile_id", "version", name="profile_versions_key"),
)

# Grows with every change of what daemons keep in memory: grants, profiles, authorities, identities.
configuration_version = Table(
    "configuration_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    number_column("version"),
    CheckConstraint("id = 1", name="configuration_version_is_one_row"),
)

request_records = Table(
    "request_records",
    metadata,
    text_column("principal"),
    text_column("method"),
    text_column("request_id"),
    bytes_column("request_sha256"),
    text_column("resource", null=True),
    time_column("create_time"),
    PrimaryKeyConstraint("principal", "method", "request_id", name="request_records_key"),
)
Index("request_records_create_time", request_records.c.create_time)
Index("request_records_resource", request_records.c.resource)

jobs = Table(
    "jobs",
    metadata,
    text_column("kind"),
    text_column("subject"),
    time_column("due_time"),
    # When it may be claimed: at its due time, or once the lease of a claim has passed.
    time_column("available_time"),
    number_column("attempt"),
    # Epoch of the daemon that claimed it; NULL: nobody has.
    number_column("owner_epoch", null=True),
    PrimaryKeyConstraint("kind", "subject", name="jobs_key"),
)
Index("jobs_available_time", jobs.c.available_time)
Index("jobs_claimed", jobs.c.owner_epoch)

grants = Table(
    "grants",
    metadata,
    # Unique over all tenants: a chosen id is preceded by its tenant and a slash.
    text_column("grant_id", primary_key=True),
    text_column("principal"),
    text_column("role"),
    text_column("scope"),
    # NULL: every profile.
    text_column("profiles", null=True),
    # Empty: of the server.
    text_column("tenant", server_default=text("''")),
    text_column("creator", server_default=text("'certd'")),
    Column("create_time", MICROSECONDS, nullable=False, server_default=text("0")),
)
Index("grants_principal", grants.c.principal)

# Machines and persons that call. Their certificates are those of the system authority with their SPIFFE id.
identities = Table(
    "identities",
    metadata,
    # Empty: of the server.
    text_column("tenant"),
    text_column("identity_id"),
    text_column("spiffe_id"),
    text_column("state"),
    time_column("create_time"),
    time_column("update_time"),
    PrimaryKeyConstraint("tenant", "identity_id", name="identities_key"),
    UniqueConstraint("spiffe_id", name="identities_spiffe_id"),
)

enrollment_codes = Table(
    "enrollment_codes",
    metadata,
    bytes_column("code_sha256"),
    text_column("tenant"),
    text_column("identity_id"),
    # NULL: any key.
    bytes_column("public_key_sha256", null=True),
    # JSON list of networks in CIDR notation; empty: any.
    text_column("source_networks"),
    text_column("creator"),
    time_column("create_time"),
    time_column("expire_time"),
    # SHA-256 of the key that enrolled, and serial of its certificate; NULL before.
    bytes_column("used_public_key_sha256", null=True),
    text_column("serial", null=True),
    PrimaryKeyConstraint("code_sha256", name="enrollment_codes_key"),
)
Index("enrollment_codes_identity", enrollment_codes.c.tenant, enrollment_codes.c.identity_id)
Index("enrollment_codes_expire_time", enrollment_codes.c.expire_time)

owners = Table(
    "owners",
    metadata,
    Column("epoch", COUNTER, primary_key=True, autoincrement=True),
    time_column("begin_time"),
    time_column("lease_until"),
    Column("ended", Boolean, nullable=False),
    # An epoch is never used again, also after its row is deleted.
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("seq", COUNTER, primary_key=True, autoincrement=False),
    time_column("time"),
    text_column("type"),
    text_column("tenant", null=True),
    text_column("principal"),
    text_column("resource"),
    text_column("details"),
    bytes_column("chain_hash"),
    # Enters the chain hash and is never told; NULL: numbered before there were salts.
    bytes_column("salt", null=True),
)
Index("events_tenant", events.c.tenant, events.c.seq)

# Committed on PostgreSQL and not yet numbered. Always empty on SQLite, which numbers before the commit.
unnumbered_events = Table(
    "unnumbered_events",
    metadata,
    Column("id", COUNTER, primary_key=True, autoincrement=True),
    time_column("time"),
    text_column("type"),
    text_column("tenant", null=True),
    text_column("principal"),
    text_column("resource"),
    text_column("details"),
)

event_sequence = Table(
    "event_sequence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    number_column("last_seq"),
    bytes_column("last_hash"),
    # Who numbers on PostgreSQL, and until when nobody else does.
    text_column("numberer", null=True),
    time_column("lease_until", null=True),
    # Number of the first event with a salt. Each hash from there on contains it.
    Column("salted_from", BigInteger, nullable=False, server_default=text("1")),
    CheckConstraint("id = 1", name="event_sequence_is_one_row"),
)
