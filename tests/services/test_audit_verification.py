"""Record, journals and books held against each other, on what a core really wrote, while it runs and after."""

import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from certd.clock import SystemClock
from certd.config import Config
from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.names import AuthorityName, CertificateName
from certd.pki import der
from certd.pki.checkpoint import JournalHead, parse_checkpoint
from certd.services.audit_verification import Progress, Verification
from certd.services.authorities import existing_authority
from certd.services.certificates import CertificateView
from certd.services.checkpoint_verification import GivenCheckpoint
from certd.services.journal_verification import JournalWalk
from certd.services.restored_books import put_right
from certd.services.revocation import NewRevocation
from certd.services.revocation_lists import WantedList
from certd.store import certificates, owners
from certd.store.reader import Reader
from certd.store.store import Store, Transaction
from certd.token.client import SignItem
from certd.token.policy import SignatureKind
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import (
    ADMINISTRATOR,
    CrashError,
    World,
    configuration,
    crash,
    running_world,
)
from tests.services.revocation_books import settle
from tests.services.test_checkpoints import get as get_checkpoint
from tests.softhsm import make_token
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[World]:
    """A world that has had its journal from its beginning on."""
    with running_world(configuration(tmp_path, make_token(tmp_path)), FakeClock()) as world:
        world.create_root()
        world.create_subordinate()
        yield world


@dataclass
class Found:
    findings: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    verification: Verification | None = None


def verify(world: World, *given: GivenCheckpoint, journals: tuple[Path, ...] | None = None) -> Found:
    found = Found()
    config = world.core.config
    reader = Reader.open(config.database.url)
    try:
        found.verification = Verification(
            reader=reader,
            journals=journals or (config.token.pin_file.with_name("token-journal"),),
            given=given,
            tell=found.findings.append,
            account=found.known.append,
            progress=found.progress.append,
            now=world.clock.now(),
        )
        found.verification.run()
    finally:
        reader.close()
    return found


def change(world: World, *statements: str) -> None:
    """Changes the books as somebody does who may write the database."""

    def work(tx: Transaction) -> None:
        for statement in statements:
            assert tx.execute(text(statement)).rowcount, statement

    world.core.store.write("test.change", work)


def test_all_that_a_server_does_fits_together(books: World) -> None:
    first = books.issue("a.example.internal")
    books.request("web")
    books.core.revocation.revoke(
        ADMINISTRATOR,
        NewRevocation(name=CertificateName("default", "ca", first.certificate.serial)),
        key=None,
        validate_only=False,
    )
    get_checkpoint(books)
    found = verify(books)
    assert found.findings == []
    verification = found.verification
    assert verification is not None
    assert verification.checkpoint_count == 1
    assert min(verification.event_count, verification.record_count, verification.certificate_count) > 5
    assert found.progress


def test_it_fits_together_on_postgresql(tmp_path: Path, postgres_url: str) -> None:  # The fixture.
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    config = configuration(tmp_path, make_token(tmp_path), database_url=url)
    with running_world(config, FakeClock()) as world:
        world.create_root()
        get_checkpoint(world)
        assert verify(world).findings == []
        change(world, "UPDATE events SET principal = 'x' WHERE seq = 3")
        assert ["event 3: " in one for one in verify(world).findings] == [True]


def test_a_certificate_whose_signing_was_interrupted_is_known(books: World) -> None:
    def take_over() -> None:
        books.core.store.write("test.end", lambda tx: owners.end(tx, books.core.ownership.epoch()))
        assert books.core.recovery.run() == 1

    books.steps.at["issue.4.signed"] = take_over
    with pytest.raises(CertdError) as lost:
        books.issue("lost.example.internal")
    assert lost.value.reason is Reason.OWNERSHIP_LOST
    assert verify(books).findings == []
    change(books, "DELETE FROM certificates WHERE state <> 'ISSUED'")
    row, signature = verify(books).findings
    assert "the books do not have it, and event" in row
    assert "the books know nothing of what" in signature


def test_what_was_signed_past_the_books_is_found(books: World) -> None:
    """Who is in the daemon may have a key sign what it may sign; only the journal tells of it."""
    tbs = _with_serial(_der(books, books.issue("a.example.internal")), secrets.token_bytes(15))
    signed = sign(books, "ca", tbs)
    assert isinstance(signed, bytes)
    (finding,) = verify(books).findings
    assert "signed: certificate serial=" in finding


def _with_serial(der_bytes: bytes, serial: bytes) -> bytes:
    reader = der.Reader(der_bytes).enter(der.SEQUENCE).enter(der.SEQUENCE)
    version = reader.read_whole(der.context(0))
    reader.read_integer()
    rest = []
    while (tag := reader.peek()) is not None:
        rest.append(reader.read_whole(tag))
    return der.sequence(version, der.integer(int.from_bytes(b"\x01" + serial)), *rest)


def sign(world: World, authority_id: str, tbs: bytes) -> bytes | CertdError:
    with world.core.store.read("test") as tx:
        authority = existing_authority(tx, AuthorityName("default", authority_id))
    item = SignItem(
        key_id=authority.key.key_id,
        policy=authority.key.policy,
        kind=SignatureKind.CERTIFICATE,
        signature_algorithm=authority.signature_algorithm,
        to_be_signed=tbs,
    )
    (outcome,) = world.core.token.sign([item], timeout=20)
    return outcome


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE events SET details = '{}' WHERE details <> '{}'", "is not what was written"),
        ("DELETE FROM events WHERE seq = 4", "event 5 follows event 3"),
        ("UPDATE certificates SET der = x'3000'", "its certificate was changed"),
        ("UPDATE certificates SET key_number = 2", "no finding"),
        ("UPDATE checkpoints SET statement = x'00'", "its statement was changed"),
        ("UPDATE checkpoints SET seq = seq + 1", "its statement or its signature was changed"),
        ("DELETE FROM checkpoint_keys", "its statement or its signature was changed"),
        ("UPDATE journal_positions SET position = 1", "record 1 is not what it was known to be"),
        ("UPDATE journal_positions SET position = 100000", "its end was cut off"),
        ("UPDATE journal_positions SET journal = 'ff'", "it is in none of the folders"),
    ],
)
def test_rows_that_were_changed_are_found(books: World, statement: str, finding: str) -> None:
    get_checkpoint(books)
    positions = books.core.auditing.journal_watch
    positions.look()

    def is_known() -> bool:
        with books.core.store.read("test") as tx:
            return tx.execute(text("SELECT 1 FROM journal_positions")).first() is not None

    eventually(is_known)
    # It would write what it knows of the journal anew.
    books.core.scheduler.stop()
    change(books, statement)
    findings = verify(books).findings
    if finding == "no finding":
        # There is no second key, whose id could be another one.
        assert findings == []
    else:
        assert any(finding in one for one in findings), findings


def test_a_revocation_that_was_taken_back_is_found(books: World) -> None:
    issued = books.issue("a.example.internal")
    name = CertificateName("default", "ca", issued.certificate.serial)
    books.core.revocation.revoke(ADMINISTRATOR, NewRevocation(name=name), key=None, validate_only=False)
    change(books, f"UPDATE certificates SET state = '{CertificateState.ISSUED}' WHERE state = 'REVOKED'")
    (finding,) = verify(books).findings
    assert str(name) in finding
    assert "it is not revoked, and event" in finding


def test_a_serial_of_two_authorities_is_of_one_certificate_each(books: World) -> None:
    """Small serials of CAs that were imported come twice."""
    books.create_subordinate("other-ca")
    first, second = books.issue("a.example.internal"), books.issue("a.example.internal", authority="other-ca")
    with books.core.store.read("test") as tx:
        row = certificates.get(tx, second.certificate.authority_uid, second.certificate.serial)
    assert row is not None
    change(
        books,
        f"UPDATE certificates SET serial = '{first.certificate.serial}', der = NULL, profile = '' WHERE serial ="
        f" '{row.serial}'",
    )
    name = CertificateName("default", "ca", first.certificate.serial)
    books.core.revocation.revoke(ADMINISTRATOR, NewRevocation(name=name), key=None, validate_only=False)
    assert [one for one in verify(books).findings if "is not revoked" in one] == []


def test_a_crl_that_is_about_to_be_published_is_known(books: World) -> None:
    settle(books)
    books.issue("a.example.internal")
    found: list[list[str]] = []
    books.steps.at["revocation-list.signed"] = lambda: found.append(verify(books).findings)
    wanted = WantedList(authority=AuthorityName("default", "ca"))
    books.core.publication.lists.generate(ADMINISTRATOR, wanted)
    assert found == [[]]
    assert verify(books).known == []


def test_a_crl_that_was_signed_and_never_published_is_told(books: World) -> None:
    # None of those that come by themselves is the one that fails.
    settle(books)
    books.steps.at["revocation-list.signed"] = crash
    with pytest.raises(CrashError):
        books.core.publication.lists.generate(ADMINISTRATOR, WantedList(authority=AuthorityName("default", "ca")))
    found = verify(books)
    assert found.findings == []
    (told,) = found.known
    assert "CRLs were signed that no event tells to be published" in told


def test_what_another_ca_issued_is_in_no_journal(books: World) -> None:
    issued = books.issue("a.example.internal")
    verified = verify(books)
    assert verified.findings == []
    # As `store.issued_import` marks it.
    change(books, f"UPDATE certificates SET profile = '' WHERE serial = '{issued.certificate.serial}'")
    assert verify(books).findings == []


def test_a_checkpoint_of_elsewhere_is_compared(books: World) -> None:
    view = get_checkpoint(books)
    said = parse_checkpoint(view.statement)
    given = GivenCheckpoint("kept", said, view.public_key)
    assert verify(books, given).findings == []
    wrong = {
        "another chain hash": replace(given, said=replace(said, chain_hash=bytes(32))),
        "there is no event": replace(given, said=replace(said, seq=10_000)),
        "of another installation": replace(given, said=replace(said, installation="other")),
        "none of this server's": replace(given, public_key=b"other"),
    }
    for finding, one in wrong.items():
        (found,) = verify(books, one).findings
        assert finding in found


def test_a_folder_that_cannot_be_read_is_told_with_the_remedy(books: World, tmp_path: Path) -> None:
    with pytest.raises(CertdError) as caught:
        verify(books, journals=(tmp_path / "nowhere",))
    assert caught.value.reason is Reason.FIELD_INVALID
    assert "--journal" in caught.value.message


def _restore(config: Config, backup: Path, backup_time: datetime) -> None:
    """Has the books of the backup in place, put right by the journal, as `certd restore` does."""
    file, journal = backup.with_name("certd.db"), config.token.pin_file.with_name("token-journal")
    for path in backup.parent.glob("certd.db*"):
        path.unlink()
    shutil.copy(backup, file)
    walk = JournalWalk([journal], {}, pytest.fail)
    for _ in walk.records():
        pass
    store = Store.open(config.database.url, clock=SystemClock())
    try:
        records = (record for _, record in JournalWalk([journal], {}, pytest.fail).records())
        done = put_right(store, records, heads=walk.heads, backup_time=backup_time, clock=SystemClock())
    finally:
        store.close()
    assert (done.lost, done.checkpoint_key) == (2, True)
    assert done.foreign > 0


def test_what_a_restore_lost_is_accounted_for_and_new_damage_is_found(tmp_path: Path) -> None:
    config, clock = configuration(tmp_path, make_token(tmp_path)), FakeClock(datetime.now(UTC))
    backup = tmp_path / "backup.db"

    def until_now() -> None:
        clock.advance(datetime.now(UTC) - clock.now())

    with running_world(config, clock) as world:
        world.create_root()
        world.create_subordinate()
        secret = sign(world, "ca", _with_serial(_der(world, world.issue("a.example.internal")), b"\x02" * 15))
        assert isinstance(secret, bytes)
        with closing(sqlite3.connect(tmp_path / "certd.db")) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        backup_time = datetime.now(UTC)
        world.issue("lost.example.internal")
        # Another authority with a key that nobody will know, its certificates and CRLs.
        world.create_root("late-root")
        until_now()
        view = get_checkpoint(world)
    kept = GivenCheckpoint("kept", parse_checkpoint(view.statement), view.public_key)
    ahead = replace(kept, said=replace(kept.said, journal=replace(_head(kept), number=10_000)))
    _restore(config, backup, backup_time)
    until_now()
    with running_world(config, clock) as world:
        world.issue("after.example.internal")
        found = verify(world, kept)
        # Of what was signed past the books before the backup no restore is the cause; it is lost, too, and revoked.
        assert found.findings == []
        # A CRL that is signed meanwhile is told of as one that may be published.
        (gap, lost) = [one for one in found.known if "CRLs were signed" not in one]
        assert "the books were restored" in gap
        assert "1 checkpoints from elsewhere" in gap
        assert "are gone" not in gap
        assert "2 certificates are lost by restores" in lost
        assert "are gone that it did not read" in verify(world, ahead).known[0]
        late = verify(world, replace(kept, said=replace(kept.said, time=clock.now()))).findings
        assert any("another chain hash" in one or "there is no event" in one for one in late)
        assert isinstance(
            sign(world, "ca", _with_serial(_der(world, world.issue("b.example.internal")), b"\x03" * 15)), bytes
        )
        (finding,) = verify(world).findings
        assert "the books know nothing of what" in finding
        change(world, "UPDATE certificates SET state = 'ISSUED' WHERE state = 'LOST'")
        assert [one for one in verify(world).findings if "it is not lost, and event" in one]
        change(world, "DELETE FROM certificates WHERE tbs IS NULL AND der IS NULL")
        assert len([one for one in verify(world).findings if "the books do not have it" in one]) == 2


def _head(given: GivenCheckpoint) -> JournalHead:
    assert given.said.journal is not None
    return given.said.journal


def _der(world: World, issued: CertificateView) -> bytes:
    with world.core.store.read("test") as tx:
        row = certificates.get(tx, issued.certificate.authority_uid, issued.certificate.serial)
    assert row is not None
    assert row.der is not None
    return row.der
