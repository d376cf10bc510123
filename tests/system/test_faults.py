"""kill -9 of the daemon and its children at every numbered step, and at random under load: the short form."""

import random
import sys

import pytest

from tests.daemon import Installation
from tests.faults.rounds import CALLERS, CERTIFICATES_PER_CALLER, STEPS, Death, Rounds, random_death
from tests.faults.served import DAEMON, PREPARE, TOKEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")


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
    assert tally.revoked == len(STEPS)


@pytest.mark.timeout(600)
def test_no_death_of_the_prepare_processes_loses_or_doubles_anything(installation: Installation) -> None:
    """They hold nothing: who waits for one is told to try again, and nothing is lost."""
    middle = CALLERS * CERTIFICATES_PER_CALLER // 2
    deaths = [
        Death(PREPARE, "issue.1.read", 2),
        Death(PREPARE, "issue.2.prepared", 3),
        Death(PREPARE, "managed.3.key-sealed"),
        Death(PREPARE, "authority.2.key-made"),
        *(Death(PREPARE, after_answers=answers) for answers in (0, 1, middle)),
    ]
    with Rounds(installation) as rounds:
        for death in deaths:
            rounds.round(death)
        rounds.stop()
    tally = rounds.tally
    assert len(tally.answers) == len(tally.asks)
    assert tally.failures["PREPARATION_UNAVAILABLE"] > 0
    assert tally.lost == 0


@pytest.mark.timeout(600)
def test_random_deaths_under_load_lose_and_double_nothing(installation: Installation) -> None:
    source = random.Random(20261124)
    with Rounds(installation) as rounds:
        for _ in range(6):
            rounds.round(random_death(source))
        rounds.stop()
    assert len(rounds.tally.answers) == len(rounds.tally.asks)
