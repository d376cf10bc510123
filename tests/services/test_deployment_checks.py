"""Consumers that do not serve the current version in time are told of, each once, and shown until they do."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from certd.model.association import DeploymentState
from certd.model.certificate import RevocationReason
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import DEPLOYMENT_LATE, Condition
from certd.model.names import AssociationName, ManagedCertificateName
from certd.services.leases import GivenDeployment
from certd.services.managed_revocation import NewManagedRevocation
from certd.store import jobs
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, World, configuration, running_world
from tests.services.consumers import WEB, Consumer, active, associate, consumer
from tests.services.import_books import NEXT_PAIR, SHOP, import_, roll_back
from tests.services.managed_books import new_key, renewed, stands
from tests.services.notice_books import all_events
from tests.services.renewals import DAY, HOUR, NEVER, SECOND, settle, together

__all__ = ["postgres_server", "postgres_url"]


def world_on(folder: Path, token: TokenSettings, url: str) -> Iterator[World]:
    with running_world(configuration(folder, token, database_url=url), FakeClock()) as running:
        running.create_root()
        running.create_subordinate()
        yield running


@pytest.fixture
def ca(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    yield from world_on(tmp_path, token_settings, "")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    yield from world_on(tmp_path, token_settings, url)


def says(
    world: World,
    who: Consumer,
    version: int,
    *,
    state: DeploymentState = DeploymentState.SERVING,
    name: ManagedCertificateName = WEB,
    message: str = "",
) -> None:
    """A consumer reports."""
    given = GivenDeployment(state=state, version=version, message=message)
    world.core.leases.report(who.caller, AssociationName(name, who.name.identity), given)


def passes(world: World, time: timedelta) -> None:
    """Lets time pass, and all be done that is due then."""
    world.clock.advance(time)
    settle(world)


def told(world: World) -> list[Event]:
    return [event for event in all_events(world.core.store) if event.type is EventType.DEPLOYMENT_LATE]


def late(world: World) -> list[tuple[str, str]]:
    """Consumers and versions of the events, in their order."""
    return [(event.details["association"], event.details["version"]) for event in told(world)]


def shows(world: World, name: ManagedCertificateName = WEB) -> Condition | None:
    found = [one for one in stands(world, name).conditions if one.type == DEPLOYMENT_LATE]
    return found[0] if found else None


def is_late(world: World, name: ManagedCertificateName = WEB) -> bool:
    condition = shows(world, name)
    return condition is not None and condition.status


def checks(world: World, name: ManagedCertificateName = WEB) -> bool:
    """Whether it will be looked at."""
    with world.core.store.read("test.job") as tx:
        return jobs.due_time(tx, JobKind.CHECK_DEPLOYMENT, stands(world, name).uid) is not None


def test_who_does_not_serve_a_renewed_version_in_a_day_is_late(engine: World) -> None:
    active(engine)
    slow, good, mute = (consumer(engine, name) for name in ("slow", "good", "mute"))
    for who in (slow, good, mute):
        associate(engine, who)
    for who in (slow, good, mute):
        says(engine, who, 1)
    passes(engine, 2 * DAY)
    assert late(engine) == []
    assert not checks(engine)
    renewed(engine)
    says(engine, good, 2)
    says(engine, slow, 2, state=DeploymentState.FAILED, message="nginx: no")
    passes(engine, DAY - SECOND)
    assert late(engine) == []
    assert shows(engine) is None
    passes(engine, SECOND)
    assert late(engine) == [("mute", "2"), ("slow", "2")]
    first, second = told(engine)
    for event, who in ((first, mute), (second, slow)):
        assert event.resource == f"{WEB}/versions/2"
        assert (event.tenant, event.principal) == ("default", SYSTEM_PRINCIPAL)
        assert event.details["consumer"] == who.spiffe_id
    assert (first.details["served_version"], first.details["state"]) == ("1", "SERVING")
    assert (second.details["failed_version"], second.details["message"]) == ("2", "nginx: no")
    condition = shows(engine)
    assert condition is not None
    assert (condition.status, condition.reason) == (True, "NotServed")
    assert "mute, slow" in condition.message
    # Nobody tells it again.
    passes(engine, 5 * DAY)
    assert len(late(engine)) == 2
    assert not checks(engine)
    # The reports of those who caught up take it back, the last one altogether.
    says(engine, slow, 2)
    condition = shows(engine)
    assert condition is not None
    assert condition.status
    assert "slow" not in condition.message
    says(engine, mute, 2)
    condition = shows(engine)
    assert condition is not None
    assert (condition.status, condition.reason) == (False, "Served")
    assert condition.last_transition_time == engine.clock.now()


def test_who_is_associated_has_as_long(ca: World) -> None:
    active(ca)
    associate(ca, consumer(ca, "first"))
    passes(ca, HOUR)
    associate(ca, consumer(ca, "second"))
    passes(ca, DAY - HOUR)
    assert late(ca) == [("first", "1")]
    assert "served_version" not in told(ca)[-1].details
    assert "state" not in told(ca)[-1].details
    passes(ca, HOUR - SECOND)
    assert len(late(ca)) == 1
    passes(ca, SECOND)
    assert late(ca) == [("first", "1"), ("second", "1")]


def test_who_is_associated_before_the_first_version_has_its_time_from_then_on(ca: World) -> None:
    ca.steps.at["managed.3.key-sealed"] = lambda: associate(ca, consumer(ca))
    active(ca)
    assert checks(ca)
    passes(ca, DAY)
    assert late(ca) == [("machine", "1")]


def test_nobody_has_more_than_a_tenth_of_the_lifetime(ca: World) -> None:
    ca.request(lifetime=20 * HOUR)
    settle(ca)
    associate(ca, consumer(ca))
    # What is before the time of the request, by which its beginning is put back, counts too.
    passes(ca, 2 * HOUR - SECOND)
    assert late(ca) == []
    passes(ca, HOUR / 6)
    assert late(ca) == [("machine", "1")]


def test_each_version_is_told_once(ca: World) -> None:
    """One that is late with two is told with each, and shown until it serves the current one."""
    active(ca)
    who = consumer(ca)
    associate(ca, who)
    says(ca, who, 1)
    renewed(ca)
    passes(ca, DAY)
    renewed(ca)
    assert is_late(ca)
    passes(ca, DAY)
    assert late(ca) == [("machine", "2"), ("machine", "3")]
    says(ca, who, 1)
    assert is_late(ca)
    says(ca, who, 3)
    assert not is_late(ca)
    # What it says after that is told as a report, and no more.
    says(ca, who, 3, state=DeploymentState.FAILED)
    passes(ca, 3 * DAY)
    assert len(late(ca)) == 2


def test_a_version_that_comes_while_one_is_awaited_has_its_own_time(ca: World) -> None:
    active(ca)
    who = consumer(ca)
    associate(ca, who)
    passes(ca, DAY / 2)
    renewed(ca)
    passes(ca, DAY - SECOND)
    assert late(ca) == []
    passes(ca, SECOND)
    assert late(ca) == [("machine", "2")]


def test_imports_and_roll_backs_are_awaited_too(ca: World) -> None:
    import_(ca)
    who = consumer(ca)
    associate(ca, who, SHOP)
    says(ca, who, 1, name=SHOP)
    import_(ca, NEXT_PAIR, replace=True)
    passes(ca, DAY)
    assert late(ca) == [("machine", "2")]
    says(ca, who, 2, name=SHOP)
    assert not is_late(ca, SHOP)
    roll_back(ca)
    passes(ca, DAY - SECOND)
    assert len(late(ca)) == 1
    passes(ca, SECOND)
    assert late(ca) == [("machine", "2"), ("machine", "1")]


def test_who_is_gone_is_late_no_more(ca: World) -> None:
    active(ca)
    who = consumer(ca)
    name = associate(ca, who).association.name
    passes(ca, DAY)
    assert is_late(ca)
    ca.core.associations.delete(ADMINISTRATOR, name, key=None)
    assert not is_late(ca)
    associate(ca, who)
    ca.core.associations.delete(ADMINISTRATOR, name, key=None)
    assert checks(ca)
    passes(ca, DAY)
    assert not checks(ca)
    assert len(late(ca)) == 1


def test_a_deleted_certificate_is_not_looked_at(ca: World) -> None:
    uid = active(ca).managed_certificate.uid
    name = associate(ca, consumer(ca)).association.name
    ca.core.associations.delete(ADMINISTRATOR, name, key=None)
    ca.core.managed_certificate_changes.delete(ADMINISTRATOR, WEB, etag="", key=None, validate_only=False)
    with ca.core.store.read("test.job") as tx:
        assert jobs.due_time(tx, JobKind.CHECK_DEPLOYMENT, uid) is None


def test_what_is_revoked_or_has_ended_need_not_be_served(ca: World) -> None:
    ca.request(renewal=NEVER)
    ca.request("other", name=ManagedCertificateName("default", "other"), lifetime=HOUR, renewal=NEVER)
    settle(ca)
    who = consumer(ca)
    associate(ca, who)
    associate(ca, who, ManagedCertificateName("default", "other"))
    revocation = NewManagedRevocation(name=WEB, version=None, reason=RevocationReason.CESSATION_OF_OPERATION)
    ca.core.managed_revocation.revoke(ADMINISTRATOR, revocation, key=new_key())
    passes(ca, 3 * DAY)
    assert late(ca) == []
    assert not checks(ca)


def test_reports_at_one_moment_leave_nobody_late(engine: World) -> None:
    active(engine)
    several = [consumer(engine, f"m{number}") for number in range(4)]
    for who in several:
        associate(engine, who)
    passes(engine, DAY)
    assert len(late(engine)) == 4
    together([lambda who=who: says(engine, who, 1) for who in several])  # type: ignore[misc]  # mypy infers no type for a default.
    assert not is_late(engine)


def test_a_daemon_that_dies_over_it_tells_each_once(ca: World) -> None:
    """The step is one transaction; what comes after it may be done again."""

    def die() -> None:
        raise RuntimeError("dead")

    active(ca)
    associate(ca, consumer(ca))
    ca.steps.at["deployment-check.1.committed"] = die
    passes(ca, DAY)
    passes(ca, HOUR)
    assert late(ca) == [("machine", "1")]
    assert not ca.steps.at
