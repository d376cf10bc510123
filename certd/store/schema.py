"""Every table, as the migrations leave them; a test equates the two on both engines.

Times and durations are integer microseconds, certificates are DER, labels, names and details are canonical JSON text.
Keys sort by bytes on both engines, so that pages have one order.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

SCHEMA_NUMBER = 3
"""Number of the newest migration that this code knows."""

metadata = MetaData()

_TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
# Only a column declared INTEGER is SQLite's own row number and counts by itself.
_COUNTER: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
_MICROSECONDS = BigInteger
PENDING = text("state = 'PENDING'")
"""Condition of the partial index; SQLite uses it only where a query says the same literally."""


def _text(name: str, *constraints: ForeignKey, null: bool = False, **options: Any) -> Column[str]:  # noqa: ANN401  # Options of Column.
    return Column(name, _TEXT, *constraints, nullable=null, **options)


def _number(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


def _time(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, _MICROSECONDS, nullable=null)


def _bytes(name: str, *, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null)


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
    _text("tenant_id", primary_key=True),
    _text("uid"),
    _time("create_time"),
    _text("display_name", server_default=text("''")),
    # Canonical JSON of what differs from the defaults: quotas, and days of expiry notices.
    _text("settings", server_default=text("'{}'")),
    # 0: never changed.
    Column("update_time", _MICROSECONDS, nullable=False, server_default=text("0")),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    UniqueConstraint("uid", name="tenants_uid"),
)

# How many of something each tenant has, by the names of its quotas.
tenant_counts = Table(
    "tenant_counts",
    metadata,
    _text("tenant", ForeignKey("tenants.tenant_id", name="tenant_counts_tenant")),
    _text("kind"),
    _number("number"),
    PrimaryKeyConstraint("tenant", "kind", name="tenant_counts_key"),
)

authorities = Table(
    "authorities",
    metadata,
    _text("uid", primary_key=True),
    # NULL: the system authority.
    _text("tenant", ForeignKey("tenants.tenant_id", name="authorities_tenant"), null=True),
    _text("authority_id"),
    _text("type"),
    _text("state"),
    _text("key_spec"),
    _text("signature_algorithm"),
    _bytes("subject"),
    _time("lifetime"),
    _number("path_length"),
    _text("issuer_uid", null=True),
    # Number of the key that signs at present.
    _number("key_number"),
    _bytes("certificate", null=True),
    # Each certificate preceded by its length in four bytes.
    _bytes("chain"),
    _time("not_after", null=True),
    _text("labels"),
    _time("create_time"),
    _time("update_time"),
    _number("revision"),
    # DER of the CSR for an outside parent; NULL until it is asked for, and for ever where the parent is one of ours.
    _bytes("csr", null=True),
    # DER of the extension that was asked for; NULL: none.
    _bytes("name_constraints", null=True),
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

authority_keys = Table(
    "authority_keys",
    metadata,
    _text("authority_uid", ForeignKey("authorities.uid", name="authority_keys_authority_uid")),
    _number("number"),
    _bytes("key_id"),
    _bytes("policy"),
    _bytes("public_key", null=True),
    PrimaryKeyConstraint("authority_uid", "number", name="authority_keys_key"),
    UniqueConstraint("key_id", name="authority_keys_key_id"),
)

certificates = Table(
    "certificates",
    metadata,
    # No foreign key: what was intended stays on record after an authority that never came to be is deleted.
    _text("authority_uid"),
    _text("serial"),
    _bytes("issuer_name_sha256"),
    _number("key_number"),
    _text("state"),
    # What is to be signed; NULL once the certificate, which contains it, is there.
    _bytes("tbs", null=True),
    _bytes("der", null=True),
    _text("profile"),
    _text("subject_text"),
    _time("not_before"),
    _time("not_after"),
    _bytes("public_key_sha256"),
    _text("managed_certificate_uid", null=True),
    _number("managed_certificate_version", null=True),
    _text("labels"),
    _number("owner_epoch"),
    _time("create_time"),
    _time("revoke_time", null=True),
    _text("revocation_reason", null=True),
    Column("profile_version", BigInteger, nullable=False, server_default=text("1")),
    # NULL in rows that a release before this column wrote.
    _text("key_spec", null=True),
    _time("invalidity_time", null=True),
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

# The alternative names of certificates, for searches.
certificate_names = Table(
    "certificate_names",
    metadata,
    _text("authority_uid"),
    _text("serial"),
    # A kind of `store.certificate_names`.
    _text("kind"),
    # A DNS name with its labels in reverse order, so that what lies below a domain is a range; other kinds as they are.
    _text("name"),
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
    _text("tenant"),
    _bytes("public_key_sha256"),
    # The certificate whose revocation blocked the key.
    _text("authority_uid"),
    _text("serial"),
    _time("create_time"),
    PrimaryKeyConstraint("tenant", "public_key_sha256", name="blocked_keys_key"),
)

profiles = Table(
    "profiles",
    metadata,
    _text("tenant", ForeignKey("tenants.tenant_id", name="profiles_tenant")),
    _text("profile_id"),
    # The newest of its versions.
    _number("version"),
    _time("create_time"),
    _time("update_time"),
    PrimaryKeyConstraint("tenant", "profile_id", name="profiles_key"),
)

# Every version of every profile that there ever was: certificates name them also after a profile is deleted.
profile_versions = Table(
    "profile_versions",
    metadata,
    _text("tenant", ForeignKey("tenants.tenant_id", name="profile_versions_tenant")),
    _text("profile_id"),
    _number("version"),
    # As `pki.profile_document` writes it.
    _text("document"),
    _time("create_time"),
    PrimaryKeyConstraint("tenant", "profile_id", "version", name="profile_versions_key"),
)

# Grows with every change of what daemons keep in memory: grants, profiles, authorities, identities.
configuration_version = Table(
    "configuration_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _number("version"),
    CheckConstraint("id = 1", name="configuration_version_is_one_row"),
)

wrapping_keys = Table(
    "wrapping_keys",
    metadata,
    _text("tenant", ForeignKey("tenants.tenant_id", name="wrapping_keys_tenant")),
    _number("number"),
    _bytes("key_id"),
    _text("state"),
    _time("create_time"),
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
    _text("uid", primary_key=True),
    _text("tenant", ForeignKey("tenants.tenant_id", name="managed_certificates_tenant")),
    _text("managed_certificate_id"),
    _text("authority_uid"),
    _text("authority_name"),
    _text("profile"),
    _text("key_spec"),
    _bytes("subject"),
    _text("names"),
    # NULL: the default of the profile.
    _time("lifetime", null=True),
    Column("exportable", Boolean, nullable=False),
    _text("state"),
    _number("current_version"),
    _time("not_after", null=True),
    _text("conditions"),
    _time("next_attempt_time", null=True),
    _text("labels"),
    _time("create_time"),
    _time("update_time"),
    _number("revision"),
    UniqueConstraint("tenant", "managed_certificate_id", name="managed_certificates_tenant_id"),
)

managed_certificate_versions = Table(
    "managed_certificate_versions",
    metadata,
    _text("managed_certificate_uid", ForeignKey("managed_certificates.uid", name="managed_certificate_versions_uid")),
    _number("number"),
    _bytes("public_key"),
    _number("wrapping_key_number"),
    _text("authority_uid"),
    _text("serial", null=True),
    _time("create_time"),
    PrimaryKeyConstraint("managed_certificate_uid", "number", name="managed_certificate_versions_key"),
)

# A table of its own, which queries for certificates never touch.
sealed_keys = Table(
    "sealed_keys",
    metadata,
    _text("managed_certificate_uid"),
    _number("version"),
    _number("wrapping_key_number"),
    _bytes("blob"),
    PrimaryKeyConstraint("managed_certificate_uid", "version", name="sealed_keys_key"),
    ForeignKeyConstraint(
        ["managed_certificate_uid", "version"],
        ["managed_certificate_versions.managed_certificate_uid", "managed_certificate_versions.number"],
        name="sealed_keys_version",
    ),
)

request_records = Table(
    "request_records",
    metadata,
    _text("principal"),
    _text("method"),
    _text("request_id"),
    _bytes("request_sha256"),
    _text("resource", null=True),
    _time("create_time"),
    PrimaryKeyConstraint("principal", "method", "request_id", name="request_records_key"),
)
Index("request_records_create_time", request_records.c.create_time)
Index("request_records_resource", request_records.c.resource)

jobs = Table(
    "jobs",
    metadata,
    _text("kind"),
    _text("subject"),
    _time("due_time"),
    # When it may be claimed: at its due time, or once the lease of a claim has passed.
    _time("available_time"),
    _number("attempt"),
    # Epoch of the daemon that claimed it; NULL: nobody has.
    _number("owner_epoch", null=True),
    PrimaryKeyConstraint("kind", "subject", name="jobs_key"),
)
Index("jobs_available_time", jobs.c.available_time)
Index("jobs_claimed", jobs.c.owner_epoch)

grants = Table(
    "grants",
    metadata,
    # Unique over all tenants: a chosen id is preceded by its tenant and a slash.
    _text("grant_id", primary_key=True),
    _text("principal"),
    _text("role"),
    _text("scope"),
    # NULL: every profile.
    _text("profiles", null=True),
    # Empty: of the server.
    _text("tenant", server_default=text("''")),
    _text("creator", server_default=text("'certd'")),
    Column("create_time", _MICROSECONDS, nullable=False, server_default=text("0")),
)
Index("grants_principal", grants.c.principal)

# Machines and persons that call. Their certificates are those of the system authority with their SPIFFE id.
identities = Table(
    "identities",
    metadata,
    # Empty: of the server.
    _text("tenant"),
    _text("identity_id"),
    _text("spiffe_id"),
    _text("state"),
    _time("create_time"),
    _time("update_time"),
    PrimaryKeyConstraint("tenant", "identity_id", name="identities_key"),
    UniqueConstraint("spiffe_id", name="identities_spiffe_id"),
)

enrollment_codes = Table(
    "enrollment_codes",
    metadata,
    _bytes("code_sha256"),
    _text("tenant"),
    _text("identity_id"),
    # NULL: any key.
    _bytes("public_key_sha256", null=True),
    # JSON list of networks in CIDR notation; empty: any.
    _text("source_networks"),
    _text("creator"),
    _time("create_time"),
    _time("expire_time"),
    # SHA-256 of the key that enrolled, and serial of its certificate; NULL before.
    _bytes("used_public_key_sha256", null=True),
    _text("serial", null=True),
    PrimaryKeyConstraint("code_sha256", name="enrollment_codes_key"),
)
Index("enrollment_codes_identity", enrollment_codes.c.tenant, enrollment_codes.c.identity_id)
Index("enrollment_codes_expire_time", enrollment_codes.c.expire_time)

owners = Table(
    "owners",
    metadata,
    Column("epoch", _COUNTER, primary_key=True, autoincrement=True),
    _time("begin_time"),
    _time("lease_until"),
    Column("ended", Boolean, nullable=False),
    # An epoch is never used again, also after its row is deleted.
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("seq", _COUNTER, primary_key=True, autoincrement=False),
    _time("time"),
    _text("type"),
    _text("tenant", null=True),
    _text("principal"),
    _text("resource"),
    _text("details"),
    _bytes("chain_hash"),
)
Index("events_tenant", events.c.tenant, events.c.seq)

# Committed on PostgreSQL and not yet numbered. Always empty on SQLite, which numbers before the commit.
unnumbered_events = Table(
    "unnumbered_events",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    _time("time"),
    _text("type"),
    _text("tenant", null=True),
    _text("principal"),
    _text("resource"),
    _text("details"),
)

event_sequence = Table(
    "event_sequence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _number("last_seq"),
    _bytes("last_hash"),
    # Who numbers on PostgreSQL, and until when nobody else does.
    _text("holder", null=True),
    _time("lease_until", null=True),
    CheckConstraint("id = 1", name="event_sequence_is_one_row"),
)
