"""kill -9 of the daemon and of the token process at every numbered step, and at random under load: the short form."""

import random
import sys

import pytest

from tests.daemon import Installation
from tests.faults.rounds import DAEMON, STEPS, TOKEN, Death, Rounds, random_death

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the token process in /proc")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [DAEMON, TOKEN])
def test_no_death_at_any_step_loses_or_doubles_anything(installation: Installation, victim: str) -> None:
    with Rounds(installation) as rounds:
        for step in STEPS:
            rounds.round(Death(victim, step, 2 if step.startswith("issue") else 1))
        rounds.stop()
    tally = rounds.tally
    assert tally.rounds == len(STEPS)
    assert len(tally.answers) == len(tally.asks)
    # The deaths were real: callers were told, and rows between intent and completion were lost.
    assert sum(tally.failures.values()) > 0
    assert tally.lost > 0


@pytest.mark.timeout(600)
def test_random_deaths_under_load_lose_and_double_nothing(installation: Installation) -> None:
    source = random.Random(20261124)
    with Rounds(installation) as rounds:
        for _ in range(6):
            rounds.round(random_death(source))
        rounds.stop()
    assert len(rounds.tally.answers) == len(rounds.tally.asks)
