"""A managed certificate that is deleted and made again, by the same name, while somebody works on the one before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.model.names import WrappingKeyName
from certd.model.wrapping_key import WrappingKeyState
from certd.token.settings import TokenSettings
from tests.imports import Pair, pair
from tests.outside_parent import outside_authority
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import associate, consumer, lease, leasing_world
from tests.services.import_books import SHOP, TENANT, import_
from tests.waiting import eventually


@pytest.fixture
def leasing(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    with leasing_world(tmp_path, token_settings) as world:
        yield world


def pairs(world: World) -> tuple[Pair, Pair]:
    now = world.clock.now()
    issuer = outside_authority("Outside Issuer", now=now)
    return pair(issuer, "shop.example.internal", now=now), pair(issuer, "shop.example.internal", now=now)


def test_who_is_associated_meanwhile_gets_the_key_of_the_new_one(leasing: World) -> None:
    before, after = pairs(leasing)
    import_(leasing, before)
    machine = consumer(leasing)

    def make_again() -> None:
        changes = leasing.core.managed_certificate_changes
        changes.delete(ADMINISTRATOR, SHOP, etag="", key=None, validate_only=False)
        import_(leasing, after)

    leasing.steps.at["association.1.sealed"] = make_again
    view = associate(leasing, machine, SHOP)
    assert lease(leasing, machine, view).public_key() == after.key.public_key()

    # And nothing keeps the wrapping key from being rotated.
    rotation = leasing.core.wrapping_key_rotation
    rotation.rotate(ADMINISTRATOR, TENANT, key=None)
    first = WrappingKeyName("default", 1)

    def is_retired() -> bool:
        leasing.core.scheduler.wake()
        return rotation.get(ADMINISTRATOR, first).wrapping_key.state is WrappingKeyState.RETIRED

    assert eventually(is_retired)
