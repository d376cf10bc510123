"""An earlier version of an imported certificate comes back, with all that is its own, when it is of use."""

import hashlib
import uuid
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.pki.key_spec import public_key_der
from certd.services.idempotency import RequestKey
from certd.store import blocked_keys, managed_schema, managed_versions
from tests.imports import pair
from tests.services.conftest import ADMINISTRATOR, CrashError, World, crash
from tests.services.import_books import (
    ISSUER,
    NEXT_PAIR,
    NOW,
    SHOP,
    SHOP_PAIR,
    expire_time_of,
    export,
    import_,
    roll_back,
    version_of,
)


def twice(world: World) -> World:
    """Two versions, the second current."""
    import_(world, exportable=True)
    world.clock.advance(timedelta(days=1))
    import_(world, NEXT_PAIR, replace=True)
    world.clock.advance(timedelta(days=1))
    return world


def test_a_version_before_comes_back_with_all_that_is_its_own(world: World) -> None:
    twice(world)
    view = roll_back(world)
    managed = view.managed_certificate
    assert (managed.current_version, view.certificate) == (1, SHOP_PAIR.der)
    assert managed.names.dns_names == ("shop.example.internal", "www.shop.example.internal")
    assert managed.not_after == SHOP_PAIR.certificate.not_valid_after_utc
    assert managed.issue_time == version_of(world, 1).create_time
    assert load_der_private_key(export(world).encrypted_key, None).public_key() == SHOP_PAIR.key.public_key()
    assert expire_time_of(world, 1) is None
    end = NEXT_PAIR.certificate.not_valid_after_utc
    assert expire_time_of(world, 2) == int(end.timestamp()) * 1_000_000
    event = next(event for event in world.events() if event.type is EventType.MANAGED_CERTIFICATE_ROLLED_BACK)
    assert (event.resource, event.details["from_version"]) == (f"{SHOP}/versions/1", "2")
    # The next one is neither of the two.
    third = pair(ISSUER, "shop.example.internal", now=NOW)
    assert import_(world, third, replace=True).managed_certificate.current_version == 3
    # Before it stands the second again, not the first.
    assert roll_back(world).managed_certificate.current_version == 2
    assert roll_back(world, version=3).managed_certificate.current_version == 3


def test_a_return_to_the_current_version_changes_nothing(world: World) -> None:
    twice(world)
    before = world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate
    assert roll_back(world, version=2).managed_certificate == before


def test_an_etag_is_held_against_the_current_one(world: World) -> None:
    twice(world)
    with pytest.raises(CertdError) as caught:
        roll_back(world, etag="another")
    assert caught.value.reason is Reason.ETAG_MISMATCH
    etag = world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate.etag
    assert roll_back(world, etag=etag).managed_certificate.current_version == 1


def test_a_repeated_return_goes_back_once(world: World) -> None:
    twice(world)
    third = pair(ISSUER, "shop.example.internal", now=NOW)
    import_(world, third, replace=True)
    key = RequestKey(str(uuid.uuid4()), b"a")
    assert roll_back(world, key=key).managed_certificate.current_version == 2
    assert roll_back(world, key=key).managed_certificate.current_version == 2
    with pytest.raises(CertdError) as caught:
        roll_back(world, key=RequestKey(key.request_id, b"b"))
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


def delete_key(world: World, number: int) -> None:
    keys = managed_schema.sealed_keys
    world.core.store.write("test.delete", lambda tx: tx.execute(keys.delete().where(keys.c.version == number)))


def revoke(world: World, number: int) -> None:
    uid = world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate.uid
    reason, now = RevocationReason.SUPERSEDED, world.clock.now()
    world.core.store.write(
        "test.revoke", lambda tx: managed_versions.set_revoked(tx, uid, number, revoke_time=now, reason=reason)
    )


def end(world: World, _number: int) -> None:
    world.clock.advance(SHOP_PAIR.certificate.not_valid_after_utc - world.clock.now() + timedelta(seconds=1))


def block(world: World, _number: int) -> None:
    sha256 = hashlib.sha256(public_key_der(SHOP_PAIR.key.public_key())).digest()
    world.core.store.write(
        "test.block",
        lambda tx: blocked_keys.block(tx, "default", sha256, authority_uid="", serial="", now=world.clock.now()),
    )


@pytest.mark.parametrize("ruin", [delete_key, revoke, end, block], ids=lambda ruin: ruin.__name__)
def test_a_version_that_is_of_no_use_does_not_come_back(world: World, ruin: Any) -> None:
    twice(world)
    ruin(world, 1)
    for version in (None, 1):
        with pytest.raises(CertdError) as caught:
            roll_back(world, version=version)
        assert caught.value.reason is Reason.STATE_FORBIDS
    with pytest.raises(CertdError) as missing:
        roll_back(world, version=7)
    assert missing.value.reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND


def test_a_version_of_no_use_is_passed_over(world: World) -> None:
    twice(world)
    third = pair(ISSUER, "shop.example.internal", now=NOW)
    import_(world, third, replace=True)
    revoke(world, 2)
    assert roll_back(world).managed_certificate.current_version == 1


def test_a_crash_after_the_commit_of_a_return_loses_nothing(world: World) -> None:
    twice(world)
    world.steps.at["roll-back.1.committed"] = crash
    with pytest.raises(CrashError):
        roll_back(world)
    assert world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate.current_version == 1
