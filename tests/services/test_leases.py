"""Leases: a key reaches the consumer that is associated and has signed for it, and nobody else, whatever is tried."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import delete, select, update

from certd.errors import Reason
from certd.model.access import EVERYTHING, Caller, Role
from certd.model.association import DeploymentState
from certd.model.event import EventType
from certd.model.identity import IdentityState
from certd.model.names import AssociationName, ManagedCertificateName, TenantName
from certd.services.association_views import AssociationView
from certd.services.leases import GivenDeployment
from certd.store import identities, managed_schema
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, configuration, crash, running_world
from tests.services.consumers import (
    WEB,
    active,
    add_version,
    associate,
    association_name,
    attempt,
    consumer,
    give,
    lease,
    leasing_world,
    pin_system_root,
    refusal,
    refusals_told,
    signed_request,
    told,
)
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

SHOP = ManagedCertificateName("default", "shop")
ABSENT = ManagedCertificateName("default", "absent")
_KEYS = managed_schema.association_keys
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def leasing(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world with the managed certificate `web`."""
    with leasing_world(tmp_path, token_settings) as world:
        active(world)
        yield world


def test_a_consumer_leases_the_key_of_its_certificate(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    key = lease(leasing, machine, view)
    shown = leasing.core.managed_certificates.get(ADMINISTRATOR, WEB)
    leaf = x509.load_der_x509_certificate(shown.certificate or b"")
    assert key.public_key().public_bytes(*_SPKI) == leaf.public_key().public_bytes(*_SPKI)
    (use,) = shown.used_by
    assert (use.leased_version, use.lease_time) == (1, leasing.clock.now())
    (event,) = told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)
    assert (event.resource, event.principal, event.tenant) == (WEB.version(1), machine.spiffe_id, "default")
    assert event.details["consumer"] == machine.spiffe_id
    assert event.details["association"] == "machine"
    assert len(event.details["recipient_sha256"]) == 64
    assert not refusals_told(leasing)
    # Again, with a new key and statement.
    lease(leasing, machine, view)
    assert len(told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)) == 2


def test_an_identity_of_the_server_leases_too(leasing: World) -> None:
    edge = consumer(leasing, "edge", tenant=None)
    lease(leasing, edge, associate(leasing, edge))


def test_the_event_is_durable_before_the_token_opens_anything(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    leasing.steps.at["lease.1.recorded"] = crash
    with pytest.raises(CrashError):
        lease(leasing, machine, view)
    (event,) = told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)
    assert event.resource == WEB.version(1)
    lease(leasing, machine, view)


def test_without_a_token_there_is_no_event_of_a_lease(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    leasing.core.token.stop()
    error = attempt(leasing, machine, view.association.name, signed_request(machine, view))
    assert (error.reason, error.retry_after is not None) == (Reason.TOKEN_UNAVAILABLE, True)
    assert not told(leasing, EventType.MANAGED_CERTIFICATE_LEASED, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)


def test_a_version_is_sealed_for_a_consumer_when_it_first_leases_it(leasing: World) -> None:
    machine, other = consumer(leasing), consumer(leasing, "other")
    view, others = associate(leasing, machine), associate(leasing, other)
    add_version(leasing)
    first, second = lease(leasing, machine, view, 1), lease(leasing, machine, view, 2)
    assert first.public_key() != second.public_key()
    lease(leasing, machine, view, 2)
    with leasing.core.store.read("test") as tx:
        rows = tx.execute(select(_KEYS.c.association_id, _KEYS.c.version)).all()
    assert sorted(map(tuple, rows)) == [("machine", 1), ("machine", 2), ("other", 1)]
    lease(leasing, other, others, 2)
    assert leasing.core.associations.get(ADMINISTRATOR, view.association.name).association.leased_version == 2


def test_a_renewed_certificate_is_leased_with_its_new_key(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    before = lease(leasing, machine, view)
    leasing.core.managed_certificate_changes.renew(ADMINISTRATOR, WEB, reason="", key=None)

    def renewed() -> AssociationView | None:
        found = leasing.core.associations.get(machine.caller, view.association.name)
        return found if found.association.current_version == 2 else None

    now = eventually(renewed)
    after = lease(leasing, machine, now, now.association.current_version)
    assert after.public_key() != before.public_key()
    # Those who have not come to it yet still get the one that they know.
    assert lease(leasing, machine, view, 1).public_key() == before.public_key()


def test_what_was_pending_when_it_was_associated_is_leased_once_it_is_issued(
    tmp_path: Path, token_settings: TokenSettings
) -> None:
    with leasing_world(tmp_path, token_settings) as world:
        machine = consumer(world)
        world.steps.at["managed.1.requested"] = lambda: associate(world, machine)
        active(world)
        view = world.core.associations.get(ADMINISTRATOR, association_name())
        lease(world, machine, view)


def test_who_lacks_the_permission_learns_nothing(leasing: World) -> None:
    ungranted = consumer(leasing, role=None)
    view = associate(leasing, ungranted)
    words = set()
    for name in (view.association.name, association_name("absent"), association_name(managed=SHOP)):
        request = signed_request(ungranted, view)
        error = attempt(leasing, ungranted, name, request)
        assert error.reason is Reason.PERMISSION_MISSING
        words.add(error.message.replace(str(name), "…"))
        reported = refusal(lambda name=name: report(leasing, ungranted.caller, name))  # type: ignore[misc]  # mypy infers no type for a default.
        assert reported.reason is Reason.PERMISSION_MISSING
    assert len(words) == 1
    assert not refusals_told(leasing)


def test_another_consumers_association_is_as_if_it_were_not_there(leasing: World) -> None:
    machine, thief = consumer(leasing), consumer(leasing, "thief")
    active(leasing, SHOP)
    view = associate(leasing, machine)
    # It has an association of its own, with another certificate.
    own = associate(leasing, thief, SHOP)
    words = set()
    for name in (view.association.name, association_name("absent"), association_name(managed=ABSENT)):
        error = attempt(leasing, thief, name, signed_request(thief, view))
        assert error.reason is Reason.ASSOCIATION_NOT_FOUND
        words.add(error.message.replace(str(name), "…"))
    assert len(words) == 1
    assert {reason for _, _, reason in refusals_told(leasing)} == {"ASSOCIATION_NOT_FOUND"}
    assert not told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)
    # With what the victim signed, under its own association.
    for stolen in (signed_request(machine, view), signed_request(thief, view)):
        assert attempt(leasing, thief, own.association.name, stolen).reason is Reason.LEASE_REFUSED
    lease(leasing, thief, own)


def test_a_signature_is_good_for_what_was_signed_alone(leasing: World) -> None:
    machine, other = consumer(leasing), consumer(leasing, "other")
    view, others = associate(leasing, machine), associate(leasing, other)
    add_version(leasing)
    name, good = view.association.name, signed_request(machine, view, 2)
    attacker = X25519PrivateKey.generate().public_key().public_bytes_raw()
    foreign = signed_request(other, others, 2).signed
    bad = {
        "signed for the older version": signed_request(machine, view, 2, signs_for=1).signed,
        "signed for the newer version": signed_request(machine, view, 1, signs_for=2).signed,
        "to another key": replace(good.signed, public_key=attacker),
        "at another time": replace(good.signed, sign_time=good.signed.sign_time + timedelta(microseconds=1)),
        "too early": signed_request(machine, view, 2, sign_time=datetime.now(UTC) - timedelta(minutes=6)).signed,
        "too late": signed_request(machine, view, 2, sign_time=datetime.now(UTC) + timedelta(minutes=6)).signed,
        "by another consumer": replace(foreign, version=2),
        "by another key": replace(good.signed, signature=foreign.signature),
        "with another certificate": replace(good.signed, certificate=other.certificate),
        "no signature": replace(good.signed, signature=b"\0"),
        "no certificate": replace(good.signed, certificate=b"\x30\x00"),
    }
    for what, signed in bad.items():
        assert attempt(leasing, machine, name, signed).reason is Reason.LEASE_REFUSED, what
    assert {(resource, reason) for _, resource, reason in refusals_told(leasing)} == {(str(name), "LEASE_REFUSED")}
    # What is as it was signed is good, once.
    leased = leasing.core.leases.lease(machine.caller, name, good.signed)
    good.open(leased)
    assert attempt(leasing, machine, name, good).reason is Reason.LEASE_REFUSED


def test_only_what_leaves_is_shown_as_leased(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    name = view.association.name
    late = signed_request(machine, view, sign_time=datetime.now(UTC) - timedelta(minutes=6))
    assert attempt(leasing, machine, name, late).reason is Reason.LEASE_REFUSED
    shown = leasing.core.associations.get(ADMINISTRATOR, name).association
    assert (shown.leased_version, shown.lease_time) == (0, None)
    lease(leasing, machine, view)
    shown = leasing.core.associations.get(ADMINISTRATOR, name).association
    assert (shown.leased_version, shown.lease_time) == (1, leasing.clock.now())


def test_nothing_leaves_for_an_association_that_ends_while_the_token_opens_a_key(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    name = view.association.name
    leasing.steps.at["lease.1.recorded"] = lambda: leasing.core.associations.delete(ADMINISTRATOR, name, key=None)
    error = attempt(leasing, machine, name, signed_request(machine, view))
    assert error.reason is Reason.ASSOCIATION_NOT_FOUND
    assert refusals_told(leasing) == [(machine.spiffe_id, str(name), "ASSOCIATION_NOT_FOUND")]


def test_a_replayed_request_gets_nothing(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    request = signed_request(machine, view)
    leasing.core.leases.lease(machine.caller, view.association.name, request.signed)
    assert attempt(leasing, machine, view.association.name, request).reason is Reason.LEASE_REFUSED
    (refused,) = refusals_told(leasing)
    assert refused == (machine.spiffe_id, str(view.association.name), "LEASE_REFUSED")


def test_after_the_association_nothing_is_leased(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    lease(leasing, machine, view)
    leasing.core.associations.delete(ADMINISTRATOR, view.association.name, key=None)
    error = attempt(leasing, machine, view.association.name, signed_request(machine, view))
    assert error.reason is Reason.ASSOCIATION_NOT_FOUND
    assert refusals_told(leasing) == [(machine.spiffe_id, str(view.association.name), "ASSOCIATION_NOT_FOUND")]
    assert len(told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)) == 1


def test_an_association_that_ends_while_a_key_is_sealed_leases_nothing(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    add_version(leasing)
    seal = leasing.core.leases._keys.seal

    def sealed_late(*arguments: object) -> object:
        sealed = seal(*arguments)  # type: ignore[arg-type]  # As it is called.
        leasing.core.associations.delete(ADMINISTRATOR, view.association.name, key=None)
        return sealed

    leasing.core.leases._keys.seal = sealed_late  # type: ignore[method-assign, assignment]
    error = attempt(leasing, machine, view.association.name, signed_request(machine, view, 2))
    assert error.reason is Reason.ASSOCIATION_NOT_FOUND
    with leasing.core.store.read("test") as tx:
        assert tx.execute(select(_KEYS.c.version)).all() == []


def test_a_revoked_identity_leases_nothing(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    request = signed_request(machine, view)
    leasing.core.identity_changes.revoke(ADMINISTRATOR, machine.name, key=None, validate_only=False)
    assert refusal(lambda: leasing.core.access.authenticate(machine.certificate)).reason is Reason.CREDENTIAL_REVOKED
    # Nor does one that another daemon still takes for good.
    assert attempt(leasing, machine, view.association.name, request).reason is Reason.CREDENTIAL_REVOKED
    assert refusals_told(leasing) == [(machine.spiffe_id, str(view.association.name), "CREDENTIAL_REVOKED")]
    # The association is still there, for when it enrolls anew.
    leasing.core.store.write(
        "test", lambda tx: identities.set_state(tx, machine.name, IdentityState.ACTIVE, leasing.clock.now())
    )
    lease(leasing, machine, view)


def test_versions_that_are_over_or_not_there_are_not_leased(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    for _ in range(4):
        add_version(leasing)
    versions, sealed = managed_schema.managed_certificate_versions, managed_schema.sealed_keys

    def change(number: int, **values: object) -> None:
        leasing.core.store.write(
            "test", lambda tx: tx.execute(update(versions).where(versions.c.number == number).values(**values))
        )

    change(2, revoke_time=1)
    change(3, certificate=None)
    leasing.core.store.write("test", lambda tx: tx.execute(delete(sealed).where(sealed.c.version == 4)))
    expected = {
        2: Reason.STATE_FORBIDS,
        3: Reason.STATE_FORBIDS,
        4: Reason.STATE_FORBIDS,
        6: Reason.MANAGED_CERTIFICATE_NOT_FOUND,
    }
    for number, reason in expected.items():
        error = attempt(leasing, machine, view.association.name, signed_request(machine, view, number))
        assert error.reason is reason, number
    assert [reason for _, _, reason in refusals_told(leasing)] == list(expected.values())
    # A superseded one that lives is good until its end.
    lease(leasing, machine, view, 1)
    lease(leasing, machine, view, 5)


def test_a_blob_that_was_moved_never_opens(leasing: World) -> None:
    """Between consumers, versions, certificates and tables, by somebody who writes the database."""
    machine, thief = consumer(leasing), consumer(leasing, "thief")
    active(leasing, SHOP)
    views = [associate(leasing, machine), associate(leasing, machine, SHOP), associate(leasing, thief)]
    add_version(leasing)
    for view, who, number in ((views[0], machine, 2), (views[2], thief, 2)):
        lease(leasing, who, view, number)
    victim = views[2]
    sealed = managed_schema.sealed_keys
    with leasing.core.store.read("test") as tx:
        rows = tx.execute(select(_KEYS)).all()
        blobs = {(row.managed_certificate_uid, row.association_id, row.version): row.blob for row in rows}
        in_custody = tx.execute(select(sealed.c.blob)).scalars().all()
    own = (victim.association.managed_certificate_uid, "thief", 1)
    foreign = [blob for key, blob in blobs.items() if key != own] + list(in_custody)
    assert len(foreign) == 7
    altered = blobs[own][:-1] + bytes([blobs[own][-1] ^ 1])
    for blob in (*foreign, altered):
        _set_blob(leasing, own, blob)
        error = attempt(leasing, thief, victim.association.name, signed_request(thief, victim))
        assert error.reason is Reason.TOKEN_POLICY_FORBIDS
    assert refusals_told(leasing) == [(thief.spiffe_id, str(victim.association.name), "TOKEN_POLICY_FORBIDS")]
    _set_blob(leasing, own, blobs[own])
    lease(leasing, thief, victim)


def _set_blob(world: World, key: tuple[str, str, int], blob: bytes) -> None:
    row = update(_KEYS).where(
        _KEYS.c.managed_certificate_uid == key[0], _KEYS.c.association_id == key[1], _KEYS.c.version == key[2]
    )
    world.core.store.write("test", lambda tx: tx.execute(row.values(blob=blob)))


def test_an_association_that_was_rewritten_for_another_consumer_opens_nothing(leasing: World) -> None:
    """Who writes the database makes itself the consumer, and the blob is sealed for another."""
    machine, thief = consumer(leasing), consumer(leasing, "thief")
    view = associate(leasing, machine)
    table = managed_schema.associations
    leasing.core.store.write("test", lambda tx: tx.execute(update(table).values(consumer_spiffe_id=thief.spiffe_id)))
    error = attempt(leasing, thief, view.association.name, signed_request(thief, view))
    assert error.reason is Reason.TOKEN_POLICY_FORBIDS


def test_keys_under_an_older_wrapping_key_still_open(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    add_version(leasing)
    # Rotated while it is leased: what was sealed anew, and what was not, opens; new blobs go under the new one.
    leasing.steps.at["lease.1.recorded"] = lambda: leasing.core.wrapping_key_rotation.rotate(
        ADMINISTRATOR, TenantName("default"), key=None
    )
    lease(leasing, machine, view, 1)
    lease(leasing, machine, view, 1)
    lease(leasing, machine, view, 2)
    with leasing.core.store.read("test") as tx:
        made_anew = select(_KEYS.c.wrapping_key_number).where(_KEYS.c.version == 2)
        assert tx.execute(made_anew).scalar_one() == 2


def test_a_rotation_while_a_key_is_sealed_seals_it_once_more(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    add_version(leasing)
    seal, sealed = leasing.core.leases._keys.seal, []

    def rotated_late(*arguments: object) -> object:
        sealed.append(seal(*arguments))  # type: ignore[arg-type]  # As it is called.
        if len(sealed) == 1:
            leasing.core.wrapping_key_rotation.rotate(ADMINISTRATOR, TenantName("default"), key=None)
        return sealed[-1]

    leasing.core.leases._keys.seal = rotated_late  # type: ignore[method-assign, assignment]
    lease(leasing, machine, view, 2)
    assert [key.wrapping_key_number for key in sealed] == [1, 2]
    assert len(told(leasing, EventType.MANAGED_CERTIFICATE_LEASED)) == 1


def test_two_leases_at_once_seal_one_key(leasing: World) -> None:
    machine = consumer(leasing)
    view = associate(leasing, machine)
    add_version(leasing)
    ended: list[bytes] = []

    def run() -> None:
        ended.append(lease(leasing, machine, view, 2).public_key().public_bytes(*_SPKI))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    assert len(set(ended)) == 1
    with leasing.core.store.read("test") as tx:
        assert len(tx.execute(select(_KEYS.c.blob).where(_KEYS.c.version == 2)).all()) == 1


def report(world: World, caller: Caller, name: AssociationName, **changes: object) -> AssociationView:
    values: dict[str, object] = {"state": DeploymentState.SERVING, "version": 1} | changes
    return world.core.leases.report(caller, name, GivenDeployment(**values))  # type: ignore[arg-type]  # Of GivenDeployment.


def test_a_consumer_reports_what_it_serves(leasing: World) -> None:
    machine = consumer(leasing)
    name = associate(leasing, machine).association.name
    add_version(leasing)
    digest = hashlib.sha256(b"certificate").digest()
    reported = report(leasing, machine.caller, name, certificate_sha256=digest)
    deployment = reported.association.deployment
    assert deployment is not None
    assert (deployment.state, deployment.version, deployment.certificate_sha256) == (DeploymentState.SERVING, 1, digest)
    assert deployment.report_time == leasing.clock.now()
    (use,) = leasing.core.managed_certificates.get(ADMINISTRATOR, WEB).used_by
    assert use.deployment == deployment
    leasing.clock.advance(timedelta(seconds=1))
    # The same again is told to nobody, but when it was said is known.
    again = report(leasing, machine.caller, name).association.deployment
    assert again is not None
    assert again.report_time == leasing.clock.now()
    assert len(told(leasing, EventType.DEPLOYMENT_REPORTED)) == 1
    report(leasing, machine.caller, name, state=DeploymentState.FAILED, message="nginx -t failed", version=2)
    report(leasing, machine.caller, name, state=DeploymentState.SERVING, version=2)
    events = told(leasing, EventType.DEPLOYMENT_REPORTED)
    assert [(event.resource, event.details["state"]) for event in events] == [
        (WEB.version(1), "SERVING"),
        (WEB.version(2), "FAILED"),
        (WEB.version(2), "SERVING"),
    ]
    assert events[1].details["message"] == "nginx -t failed"
    assert refusal(lambda: report(leasing, machine.caller, name, version=3)).reason is Reason.FIELD_INVALID


def test_nobody_reports_for_another(leasing: World) -> None:
    machine, other = consumer(leasing), consumer(leasing, "other")
    name = associate(leasing, machine).association.name
    give(leasing, STRANGER.principal, Role.CONSUMER, EVERYTHING)
    for caller in (other.caller, STRANGER, ADMINISTRATOR):
        assert refusal(lambda caller=caller: report(leasing, caller, name)).reason is Reason.ASSOCIATION_NOT_FOUND  # type: ignore[misc]  # As above.
    assert leasing.core.associations.get(ADMINISTRATOR, name).association.deployment is None


def test_any_daemon_leases_what_another_sealed(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    config, clock = configuration(tmp_path, token_settings, database_url=url), FakeClock(datetime.now(UTC))
    with running_world(config, clock) as first, running_world(config, clock) as second:
        pin_system_root(first, token_settings)
        first.create_root()
        first.create_subordinate()
        active(first)
        machine = consumer(first)
        view = associate(first, machine)
        add_version(first)
        eventually(lambda: bool(second.core.access.held(machine.caller)))
        ended: list[bytes] = []

        def run(world: World) -> None:
            ended.append(lease(world, machine, view, 2).public_key().public_bytes(*_SPKI))

        threads = [threading.Thread(target=run, args=(world,)) for world in (first, second) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ended) == 4
        assert len(set(ended)) == 1
        assert eventually(lambda: len(told(first, EventType.MANAGED_CERTIFICATE_LEASED)) == 4)
        second.core.associations.delete(ADMINISTRATOR, view.association.name, key=None)
        error = attempt(first, machine, view.association.name, signed_request(machine, view, 2))
        assert error.reason is Reason.ASSOCIATION_NOT_FOUND
