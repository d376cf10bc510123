"""Associations: who may lease the keys of a managed certificate. Made once, and gone with what was sealed for them."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from certd.errors import CertdError, Reason
from certd.model.access import Role
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import WILDCARD, AssociationName, IdentityName, ManagedCertificateName, TenantName
from certd.services import associations as services
from certd.services.association_views import AssociationView
from certd.services.associations import NewAssociation
from certd.services.idempotency import RequestKey
from certd.services.managed_export import PassphraseExport
from certd.services.paging import PageRequest
from certd.services.tenants import GivenTenant
from certd.store import association_keys, managed_schema
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash, two_worlds
from tests.services.consumers import (
    WEB,
    Consumer,
    active,
    add_version,
    associate,
    association_name,
    consumer,
    refusal,
    told,
)
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

SHOP = ManagedCertificateName("default", "shop")
EVERY = ManagedCertificateName("default", WILDCARD)
TENANT = TenantName("default")
FIRST_PAGE = PageRequest(100, "")


def new(who: Consumer | IdentityName, **changes: Any) -> NewAssociation:
    name = who.name if isinstance(who, Consumer) else who
    return NewAssociation(managed_certificate=WEB, consumer=name, **changes)


def create(world: World, wanted: NewAssociation, **how: Any) -> AssociationView:
    chosen: dict[str, Any] = {"key": None, "validate_only": False} | how
    return world.core.associations.create(ADMINISTRATOR, wanted, **chosen)


def blobs(world: World) -> list[tuple[str, int]]:
    """What is sealed for consumers: association and version."""
    keys = managed_schema.association_keys
    with world.core.store.read("test.keys") as tx:
        rows = tx.execute(select(keys.c.association_id, keys.c.version).order_by(keys.c.association_id, keys.c.version))
        return [(row.association_id, row.version) for row in rows]


def test_a_consumer_is_associated_with_a_key_of_its_own(ca: World) -> None:
    active(ca)
    machine = consumer(ca)
    made = associate(ca, machine)
    association = made.association
    assert association.name == association_name()
    assert (association.consumer, association.consumer_spiffe_id) == (str(machine.name), machine.spiffe_id)
    assert (association.leased_version, association.current_version) == (0, 1)
    assert ca.core.associations.get(ADMINISTRATOR, association.name) == made
    assert blobs(ca) == [("machine", 1)]
    view = ca.core.managed_certificates.get(ADMINISTRATOR, WEB)
    assert view.managed_certificate.used
    assert view.managed_certificate.association_count == 1
    assert view.used_by == (association,)
    (listed,) = ca.core.managed_certificates.page(ADMINISTRATOR, TENANT, FIRST_PAGE).items
    assert listed.used_by == ()
    assert listed.managed_certificate.used
    (event,) = told(ca, EventType.ASSOCIATION_CREATED)
    assert (event.resource, event.tenant, event.principal) == (
        str(association.name),
        "default",
        ADMINISTRATOR.principal,
    )
    assert event.details["consumer"] == machine.spiffe_id
    assert event.details["version"] == "1"


def test_one_that_is_not_issued_yet_can_be_associated_and_has_no_key(ca: World) -> None:
    ca.core.scheduler.stop()
    ca.request()
    made = associate(ca, consumer(ca))
    assert made.association.current_version == 0
    assert blobs(ca) == []
    assert told(ca, EventType.ASSOCIATION_CREATED)[0].details["version"] == "0"


def test_a_revoked_version_is_sealed_for_nobody(ca: World) -> None:
    active(ca)
    versions = managed_schema.managed_certificate_versions
    ca.core.store.write("test", lambda tx: tx.execute(update(versions).values(revoke_time=1)))
    associate(ca, consumer(ca))
    assert blobs(ca) == []


def test_one_that_can_never_be_issued_has_no_consumers(ca: World) -> None:
    active(ca)
    table = managed_schema.managed_certificates
    ca.core.store.write("test", lambda tx: tx.execute(update(table).values(state=ManagedCertificateState.FAILED.value)))
    machine = consumer(ca)
    assert refusal(lambda: associate(ca, machine)).reason is Reason.STATE_FORBIDS


def test_consumers_are_identities_of_the_tenant_or_of_the_server(ca: World) -> None:
    active(ca)
    ca.core.tenants.create(ADMINISTRATOR, "other", GivenTenant(), key=None, validate_only=False)
    foreign, gone = consumer(ca, tenant="other"), consumer(ca, "gone")
    ca.core.identity_changes.revoke(ADMINISTRATOR, gone.name, key=None, validate_only=False)
    words = set()
    for name in (foreign.name, gone.name, IdentityName("other", "nobody"), IdentityName(None, "nobody")):
        error = refusal(lambda name=name: create(ca, new(name)))  # type: ignore[misc]  # mypy infers no type for a default.
        assert error.reason is Reason.IDENTITY_NOT_FOUND
        words.add(error.message.replace(str(name), "…"))
    assert len(words) == 1
    of_server = consumer(ca, "edge", tenant=None)
    assert associate(ca, of_server).association.consumer == "identities/edge"


def test_an_id_is_chosen_and_a_consumer_has_one_association_with_a_certificate(ca: World) -> None:
    active(ca)
    active(ca, SHOP)
    machine, other = consumer(ca), consumer(ca, "machine", tenant=None)
    associate(ca, machine)
    taken = refusal(lambda: associate(ca, other))
    assert (taken.reason, taken.resource) == (Reason.ASSOCIATION_EXISTS, str(association_name()))
    assert associate(ca, other, association_id="edge").association.name == association_name("edge")
    again = refusal(lambda: associate(ca, machine, association_id="another"))
    assert (again.reason, again.resource) == (Reason.ASSOCIATION_EXISTS, str(association_name()))
    associate(ca, machine, SHOP)
    assert ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.association_count == 2


def test_a_repeated_request_returns_what_the_first_one_made(ca: World) -> None:
    active(ca)
    wanted, key = new(consumer(ca)), RequestKey(str(uuid.uuid4()), b"hash")
    made = create(ca, wanted, key=key)
    assert create(ca, wanted, key=key) == made
    assert refusal(lambda: create(ca, wanted)).reason is Reason.ASSOCIATION_EXISTS
    reused = refusal(lambda: create(ca, wanted, key=replace(key, request_sha256=b"other")))
    assert reused.reason is Reason.REQUEST_ID_REUSED
    assert len(told(ca, EventType.ASSOCIATION_CREATED)) == 1
    deletion = RequestKey(str(uuid.uuid4()), b"hash")
    for _ in range(2):
        ca.core.associations.delete(ADMINISTRATOR, association_name(), key=deletion)
    assert len(told(ca, EventType.ASSOCIATION_DELETED)) == 1
    deleted = refusal(lambda: ca.core.associations.delete(ADMINISTRATOR, association_name(), key=None))
    assert deleted.reason is Reason.ASSOCIATION_NOT_FOUND
    # What the first request made is gone, and not made again by its repetition.
    assert refusal(lambda: create(ca, wanted, key=key)).reason is Reason.ASSOCIATION_NOT_FOUND


def test_validating_changes_nothing(ca: World) -> None:
    active(ca)
    machine = consumer(ca)
    key = RequestKey(str(uuid.uuid4()), b"hash")
    would = create(ca, new(machine), validate_only=True, key=key)
    assert would.association.name == association_name()
    assert blobs(ca) == []
    assert not told(ca, EventType.ASSOCIATION_CREATED)
    assert create(ca, new(machine), key=key) == would
    assert refusal(lambda: create(ca, new(machine), validate_only=True)).reason is Reason.ASSOCIATION_EXISTS


def test_the_keys_go_with_the_association(ca: World) -> None:
    active(ca)
    machine, other = consumer(ca), consumer(ca, "other")
    associate(ca, machine)
    associate(ca, other)
    ca.core.associations.delete(ADMINISTRATOR, association_name(), key=None)
    assert blobs(ca) == [("other", 1)]
    managed = ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate
    assert managed.association_count == 1
    ca.core.associations.delete(ADMINISTRATOR, association_name("other"), key=None)
    assert not ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.used
    (first, _) = told(ca, EventType.ASSOCIATION_DELETED)
    assert (first.resource, first.details["consumer"]) == (str(association_name()), machine.spiffe_id)
    # It may come back.
    assert associate(ca, machine).association.leased_version == 0


def test_a_managed_certificate_has_a_thousand_consumers_at_most(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    active(ca)
    monkeypatch.setattr(services, "MOST_ASSOCIATIONS", 2)
    for number in range(2):
        associate(ca, consumer(ca, f"m{number}"))
    machine = consumer(ca)
    error = refusal(lambda: associate(ca, machine))
    assert (error.reason, error.metadata["limit"]) == (Reason.QUOTA_EXCEEDED, "2")


def test_what_does_not_exist_is_told_to_those_who_may_know(ca: World) -> None:
    machine = consumer(ca)
    absent = replace(new(machine), managed_certificate=SHOP)
    assert refusal(lambda: create(ca, absent)).reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND
    gets = ca.core.associations.get
    for name in (association_name(), association_name(managed=ManagedCertificateName("nowhere", "web"))):
        assert refusal(lambda name=name: gets(ADMINISTRATOR, name)).reason is Reason.ASSOCIATION_NOT_FOUND  # type: ignore[misc]  # As above.


def test_without_a_grant_nothing_is_told(ca: World) -> None:
    active(ca)
    associate(ca, consumer(ca))
    associations = ca.core.associations
    calls: dict[str, Callable[[ManagedCertificateName], object]] = {
        "create": lambda managed: associations.create(
            STRANGER, replace(new(IdentityName(None, "x")), managed_certificate=managed), key=None, validate_only=False
        ),
        "get": lambda managed: associations.get(STRANGER, AssociationName(managed, "machine")),
        "page": lambda managed: associations.page(STRANGER, managed, FIRST_PAGE),
        "delete": lambda managed: associations.delete(STRANGER, AssociationName(managed, "machine"), key=None),
    }
    for call in calls.values():
        words = set()
        for managed in (WEB, SHOP, ManagedCertificateName("nowhere", "web")):
            error = refusal(lambda call=call, managed=managed: call(managed))  # type: ignore[misc]  # As above.
            assert error.reason is Reason.PERMISSION_MISSING
            words.add(error.message.replace(str(managed), "…"))
        assert len(words) == 1


def test_a_consumer_sees_its_own_and_learns_nothing_of_others(ca: World) -> None:
    active(ca)
    active(ca, SHOP)
    machine, other = consumer(ca), consumer(ca, "other")
    own = associate(ca, machine)
    associate(ca, other)
    associate(ca, other, SHOP)
    associations = ca.core.associations
    assert associations.get(machine.caller, own.association.name) == own
    words = set()
    for name in (
        association_name("other"),
        association_name("absent"),
        association_name("other", SHOP),
        association_name("other", ManagedCertificateName("default", "absent")),
    ):
        error = refusal(lambda name=name: associations.get(machine.caller, name))  # type: ignore[misc]  # As above.
        assert error.reason is Reason.ASSOCIATION_NOT_FOUND
        words.add(error.message.replace(str(name), "…"))
    assert len(words) == 1

    def names(parent: ManagedCertificateName) -> list[str]:
        page = associations.page(machine.caller, parent, FIRST_PAGE, consumer=machine.name)
        return [str(view.association.name) for view in page.items]

    assert names(EVERY) == names(WEB) == [str(own.association.name)]
    assert names(SHOP) == names(ManagedCertificateName("default", "absent")) == []
    for asked in (None, other.name, IdentityName("other", "machine"), IdentityName(None, "machine")):
        for parent in (EVERY, WEB):
            error = refusal(
                lambda asked=asked, parent=parent: associations.page(machine.caller, parent, FIRST_PAGE, consumer=asked)  # type: ignore[misc]  # As above.
            )
            assert error.reason is Reason.PERMISSION_MISSING
    for denied in (
        lambda: associations.create(machine.caller, new(machine), key=None, validate_only=False),
        lambda: associations.delete(machine.caller, own.association.name, key=None),
        lambda: ca.core.managed_certificates.get(machine.caller, WEB),
    ):
        assert refusal(denied).reason is Reason.PERMISSION_MISSING


def test_who_may_lease_one_certificate_sees_no_others(ca: World) -> None:
    active(ca)
    active(ca, SHOP)
    machine = consumer(ca, scope=str(WEB))
    own, elsewhere = associate(ca, machine), associate(ca, machine, SHOP)
    associations = ca.core.associations
    assert associations.get(machine.caller, own.association.name) == own
    assert len(associations.page(machine.caller, WEB, FIRST_PAGE, consumer=machine.name).items) == 1
    for denied in (
        lambda: associations.get(machine.caller, elsewhere.association.name),
        lambda: associations.page(machine.caller, SHOP, FIRST_PAGE, consumer=machine.name),
        lambda: associations.page(machine.caller, EVERY, FIRST_PAGE, consumer=machine.name),
    ):
        assert refusal(denied).reason is Reason.PERMISSION_MISSING


def test_an_identity_without_a_grant_does_not_even_see_its_own(ca: World) -> None:
    active(ca)
    machine = consumer(ca, role=None)
    own = associate(ca, machine)
    assert refusal(lambda: ca.core.associations.get(machine.caller, own.association.name)).reason is (
        Reason.PERMISSION_MISSING
    )


def test_lists_go_on_where_they_ended(ca: World) -> None:
    active(ca)
    active(ca, SHOP)
    those = [consumer(ca, name) for name in ("c", "a", "b")]
    expected = sorted(str(associate(ca, who, managed).association.name) for who in those for managed in (WEB, SHOP))

    def walk(parent: ManagedCertificateName, by: IdentityName | None = None) -> list[str]:
        names, token = [], ""
        while True:
            page = ca.core.associations.page(ADMINISTRATOR, parent, PageRequest(2, token), consumer=by)
            names += [str(view.association.name) for view in page.items]
            token = page.next_page_token
            if not token:
                return names

    assert walk(EVERY) == expected
    assert walk(WEB) == [name for name in expected if "/web/" in name]
    assert walk(EVERY, those[1].name) == [name for name in expected if name.endswith("/a")]
    assert walk(WEB, those[1].name) == [str(association_name("a"))]
    assert walk(EVERY, IdentityName("default", "absent")) == []
    token = ca.core.associations.page(ADMINISTRATOR, EVERY, PageRequest(2, "")).next_page_token
    error = refusal(lambda: ca.core.associations.page(ADMINISTRATOR, WEB, PageRequest(2, token)))
    assert error.reason is Reason.FIELD_INVALID
    error = refusal(
        lambda: ca.core.associations.page(ADMINISTRATOR, ManagedCertificateName("default", "absent"), FIRST_PAGE)
    )
    assert error.reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND


def test_a_reader_of_one_certificate_lists_that_one(ca: World) -> None:
    active(ca)
    associate(ca, consumer(ca))
    reader = consumer(ca, "reader", role=Role.AUDITOR, scope=str(WEB))
    assert len(ca.core.associations.page(reader.caller, WEB, FIRST_PAGE).items) == 1
    error = refusal(lambda: ca.core.associations.page(reader.caller, EVERY, FIRST_PAGE))
    assert error.reason is Reason.PERMISSION_MISSING


@pytest.mark.parametrize("step", ["association.1.sealed", "association.2.committed"])
def test_no_crash_makes_half_of_one(ca: World, step: str) -> None:
    active(ca)
    wanted, key = new(consumer(ca)), RequestKey(str(uuid.uuid4()), b"hash")
    ca.steps.at[step] = crash
    with pytest.raises(CrashError):
        create(ca, wanted, key=key)
    before = ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.association_count
    assert before == len(blobs(ca)) == len(told(ca, EventType.ASSOCIATION_CREATED)) == (step != "association.1.sealed")
    # The caller repeats the call whose answer it never had.
    assert create(ca, wanted, key=key).association.name == association_name()
    assert ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.association_count == 1
    assert blobs(ca) == [("machine", 1)]
    assert len(told(ca, EventType.ASSOCIATION_CREATED)) == 1


def test_a_renewal_between_the_steps_takes_nothing_away(ca: World) -> None:
    active(ca)
    machine = consumer(ca)
    ca.steps.at["association.1.sealed"] = lambda: add_version(ca)
    made = associate(ca, machine)
    # What was sealed is still good; the new version is sealed when it is leased.
    assert made.association.current_version == 2
    assert blobs(ca) == [("machine", 1)]


def test_a_rotation_between_the_steps_seals_once_more(ca: World) -> None:
    active(ca)
    machine = consumer(ca)
    ca.steps.at["association.1.sealed"] = lambda: ca.core.wrapping_key_rotation.rotate(ADMINISTRATOR, TENANT, key=None)
    associate(ca, machine)
    assert ca.steps.seen.count("association.1.sealed") == 2
    with ca.core.store.read("test") as tx:
        keys = managed_schema.association_keys
        assert tx.execute(select(keys.c.wrapping_key_number)).scalars().all() == [2]
    assert len(told(ca, EventType.ASSOCIATION_CREATED)) == 1


def test_a_key_that_was_deleted_between_the_steps_is_not_kept_for_a_consumer(ca: World) -> None:
    active(ca)
    machine = consumer(ca)
    keys = managed_schema.sealed_keys
    ca.steps.at["association.1.sealed"] = lambda: ca.core.store.write("test", lambda tx: tx.execute(keys.delete()))
    associate(ca, machine)
    assert blobs(ca) == []


def test_without_a_token_nothing_is_made(ca: World) -> None:
    active(ca)
    machine = consumer(ca)
    ca.core.token.stop()
    assert refusal(lambda: associate(ca, machine)).reason is Reason.TOKEN_UNAVAILABLE
    assert not told(ca, EventType.ASSOCIATION_CREATED)
    assert ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.association_count == 0


def test_no_association_opens_another_way(ca: World) -> None:
    """What the token made for a consumer is no copy that may be exported, and no key in custody."""
    active(ca)
    machine = consumer(ca)
    made = associate(ca, machine)
    with ca.core.store.read("test") as tx:
        blob = association_keys.get(tx, made.association.managed_certificate_uid, "machine", 1)
    assert blob is not None
    keys = managed_schema.sealed_keys
    ca.core.store.write("test", lambda tx: tx.execute(update(keys).values(blob=blob)))
    error = refusal(
        lambda: ca.core.managed_export.export(
            ADMINISTRATOR, WEB, version=1, protection=PassphraseExport(b"correct horse"), reason=""
        )
    )
    assert error.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        yield first, second


def test_of_two_daemons_that_make_the_same_association_one_does(daemons: tuple[World, World]) -> None:
    active(daemons[0])
    those = [consumer(daemons[0], f"m{number}") for number in range(4)]
    ended: list[Reason | None] = []
    start = threading.Barrier(8)

    def attempt(world: World, who: Consumer) -> None:
        start.wait()
        try:
            associate(world, who)
            ended.append(None)
        except CertdError as error:
            ended.append(error.reason)

    threads = [threading.Thread(target=attempt, args=(world, who)) for world in daemons for who in those]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Each has one, and nobody is refused because others changed the managed certificate at the same moment.
    assert sorted(ended, key=str) == [Reason.ASSOCIATION_EXISTS] * 4 + [None] * 4
    second = daemons[1]
    assert second.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.association_count == 4
    assert blobs(second) == [(f"m{number}", 1) for number in range(4)]
    assert eventually(lambda: len(told(second, EventType.ASSOCIATION_CREATED)) == 4)


def test_a_renewal_at_the_same_moment_refuses_nobody(daemons: tuple[World, World]) -> None:
    first, second = daemons
    active(first)
    those = [consumer(first, f"m{number}") for number in range(6)]
    start = threading.Barrier(len(those) + 1)
    failures: list[CertdError] = []

    def run(work: Callable[[], object]) -> None:
        start.wait()
        try:
            work()
        except CertdError as error:
            failures.append(error)

    def renew() -> None:
        first.core.managed_certificate_changes.renew(ADMINISTRATOR, WEB, reason="", key=None)

    works = [partial(associate, daemons[number % 2], who) for number, who in enumerate(those)]
    threads = [threading.Thread(target=run, args=(work,)) for work in (renew, *works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures

    def renewed() -> bool:
        second.core.scheduler.wake()
        return second.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.current_version == 2

    eventually(renewed)
    managed = second.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate
    assert managed.association_count == len(those)
    assert len(blobs(second)) == len(those)
