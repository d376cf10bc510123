"""Batches of revocations: each item succeeds or fails alone, and a repetition does only what was not done."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, text

from certd.errors import CertdError, Reason
from certd.model.access import Role
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.names import CertificateName, ManagedCertificateName
from certd.services.certificates import CertificateView
from certd.services.idempotency import RequestKey
from certd.services.revocation import NewRevocation
from certd.services.revocation_records import RENEWAL_PAUSE, TOGETHER
from certd.store import revocation_schema
from certd.store.values import microseconds
from tests.services import revocation_books
from tests.services.batches import outcomes, refused
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash
from tests.services.consumers import active
from tests.services.incidents import (
    COMPROMISE,
    SUPERSEDED,
    events_of,
    holder,
    issued,
    item,
    revoke_batch,
    revoked_names,
    serial_of,
)
from tests.services.managed_books import as_time_goes_by, stands
from tests.services.test_revocation import certificate_of

CA = "tenants/default/authorities/ca"
COMMITTED = "revoke-batch.1.committed"


def views(made: list[CertificateView | CertdError]) -> list[CertificateView]:
    found = [one for one in made if isinstance(one, CertificateView)]
    assert len(found) == len(made), outcomes(made)
    return found


def test_forty_are_revoked_in_two_transactions_and_stand_on_the_crl(ca: World) -> None:
    names = issued(ca, 40)
    revocation_books.settle(ca)
    before = len(ca.events())
    made = views(revoke_batch(ca, [item(name) for name in names]))
    assert [view.name for view in made] == names
    assert {(view.certificate.state, view.certificate.revoke_time, view.chain) for view in made} == {
        (CertificateState.REVOKED, ca.clock.now(), ())
    }
    assert ca.steps.seen.count(COMMITTED) == 2
    assert [(event.type, event.resource) for event in ca.events()[before:]] == [
        (EventType.CERTIFICATE_REVOKED, name) for name in names
    ]
    revocation_books.settle(ca)
    on_it = revocation_books.entries(revocation_books.published(ca))
    assert {f"{CA}/certificates/{serial}" for serial in on_it} == set(names)
    assert {entry.reason for entry in on_it.values()} == {"superseded"}


def test_each_item_fails_alone_with_what_a_single_call_would_say(ca: World) -> None:
    good, other, again = issued(ca, 3)
    views(revoke_batch(ca, [item(again)]))
    future = ca.clock.now() + timedelta(seconds=1)
    absent, nowhere = f"{CA}/certificates/ab", "tenants/default/authorities/absent/certificates/ab"
    made = revoke_batch(
        ca,
        [
            item(again),
            item(absent),
            item(good),
            item(nowhere),
            item(other, invalidity_time=future),
            item(certificate_of(ca, "root", "root")),
            item(good),
        ],
    )
    assert outcomes(made) == [
        Reason.ALREADY_REVOKED,
        Reason.CERTIFICATE_NOT_FOUND,
        None,
        Reason.AUTHORITY_NOT_FOUND,
        Reason.FIELD_INVALID,
        Reason.STATE_FORBIDS,
        # By the item before.
        Reason.ALREADY_REVOKED,
    ]
    assert revoked_names(ca) == {good, again}


def test_a_second_revocation_is_an_upgrade_or_none(ca: World) -> None:
    first, second = issued(ca, 2)
    since = ca.clock.now()
    ca.clock.advance(timedelta(hours=1))
    views(revoke_batch(ca, [item(first), item(second)]))
    ca.clock.advance(timedelta(hours=1))
    kept, moved = views(revoke_batch(ca, [item(first, COMPROMISE), item(second, COMPROMISE, invalidity_time=since)]))
    assert kept.certificate.revoke_time == ca.clock.now() - timedelta(hours=1)
    assert moved.certificate.revoke_time == moved.certificate.invalidity_time == since
    assert outcomes(revoke_batch(ca, [item(first, COMPROMISE)])) == [Reason.ALREADY_REVOKED]


def test_a_repeated_batch_does_what_was_not_done(ca: World) -> None:
    names = issued(ca, 40)
    ids = str(uuid.uuid4())
    items = [item(name, key=RequestKey(f"{ids}/{number}", b"a")) for number, name in enumerate(names)]
    ca.steps.at[COMMITTED] = crash
    with pytest.raises(CrashError):
        revoke_batch(ca, items)
    done = ca.clock.now()
    assert revoked_names(ca) == set(names[:TOGETHER])
    ca.clock.advance(timedelta(minutes=1))
    again = views(revoke_batch(ca, items))
    assert {view.certificate.revoke_time for view in again[:TOGETHER]} == {done}
    assert {view.certificate.revoke_time for view in again[TOGETHER:]} == {ca.clock.now()}
    before = ca.events()
    ca.clock.advance(timedelta(minutes=1))
    assert [view.certificate for view in views(revoke_batch(ca, items))] == [view.certificate for view in again]
    assert ca.events() == before
    # Of a call of its own as well.
    new = NewRevocation(name=CertificateName.parse("name", names[3]), reason=SUPERSEDED)
    alone = ca.core.revocation.revoke(ADMINISTRATOR, new, key=items[3].key, validate_only=False)
    assert alone.certificate == again[3].certificate


def test_what_fails_may_be_repeated_and_an_id_stands_for_one_request(ca: World) -> None:
    (name,) = issued(ca, 1)
    key = RequestKey(str(uuid.uuid4()), b"a")
    future = ca.clock.now() + timedelta(seconds=1)
    assert outcomes(revoke_batch(ca, [item(name, key=key, invalidity_time=future)])) == [Reason.FIELD_INVALID]
    views(revoke_batch(ca, [item(name, key=key)]))
    other = RequestKey(key.request_id, b"b")
    assert outcomes(revoke_batch(ca, [item(name, key=other)])) == [Reason.REQUEST_ID_REUSED]


def test_validate_only_changes_nothing(ca: World) -> None:
    names = issued(ca, 3)
    views(revoke_batch(ca, [item(names[0])]))
    before = ca.events()
    made = revoke_batch(ca, [item(name, key=RequestKey(str(uuid.uuid4()), b"a")) for name in names], validate_only=True)
    assert outcomes(made) == [Reason.ALREADY_REVOKED, None, None]
    assert (ca.events(), revoked_names(ca)) == (before, {names[0]})


def test_who_may_revoke_none_is_refused_and_who_may_some_is_told_of_the_others(ca: World) -> None:
    ca.create_subordinate("mail")
    ours, others = issued(ca, 1), [ca.issue("mail.example.internal", authority="mail").name]
    items = [item(name) for name in (*ours, *others)]
    error = refused(lambda: revoke_batch(ca, items, caller=STRANGER), Reason.PERMISSION_MISSING)
    assert error.metadata["permission"] == "certificate.revoke"
    issuer = holder(ca, "issuer", Role.ISSUER, "*")
    refused(lambda: revoke_batch(ca, items, caller=issuer), Reason.PERMISSION_MISSING)
    for nobody in (STRANGER, issuer):
        refused(lambda nobody=nobody: revoke_batch(ca, [], caller=nobody), Reason.PERMISSION_MISSING)  # type: ignore[misc]  # mypy infers no type for a default.
    operator = holder(ca, "operator", Role.AUTHORITY_OPERATOR, CA)
    made = revoke_batch(ca, items, caller=operator)
    assert outcomes(made) == [None, Reason.PERMISSION_MISSING]
    assert revoked_names(ca) == set(ours)


def test_the_certificate_of_an_authority_needs_the_permission_to_disable(ca: World) -> None:
    name = certificate_of(ca, "ca", "root")
    (leaf,) = issued(ca, 1)
    alone = holder(ca, "alone", Role.AUTHORITY_OPERATOR, name)
    refused(lambda: revoke_batch(ca, [item(leaf)], caller=alone), Reason.PERMISSION_MISSING)
    (error,) = revoke_batch(ca, [item(name)], caller=alone)
    assert isinstance(error, CertdError)
    assert (error.reason, error.metadata["permission"]) == (Reason.PERMISSION_MISSING, "authority.enable")
    assert not events_of(ca, EventType.AUTHORITY_DISABLED)
    views(revoke_batch(ca, [item(name), item(leaf)]))
    assert [event.resource for event in events_of(ca, EventType.AUTHORITY_DISABLED)] == [CA]


def test_what_is_broken_in_one_takes_nothing_from_the_others(ca: World) -> None:
    names = issued(ca, 5)
    broken = names[2].rsplit("/", 1)[-1]
    ca.core.store.write(
        "test.break",
        lambda tx: tx.execute(
            text(
                "CREATE TRIGGER broken BEFORE UPDATE ON certificates WHEN new.serial = '"
                + broken
                + "' BEGIN SELECT RAISE(ABORT, 'broken'); END"
            )
        ),
    )
    made = revoke_batch(ca, [item(name) for name in names])
    assert outcomes(made) == [None, None, Reason.INTERNAL, None, None]
    assert revoked_names(ca) == {*names[:2], *names[3:]}
    assert len(events_of(ca, EventType.CERTIFICATE_REVOKED)) == 4


def test_renewals_do_not_come_at_once(ca: World) -> None:
    ids = [ManagedCertificateName("default", f"web-{number}") for number in range(3)]
    names = [f"{CA}/certificates/{serial_of(active(ca, id_).certificate)}" for id_ in ids]
    now = ca.clock.now()
    views(revoke_batch(ca, [item(name, COMPROMISE) for name in names]))
    due = [stands(ca, id_).next_attempt_time for id_ in ids]
    # The first is perhaps renewed by now.
    assert due[1:] == [now + RENEWAL_PAUSE, now + 2 * RENEWAL_PAUSE]
    as_time_goes_by(ca, lambda: all(stands(ca, id_).current_version == 2 for id_ in ids), step=RENEWAL_PAUSE)


def test_the_answer_that_was_signed_ahead_goes(ca: World) -> None:
    names = issued(ca, 2)
    rows = revocation_schema.ocsp_responses
    key, soon = revocation_books.key_of(ca), microseconds(ca.clock.now() + timedelta(hours=1))
    for name in names:
        columns = {
            "authority_uid": key.authority_uid,
            "key_number": key.key_number,
            "serial": name.rsplit("/", 1)[-1],
            "responder_number": 1,
            "der": b"good",
            "this_update": soon,
            "next_update": soon,
        }
        ca.core.store.write("test.answer", lambda tx, columns=columns: tx.execute(insert(rows), columns))  # type: ignore[misc]  # As above.
    views(revoke_batch(ca, [item(names[0])]))
    with ca.core.store.read("test.answers") as tx:
        left = tx.execute(select(rows.c.serial).where(rows.c.der == b"good")).scalars().all()
    assert left == [names[1].rsplit("/", 1)[-1]]
