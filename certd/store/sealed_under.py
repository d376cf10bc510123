"""What is sealed under a wrapping key: in custody, for consumers, keys of imports, secrets. Found, and sealed anew.

Once a wrapping key is no longer primary, nothing is added to what is sealed under it (`wrapping_keys.seals`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Row, Select, and_, bindparam, func, or_, select
from sqlalchemy import delete as delete_from
from sqlalchemy import update as update_of

from certd.model.names import ImportKeyName, ManagedCertificateName, SubscriptionName
from certd.model.wrapping_key import WrappingKey
from certd.store import managed_schema, notification_schema
from certd.store.transaction import Transaction

_managed = managed_schema.managed_certificates
_versions = managed_schema.managed_certificate_versions
_sealed = managed_schema.sealed_keys
_associations = managed_schema.associations
_for_consumers = managed_schema.association_keys
_import_keys = managed_schema.import_keys
_subscriptions = notification_schema.subscriptions
_secrets = notification_schema.subscription_secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class CustodyBlob:
    """The sealed key of a version."""

    managed_certificate: ManagedCertificateName
    managed_certificate_uid: str
    version: int
    exportable: bool
    public_key: bytes
    blob: bytes

    @property
    def name(self) -> str:
        """Name of the version."""
        return self.managed_certificate.version(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerBlob:
    """The key of a version, sealed for a consumer."""

    managed_certificate: ManagedCertificateName
    managed_certificate_uid: str
    association_id: str
    consumer: str
    """SPIFFE id."""
    version: int
    public_key: bytes
    blob: bytes

    @property
    def name(self) -> str:
        """Names of the version and of the association."""
        return f"{self.managed_certificate.version(self.version)} for the association {self.association_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportBlob:
    """The private half of an import key."""

    tenant: str
    import_key_id: str
    public_key: bytes
    blob: bytes

    @property
    def name(self) -> str:
        """Name of the import key."""
        return str(ImportKeyName(self.tenant, self.import_key_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretBlob:
    """A secret by which a webhook is signed."""

    tenant: str
    subscription_id: str
    subscription_uid: str
    number: int
    blob: bytes

    @property
    def name(self) -> str:
        """Name of the subscription, with the number of the secret."""
        return f"{SubscriptionName(self.tenant, self.subscription_id)}, secret {self.number}"


Blob = CustodyBlob | ConsumerBlob | ImportBlob | SecretBlob

_OF_TENANT = _managed.c.tenant == bindparam("of_tenant")
_AFTER_MANAGED = _managed.c.managed_certificate_id >= bindparam("after_managed")
_BEHIND_MANAGED = _managed.c.managed_certificate_id > bindparam("after_managed")
_OF_NUMBER: BindParameter[int] = bindparam("of_number")


def _custody(*columns: Any) -> Select[Any]:  # noqa: ANN401  # Columns of many types.
    return (
        select(*columns)
        .join_from(_managed, _sealed, _sealed.c.managed_certificate_uid == _managed.c.uid)
        .where(_OF_TENANT, _sealed.c.wrapping_key_number == _OF_NUMBER)
    )


def _of_consumers(*columns: Any) -> Select[Any]:  # noqa: ANN401  # As above.
    return (
        select(*columns)
        .join_from(_managed, _for_consumers, _for_consumers.c.managed_certificate_uid == _managed.c.uid)
        .where(_OF_TENANT, _for_consumers.c.wrapping_key_number == _OF_NUMBER)
    )


def _of_imports(*columns: Any) -> Select[Any]:  # noqa: ANN401  # As above.
    return select(*columns).where(
        _import_keys.c.tenant == bindparam("of_tenant"), _import_keys.c.wrapping_key_number == _OF_NUMBER
    )


def _of_secrets(*columns: Any) -> Select[Any]:  # noqa: ANN401  # As above.
    return select(*columns).where(
        _secrets.c.tenant == bindparam("of_tenant"), _secrets.c.wrapping_key_number == _OF_NUMBER
    )


_CUSTODY_PAGE = (
    _custody(
        _managed.c.tenant,
        _managed.c.managed_certificate_id,
        _managed.c.uid,
        _managed.c.exportable,
        _sealed.c.version,
        _sealed.c.blob,
        _versions.c.public_key,
    )
    .join(
        _versions,
        and_(
            _versions.c.managed_certificate_uid == _sealed.c.managed_certificate_uid,
            _versions.c.number == _sealed.c.version,
        ),
    )
    # The first alone begins at a place of the index.
    .where(_AFTER_MANAGED, or_(_BEHIND_MANAGED, _sealed.c.version > bindparam("after_version")))
    .order_by(_managed.c.managed_certificate_id, _sealed.c.version)
    .limit(bindparam("most"))
)
_CONSUMER_PAGE = (
    _of_consumers(
        _managed.c.tenant,
        _managed.c.managed_certificate_id,
        _managed.c.uid,
        _for_consumers.c.association_id,
        _associations.c.consumer_spiffe_id,
        _for_consumers.c.version,
        _for_consumers.c.blob,
        _versions.c.public_key,
    )
    .join(
        _associations,
        and_(
            _associations.c.managed_certificate_uid == _for_consumers.c.managed_certificate_uid,
            _associations.c.association_id == _for_consumers.c.association_id,
        ),
    )
    .join(
        _versions,
        and_(
            _versions.c.managed_certificate_uid == _for_consumers.c.managed_certificate_uid,
            _versions.c.number == _for_consumers.c.version,
        ),
    )
    .where(
        _AFTER_MANAGED,
        or_(
            _BEHIND_MANAGED,
            _for_consumers.c.association_id > bindparam("after_association"),
            and_(
                _for_consumers.c.association_id == bindparam("after_association"),
                _for_consumers.c.version > bindparam("after_version"),
            ),
        ),
    )
    .order_by(_managed.c.managed_certificate_id, _for_consumers.c.association_id, _for_consumers.c.version)
    .limit(bindparam("most"))
)
_IMPORT_PAGE = (
    _of_imports(_import_keys.c.tenant, _import_keys.c.import_key_id, _import_keys.c.public_key, _import_keys.c.blob)
    .where(_import_keys.c.import_key_id > bindparam("after_import_key"))
    .order_by(_import_keys.c.import_key_id)
    .limit(bindparam("most"))
)
_SECRET_PAGE = (
    _of_secrets(
        _secrets.c.tenant,
        _subscriptions.c.subscription_id,
        _secrets.c.subscription_uid,
        _secrets.c.number,
        _secrets.c.blob,
    )
    .join_from(_secrets, _subscriptions, _subscriptions.c.uid == _secrets.c.subscription_uid)
    .where(
        _secrets.c.subscription_uid >= bindparam("after_subscription"),
        or_(
            _secrets.c.subscription_uid > bindparam("after_subscription"),
            _secrets.c.number > bindparam("after_number"),
        ),
    )
    .order_by(_secrets.c.subscription_uid, _secrets.c.number)
    .limit(bindparam("most"))
)
_COUNTS = (
    *(of(func.count()) for of in (_custody, _of_consumers, _of_imports)),
    _of_secrets(func.count()).select_from(_secrets),
)
_ANY = tuple(
    one.limit(1)
    for one in (
        _custody(_sealed.c.version),
        _of_consumers(_for_consumers.c.version),
        _of_imports(_import_keys.c.import_key_id),
        _of_secrets(_secrets.c.number),
    )
)
_RESEAL_CUSTODY = update_of(_sealed).where(
    _sealed.c.managed_certificate_uid == bindparam("key"),
    _sealed.c.version == bindparam("of_version"),
    _sealed.c.wrapping_key_number == bindparam("old_number"),
)
# What tells of a version without looking at its key follows in the same transaction.
_FOLLOW = (
    update_of(_versions)
    .where(
        _versions.c.managed_certificate_uid == bindparam("key"),
        _versions.c.number == bindparam("of_version"),
        select(_sealed.c.version)
        .where(
            _sealed.c.managed_certificate_uid == bindparam("key"),
            _sealed.c.version == bindparam("of_version"),
            _sealed.c.wrapping_key_number == bindparam("new_number"),
        )
        .exists(),
    )
    .values(wrapping_key_number=bindparam("new_number"))
)
_RESEAL_CONSUMER = update_of(_for_consumers).where(
    _for_consumers.c.managed_certificate_uid == bindparam("key"),
    _for_consumers.c.association_id == bindparam("of_association"),
    _for_consumers.c.version == bindparam("of_version"),
    _for_consumers.c.wrapping_key_number == bindparam("old_number"),
)
_RESEAL_IMPORT = update_of(_import_keys).where(
    _import_keys.c.tenant == bindparam("of_tenant"),
    _import_keys.c.import_key_id == bindparam("id"),
    _import_keys.c.wrapping_key_number == bindparam("old_number"),
)
_RESEAL_SECRET = update_of(_secrets).where(
    _secrets.c.subscription_uid == bindparam("key"),
    _secrets.c.number == bindparam("of_secret"),
    _secrets.c.wrapping_key_number == bindparam("old_number"),
)
_DELETE_IMPORT_KEYS = delete_from(_import_keys).where(
    _import_keys.c.tenant == bindparam("of_tenant"), _import_keys.c.wrapping_key_number == _OF_NUMBER
)


def count(tx: Transaction, key: WrappingKey) -> int:
    """Returns how much is sealed under a wrapping key; looks at all that its tenant has, so on no request."""
    return sum(int(tx.execute(statement, _of(key)).scalar_one()) for statement in _COUNTS)


def is_needed(tx: Transaction, key: WrappingKey) -> bool:
    """Returns whether anything is sealed under a wrapping key; looks at all that its tenant has when nothing is."""
    return any(tx.execute(statement, _of(key)).first() is not None for statement in _ANY)


def page(tx: Transaction, key: WrappingKey, after: Blob | None, limit: int) -> Sequence[Blob]:
    """Returns up to `limit` that are sealed under a wrapping key, from behind `after`, of one kind; none at the end."""
    if after is None or isinstance(after, CustodyBlob):
        found = _custody_page(tx, key, after, limit)
        if found:
            return found
    if not isinstance(after, ImportBlob | SecretBlob):
        consumers = _consumer_page(tx, key, after if isinstance(after, ConsumerBlob) else None, limit)
        if consumers:
            return consumers
    if not isinstance(after, SecretBlob):
        imports = _import_page(tx, key, after if isinstance(after, ImportBlob) else None, limit)
        if imports:
            return imports
    return _secret_page(tx, key, after if isinstance(after, SecretBlob) else None, limit)


def _of(key: WrappingKey) -> dict[str, object]:
    return {"of_tenant": key.tenant, "of_number": key.number}


def _custody_page(tx: Transaction, key: WrappingKey, after: CustodyBlob | None, limit: int) -> list[CustodyBlob]:
    place = {
        "after_managed": "" if after is None else after.managed_certificate.managed_certificate,
        "after_version": 0 if after is None else after.version,
    }
    return [
        CustodyBlob(
            managed_certificate=_name(row),
            managed_certificate_uid=row.uid,
            version=row.version,
            exportable=row.exportable,
            public_key=row.public_key,
            blob=row.blob,
        )
        for row in tx.execute(_CUSTODY_PAGE, {**_of(key), **place, "most": limit})
    ]


def _consumer_page(tx: Transaction, key: WrappingKey, after: ConsumerBlob | None, limit: int) -> list[ConsumerBlob]:
    place = {
        "after_managed": "" if after is None else after.managed_certificate.managed_certificate,
        "after_association": "" if after is None else after.association_id,
        "after_version": 0 if after is None else after.version,
    }
    return [
        ConsumerBlob(
            managed_certificate=_name(row),
            managed_certificate_uid=row.uid,
            association_id=row.association_id,
            consumer=row.consumer_spiffe_id,
            version=row.version,
            public_key=row.public_key,
            blob=row.blob,
        )
        for row in tx.execute(_CONSUMER_PAGE, {**_of(key), **place, "most": limit})
    ]


def _import_page(tx: Transaction, key: WrappingKey, after: ImportBlob | None, limit: int) -> list[ImportBlob]:
    place = {"after_import_key": "" if after is None else after.import_key_id}
    return [
        ImportBlob(tenant=row.tenant, import_key_id=row.import_key_id, public_key=row.public_key, blob=row.blob)
        for row in tx.execute(_IMPORT_PAGE, {**_of(key), **place, "most": limit})
    ]


def _secret_page(tx: Transaction, key: WrappingKey, after: SecretBlob | None, limit: int) -> list[SecretBlob]:
    place = {
        "after_subscription": "" if after is None else after.subscription_uid,
        "after_number": 0 if after is None else after.number,
    }
    return [
        SecretBlob(
            tenant=row.tenant,
            subscription_id=row.subscription_id,
            subscription_uid=row.subscription_uid,
            number=row.number,
            blob=row.blob,
        )
        for row in tx.execute(_SECRET_PAGE, {**_of(key), **place, "most": limit})
    ]


def _name(row: Row[Any]) -> ManagedCertificateName:
    return ManagedCertificateName(row.tenant, row.managed_certificate_id)


def replace_blobs(
    tx: Transaction, resealed: Sequence[tuple[Blob, bytes]], *, old: WrappingKey, new: WrappingKey
) -> int:
    """Writes what was sealed anew in place of what is still sealed under the old key; returns how many those were."""
    custody: list[dict[str, object]] = []
    consumers: list[dict[str, object]] = []
    imports: list[dict[str, object]] = []
    secrets: list[dict[str, object]] = []
    for one, blob in resealed:
        columns = {"blob": blob, "wrapping_key_number": new.number, "old_number": old.number}
        match one:
            case CustodyBlob():
                custody.append(columns | {"key": one.managed_certificate_uid, "of_version": one.version})
            case ConsumerBlob():
                key = {"key": one.managed_certificate_uid, "of_association": one.association_id}
                consumers.append(columns | key | {"of_version": one.version})
            case ImportBlob():
                imports.append(columns | {"of_tenant": one.tenant, "id": one.import_key_id})
            case SecretBlob():
                secrets.append(columns | {"key": one.subscription_uid, "of_secret": one.number})
    replaced = 0
    for statement, rows in (
        (_RESEAL_CUSTODY, custody),
        (_RESEAL_CONSUMER, consumers),
        (_RESEAL_IMPORT, imports),
        (_RESEAL_SECRET, secrets),
    ):
        if rows:
            replaced += tx.execute(statement, rows).rowcount
    if custody:
        tx.execute(
            _FOLLOW,
            [{"key": row["key"], "of_version": row["of_version"], "new_number": new.number} for row in custody],
        )
    return replaced


def delete_import_keys(tx: Transaction, key: WrappingKey) -> int:
    """Deletes the import keys that are sealed under a wrapping key; returns how many."""
    return tx.execute(_DELETE_IMPORT_KEYS, _of(key)).rowcount
