"""The proof after the rounds: what was answered stands in the books, once, with its event, and nothing else does."""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from certd.clock import SystemClock
from certd.store import events
from certd.store.store import Store
from tests.faults.asking import Ask
from tests.faults.changes import PROFILE_ID, Changes
from tests.system.jobs import at_work, check_planned
from tests.waiting import eventually

Found = Counter[tuple[str, str]]
"""Events by type and last part of the resource."""


class Books:
    """The database of an installation, read while the daemon works."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with sqlite3.connect(f"file:{self._file}?mode=ro", uri=True) as connection:
            rows = connection.execute(query, values).fetchall()
        connection.close()
        return rows

    def check_round(self, asks: Iterable[Ask]) -> None:
        """Waits until nothing is pending; then each request has one certificate, the one that was answered."""
        eventually(lambda: self.read("SELECT count(*) FROM certificates WHERE state = 'PENDING'") == [(0,)], within=60)
        for ask in asks:
            issued = self.read(
                "SELECT der FROM certificates WHERE public_key_sha256 = ? AND state != 'LOST'", ask.public_key_sha256
            )
            assert issued == [(ask.der,)], f"{len(issued)} certificates for one request"

    def audit(self, answers: dict[str, bytes], changes: Changes) -> Found:
        """Checks everything; the daemon must have ended. Returns the events."""
        found = self._events()
        self._audit_certificates(answers, changes, found)
        self._audit_requests(answers)
        self._audit_profile(changes, found)
        assert at_work(self._file) == [], "the daemon ended with work on its hands"
        check_planned(self._file)
        assert self.read("SELECT count(*) FROM wrapping_keys") == [(1,)]
        return found

    def _events(self) -> Found:
        store = Store.open(f"sqlite:///{self._file}", clock=SystemClock())
        try:
            with store.read("audit") as tx:
                assert events.verify_all(tx) == []
                found: Found = Counter()
                after = 0
                while page := events.page(tx, after_seq=after, limit=1000):
                    found.update((row.event.type.value, row.event.resource.rsplit("/", 1)[1]) for row in page)
                    after = page[-1].seq
                assert after == sum(found.values())
        finally:
            store.close()
        return found

    def _audit_certificates(self, answers: dict[str, bytes], changes: Changes, found: Found) -> None:
        rows = self.read("SELECT serial, state, der, revoke_time FROM certificates")
        by_serial = {str(row[0]): row for row in rows}
        assert len(by_serial) == len(rows), "a serial number stands twice"
        assert {row[1] for row in rows} <= {"ISSUED", "LOST", "REVOKED"}
        for name, answered in answers.items():
            expected = "REVOKED" if name in changes.revoked else "ISSUED"
            assert by_serial[_last(name)][1:3] == (expected, answered), name
        for serial, row in by_serial.items():
            _, state, der, revoke_time = row
            assert (der is None) == (state == "LOST"), serial
            assert (revoke_time is not None) == (state != "ISSUED"), "what is lost or revoked has its time"
            told = tuple(found[f"certificate.{kind}", serial] for kind in ("issued", "lost", "revoked"))
            assert told == {"ISSUED": (1, 0, 0), "LOST": (0, 1, 0), "REVOKED": (1, 0, 1)}[str(state)], (serial, told)
        revoked = {str(row[0]) for row in rows if row[1] == "REVOKED"}
        assert revoked == {_last(name) for name in changes.revoked}
        blocked = self.read("SELECT serial, public_key_sha256 FROM blocked_keys ORDER BY serial")
        assert blocked == sorted(
            (_last(name), changes.revoked[name].public_key_sha256) for name in changes.compromised
        ), "the blocked keys are those that were stolen"

    def _audit_requests(self, answers: dict[str, bytes]) -> None:
        """Each request id leads to one certificate that is in the books, and none of them to the same one."""
        issuing = [
            str(row[0]) for row in self.read("SELECT resource FROM request_records WHERE method = 'IssueCertificate'")
        ]
        assert len(set(issuing)) == len(issuing), "two requests have one certificate"
        assert {_last(resource) for resource in issuing} == {_last(name) for name in answers}

    def _audit_profile(self, changes: Changes, found: Found) -> None:
        newest = changes.rounds + 1
        assert self.read("SELECT version FROM profiles WHERE profile_id = ?", PROFILE_ID) == [(newest,)]
        versions = self.read("SELECT version FROM profile_versions WHERE profile_id = ? ORDER BY version", PROFILE_ID)
        assert versions == [(number,) for number in range(1, newest + 1)]
        assert found["profile.created", PROFILE_ID] == 1
        assert found["profile.updated", PROFILE_ID] == changes.rounds
        used = self.read("SELECT DISTINCT profile_version FROM certificates WHERE profile = ?", PROFILE_ID)
        assert {row[0] for row in used} <= set(range(1, newest + 1))


def _last(name: str) -> str:
    return name.rsplit("/", 1)[1]
