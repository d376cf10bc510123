"""Certificates of current versions, and of those that are revoked, are read for many managed certificates at once."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certd.model.certificate import RevocationReason
from certd.model.managed_certificate import ManagedCertificate
from certd.store import certificates, managed_certificates, managed_versions, version_certificates
from certd.store.store import Store, Transaction
from certd.store.version_certificates import NEWEST, VersionCertificates
from tests.store.explaining import Explaining
from tests.store.samples import NOW, add_tenant, completion, intent, managed, version

DAY = timedelta(days=1)


@pytest.fixture
def tenant(store: Store) -> Store:
    add_tenant(store)
    return store


def put(store: Store, name: str, *, current: int, revoked: tuple[int, ...] = (), **changes: Any) -> ManagedCertificate:
    """Inserts a managed certificate with versions up to its current one, each with its certificate in the books."""
    one = replace(managed(name), current_version=current)
    first = changes.pop("first", 1)

    def work(tx: Transaction) -> None:
        managed_certificates.insert(tx, one)
        for number in range(first, current + 1):
            serial = f"{name}-{number}"
            made: dict[str, Any] = {"serial": serial, "not_before": NOW - DAY, "not_after": NOW + DAY} | changes
            managed_versions.insert(tx, replace(version(one, number), **made))
            if made["serial"] is not None:
                signed = intent(serial=made["serial"])
                certificates.insert_intents(tx, [signed])
                certificates.complete(tx, [completion(signed, der=der(name, number))])
        for number in revoked:
            managed_versions.set_revoked(tx, one.uid, number, revoke_time=NOW, reason=RevocationReason.KEY_COMPROMISE)

    store.write("test", work)
    return one


def der(name: str, number: int) -> bytes:
    return f"certificate {name} {number}".encode()


def read(store: Store, *asked: ManagedCertificate) -> list[VersionCertificates | None]:
    with store.read("test") as tx:
        found = version_certificates.of_all(tx, [each.uid for each in asked], NOW)
    return [found.get(each.uid) for each in asked]


def test_each_has_its_current_certificate_and_its_revoked_ones_the_newest_first(tenant: Store) -> None:
    web = put(tenant, "web", current=12, revoked=(2, 9, 10))
    shop = put(tenant, "shop", current=2, revoked=(2,))
    fresh = put(tenant, "fresh", current=0)
    put(tenant, "nobody-asks", current=1, revoked=(1,))
    assert read(tenant, shop, web, fresh, web) == [
        VersionCertificates(current=der("shop", 2), revoked=(der("shop", 2),)),
        VersionCertificates(current=der("web", 12), revoked=(der("web", 10), der("web", 9), der("web", 2))),
        None,
        VersionCertificates(current=der("web", 12), revoked=(der("web", 10), der("web", 9), der("web", 2))),
    ]
    assert read(tenant) == []


def test_what_has_ended_and_what_is_far_back_is_not_told(tenant: Store) -> None:
    ended = put(tenant, "ended", current=3, revoked=(1, 3), not_after=NOW - timedelta(microseconds=1))
    at_its_end = put(tenant, "at-its-end", current=2, revoked=(1,), not_after=NOW)
    long = put(tenant, "long", current=NEWEST + 2, revoked=tuple(range(1, NEWEST + 3)))
    found_ended, found_at_its_end, found_long = read(tenant, ended, at_its_end, long)
    assert found_ended == VersionCertificates(current=der("ended", 3))
    assert found_at_its_end == VersionCertificates(current=der("at-its-end", 2), revoked=(der("at-its-end", 1),))
    assert found_long is not None
    assert found_long.revoked == tuple(der("long", number) for number in range(NEWEST + 2, 2, -1))


def test_an_imported_certificate_stands_in_its_version(tenant: Store) -> None:
    imported = put(tenant, "web", current=1, serial=None, certificate=b"imported")
    in_making = put(tenant, "shop", current=1, serial=None, not_after=None)
    assert read(tenant, imported, in_making) == [VersionCertificates(current=b"imported"), None]


def test_versions_are_found_by_their_keys(sqlite_store: Store) -> None:
    with sqlite_store.read("test") as tx:
        explaining = Explaining(tx)
        version_certificates.of_all(explaining, ["a", "b"], NOW)
    (plan,) = explaining.plans
    assert "SCAN" not in plan
    assert "managed_certificate_uid=? AND number=?" in plan
    assert "managed_certificate_uid=? AND number>?" in plan
    assert "authority_uid=? AND serial=?" in plan
