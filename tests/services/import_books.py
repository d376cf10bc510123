"""What tests of imports share: pairs of an outside authority, imports and returns, and what the books say."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import func, select

from certd.errors import CertdError
from certd.model.access import Caller
from certd.model.managed_certificate import (
    ManagedCertificateVersion,
)
from certd.model.names import ManagedCertificateName, TenantName
from certd.pki import sealing
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_export import Exported, RecipientExport
from certd.services.managed_import_plan import NewImport, PlainPrivateKey, SealedPrivateKey
from certd.store import managed_schema, managed_versions
from tests.fakes import FakeClock
from tests.imports import Pair, pair
from tests.outside_parent import outside_authority
from tests.services.conftest import ADMINISTRATOR, World

SHOP = ManagedCertificateName("default", "shop")
TENANT = TenantName("default")
NOW = FakeClock().now()
ROOT = outside_authority("Outside Root", now=NOW)
ISSUER = outside_authority("Outside Issuer", ROOT, now=NOW)
SHOP_PAIR = pair(ISSUER, "shop.example.internal", "www.shop.example.internal", now=NOW)
NEXT_PAIR = pair(ISSUER, "shop.example.internal", "new.example.internal", now=NOW, ends=timedelta(days=180))


def sealed(
    world: World, given: Pair, *, exportable: bool = False, private_key: bytes | None = None
) -> SealedPrivateKey:
    """Seals as a client does, which may take something else for the private key of the certificate."""
    key = world.core.managed_import.import_key(ADMINISTRATOR, TENANT)
    return SealedPrivateKey(key.name, given.sealed_to(key.statement, exportable=exportable, private_key=private_key))


def importing(given: Pair = SHOP_PAIR, **changes: Any) -> NewImport:
    wanted: dict[str, Any] = {
        "name": SHOP,
        "certificate": given.pem,
        "chain": given.chain_pem,
        "private_key": PlainPrivateKey(given.key_pem),
    }
    return NewImport(**(wanted | changes))


def import_(
    world: World,
    given: Pair = SHOP_PAIR,
    *,
    key: RequestKey | None = None,
    validate_only: bool = False,
    caller: Caller = ADMINISTRATOR,
    **changes: Any,
) -> ManagedCertificateView:
    new = importing(given, **changes)
    return world.core.managed_import.import_(caller, new, key=key, validate_only=validate_only)


def roll_back(world: World, *, version: int | None = None, **changes: Any) -> ManagedCertificateView:
    wanted: dict[str, Any] = {"etag": "", "key": None}
    return world.core.managed_import.roll_back(ADMINISTRATOR, SHOP, version=version, **(wanted | changes))


def refused(world: World, given: Pair = SHOP_PAIR, **changes: Any) -> CertdError:
    """Returns why an import is refused, which changes nothing."""
    before = books(world)
    with pytest.raises(CertdError) as caught:
        import_(world, given, **changes)
    assert books(world) == before
    return caught.value


def books(world: World) -> tuple[object, ...]:
    """Returns what an import could leave behind."""
    tables = (
        managed_schema.managed_certificates,
        managed_schema.managed_certificate_versions,
        managed_schema.sealed_keys,
    )
    with world.core.store.read("test.books") as tx:
        counts = [tx.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]
    return (*counts, len([event for event in world.events() if event.type.startswith("managed")]))


def export(world: World, *, version: int | None = None) -> Exported:
    private_key = X25519PrivateKey.generate()
    public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    exported = world.core.managed_export.export(
        ADMINISTRATOR, SHOP, version=version, protection=RecipientExport(public_key), reason="test"
    )
    opened = sealing.hpke_decrypt(exported.encrypted_key, private_key=private_key, info=exported.hpke_info)
    return replace(exported, encrypted_key=opened)


def version_of(world: World, number: int) -> ManagedCertificateVersion:
    with world.core.store.read("test.version") as tx:
        managed = world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate
        found = managed_versions.get(tx, managed.uid, number)
    assert found is not None
    return found


def expire_time_of(world: World, number: int) -> int | None:
    keys = managed_schema.sealed_keys
    with world.core.store.read("test.expire-time") as tx:
        found: int | None = tx.execute(select(keys.c.expire_time).where(keys.c.version == number)).scalar_one()
    return found
