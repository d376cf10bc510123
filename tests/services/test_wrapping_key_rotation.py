"""Wrapping keys are rotated and destroyed, and whatever dies meanwhile, every key that is in the books opens."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from sqlalchemy import select, update

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.names import ManagedCertificateName, TenantName, WrappingKeyName
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.sealing import hpke_decrypt
from certd.services import wrapping_key_rotation
from certd.services.idempotency import RequestKey
from certd.services.managed_export import RecipientExport
from certd.services.managed_import_plan import NewImport, SealedPrivateKey
from certd.services.paging import PageRequest
from certd.store import managed_schema, managed_versions, schema, sealed_keys, sealed_under
from certd.store.store import Transaction
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.imports import pair
from tests.outside_parent import outside_authority
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import (
    ADMINISTRATOR,
    STRANGER,
    CrashError,
    World,
    configuration,
    crash,
    running_world,
    two_worlds,
)
from tests.services.consumers import add_version, associate, consumer, lease, leasing_world, pin_system_root
from tests.softhsm import make_token
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

DEFAULT = TenantName("default")
FIRST, SECOND = WrappingKeyName("default", 1), WrappingKeyName("default", 2)
SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def token_settings(tmp_path: Path) -> TokenSettings:
    return make_token(tmp_path, exports_per_minute=1_000_000, leases_per_minute=1_000_000)


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


def test_everything_is_sealed_anew_and_the_old_key_is_retired(ca: World) -> None:
    fill(ca, certificates=3, versions=4)
    machine = consumer(ca)
    association = associate(ca, machine, named(0))
    before = get(ca)
    new = rotate(ca)
    assert (new.name, new.state, new.etag) == (str(SECOND), WrappingKeyState.PRIMARY, get(ca, SECOND).etag)
    old = retired(ca)
    assert old.key_id == before.key_id != new.key_id
    assert (old.reseal_count, old.resealed_count) == (13, 13)
    assert old.etag != before.etag
    assert old.rotate_time is not None
    assert old.retire_time is not None
    assert old.rotate_time <= old.retire_time
    assert (left(ca), left(ca, SECOND)) == (0, 13)
    check_everything_opens(ca, certificates=3, versions=4)
    lease(ca, machine, association, 4)
    # And what is made from now on is sealed under the new one, which has its own rotation.
    fill_one_more(ca, "late")
    assert left(ca, SECOND) == 14
    rotate(ca)
    assert retired(ca, SECOND).resealed_count == 14
    lease(ca, machine, association, 4)
    assert told(ca, EventType.WRAPPING_KEY_CREATED) == [str(FIRST)]
    assert told(ca, EventType.WRAPPING_KEY_ROTATED) == [str(SECOND), "tenants/default/wrappingKeys/3"]
    assert told(ca, EventType.WRAPPING_KEY_RETIRED) == [str(FIRST), str(SECOND)]
    page = ca.core.wrapping_key_rotation.page(ADMINISTRATOR, DEFAULT, PageRequest(2, ""))
    rest = ca.core.wrapping_key_rotation.page(ADMINISTRATOR, DEFAULT, PageRequest(2, page.next_page_token))
    assert [view.wrapping_key.number for view in (*page.items, *rest.items)] == [3, 2, 1]
    assert not rest.next_page_token


def fill_one_more(world: World, managed_id: str) -> None:
    world.request(managed_id)
    as_time_goes_by(world, lambda: is_active(world, ManagedCertificateName("default", managed_id)))


def test_the_version_says_under_which_key_it_is(ca: World) -> None:
    fill(ca, certificates=1)
    rotate(ca)
    retired(ca)
    uid = ca.core.managed_certificates.get(ADMINISTRATOR, named(0)).managed_certificate.uid
    with ca.core.store.read("test.version") as tx:
        version = managed_versions.get(tx, uid, 1)
    assert version is not None
    assert version.wrapping_key_number == 2


def test_a_tenant_without_a_key_has_none_to_rotate(ca: World) -> None:
    before = ca.events()
    error = refused(lambda: rotate(ca))
    assert error.reason is Reason.STATE_FORBIDS
    assert "no wrapping key yet" in error.message
    assert refused(lambda: get(ca)).reason is Reason.WRAPPING_KEY_NOT_FOUND
    absent = TenantName("absent")
    rotation = ca.core.wrapping_key_rotation
    assert refused(lambda: rotation.rotate(ADMINISTRATOR, absent, key=None)).reason is Reason.TENANT_NOT_FOUND
    assert refused(lambda: rotation.page(ADMINISTRATOR, absent, PageRequest(1, ""))).reason is Reason.TENANT_NOT_FOUND
    assert ca.events() == before


def test_one_rotation_at_a_time_and_the_one_that_goes_on_is_named(ca: World) -> None:
    fill(ca, certificates=1)
    ca.steps.at["rotation.2.resealed"] = crash
    key = RequestKey(str(uuid.uuid4()), b"a")
    new = rotate(ca, key=key)
    eventually(lambda: not ca.steps.at)
    error = refused(lambda: rotate(ca))
    assert error.reason is Reason.STATE_FORBIDS
    assert error.resource == error.metadata["wrapping_key"] == str(FIRST)
    assert "0 of 1 keys" in error.message
    # Repeated, it is the same rotation, also when that is long over.
    assert rotate(ca, key=key).name == new.name
    retired(ca)
    assert rotate(ca, key=key) == get(ca, SECOND)
    other = RequestKey(key.request_id, b"b")
    assert refused(lambda: rotate(ca, key=other)).reason is Reason.REQUEST_ID_REUSED
    assert told(ca, EventType.WRAPPING_KEY_ROTATED) == [str(SECOND)]


def test_strangers_learn_nothing(ca: World) -> None:
    fill(ca, certificates=1)
    rotation = ca.core.wrapping_key_rotation
    for name in (FIRST, WrappingKeyName("default", 9), WrappingKeyName("absent", 1)):
        parent = TenantName(name.tenant)
        for permission, call in (
            ("wrapping-key.read", lambda name=name: rotation.get(STRANGER, name)),
            ("wrapping-key.read", lambda parent=parent: rotation.page(STRANGER, parent, PageRequest(1, ""))),
            ("wrapping-key.rotate", lambda parent=parent: rotation.rotate(STRANGER, parent, key=None)),
            (
                "wrapping-key.destroy",
                lambda name=name: rotation.destroy(STRANGER, name, etag="", key=None, validate_only=True),
            ),
        ):
            error = refused(call)
            assert error.reason is Reason.PERMISSION_MISSING
            assert error.metadata["permission"] == permission


@pytest.mark.timeout(300)
def test_no_death_at_any_step_leaves_a_key_that_does_not_open(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 315 keys; each step is the last of a process once, and in the end the daemon is another one."""
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 50)
    fill(ca, certificates=10, versions=31)
    machine = consumer(ca)
    associations = [associate(ca, machine, named(number)) for number in range(5)]
    steps = ("rotation.2.resealed", "rotation.3.written", "rotation.4.retired")
    ca.steps.at.update(dict.fromkeys((*steps, "rotation.1.rotated"), crash))
    with pytest.raises(CrashError):
        rotate(ca)
    # Nobody has woken the scheduler.
    old = retired(ca)
    assert not ca.steps.at
    assert (old.reseal_count, old.resealed_count) == (315, 315)
    assert (left(ca), left(ca, SECOND)) == (0, 315)
    assert ca.steps.seen.count("rotation.3.written") == 8
    check_everything_opens(ca, certificates=10, versions=31)
    for association in associations:
        lease(ca, machine, association, 31)
    assert told(ca, EventType.WRAPPING_KEY_RETIRED) == [str(FIRST)]
    as_time_goes_by(ca, lambda: not jobs_of(ca))


def jobs_of(world: World) -> list[str]:
    with world.core.store.read("test.jobs") as tx:
        rows = tx.execute(select(schema.jobs.c.subject).where(schema.jobs.c.kind == "reseal-keys"))
        return [row.subject for row in rows]


@pytest.mark.parametrize("step", ["rotation.1.rotated", "rotation.2.resealed", "rotation.3.written"])
def test_the_next_daemon_goes_on(
    tmp_path: Path, token_settings: TokenSettings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 2)
    config, clock = configuration(tmp_path, token_settings), FakeClock(datetime.now(UTC))
    with running_world(config, clock) as first:
        first.create_root()
        first.create_subordinate()
        fill(first, certificates=2, versions=3)
        died = threading.Event()

        def die() -> None:
            died.set()
            crash()

        first.steps.at[step] = die
        if step == "rotation.1.rotated":
            with pytest.raises(CrashError):
                rotate(first)
        else:
            rotate(first)
        assert died.wait(20)
    with running_world(config, clock) as second:
        assert retired(second).resealed_count == 6
        check_everything_opens(second, certificates=2, versions=3)
        assert (left(second), left(second, SECOND)) == (0, 6)


def test_a_long_rotation_gives_its_worker_to_others_in_between(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 2)
    monkeypatch.setattr(wrapping_key_rotation, "_PAGES_OF_A_RUN", 2)
    fill(ca, certificates=3, versions=4)
    rotate(ca)
    assert retired(ca).resealed_count == 12
    eventually(lambda: ca.steps.seen.count("job.reseal-keys.done") >= 3)
    check_everything_opens(ca, certificates=3, versions=4)


def test_what_is_issued_exported_and_leased_meanwhile_goes_on(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a new request may wait a moment, and that only until its job is tried again."""
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 10)
    fill(ca, certificates=4, versions=25)
    machine = consumer(ca)
    association = associate(ca, machine, named(0))
    going_on = threading.Event()
    going_on.set()
    served: dict[str, int] = {}

    def again_and_again(what: str, call: Callable[[int], object]) -> None:
        served[what] = 0
        while going_on.is_set():
            call(served[what])
            served[what] += 1

    calls: dict[str, Callable[[int], object]] = {
        "export": lambda number: opened(ca, named(number % 4), number % 25 + 1),
        "lease": lambda _: lease(ca, machine, association, 25),
        "issue": lambda number: ca.issue(f"host-{number}.example.internal"),
        "request": lambda number: ca.request(f"more-{number}"),
        "renew": lambda number: add_version_as_it_goes(ca, named(number % 4)),
        "associate": lambda number: associate(ca, machine, named(1 + number)) if number < 3 else None,
    }
    with ThreadPoolExecutor(len(calls)) as pool:
        working = [pool.submit(again_and_again, what, call) for what, call in calls.items()]
        try:
            for number in (1, 2, 3):
                before = dict(served)
                rotate(ca)
                retired(ca, WrappingKeyName("default", number))
                eventually(lambda before=before: all(served[one] > before.get(one, 0) for one in ("export", "lease")))  # type: ignore[misc]  # mypy infers no type for a default.
        finally:
            going_on.clear()
        for one in working:
            one.result()
    for number in range(served["request"]):
        name = ManagedCertificateName("default", f"more-{number}")
        as_time_goes_by(ca, lambda name=name: is_active(ca, name))  # type: ignore[misc]  # As above.
        assert opened(ca, name)
    check_everything_opens(ca, certificates=4, versions=25)
    assert sum(left(ca, WrappingKeyName("default", number)) for number in (1, 2, 3)) == 0


def add_version_as_it_goes(world: World, name: ManagedCertificateName) -> None:
    """One more version; one whose key is sealed under a key that is rotated before it is kept is not made."""
    try:
        add_version(world, name)
    except CertdError as error:
        if error.reason is not Reason.STATE_FORBIDS:
            raise


def test_a_blob_that_was_tampered_with_keeps_its_key(ca: World, caplog: pytest.LogCaptureFixture) -> None:
    fill(ca, certificates=2, versions=3)
    uid = ca.core.managed_certificates.get(ADMINISTRATOR, named(1)).managed_certificate.uid
    keys = managed_schema.sealed_keys
    row = (keys.c.managed_certificate_uid == uid, keys.c.version == 2)
    with ca.core.store.read("test.blob") as tx:
        blob = sealed_keys.get(tx, uid, 2)
    assert blob is not None
    bent = blob[:-1] + bytes([blob[-1] ^ 1])
    ca.core.store.write("test.bend", lambda tx: tx.execute(update(keys).where(*row), {"blob": bent}))
    with caplog.at_level(logging.ERROR, "certd.wrapping-keys"):
        rotate(ca)
        tried = lambda: ca.steps.seen.count("rotation.2.resealed") >= 3  # noqa: E731  # Said once.
        as_time_goes_by(ca, tried)
    old = get(ca)
    assert (old.state, old.reseal_count, old.resealed_count) == (WrappingKeyState.DECRYPT_ONLY, 6, 5)
    assert left(ca) == 1
    name = named(1).version(2)
    assert any(name in record.getMessage() for record in caplog.records)
    assert not any(blob.hex() in record.getMessage() for record in caplog.records)
    assert refused(lambda: rotate(ca)).reason is Reason.STATE_FORBIDS
    assert refused(lambda: destroy(ca)).reason is Reason.STATE_FORBIDS
    # Once an operator has put it right, it goes on by itself.
    ca.core.store.write("test.mend", lambda tx: tx.execute(update(keys).where(*row), {"blob": blob}))
    assert retired(ca).resealed_count == 6
    check_everything_opens(ca, certificates=2, versions=3)


def test_what_is_deleted_meanwhile_is_not_missed(ca: World) -> None:
    fill(ca, certificates=2, versions=3)
    uid = ca.core.managed_certificates.get(ADMINISTRATOR, named(1)).managed_certificate.uid
    keys = managed_schema.sealed_keys

    def delete() -> None:
        rows = keys.delete().where(keys.c.managed_certificate_uid == uid, keys.c.version == 1)
        ca.core.store.write("test.delete", lambda tx: tx.execute(rows))

    ca.steps.at["rotation.2.resealed"] = delete
    rotate(ca)
    old = retired(ca)
    assert (old.reseal_count, old.resealed_count) == (5, 5)
    with ca.core.store.read("test.gone") as tx:
        assert sealed_keys.get(tx, uid, 1) is None


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


def test_import_keys_are_sealed_anew_and_still_open_what_was_sealed_to_them(ca: World) -> None:
    fill(ca, certificates=1)
    issuer = outside_authority("Outside", now=ca.clock.now())
    given = pair(issuer, "shop.example.internal", now=ca.clock.now())
    taken = ca.core.managed_import.import_key(ADMINISTRATOR, DEFAULT)
    assert taken.wrapping_key_number == 1
    rotate(ca)
    assert retired(ca).resealed_count == 2
    shop = ManagedCertificateName("default", "shop")
    private_key = SealedPrivateKey(taken.name, given.sealed_to(taken.statement, exportable=True))
    new = NewImport(name=shop, certificate=given.pem, chain=given.chain_pem, private_key=private_key, exportable=True)
    ca.core.managed_import.import_(ADMINISTRATOR, new, key=None, validate_only=False)
    public_key = opened(ca, shop)
    # What is given away from now on is sealed under the new key from the start; all of it stays when the old one goes.
    assert ca.core.managed_import.import_key(ADMINISTRATOR, DEFAULT).name == taken.name
    destroy(ca)
    eventually(lambda: not jobs_of(ca))
    again = replace(new, name=ManagedCertificateName("default", "again"))
    ca.core.managed_import.import_(ADMINISTRATOR, again, key=None, validate_only=False)
    assert opened(ca, again.name) == opened(ca, shop) == public_key


@pytest.mark.timeout(300)
def test_two_daemons_that_rotate_at_once_make_one_rotation(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as daemons:
        first, second = daemons
        pin_system_root(first, token_settings)
        first.create_root()
        first.create_subordinate()
        fill(first, certificates=4, versions=10)

        def attempt(world: World) -> str:
            try:
                return rotate(world).name
            except CertdError as error:
                if error.reason is not Reason.STATE_FORBIDS:
                    raise
                return ""

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(attempt, daemons * 4))
        assert sorted(set(made)) == ["", str(SECOND)]
        assert made.count(str(SECOND)) == 1
        for world in daemons:
            assert retired(world).resealed_count == 40
            check_everything_opens(world, certificates=4, versions=10)
        assert (left(first), left(second, SECOND)) == (0, 40)
        # What one of them has destroyed, none of them opens.
        key_id = get(first).key_id
        destroy(second)
        as_time_goes_by(first, lambda: not jobs_of(first))
        assert not first.core.token.destroy_wrapping_key(key_id=key_id)
        fill_one_more(second, "late")
        assert opened(first, ManagedCertificateName("default", "late"))
