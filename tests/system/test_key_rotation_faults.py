"""kill -9 of the daemon and of the token process at every step of the preparation of a key."""

import sys

import pytest

from tests.daemon import Installation
from tests.faults.key_rotations import STEPS, KeyRotations
from tests.faults.served import DAEMON, TOKEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", [DAEMON, TOKEN])
def test_no_death_at_any_step_leaves_half_a_key_or_makes_two(installation: Installation, victim: str) -> None:
    with KeyRotations(installation) as rotations:
        for step in STEPS:
            rotations.round(victim, step)
        rotations.stop()
