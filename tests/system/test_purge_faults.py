"""kill -9 of the daemon and of the token process at every step of a purge."""

import sys

import pytest

from tests.daemon import Installation
from tests.faults.purges import STEPS, Purges
from tests.faults.served import DAEMON, TOKEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", [DAEMON, TOKEN])
def test_no_death_at_any_step_of_a_purge_leaves_a_key_or_takes_a_crl(installation: Installation, victim: str) -> None:
    with Purges(installation) as purges:
        for step in STEPS:
            purges.round(victim, step)
        purges.stop()
    assert purges.purged == len(STEPS)
