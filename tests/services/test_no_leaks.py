"""What is said to an administrator of one tenant tells nothing of the server's grants, nor of another tenant."""

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Grant, Permission, Role, new_grant_id
from certd.model.names import IdentityName, ProfileName
from certd.services.enrollment import NewCode
from certd.services.tenants import GivenTenant
from certd.store import grants
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World
from tests.services.profile_books import GIVEN

WEB = IdentityName("default", "web")


def give(world: World, principal: str, role: Role, scope: str, **changes: object) -> None:
    values: dict[str, object] = {"grant_id": new_grant_id(), "profiles": None} | changes
    grant = Grant(principal=principal, role=role, scope=scope, **values)  # type: ignore[arg-type]  # Of Grant.
    world.core.store.write("test", lambda tx: grants.insert(tx, grant))


@pytest.fixture(autouse=True)
def _administrator_of_a_tenant(world: World) -> None:
    world.core.tenants.create(ADMINISTRATOR, "secretive", GivenTenant(), key=None, validate_only=False)
    give(world, STRANGER.principal, Role.ADMINISTRATOR, "tenants/default")


def test_what_an_identity_holds_elsewhere_is_not_told_to_who_may_not_enroll_it(world: World) -> None:
    give(world, f"spiffe://{TRUST_DOMAIN}/{WEB}", Role.ISSUER, "tenants/secretive/authorities/ca")
    with pytest.raises(CertdError) as refused:
        world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB))
    assert refused.value.reason is Reason.PERMISSION_MISSING
    told = f"{refused.value.message} {dict(refused.value.metadata)}"
    assert "secretive" not in told
    assert "authority" not in told
    assert "certificate" not in told


def test_what_it_holds_within_the_tenant_is_told(world: World) -> None:
    give(world, f"spiffe://{TRUST_DOMAIN}/{WEB}", Role.ISSUER, "tenants/default", tenant="default")
    with pytest.raises(CertdError) as refused:
        world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB))
    assert "tenants/default, which" in refused.value.message
    assert refused.value.metadata["permission"] == Permission.AUTHORITY_READ


def test_grants_of_the_server_are_not_named_to_who_deletes_a_profile(world: World) -> None:
    name = ProfileName("default", "web")
    world.core.profiles.create(STRANGER, name, GIVEN, key=None, validate_only=False)
    listed = frozenset({"web"})
    give(world, "spiffe://x/identities/a", Role.ISSUER, EVERYTHING, profiles=listed, grant_id="hidden")
    give(world, "spiffe://x/identities/a", Role.ISSUER, "tenants/default", profiles=listed, grant_id="hidden-too")
    give(world, "spiffe://x/identities/a", Role.ISSUER, "tenants/default", profiles=listed, grant_id="own",
         tenant="default")  # fmt: skip
    with pytest.raises(CertdError) as refused:
        world.core.profiles.delete(STRANGER, name, etag="", key=None, validate_only=False)
    assert refused.value.reason is Reason.PROFILE_IN_USE
    assert refused.value.metadata["grants"] == "own, some of the server"
    assert "hidden" not in refused.value.message
