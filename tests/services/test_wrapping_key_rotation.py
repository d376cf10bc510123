"""Wrapping keys are rotated, and whatever dies meanwhile, every key that is in the books opens."""

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.names import ManagedCertificateName, TenantName, WrappingKeyName
from certd.model.wrapping_key import WrappingKeyState
from certd.services import wrapping_key_rotation
from certd.services.idempotency import RequestKey
from certd.services.managed_import_plan import NewImport, PlainPrivateKey, SealedPrivateKey
from certd.services.paging import PageRequest
from certd.store import managed_schema, managed_versions, sealed_keys
from certd.token.client import TokenClient
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.imports import Pair, pair
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
from tests.services.consumers import associate, consumer, lease, pin_system_root
from tests.services.rotation_books import (
    DEFAULT,
    FIRST,
    SECOND,
    as_time_goes_by,
    ca,
    check_everything_opens,
    destroy,
    fill,
    fill_one_more,
    get,
    is_active,
    jobs_of,
    left,
    named,
    opened,
    refused,
    retired,
    rotate,
    token_settings,
    told,
)
from tests.waiting import eventually

__all__ = ["ca", "postgres_server", "postgres_url", "token_settings"]


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
    # The last step comes behind the commit that is seen.
    eventually(lambda: not ca.steps.at)
    assert (old.reseal_count, old.resealed_count) == (315, 315)
    assert (left(ca), left(ca, SECOND)) == (0, 315)
    assert ca.steps.seen.count("rotation.3.written") >= 8
    check_everything_opens(ca, certificates=10, versions=31)
    for association in associations:
        lease(ca, machine, association, 31)
    assert told(ca, EventType.WRAPPING_KEY_RETIRED) == [str(FIRST)]
    as_time_goes_by(ca, lambda: not jobs_of(ca))


def test_a_new_key_that_no_row_knows_changes_nothing(ca: World) -> None:
    fill(ca, certificates=1)
    before = get(ca)
    ca.steps.at["rotation.0.made"] = crash
    with pytest.raises(CrashError):
        rotate(ca)
    assert get(ca) == before
    assert before.state is WrappingKeyState.PRIMARY
    fill_one_more(ca, "meanwhile")
    assert rotate(ca).name == str(SECOND)
    retired(ca)
    assert (left(ca), left(ca, SECOND)) == (0, 2)


def test_a_token_that_makes_no_key_leaves_the_old_one_primary(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ca, certificates=1)

    def full(_token: TokenClient, *, key_id: bytes, **_asked: object) -> bool:
        raise CertdError(Reason.TOKEN_UNAVAILABLE, f"no room for the key {key_id.hex()}")

    with monkeypatch.context() as patched:
        patched.setattr(TokenClient, "ensure_wrapping_key", full)
        assert refused(lambda: rotate(ca)).reason is Reason.TOKEN_UNAVAILABLE
    assert get(ca).state is WrappingKeyState.PRIMARY
    fill_one_more(ca, "meanwhile")
    assert left(ca) == 2


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


def test_a_token_that_is_slow_gets_smaller_pages(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever signs waits no longer for it than before."""
    monkeypatch.setattr(wrapping_key_rotation, "_LONGEST_FRAME", 0.0)
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 8)
    fill(ca, certificates=2, versions=8)
    rotate(ca)
    assert retired(ca).resealed_count == 16
    # Of 8, 4, 2, 1 and 1 keys.
    assert ca.steps.seen.count("rotation.3.written") == 5
    check_everything_opens(ca, certificates=2, versions=8)


def test_what_others_do_meanwhile_goes_on(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what needs a new key may wait a moment, and that only until its job is tried again."""
    monkeypatch.setattr(wrapping_key_rotation, "PAGE", 10)
    fill(ca, certificates=4, versions=25)
    # Many, for each of them leases no more than one key a second for long.
    machines = [consumer(ca, f"leases-{number}") for number in range(16)]
    leasing = [(machine, associate(ca, machine, named(0))) for machine in machines]
    renewed = [ManagedCertificateName("default", f"renewed-{number}") for number in range(3)]
    for name in renewed:
        fill_one_more(ca, name.managed_certificate)
    issuer = outside_authority("Outside", now=ca.clock.now())
    given = pair(issuer, "shop.example.internal", now=ca.clock.now())
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
        "lease": lambda number: lease(ca, *leasing[number % len(leasing)], 25),
        "issue": lambda number: ca.issue(f"host-{number}.example.internal"),
        "request": lambda number: ca.request(f"more-{number}"),
        "renew": lambda number: renewal_of(ca, renewed[number % 3]),
        "import": lambda number: import_(ca, f"in-{number}", given, sealed=number % 2 == 0),
        "associate": lambda number: associate(ca, consumer(ca, f"machine-{number}"), named(1 + number % 3)),
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
    requested = [ManagedCertificateName("default", f"more-{number}") for number in range(served["request"])]
    as_time_goes_by(ca, lambda: all(is_active(ca, name) for name in requested))
    as_time_goes_by(ca, lambda: all(current_version(ca, name) > 1 for name in renewed))
    imported = [ManagedCertificateName("default", f"in-{number}") for number in range(served["import"])]
    for name in (*requested, *renewed, *imported):
        assert opened(ca, name)
    check_everything_opens(ca, certificates=4, versions=25)
    assert min(served.values()) > 0
    assert sum(left(ca, WrappingKeyName("default", number)) for number in (1, 2, 3)) == 0


def renewal_of(world: World, name: ManagedCertificateName) -> None:
    world.core.managed_certificate_changes.renew(ADMINISTRATOR, name, reason="", key=None)
    eventually(lambda: current_version(world, name) > 1)


def current_version(world: World, name: ManagedCertificateName) -> int:
    return world.core.managed_certificates.get(ADMINISTRATOR, name).managed_certificate.current_version


def import_(world: World, managed_id: str, given: Pair, *, sealed: bool) -> ManagedCertificateName:
    """Imports as a client does, in either way."""
    private_key: PlainPrivateKey | SealedPrivateKey = PlainPrivateKey(given.key_pem)
    if sealed:
        key = world.core.managed_import.import_key(ADMINISTRATOR, DEFAULT)
        private_key = SealedPrivateKey(key.name, given.sealed_to(key.statement, exportable=True))
    name = ManagedCertificateName("default", managed_id)
    new = NewImport(name=name, certificate=given.pem, chain=given.chain_pem, private_key=private_key, exportable=True)
    world.core.managed_import.import_(ADMINISTRATOR, new, key=None, validate_only=False)
    return name


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
