"""Versions that were imported, whose chains may have megabytes."""

from dataclasses import replace

from certd.store import managed_certificates, managed_versions
from certd.store.store import Store, Transaction
from tests.store.samples import LATER, NOW, add_tenant, managed, version


def test_a_chain_is_read_with_its_version_alone(store: Store) -> None:
    add_tenant(store)
    shop, chain = managed("shop"), (b"issuer" * 1000, b"root")
    several = [
        replace(version(shop, number), certificate=b"certificate", chain=chain, not_before=NOW, not_after=LATER)
        for number in (1, 2)
    ]

    def work(tx: Transaction) -> None:
        managed_certificates.insert(tx, shop)
        for one in several:
            managed_versions.insert(tx, one)

    store.write("test", work)
    bare = [replace(one, chain=()) for one in several]
    with store.read("test") as tx:
        assert [managed_versions.get(tx, shop.uid, number) for number in (1, 2)] == several
        assert [managed_versions.get_bare(tx, shop.uid, number) for number in (1, 2, 3)] == [*bare, None]
        # As many of them as a page has are in memory at once.
        assert managed_versions.page(tx, shop.uid, below=None, limit=10) == bare[::-1]
        assert managed_versions.latest(tx, shop.uid) == bare[1]
        assert managed_versions.not_ended(tx, shop.uid, NOW) == bare
