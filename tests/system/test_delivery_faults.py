"""kill -9 of the daemon, of the receiver of webhooks and of the mail server: each event once at least, in order."""

import random
import sys

import pytest

from tests.daemon import Installation
from tests.faults.deliveries import STEPS, DeliveriesUnderFire
from tests.faults.receiver import MAIL, WEBHOOK
from tests.faults.served import DAEMON

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")


@pytest.mark.timeout(300)
def test_no_death_loses_an_event_or_its_place(installation: Installation) -> None:
    with DeliveriesUnderFire(installation, source=random.Random(20261130)) as deliveries:
        for victim, step in ((DAEMON, STEPS[0]), (WEBHOOK, ""), (MAIL, ""), (DAEMON, STEPS[1])):
            deliveries.round(victim, step)
        deliveries.stop()
    tally = deliveries.tally
    assert tally.events >= 4 * 32
    # A daemon that dies between the answer and its commit sends that event again.
    assert sum(tally.repeated.values()) > 0
