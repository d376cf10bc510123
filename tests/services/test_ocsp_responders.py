"""Responders and what they sign ahead: how they come to be, are replaced, and answer for authorities at their end."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp
from sqlalchemy import text

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.names import AuthorityName, CertificateName
from certd.model.revocation_settings import OcspSettings, RevocationSettings, SettingsChange
from certd.pki.key_spec import KeySpec
from certd.services.ocsp_presigning import PAGE_LENGTH, PAGES
from certd.services.ocsp_responders import LIFETIME, RENEWED_BEFORE
from certd.services.revocation import NewRevocation
from certd.store import jobs
from tests.services.conftest import ADMINISTRATOR, World, crash
from tests.services.ocsp_books import (
    DAY,
    HOUR,
    answer,
    ask,
    authority,
    due_time,
    eventually_stored,
    forget_memory,
    issuer,
    load,
    request,
    responders,
    run_job,
    serial_of,
    status,
    stored,
)
from tests.services.revocation_books import execute, of_type, revoke
from tests.waiting import eventually

GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED


def _answers(world: World) -> dict[str, int]:
    with world.core.store.read("test") as tx:
        rows = tx.execute(text("SELECT serial, this_update FROM ocsp_responses")).all()
    return {row.serial: row.this_update for row in rows}


def test_the_scheduler_makes_a_responder_a_minute_after_its_authority(ca: World) -> None:
    assert responders(ca) == []
    assert due_time(ca) == ca.clock.now() + timedelta(minutes=1)
    view = ca.issue("www.example.internal")
    ca.clock.advance(timedelta(minutes=1))
    ca.core.scheduler.wake()
    eventually_stored(ca, view)
    (responder,) = responders(ca)
    (told,) = [one for one in of_type(ca, EventType.OCSP_RESPONDER_ROTATED) if one.resource.endswith("/ca")]
    assert (told.details["key"], told.details["responder"]) == ("1", "1")
    assert responder.not_after == ca.clock.now() + LIFETIME - timedelta(seconds=1)


@pytest.mark.parametrize("step", ["responder.1.begun", "responder.2.key-made", "responder.3.key-recorded"])
def test_who_finds_a_responder_unfinished_goes_on_where_it_stands(ca: World, step: str) -> None:
    ca.steps.at[step] = crash
    with pytest.raises(Exception):  # noqa: B017, PT011  # The death of the process.
        run_job(ca)
    run_job(ca)
    (responder,) = responders(ca)
    assert (responder.number, responder.certificate is not None) == (1, True)


@pytest.mark.parametrize("authority_key", [KeySpec.RSA_2048, KeySpec.ED25519])
def test_the_key_of_a_responder_is_one_that_relying_parties_verify(ca: World, authority_key: KeySpec) -> None:
    ca.create_subordinate("other", key_spec=authority_key)
    name = AuthorityName("default", "other")
    view = ca.issue("www.example.internal", authority="other")
    run_job(ca, name)
    content = request(issuer(ca, name), [serial_of(view)], nonce=b"n")
    found = ocsp.load_der_ocsp_response(ask(ca, content, name))
    (certificate,) = found.certificates
    certificate.verify_directly_issued_by(issuer(ca, name))
    assert isinstance(certificate.public_key(), rsa.RSAPublicKey) is (authority_key is KeySpec.RSA_2048)
    assert found.certificate_status is GOOD


def test_what_is_alive_is_signed_ahead_and_again_at_half_of_its_time(ca: World) -> None:
    views = [ca.issue(f"www{place}.example.internal") for place in range(3)]
    revoke(ca, views[0])
    brief = ca.issue("brief.example.internal", lifetime=HOUR)
    run_job(ca)
    assert all(stored(ca, view) is not None for view in (*views, brief))
    forget_memory(ca)
    began = ca.clock.now()
    ca.clock.advance(DAY - timedelta(minutes=1))
    run_job(ca)
    assert answer(ca, views[1]).this_update_utc == began
    ca.clock.advance(timedelta(minutes=2))
    run_job(ca)
    forget_memory(ca)
    assert [answer(ca, view).this_update_utc for view in views] == [ca.clock.now()] * 3
    assert [status(ca, view) for view in views] == [REVOKED, GOOD, GOOD]
    # What has expired is not signed again, and its answer goes when it ends.
    ca.clock.advance(2 * DAY)
    run_job(ca)
    assert stored(ca, brief) is None


def test_a_run_does_a_slice_and_the_next_one_goes_on(ca: World) -> None:
    run_job(ca)
    (view,) = [ca.issue("www.example.internal")]
    # Rows like that of the certificate, more than a run signs.
    columns = "authority_uid, key_number, issuer_name_sha256, state, der, profile, profile_version, subject_text,"
    columns += " not_before, not_after, public_key_sha256, key_spec, labels, owner_epoch, create_time"
    execute(
        ca,
        f"INSERT INTO certificates (serial, {columns}) WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n"
        f" WHERE n < :count) SELECT printf('40%030x', n.n), {columns} FROM n, certificates WHERE serial = :serial",
        count=PAGES * PAGE_LENGTH,
        serial=view.name.rpartition("/")[2],
    )
    ca.steps.seen.clear()
    run_job(ca)
    assert ca.steps.seen.count("ocsp.page-signed") == PAGES
    assert due_time(ca) == ca.clock.now()
    run_job(ca)
    assert stored(ca, view) is not None
    assert len(_answers(ca)) >= PAGES * PAGE_LENGTH + 1
    assert due_time(ca) == ca.clock.now() + 3 * HOUR


def test_a_responder_is_replaced_before_its_end_and_its_key_destroyed_after_it(ca: World) -> None:
    view = ca.issue("www.example.internal")
    run_job(ca)
    (first,) = responders(ca)
    ca.clock.advance(LIFETIME - RENEWED_BEFORE - timedelta(seconds=2))
    run_job(ca)
    assert responders(ca) == [first]
    assert due_time(ca) <= ca.clock.now() + timedelta(seconds=2)
    ca.clock.advance(timedelta(seconds=2))
    run_job(ca)
    second, kept = responders(ca)
    assert (second.number, kept) == (2, first)
    forget_memory(ca)
    # The answer that the first one signed holds, and comes with the certificate of the first one.
    assert answer(ca, view).certificates[0].serial_number == _serial(first.certificate)
    ca.clock.advance(2 * DAY)
    assert answer(ca, view).certificates[0].serial_number == _serial(second.certificate)
    ca.clock.advance(RENEWED_BEFORE)
    run_job(ca)
    assert [one.number for one in responders(ca)] == [2]
    assert not ca.core.token.destroy_authority_key(key_id=first.key_id, policy=first.policy)


def _serial(certificate: bytes | None) -> int:
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


def test_no_answer_holds_longer_than_who_signed_it(ca: World) -> None:
    long = SettingsChange(
        given=RevocationSettings(ocsp=OcspSettings(lifetime=30 * DAY)), paths=frozenset({"ocsp.lifetime"})
    )
    ca.create_subordinate("long", revocation=long)
    name = AuthorityName("default", "long")
    view = ca.issue("www.example.internal", authority="long")
    run_job(ca, name)
    ca.clock.advance(5 * DAY)
    content = request(issuer(ca, name), [serial_of(view)], nonce=b"n")
    found = load(ask(ca, content, name), issuer(ca, name))
    assert found.next_update_utc == found.certificates[0].not_valid_after_utc


def test_near_its_end_the_authority_answers_itself_and_then_nobody_does(ca: World) -> None:
    ca.create_subordinate("brief", lifetime=DAY)
    name = AuthorityName("default", "brief")
    view = ca.issue("www.example.internal", authority="brief", lifetime=HOUR)
    run_job(ca, name)
    end = authority(ca, name).not_after
    assert end is not None
    assert [one.not_after for one in responders(ca, name)] == [end]
    ca.clock.advance(end - ca.clock.now() - timedelta(minutes=30))
    content = request(issuer(ca, name), [serial_of(view)], nonce=b"n")
    found = load(ask(ca, content, name), issuer(ca, name))
    assert (found.certificates, found.next_update_utc) == ([], end)
    run_job(ca, name)
    ca.clock.advance(HOUR)
    assert ocsp.load_der_ocsp_response(ask(ca, content, name)).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    (last,) = responders(ca, name)
    run_job(ca, name)
    assert (due_time(ca, name), responders(ca, name)) == (None, [])
    assert not ca.core.token.destroy_authority_key(key_id=last.key_id, policy=last.policy)


@pytest.mark.parametrize("state", ["DISABLED", "DELETED"])
def test_an_authority_that_issues_nothing_more_is_answered_for(ca: World, state: str) -> None:
    view = ca.issue("www.example.internal")
    if state == "DELETED":
        execute(ca, "UPDATE authorities SET delete_time = :now WHERE authority_id = 'ca'", now=1)
    else:
        execute(ca, "UPDATE authorities SET state = 'DISABLED' WHERE authority_id = 'ca'")
    ca.core.store.write("test", lambda tx: tx.configuration_changed())
    with pytest.raises(CertdError) as refused:
        ca.issue("api.example.internal")
    assert refused.value.reason in {Reason.AUTHORITY_NOT_ENABLED, Reason.AUTHORITY_NOT_FOUND}
    uid = view.name  # The certificate's name keeps the authority's id.
    assert uid
    run_job(ca)
    assert responders(ca)[0].certificate is not None
    ca.clock.advance(25 * DAY)
    run_job(ca)
    assert len(responders(ca)) == 2
    assert status(ca, view) is GOOD


def test_a_key_whose_place_another_took_is_answered_for_until_all_of_it_has_ended(ca: World) -> None:
    ca.core.scheduler.stop()
    ca.issue("www.example.internal", lifetime=90 * DAY)
    run_job(ca)
    execute(ca, "UPDATE authority_keys SET state = 'SUPERSEDED' WHERE number = 1")
    ca.clock.advance(80 * DAY)
    run_job(ca)
    assert due_time(ca) is not None
    ca.clock.advance(11 * DAY)
    # Nothing is left to be answered for, and the last responder ends by itself.
    run_job(ca)
    (last,) = responders(ca)
    assert last.not_after is not None
    assert due_time(ca) == last.not_after + timedelta(seconds=1)
    ca.clock.advance(due_time(ca) - ca.clock.now())
    run_job(ca)
    assert (due_time(ca), responders(ca)) == (None, [])
    assert not ca.core.token.destroy_authority_key(key_id=last.key_id, policy=last.policy)


def test_a_responder_that_is_revoked_answers_no_more(ca: World) -> None:
    ca.core.scheduler.stop()
    view = ca.issue("www.example.internal")
    run_job(ca)
    (first,) = responders(ca)
    assert stored(ca, view) is not None
    name = CertificateName("default", "ca", f"{_serial(first.certificate):x}")
    ca.core.revocation.revoke(ADMINISTRATOR, NewRevocation(name=name), key=None, validate_only=False)
    # Until there is another one, a minute later, the authority answers itself.
    assert answer(ca, view).certificates == []
    assert due_time(ca) == ca.clock.now() + timedelta(minutes=1)
    run_job(ca)
    assert [one.number for one in responders(ca)] == [2, 1]
    assert answer(ca, view, nonce=b"n").certificates[0].serial_number == _serial(responders(ca)[0].certificate)


def test_what_a_clock_that_was_ahead_has_dated_in_the_future_is_made_anew(ca: World) -> None:
    ca.core.scheduler.stop()
    view = ca.issue("www.example.internal")
    ca.clock.advance(60 * DAY)
    run_job(ca)
    ca.clock.advance(-60 * DAY)
    # Who starts with the right time does the job now, and not when the wrong one said.
    ca.core.publication.answering.begin()
    assert due_time(ca) == ca.clock.now() + timedelta(minutes=1)
    run_job(ca)
    kept = stored(ca, view)
    assert kept is not None
    assert (kept.this_update, kept.responder_number) == (ca.clock.now(), 2)
    assert answer(ca, view).certificates[0].not_valid_before_utc <= ca.clock.now()


def test_a_responder_that_never_came_to_answer_leaves_no_key(ca: World) -> None:
    ca.core.scheduler.stop()
    ca.steps.at["responder.2.key-made"] = crash
    with pytest.raises(Exception):  # noqa: B017, PT011  # The death of the process.
        run_job(ca)
    (begun,) = responders(ca)
    execute(ca, "UPDATE authority_keys SET state = 'SUPERSEDED' WHERE number = 1")
    run_job(ca)
    assert (due_time(ca), responders(ca)) == (None, [])
    assert not ca.core.token.destroy_authority_key(key_id=begun.key_id, policy=begun.policy)


def test_a_daemon_that_starts_finds_authorities_that_nobody_answers_for(ca: World) -> None:
    uid = authority(ca).uid
    ca.core.store.write("test", lambda tx: jobs.finish(tx, JobKind.ADVANCE_OCSP_RESPONDER, f"{uid}/1"))
    ca.core.publication.answering.stop()
    ca.core.publication.answering.begin()
    assert due_time(ca) is not None


def test_answers_of_the_authority_itself_give_way_to_those_of_its_responder(ca: World) -> None:
    view = ca.issue("www.example.internal")
    assert answer(ca, view).certificates == []
    eventually(lambda: stored(ca, view) is not None)
    run_job(ca)
    ca.clock.advance(DAY + HOUR)
    run_job(ca)
    forget_memory(ca)
    assert len(answer(ca, view).certificates) == 1
