"""Rows of profiles: every version stays, ids go on counting, and who names a profile is found."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.names import GrantName
from certd.store import grants, managed_certificates, profiles
from certd.store.profiles import ProfileRow
from certd.store.store import Store, Transaction
from tests.store.samples import LATER, NOW, add_tenant, grant, managed
from tests.store.waiting import run_together

_FIRST = ProfileRow(tenant="default", profile_id="web", version=1, document='{"ü":1}', create_time=NOW, update_time=NOW)


def insert(store: Store, profile_id: str = "web", **changes: Any) -> ProfileRow:
    values: dict[str, Any] = {"tenant": "default", "document": '{"ü":1}', "now": NOW} | changes
    tenant = values.pop("tenant")
    return store.write("test", lambda tx: profiles.insert(tx, tenant, profile_id, **values))


def add(store: Store, expected_version: int, profile_id: str = "web", **changes: Any) -> ProfileRow | None:
    values: dict[str, Any] = {"document": "{}", "now": LATER} | changes
    return store.write(
        "test",
        lambda tx: profiles.add_version(tx, "default", profile_id, expected_version=expected_version, **values),
    )


def get(store: Store, profile_id: str = "web", tenant: str = "default") -> ProfileRow | None:
    with store.read("test") as tx:
        return profiles.get(tx, tenant, profile_id)


def get_version(store: Store, version: int, profile_id: str = "web") -> ProfileRow | None:
    with store.read("test") as tx:
        return profiles.get_version(tx, "default", profile_id, version)


def test_a_profile_comes_out_as_it_went_in(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    assert insert(store) == _FIRST
    assert get(store) == _FIRST
    assert get_version(store, 1) == _FIRST
    assert get(store, tenant="other") is None
    assert get(store, "we") is None
    assert get_version(store, 2) is None
    # Another tenant's id is another profile.
    assert insert(store, tenant="other", document="[]") == replace(_FIRST, tenant="other", document="[]")
    assert get(store) == _FIRST


def test_an_id_is_taken_once_per_tenant(store: Store) -> None:
    add_tenant(store)
    insert(store)
    with pytest.raises(CertdError, match="choose another id") as caught:
        insert(store, document="[]")
    assert caught.value.reason is Reason.PROFILE_EXISTS
    assert caught.value.resource == "tenants/default/profiles/web"
    assert get(store) == _FIRST
    assert get_version(store, 2) is None


def test_every_version_stays(store: Store) -> None:
    add_tenant(store)
    insert(store)
    second = replace(_FIRST, version=2, document="{}", update_time=LATER)
    assert add(store, 1) == second
    assert get(store) == second
    assert get_version(store, 2) == second
    assert get_version(store, 1) == _FIRST
    # From another version than the newest nothing is made.
    for expected in (1, 3):
        assert add(store, expected, document="[]") is None
    assert add(store, 1, "none") is None
    assert get(store) == second
    assert get_version(store, 3) is None


def test_of_many_who_change_a_version_one_does(store: Store) -> None:
    add_tenant(store)
    insert(store)
    made = run_together([lambda: add(store, 1)] * 6)
    assert sorted(row.version if row else 0 for row in made) == [0, 0, 0, 0, 0, 2]


def test_a_deleted_profile_leaves_its_versions_and_its_id_goes_on_counting(store: Store) -> None:
    add_tenant(store)
    insert(store)
    add(store, 1)
    assert store.write("test", lambda tx: profiles.delete(tx, "default", "web"))
    assert not store.write("test", lambda tx: profiles.delete(tx, "default", "web"))
    assert get(store) is None
    before = get_version(store, 2)
    assert before == replace(_FIRST, version=2, document="{}", create_time=None, update_time=LATER)
    again = LATER + timedelta(hours=1)
    third = replace(_FIRST, version=3, create_time=again, update_time=again)
    assert insert(store, now=again) == third
    assert get(store) == third
    assert get_version(store, 3) == third
    assert get_version(store, 2) == before


def test_profiles_by_page(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    for number in range(4):
        # With a hyphen, which some collations do not see.
        insert(store, f"p-{number}")
        insert(store, f"p{number}")
    insert(store, "foreign", tenant="other")
    add(store, 1, "p-0")
    with store.read("test") as tx:
        first = profiles.page(tx, "default", after=None, limit=3)
        rest = profiles.page(tx, "default", after=first[-1].profile_id, limit=100)
    expected = sorted(f"{prefix}{number}" for prefix in ("p", "p-") for number in range(4))
    assert [row.profile_id for row in first + rest] == expected
    assert [row.version for row in first] == [2, 1, 1]
    assert first[0].document == "{}"


def test_who_names_a_profile_is_found(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    one = frozenset({"web"})
    named = {
        "everywhere": grant(grant_id="everywhere", profiles=one),
        "tenant": grant(grant_id="tenant", profiles=frozenset({"a", "web", "z"}), scope="tenants/default"),
        "below": grant(grant_id="below", profiles=one, scope="tenants/default/authorities/ca"),
    }
    strangers = [
        grant(grant_id="all-profiles", profiles=None),
        grant(grant_id="none", profiles=frozenset()),
        grant(grant_id="longer", profiles=frozenset({"web-2", "my-web"})),
        grant(grant_id="foreign", profiles=one, scope="tenants/other"),
        grant(grant_id="foreign-below", profiles=one, scope="tenants/default-2/authorities/ca"),
    ]

    def work(tx: Transaction) -> None:
        for each in (*named.values(), *strangers):
            grants.insert(tx, each)
        for number in range(3):
            managed_certificates.insert(tx, managed(f"m{number}", profile="web"))
        managed_certificates.insert(tx, managed("else", profile="web-2"))
        managed_certificates.insert(tx, managed("foreign", tenant="other", profile="web"))

    store.write("test", work)
    with store.read("test") as tx:
        assert profiles.grants_of(tx, "default", "web", most=9) == [GrantName(None, each) for each in sorted(named)]
        assert profiles.grants_of(tx, "default", "web", most=2) == [GrantName(None, each) for each in sorted(named)[:2]]
        assert profiles.grants_of(tx, "default", "we", most=9) == []
        assert profiles.managed_certificates_of(tx, "default", "web", most=9) == ["m0", "m1", "m2"]
        assert profiles.managed_certificates_of(tx, "default", "web", most=2) == ["m0", "m1"]
        assert profiles.managed_certificates_of(tx, "default", "we", most=9) == []
