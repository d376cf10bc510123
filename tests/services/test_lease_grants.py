"""What a grant of the role consumer must hold: the association, or what it belongs to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.errors import Reason
from certd.model.access import Role
from certd.model.association import DeploymentState
from certd.model.names import TenantName
from certd.services.leases import GivenDeployment
from certd.token.settings import TokenSettings
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import (
    active,
    associate,
    association_name,
    attempt,
    consumer,
    give,
    lease,
    leasing_world,
    refusal,
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


def test_a_consumer_knows_the_roots_of_the_tenant_that_it_is_associated_in(leasing: World) -> None:
    machine = consumer(leasing, scope=str(association_name()))
    tenant = TenantName("default")
    refused = refusal(lambda: leasing.core.server.trust_bundle(machine.caller, tenant))
    assert refused.reason is Reason.PERMISSION_MISSING
    associate(leasing, machine)
    roots = leasing.core.server.trust_bundle(machine.caller, tenant).tenant_roots
    assert roots == leasing.core.server.trust_bundle(ADMINISTRATOR, tenant).tenant_roots
    assert len(roots) == 1
    elsewhere = refusal(lambda: leasing.core.server.trust_bundle(machine.caller, TenantName("elsewhere")))
    assert elsewhere.reason is Reason.PERMISSION_MISSING
