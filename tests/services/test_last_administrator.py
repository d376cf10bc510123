"""Who cannot call administers nothing: an identity counts as an administrator while it has a certificate."""

from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Grant, Role
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.names import GrantName, IdentityName
from certd.pki.credential_request import new_credential_request
from certd.store import grants, identities
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World

ADMIN = IdentityName(None, "admin")
OTHER = IdentityName(None, "other")
LIFETIME = timedelta(days=30)


def certify(world: World, name: IdentityName) -> None:
    world.core.identities.ensure_identity(spiffe_id_of(name, TRUST_DOMAIN), new_credential_request().csr)


@pytest.fixture
def other(world: World) -> Grant:
    """The grant of a second administrator, whose only certificate is of today."""
    spiffe_id = spiffe_id_of(OTHER, TRUST_DOMAIN)
    grant = Grant(grant_id="other", principal=spiffe_id, role=Role.ADMINISTRATOR, scope=EVERYTHING, profiles=None)
    now, store = world.clock.now(), world.core.store
    store.write("test", lambda tx: identities.ensure(tx, OTHER, spiffe_id, IdentityState.ACTIVE, now))
    store.write("test", lambda tx: grants.insert(tx, grant))
    certify(world, OTHER)
    return grant


def revoke(world: World, name: IdentityName) -> None:
    world.core.identity_changes.revoke(ADMINISTRATOR, name, key=None, validate_only=False)


def own_grant(world: World) -> GrantName:
    with world.core.store.read("test") as tx:
        (found,) = [one for one in grants.of_principal(tx, ADMINISTRATOR.principal) if one.role is Role.ADMINISTRATOR]
    return GrantName(None, found.grant_id)


def test_an_administrator_whose_certificates_have_ended_is_none_who_could_go_on(world: World, other: Grant) -> None:
    world.clock.advance(LIFETIME + timedelta(days=1))
    certify(world, ADMIN)
    with pytest.raises(CertdError) as refused:
        revoke(world, ADMIN)
    assert refused.value.reason is Reason.LAST_ADMINISTRATOR
    with pytest.raises(CertdError) as refused:
        world.core.grants.delete(ADMINISTRATOR, own_grant(world), key=None, validate_only=False)
    assert refused.value.reason is Reason.LAST_ADMINISTRATOR
    # Who cannot call any more is revoked without ado, and their grant withdrawn.
    revoke(world, OTHER)
    world.core.grants.delete(ADMINISTRATOR, GrantName(None, other.grant_id), key=None, validate_only=False)


def test_with_a_certificate_they_could(world: World, other: Grant) -> None:
    world.clock.advance(LIFETIME + timedelta(days=1))
    certify(world, ADMIN)
    certify(world, OTHER)
    revoke(world, ADMIN)
    assert other.principal != ADMINISTRATOR.principal
