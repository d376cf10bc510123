"""Consumers are told which certificate is current, and which that they may hold are revoked, however they ask."""

import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest

from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.model.names import CertificateName, ManagedCertificateName
from certd.services.association_views import AssociationView
from certd.services.associations import NewAssociation
from certd.services.managed_revocation import NewManagedRevocation
from certd.services.paging import PageRequest
from certd.services.revocation import NewRevocation
from certd.store import managed_versions
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import (
    WEB,
    active,
    associate,
    association_name,
    consumer,
)
from tests.services.managed_books import get, renewed, stands
from tests.services.managed_watching import CHANGED, SHOP, SYNCED, Watch, ca, service_of, until, watch

__all__ = ["ca", "watch"]

REVOKED = EventType.MANAGED_CERTIFICATE_REVOKED


def current_certificate(world: World, name: ManagedCertificateName = WEB) -> bytes:
    """The SHA-256 of what a managed certificate shows as its certificate."""
    certificate = get(world, name).certificate
    assert certificate is not None
    return hashlib.sha256(certificate).digest()


def revoke(
    world: World,
    version: int,
    reason: RevocationReason = RevocationReason.SUPERSEDED,
    *,
    name: ManagedCertificateName = WEB,
) -> None:
    new = NewManagedRevocation(name=name, version=version, reason=reason)
    world.core.managed_revocation.revoke(ADMINISTRATOR, new, key=None)


def revoke_certificate(world: World, version: int) -> None:
    """By the certificate's own name."""
    with world.core.store.read("test.version") as tx:
        found = managed_versions.get(tx, stands(world).uid, version)
    assert found is not None
    assert found.serial is not None
    name = CertificateName("default", CA.authority, found.serial)
    new = NewRevocation(name=name, reason=RevocationReason.SUPERSEDED)
    world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)


def told(view: AssociationView | None) -> tuple[bytes, tuple[bytes, ...]]:
    assert view is not None
    return view.current_certificate_sha256, view.revoked_certificate_sha256


def asked(world: World) -> tuple[bytes, tuple[bytes, ...]]:
    return told(world.core.associations.get(ADMINISTRATOR, association_name()))


def test_an_association_tells_its_certificates_wherever_it_is_shown(ca: World) -> None:
    machine = consumer(ca)
    active(ca)
    first = current_certificate(ca)
    assert told(associate(ca, machine)) == (first, ())
    renewed(ca)
    second = current_certificate(ca)
    revoke(ca, 1)
    assert second != first
    assert asked(ca) == (second, (first,))
    assert told(ca.core.associations.get(machine.caller, association_name())) == (second, (first,))
    active(ca, SHOP)
    associate(ca, machine, SHOP)
    everything = ManagedCertificateName("default", "-")
    for caller, parent, of in (
        (ADMINISTRATOR, WEB, None),
        (ADMINISTRATOR, everything, None),
        (machine.caller, everything, machine.name),
    ):
        page = ca.core.associations.page(caller, parent, PageRequest(10, ""), consumer=of)
        shown = {view.association.name.managed_certificate: told(view) for view in page.items}
        assert shown.pop(WEB) == (second, (first,))
        assert all(each == (current_certificate(ca, SHOP), ()) for each in shown.values())
    again = NewAssociation(managed_certificate=WEB, association_id="more", consumer=consumer(ca, "more").name)
    assert told(ca.core.associations.create(ADMINISTRATOR, again, key=None, validate_only=True)) == (second, (first,))


def test_while_nothing_is_issued_there_is_nothing_to_tell(world: World) -> None:
    machine = consumer(world)
    world.create_root()
    world.create_subordinate()
    world.core.scheduler.stop()
    world.request("web", name=WEB)
    assert told(associate(world, machine)) == (b"", ())


def test_the_current_version_may_be_a_revoked_one(ca: World) -> None:
    machine = consumer(ca)
    active(ca)
    associate(ca, machine)
    only = current_certificate(ca)
    revoke(ca, 1, RevocationReason.CESSATION_OF_OPERATION)
    assert asked(ca) == (only, (only,))


def test_what_has_ended_is_told_no_more(ca: World) -> None:
    machine = consumer(ca)
    active(ca)
    associate(ca, machine)
    only = current_certificate(ca)
    revoke(ca, 1)
    with ca.core.store.read("test.version") as tx:
        version = managed_versions.get(tx, stands(ca).uid, 1)
    assert version is not None
    assert version.not_after is not None
    ca.clock.advance(version.not_after - ca.clock.now())
    assert asked(ca) == (only, (only,))
    ca.clock.advance(timedelta(seconds=1))
    assert asked(ca) == (only, ())


@pytest.mark.parametrize("way", [revoke, revoke_certificate], ids=["managed", "certificate"])
@pytest.mark.parametrize("number", [1, 2], ids=["an earlier version", "the current version"])
def test_who_watches_hears_of_a_revocation_at_once_and_after_it_was_away(
    ca: World, watch: Watch, way: Callable[[World, int], None], number: int
) -> None:
    machine = consumer(ca)
    active(ca)
    associate(ca, machine)
    certificates = {1: current_certificate(ca)}
    renewed(ca)
    certificates[2] = current_certificate(ca)
    reader = watch(ca, machine)
    present, synced = reader.until(2)
    assert told(present.association) == (certificates[2], ())
    way(ca, number)
    heard = until(reader, CHANGED, REVOKED)
    assert heard.name == str(WEB)
    assert told(heard.association) == (certificates[2], (certificates[number],))
    # With its cursor, also of a daemon that was not there; and of one that remembers nothing.
    for service in (None, service_of(ca), service_of(ca, remembered=0)):
        came_back = watch(ca, machine, cursor=synced.cursor, service=service)
        until(came_back, SYNCED)
        first = came_back.told[0]
        assert told(first.association) == (certificates[2], (certificates[number],))


def test_all_who_serve_it_hear_and_nobody_else(ca: World, watch: Watch) -> None:
    machine, other, of_shop = consumer(ca), consumer(ca, "other"), consumer(ca, "shop")
    for name in (WEB, SHOP):
        active(ca, name)
    associate(ca, machine)
    associate(ca, other)
    associate(ca, of_shop, SHOP)
    first = current_certificate(ca)
    renewed(ca)
    readers = [watch(ca, each) for each in (machine, other)]
    stranger = watch(ca, of_shop)
    for reader in (*readers, stranger):
        until(reader, SYNCED)
    revoke(ca, 1)
    for reader in readers:
        assert told(until(reader, CHANGED, REVOKED).association)[1] == (first,)
    revoke(ca, 1, name=SHOP)
    heard = until(stranger, CHANGED, REVOKED)
    assert heard.name == str(SHOP)
    assert told(heard.association) == (current_certificate(ca, SHOP), (current_certificate(ca, SHOP),))
    assert len(stranger.told) == 3
