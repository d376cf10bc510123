"""Mutated requests to the public HTTP port of a daemon: the short form of what `scripts/bench fuzz` does there."""

import sys
from pathlib import Path

import pytest

from tests.fuzz.public import ENDPOINTS
from tests.fuzz.public_run import fuzz_of_strangers

_SEED = 20261130
_COUNT = 500


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.timeout(300)
def test_whatever_strangers_send_is_answered_or_refused(tmp_path: Path) -> None:
    report = fuzz_of_strangers(tmp_path, count=_COUNT, seed=_SEED, callers=4)
    assert report.wrong == []
    # It was heard: some got what they wanted, others were refused in every way.
    outcomes = set(report.tally.statuses)
    assert report.tally.calls == _COUNT * len(ENDPOINTS)
    assert outcomes >= {"post 200 SUCCESSFUL", "post 200 MALFORMED_REQUEST", "post 200 UNAUTHORIZED", "post 413"}
    assert outcomes >= {"get 200 SUCCESSFUL", "get 200 MALFORMED_REQUEST", "crl 200", "ca 200", "crl 404", "ca 404"}
    assert outcomes >= {"device 400", "device 401"}
