"""A server that goes back to older books, for tests: its jobs are done when a test says so, in a known order."""

import contextlib
import re
import shutil
import sqlite3
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from sqlalchemy import text

from certd import main
from certd.model.job import JobKind
from certd.model.names import AuthorityName
from certd.model.revocation_list import RevocationListKey
from certd.pki.checkpoint import JournalHead
from certd.pki.key_spec import KeySpec
from certd.services.journal_verification import JournalWalk
from certd.services.restored_books import RestoredBooks, put_right
from certd.store import ocsp_responders, revocation_lists
from certd.store.store import Store
from certd.store.values import microseconds
from certd.token.journal_records import JournalRecord
from certd.token.policy import SignatureKind
from certd.token.settings import TokenSettings
from tests.coverage import uncovered_children
from tests.fakes import FakeClock
from tests.forked_token import forked_token_processes
from tests.services.conftest import Steps, World, configuration, running_world
from tests.services.rotated_books import authority_in
from tests.softhsm import make_token

ROOT_LIFETIME = timedelta(days=3650)
CA_LIFETIME = timedelta(days=60)
_REVOKED = re.compile(r"([0-9a-f]+):revoked")
_DUE = text("""
    SELECT kind, subject FROM jobs
    WHERE kind IN ('generate-revocation-list', 'advance-ocsp-responder') AND available_time <= :now
    ORDER BY available_time, kind, subject
""")


@dataclass(frozen=True)
class Copy:
    """What a backup has."""

    folder: Path
    time: datetime
    records: int
    """Of the journal, that were there before it."""


class _Journal(NamedTuple):
    records: list[JournalRecord]
    heads: list[JournalHead]


class Server:
    """A server in a folder; it runs between `start` and `stop`, and its scheduler never does."""

    def __init__(self, folder: Path, token: TokenSettings, clock: FakeClock) -> None:
        self.folder = folder
        self.clock = clock
        self.token = token
        self.config = configuration(folder, token)
        self._stack = contextlib.ExitStack()
        self._copies = 0
        self.world: World

    def start(self) -> None:
        steps = Steps()
        with uncovered_children(), forked_token_processes():
            core = main.assemble(self.config, clock=self.clock, step=steps)
            self._stack.callback(core.stop)
            core.start()
        core.scheduler.stop()
        self.world = World(core=core, clock=self.clock, steps=steps)

    def stop(self) -> None:
        self._stack.close()

    def key(self, authority_id: str, number: int, partition: int = 0) -> RevocationListKey:
        return RevocationListKey(authority_in(self.world, authority_id).uid, number, partition)

    def published(self, key: RevocationListKey) -> x509.CertificateRevocationList | None:
        """Returns what readers get; None when there is none."""
        with self.world.core.store.read("test.published") as tx:
            found = revocation_lists.content(tx, key)
        return None if found is None else x509.load_der_x509_crl(found[0])

    def due(self) -> list[tuple[JobKind, str]]:
        with self.world.core.store.read("test.due") as tx:
            rows = tx.execute(_DUE, {"now": microseconds(self.clock.now())}).all()
        return [(JobKind(row.kind), row.subject) for row in rows]

    def run(self, kind: JobKind, subject: str) -> None:
        """Does a job, as the scheduler does."""
        publication = self.world.core.publication
        if kind is JobKind.GENERATE_REVOCATION_LIST:
            publication.list_signing.run(subject)
        else:
            publication.answering.presigning.advance(subject)

    def responders(self, authority_id: str, number: int) -> list[x509.Certificate]:
        with self.world.core.store.read("test.responders") as tx:
            found = ocsp_responders.of_key(tx, authority_in(self.world, authority_id).uid, number)
        return [x509.load_der_x509_certificate(one.certificate) for one in found if one.certificate is not None]

    def back_up(self) -> Copy:
        """Copies database and token while the server works."""
        self._copies += 1
        folder = self.folder / f"copy-{self._copies}"
        folder.mkdir()
        with (
            contextlib.closing(sqlite3.connect(self.folder / "certd.db")) as source,
            contextlib.closing(sqlite3.connect(folder / "certd.db")) as target,
        ):
            source.backup(target)
        shutil.copytree(self._tokens, folder / "tokens")
        return Copy(folder, self.clock.now(), len(self._journal().records))

    def restore(self, copy: Copy, *, token: bool) -> RestoredBooks:
        """Goes back to a copy of the books, and perhaps of the token, with the journal as it is; as `certd restore`."""
        self.stop()
        for path in self.folder.glob("certd.db*"):
            path.unlink()
        shutil.copy(copy.folder / "certd.db", self.folder / "certd.db")
        if token:
            shutil.rmtree(self._tokens)
            shutil.copytree(copy.folder / "tokens", self._tokens)
        store = Store.open(self.config.database.url, clock=self.clock)
        try:
            journal = self._journal(copy)
            found = put_right(store, journal.records, heads=journal.heads, backup_time=copy.time, clock=self.clock)
        finally:
            store.close()
        self.start()
        return found

    def told_revoked(self, copy: Copy) -> set[str]:
        """Returns the serials that answers have called revoked since a copy was made."""
        told = (
            record.text("what")
            for record in self._journal(copy).records[copy.records :]
            if record.text("signed") == SignatureKind.OCSP_RESPONSE.name
        )
        return {serial.zfill(32) for what in told for serial in _REVOKED.findall(what)}

    @property
    def _tokens(self) -> Path:
        return self.folder / "token" / "tokens"

    def _journal(self, copy: Copy | None = None) -> _Journal:
        """Reads the journal. The token process has a clock of its own: what came after a copy is of this moment."""
        problems: list[str] = []
        walk = JournalWalk([self.folder / "token" / "token-journal"], {}, problems.append)
        records = [record for _, record in walk.records()]
        assert not problems
        if copy is not None:
            time = {"time": self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            records[copy.records :] = [replace(one, fields={**one.fields, **time}) for one in records[copy.records :]]
        return _Journal(records, walk.heads)


def new_server(folder: Path) -> Server:
    """Makes a server with the authority `ca` below `root`, both of which begin now; it does not run."""
    server = Server(folder, make_token(folder), FakeClock())
    with running_world(server.config, server.clock) as world:
        world.create_root("root", key_spec=KeySpec.EC_P256, lifetime=ROOT_LIFETIME)
        world.create_subordinate("ca", lifetime=CA_LIFETIME)
    return server


def name_of(authority_id: str) -> AuthorityName:
    return AuthorityName("default", authority_id)
