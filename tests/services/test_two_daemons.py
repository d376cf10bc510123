"""What one daemon keeps in memory, and another one changes: seen within a second."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import delete, update

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.names import serial_text
from certd.pki.credential_request import new_credential_request
from certd.services.authority_changes import Change
from certd.services.identities import Identities
from certd.services.profile_changes import GivenProfile
from certd.services.profiles import ProfileChange
from certd.store import schema
from certd.store.store import Transaction
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import CA, batch_item, grant, issue_batch, key, made, outcomes
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, two_worlds
from tests.services.profile_books import DAY, GIVEN, WEB
from tests.services.rotated_books import activate, prepare
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

OTHER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/other", serial="03")
SOON = 2.0
"""A second, and as long again for a machine that is busy."""


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    """One that changes things, and one that has them in memory."""
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        yield first, second


def outcome(world: World, caller: Caller = ADMINISTRATOR, **changes: Any) -> Reason | None:
    """Issues a certificate through the API's one way, and returns why it was refused."""
    try:
        (result,) = issue_batch(world, [batch_item(**changes)], caller=caller)
    except CertdError as error:
        return error.reason
    return outcomes([result])[0]


def becomes(reason: Reason | None, ask: Callable[[], Reason | None]) -> None:
    eventually(lambda: ask() is reason, within=SOON)


def test_a_grant_that_comes_and_goes(daemons: tuple[World, World]) -> None:
    first, second = daemons
    assert outcome(second, OTHER) is Reason.PERMISSION_MISSING
    grant(first, Grant(grant_id="g", principal=OTHER.principal, role=Role.ISSUER, scope=str(CA), profiles=None))
    assert outcome(first, OTHER) is None
    becomes(None, lambda: outcome(second, OTHER))

    def take_back(tx: Transaction) -> None:
        tx.execute(delete(schema.grants).where(schema.grants.c.grant_id == "g"))
        tx.configuration_changed()

    first.core.store.write("test.take-back", take_back)
    assert outcome(first, OTHER) is Reason.PERMISSION_MISSING
    becomes(Reason.PERMISSION_MISSING, lambda: outcome(second, OTHER))


def test_a_profile_that_is_made_changed_and_deleted(daemons: tuple[World, World]) -> None:
    first, second = daemons
    profiles = first.core.profiles
    assert outcome(second, profile=WEB) is Reason.PROFILE_NOT_FOUND
    profiles.create(ADMINISTRATOR, WEB, GIVEN, key=None, validate_only=False)
    becomes(None, lambda: outcome(second, profile=WEB))
    change = ProfileChange(
        name=WEB, given=GivenProfile(default_lifetime=7 * DAY), fields=frozenset({"default_lifetime"})
    )
    profiles.update(ADMINISTRATOR, change, key=None, validate_only=False)

    def version() -> int:
        (view,) = made(issue_batch(second, [batch_item(profile=WEB)]))
        assert (view.certificate.not_after - second.clock.now() < 7 * DAY) == (view.certificate.profile_version == 2)
        return view.certificate.profile_version

    eventually(lambda: version() == 2, within=SOON)
    profiles.delete(ADMINISTRATOR, WEB, etag="", key=None, validate_only=False)
    becomes(Reason.PROFILE_NOT_FOUND, lambda: outcome(second, profile=WEB))


def test_an_authority_that_is_disabled_issues_nothing_anywhere_from_that_moment_on(
    daemons: tuple[World, World],
) -> None:
    """The one that has it in memory as enabled looks again in the transaction of the intent."""
    first, second = daemons
    item = batch_item(key=key())
    made(issue_batch(second, [item]))
    first.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    assert outcome(second) is Reason.AUTHORITY_NOT_ENABLED
    # What was made is still told, by both.
    for world in daemons:
        made(issue_batch(world, [item]))
    first.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))
    becomes(None, lambda: outcome(second))


def test_the_old_key_of_an_authority_signs_nothing_anywhere_from_the_switch_on(daemons: tuple[World, World]) -> None:
    first, second = daemons
    assert outcome(second) is None
    prepare(first)
    activate(first, 2)
    # Who is refused has the new key at the next attempt; who had heard of it in between, at once.
    assert outcome(second) in {Reason.OWNERSHIP_LOST, None}
    (view,) = made(issue_batch(second, [batch_item()]))
    assert view.certificate.key_number == 2


def test_an_authority_that_is_made_is_found(daemons: tuple[World, World]) -> None:
    first, second = daemons
    with pytest.raises(CertdError) as absent:
        second.issue("www.example.internal", authority="late")
    assert absent.value.reason is Reason.AUTHORITY_NOT_FOUND
    first.create_subordinate("late")
    # What is not there is not kept.
    assert second.issue("www.example.internal", authority="late").der


def test_a_request_that_one_answered_is_answered_by_the_other(daemons: tuple[World, World]) -> None:
    first, second = daemons
    items = [batch_item(f"{number}.example.internal", key=key()) for number in range(20)]
    views = made(issue_batch(first, items))
    assert [view.name for view in made(issue_batch(second, items))] == [view.name for view in views]


def test_an_identity_that_is_revoked_is_known_as_such(daemons: tuple[World, World]) -> None:
    first, second = daemons
    core = first.core
    identities = Identities(store=core.store, clock=core.clock, loop=core.loop, system_authority=core.system_authority)
    der = identities.ensure_identity(OTHER.principal, new_credential_request().csr).certificate
    for world in daemons:
        assert world.core.access.authenticate(der).principal == OTHER.principal
    serial = serial_text(x509.load_der_x509_certificate(der).serial_number)

    def revoke(tx: Transaction) -> None:
        tx.execute(update(schema.certificates).where(schema.certificates.c.serial == serial).values(state="REVOKED"))
        tx.configuration_changed()

    core.store.write("test.revoke", revoke)

    def told(world: World) -> Reason | None:
        try:
            world.core.access.authenticate(der)
        except CertdError as error:
            return error.reason
        return None

    assert told(first) is Reason.CREDENTIAL_REVOKED
    becomes(Reason.CREDENTIAL_REVOKED, lambda: told(second))


def test_an_identity_in_memory_still_ends(daemons: tuple[World, World]) -> None:
    first, _ = daemons
    core = first.core
    identities = Identities(store=core.store, clock=core.clock, loop=core.loop, system_authority=core.system_authority)
    der = identities.ensure_identity(OTHER.principal, new_credential_request().csr).certificate
    core.access.authenticate(der)
    ends = x509.load_der_x509_certificate(der).not_valid_after_utc
    first.clock.advance(ends - first.clock.now())
    core.access.authenticate(der)
    first.clock.advance(timedelta(seconds=1))
    with pytest.raises(CertdError, match="enroll again") as refused:
        core.access.authenticate(der)
    assert refused.value.reason is Reason.CREDENTIAL_INVALID
