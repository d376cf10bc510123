"""CRLs: when they are signed, what they say, and who may have them signed."""

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.model.names import AuthorityName
from certd.services.authority_changes import Change
from certd.services.revocation_lists import WantedList
from tests.services.conftest import ADMINISTRATOR, STRANGER, World
from tests.services.revocation_books import (
    CA,
    Entry,
    due_time,
    entries,
    execute,
    generated,
    is_signed,
    key_of,
    number_of,
    of_type,
    partitioned,
    published,
    revoke,
    row,
    run_job,
    settle,
)

WEEK = timedelta(days=7)


def test_an_authority_has_its_first_crl_as_soon_as_it_has_its_certificate(ca: World) -> None:
    settle(ca)
    crl, certificate = published(ca), ca.issue("www.example.internal").chain[0]
    assert is_signed(crl, certificate)
    issuer = x509.load_der_x509_certificate(certificate)
    assert crl.issuer.public_bytes() == issuer.subject.public_bytes()
    assert len(crl) == 0
    assert crl.next_update_utc == crl.last_update_utc + WEEK
    assert {one.oid for one in crl.extensions} == {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_NUMBER,
    }
    key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    named = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == key.digest
    assert number_of(crl) == row(ca).number >= int(crl.last_update_utc.timestamp() * 1000)


def test_what_is_revoked_is_published_within_seconds_and_many_are_one_crl(ca: World) -> None:
    settle(ca)
    before = len(of_type(ca, EventType.REVOCATION_LIST_GENERATED))
    reasons = [*RevocationReason, RevocationReason.SUPERSEDED]
    issued = [ca.issue(f"www{place}.example.internal") for place in range(len(reasons))]
    since = ca.clock.now() - timedelta(minutes=1)
    compromise = RevocationReason.KEY_COMPROMISE
    now = ca.clock.now()
    serials = [
        revoke(ca, view, reason, since=since if reason is compromise else None)
        for view, reason in zip(issued, reasons, strict=True)
    ]
    settle(ca)
    assert entries(published(ca)) == {
        serial: Entry(
            now,
            None if reason is RevocationReason.UNSPECIFIED else reason.value,
            since if reason is compromise else None,
        )
        for serial, reason in zip(serials, reasons, strict=True)
    }
    made = of_type(ca, EventType.REVOCATION_LIST_GENERATED)[before:]
    assert [(one.resource, one.details["entry_count"]) for one in made] == [(str(CA), str(len(reasons)))]


def test_the_next_one_is_due_when_two_thirds_of_its_time_have_passed(ca: World) -> None:
    settle(ca)
    crl, due = published(ca), due_time(ca)
    assert due is not None
    assert WEEK * 2 / 3 <= due - crl.last_update_utc <= WEEK * 0.7
    ca.clock.advance(WEEK * 0.7)
    settle(ca)
    assert number_of(published(ca)) > number_of(crl)


def test_a_change_while_one_is_made_has_another_made(ca: World) -> None:
    settle(ca)
    first, second = ca.issue("www1.example.internal"), ca.issue("www2.example.internal")
    ca.core.scheduler.stop()
    revoke(ca, first)
    # What is read is read after the claim: a change before that is in it, one after that may be.
    ca.steps.at["revocation-list.signed"] = lambda: revoke(ca, second)
    assert len(generated(ca)) == 1
    assert row(ca).changed_time == ca.clock.now()
    assert due_time(ca) == ca.clock.now() + timedelta(seconds=2)
    run_job(ca)
    assert (len(published(ca)), row(ca).changed_time) == (2, None)


def test_a_partition_has_what_names_it_and_says_so(world: World) -> None:
    world.create_root()
    world.create_subordinate(revocation=partitioned(2))
    issued = [world.issue(f"www{place}.example.internal") for place in range(12)]
    serials = {revoke(world, view) for view in issued}
    settle(world)
    whole, parts = entries(published(world)), [published(world, number) for number in (1, 2)]
    assert set(whole) == serials
    assert [set(entries(part)) & set(entries(other)) for part, other in (parts, parts[::-1])] == [set(), set()]
    assert set(entries(parts[0])) | set(entries(parts[1])) == serials
    for number, part in enumerate(parts, 1):
        point = part.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
        key = key_of(world)
        url = f"http://pki.example.internal/crl/{key.authority_uid}/1/{number}.crl"
        assert point.critical
        assert point.value.full_name == [x509.UniformResourceIdentifier(url)]
        assert not point.value.only_contains_user_certs
        for view in issued:
            certificate = x509.load_der_x509_certificate(view.certificate.der or b"")
            points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            assert (points[0].full_name == point.value.full_name) == (view.certificate.crl_partition == number)


def test_a_crl_lists_every_url_that_ever_was_written_for_it(world: World) -> None:
    world.create_root()
    world.create_subordinate(revocation=partitioned(2))
    settle(world)
    execute(world, 'UPDATE revocation_lists SET urls = \'["http://old.example/1.crl","http://b.example/1.crl"]\'')
    point = generated(world, 1).extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    assert [name.value for name in point.full_name or ()] == ["http://old.example/1.crl", "http://b.example/1.crl"]


def test_a_partition_without_a_url_is_not_signed_as_if_it_were_complete(world: World) -> None:
    world.create_root()
    world.create_subordinate(revocation=partitioned(2))
    settle(world)
    execute(world, "UPDATE revocation_lists SET urls = '[]'")
    with pytest.raises(CertdError) as refused:
        generated(world, 1)
    assert refused.value.reason is Reason.STATE_FORBIDS
    assert "base_url" in refused.value.message


def test_a_disabled_authority_goes_on(ca: World) -> None:
    view = ca.issue("www.example.internal")
    ca.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA, etag="", key=None))
    serial = revoke(ca, view)
    settle(ca)
    assert set(entries(published(ca))) == {serial}


def test_what_was_lost_counts_as_revoked_without_a_reason(ca: World) -> None:
    serial = ca.issue("www.example.internal").name.rpartition("/")[2]
    ca.core.scheduler.stop()
    execute(
        ca, "UPDATE certificates SET state = 'LOST', revoke_time = create_time WHERE serial = :serial", serial=serial
    )
    assert entries(generated(ca)) == {serial: Entry(ca.clock.now(), None, None)}


def test_an_entry_leaves_after_the_end_and_one_more_crl(ca: World) -> None:
    ca.core.scheduler.stop()
    view = ca.issue("www.example.internal", lifetime=timedelta(days=1))
    serial, end = revoke(ca, view), view.certificate.not_after
    assert set(entries(generated(ca))) == {serial}
    ca.clock.advance(end - ca.clock.now() + timedelta(hours=1))
    after = generated(ca)
    assert after.last_update_utc > end
    assert set(entries(after)) == {serial}
    ca.clock.advance(timedelta(days=1))
    assert len(generated(ca)) == 0


def test_a_clock_that_was_set_back_takes_nobody_from_a_crl(ca: World) -> None:
    ca.core.scheduler.stop()
    serial = revoke(ca, ca.issue("www.example.internal", lifetime=timedelta(days=30)))
    assert set(entries(generated(ca))) == {serial}
    # For a while it went a hundred days ahead, past the end of the certificate.
    ca.clock.advance(timedelta(days=100))
    assert set(entries(generated(ca))) == {serial}
    ahead = number_of(generated(ca))
    ca.clock.advance(-timedelta(days=100))
    after = generated(ca)
    assert set(entries(after)) == {serial}
    assert number_of(after) == ahead + 1


def test_a_key_that_signs_nothing_more_signs_a_last_crl_once_all_has_ended(ca: World) -> None:
    ca.core.scheduler.stop()
    view = ca.issue("www.example.internal", lifetime=timedelta(days=30))
    revoke(ca, view)
    execute(
        ca, "UPDATE authority_keys SET state = 'SUPERSEDED' WHERE authority_uid = :uid", uid=key_of(ca).authority_uid
    )
    run_job(ca)
    assert not row(ca).final
    ca.clock.advance(timedelta(days=31))
    run_job(ca)
    last = published(ca)
    assert (row(ca).final, due_time(ca), len(last)) == (True, None, 1)
    ca.clock.advance(timedelta(days=31))
    run_job(ca)
    assert number_of(generated(ca)) == number_of(last)


def test_the_last_crl_of_a_key_holds_until_all_that_it_signed_has_ended(ca: World) -> None:
    ca.core.scheduler.stop()
    view = ca.issue("www.example.internal", lifetime=timedelta(days=90))
    revoke(ca, view)
    key = key_of(ca)
    ca.core.publication.list_signing.sign_last(key.authority_uid, key.key_number, ADMINISTRATOR.principal)
    last = published(ca)
    assert (row(ca).final, due_time(ca), len(last)) == (True, None, 1)
    assert last.next_update_utc is not None
    assert last.next_update_utc > view.certificate.not_after


def test_who_may_have_one_signed(ca: World) -> None:
    settle(ca)
    wanted = WantedList(authority=CA)
    for call in (ca.core.publication.lists.get, ca.core.publication.lists.generate):
        with pytest.raises(CertdError) as refused:
            call(STRANGER, wanted)
        assert refused.value.reason is Reason.PERMISSION_MISSING


@pytest.mark.parametrize("wanted", [WantedList(authority=CA, partition=7), WantedList(authority=CA, key_number=9)])
def test_one_that_is_not_signed_is_not_found(ca: World, wanted: WantedList) -> None:
    settle(ca)
    for call in (ca.core.publication.lists.get, ca.core.publication.lists.generate):
        with pytest.raises(CertdError) as refused:
            call(ADMINISTRATOR, wanted)
        assert refused.value.reason is Reason.REVOCATION_LIST_NOT_FOUND


def test_what_is_served_is_what_is_published_and_stays_in_memory(ca: World) -> None:
    settle(ca)
    lists, key = ca.core.publication.published_lists, key_of(ca)
    found = lists.find(*key)
    served = lists.content(found)
    assert hashlib.sha256(served).digest() == found.sha256 == row(ca).sha256
    assert lists.content(lists.find(*key)) is served
    generated(ca)
    assert lists.content(lists.find(*key)) is not served
    with pytest.raises(CertdError) as gone:
        lists.content(found)
    assert gone.value.reason is Reason.REVOCATION_LIST_NOT_FOUND


def test_a_root_signs_one_too(ca: World) -> None:
    settle(ca)
    crl = published(ca, authority=AuthorityName("default", "root"))
    assert is_signed(crl, ca.issue("www.example.internal").chain[-1])
