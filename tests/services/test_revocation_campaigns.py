"""Revocation campaigns: what they find is revoked once, whatever dies on the way, and no more than their maker may."""

import hashlib
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select

from certd.errors import CertdError, Reason
from certd.model.access import Role
from certd.model.certificate_filter import InDomain, Labelled
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.identity import IdentityState
from certd.model.job import JobKind
from certd.model.names import AuthorityName, IdentityName, ManagedCertificateName, RevocationCampaignName, TenantName
from certd.model.revocation_campaign import (
    OfConsumer,
    OfFilter,
    OfPublicKey,
    RevocationCampaign,
    RevocationCampaignState,
    UnderProfileOf,
)
from certd.services import revocation_campaigns as campaigns_module
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.services.revocation_records import RENEWAL_PAUSE
from certd.store import blocked_keys, identities, jobs, schema
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services import revocation_books
from tests.services.batches import refused
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World, crash, csr_for, two_worlds
from tests.services.consumers import active, associate, consumer
from tests.services.import_books import import_
from tests.services.incidents import (
    COMPROMISE,
    LEAK,
    counts,
    ended,
    events_of,
    get,
    holder,
    issued,
    item,
    revoke_batch,
    revoked_names,
    serial_of,
    start,
    withdraw,
)
from tests.services.managed_books import as_time_goes_by, renewed, stands
from tests.services.test_revocation import certificate_of
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

CA = AuthorityName("default", "ca")
ALL_LEAVES = UnderProfileOf("end-entity")
RUNNING, DONE = RevocationCampaignState.RUNNING, RevocationCampaignState.DONE
CANCELLED = RevocationCampaignState.CANCELLED
PAGE = "revocation-campaign.2.page"


def key_of(csr: bytes) -> OfPublicKey:
    key = x509.load_der_x509_csr(csr).public_key()
    return OfPublicKey(hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest())


def blocked(world: World, key: OfPublicKey, tenant: str = "default") -> bool:
    with world.core.store.read("test.blocked") as tx:
        return bool(blocked_keys.blocked(tx, [(tenant, key.sha256)]))


def has_job(world: World, campaign: RevocationCampaign) -> bool:
    with world.core.store.read("test.job") as tx:
        return bool(tx.execute(select(schema.jobs.c.kind).where(schema.jobs.c.subject == campaign.uid)).all())


def name_of(managed_id: str) -> ManagedCertificateName:
    return ManagedCertificateName("default", managed_id)


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two certificates."""
    monkeypatch.setattr(campaigns_module, "TOGETHER", 2)


def test_all_of_a_key_are_revoked_wherever_they_are(ca: World) -> None:
    ca.create_subordinate("mail")
    csr = csr_for("www.example.internal")
    ours = issued(ca, 40, csr=csr)
    mail = ca.issue(csr=csr, authority="mail").name
    other = ca.issue("other.example.internal").name
    revocation_books.settle(ca)
    made = start(ca, key_of(csr), reason=COMPROMISE)
    assert (made.state, made.creator, counts(made)) == (RUNNING, ADMINISTRATOR.principal, (0, 0, 0, 0))
    done = ended(ca)
    assert (done.state, counts(done), done.end_time) == (DONE, (41, 41, 0, 0), ca.clock.now())
    assert revoked_names(ca) == {*ours, mail}
    assert other not in revoked_names(ca)
    assert ca.steps.seen.count(PAGE) == 2
    created, over = events_of(ca, EventType.REVOCATION_CAMPAIGN_CREATED, EventType.REVOCATION_CAMPAIGN_ENDED)
    assert (created.principal, created.resource, created.tenant) == (ADMINISTRATOR.principal, str(LEAK), "default")
    assert key_of(csr).sha256.hex() in created.details["request"]
    assert (over.principal, over.details["state"], over.details["revoked"]) == (SYSTEM_PRINCIPAL, "DONE", "41")
    each = events_of(ca, EventType.CERTIFICATE_REVOKED)
    assert {event.principal for event in each} == {ADMINISTRATOR.principal}
    assert {event.details["campaign"] for event in each} == {str(LEAK)}
    revocation_books.settle(ca)
    assert len(revocation_books.entries(revocation_books.published(ca))) == 40
    assert not has_job(ca, done)


def test_a_compromised_key_is_blocked_also_when_nobody_has_a_certificate_for_it(ca: World) -> None:
    csr = csr_for("www.example.internal")
    start(ca, key_of(csr), reason=COMPROMISE)
    assert counts(ended(ca)) == (0, 0, 0, 0)
    assert blocked(ca, key_of(csr))
    assert not blocked(ca, key_of(csr), "other")
    with pytest.raises(CertdError) as refusal:
        ca.issue(csr=csr)
    assert refusal.value.reason is Reason.KEY_TOO_WEAK
    another = csr_for("www.example.internal")
    start(ca, key_of(another), name=RevocationCampaignName("default", "another"))
    assert not blocked(ca, key_of(another))


def test_a_profile_within_an_authority(ca: World) -> None:
    ca.create_subordinate("mail")
    names = issued(ca, 3)
    ca.issue("mail.example.internal", authority="mail")
    start(ca, ALL_LEAVES, authority=CA)
    assert counts(ended(ca)) == (3, 3, 0, 0)
    assert revoked_names(ca) == set(names)


def test_what_a_filter_finds(ca: World) -> None:
    wanted = issued(ca, 2, labels={"team": "web"})
    issued(ca, 2, labels={"team": "mail"})
    issued(ca, 1)
    start(ca, OfFilter(Labelled("team", "web")))
    assert counts(ended(ca)) == (2, 2, 0, 0)
    assert revoked_names(ca) == set(wanted)


@pytest.mark.usefixtures("of_two")
def test_all_versions_that_a_consumer_may_have(ca: World) -> None:
    who, other = consumer(ca), consumer(ca, "other")
    names = set()
    for managed_id in ("web-1", "web-2", "web-3"):
        name = name_of(managed_id)
        for view in (active(ca, name), renewed(ca, name), renewed(ca, name)):
            names.add(f"{CA}/certificates/{serial_of(view.certificate)}")
        associate(ca, who, name)
    associate(ca, other, name_of("web-3"))
    active(ca, name_of("unused"))
    import_(ca)
    associate(ca, who, name_of("shop"))
    start(ca, OfConsumer(str(who.name)), reason=COMPROMISE)
    done = ended(ca)
    assert (counts(done), done.failed_certificates) == ((10, 9, 0, 1), (f"{name_of('shop')}/versions/1",))
    assert revoked_names(ca) == names
    # Whoever may have its key has it no more, and a new one follows.
    ids = [name_of(f"web-{number}") for number in (1, 2, 3)]
    as_time_goes_by(ca, lambda: all(stands(ca, id_).current_version == 4 for id_ in ids), step=RENEWAL_PAUSE)


def test_what_was_revoked_before_is_unchanged_or_upgraded(ca: World) -> None:
    names = issued(ca, 4)
    revoke_batch(ca, [item(names[0]), item(names[1], COMPROMISE)])
    began = ca.clock.now()
    ca.clock.advance(timedelta(hours=1))
    start(ca, ALL_LEAVES)
    assert counts(ended(ca)) == (4, 2, 2, 0)
    upgrade = RevocationCampaignName("default", "upgrade")
    start(ca, ALL_LEAVES, name=upgrade, reason=COMPROMISE)
    assert counts(ended(ca, upgrade)) == (4, 3, 1, 0)
    serial = names[0].rsplit("/", 1)[-1]
    with ca.core.store.read("test.row") as tx:
        row = tx.execute(select(schema.certificates).where(schema.certificates.c.serial == serial)).one()
    assert (row.revocation_reason, row.revoke_time) == (
        COMPROMISE.value,
        int(began.timestamp() * 1_000_000),
    )


def test_expired_ones_only_where_they_are_wanted(ca: World) -> None:
    short = issued(ca, 2, lifetime=timedelta(hours=1))
    long = issued(ca, 1, lifetime=timedelta(days=30))
    ca.clock.advance(timedelta(days=1))
    start(ca, ALL_LEAVES)
    assert counts(ended(ca)) == (1, 1, 0, 0)
    assert revoked_names(ca) == set(long)
    again = RevocationCampaignName("default", "again")
    start(ca, ALL_LEAVES, name=again, include_expired=True)
    assert counts(ended(ca, again)) == (3, 2, 1, 0)
    assert revoked_names(ca) == {*short, *long}


@pytest.mark.usefixtures("of_two")
def test_a_crash_between_pages_loses_and_doubles_nothing(ca: World) -> None:
    names = issued(ca, 7)
    ca.steps.at[PAGE] = crash
    start(ca, ALL_LEAVES)
    eventually(lambda: not ca.steps.at)
    assert counts(get(ca)) == (2, 2, 0, 0)
    as_time_goes_by(ca, lambda: get(ca).state is DONE)
    assert counts(get(ca)) == (7, 7, 0, 0)
    assert Counter(event.resource for event in events_of(ca, EventType.CERTIFICATE_REVOKED)) == Counter(names)
    assert len(events_of(ca, EventType.REVOCATION_CAMPAIGN_ENDED)) == 1


@pytest.mark.usefixtures("of_two")
def test_what_is_issued_meanwhile_neither_stops_nor_doubles_it(ca: World) -> None:
    names = issued(ca, 5)

    def meanwhile() -> None:
        ca.clock.advance(timedelta(seconds=1))
        issued(ca, 3)

    ca.steps.at[PAGE] = meanwhile
    start(ca, ALL_LEAVES)
    assert counts(ended(ca)) == (5, 5, 0, 0)
    assert revoked_names(ca) == set(names)


def test_what_is_being_signed_when_it_begins_is_waited_for(ca: World) -> None:
    intended, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        intended.set()
        assert go_on.wait(60)

    names = issued(ca, 2)
    ca.steps.at["issue.3.intended"] = hold
    with ThreadPoolExecutor(1) as executor:
        issuing = executor.submit(ca.issue, "late.example.internal")
        assert intended.wait(30)
        ca.clock.advance(timedelta(seconds=1))
        start(ca, ALL_LEAVES)
        eventually(lambda: _due_time(ca) == ca.clock.now() + timedelta(seconds=1))
        assert (get(ca).state, counts(get(ca))) == (RUNNING, (0, 0, 0, 0))
        go_on.set()
        late = issuing.result(60).name
    as_time_goes_by(ca, lambda: get(ca).state is DONE)
    assert counts(get(ca)) == (3, 3, 0, 0)
    assert revoked_names(ca) == {*names, late}


def _due_time(world: World) -> datetime | None:
    with world.core.store.read("test.due") as tx:
        return jobs.due_time(tx, JobKind.ADVANCE_REVOCATION_CAMPAIGN, get(world).uid)


@pytest.mark.usefixtures("of_two")
def test_one_that_is_cancelled_goes_no_further(ca: World) -> None:
    issued(ca, 7)
    ca.steps.at[PAGE] = lambda: ca.core.revocation_campaigns.cancel(ADMINISTRATOR, LEAK)
    start(ca, ALL_LEAVES)
    over = ended(ca)
    assert (over.state, counts(over), over.end_time) == (CANCELLED, (2, 2, 0, 0), ca.clock.now())
    eventually(lambda: not has_job(ca, over))
    assert len(revoked_names(ca)) == 2
    told = events_of(ca, EventType.REVOCATION_CAMPAIGN_ENDED)
    assert [(event.principal, event.details["state"]) for event in told] == [(ADMINISTRATOR.principal, "CANCELLED")]
    # Again, and it stays as it is.
    assert ca.core.revocation_campaigns.cancel(ADMINISTRATOR, LEAK) == over
    assert events_of(ca, EventType.REVOCATION_CAMPAIGN_ENDED) == told


@pytest.mark.usefixtures("of_two")
@pytest.mark.parametrize("how", ["grant", "identity"])
def test_who_may_revoke_no_more_has_it_ended(ca: World, how: str) -> None:
    issued(ca, 7)
    operator = holder(ca, "operator", Role.AUTHORITY_OPERATOR, str(CA))

    def revoke_identity() -> None:
        name, now = IdentityName(None, "operator"), ca.clock.now()
        spiffe_id = f"spiffe://{TRUST_DOMAIN}/identities/operator"
        ca.core.store.write(
            "test.identity", lambda tx: identities.ensure(tx, name, spiffe_id, IdentityState.REVOKED, now)
        )

    ca.steps.at[PAGE] = revoke_identity if how == "identity" else lambda: withdraw(ca, operator)
    start(ca, ALL_LEAVES, authority=CA, caller=operator)
    over = ended(ca)
    assert (over.state, counts(over)) == (CANCELLED, (2, 2, 0, 0))
    (told,) = events_of(ca, EventType.REVOCATION_CAMPAIGN_ENDED)
    assert told.principal == SYSTEM_PRINCIPAL
    assert "certificate.revoke" in told.details["cause"]
    assert not has_job(ca, over)


def test_authorities_are_disabled_and_a_root_does_not_revoke_itself(ca: World) -> None:
    ca.create_subordinate("mail")
    names = {certificate_of(ca, "ca", "root"), certificate_of(ca, "mail", "root")}
    start(ca, UnderProfileOf("root-ca"))
    over = ended(ca)
    assert (counts(over), over.failed_certificates) == ((1, 0, 0, 1), (certificate_of(ca, "root", "root"),))
    again = RevocationCampaignName("default", "again")
    start(ca, UnderProfileOf("subordinate-ca"), name=again)
    assert counts(ended(ca, again)) == (2, 2, 0, 0)
    assert revoked_names(ca) == names
    assert len(events_of(ca, EventType.AUTHORITY_DISABLED)) == 2


def test_who_may_revoke_some_of_them_makes_none(ca: World) -> None:
    (name,) = issued(ca, 1)
    for scope in (name, "tenants/default/authorities/root"):
        operator = holder(ca, f"o{len(scope)}", Role.AUTHORITY_OPERATOR, scope)
        for authority in (CA, None):
            error = refused(
                lambda c=operator, a=authority: start(ca, ALL_LEAVES, authority=a, caller=c),  # type: ignore[misc]  # mypy infers no type for a default.
                Reason.PERMISSION_MISSING,
            )
            assert error.metadata["permission"] == "certificate.revoke"


def test_what_was_lost_counts_as_revoked(ca: World) -> None:
    issued(ca, 3)
    revocation_books.execute(
        ca, "UPDATE certificates SET state = 'LOST', der = NULL, revoke_time = 1 WHERE profile = 'end-entity'"
    )
    start(ca, ALL_LEAVES)
    assert counts(ended(ca)) == (3, 0, 3, 0)


def test_no_more_than_twenty_failures_are_named(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = issued(ca, 25)
    monkeypatch.setattr(campaigns_module, "TOGETHER", 4)
    _break(ca, "true")
    start(ca, ALL_LEAVES)
    over = ended(ca)
    assert (over.state, counts(over)) == (DONE, (25, 0, 0, 25))
    assert len(over.failed_certificates) == 20
    assert set(over.failed_certificates) < set(names)


def _break(world: World, condition: str) -> None:
    """Has the database refuse to change some certificates."""
    revocation_books.execute(
        world,
        f"CREATE TRIGGER broken BEFORE UPDATE ON certificates WHEN {condition}"
        " BEGIN SELECT RAISE(ABORT, 'broken'); END",
    )


def test_what_there_would_be_is_counted_and_nothing_done(ca: World) -> None:
    names = issued(ca, 3)
    revoke_batch(ca, [item(names[0])])
    before = ca.events()
    view = start(ca, ALL_LEAVES, validate_only=True, key=RequestKey(str(uuid.uuid4()), b"a"))
    assert (view.state, counts(view)) == (RUNNING, (3, 0, 0, 0))
    csr = csr_for("www.example.internal")
    assert start(ca, key_of(csr), reason=COMPROMISE, validate_only=True).found_count == 0
    assert not blocked(ca, key_of(csr))
    assert ca.events() == before
    refused(lambda: get(ca), Reason.REVOCATION_CAMPAIGN_NOT_FOUND)


def test_what_nothing_could_fit_is_refused(ca: World) -> None:
    absent = RevocationCampaignName("nowhere", "leak")
    operator = holder(ca, "operator", Role.AUTHORITY_OPERATOR, "*")
    for reason, selection, options in (
        (Reason.PROFILE_NOT_FOUND, UnderProfileOf("absent"), {}),
        (Reason.IDENTITY_NOT_FOUND, OfConsumer("tenants/default/identities/absent"), {}),
        (Reason.AUTHORITY_NOT_FOUND, ALL_LEAVES, {"authority": AuthorityName("default", "absent")}),
        (Reason.TENANT_NOT_FOUND, ALL_LEAVES, {"name": absent}),
        (Reason.FIELD_INVALID, ALL_LEAVES, {"invalidity_time": ca.clock.now() + timedelta(seconds=1)}),
    ):
        for validate_only in (True, False):
            refused(
                lambda s=selection, o=options, v=validate_only: start(ca, s, caller=operator, validate_only=v, **o),  # type: ignore[misc]  # mypy infers no type for a default.
                reason,
            )


def test_a_repeated_call_makes_one(ca: World) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    made = start(ca, ALL_LEAVES, key=key)
    assert start(ca, ALL_LEAVES, key=key).uid == made.uid
    refused(lambda: start(ca, ALL_LEAVES, key=RequestKey(key.request_id, b"b")), Reason.REQUEST_ID_REUSED)
    taken = refused(lambda: start(ca, ALL_LEAVES), Reason.REVOCATION_CAMPAIGN_EXISTS)
    assert taken.resource == str(LEAK)
    assert len(events_of(ca, EventType.REVOCATION_CAMPAIGN_CREATED)) == 1


def test_who_sees_and_ends_it(ca: World) -> None:
    start(ca, ALL_LEAVES, authority=CA)
    ended(ca)
    campaigns = ca.core.revocation_campaigns
    absent = RevocationCampaignName("default", "absent")
    messages = set()
    for name in (LEAK, absent):
        for call in (campaigns.get, campaigns.cancel):
            error = refused(lambda call=call, name=name: call(STRANGER, name), Reason.PERMISSION_MISSING)  # type: ignore[misc]  # As above.
            messages.add(error.message.replace(str(name), "…"))
    assert len(messages) == 2
    refused(lambda: campaigns.page(STRANGER, TenantName("default"), PageRequest(10, "")), Reason.PERMISSION_MISSING)
    # Who may revoke all that it revokes made it, or might have.
    operator = holder(ca, "operator", Role.AUTHORITY_OPERATOR, str(CA))
    assert campaigns.get(operator, LEAK) == campaigns.cancel(operator, LEAK) == get(ca)
    refused(lambda: campaigns.get(operator, absent), Reason.PERMISSION_MISSING)
    auditor = holder(ca, "auditor", Role.AUDITOR, "tenants/default")
    assert campaigns.get(auditor, LEAK) == get(ca)
    refused(lambda: campaigns.cancel(auditor, LEAK), Reason.PERMISSION_MISSING)
    refused(lambda: get(ca, absent), Reason.REVOCATION_CAMPAIGN_NOT_FOUND)


def test_they_are_listed_newest_first(ca: World) -> None:
    names = [RevocationCampaignName("default", f"c{number}") for number in range(5)]
    for name in names:
        start(ca, OfFilter(InDomain("nowhere.internal")), name=name)
        ended(ca, name)
        ca.clock.advance(timedelta(seconds=1))
    listed, token = [], ""
    while True:
        page = ca.core.revocation_campaigns.page(ADMINISTRATOR, TenantName("default"), PageRequest(2, token))
        listed += [one.name for one in page.items]
        token = page.next_page_token
        if not token:
            break
    assert listed == names[::-1]


def test_what_is_broken_is_left_out_and_named(ca: World) -> None:
    names = issued(ca, 5)
    broken = names[2].rsplit("/", 1)[-1]
    _break(ca, f"new.serial = '{broken}'")
    start(ca, ALL_LEAVES)
    over = ended(ca)
    assert (over.state, counts(over), over.failed_certificates) == (DONE, (5, 4, 0, 1), (names[2],))
    assert revoked_names(ca) == {*names[:2], *names[3:]}


def test_ten_thousand_renewals_do_not_come_at_once(ca: World) -> None:
    ids = [name_of(f"web-{number}") for number in range(5)]
    for id_ in ids:
        active(ca, id_)
    now = ca.clock.now()
    ca.steps.at[PAGE] = ca.core.scheduler.wake
    start(ca, OfFilter(InDomain("example.internal")), reason=COMPROMISE)
    assert counts(ended(ca)) == (5, 5, 0, 0)
    planned = {stands(ca, id_).next_attempt_time for id_ in ids}
    assert {now + number * RENEWAL_PAUSE for number in range(1, 5)} <= planned
    as_time_goes_by(ca, lambda: all(stands(ca, id_).current_version == 2 for id_ in ids), step=RENEWAL_PAUSE)


def test_two_daemons_revoke_each_once(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        names = issued(first, 100)
        made = start(second, ALL_LEAVES, reason=COMPROMISE)
        # All work on it, whoever has the job: what one read and another has done is not done again.
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda world: world.core.revocation_campaigns.advance(made.uid), (first, second) * 2))
        done = ended(first)
        assert (done.state, counts(done)) == (DONE, (100, 100, 0, 0))
        kind = EventType.CERTIFICATE_REVOKED
        # Events get their place soon after their commit.
        eventually(lambda: len(events_of(second, kind)) >= 100)
        assert Counter(event.resource for event in events_of(second, kind)) == Counter(names)
        eventually(lambda: len(events_of(first, EventType.REVOCATION_CAMPAIGN_ENDED)) == 1)
