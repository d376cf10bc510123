"""Record, journals and books held against each other, on what a core really wrote, while it runs and after."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import text

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.names import AuthorityName, CertificateName
from certd.pki import der
from certd.pki.checkpoint import parse_checkpoint
from certd.services.audit_verification import Progress, Verification
from certd.services.authorities import existing_authority
from certd.services.checkpoint_verification import GivenCheckpoint
from certd.services.revocation import NewRevocation
from certd.store import certificates, owners
from certd.store.reader import Reader
from certd.store.store import Transaction
from certd.token.client import SignItem
from certd.token.policy import SignatureKind
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import (
    ADMINISTRATOR,
    World,
    configuration,
    running_world,
)
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
    (finding,) = verify(books).findings
    assert "the books know nothing of what" in finding


def test_what_was_signed_past_the_books_is_found(books: World) -> None:
    """Who is in the daemon may have a key sign what it may sign; only the journal tells of it."""
    issued = books.issue("a.example.internal")
    with books.core.store.read("test") as tx:
        row = certificates.get(tx, issued.certificate.authority_uid, issued.certificate.serial)
    assert row is not None
    assert row.der is not None
    tbs = _with_serial(row.der, secrets.token_bytes(15))
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
