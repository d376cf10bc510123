"""Wrapping keys that are retired are destroyed, and nothing else is; what is in the books opens all the same."""

import uuid

import pytest
from sqlalchemy import update

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.names import WrappingKeyName
from certd.model.wrapping_key import WrappingKeyState
from certd.services.idempotency import RequestKey
from certd.store import managed_schema, sealed_keys
from certd.store.store import Transaction
from tests.services.conftest import (
    ADMINISTRATOR,
    CrashError,
    World,
    crash,
)
from tests.services.rotation_books import (
    FIRST,
    as_time_goes_by,
    ca,
    destroy,
    fill,
    get,
    jobs_of,
    named,
    opened,
    refused,
    retired,
    rotate,
    token_settings,
    told,
)
from tests.waiting import eventually

__all__ = ["ca", "token_settings"]


def test_a_retired_key_is_destroyed_and_what_only_a_backup_holds_opens_no_more(ca: World) -> None:
    fill(ca, certificates=1)
    uid = ca.core.managed_certificates.get(ADMINISTRATOR, named(0)).managed_certificate.uid
    with ca.core.store.read("test.backup") as tx:
        backup = sealed_keys.get(tx, uid, 1)
    assert backup is not None
    old = get(ca)
    rotate(ca)
    retired(ca)
    before = ca.events()
    message = destroy(ca, validate_only=True)
    assert message == destroy(ca, validate_only=True)
    assert "one made right before the rotation 1 of them" in message
    assert ca.events() == before
    assert get(ca).state is WrappingKeyState.RETIRED
    key = RequestKey(str(uuid.uuid4()), b"a")
    etag = get(ca).etag
    assert destroy(ca, etag=etag, key=key) == message
    assert destroy(ca, etag=etag, key=key) == message
    assert get(ca).destroy_time == ca.clock.now()
    eventually(lambda: "destroy.2.destroyed" in ca.steps.seen and not jobs_of(ca))
    assert not ca.core.token.destroy_wrapping_key(key_id=old.key_id)
    assert told(ca, EventType.WRAPPING_KEY_DESTROYED) == [str(FIRST)]
    assert opened(ca, named(0))

    def restore(tx: Transaction) -> None:
        keys, versions = managed_schema.sealed_keys, managed_schema.managed_certificate_versions
        tx.execute(update(keys), {"blob": backup, "wrapping_key_number": 1})
        tx.execute(update(versions), {"wrapping_key_number": 1})

    ca.core.store.write("test.restore", restore)
    with pytest.raises(CertdError):
        opened(ca, named(0))


def test_what_is_not_retired_is_not_destroyed(ca: World) -> None:
    fill(ca, certificates=1)
    error = refused(lambda: destroy(ca))
    assert error.reason is Reason.STATE_FORBIDS
    assert error.metadata["state"] == "PRIMARY"
    assert "RotateWrappingKey" in error.message
    ca.steps.at["rotation.2.resealed"] = crash
    rotate(ca)
    eventually(lambda: not ca.steps.at)
    error = refused(lambda: destroy(ca, validate_only=True))
    assert error.metadata["state"] == "DECRYPT_ONLY"
    etag = get(ca).etag
    retired(ca)
    error = refused(lambda: destroy(ca, etag=etag))
    assert error.reason is Reason.ETAG_MISMATCH
    assert error.metadata["etag"] == get(ca).etag
    destroy(ca)
    error = refused(lambda: destroy(ca))
    assert error.metadata["state"] == "DESTROYED"
    rotation = ca.core.wrapping_key_rotation
    absent = WrappingKeyName("default", 9)
    error = refused(lambda: rotation.destroy(ADMINISTRATOR, absent, etag="", key=None, validate_only=True))
    assert error.reason is Reason.WRAPPING_KEY_NOT_FOUND


def test_nothing_is_destroyed_under_which_anything_is_sealed(ca: World) -> None:
    """Not even when the books say that it is retired."""
    fill(ca, certificates=1)
    rotate(ca)
    retired(ca)
    keys = managed_schema.sealed_keys
    ca.core.store.write("test.bend", lambda tx: tx.execute(update(keys), {"wrapping_key_number": 1}))
    error = refused(lambda: destroy(ca))
    assert error.reason is Reason.STATE_FORBIDS
    assert "never open again" in error.message
    assert get(ca).state is WrappingKeyState.RETIRED


@pytest.mark.parametrize("step", ["destroy.1.recorded", "destroy.2.destroyed"])
def test_a_key_that_is_being_destroyed_goes_whoever_dies(ca: World, step: str) -> None:
    fill(ca, certificates=1)
    key_id = get(ca).key_id
    rotate(ca)
    etag = retired(ca).etag
    ca.steps.at[step] = crash
    if step == "destroy.1.recorded":
        with pytest.raises(CrashError):
            destroy(ca, etag=etag)
    else:
        destroy(ca, etag=etag)
    as_time_goes_by(ca, lambda: not jobs_of(ca))
    assert get(ca).state is WrappingKeyState.DESTROYED
    assert not ca.core.token.destroy_wrapping_key(key_id=key_id)
