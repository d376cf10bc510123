"""`certd audit verify` on what a real server wrote, as it is and as somebody changed it."""

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from certd.cli.server import main
from certd.token import journal_records
from tests.daemon import Installation, installed, run_program, running
from tests.services.conftest import csr_for

_Change = Callable[["Copy"], None]


class Copy:
    """Database and journals of a server, to be changed."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "certd.db"
        self.journal = folder / "token-journal"
        for file in installation.data.glob("certd.db*"):
            shutil.copy(file, folder / file.name)
        shutil.copytree(installation.data / "token-journal", self.journal)
        text = installation.config.read_text()
        text = text.replace(str(installation.data / "certd.db"), str(self.database))
        self.config = folder / "certd.toml"
        self.config.write_text(text)

    def sql(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            for statement in statements:
                assert connection.execute(statement).rowcount, statement

    @property
    def segment(self) -> Path:
        """The file of the journal that has most."""
        return max(self.journal.rglob("*.jsonl"), key=lambda path: path.stat().st_size)

    def lines(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        self.segment.write_bytes(b"".join(change(self.segment.read_bytes().splitlines(keepends=True))))

    def verify(self, *options: str | Path) -> Result:
        arguments = ("audit", "verify", "--config", self.config, "--journal", self.journal, *options)
        return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A server that issued, revoked, signed checkpoints, was killed and served again."""
    folder = tmp_path_factory.mktemp("served")
    installation = installed(folder)
    text = installation.config.read_text()
    kept = installation.data / "kept.jsonl"
    assert "# checkpoint_file =" in text
    lines = [f'checkpoint_file = "{kept}"' if "# checkpoint_file" in line else line for line in text.splitlines()]
    installation.config.write_text("\n".join(lines))
    (folder / "request.der").write_bytes(csr_for("www.example.internal"))
    with running(installation) as daemon:

        def certctl(*words: str | Path) -> str:
            ended = daemon.certctl(*words)
            assert ended.returncode == 0, ended.stderr
            return ended.stdout

        certctl("authority", "create", "root", "--type", "root", "--subject", "CN=Root")
        certctl("authority", "create", "ca", "--type", "subordinate", "--issuer", "root", "--subject", "CN=CA")
        issued = [
            json.loads(
                certctl("certificate", "issue", "--authority", "ca", "--csr", folder / "request.der", "-o", "json")
            )
            for _ in range(4)
        ]
        certctl("certificate", "revoke", issued[0]["name"], "--reason", "superseded")
        certctl("managed", "request", "web", "--authority", "ca", "--dns", "web.example.internal")
        (folder / "first.jsonl").write_text(certctl("event", "checkpoint", "-o", "json"))
        for form in ("csv", "json"):
            certctl("authority", "audit-report", "ca", "--format", form, "--out", folder / f"report.{form}")
        assert (
            "records are in"
            in daemon.certctl("authority", "audit-report", "root", "--out", folder / "root.json").stderr
        )
        daemon.kill()
    with running(installation) as daemon:
        certctl("certificate", "issue", "--authority", "ca", "--csr", folder / "request.der")
        ended = run_program("certd", "audit", "verify", "--config", installation.config)
        (folder / "beside.txt").write_text(ended.stdout)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return installation


@pytest.fixture
def copy(served: Installation, tmp_path: Path) -> Copy:
    return Copy(served, tmp_path)


def folder_of(served: Installation) -> Path:
    return served.data.parent


def test_what_was_not_changed_fits_together(copy: Copy, served: Installation) -> None:
    ended = copy.verify("--checkpoint", folder_of(served) / "first.jsonl", "--checkpoint", served.data / "kept.jsonl")
    assert ended.exit_code == 0, ended.output
    (line,) = ended.stdout.splitlines()
    assert line.endswith("they fit together")


def test_it_runs_beside_the_daemon(served: Installation) -> None:
    assert (folder_of(served) / "beside.txt").read_text().endswith("they fit together\n")


CHANGES: dict[str, tuple[_Change, str]] = {
    "an event": (lambda copy: copy.sql("UPDATE events SET principal = 'x' WHERE seq = 9"), "event 9: "),
    "a removed event": (lambda copy: copy.sql("DELETE FROM events WHERE seq = 9"), "event 10 follows event 8"),
    "the last events": (
        lambda copy: copy.sql(
            "DELETE FROM events WHERE seq > 9",
            "UPDATE event_sequence SET last_seq = 9, last_hash = (SELECT chain_hash FROM events WHERE seq = 9)",
        ),
        "events were removed",
    ),
    "a certificate": (
        lambda copy: copy.sql(
            "UPDATE certificates SET der = (SELECT other.der FROM certificates AS other"
            " WHERE other.serial <> certificates.serial AND other.profile = 'end-entity' LIMIT 1)"
            " WHERE serial = (SELECT max(serial) FROM certificates WHERE profile = 'end-entity' AND state = 'ISSUED')"
        ),
        "its certificate has another serial number",
    ),
    "a certificate that is none": (
        lambda copy: copy.sql(
            "UPDATE certificates SET der = x'00' WHERE serial ="
            " (SELECT max(serial) FROM certificates WHERE state = 'ISSUED')"
        ),
        "its certificate was changed",
    ),
    "a removed certificate": (
        lambda copy: copy.sql(
            "DELETE FROM certificates WHERE serial = (SELECT max(serial) FROM certificates"
            " WHERE state = 'ISSUED' AND profile = 'end-entity')"
        ),
        "the books know nothing of what",
    ),
    "a revocation": (
        lambda copy: copy.sql("UPDATE certificates SET state = 'ISSUED' WHERE state = 'REVOKED'"),
        "it is not revoked, and event",
    ),
    "a checkpoint": (
        lambda copy: copy.sql("UPDATE checkpoints SET signature = x'3006020101020101'"),
        "its statement or its signature was changed",
    ),
    "a record": (
        lambda copy: copy.lines(lambda lines: [*lines[:-2], lines[-2].replace(b'"time":"2', b'"time":"1'), lines[-1]]),
        "is not what was written",
    ),
    "a removed record": (lambda copy: copy.lines(lambda lines: [*lines[:-3], *lines[-2:]]), "one was changed, removed"),
    "swapped records": (
        lambda copy: copy.lines(lambda lines: [*lines[:-3], lines[-2], lines[-3], lines[-1]]),
        "changed, removed or moved",
    ),
    "the end of the journal": (lambda copy: copy.lines(lambda lines: lines[:3]), "its end was cut off"),
    "something between records": (
        lambda copy: copy.lines(lambda lines: [*lines[:-1], b"nothing\n", lines[-1]]),
        "are no record",
    ),
    "no journal": (lambda copy: copy.segment.unlink(), "it is in none of the folders"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_found(copy: Copy, change: str) -> None:
    apply, finding = CHANGES[change]
    apply(copy)
    ended = copy.verify()
    assert ended.exit_code == 1, ended.output
    assert finding in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith("findings")


def test_a_record_written_anew_as_a_whole_is_found_by_what_was_kept_elsewhere(copy: Copy, served: Installation) -> None:
    kept = folder_of(served) / "first.jsonl"
    copy.sql("DELETE FROM events", "DELETE FROM checkpoints")
    copy.sql("UPDATE event_sequence SET last_seq = 0, last_hash = zeroblob(32)")
    assert "removed" in copy.verify("--checkpoint", kept).stdout


def test_a_signature_of_which_the_books_never_knew_is_found(copy: Copy) -> None:
    """Somebody who is in the daemon has a certificate signed and keeps it to themselves; the token tells."""
    lines = copy.segment.read_bytes().splitlines(keepends=True)
    last = journal_records.parse(lines[-1])
    assert last is not None
    signed = next(one for one in map(journal_records.parse, lines) if one and one.text("signed") == "CERTIFICATE")
    fields = {**signed.fields, "sha256": "ab" * 32}
    for name in ("number", "time", "kind"):
        del fields[name]
    line, _ = journal_records.encode(last.number + 1, datetime.now(UTC), "sign", fields, last.chain_hash)
    copy.lines(lambda lines: [*lines, line])
    ended = copy.verify()
    assert ended.exit_code == 1
    assert ended.stdout.count("the books know nothing of what") == 1


def test_what_is_young_is_not_archived(copy: Copy, tmp_path: Path) -> None:
    lines = copy.config.read_text().splitlines()
    lines.insert(lines.index("[token]") + 1, f'journal = "{copy.journal}"')
    copy.config.write_text("\n".join(lines))
    arguments = ("audit", "archive", tmp_path / "archive", "--older-than", 1, "--config", copy.config)
    ended = CliRunner().invoke(main, [str(one) for one in arguments])
    assert (ended.exit_code, ended.stdout) == (0, "0 segments were moved\n"), ended.output
    assert copy.verify().exit_code == 0


def test_files_that_are_no_checkpoints_are_refused(copy: Copy, tmp_path: Path, served: Installation) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"statement": "certd checkpoint v2"}\n')
    ended = copy.verify("--checkpoint", wrong)
    assert ended.exit_code == 1
    assert "line 1 is no checkpoint" in ended.stderr
    forged = json.loads((folder_of(served) / "first.jsonl").read_text())
    forged["signature"] = "MAYCAQECAQE="
    wrong.write_text(json.dumps(forged))
    assert "the signature is not one of the key" in copy.verify("--checkpoint", wrong).stderr


def test_a_report_has_every_certificate_of_the_authority(served: Installation) -> None:
    folder = folder_of(served)
    with (folder / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    told = [json.loads(line) for line in (folder / "report.json").read_text().splitlines()]
    assert [row["serial"] for row in rows] == [row["serial"] for row in told]
    assert len(rows) == 5
    assert [row["reason"] for row in rows].count("superseded") == 1
    assert all(row["requester"] for row in rows)
