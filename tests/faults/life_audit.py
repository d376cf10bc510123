"""The proof of the lives: what must be so at every moment, whatever has died, and what came of all that was asked."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certd.clock import SystemClock
from certd.store import events
from certd.store.store import Store
from tests.system.books import rows
from tests.system.jobs import at_work, check_planned

Found = Counter[tuple[str, str]]
"""Events by type and resource."""
_PARENT = "tenants/default/managedCertificates/"
_VERSIONS = "(SELECT count(*) FROM managed_certificate_versions v WHERE v.managed_certificate_uid = m.uid)"
_ISSUED = (
    "(SELECT count(*) FROM managed_certificate_versions v WHERE v.managed_certificate_uid = m.uid "
    "AND v.serial IS NOT NULL)"
)
_KEYS = "(SELECT count(*) FROM sealed_keys s WHERE s.managed_certificate_uid = m.uid)"
_ASSOCIATIONS = "(SELECT count(*) FROM associations a WHERE a.managed_certificate_uid = m.uid)"
# Those of its renewals; beside them its consumers may be looked after.
_JOBS = "(SELECT count(*) FROM jobs j WHERE j.subject = m.uid AND j.kind = 'advance-managed-certificate')"
_CERTIFICATES = "(SELECT count(*) FROM certificates c WHERE c.managed_certificate_uid = m.uid AND c.state = 'ISSUED')"


_ITS_CERTIFICATE = "JOIN certificates c ON c.authority_uid = v.authority_uid AND c.serial = v.serial"
_OTHER_CERTIFICATES = (
    "JOIN certificates c ON c.managed_certificate_uid = m.uid AND c.managed_certificate_version = v.number "
    "AND c.serial != v.serial"
)


def _events(*types: str) -> str:
    told = ", ".join(f"'{one}'" for one in types)
    return f"(SELECT count(*) FROM events e WHERE e.type IN ({told}) AND json_extract(e.details, '$.uid') = m.uid)"


_RENEWED = _events("managed-certificate.renewed")
_NEVER = {
    "an import is there in part": (
        f"type = 'IMPORTED' AND NOT ({_VERSIONS} = {_KEYS} AND {_VERSIONS} = "
        f"{_events('managed-certificate.imported', 'managed-certificate.re-imported')} "
        f"AND current_version BETWEEN 1 AND {_VERSIONS} AND {_JOBS} = 0)"
    ),
    "a version has no key, or a key no version": f"{_VERSIONS} != {_KEYS}",
    "a version is not the one after the last": (
        f"type = 'PRIVATE' AND NOT ({_ISSUED} = current_version AND {_VERSIONS} <= current_version + 1)"
    ),
    "a version has no certificate, or two": f"type = 'PRIVATE' AND {_CERTIFICATES} != current_version",
    "a renewal is not told of, or twice": f"type = 'PRIVATE' AND {_RENEWED} != max(current_version - 1, 0)",
    "a renewal was made that nobody asked for": (
        f"type = 'PRIVATE' AND {_events('managed-certificate.renewal-requested')} - {_RENEWED} != "
        "(forced_version > 0 AND forced_version = current_version)"
    ),
    "a key is kept for too long, or not for long enough": (
        "EXISTS (SELECT 1 FROM sealed_keys s WHERE s.managed_certificate_uid = m.uid AND (s.expire_time IS NULL) != "
        "(s.version = m.current_version OR (m.type = 'PRIVATE' AND s.version > m.current_version)))"
    ),
    "a managed certificate has no job": f"type = 'PRIVATE' AND {_JOBS} != 1",
    "associations are miscounted": (
        f"NOT ({_ASSOCIATIONS} = association_count AND {_ASSOCIATIONS} = {_events('association.created')} - "
        f"{_events('association.deleted')})"
    ),
    "an association has no key": (
        "EXISTS (SELECT 1 FROM associations a WHERE a.managed_certificate_uid = m.uid AND NOT EXISTS (SELECT 1 FROM "
        "association_keys k WHERE k.managed_certificate_uid = m.uid AND k.association_id = a.association_id))"
    ),
    "a lease is not told of": (
        "EXISTS (SELECT 1 FROM associations a WHERE a.managed_certificate_uid = m.uid AND a.leased_version > 0 AND "
        "NOT EXISTS (SELECT 1 FROM association_keys k WHERE k.managed_certificate_uid = m.uid AND "
        "k.association_id = a.association_id AND k.version = a.leased_version))"
    ),
}
"""What is never so of a managed certificate, between any two commits."""


@dataclass(slots=True)
class Expected:
    """What was asked for and answered."""

    managed: list[str]
    """Ids of those that an authority issues."""
    renewals: int = 0
    """Of each."""
    current: dict[str, int] = field(default_factory=dict)
    """The current version of each managed certificate."""
    imported: dict[str, list[bytes]] = field(default_factory=dict)
    """DER of the versions of each imported one."""
    deleted: list[str] = field(default_factory=list)
    """Ids of what was imported and is there no more."""
    roll_backs: int = 0
    rotations: int = 0
    """Of the wrapping key."""
    associations: dict[str, bool] = field(default_factory=dict)
    """Names of all that were made, and whether they are there still."""
    leases: int = 0
    """That were answered."""
    _opened: dict[tuple[str, int], tuple[bytes, bytes]] = field(default_factory=dict)

    def versions(self) -> Iterator[tuple[str, int]]:
        """Yields every version of every managed certificate."""
        for managed in self.managed:
            yield from ((managed, number + 1) for number in range(1 + self.renewals))
        for managed, made in self.imported.items():
            yield from ((managed, number + 1) for number in range(len(made)))

    def opened(self, managed: str, version: int, certificate: bytes, key: bytes) -> bytes:
        """Takes what a version was exported as, and returns its key: it is the same every time."""
        assert self._opened.setdefault((managed, version), (certificate, key)) == (certificate, key), (managed, version)
        return key

    def certificate(self, managed: str, version: int) -> bytes:
        """Returns what was exported as the certificate of a version."""
        return self._opened[managed, version][0]


class LifeBooks:
    """The database of an installation whose managed certificates live."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def check(self) -> None:
        """Checks, in one moment, what holds in every one."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=20)) as connection:
            connection.execute("BEGIN")
            for what, condition in _NEVER.items():
                query = f"SELECT m.managed_certificate_id FROM managed_certificates m WHERE {condition}"
                found = connection.execute(query).fetchall()
                assert not found, f"{what}: {found}"

    def audit(self, expected: Expected) -> int:
        """Checks everything; the daemon must have ended. Returns how many certificates of renewals were lost."""
        self.check()
        assert at_work(self._file) == [], "the daemon ended with work on its hands"
        check_planned(self._file)
        found = self._events()
        self._audit_managed(expected, found)
        self._audit_imported(expected, found)
        for name, there in expected.associations.items():
            assert found["association.created", name] == 1, name
            assert found["association.deleted", name] == (not there), name
        assert _count(found, "managed-certificate.leased") >= expected.leases, "a lease without its event"
        sealing = expected.rotations + 1
        for table in ("sealed_keys", "association_keys", "managed_certificate_versions"):
            assert rows(self._file, f"SELECT DISTINCT wrapping_key_number FROM {table}") == [(sealing,)], table
        assert _count(found, "wrapping-key.rotated") == _count(found, "wrapping-key.retired") == expected.rotations
        return self._audit_certificates(expected)

    def _events(self) -> Found:
        store = Store.open(f"sqlite:///{self._file}", clock=SystemClock())
        found: Found = Counter()
        try:
            with store.read("audit") as tx:
                assert events.verify_all(tx) == []
                after = 0
                while page := events.page(tx, after_seq=after, limit=1000):
                    found.update((row.event.type.value, row.event.resource) for row in page)
                    after = page[-1].seq
        finally:
            store.close()
        return found

    def _audit_managed(self, expected: Expected, found: Found) -> None:
        """Each has one version for its request and one for each renewal, and an event for each step of them."""
        for managed in expected.managed:
            name, last = _PARENT + managed, 1 + expected.renewals
            assert self._numbers(managed) == (last, list(range(1, last + 1)))
            for kind in ("renewal-requested", "updated"):
                assert found[f"managed-certificate.{kind}", name] == expected.renewals, (managed, kind)
            for number in range(1, last + 1):
                version = f"{name}/versions/{number}"
                assert found["managed-certificate.key-generated", version] == 1, version
                assert found["managed-certificate.issued", version] == (number == 1), version
                assert found["managed-certificate.renewed", version] == (number > 1), version

    def _audit_imported(self, expected: Expected, found: Found) -> None:
        for managed, made in expected.imported.items():
            assert self._numbers(managed) == (expected.current[managed], list(range(1, len(made) + 1)))
            assert self._rows(managed, "v.certificate") == [(der,) for der in made], managed
            for number, der in enumerate(made, start=1):
                assert expected.certificate(managed, number) == der
                version = f"{_PARENT}{managed}/versions/{number}"
                assert found["managed-certificate.imported", version] == (number == 1), version
                assert found["managed-certificate.re-imported", version] == (number > 1), version
        there = rows(self._file, "SELECT managed_certificate_id FROM managed_certificates WHERE type = 'IMPORTED'")
        assert {managed for (managed,) in there} == expected.imported.keys()
        assert _count(found, "managed-certificate.rolled-back") == expected.roll_backs
        for managed in expected.deleted:
            assert found["managed-certificate.deleted", _PARENT + managed] == 1, managed

    def _audit_certificates(self, expected: Expected) -> int:
        """The certificate of each version is in the books as it was exported; any other was lost, and is revoked."""
        lost = 0
        for managed in expected.managed:
            versions = range(1, expected.renewals + 2)
            assert self._rows(managed, "v.number, c.state, c.der, c.revoke_time", _ITS_CERTIFICATE) == [
                (number, "ISSUED", expected.certificate(managed, number), None) for number in versions
            ]
            others = self._rows(managed, "c.state, c.der, c.revoke_time IS NOT NULL", _OTHER_CERTIFICATES)
            assert others == [("LOST", None, 1)] * len(others), managed
            lost += len(others)
        return lost

    def _numbers(self, managed: str) -> tuple[int, list[int]]:
        """Returns the number of the current version, and those of all."""
        found = self._rows(managed, "m.current_version, v.number")
        return found[0][0], [number for _, number in found]

    def _rows(self, managed: str, columns: str, more: str = "") -> list[tuple[Any, ...]]:
        """Returns columns of the versions of a managed certificate, or of what is joined with each."""
        return rows(
            self._file,
            f"SELECT {columns} FROM managed_certificates m "
            f"JOIN managed_certificate_versions v ON v.managed_certificate_uid = m.uid {more} "
            "WHERE m.managed_certificate_id = ? ORDER BY v.number",
            [managed],
        )


def _count(found: Found, kind: str) -> int:
    return sum(count for (type_, _), count in found.items() if type_ == kind)
