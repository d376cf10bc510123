"""A backup of a server on PostgreSQL, and its way into another database."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd import config
from certd.backup import making, restoring
from certd.clock import SystemClock
from certd.errors import CertdError
from certd.pki.encrypted_file import Recipient
from certd.store import authorities, events
from certd.store.reader import Reader
from tests.daemon import initialise
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
