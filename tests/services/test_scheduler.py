"""The scheduler: it goes on after whatever fails, and ends when it is told to."""

import logging

import pytest
from sqlalchemy import text

from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ManagedCertificateName
from certd.scheduler import WORKERS
from tests.services.conftest import ADMINISTRATOR, World
from tests.waiting import eventually

WEB = ManagedCertificateName("default", "web")


def test_claims_that_fail_cost_no_workers(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """More claims fail than there are workers, as on a full disk; then all goes on."""
    world.create_root()
    scheduler = world.core.scheduler
    refuse = text("CREATE TRIGGER refuse BEFORE UPDATE ON jobs BEGIN SELECT RAISE(ABORT, 'refused'); END")
    world.core.store.write("test.refuse", lambda tx: tx.execute(refuse))

    def failures() -> int:
        scheduler.wake()
        return sum(record.getMessage().startswith("the scheduler failed") for record in caplog.records)

    with caplog.at_level(logging.ERROR, logger="certd.scheduler"):
        world.request("web", authority=AuthorityName("default", "root"))
        eventually(lambda: failures() > WORKERS)
    world.core.store.write("test.allow", lambda tx: tx.execute(text("DROP TRIGGER refuse")))

    def active() -> bool:
        scheduler.wake()
        view = world.core.managed_certificates.get(ADMINISTRATOR, WEB)
        return view.state is ManagedCertificateState.ACTIVE

    eventually(active)
