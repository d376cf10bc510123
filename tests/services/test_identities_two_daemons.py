"""Identities in two daemons on one PostgreSQL: revoked in one, refused by the other."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.names import IdentityName
from certd.pki.credential_request import new_credential_request
from certd.store import grants, identities
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, two_worlds
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

WEB = IdentityName("default", "web")
SOON = 2.0
"""A second, and as long again for a machine that is busy."""


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        yield first, second


def enrolled(world: World, name: IdentityName) -> bytes:
    """Makes an identity; returns its certificate."""
    spiffe_id, core = spiffe_id_of(name, TRUST_DOMAIN), world.core
    core.store.write("test", lambda tx: identities.ensure(tx, name, spiffe_id, IdentityState.ACTIVE, world.clock.now()))
    return core.identities.ensure_identity(spiffe_id, new_credential_request().csr).certificate


def refusal(world: World, certificate: bytes) -> Reason | None:
    try:
        world.core.access.authenticate(certificate)
    except CertdError as error:
        return error.reason
    return None


def test_who_is_revoked_in_one_is_refused_by_the_other_within_a_second(daemons: tuple[World, World]) -> None:
    first, second = daemons
    certificate = enrolled(first, WEB)
    assert refusal(second, certificate) is None
    first.core.identity_changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=False)
    assert refusal(first, certificate) is Reason.CREDENTIAL_REVOKED
    eventually(lambda: refusal(second, certificate) is Reason.CREDENTIAL_REVOKED, within=SOON)


def test_two_daemons_do_not_revoke_the_last_two_administrators(daemons: tuple[World, World]) -> None:
    first, second = daemons
    admin, other = IdentityName(None, "admin"), IdentityName(None, "other")
    enrolled(first, other)
    grant = Grant(
        grant_id="other",
        principal=spiffe_id_of(other, TRUST_DOMAIN),
        role=Role.ADMINISTRATOR,
        scope=EVERYTHING,
        profiles=None,
    )
    first.core.store.write("test", lambda tx: grants.insert(tx, grant))
    caller = Caller(principal=grant.principal, serial="03")
    eventually(lambda: bool(second.core.access.held(caller)), within=SOON)
    start = threading.Barrier(2)
    ended: list[Reason | None] = []

    def revoke(world: World, who: Caller, name: IdentityName) -> None:
        start.wait()
        try:
            world.core.identity_changes.revoke(who, name, key=None, validate_only=False)
            ended.append(None)
        except CertdError as error:
            ended.append(error.reason)

    threads = [
        threading.Thread(target=revoke, args=(first, caller, admin)),
        threading.Thread(target=revoke, args=(second, ADMINISTRATOR, other)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ended) == {None, Reason.LAST_ADMINISTRATOR}
    with first.core.store.read("test") as tx:
        assert len(grants.administrators(tx, first.clock.now())) == 1
