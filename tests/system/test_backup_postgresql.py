"""A backup of a server on PostgreSQL, and its way into another database; with a token that is in no backup, too."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd import config
from certd.backup import making, restoring
from certd.clock import SystemClock
from certd.doctor import books
from certd.errors import CertdError
from certd.model.certificate import CertificateState
from certd.pki.encrypted_file import Passphrase, Recipient
from certd.store import authorities, certificates, events
from certd.store.reader import Reader
from tests.daemon import initialise, run_program
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]


def _url(server: PostgresServer) -> str:
    return server.create_database().replace("postgresql://", "postgresql+psycopg://")


@pytest.mark.timeout(900)
def test_a_server_on_postgresql_comes_back_in_another_database(postgres_server: PostgresServer, tmp_path: Path) -> None:
    before, after = _url(postgres_server), _url(postgres_server)
    installation = initialise(tmp_path, "--database-url", before)
    settings = config.load(installation.config)
    key = X25519PrivateKey.generate()
    to = Recipient(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    file = tmp_path / "certd.backup"
    made = making.make(settings, installation.config, file, to=to, clock=SystemClock())
    assert made.manifest.engine == "postgresql"
    # Whose clock of the two is off nobody knows, but one of them is.
    reader, now = Reader.open(before), SystemClock().now()
    for ahead, off in ((timedelta(0), False), (timedelta(hours=-1), True), (timedelta(hours=1), True)):
        checks = {
            one.check for one in books.look(settings, reader, now + ahead) if "PostgreSQL server says" in one.what
        }
        assert checks == ({"clock"} if off else set())
    reader.close()

    def order(name: str, url: str | None) -> restoring.Order:
        return restoring.Order(file=file, secret=key, data=tmp_path / name, database_url=url, token=None, journal=None)

    with pytest.raises(CertdError, match="one of certd already"):
        # The one that it came from, which is still there.
        restoring.restore(order("refused", None), clock=SystemClock())
    assert not (tmp_path / "refused").exists()
    done = restoring.restore(order("restored", after), clock=SystemClock())
    assert done.missing == []
    assert done.books.lost == 0
    restored = config.load(done.config_file)
    assert restored.database.url == after
    found = {}
    for url in (before, after):
        reader = Reader.open(url)
        with reader.read("test") as tx:
            assert events.verify_all(tx) == []
            found[url] = [one.uid for one in authorities.page_by_uid(tx, after="", limit=10)]
            kinds = {one.event.type for one in events.page(tx, after_seq=0, limit=1000)}
        reader.close()
        assert ("books.restored" in kinds) == (url == after)
    assert found[before] == found[after]
    assert len(found[after]) == 1


@pytest.mark.timeout(900)
def test_a_server_whose_token_is_in_no_backup_comes_back_with_the_journal(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a hardware token: certd.toml names no files of it, and the module finds it by itself."""
    before, after = _url(postgres_server), _url(postgres_server)
    installation = initialise(tmp_path, "--database-url", before)
    text, softhsm = installation.config.read_text(), installation.data / "token" / "softhsm2.conf"
    line = f'softhsm_conf = "{softhsm}"\n'
    assert line in text
    installation.config.write_text(text.replace(line, ""))
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm))
    settings = config.load(installation.config)
    file, passphrase = tmp_path / "certd.backup", Passphrase(b"a long passphrase")
    made = making.make(settings, installation.config, file, to=passphrase, clock=SystemClock())
    assert not made.manifest.has_token
    recovered = run_program(
        *("certd", "recover-admin", "--config", installation.config, "--credentials-dir", tmp_path / "again"),
        environment={"SOFTHSM2_CONF": str(softhsm)},
    )
    assert recovered.returncode == 0, recovered.stderr
    serial = x509.load_pem_x509_certificate((tmp_path / "again" / "admin.pem").read_bytes()).serial_number

    order = restoring.Order(
        file=file,
        secret=passphrase,
        data=tmp_path / "restored",
        database_url=after,
        token=None,
        journal=installation.data / "token-journal",
    )
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SOFTHSM2_CONF", str(tmp_path / "nothing.conf"))
        apart = replace(order, data=tmp_path / "apart", database_url=_url(postgres_server))
        done = restoring.restore(apart, clock=SystemClock())
        assert done.token_unknown
    done = restoring.restore(order, clock=SystemClock())
    assert (done.missing, done.token_unknown, done.books.lost) == ([], "", 1)
    assert not (tmp_path / "restored" / "token").exists()
    reader = Reader.open(after)
    with reader.read("test") as tx:
        authority = authorities.get(tx, None, "system")
        assert authority is not None
        lost = certificates.get(tx, authority.uid, serial.to_bytes((serial.bit_length() + 7) // 8).hex())
    reader.close()
    assert lost is not None
    assert lost.state is CertificateState.LOST
    ended = run_program("certd", "audit", "verify", "--config", done.config_file)
    assert ended.returncode == 0, ended.stdout
    assert "known: 1 certificates are lost by restores, and are revoked" in ended.stdout
