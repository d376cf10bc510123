"""The journal: no answer without its record, whatever dies or is full, and every change of it is found."""

import contextlib
import hashlib
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError, Reason
from certd.pki.checkpoint import Checkpoint
from certd.pki.key_spec import KeySpec
from certd.services.journal_verification import JournalWalk
from certd.token import journal_records
from certd.token.client import TokenClient, start_child
from certd.token.journal import Journal
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.token.journal_files import records_below, uses
from tests.token.material import OTHER, Authority, make_authority, make_certificate, make_context
from tests.token.test_custody import Custody
from tests.waiting import eventually

needs_prlimit = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS sets no limits of others")


@contextlib.contextmanager
def serving(settings: TokenSettings) -> Iterator[TokenClient]:
    client = start_child(settings)
    try:
        assert client.wait_ready(20), client.problem
        yield client
    finally:
        client.stop()


def sign(client: TokenClient, authority: Authority) -> bytes:
    item = authority.item(make_certificate())
    (signature,) = client.sign([item], timeout=20)
    if isinstance(signature, CertdError):
        raise signature
    return item.to_be_signed


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def findings(folder: Path) -> list[str]:
    found: list[str] = []
    for _ in JournalWalk([folder], {}, found.append).records():
        pass
    return found


def test_a_record_tells_what_was_signed(settings: TokenSettings) -> None:
    with serving(settings) as client:
        authority = make_authority(client)
        signed = sign(client, authority)
        head, lines = client.read_journal(position=0, limit=100)
    records = records_below(settings.journal)
    assert [one.kind for one in records] == ["segment", "create-authority-key", "sign"]
    assert records[-1].text("key") == authority.key_id.hex()
    assert records[-1].text("sha256") == _sha256(signed)
    assert records[-1].text("what").startswith("certificate serial=")
    assert (head.number, head.chain_hash) == (3, records[-1].chain_hash)
    assert lines == [one.line for one in records]
    assert findings(settings.journal) == []


def test_it_belongs_to_its_user_alone(settings: TokenSettings) -> None:
    with serving(settings) as client:
        make_authority(client)
    for path in (settings.journal, *settings.journal.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_one_record_for_each_of_many_that_are_signed_at_once(settings: TokenSettings) -> None:
    with serving(settings) as client:
        authority = make_authority(client)
        items = [authority.item(make_certificate()) for _ in range(50)]
        assert all(isinstance(one, bytes) for one in client.sign(items, timeout=30))
        with pytest.raises(CertdError):
            client.read_journal(position=0, limit=1001)
        head, lines = client.read_journal(position=2, limit=10)
        assert (head.number, len(lines)) == (52, 10)
        assert client.read_journal(position=1 << 62, limit=1) == (head, [])
    assert [one.text("sha256") for one in uses(settings.journal, "sign")] == [
        _sha256(item.to_be_signed) for item in items
    ]


def test_what_is_refused_is_no_use_of_a_key(settings: TokenSettings) -> None:
    with serving(settings) as client:
        authority = make_authority(client)
        (refused,) = client.sign([authority.item(make_certificate(issuer=OTHER))], timeout=20)
    assert isinstance(refused, CertdError)
    assert uses(settings.journal, "sign") == []


def test_after_kill_9_every_answer_has_its_record(settings: TokenSettings) -> None:
    answered: list[bytes] = []
    for _ in range(3):
        with serving(settings) as client:
            authority = make_authority(client)
            stop = threading.Event()

            def keep_signing(
                client: TokenClient = client, authority: Authority = authority, stop: threading.Event = stop
            ) -> None:
                with contextlib.suppress(CertdError):
                    while not stop.is_set():
                        answered.append(sign(client, authority))

            threads = [threading.Thread(target=keep_signing) for _ in range(3)]
            before = len(answered)
            for thread in threads:
                thread.start()
            eventually(lambda before=before: len(answered) > before + 20)  # type: ignore[misc]  # mypy infers no type for a default.
            assert client.process_id is not None
            os.kill(client.process_id, signal.SIGKILL)
            stop.set()
            for thread in threads:
                thread.join()
    with serving(settings) as client:
        make_authority(client)
    assert findings(settings.journal) == []
    written = {one.text("sha256") for one in uses(settings.journal, "sign")}
    assert {_sha256(one) for one in answered} <= written


@pytest.mark.parametrize("torn", [b"{", b'{"number":4,"time":"2030', b"x" * 70_000])
def test_a_torn_record_is_told_of_by_the_segment_after_it(settings: TokenSettings, torn: bytes) -> None:
    with serving(settings) as client:
        authority = make_authority(client)
        sign(client, authority)
    (segment,) = settings.journal.rglob("*.jsonl")
    with segment.open("ab") as file:
        file.write(torn)
    assert findings(settings.journal) == []
    with serving(settings) as client:
        sign(client, authority)
    first, second = sorted(settings.journal.rglob("*.jsonl"))
    header = journal_records.header_of(second)
    assert header is not None
    assert header.count("unfinished_bytes") == len(torn)
    assert findings(settings.journal) == []
    # What is unfinished is as it was left.
    first.write_bytes(first.read_bytes()[:-1])
    assert any("its end is not what the segment after it tells" in one for one in findings(settings.journal))


@needs_prlimit
def test_on_a_full_disk_no_signature_leaves_and_all_is_written_later(settings: TokenSettings) -> None:
    with serving(settings) as client:
        authority = make_authority(client)
        sign(client, authority)
        process = psutil.Process(client.process_id)
        process.rlimit(psutil.RLIMIT_FSIZE, (100, psutil.RLIM_INFINITY))
        items = [authority.item(make_certificate()) for _ in range(3)]
        with pytest.raises(CertdError) as caught:
            client.sign(items, timeout=20)
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
        eventually(lambda: not client.ready)
        assert "journal" in client.problem
        assert "Make room" in client.problem
        with pytest.raises(CertdError):
            sign(client, authority)
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        assert client.wait_ready(20), client.problem
        last = sign(client, authority)
    assert findings(settings.journal) == []
    told = [one.text("sha256") for path in sorted(settings.journal.rglob("*.jsonl")) for one in _signed(path)]
    assert told[1:] == [_sha256(one.to_be_signed) for one in items] + [_sha256(last)]


@needs_prlimit
def test_a_disk_that_fills_within_a_record_leaves_it_unfinished(settings: TokenSettings) -> None:
    with serving(settings) as client:
        authority = make_authority(client)
        (segment,) = settings.journal.rglob("*.jsonl")
        length = segment.stat().st_size
        psutil.Process(client.process_id).rlimit(psutil.RLIMIT_FSIZE, (length + 40, psutil.RLIM_INFINITY))
        with pytest.raises(CertdError) as caught:
            sign(client, authority)
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
        # There is room for another file.
        eventually(lambda: len(list(settings.journal.rglob("*.jsonl"))) == 2)
        assert segment.stat().st_size == length + 40
    assert findings(settings.journal) == []
    assert len(_signed(max(settings.journal.rglob("*.jsonl")))) == 1


def _signed(path: Path) -> list[journal_records.JournalRecord]:
    return [one for one in journal_records.records(journal_records.Scan(path)) if one.kind == "sign"]


@needs_prlimit
def test_on_a_full_disk_no_exported_key_leaves(settings: TokenSettings) -> None:
    with serving(settings) as client:
        key_id = secrets.token_bytes(16)
        client.ensure_wrapping_key(key_id=key_id)
        own = Custody(client, key_id, KeySpec.EC_P256, make_context())
        (segment,) = settings.journal.rglob("*.jsonl")
        recipient = X25519PrivateKey.generate().public_key().public_bytes_raw()
        exports: tuple[Callable[[], object], ...] = (own.export, lambda: own.export_to(recipient))
        for export in exports:
            process = psutil.Process(client.process_id)
            # No segment begins with less, so that there is no way round.
            process.rlimit(psutil.RLIMIT_FSIZE, (100, psutil.RLIM_INFINITY))
            with pytest.raises(CertdError) as caught:
                export()
            assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
            eventually(lambda: not client.ready)
            process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            eventually(lambda: client.ready)
            export()
    assert segment.exists()
    assert findings(settings.journal) == []


def test_a_folder_that_cannot_be_written_keeps_the_token_closed(settings: TokenSettings) -> None:
    settings.journal.write_text("no folder")
    client = start_child(settings)
    try:
        assert not client.wait_settled(20)
        assert str(settings.journal) in client.problem
        assert "[token] journal" in client.problem
        settings.journal.unlink()
        assert client.wait_ready(20)
    finally:
        client.stop()


def test_processes_side_by_side_have_journals_of_their_own(settings: TokenSettings) -> None:
    with serving(settings) as first, serving(settings) as second:
        authority = make_authority(first)
        sign(first, authority)
        sign(second, authority)
        assert first.read_journal(position=0, limit=1)[0].journal != second.read_journal(position=0, limit=1)[0].journal
    assert [path.name for path in journal_records.journals(settings.journal)] == ["1", "2"]
    with serving(settings) as again:
        sign(again, authority)
    assert [path.name for path in journal_records.journals(settings.journal)] == ["1", "2"]
    assert len(uses(settings.journal, "sign")) == 3
    assert findings(settings.journal) == []


class TestSegments:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A journal of several segments."""
        folder = tmp_path / "journal"
        journal = Journal(folder, FakeClock(), segment_bytes=1500)
        journal.open()
        for number in range(30):
            journal.record("sign", key="00" * 16, sha256=f"{number:064x}")
            assert journal.commit() is None
        journal.close()
        return folder

    def test_numbers_and_hashes_go_on_over_segments(self, folder: Path) -> None:
        assert len(list(folder.rglob("*.jsonl"))) > 3
        assert findings(folder) == []
        records = records_below(folder)
        assert [one.number for one in records] == list(range(1, len(records) + 1))
        assert len([one for one in records if one.kind == "sign"]) == 30

    @pytest.mark.parametrize("limit", [1, 7, 1000])
    def test_all_of_it_is_read_from_any_place(self, folder: Path, limit: int) -> None:
        records = records_below(folder)
        journal = Journal(folder, FakeClock(), segment_bytes=1500)
        journal.open()
        lines: list[bytes] = []
        while found := journal.read(position=len(lines), limit=limit):
            assert len(found) <= limit
            lines += found
        assert lines == [one.line for one in records]
        for position in (20, 3, 11):
            assert journal.read(position=position, limit=1) == [records[position].line]
        journal.close()

    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            (lambda data: data.replace(b'"kind":"sign"', b'"kind":"sigh"', 1), "is not what was written"),
            (lambda data: data[: len(data) // 2], "its end is not what"),
            (lambda data: b"".join(data.splitlines(keepends=True)[:-1]), "does not follow upon"),
            (lambda data: b"".join(data.splitlines(keepends=True)[1:]), "does not begin with the record of a segment"),
            (lambda data: data + data.splitlines(keepends=True)[-1], "does not follow upon"),
            (lambda data: data + b"x", "its end is not what"),
            (lambda _data: b"", "there is no record in it"),
        ],
    )
    def test_a_changed_segment_is_found(self, folder: Path, change: Callable[[bytes], bytes], finding: str) -> None:
        second = sorted(folder.rglob("*.jsonl"))[1]
        second.write_bytes(change(second.read_bytes()))
        assert any(finding in one for one in findings(folder)), findings(folder)

    def test_swapped_records_are_found(self, folder: Path) -> None:
        second = sorted(folder.rglob("*.jsonl"))[1]
        lines = second.read_bytes().splitlines(keepends=True)
        second.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
        assert len(findings(folder)) >= 2

    @pytest.mark.parametrize("place", [0, 1])
    def test_a_removed_segment_is_found(self, folder: Path, place: int) -> None:
        sorted(folder.rglob("*.jsonl"))[place].unlink()
        assert findings(folder)

    def test_an_end_that_is_cut_off_is_found_by_who_knew_it(self, folder: Path) -> None:
        records = records_below(folder)
        journal_id = records[0].text("journal")
        known = {journal_id: {records[-1].number: records[-1].chain_hash}}
        max(folder.rglob("*.jsonl")).unlink()
        assert findings(folder) == []
        found: list[str] = []
        list(JournalWalk([folder], known, found.append).records())
        assert any("its end was cut off" in one for one in found)

    def test_a_journal_goes_on_behind_a_record_that_was_changed_and_the_change_stays(self, folder: Path) -> None:
        last = max(folder.rglob("*.jsonl"))
        data = last.read_bytes()
        last.write_bytes(data.replace(b'"time":"2030', b'"time":"2031', 1))
        journal = Journal(folder, FakeClock(), segment_bytes=1500)
        with contextlib.suppress(CertdError):
            journal.open()
        journal.close()
        assert findings(folder)

    def test_checkpoints_are_remembered_over_segments_and_processes(self, tmp_path: Path) -> None:
        folder, key_id = tmp_path / "journal", bytes(16)
        said = Checkpoint(installation="i", seq=9, chain_hash=bytes(32), time=FakeClock().now(), journal=None)
        journal = Journal(folder, FakeClock(), segment_bytes=1500)
        journal.open()
        journal.check_checkpoint(key_id, said)
        journal.remember_checkpoint(key_id, said)
        told: dict[str, str | int] = {"key": key_id.hex(), "sequence": said.seq, "chain_hash": said.chain_hash.hex()}
        journal.record("sign", **told)
        for number in range(30):
            journal.record("sign", sha256=f"{number:064x}")
            assert journal.commit() is None
        # The one beside it knows of it too.
        other = Journal(folder, FakeClock())
        other.open()
        journal.close()
        again = Journal(folder, FakeClock(), segment_bytes=1500)
        again.open()
        for one in (other, again):
            one.check_checkpoint(key_id, said)
            one.check_checkpoint(bytes(15) + b"x", replace(said, seq=1))
            for wrong in (replace(said, seq=8), replace(said, chain_hash=b"x" * 32)):
                with pytest.raises(CertdError) as caught:
                    one.check_checkpoint(key_id, wrong)
                assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
            one.close()

    def test_a_checkpoint_that_a_process_beside_it_signs_later_is_remembered_too(self, tmp_path: Path) -> None:
        folder, key_id = tmp_path / "journal", bytes(16)
        said = Checkpoint(installation="i", seq=9, chain_hash=bytes(32), time=FakeClock().now(), journal=None)
        first, second = (Journal(folder, FakeClock()) for _ in range(2))
        for one in (first, second):
            one.open()
        told: dict[str, str | int] = {"key": key_id.hex(), "sequence": said.seq, "chain_hash": said.chain_hash.hex()}
        second.check_checkpoint(key_id, said)
        second.remember_checkpoint(key_id, said)
        second.record("sign", **told)
        assert second.commit() is None
        with pytest.raises(CertdError) as caught:
            first.check_checkpoint(key_id, replace(said, seq=8))
        assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
        first.check_checkpoint(key_id, replace(said, seq=10))
        for one in (first, second):
            one.close()

    def test_a_long_text_is_cut_and_fits(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "journal", FakeClock())
        journal.open()
        journal.record("sign", **{f"name{number}": "\U0001f511" * 5000 for number in range(5)})
        assert journal.commit() is None
        journal.close()
        (record,) = uses(tmp_path)
        assert len(record.line) < journal_records.LONGEST_RECORD
