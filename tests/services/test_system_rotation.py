"""Another system authority: known long before it issues, trusted as long as anything of it lives, noticed by nobody."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certd import administration
from certd import daemon as serving
from certd.client.connection import Client
from certd.client.credentials import read_credentials
from certd.clock import SystemClock
from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.identity import Identity, IdentityState
from certd.model.job import Job, JobKind
from certd.model.names import IdentityName
from certd.pki.credential_request import new_credential_request
from certd.services.checkpoints import new_checkpoint_key
from certd.services.identities import Identities
from certd.services.system import LEAD
from certd.store import checkpoints as checkpoint_rows
from certd.store import identities as identity_rows
from certd.store import jobs
from certd.store.reader import Reader
from certd.store.store import Store
from certd.token.settings import TokenSettings
from certd.v1.server_service_pb2 import GetServerInfoRequest
from tests.fakes import FakeClock
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, CrashError, World, configuration, crash
from tests.waiting import eventually

DAY = timedelta(days=1)


def identities(world: World) -> Identities:
    core = world.core
    return Identities(store=core.store, clock=world.clock, loop=core.loop, system_authority=core.system_authority)


def enroll(world: World, name: str) -> bytes:
    spiffe_id = f"spiffe://{TRUST_DOMAIN}/identities/{name}"
    return identities(world).ensure_identity(spiffe_id, new_credential_request().csr).certificate


def roots(world: World) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(root) for root in world.core.system_authority.roots()]


def issuer_of(world: World, certificate: bytes) -> x509.Certificate:
    """Returns the trusted root that vouches for a certificate."""
    loaded = x509.load_der_x509_certificate(certificate)
    (found,) = [root for root in roots(world) if root.subject == loaded.issuer]
    loaded.verify_directly_issued_by(found)
    return found


def test_the_next_one_is_trusted_at_once_and_issues_when_all_know_it(world: World) -> None:
    (old,) = roots(world)
    rotated = world.core.system_rotation.rotate()
    new = x509.load_der_x509_certificate(rotated.certificate)
    assert roots(world) == [old, new]
    assert [root.subject.rfc4514_string() for root in (old, new)] == [
        f"CN=certd system authority,O={TRUST_DOMAIN}",
        f"CN=certd system authority 2,O={TRUST_DOMAIN}",
    ]
    bundle = world.core.server.trust_bundle(ADMINISTRATOR, None)
    assert [x509.load_der_x509_certificate(root) for root in bundle.system_roots] == [old, new]
    assert issuer_of(world, enroll(world, "early")) == old
    world.clock.advance(LEAD - DAY)
    late = enroll(world, "late")
    assert issuer_of(world, late) == old
    world.clock.advance(2 * DAY)
    assert roots(world) == [new, old]
    assert issuer_of(world, enroll(world, "after")) == new
    # Who has a certificate of the old one goes on, whatever issues now.
    assert world.core.access.authenticate(late).principal.endswith("/late")


def test_the_old_one_is_trusted_until_all_that_it_issued_has_ended(world: World) -> None:
    old, new = roots(world)[0], x509.load_der_x509_certificate(world.core.system_rotation.rotate().certificate)
    world.clock.advance(LEAD + 90 * DAY)
    assert roots(world) == [new, old]
    world.clock.advance(2 * DAY)
    assert roots(world) == [new]


def test_one_rotation_at_a_time_and_then_the_next(world: World) -> None:
    first = world.core.system_rotation.rotate()
    with pytest.raises(CertdError) as refused:
        world.core.system_rotation.rotate()
    assert refused.value.reason is Reason.STATE_FORBIDS
    assert len(roots(world)) == 2
    world.clock.advance(LEAD + DAY)
    second = world.core.system_rotation.rotate()
    assert second.issues_from > first.issues_from
    assert len(roots(world)) == 3


def test_what_a_crash_left_is_completed(world: World) -> None:
    world.steps.seen.clear()
    world.core.system_rotation.rotate()
    (step, *_) = world.steps.seen
    world.clock.advance(LEAD + DAY)
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        world.core.system_rotation.rotate()
    assert len(roots(world)) == 2
    world.core.system_rotation.rotate()
    assert len(roots(world)) == 3


def test_who_is_given_a_certificate_is_told_both_roots(world: World) -> None:
    """The next one may issue before the certificate is renewed."""
    world.core.system_rotation.rotate()
    certificate = enroll(world, "told")
    name = IdentityName(None, "told")
    identity = Identity(
        name=name,
        spiffe_id=f"spiffe://{TRUST_DOMAIN}/{name}",
        state=IdentityState.ACTIVE,
        create_time=world.clock.now(),
        update_time=world.clock.now(),
    )
    with world.core.store.read("test.credential") as tx:
        credential = identities(world).credential(tx, identity, certificate)
    assert credential.system_roots == world.core.system_authority.roots()
    assert len(credential.system_roots) == 2
    assert world.core.enrollment.system_roots() == credential.system_roots


def test_an_identity_is_revoked_with_its_certificates_of_both(world: World) -> None:
    # After a leap of days it finds the daemon's lease ended, and what is being signed counts as lost.
    world.core.scheduler.stop()
    world.core.system_rotation.rotate()
    world.clock.advance(LEAD - DAY)
    old = enroll(world, "both")
    world.clock.advance(2 * DAY)
    new = enroll(world, "both")
    assert issuer_of(world, old) != issuer_of(world, new)
    name = IdentityName(None, "both")
    spiffe_id = f"spiffe://{TRUST_DOMAIN}/{name}"
    with world.core.store.read("test.live") as tx:
        live = identities(world).live(tx, spiffe_id, now=world.clock.now(), limit=9)
    assert [row.der for row in live] == [new, old]
    world.core.store.write(
        "test.identity",
        lambda tx: identity_rows.ensure(tx, name, spiffe_id, IdentityState.ACTIVE, world.clock.now()),
    )
    world.core.identity_changes.revoke(ADMINISTRATOR, name, key=None, validate_only=False)
    for certificate in (old, new):
        with pytest.raises(CertdError) as refused:
            world.core.access.authenticate(certificate)
        assert refused.value.reason is Reason.CREDENTIAL_REVOKED
        with world.core.store.read("test.revoked") as tx:
            serial = f"{x509.load_der_x509_certificate(certificate).serial_number:x}"
            row = world.core.system_authority.certificate(tx, serial.zfill(len(serial) + len(serial) % 2))
        assert row is not None
        assert row.state is CertificateState.REVOKED


def lose_key(world: World) -> None:
    """As a token from before it was made, or a new one: without the key of the authority that issues."""
    key = world.core.system_authority.get().key
    assert world.core.token.destroy_authority_key(key_id=key.key_id, policy=key.policy)


def test_in_place_of_one_whose_key_is_lost_the_next_one_issues_at_once(world: World) -> None:
    (old,), enrolled = roots(world), enroll(world, "before")
    lose_key(world)
    with pytest.raises(CertdError) as refused:
        world.core.system_rotation.require_key()
    assert refused.value.reason is Reason.STATE_FORBIDS
    assert "certd rotate-system-authority --key-lost" in refused.value.message
    rotated = world.core.system_rotation.replace_lost()
    new = x509.load_der_x509_certificate(rotated.certificate)
    assert (roots(world), rotated.issues_from) == ([new, old], world.clock.now())
    world.core.system_rotation.require_key()
    assert issuer_of(world, enroll(world, "after")) == new
    assert world.core.access.authenticate(enrolled).principal.endswith("/before")
    (event,) = [event for event in world.events() if event.type is EventType.SYSTEM_AUTHORITY_REPLACED]
    assert (event.resource, event.details["successor"]) == (
        "tenants/-/authorities/system",
        "tenants/-/authorities/system-2",
    )
    world.clock.advance(91 * DAY)
    assert roots(world) == [new]


def test_one_that_was_made_already_takes_over_when_the_key_is_lost(world: World) -> None:
    """As after a crash before the old one was given up. What that issued until then is trusted until it ends."""
    (old,), made = roots(world), world.core.system_rotation.rotate()
    world.clock.advance(20 * DAY)
    lose_key(world)
    assert world.core.system_rotation.replace_lost().certificate == made.certificate
    new = x509.load_der_x509_certificate(made.certificate)
    assert issuer_of(world, enroll(world, "after")) == new
    world.clock.advance(90 * DAY)
    assert roots(world) == [new, old]


def test_checkpoints_are_signed_by_another_key_when_theirs_is_lost_too(world: World) -> None:
    checkpoints = world.core.auditing.checkpoints
    before = checkpoints.get(ADMINISTRATOR)
    elsewhere = replace(new_checkpoint_key(2, world.clock.now()), public_key=before.public_key)
    world.core.store.write("test.elsewhere", lambda tx: checkpoint_rows.insert_key(tx, elsewhere))
    world.clock.advance(timedelta(minutes=2))
    enroll(world, "before")
    lose_key(world)
    with pytest.raises(CertdError) as unsigned:
        checkpoints.get(ADMINISTRATOR)
    assert unsigned.value.reason is Reason.TOKEN_UNAVAILABLE
    world.core.system_rotation.replace_lost()
    after = checkpoints.get(ADMINISTRATOR)
    assert (after.seq > before.seq, after.public_key == before.public_key) == (True, False)


@pytest.mark.parametrize("token_is_there", [True, False])
def test_no_key_is_given_up_that_is_there_or_cannot_be_looked_for(world: World, *, token_is_there: bool) -> None:
    before = world.events()
    if not token_is_there:
        lose_key(world)
        world.core.token.stop()
    with pytest.raises(CertdError) as refused:
        world.core.system_rotation.replace_lost()
    assert refused.value.reason is (Reason.STATE_FORBIDS if token_is_there else Reason.TOKEN_UNAVAILABLE)
    assert (len(roots(world)), world.events()) == (1, before)


def test_it_happens_by_itself_when_a_third_of_the_life_is_left(world: World) -> None:
    world.clock.advance(13 * 365 * DAY)
    world.core.system_rotation.look()
    assert len(roots(world)) == 1
    world.clock.advance(365 * DAY)
    world.core.system_rotation.look()
    # The scheduler may have begun it before.
    eventually(lambda: len(roots(world)) == 2)
    world.clock.advance(DAY)
    world.core.system_rotation.look()
    assert len(roots(world)) == 2


def test_a_daemon_takes_over_from_one_to_the_other(tmp_path: Path, token_settings: TokenSettings) -> None:
    """Made forty days ago and told of another five days later, it serves callers of the new one, and shows the new."""
    config = configuration(tmp_path, token_settings)
    now = SystemClock().now()
    server = new_credential_request()
    made = administration.initialise(
        config,
        server_csr=server.csr,
        administrator_csr=new_credential_request().csr,
        server_names=("localhost", "127.0.0.1"),
        clock=FakeClock(now - 40 * DAY),
    )
    # What is done on the machine itself leaves the daemon's jobs to the daemon.
    books = Store.open(config.database.url, clock=SystemClock())
    waits = Job(kind=JobKind.ADVANCE_AUTHORITY, subject="gone", due_time=now - 40 * DAY)
    books.write("test.job", lambda tx: jobs.put(tx, waits))
    books.close()
    config.tls.private_key.write_bytes(server.private_key)
    config.tls.certificate.write_bytes(made.server_certificate)
    rotated = administration.rotate_system_authority(config, clock=FakeClock(now - 35 * DAY))
    mine = new_credential_request()
    recovered = administration.recover_administrator(
        config, administrator_id="admin", administrator_csr=mine.csr, clock=FakeClock(now)
    )
    reader = Reader.open(config.database.url)
    with reader.read("test.jobs") as tx:
        assert jobs.next_due(tx, apart=False) == waits.due_time
    reader.close()
    assert len(x509.load_pem_x509_certificates(recovered.system_root)) == 2
    new_root = x509.load_pem_x509_certificate(rotated.system_root)
    x509.load_pem_x509_certificate(recovered.certificate).verify_directly_issued_by(new_root)
    files = {"admin.pem": recovered.certificate, "admin.key": mine.private_key, "root.pem": recovered.system_root}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    today = FakeClock(now)
    daemon = serving.build(config, clock=today)
    try:
        address = daemon.start().grpc
        credentials = read_credentials(
            certificate=tmp_path / "admin.pem", private_key=tmp_path / "admin.key", trust_bundle=tmp_path / "root.pem"
        )
        with Client(address, credentials) as client:
            # The server still shows its certificate of the old one; the connection outlives the change.
            assert client.call(client.stubs.get_server_info, GetServerInfoRequest()).version
            today.advance(timedelta(minutes=1))
            daemon._core.scheduler.wake()
            eventually(lambda: config.tls.certificate.read_bytes() != made.server_certificate)
            x509.load_pem_x509_certificate(config.tls.certificate.read_bytes()).verify_directly_issued_by(new_root)
            assert client.call(client.stubs.get_server_info, GetServerInfoRequest()).version
        with Client(address, credentials) as client:
            assert client.call(client.stubs.get_server_info, GetServerInfoRequest()).version
    finally:
        daemon.stop()
