"""A world whose wrapping keys are rotated, and short ways to look at what becomes of them."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from sqlalchemy import select

from certd.errors import CertdError
from certd.model.event import EventType
from certd.model.names import ManagedCertificateName, TenantName, WrappingKeyName
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.sealing import hpke_decrypt
from certd.services.idempotency import RequestKey
from certd.services.managed_export import RecipientExport
from certd.store import managed_versions, schema, sealed_under
from certd.token.settings import TokenSettings
from tests.services.conftest import (
    ADMINISTRATOR,
    World,
)
from tests.services.consumers import add_version, leasing_world
from tests.softhsm import make_token
from tests.waiting import eventually

DEFAULT = TenantName("default")
FIRST, SECOND = WrappingKeyName("default", 1), WrappingKeyName("default", 2)
SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def token_settings(tmp_path: Path) -> TokenSettings:
    """A token from which as much is exported and leased as a test likes."""
    return make_token(tmp_path, exports_per_minute=1_000_000, leases_per_minute=20_000)


@pytest.fixture
def ca(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    with leasing_world(tmp_path, token_settings) as world:
        yield world


def named(number: int) -> ManagedCertificateName:
    return ManagedCertificateName("default", f"web-{number}")


def is_active(world: World, name: ManagedCertificateName) -> bool:
    return world.core.managed_certificates.get(ADMINISTRATOR, name).certificate is not None


def fill(world: World, *, certificates: int, versions: int = 1) -> None:
    """Makes managed certificates, each with so many versions that have keys."""
    names = [named(number) for number in range(certificates)]
    for name in names:
        world.request(name.managed_certificate)
    eventually(lambda: all(is_active(world, name) for name in names))
    for name in names:
        for _ in range(versions - 1):
            add_version(world, name)


def fill_one_more(world: World, managed_id: str) -> None:
    world.request(managed_id)
    as_time_goes_by(world, lambda: is_active(world, ManagedCertificateName("default", managed_id)))


def rotate(world: World, *, key: RequestKey | None = None) -> WrappingKey:
    return world.core.wrapping_key_rotation.rotate(ADMINISTRATOR, DEFAULT, key=key).wrapping_key


def get(world: World, name: WrappingKeyName = FIRST) -> WrappingKey:
    return world.core.wrapping_key_rotation.get(ADMINISTRATOR, name).wrapping_key


def destroy(world: World, *, etag: str = "", key: RequestKey | None = None, validate_only: bool = False) -> str:
    """Destroys the first key; returns what is told beside."""
    view = world.core.wrapping_key_rotation.destroy(
        ADMINISTRATOR, FIRST, etag=etag or get(world).etag, key=key, validate_only=validate_only
    )
    assert view.wrapping_key.state is WrappingKeyState.DESTROYED
    return view.warnings[0].message


def as_time_goes_by(world: World, condition: Callable[[], object]) -> None:
    """Waits for something while the clock moves on, so that what waits for its next attempt has it."""

    def look() -> bool:
        world.clock.advance(timedelta(seconds=1))
        world.core.scheduler.wake()
        return bool(condition())

    eventually(look, within=60)


def retired(world: World, name: WrappingKeyName = FIRST) -> WrappingKey:
    as_time_goes_by(world, lambda: get(world, name).state is WrappingKeyState.RETIRED)
    return get(world, name)


def opened(world: World, name: ManagedCertificateName, version: int | None = None) -> bytes:
    """Exports a key; returns the public key that belongs to it."""
    mine = X25519PrivateKey.generate()
    exported = world.core.managed_export.export(
        ADMINISTRATOR,
        name,
        version=version,
        protection=RecipientExport(mine.public_key().public_bytes_raw()),
        reason="test",
    )
    key = load_der_private_key(hpke_decrypt(exported.encrypted_key, private_key=mine, info=exported.hpke_info), None)
    return key.public_key().public_bytes(*SPKI)


def check_everything_opens(world: World, *, certificates: int, versions: int = 1) -> None:
    """Every key opens, and is the one that belongs to its version."""
    for number in range(certificates):
        name = named(number)
        uid = world.core.managed_certificates.get(ADMINISTRATOR, name).managed_certificate.uid
        for version in range(1, versions + 1):
            with world.core.store.read("test.version") as tx:
                row = managed_versions.get(tx, uid, version)
            assert row is not None
            assert opened(world, name, version) == row.public_key


def left(world: World, name: WrappingKeyName = FIRST) -> int:
    """How many keys are sealed under a wrapping key."""
    with world.core.store.read("test.left") as tx:
        return sealed_under.count(tx, get(world, name))


def told(world: World, type_: EventType) -> list[str]:
    return [event.resource for event in world.events() if event.type is type_]


def refused(call: Callable[[], object]) -> CertdError:
    with pytest.raises(CertdError) as error:
        call()
    return error.value


def jobs_of(world: World) -> list[str]:
    with world.core.store.read("test.jobs") as tx:
        rows = tx.execute(select(schema.jobs.c.subject).where(schema.jobs.c.kind == "reseal-keys"))
        return [row.subject for row in rows]
