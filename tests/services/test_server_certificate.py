"""The daemon renews its own certificate in time, with a new key and without a restart; of others it warns."""

import logging
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd import administration
from certd import daemon as serving
from certd.clock import SystemClock
from certd.credential_files import CredentialFiles, stage_key
from certd.model.event import EventType
from certd.pki.credential_request import new_credential_request
from certd.pki.encoding import certificate_pem
from certd.pki.names import SubjectAlternativeNames
from certd.services.identities import Identities
from certd.services.server_certificate import ServerCertificate
from certd.services.system import LEAD
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.conftest import World, configuration
from tests.waiting import eventually

NAMES = SubjectAlternativeNames(dns_names=("localhost", "certd.example.internal"), ip_addresses=("127.0.0.1",))


@pytest.fixture
def files(tmp_path: Path) -> CredentialFiles:
    folder = tmp_path / "tls"
    folder.mkdir()
    return CredentialFiles(certificate=folder / "server.pem", private_key=folder / "server.key")


def looked_after(world: World, files: CredentialFiles) -> tuple[ServerCertificate, list[bytes]]:
    """Returns what looks after the files, and a list that gets the certificate of each reload."""
    core = world.core
    reloads: list[bytes] = []
    identities = Identities(store=core.store, clock=world.clock, loop=core.loop, system_authority=core.system_authority)
    looks = ServerCertificate(
        files, store=core.store, clock=world.clock, identities=identities, system_authority=core.system_authority
    )
    looks.settle()
    looks.begin(lambda: reloads.append(files.certificate.read_bytes()))
    return looks, reloads


def install_ours(world: World, files: CredentialFiles) -> x509.Certificate:
    core = world.core
    request = new_credential_request()
    identities = Identities(store=core.store, clock=world.clock, loop=core.loop, system_authority=core.system_authority)
    certificate = identities.ensure_server(NAMES, request.csr).certificate
    root = core.system_authority.get().certificate
    assert root is not None
    files.certificate.write_text(certificate_pem(certificate) + certificate_pem(root))
    files.private_key.write_bytes(request.private_key)
    return x509.load_der_x509_certificate(certificate)


def install_another(files: CredentialFiles, clock: FakeClock, *, lifetime: timedelta) -> None:
    """As an operator does who has the certificate from elsewhere."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(clock.now()).not_valid_after(clock.now() + lifetime)
    files.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def works_together(files: CredentialFiles) -> bool:
    """Whether TLS takes the two files."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.private_key)
    except ssl.SSLError:
        return False
    return True


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "certd.server-certificate"):
        yield caplog


def test_it_is_renewed_when_a_third_is_left_and_not_before(world: World, files: CredentialFiles) -> None:
    old = install_ours(world, files)
    looks, reloads = looked_after(world, files)
    world.clock.advance(timedelta(days=59))
    looks.look()
    assert reloads == []
    world.clock.advance(timedelta(days=1, hours=1))
    looks.look()
    (shown,) = reloads
    new, root = x509.load_pem_x509_certificates(shown)
    assert new.public_key() != old.public_key()
    names = new.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names == old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert new.not_valid_after_utc > old.not_valid_after_utc + timedelta(days=55)
    new.verify_directly_issued_by(root)
    assert works_together(files)
    assert files.private_key.stat().st_mode & 0o777 == 0o600
    assert not files.staged_key.exists()
    renewed = [event for event in world.events() if event.type is EventType.SERVER_CERTIFICATE_RENEWED]
    (event,) = renewed
    assert int(event.details["serial"], 16) == new.serial_number
    assert int(event.details["former_serial"], 16) == old.serial_number
    world.clock.advance(timedelta(hours=2))
    looks.look()
    assert len(reloads) == 1


def test_one_of_a_lost_authority_is_shown_until_callers_know_the_next_root(
    world: World, files: CredentialFiles
) -> None:
    """They verify the server by the root of before, and get the next one when they renew."""
    install_ours(world, files)
    looks, reloads = looked_after(world, files)
    before = files.certificate.read_bytes()
    key = world.core.system_authority.get().key
    assert world.core.token.destroy_authority_key(key_id=key.key_id, policy=key.policy)
    root = x509.load_der_x509_certificate(world.core.system_rotation.replace_lost().certificate)
    assert looks.shown_until() == world.core.system_authority.known_from
    world.clock.advance(LEAD - timedelta(hours=2))
    looks.look()
    # Told of another root to trust, with the certificate of before.
    assert reloads == [before]
    world.clock.advance(timedelta(hours=3))
    looks.look()
    x509.load_pem_x509_certificates(reloads[-1])[0].verify_directly_issued_by(root)


def test_one_of_a_lost_authority_is_replaced_before_it_ends(world: World, files: CredentialFiles) -> None:
    end = install_ours(world, files).not_valid_after_utc
    looks, reloads = looked_after(world, files)
    world.clock.advance(timedelta(days=80))
    key = world.core.system_authority.get().key
    assert world.core.token.destroy_authority_key(key_id=key.key_id, policy=key.policy)
    root = x509.load_der_x509_certificate(world.core.system_rotation.replace_lost().certificate)
    assert looks.shown_until() == end - timedelta(days=1)
    world.clock.advance(timedelta(days=9, hours=1))
    looks.look()
    x509.load_pem_x509_certificates(reloads[-1])[0].verify_directly_issued_by(root)


def test_before_the_listeners_stand_it_does_nothing(world: World, files: CredentialFiles) -> None:
    install_ours(world, files)
    before = files.certificate.read_bytes()
    core = world.core
    looks = ServerCertificate(
        files,
        store=core.store,
        clock=world.clock,
        identities=Identities(
            store=core.store, clock=world.clock, loop=core.loop, system_authority=core.system_authority
        ),
        system_authority=core.system_authority,
    )
    looks.settle()
    world.clock.advance(timedelta(days=80))
    looks.look()
    assert files.certificate.read_bytes() == before


def test_a_renewal_that_cannot_be_written_issues_nothing_and_is_told(
    world: World, files: CredentialFiles, warnings: pytest.LogCaptureFixture
) -> None:
    install_ours(world, files)
    looks, reloads = looked_after(world, files)
    # A folder where the staged key would lie: not even root writes there.
    files.staged_key.mkdir()
    world.clock.advance(timedelta(days=80))
    issued = len(world.events())
    for _ in range(3):
        looks.look()
        world.clock.advance(timedelta(hours=2))
    assert len(world.events()) == issued
    assert reloads == []
    (message,) = warnings.messages
    assert "could not be renewed" in message
    files.staged_key.rmdir()

    def renewed() -> bool:
        # What is pending when the clock leaps is lost with the daemon's term, and tried again.
        looks.look()
        world.clock.advance(timedelta(hours=2))
        return len(reloads) == 1

    eventually(renewed)


@pytest.mark.parametrize("certificate_written", [False, True])
def test_what_a_crash_interrupted_is_ended(world: World, files: CredentialFiles, *, certificate_written: bool) -> None:
    install_ours(world, files)
    looks, _ = looked_after(world, files)
    old_key = files.private_key.read_bytes()
    request = new_credential_request()
    stage_key(files, request.private_key)
    if certificate_written:
        core = world.core
        identities = Identities(
            store=core.store, clock=world.clock, loop=core.loop, system_authority=core.system_authority
        )
        files.certificate.write_text(certificate_pem(identities.ensure_server(NAMES, request.csr).certificate))
    assert works_together(files) is not certificate_written
    looks.settle()
    assert works_together(files)
    assert files.private_key.read_bytes() == (request.private_key if certificate_written else old_key)
    assert not files.staged_key.exists()


def test_of_another_s_certificate_it_warns_once_a_day_from_two_weeks_before_the_end(
    world: World, files: CredentialFiles, warnings: pytest.LogCaptureFixture
) -> None:
    install_another(files, world.clock, lifetime=timedelta(days=90))
    before = files.certificate.read_bytes()
    looks, reloads = looked_after(world, files)
    for _ in range(75):
        looks.look()
        world.clock.advance(timedelta(days=1))
    assert warnings.messages == []
    world.clock.advance(timedelta(days=1))
    for _ in range(3):
        looks.look()
        world.clock.advance(timedelta(hours=23))
    (first, second) = warnings.messages
    assert first == second
    assert "ends at 2030-04-01T00:00:00Z" in first
    assert str(files.certificate) in first
    assert "send SIGHUP" in first
    assert (files.certificate.read_bytes(), reloads) == (before, [])


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_file_that_cannot_be_read_is_told_and_stops_nothing(
    world: World, files: CredentialFiles, warnings: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    if content is not None:
        files.certificate.write_bytes(content)
    looks, _ = looked_after(world, files)
    looks.look()
    (message,) = warnings.messages
    assert "cannot be told" in message


def test_a_client_that_trusts_the_root_never_notices(tmp_path: Path, token_settings: TokenSettings) -> None:
    """The server was made 65 days ago; when it starts today, it shows a new certificate without a restart."""
    config = configuration(tmp_path, token_settings)
    now = SystemClock().now()
    clock = FakeClock(now - timedelta(days=65))
    server = new_credential_request()
    made = administration.initialise(
        config,
        server_csr=server.csr,
        administrator_csr=new_credential_request().csr,
        server_names=("localhost",),
        clock=clock,
    )
    config.tls.private_key.write_bytes(server.private_key)
    config.tls.certificate.write_bytes(made.server_certificate)
    today = FakeClock(now)
    daemon = serving.build(config, clock=today)
    try:
        host, _, port = daemon.start().grpc.rpartition(":")

        def shown() -> str:
            return ssl.get_server_certificate((host, int(port)))

        assert shown() == made.server_certificate.decode()
        today.advance(timedelta(minutes=1))
        daemon._core.scheduler.wake()
        eventually(lambda: config.tls.certificate.read_bytes() != made.server_certificate)
        # The files are written before the listener takes them.
        eventually(lambda: shown() != made.server_certificate.decode())
        new = x509.load_pem_x509_certificate(shown().encode())
        new.verify_directly_issued_by(x509.load_pem_x509_certificate(made.system_root))
        assert new.not_valid_before_utc <= now < new.not_valid_after_utc
    finally:
        daemon.stop()
