"""The jobs of a daemon, read past it: which are at work or due, and whether every renewal has the one that it needs."""

import time
from datetime import timedelta
from pathlib import Path

from tests.system.books import rows
from tests.waiting import eventually

_ADVANCE = "advance-managed-certificate"
_CHECK = "check-deployment"
_SECOND = 1_000_000


_BY_ITSELF = "('generate-revocation-list', 'advance-ocsp-responder', 'sign-checkpoint')"
"""Kinds of jobs that there are as long as there are authorities, and events."""


def at_work(database: Path, *, within: timedelta = timedelta(0)) -> list[tuple[str, str]]:
    """Returns kind and subject of the jobs that somebody has claimed, or that are due, now or within some time.

    A managed certificate that will be renewed has a job for as long as it is there; one that waits changes nothing.
    Checkpoints do not count: there is one for whatever happened.
    """
    until = int((time.time() + within.total_seconds()) * _SECOND)
    statement = (
        "SELECT kind, subject FROM jobs WHERE kind != 'sign-checkpoint'"
        " AND (owner_epoch IS NOT NULL OR available_time <= ?) ORDER BY 1, 2"
    )
    return rows(database, statement, [until])


def finished(database: Path) -> None:
    """Waits until nobody is at work, nor will be in the time that it takes to stop a daemon."""
    eventually(lambda: not at_work(database, within=timedelta(seconds=30)), within=180, pause=0.2)


def check_planned(database: Path) -> None:
    """Every managed certificate that an authority issues has one job, in its renewal window.

    There is no other, but one for each managed certificate whose consumers are to be looked after later.
    For a daemon without work, whose managed certificates are all ACTIVE and renewed by the default policy.
    """
    planned = rows(
        database,
        "SELECT m.managed_certificate_id, m.state, m.renewal, m.next_attempt_time, m.renewal_window_start, "
        "m.renewal_window_end, j.due_time, j.available_time, j.owner_epoch FROM managed_certificates m "
        "LEFT JOIN jobs j ON j.kind = ? AND j.subject = m.uid WHERE m.type = 'PRIVATE'",
        [_ADVANCE],
    )
    for managed, state, renewal, planned_time, start, end, due, available, owner in planned:
        assert (state, renewal) == ("ACTIVE", "{}"), managed
        assert due is not None, f"nobody will renew {managed}"
        assert (due, available, owner) == (planned_time, planned_time, None), managed
        assert start <= due <= end, f"{managed} is renewed outside of its window"
    others = f"kind NOT IN {_BY_ITSELF} AND (kind != ? OR subject NOT IN (SELECT uid FROM managed_certificates))"
    counted = rows(database, f"SELECT count(*) FROM jobs WHERE {others}", [_CHECK])
    assert counted == [(len(planned),)], "there are jobs for nobody"
