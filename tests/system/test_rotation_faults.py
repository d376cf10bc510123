"""kill -9 of the daemon and of the token process at every step of a rotation, and of a destruction after it."""

import sys

import pytest

from tests.daemon import Installation
from tests.faults.rotations import STEPS, Rotations
from tests.faults.served import DAEMON, TOKEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [DAEMON, TOKEN])
def test_no_death_at_any_step_of_a_rotation_leaves_a_key_that_does_not_open(
    installation: Installation, victim: str
) -> None:
    with Rotations(installation, certificates=12) as rotations:
        for step in STEPS:
            rotations.round(victim, step)
        rotations.stop()
    assert rotations.number == len(STEPS) + 1
