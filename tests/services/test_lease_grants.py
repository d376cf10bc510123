"""What a grant of the role consumer must hold: the association, or what it belongs to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.errors import Reason
from certd.model.access import Role
from certd.model.association import DeploymentState
from certd.services.leases import GivenDeployment
from certd.token.settings import TokenSettings
from tests.services.conftest import World
from tests.services.consumers import (
    active,
    associate,
    association_name,
    attempt,
    consumer,
    give,
    lease,
    leasing_world,
    signed_request,
)


@pytest.fixture
def leasing(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    with leasing_world(tmp_path, token_settings) as world:
        active(world)
        yield world


def test_the_association_alone_suffices(leasing: World) -> None:
    machine = consumer(leasing, scope=str(association_name()))
    view = associate(leasing, machine)
    lease(leasing, machine, view)
    assert leasing.core.associations.get(machine.caller, view.association.name).association.leased_version == 1
    given = GivenDeployment(state=DeploymentState.SERVING, version=1)
    assert leasing.core.leases.report(machine.caller, view.association.name, given).association.deployment is not None


def test_another_association_does_not(leasing: World) -> None:
    machine = consumer(leasing, role=None)
    give(leasing, machine.spiffe_id, Role.CONSUMER, str(association_name("another")))
    view = associate(leasing, machine)
    error = attempt(leasing, machine, view.association.name, signed_request(machine, view))
    assert error.reason is Reason.PERMISSION_MISSING
