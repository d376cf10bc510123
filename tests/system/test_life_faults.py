"""kill -9 of the daemon and of the token process at every step of renewals, imports, associations and leases."""

import sys

import pytest

from tests.daemon import Installation
from tests.faults.lives import STEPS, Lives
from tests.faults.served import DAEMON, PREPARE, TOKEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [DAEMON, TOKEN])
def test_no_death_at_any_step_loses_or_doubles_a_version_an_import_or_an_association(
    installation: Installation, victim: str
) -> None:
    with Lives(installation, certificates=4) as lives:
        for step in STEPS:
            lives.round(victim, step)
        lives.stop()
    assert lives.expected.renewals == len(STEPS)
    # The deaths were real: callers were told, and certificates between intent and completion were lost.
    assert sum(lives.failures.values()) > 0
    assert lives.tally.lost > 0


@pytest.mark.timeout(300)
def test_no_death_of_the_prepare_processes_keeps_anything_from_being_renewed(installation: Installation) -> None:
    """They hold nothing: what waits for one is prepared anew, and nothing is lost."""
    with Lives(installation, certificates=2) as lives:
        for step in ("renew.1.committed", "renewal.2.key-sealed", "renewal.3.planned", "issue.2.prepared"):
            lives.round(PREPARE, step)
        lives.stop()
    assert lives.tally.lost == 0
