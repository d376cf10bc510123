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


def test_who_calls_since_before_identities_had_rows_counts_and_can_be_revoked(world: World) -> None:
    old, core = IdentityName(None, "old"), world.core
    spiffe_id = spiffe_id_of(old, TRUST_DOMAIN)
    csr = new_credential_request().csr
    certificate = core.identities.ensure_identity(spiffe_id, csr).certificate
    caller = core.access.authenticate(certificate)
    grant = Grant(grant_id="old", principal=spiffe_id, role=Role.ADMINISTRATOR, scope=EVERYTHING, profiles=None)
    core.store.write("test", lambda tx: grants.insert(tx, grant))
    assert core.identity_changes.revoke(ADMINISTRATOR, old, key=None, validate_only=True).identity.name == old
    revoke(world, ADMIN)
    for validate_only in (True, False):
        with pytest.raises(CertdError) as refused:
            core.identity_changes.revoke(caller, old, key=None, validate_only=validate_only)
        assert refused.value.reason is Reason.LAST_ADMINISTRATOR
    core.administrator_recovery.run(
        trust_domain=TRUST_DOMAIN, administrator_id="admin", administrator_csr=new_credential_request().csr
    )
    revoke(world, old)
    with pytest.raises(CertdError) as refused:
        core.access.authenticate(certificate)
    assert refused.value.reason is Reason.CREDENTIAL_REVOKED
    with core.store.read("test") as tx:
        found = identities.get(tx, old)
    assert found is not None
    assert found.state is IdentityState.REVOKED
    # Who never was is not made by this.
    with pytest.raises(CertdError) as refused:
        revoke(world, IdentityName(None, "nobody"))
    assert refused.value.reason is Reason.IDENTITY_NOT_FOUND
