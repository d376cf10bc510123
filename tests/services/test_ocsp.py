"""What is answered to OCSP requests: of what is alive, revoked, lost, being signed, unknown, or another issuer's."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ReasonFlags, ocsp
from sqlalchemy import text

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName
from certd.model.revocation_settings import OcspSettings, RevocationSettings, SettingsChange
from certd.pki import der
from certd.pki.ocsp_request import parse_request
from certd.services.authority_changes import Change, NewSettings
from certd.services.ocsp import QUEUE_LENGTH
from tests.services.conftest import ADMINISTRATOR, World
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
    run_job,
    serial_of,
    status,
    stored,
)
from tests.services.revocation_books import CA, execute, revoke

GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
_TRY_LATER = ocsp.OCSPResponseStatus.TRY_LATER
_UNAUTHORIZED = ocsp.OCSPResponseStatus.UNAUTHORIZED


def _refusal(response: bytes) -> ocsp.OCSPResponseStatus:
    return ocsp.load_der_ocsp_response(response).response_status


def test_a_certificate_is_good_by_the_authority_itself_before_there_is_a_responder(ca: World) -> None:
    view = ca.issue("www.example.internal")
    found = answer(ca, view)
    assert (found.certificate_status, found.serial_number, found.certificates) == (GOOD, serial_of(view), [])
    assert found.responder_key_hash is not None
    assert found.responder_name is None
    assert found.produced_at_utc == found.this_update_utc == ca.clock.now()
    assert found.next_update_utc == ca.clock.now() + 2 * DAY
    assert len(found.extensions) == 0


def test_a_responder_answers_in_the_name_of_the_authority(ca: World) -> None:
    view = ca.issue("www.example.internal")
    run_job(ca)
    found = answer(ca, view)
    (certificate,) = found.certificates
    assert certificate.subject.rfc4514_string() == "CN=OCSP responder,O=Example"
    assert certificate.not_valid_after_utc - ca.clock.now() == timedelta(days=30, seconds=-1)
    assert found.certificate_status is GOOD


def test_a_revocation_is_answered_at_once_whatever_was_kept(ca: World) -> None:
    views = [ca.issue(f"www{place}.example.internal") for place in range(len(RevocationReason))]
    run_job(ca)
    assert all(status(ca, view) is GOOD for view in views)
    assert all(answer(ca, view, algorithm=hashes.SHA256()).certificate_status is GOOD for view in views)
    ca.clock.advance(HOUR)
    for view, reason in zip(views, RevocationReason, strict=True):
        revoke(ca, view, reason)
        assert stored(ca, view) is None
        for algorithm in (hashes.SHA1(), hashes.SHA256()):  # What clients ask by.
            found = answer(ca, view, algorithm=algorithm)
            assert (found.certificate_status, found.revocation_time_utc) == (REVOKED, ca.clock.now())
            wanted = None if reason is RevocationReason.UNSPECIFIED else ReasonFlags(reason.value)
            assert found.revocation_reason == wanted
        # It is stored for all who ask after this.
        kept = eventually_stored(ca, view)
        assert kept.this_update == ca.clock.now()


def test_an_answer_that_is_signed_while_its_certificate_is_revoked_is_not_kept(ca: World) -> None:
    view = ca.issue("www.example.internal")
    content = request(issuer(ca), [serial_of(view)])
    ca.steps.at["ocsp.1.looked-up"] = lambda: revoke(ca, view)
    # Who asked before the revocation is told what was so then.
    assert load(ask(ca, content), issuer(ca)).certificate_status is GOOD
    assert ca.core.publication.answering.answers.memory.get(content) is None
    assert status(ca, view) is REVOKED
    forget_memory(ca)
    assert status(ca, view) is REVOKED


def test_an_answer_that_is_stored_after_its_certificate_is_revoked_is_not_stored(ca: World) -> None:
    view = ca.issue("www.example.internal")
    revoked = threading.Event()

    def revoke_now() -> None:
        revoke(ca, view)
        revoked.set()

    ca.steps.at["ocsp.2.answered"] = revoke_now
    assert status(ca, view) is GOOD
    assert revoked.wait(30)
    assert status(ca, view) is REVOKED
    forget_memory(ca)
    assert status(ca, view) is REVOKED


def test_an_answer_by_a_responder_of_which_nobody_has_heard_here_is_signed_anew(ca: World) -> None:
    view = ca.issue("www.example.internal")
    assert status(ca, view) is GOOD
    eventually_stored(ca, view)
    # Another daemon has made one, and its answer is here before the news.
    execute(ca, "UPDATE ocsp_responses SET responder_number = 9")
    forget_memory(ca)
    assert status(ca, view) is GOOD


def test_what_is_being_signed_is_answered_later(ca: World) -> None:
    run_job(ca)
    intended, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        intended.set()
        assert go_on.wait(30)

    ca.steps.at["issue.3.intended"] = wait
    with ThreadPoolExecutor(1) as executor:
        issuing = executor.submit(ca.issue, "www.example.internal")
        assert intended.wait(30)
        with ca.core.store.read("test") as tx:
            serial = tx.execute(text("SELECT serial FROM certificates WHERE state = 'PENDING'")).scalar_one()
        content = request(issuer(ca), [int(serial, 16)])
        assert _refusal(ask(ca, content)) is _TRY_LATER
        run_job(ca)
        assert _refusal(ask(ca, content)) is _TRY_LATER
        go_on.set()
    assert status(ca, issuing.result()) is GOOD


def test_what_was_lost_is_revoked_since_then_for_no_reason(ca: World) -> None:
    view = ca.issue("www.example.internal")
    lost = "UPDATE certificates SET state = 'LOST', der = NULL, revoke_time = create_time WHERE serial = :serial"
    execute(ca, lost, serial=view.name.rpartition("/")[2])
    issued = ca.clock.now()
    ca.clock.advance(HOUR)
    found = answer(ca, view)
    assert (found.certificate_status, found.revocation_time_utc, found.revocation_reason) == (REVOKED, issued, None)


@pytest.mark.parametrize("serial", [1, 1 << 126, (1 << 159) - 1, 1 << 200, 0, -5])
def test_what_was_never_issued_is_unknown_and_not_kept(ca: World, serial: int) -> None:
    content = request(issuer(ca), [serial])
    found = load(ask(ca, content), issuer(ca))
    assert (found.certificate_status, found.serial_number) == (UNKNOWN, serial)
    assert ca.core.publication.answering.answers.memory.get(content) is None
    with ca.core.store.read("test") as tx:
        assert tx.execute(text("SELECT count(*) FROM ocsp_responses")).scalar_one() == 0


def test_what_has_expired_is_answered_as_long_as_the_books_know_it(ca: World) -> None:
    view = ca.issue("www.example.internal", lifetime=HOUR)
    revoke(ca, view)
    ca.clock.advance(10 * DAY)
    assert status(ca, view) is REVOKED


def test_several_are_answered_together_or_not_at_all(ca: World) -> None:
    views = [ca.issue(f"www{place}.example.internal") for place in range(3)]
    revoke(ca, views[1])
    several = [*map(serial_of, views), 77]
    found = load(ask(ca, request(issuer(ca), several, nonce=b"n" * 32)), issuer(ca))
    told = [(one.serial_number, one.certificate_status) for one in found.responses]
    assert told == list(zip(several, [GOOD, REVOKED, GOOD, UNKNOWN], strict=True))
    # One that another authority has issued leaves nothing that could be signed.
    foreign = request(issuer(ca, AuthorityName("default", "root")), [1])
    mixed = der.sequence(der.sequence(der.sequence(_single(foreign), _single(request(issuer(ca), several[:1])))))
    assert _refusal(ask(ca, mixed)) is _UNAUTHORIZED
    assert _refusal(ask(ca, foreign)) is _UNAUTHORIZED


def _single(content: bytes) -> bytes:
    reader = der.Reader(content).enter(der.SEQUENCE).enter(der.SEQUENCE).enter(der.SEQUENCE)
    return reader.read_whole(der.SEQUENCE)


@pytest.mark.parametrize("length", [1, 16, 32, 128])
def test_a_nonce_is_answered_with_it_and_nothing_of_that_is_kept(ca: World, length: int) -> None:
    view, nonce = ca.issue("www.example.internal"), bytes(range(length))
    found = answer(ca, view, nonce=nonce)
    extension = found.extensions.get_extension_for_class(x509.OCSPNonce)
    assert (extension.value.nonce, extension.critical) == (nonce, False)
    assert stored(ca, view) is None
    assert ca.core.publication.answering.answers.memory.size == 0


def test_nobody_answers_under_other_keys_and_names(ca: World) -> None:
    content = request(issuer(ca), [1])
    for uid, number in ((authority(ca).uid, 2), ("0" * 32, 1)):
        with pytest.raises(CertdError) as refused:
            ca.core.publication.answering.answers.submit(uid, number, parse_request(content), content).result(30)
        assert refused.value.reason is Reason.AUTHORITY_NOT_FOUND


def test_an_authority_without_ocsp_answers_nothing_and_gets_no_responder(ca: World) -> None:
    off = SettingsChange(given=RevocationSettings(ocsp=OcspSettings(enabled=False)), paths=frozenset({"ocsp"}))
    ca.create_subordinate("silent", revocation=off)
    name = AuthorityName("default", "silent")
    with pytest.raises(CertdError) as refused:
        ask(ca, request(issuer(ca, name), [1]), name)
    assert refused.value.reason is Reason.AUTHORITY_NOT_FOUND
    assert due_time(ca, name) is None


def test_what_was_issued_before_ocsp_was_disabled_is_answered_for(ca: World) -> None:
    off = SettingsChange(given=RevocationSettings(ocsp=OcspSettings(enabled=False)), paths=frozenset({"ocsp.enabled"}))
    view = ca.issue("www.example.internal")
    # Nobody has a responder in its first minute.
    ca.core.authority_changes.update(ADMINISTRATOR, Change(name=CA), NewSettings(revocation=off))
    assert status(ca, view) is GOOD
    run_job(ca)
    assert len(answer(ca, view, nonce=b"n").certificates) == 1


def test_who_comes_when_the_queue_is_full_is_told_to_try_later_and_all_others_are_answered(ca: World) -> None:
    view = ca.issue("www.example.internal")
    answers, uid = ca.core.publication.answering.answers, authority(ca).uid
    content = request(issuer(ca), [serial_of(view)], nonce=b"n" * 16)
    parsed = parse_request(content)
    held, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        held.release()
        assert go_on.wait(60)

    futures = []
    for _ in range(3):
        # Each thread stops in the middle of a round.
        ca.steps.at["ocsp.1.looked-up"] = hold
        futures.append(answers.submit(uid, 1, parsed, content))
        assert held.acquire(timeout=30)
    futures += [answers.submit(uid, 1, parsed, content) for _ in range(QUEUE_LENGTH)]
    late = answers.submit(uid, 1, parsed, content)
    assert _refusal(late.result(0).body) is _TRY_LATER
    go_on.set()
    for future in futures:
        assert load(future.result(60).body, issuer(ca)).certificate_status is GOOD


def test_a_stop_leaves_nobody_waiting(ca: World) -> None:
    view = ca.issue("www.example.internal")
    answers, uid = ca.core.publication.answering.answers, authority(ca).uid
    content = request(issuer(ca), [serial_of(view)], nonce=b"n" * 16)
    held, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        held.release()
        assert go_on.wait(60)

    begun = []
    for _ in range(3):
        ca.steps.at["ocsp.1.looked-up"] = hold
        begun.append(answers.submit(uid, 1, parse_request(content), content))
        assert held.acquire(timeout=30)
    waiting = [answers.submit(uid, 1, parse_request(content), content) for _ in range(5)]
    assert waiting[0].cancel()
    with ThreadPoolExecutor(1) as executor:
        stopping = executor.submit(answers.stop)
        go_on.set()
        stopping.result(60)
    assert [load(one.result(0).body, issuer(ca)).certificate_status for one in begun] == [GOOD] * 3
    assert all(one.done() for one in waiting)
    assert _refusal(answers.submit(uid, 1, parse_request(content), content).result(0).body) is _TRY_LATER


def test_without_a_token_what_was_signed_ahead_goes_on_being_answered(ca: World) -> None:
    kept, other = ca.issue("www.example.internal"), ca.issue("api.example.internal")
    assert status(ca, kept) is GOOD
    eventually_stored(ca, kept)
    forget_memory(ca)
    ca.core.token.stop()
    assert status(ca, kept) is GOOD
    assert _refusal(ask(ca, request(issuer(ca), [serial_of(other)]))) is _TRY_LATER
    ca.clock.advance(2 * DAY - timedelta(minutes=1))
    assert answer(ca, kept).next_update_utc == ca.clock.now() + timedelta(minutes=1)
    ca.clock.advance(timedelta(minutes=1))
    assert _refusal(ask(ca, request(issuer(ca), [serial_of(kept)]))) is _TRY_LATER
