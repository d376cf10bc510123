"""Identities against a whole daemon: renewed and revoked by certctl, refused at the next call on an open connection."""

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from certd.model.access import Grant, Role
from certd.pki.credential_request import new_credential_request
from certd.pki.encoding import certificate_pem
from certd.services.identities import Identities
from certd.store import grants
from certd.v1 import access_service_pb2, server_service_pb2
from tests.api.every_method import TRUST_DOMAIN, named
from tests.api.whole_daemon import Installed, call, failure_to, grant_of, whole_daemon
from tests.certctl import Certctl
from tests.fakes import FakeClock


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with whole_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def certctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Certctl:
    for name in ("ADDRESS", "CERTIFICATE", "PRIVATE_KEY", "TRUST_BUNDLE", "TENANT", "CONFIG", "TOKEN_FILE"):
        monkeypatch.delenv(f"CERTCTL_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Certctl(capsys)


def settle(home: Path, installed: Installed, name: str, *held: Grant, age: timedelta = timedelta(0)) -> Path:
    """Makes a home whose certctl calls as an identity, with a certificate of some age; returns its folder."""
    core, made = installed.core, new_credential_request()
    clock = FakeClock(datetime.now(UTC) - age)
    issuer = Identities(store=core.store, clock=clock, loop=core.loop, system_authority=core.system_authority)
    certificate = issuer.ensure_identity(f"spiffe://{TRUST_DOMAIN}/identities/{name}", made.csr).certificate
    for grant in held:
        core.store.write("test.grant", lambda tx, grant=grant: grants.insert(tx, grant))  # type: ignore[misc]
    folder = home / ".config" / "certd"
    folder.mkdir(parents=True)
    (folder / "client.pem").write_text(certificate_pem(certificate))
    (folder / "client.key").write_bytes(made.private_key)
    (folder / "client.key").chmod(0o600)
    (folder / "root.pem").write_bytes(installed.system_root)
    (folder / "certctl.toml").write_text(
        f'address = "{installed.ready.grpc}"\n'
        'certificate = "client.pem"\nprivate_key = "client.key"\ntrust_bundle = "root.pem"\n'
    )
    return folder


def serial_in(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "client.pem").read_bytes()).serial_number


def test_the_next_call_of_a_revoked_identity_is_refused_on_its_open_connection(installed: Installed) -> None:
    channel = installed.caller("fired", grant_of("fired", Role.AUDITOR))
    describe = server_service_pb2.GetServerInfoRequest()
    call(channel, named("GetServerInfo"), describe)
    # Who enrolls has a row; this one was made by hand.
    with_row = call(channel, named("RenewIdentity"), renewal())
    assert with_row.identity.state == with_row.identity.ACTIVE  # type: ignore[attr-defined]  # An IdentityCredential.
    call(
        installed.administrator,
        named("RevokeIdentity"),
        access_service_pb2.RevokeIdentityRequest(name="identities/fired"),
    )
    failure = failure_to(channel, named("GetServerInfo"), describe)
    assert failure is not None
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED")
    renewed = failure_to(channel, named("RenewIdentity"), renewal())
    assert renewed is not None
    assert renewed.reason == "CREDENTIAL_REVOKED"


def renewal() -> access_service_pb2.RenewIdentityRequest:
    return access_service_pb2.RenewIdentityRequest(csr=new_credential_request().csr)


def test_a_machine_renews_its_certificate_and_goes_on(installed: Installed, certctl: Certctl, tmp_path: Path) -> None:
    folder = settle(tmp_path, installed, "renewing")
    before, key = serial_in(folder), (folder / "client.key").read_bytes()
    ended = certctl("identity", "renew", "-o", "json")
    assert (ended.code, ended.err) == (0, "")
    made = json.loads(ended.out)
    assert made["identity"]["name"] == "identities/renewing"
    assert made["identity"]["state"] == "ACTIVE"
    assert serial_in(folder) != before
    assert (folder / "client.key").read_bytes() != key
    assert stat.S_IMODE((folder / "client.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["certctl.toml", "client.key", "client.pem", "root.pem"]
    again = certctl("identity", "renew")
    assert again.code == 0
    assert "identities/renewing" in again.out
    assert "client.key are renewed" in again.err


def test_certctl_renews_by_itself_when_a_third_of_the_lifetime_is_left(
    installed: Installed, certctl: Certctl, tmp_path: Path
) -> None:
    folder = settle(tmp_path, installed, "aging", age=timedelta(days=19))
    early = serial_in(folder)
    assert certctl("whoami").code == 0
    assert serial_in(folder) == early
    older = settle(tmp_path / "older", installed, "aged", age=timedelta(days=21))
    before = serial_in(older)
    ended = certctl("--config", older / "certctl.toml", "whoami")
    assert (ended.code, ended.err) == (0, "")
    assert serial_in(older) != before
    assert certctl("--config", older / "certctl.toml", "whoami").code == 0


def test_a_renewal_in_passing_that_cannot_be_disturbs_nothing(
    installed: Installed, certctl: Certctl, tmp_path: Path
) -> None:
    folder = settle(tmp_path, installed, "held", age=timedelta(days=21))
    before = serial_in(folder)
    lock = os.open(folder, os.O_RDONLY)
    try:
        # Another program renews.
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = certctl("whoami")
    finally:
        os.close(lock)
    assert (ended.code, ended.err) == (0, "")
    assert serial_in(folder) == before


def test_what_a_renewal_left_half_done_is_ended_by_the_next_program(
    installed: Installed, certctl: Certctl, tmp_path: Path
) -> None:
    folder = settle(tmp_path, installed, "crashed")
    # The certificate was replaced, its key was not yet.
    (folder / "client.key").rename(folder / "client.key.next")
    (folder / "client.key").write_bytes(new_credential_request().private_key)
    assert certctl("whoami").code == 0
    assert not (folder / "client.key.next").exists()


def test_identities_are_shown_and_revoked_by_those_who_may(
    installed: Installed, certctl: Certctl, tmp_path: Path
) -> None:
    # By a grant to all identities, which makes nobody one of the administrators of whom one has to stay.
    settle(tmp_path, installed, "helper", grant_of("*", Role.ADMINISTRATOR))
    listed = certctl("identity", "list", "--server", "-o", "json")
    assert listed.code == 0
    names = [json.loads(line)["name"] for line in listed.out.splitlines()]
    assert "identities/admin" in names
    table = certctl("identity", "list")
    assert table.code == 0
    assert "machine" in table.out
    assert certctl("identity", "revoke", "machine", "--validate-only").code == 0
    assert "INVITED" in certctl("identity", "get", "machine").out
    assert "REVOKED" in certctl("identity", "revoke", "machine").out
    assert "REVOKED" in certctl("identity", "get", "machine").out
    missing = certctl("identity", "get", "identities/nobody")
    assert missing.code == 1
    assert "IDENTITY_NOT_FOUND" in missing.err
    last = certctl("identity", "revoke", "identities/admin", "--validate-only")
    assert "LAST_ADMINISTRATOR" in last.err
