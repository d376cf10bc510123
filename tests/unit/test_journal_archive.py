"""Old segments of journals go elsewhere, and stay one journal with those that did not."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certd.backup import journal_archive
from certd.errors import CertdError
from certd.services.journal_verification import JournalWalk
from certd.token.journal import Journal
from tests.fakes import FakeClock

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with a record each hour, some for each of its segments."""
    write(tmp_path / "journal", 40)
    return tmp_path / "journal"


def write(folder: Path, count: int, *, start: datetime = BEGIN) -> None:
    clock = FakeClock(start)
    journal = Journal(folder, clock, segment_bytes=1500)
    journal.open()
    for number in range(count):
        journal.record("sign", key="00" * 16, sha256=f"{number:064x}")
        assert journal.commit() is None
        clock.advance(timedelta(hours=1))
    journal.close()


def walk(*folders: Path, late: bool = False) -> tuple[int, list[str]]:
    """Returns how many records are found, and what is wrong with them."""
    findings: list[str] = []
    walked = JournalWalk(folders, {}, findings.append, may_begin_late=late)
    return len(list(walked.records())), findings


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.jsonl"))


def moved(journal: Path, to: Path, before: datetime) -> list[str]:
    return [one.place.name for one in journal_archive.archive(journal, to, before=before)]


def test_what_is_old_is_moved_and_stays_one_journal(journal: Path, tmp_path: Path) -> None:
    to, before = tmp_path / "far" / "archive", names(journal)
    count, _ = walk(journal)
    gone = moved(journal, to, BEGIN + DAY)
    assert gone == before[: len(gone)]
    assert 0 < len(gone) < len(before)
    assert names(journal) == before[len(gone) :]
    assert names(to) == gone
    assert walk(journal, to) == (count, [])
    assert walk(to, journal) == (count, [])
    assert all(path.stat().st_mode & 0o077 == 0 for path in (to / "1", *to.rglob("*.jsonl")))
    # Nothing else is old, and nothing is moved twice.
    assert moved(journal, to, BEGIN + DAY) == []
    _, (finding,) = walk(journal)
    assert "those before are in none of the folders" in finding
    assert walk(journal, late=True)[1] == []


def test_a_process_goes_on_with_what_is_left_and_the_newest_segment_stays(journal: Path, tmp_path: Path) -> None:
    to = tmp_path / "archive"
    assert moved(journal, to, BEGIN + 1000 * DAY)
    assert len(names(journal)) == 1
    write(journal, 20, start=BEGIN + 2 * DAY)
    assert moved(journal, to, BEGIN + 1000 * DAY)
    assert walk(journal, to)[1] == []


def test_what_was_changed_in_the_archive_is_found(journal: Path, tmp_path: Path) -> None:
    to = tmp_path / "archive"
    first, *_ = moved(journal, to, BEGIN + DAY)
    path = to / "1" / first
    path.write_bytes(path.read_bytes().replace(b'"time":"2030', b'"time":"2031', 1))
    assert walk(journal, to)[1] != []
    path.unlink()
    assert walk(journal, to)[1] != []


def test_what_was_changed_is_not_moved(journal: Path, tmp_path: Path) -> None:
    path = journal / "1" / names(journal)[0]
    path.write_bytes(path.read_bytes().replace(b'"time":"2030', b'"time":"2031', 1))
    with pytest.raises(CertdError, match="was changed"):
        moved(journal, tmp_path / "archive", BEGIN + DAY)
    assert not (tmp_path / "archive").exists()


def test_a_run_that_died_is_gone_on_with(journal: Path, tmp_path: Path) -> None:
    to, first = tmp_path / "archive", names(journal)[0]
    (to / "1").mkdir(parents=True)
    shutil.copy(journal / "1" / first, to / "1" / first)
    (to / "1" / "00000002.jsonl.new").write_bytes(b"half")
    assert moved(journal, to, BEGIN + DAY)[0] == first
    assert walk(journal, to)[1] == []
    assert list(to.rglob("*.new")) == []


def test_an_archive_of_something_else_is_refused(journal: Path, tmp_path: Path) -> None:
    to, first = tmp_path / "archive", names(journal)[0]
    write(tmp_path / "other", 20)
    before = names(journal)
    shutil.copytree(tmp_path / "other", to)
    with pytest.raises(CertdError, match="has another journal"):
        moved(journal, to, BEGIN + DAY)
    shutil.rmtree(to)
    (to / "1").mkdir(parents=True)
    whole = (journal / "1" / first).read_bytes()
    (to / "1" / first).write_bytes(whole[: whole.index(b"\n") + 1])
    with pytest.raises(CertdError, match="is not what"):
        moved(journal, to, BEGIN + DAY)
    with pytest.raises(CertdError, match="lies in the folder"):
        moved(journal, journal / "archive", BEGIN + DAY)
    assert names(journal) == before
