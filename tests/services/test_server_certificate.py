"""The log tells of a server certificate that is about to end, in time and once a day."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd import main
from certd.clock import SystemClock
from certd.pki.credential_request import new_credential_request
from certd.services.server_certificate import ServerCertificateWatch
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.conftest import configuration
from tests.waiting import eventually


def write_certificate(file: Path, clock: FakeClock, *, lifetime: timedelta) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(clock.now()).not_valid_after(clock.now() + lifetime)
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def test_it_warns_once_a_day_from_two_weeks_before_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, clock = tmp_path / "server.pem", FakeClock()
    write_certificate(file, clock, lifetime=timedelta(days=90))
    watch = ServerCertificateWatch(file, clock=clock)
    for _ in range(75):
        watch.look()
        clock.advance(timedelta(days=1))
    assert caplog.messages == []
    clock.advance(timedelta(days=1))
    for _ in range(3):
        watch.look()
        clock.advance(timedelta(hours=23))
    (first, second) = caplog.messages
    assert first == second
    assert "ends at 2030-04-01T00:00:00Z" in first
    assert str(file) in first
    assert "run `certd init` with the daemon stopped, then start it" in first


def test_it_warns_at_the_start_also_when_the_end_is_past(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, clock = tmp_path / "server.pem", FakeClock()
    write_certificate(file, clock, lifetime=timedelta(days=1))
    clock.advance(timedelta(days=2))
    ServerCertificateWatch(file, clock=clock).look()
    (message,) = caplog.messages
    assert "ended at 2030-01-02T00:00:00Z" in message


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_file_that_cannot_be_read_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    file, clock = tmp_path / "server.pem", FakeClock()
    if content is not None:
        file.write_bytes(content)
    ServerCertificateWatch(file, clock=clock).look()
    (message,) = caplog.messages
    assert "cannot be told" in message


def test_the_daemon_looks_when_it_starts(
    tmp_path: Path, token_settings: TokenSettings, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration(tmp_path, token_settings)
    server = new_credential_request()
    made = main.initialise(
        config, server_csr=server.csr, administrator_csr=new_credential_request().csr, server_names=("localhost",)
    )
    assert not [message for message in caplog.messages if "server certificate" in message]
    config.tls.private_key.write_bytes(server.private_key)
    config.tls.certificate.write_bytes(made.server_certificate)
    daemon = main.build(config, clock=FakeClock(SystemClock().now() + timedelta(days=80)))
    try:
        daemon.start()
        eventually(lambda: [message for message in caplog.messages if "run `certd init`" in message])
    finally:
        daemon.stop()
