"""Import keys: made when they are needed, vouched for by the system authority, followed by others in time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import select, update

from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.import_key import ImportKey
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import ManagedCertificateName, TenantName, WrappingKeyName
from certd.model.wrapping_key import WrappingKeyState
from certd.pki.import_key import verify_import_key
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_import_plan import NewImport, PlainPrivateKey, SealedPrivateKey
from certd.services.system import LEAD
from certd.services.tenants import GivenTenant
from certd.store import import_keys, managed_schema
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.imports import Pair, pair
from tests.outside_parent import outside_authority
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, World, two_worlds
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

DAY = timedelta(days=1)
TENANT = TenantName("default")
SHOP = ManagedCertificateName("default", "shop")
NOW = FakeClock().now()
ISSUER = outside_authority("Outside Root", now=NOW)
SHOP_PAIR = pair(ISSUER, "shop.example.internal", now=NOW, ends=400 * DAY)


def current(world: World) -> ImportKey:
    return world.core.managed_import.import_key(ADMINISTRATOR, TENANT)


def import_sealed(
    world: World, key: ImportKey, *, name: ManagedCertificateName = SHOP, given: Pair = SHOP_PAIR
) -> ManagedCertificateView:
    sealed = SealedPrivateKey(key.name, given.sealed_to(key.statement))
    new = NewImport(name=name, certificate=given.pem, chain=given.chain_pem, private_key=sealed)
    return world.core.managed_import.import_(ADMINISTRATOR, new, key=None, validate_only=False)


def verify(world: World, key: ImportKey) -> None:
    stated = verify_import_key(
        statement=key.statement,
        signature=key.signature,
        signature_algorithm=key.signature_algorithm,
        authority_certificate=key.authority_certificate,
        trusted=world.core.system_authority.roots(),
        now=world.clock.now(),
    )
    told = (stated.import_key_id, stated.public_key, stated.expire_time)
    assert told == (key.import_key_id, key.public_key, key.expire_time)


def ids_in_the_books(world: World) -> set[str]:
    with world.core.store.read("test.import-keys") as tx:
        return set(tx.execute(select(managed_schema.import_keys.c.import_key_id)).scalars())


def test_a_tenant_has_one_that_the_system_authority_vouches_for(world: World) -> None:
    key = current(world)
    verify(world, key)
    assert key.expire_time - world.clock.now() == 30 * DAY
    assert key.import_key_id.startswith("k")
    assert len(key.import_key_id) == 17
    assert current(world) == key
    (event,) = [event for event in world.events() if event.type is EventType.IMPORT_KEY_CREATED]
    assert (event.principal, event.resource) == (SYSTEM_PRINCIPAL, str(key.name))
    assert dict(event.details) == {
        "wrapping_key": "1",
        "authority": "system",
        "expire_time": "2030-01-31T00:00:00Z",
    }
    assert import_sealed(world, key).state is ManagedCertificateState.ACTIVE


def test_nothing_of_its_private_half_is_shown(world: World) -> None:
    key = current(world)
    assert "sealed_key" not in repr(key)


def test_one_with_less_than_half_of_its_life_is_given_to_nobody_and_opens_until_its_end(world: World) -> None:
    first = current(world)
    world.clock.advance(15 * DAY)
    assert current(world) == first
    world.clock.advance(timedelta(seconds=1))
    second = current(world)
    assert second.import_key_id != first.import_key_id
    assert current(world) == second
    # Who has kept the first may still seal to it.
    import_sealed(world, first)
    world.clock.advance(16 * DAY)
    with pytest.raises(CertdError) as late:
        import_sealed(world, first, name=ManagedCertificateName("default", "late"))
    assert late.value.reason is Reason.FIELD_INVALID
    assert ids_in_the_books(world) == {first.import_key_id, second.import_key_id}
    third = current(world)
    # The next making forgets what has ended.
    assert ids_in_the_books(world) == {second.import_key_id, third.import_key_id}


def test_each_tenant_has_its_own(world: World) -> None:
    world.core.tenants.create(ADMINISTRATOR, "acme", GivenTenant(), key=None, validate_only=False)
    ours, theirs = current(world), world.core.managed_import.import_key(ADMINISTRATOR, TenantName("acme"))
    assert ours.public_key != theirs.public_key
    # Neither by its name, nor with its statement under the name of ours, does a key for one open for the other.
    sealed = SHOP_PAIR.sealed_to(theirs.statement)
    new = NewImport(
        name=SHOP,
        certificate=SHOP_PAIR.pem,
        chain=SHOP_PAIR.chain_pem,
        private_key=SealedPrivateKey(ours.name, sealed),
    )
    with pytest.raises(CertdError) as caught:
        world.core.managed_import.import_(ADMINISTRATOR, new, key=None, validate_only=False)
    assert caught.value.reason is Reason.FIELD_INVALID


def test_a_row_that_was_moved_to_another_tenant_does_not_open(world: World) -> None:
    """Who writes into the database cannot have what was sealed to one tenant opened for another."""
    key = current(world)
    rows = managed_schema.import_keys
    world.core.store.write(
        "test.rename",
        lambda tx: tx.execute(update(rows).values(import_key_id="k00000000000000ff")),
    )
    with world.core.store.read("test.moved") as tx:
        moved = import_keys.get(tx, "default", "k00000000000000ff")
    assert moved is not None
    assert moved.statement == key.statement
    with pytest.raises(CertdError) as caught:
        import_sealed(world, moved)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


def test_a_wrapping_key_that_is_not_primary_any_more_has_its_import_keys_followed(world: World) -> None:
    first = current(world)
    rows = managed_schema.wrapping_keys
    not_any_more = update(rows).values(state=WrappingKeyState.DECRYPT_ONLY.value)
    world.core.store.write("test.rotate", lambda tx: tx.execute(not_any_more))
    # As a rotation has it, with the new key not made yet.
    world.core.store.write(
        "test.new",
        lambda tx: tx.execute(
            rows.insert(),
            {
                "tenant": "default",
                "number": 2,
                "key_id": b"k" * 16,
                "state": WrappingKeyState.PRIMARY.value,
                "create_time": 0,
            },
        ),
    )
    second = current(world)
    assert (second.wrapping_key_number, second.import_key_id != first.import_key_id) == (2, True)
    # What is sealed to the first opens; its own blob is under the older wrapping key.
    import_sealed(world, first)


def test_a_rotation_does_not_stop_imports_and_its_end_makes_no_key_useless(world: World) -> None:
    first = current(world)
    rotated = world.core.wrapping_key_rotation.rotate(ADMINISTRATOR, TENANT, key=None).wrapping_key
    assert rotated.number == 2

    def retired() -> bool:
        name = WrappingKeyName("default", 1)
        view = world.core.wrapping_key_rotation.get(ADMINISTRATOR, name)
        return view.wrapping_key.state is WrappingKeyState.RETIRED

    eventually(retired)
    import_sealed(world, first)
    verify(world, current(world))


def test_a_system_authority_that_is_not_trusted_any_more_vouches_for_nothing(world: World) -> None:
    first = current(world)
    world.core.system_rotation.rotate()
    assert current(world) == first
    # Long enough for the old one to issue no more; an import key of its lives no longer than it is trusted.
    world.clock.advance(LEAD + DAY)
    second = current(world)
    verify(world, second)
    assert second.authority_certificate == world.core.system_authority.get().certificate
    assert second.authority_certificate != first.authority_certificate
    rows = managed_schema.import_keys
    untrusted = update(rows).values(authority_certificate=b"of nobody")
    world.core.store.write("test.untrusted", lambda tx: tx.execute(untrusted))
    third = current(world)
    assert third.import_key_id != second.import_key_id
    verify(world, third)


def test_without_a_token_there_is_no_new_one_and_the_old_one_is_given(world: World) -> None:
    key = current(world)
    world.core.token.stop()
    assert current(world) == key
    world.clock.advance(20 * DAY)
    with pytest.raises(CertdError) as caught:
        current(world)
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
    plain = NewImport(
        name=SHOP,
        certificate=SHOP_PAIR.pem,
        chain=SHOP_PAIR.chain_pem,
        private_key=PlainPrivateKey(SHOP_PAIR.key_pem),
    )
    with pytest.raises(CertdError) as away:
        world.core.managed_import.import_(ADMINISTRATOR, plain, key=None, validate_only=False)
    assert away.value.reason is Reason.TOKEN_UNAVAILABLE
    assert away.value.retry_after is not None


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    with two_worlds(tmp_path, token_settings, postgres_url) as both:
        yield both


def test_what_two_daemons_make_at_once_works_with_both(daemons: tuple[World, World]) -> None:
    together = Barrier(2)

    def make(world: World) -> ImportKey:
        together.wait()
        return current(world)

    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(make, daemons))
    first, second = daemons
    for number, key in enumerate(made):
        verify(second, key)
        for name, world in (("first", first), ("second", second)):
            import_sealed(world, key, name=ManagedCertificateName("default", f"{name}-{number}"))
    # From then on both give the same one.
    assert current(first) == current(second)


def outcome(world: World, given: Pair, *, replace: bool) -> int | Reason:
    """Returns the version that an import made, or why it was refused."""
    new = NewImport(
        name=SHOP,
        certificate=given.pem,
        chain=given.chain_pem,
        private_key=PlainPrivateKey(given.key_pem),
        replace=replace,
    )
    try:
        view = world.core.managed_import.import_(ADMINISTRATOR, new, key=None, validate_only=False)
    except CertdError as error:
        return error.reason
    assert view.certificate == given.der
    return view.managed_certificate.current_version


def test_of_two_daemons_that_import_one_name_at_once_one_does(daemons: tuple[World, World]) -> None:
    pairs = [SHOP_PAIR, pair(ISSUER, "shop.example.internal", now=NOW)]
    together = Barrier(2)

    def run(number: int, *, replace: bool) -> int | Reason:
        together.wait()
        return outcome(daemons[number], pairs[number], replace=replace)

    with ThreadPoolExecutor(2) as threads:
        first = list(threads.map(lambda number: run(number, replace=False), (0, 1)))
        assert sorted(first, key=str) == [1, Reason.MANAGED_CERTIFICATE_EXISTS]
        # New versions follow one another, each with the key that was sealed for its number.
        second = list(threads.map(lambda number: run(number, replace=True), (0, 1)))
    assert sorted(second, key=str) == [2, 3]
    views = [world.core.managed_certificates.get(ADMINISTRATOR, SHOP) for world in daemons]
    assert views[0] == views[1]
    assert views[0].managed_certificate.current_version == 3
