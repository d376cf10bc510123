"""What `certd doctor` prints of its findings."""

import json

import pytest

from certd.cli.doctor import tell
from certd.doctor.findings import Finding, Severity, error, info

_FOUND = [
    *(error("missing-keys", f"the token lacks {name}", why="out of reach", remedy="restore") for name in "abc"),
    info("daemon", "no daemon runs", why="nobody is served", remedy="start it"),
    error("missing-keys", "the token lacks d", why="out of reach", remedy="restore"),
]


def test_why_and_remedy_are_told_once_for_those_in_a_row_that_have_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(_FOUND, as_json=False) == {Severity.ERROR: 4, Severity.INFO: 1}
    why, remedy = "  why: out of reach", "  remedy: restore"
    assert capsys.readouterr().out.splitlines() == [
        *(f"ERROR missing-keys: the token lacks {name}" for name in "abc"),
        *(why, remedy),
        *("INFO daemon: no daemon runs", "  why: nobody is served", "  remedy: start it"),
        *("ERROR missing-keys: the token lacks d", why, remedy),
    ]


def test_in_json_each_finding_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    tell(_FOUND, as_json=True)
    assert [Finding(**json.loads(line)) for line in capsys.readouterr().out.splitlines()] == _FOUND
