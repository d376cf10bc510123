"""The way back in for an administrator: a certificate, an ACTIVE identity, every role, and an event."""

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Permission, Role
from certd.model.event import EventType
from certd.model.identity import IdentityState
from certd.model.names import GrantName, IdentityName
from certd.pki.credential_request import new_credential_request
from certd.services.administrators import Recovered
from certd.store import grants, identities
from certd.store.transaction import Transaction
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, CrashError, World, crash

ADMIN = IdentityName(None, "admin")


def recover(world: World, administrator_id: str = "admin", csr: bytes | None = None) -> Recovered:
    return world.core.administrator_recovery.run(
        trust_domain=TRUST_DOMAIN,
        administrator_id=administrator_id,
        administrator_csr=csr or new_credential_request().csr,
    )


def roles_of(world: World, principal: str) -> set[Role]:
    with world.core.store.read("test.grants") as tx:
        return {grant.role for grant in grants.of_principal(tx, principal) if grant.scope == EVERYTHING}


def state_of(world: World, name: IdentityName) -> IdentityState | None:
    with world.core.store.read("test.identity") as tx:
        found = identities.get(tx, name)
    return None if found is None else found.state


def shut_out(world: World) -> None:
    """Takes everything from the only administrator."""

    def write(tx: Transaction) -> None:
        for grant in grants.of_principal(tx, ADMINISTRATOR.principal):
            assert grants.delete(tx, GrantName(None, grant.grant_id))
        assert identities.set_state(tx, ADMIN, IdentityState.REVOKED, world.clock.now())

    world.core.store.write("test.shut-out", write)


def test_the_first_start_makes_an_active_identity_with_every_role(world: World) -> None:
    assert state_of(world, ADMIN) is IdentityState.ACTIVE
    assert roles_of(world, ADMINISTRATOR.principal) == set(Role)


def test_who_was_shut_out_is_let_in_again(world: World) -> None:
    shut_out(world)
    with pytest.raises(CertdError) as refused:
        world.core.access.require(ADMINISTRATOR, Permission.SERVER_READ, "server")
    assert refused.value.reason is Reason.PERMISSION_MISSING
    recovered = recover(world)
    assert recovered.spiffe_id == ADMINISTRATOR.principal
    caller = world.core.access.authenticate(recovered.certificate)
    world.core.access.require(caller, Permission.SERVER_READ, "server")
    assert state_of(world, ADMIN) is IdentityState.ACTIVE
    assert roles_of(world, caller.principal) == set(Role)
    (event,) = [event for event in world.events() if event.type is EventType.ADMINISTRATOR_RECOVERED]
    assert (event.resource, event.tenant) == ("identities/admin", None)
    assert event.details == {"spiffe_id": caller.principal, "serial": caller.serial}


def test_another_id_becomes_an_administrator_beside_the_first(world: World) -> None:
    recovered = recover(world, "anna")
    assert recovered.spiffe_id == f"spiffe://{TRUST_DOMAIN}/identities/anna"
    assert state_of(world, IdentityName(None, "anna")) is IdentityState.ACTIVE
    assert roles_of(world, recovered.spiffe_id) == set(Role) == roles_of(world, ADMINISTRATOR.principal)


def test_what_a_crash_left_is_completed_by_the_next_run(world: World) -> None:
    shut_out(world)
    csr = new_credential_request().csr
    world.steps.at["recover-administrator.1.certificate"] = crash
    with pytest.raises(CrashError):
        recover(world, csr=csr)
    assert roles_of(world, ADMINISTRATOR.principal) == set()
    first = recover(world, csr=csr)
    assert roles_of(world, ADMINISTRATOR.principal) == set(Role)
    granted = [event for event in world.events() if event.type is EventType.GRANT_CREATED]
    again = recover(world, csr=csr)
    assert again.certificate == first.certificate
    assert [event for event in world.events() if event.type is EventType.GRANT_CREATED] == granted


@pytest.mark.parametrize("administrator_id", ["", "Admin", "a/b", "../oidc/x", "a b"])
def test_an_id_that_is_none_is_refused(world: World, administrator_id: str) -> None:
    before = world.events()
    with pytest.raises(CertdError) as refused:
        recover(world, administrator_id)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert world.events() == before
