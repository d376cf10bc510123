"""Rows of tenants: settings that differ from the defaults, pages, revisions, counts."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select

from certd.model.access import Grant, Role
from certd.model.names import GrantName
from certd.model.tenant import Quota, Quotas, Tenant
from certd.store import grants, profiles, schema, tenant_counts, tenants
from certd.store.store import Store
from tests.store.samples import NOW, add_tenant, tenant

ACME = Tenant(
    tenant_id="acme",
    uid="uid-of-acme",
    create_time=NOW,
    display_name="Acme — ü",
    expiry_notice_days=(30, 7),
    quotas=Quotas(authorities=7, calls_per_second=20),
)


def settings_of(store: Store, tenant_id: str) -> str:
    with store.read("test") as tx:
        return str(
            tx.execute(select(schema.tenants.c.settings).where(schema.tenants.c.tenant_id == tenant_id)).scalar()
        )


def ids(store: Store, among: set[str] | None, after: str = "", limit: int = 100) -> list[str]:
    with store.read("test") as tx:
        return [one.tenant_id for one in tenants.page(tx, among=among, after=after, limit=limit)]


def test_what_was_written_is_read(store: Store) -> None:
    for one in (ACME, tenant("plain")):
        assert store.write("test", lambda tx, one=one: tenants.insert(tx, one))  # type: ignore[misc]  # mypy infers no type for a default.
        with store.read("test") as tx:
            assert tenants.get(tx, one.tenant_id) == one
    assert not store.write("test", lambda tx: tenants.insert(tx, replace(ACME, uid="another")))
    # What is at its default is not written down, so that a later default holds for it.
    assert settings_of(store, "acme") == '{"authorities":7,"calls_per_second":20,"expiry_notice_days":[30,7]}'
    assert settings_of(store, "plain") == "{}"


def test_an_update_is_of_the_newest_revision(store: Store) -> None:
    store.write("test", lambda tx: tenants.insert(tx, ACME))
    later = NOW + timedelta(seconds=1)
    wanted = replace(ACME, quotas=Quotas(grants=3), display_name="", update_time=later)
    changed = store.write("test", lambda tx: tenants.update(tx, wanted))
    assert changed == replace(wanted, revision=2)
    assert store.write("test", lambda tx: tenants.update(tx, replace(wanted, display_name="late"))) is None
    with store.read("test") as tx:
        assert tenants.get(tx, "acme") == changed
    assert store.write("test", lambda tx: tenants.update(tx, replace(wanted, tenant_id="absent"))) is None


def test_pages_are_in_the_order_of_ids(store: Store) -> None:
    for tenant_id in ("b", "a", "d", "c"):
        add_tenant(store, tenant_id)
    assert ids(store, None) == ["a", "b", "c", "d"]
    assert ids(store, None, after="b") == ["c", "d"]
    assert ids(store, None, limit=3) == ["a", "b", "c"]
    assert ids(store, {"d", "b", "absent"}) == ["b", "d"]
    assert ids(store, {"d", "b"}, after="b") == ["d"]
    assert ids(store, set()) == []


def test_a_page_looks_on_behind_ids_that_do_not_exist(store: Store) -> None:
    add_tenant(store, "z")
    absent = {f"a{number}" for number in range(10)}
    assert ids(store, absent | {"z"}, limit=3) == ["z"]


def test_rows_of_the_tenant_are_counted(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    for tenant_id, number in (("default", 0), ("default", 1), ("default", 2), ("other", 0)):
        grant = Grant(
            grant_id=f"g{number}",
            tenant=tenant_id,
            principal="spiffe://test.internal/identities/a",
            role=Role.AUDITOR,
            scope=f"tenants/{tenant_id}",
            profiles=None,
        )
        store.write("test", lambda tx, grant=grant: grants.insert(tx, grant))  # type: ignore[misc]  # As above.
        store.write(
            "test",
            lambda tx, of=tenant_id, number=number: profiles.insert(tx, of, f"p{number}", document="{}", now=NOW),  # type: ignore[misc]  # As above.
        )
    with store.read("test") as tx:
        for quota in (Quota.GRANTS, Quota.PROFILES):
            assert [tenant_counts.get(tx, of, quota) for of in ("default", "other", "none")] == [3, 1, 0]
    store.write("test", lambda tx: grants.delete(tx, GrantName("default", "g1")))
    store.write("test", lambda tx: grants.delete(tx, GrantName("default", "never")))
    store.write("test", lambda tx: profiles.delete(tx, "default", "p0"))
    with store.read("test") as tx:
        for quota in (Quota.GRANTS, Quota.PROFILES):
            assert tenant_counts.get(tx, "default", quota) == 2
