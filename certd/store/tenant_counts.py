"""How many of something each tenant has: counted where the rows are made and deleted, so that nobody counts rows."""

from sqlalchemy import bindparam, select, update

from certd.model.tenant import Quota
from certd.store import schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction

_counts = schema.tenant_counts
_THE_ROW = (_counts.c.tenant == bindparam("of_tenant"), _counts.c.kind == bindparam("of_kind"))
_GET = select(_counts.c.number).where(*_THE_ROW)
_INSERT = insert_if_absent(_counts)
_ADD = update(_counts).where(*_THE_ROW).values(number=_counts.c.number + bindparam("more"))


def get(tx: Transaction, tenant_id: str, quota: Quota) -> int:
    """Returns how many a tenant has."""
    return int(tx.execute(_GET, _key(tenant_id, quota)).scalar() or 0)


def add(tx: Transaction, tenant_id: str | None, quota: Quota, more: int = 1) -> None:
    """Notes that a tenant has one more, or with -1 one less; what belongs to the server, None, is not counted."""
    if tenant_id is None:
        return
    key = _key(tenant_id, quota)
    if tx.execute(_ADD, {**key, "more": more}).rowcount == 0:
        tx.execute(_INSERT, {"tenant": tenant_id, "kind": quota.value, "number": 0})
        tx.execute(_ADD, {**key, "more": more})


def _key(tenant_id: str, quota: Quota) -> dict[str, object]:
    return {"of_tenant": tenant_id, "of_kind": quota.value}
