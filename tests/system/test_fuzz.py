"""Mutated CSRs and requests through the API of a daemon: the short form of `scripts/bench fuzz`."""

import sys
from pathlib import Path

import pytest

from tests.fuzz.run import fuzz

_SEED = 20261124
_COUNT = 1500


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.timeout(300)
def test_whatever_comes_is_answered_or_refused_by_name_and_what_is_issued_is_right(tmp_path: Path) -> None:
    report = fuzz(tmp_path, count=_COUNT, seed=_SEED, callers=4, sample=_COUNT)
    assert report.wrong == []
    # It was heard: calls were refused for many reasons, others got what they wanted.
    tally, verification = report.tally, report.verification
    assert tally.calls == _COUNT
    assert tally.bent > _COUNT // 10
    reasons = {key.rpartition(" ")[2] for key in tally.reasons}
    assert reasons >= {"OK", "FIELD_INVALID", "CSR_MALFORMED", "CSR_SIGNATURE_INVALID", "KEY_TOO_WEAK"}
    assert reasons >= {"NAME_NOT_ALLOWED", "PROFILE_FORBIDS", "PROFILE_NOT_FOUND", "NAME_CONSTRAINT_VIOLATED"}
    assert verification.certificates == verification.linted_by_pkilint > _COUNT // 20
