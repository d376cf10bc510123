"""The tables of subscriptions, notices and downloads. Goes with `schema`."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, PrimaryKeyConstraint, Table, UniqueConstraint, text

from certd.store.columns import bytes_column, metadata, number_column, text_column, time_column

# Who is told of events, and how far.
subscriptions = Table(
    "subscriptions",
    metadata,
    text_column("tenant", ForeignKey("tenants.tenant_id", name="subscriptions_tenant")),
    text_column("subscription_id"),
    text_column("uid"),
    # WEBHOOK or MAIL, and canonical JSON of where it goes.
    text_column("kind"),
    text_column("target"),
    # JSON list of types, and a resource name or empty.
    text_column("event_types"),
    text_column("resource"),
    text_column("state"),
    # Every event up to this one was delivered, is in `deliveries`, or does not fit.
    number_column("delivered_seq"),
    time_column("delivery_time", null=True),
    # Tries of the target since it last took anything, why the last one failed, and when the next one is.
    number_column("attempts"),
    text_column("last_error"),
    time_column("next_attempt_time", null=True),
    text_column("display_name"),
    text_column("creator"),
    time_column("create_time"),
    time_column("update_time"),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("tenant", "subscription_id", name="subscriptions_key"),
    UniqueConstraint("uid", name="subscriptions_uid"),
)

# Secrets by which webhooks are signed, sealed under the wrapping key of the tenant.
subscription_secrets = Table(
    "subscription_secrets",
    metadata,
    text_column("subscription_uid", ForeignKey("subscriptions.uid", name="subscription_secrets_uid")),
    number_column("number"),
    text_column("tenant"),
    number_column("wrapping_key_number"),
    bytes_column("blob"),
    # When it is no longer used; NULL: it is the newest.
    time_column("expire_time", null=True),
    PrimaryKeyConstraint("subscription_uid", "number", name="subscription_secrets_key"),
)
Index("subscription_secrets_wrapping_key", subscription_secrets.c.tenant, subscription_secrets.c.wrapping_key_number)
Index("subscription_secrets_expire_time", subscription_secrets.c.expire_time)

# Events that a target did not take: those that are tried again, and those that were given up.
deliveries = Table(
    "deliveries",
    metadata,
    text_column("subscription_uid", ForeignKey("subscriptions.uid", name="deliveries_uid")),
    number_column("seq"),
    text_column("resource"),
    # WAITING or FAILED.
    text_column("state"),
    number_column("attempts"),
    text_column("error"),
    # When it is tried again, unless an earlier one of its resource waits; NULL when it was given up.
    time_column("due_time", null=True),
    time_column("fail_time", null=True),
    PrimaryKeyConstraint("subscription_uid", "seq", name="deliveries_key"),
)
Index("deliveries_state", deliveries.c.subscription_uid, deliveries.c.state, deliveries.c.seq)
Index("deliveries_resource", deliveries.c.subscription_uid, deliveries.c.resource, deliveries.c.seq)

# How far notices were given: of a kind, for what ends in so many days. 0 days: of what has ended.
notice_marks = Table(
    "notice_marks",
    metadata,
    text_column("kind"),
    number_column("days"),
    # What ends before this was dealt with, and of what ends at it that with a uid up to this.
    time_column("told_until"),
    text_column("told_uid"),
    PrimaryKeyConstraint("kind", "days", name="notice_marks_key"),
)

# Codes for one download each.
download_codes = Table(
    "download_codes",
    metadata,
    bytes_column("code_sha256"),
    # Without a foreign key: the release before this one deletes managed certificates and knows nothing of their codes.
    text_column("managed_certificate_uid"),
    # JSON list of CIDR networks; empty: every one.
    text_column("source_networks"),
    text_column("reason"),
    text_column("creator"),
    time_column("create_time"),
    time_column("expire_time"),
    time_column("use_time", null=True),
    PrimaryKeyConstraint("code_sha256", name="download_codes_key"),
)
Index("download_codes_managed_certificate", download_codes.c.managed_certificate_uid)
Index("download_codes_expire_time", download_codes.c.expire_time)
