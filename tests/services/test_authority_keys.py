"""Key rotation of an authority: a key is prepared, signs, is superseded, tainted and retired."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityKeyState, AuthorityState
from certd.model.certificate import RevocationReason
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import CertificateName, ManagedCertificateName, TenantName
from certd.model.renewal_campaign import RenewalCampaignState
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.services.authority_keys import NewKey
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.services.revocation import NewRevocation
from certd.services.revocation_lists import WantedList
from certd.store import jobs, revocation_lists
from tests.services.conftest import ADMINISTRATOR, STRANGER, World
from tests.services.revocation_books import revoke, settle
from tests.services.rotated_books import (
    activate,
    authority_in,
    certificate,
    change,
    name_of,
    prepare,
    retire,
    states,
    taint,
)
from tests.waiting import eventually

_PREPARED, _ACTIVE, _SUPERSEDED = AuthorityKeyState.PREPARED, AuthorityKeyState.ACTIVE, AuthorityKeyState.SUPERSEDED

_Attempt = Callable[[], object]


def test_a_prepared_key_has_a_certificate_and_signs_nothing(ca: World) -> None:
    before = authority_in(ca)
    view = prepare(ca)
    assert states(view) == {2: _PREPARED, 1: _ACTIVE}
    key = view.keys[0]
    root = authority_in(ca, "root")
    assert key.chain == (root.certificate,)
    made = certificate(key.certificate)
    made.verify_directly_issued_by(certificate(root.certificate))
    assert made.subject == certificate(before.certificate).subject
    assert key.public_key != before.key.public_key
    # The authority itself is as it was, but that it changed.
    after = authority_in(ca)
    assert (after.certificate, after.key.number, after.not_after) == (before.certificate, 1, before.not_after)
    assert after.etag != before.etag
    issued = ca.issue("www.example.internal")
    certificate(issued.der).verify_directly_issued_by(certificate(before.certificate))


def test_its_making_is_in_the_events_in_order(ca: World) -> None:
    count = len(ca.events())
    prepare(ca)
    activate(ca, 2)
    made = ca.events()[count:]
    assert [event.type for event in made] == [
        EventType.AUTHORITY_KEY_GENERATED,
        EventType.AUTHORITY_KEY_PREPARED,
        EventType.CERTIFICATE_ISSUED,
        EventType.AUTHORITY_KEY_ACTIVATED,
    ]
    assert made[1].details["key_number"] == "2"
    assert (made[3].details["key_number"], made[3].details["before"]) == ("2", "1")


def test_an_activated_key_signs_and_what_the_old_one_signed_keeps_its_chain(ca: World) -> None:
    old = authority_in(ca)
    leaf = ca.issue("old.example.internal")
    prepare(ca, key_spec=KeySpec.EC_P384)
    view = activate(ca, 2)
    assert states(view) == {2: _ACTIVE, 1: _SUPERSEDED}
    new = authority_in(ca)
    assert new.key.number == 2
    assert new.key_spec is KeySpec.EC_P384
    assert new.signature_algorithm is SignatureAlgorithm.ECDSA_WITH_SHA384
    assert new.state is AuthorityState.ENABLED
    after = ca.issue("new.example.internal")
    certificate(after.der).verify_directly_issued_by(certificate(new.certificate))
    assert after.chain == new.full_chain
    assert after.certificate.key_number == 2
    name = CertificateName("default", "ca", leaf.certificate.serial)
    found = ca.core.certificates.get(ADMINISTRATOR, name)
    assert found.chain == old.full_chain
    # And back: it may sign again.
    assert states(activate(ca, 1)) == {2: _SUPERSEDED, 1: _ACTIVE}
    assert ca.issue("again.example.internal").chain == old.full_chain


def test_a_root_signs_the_certificate_of_its_new_key_with_it(ca: World) -> None:
    child = authority_in(ca)
    view = prepare(ca, "root", lifetime=timedelta(days=7300))
    made = certificate(view.keys[0].certificate)
    made.verify_directly_issued_by(made)
    assert made.not_valid_after_utc == ca.clock.now() + timedelta(days=7300, seconds=-1)
    activate(ca, 2, "root")
    # Children keep the certificate and the chain that they have.
    assert authority_in(ca) == child
    third = ca.create_subordinate("third")
    assert third.authority.chain == (view.keys[0].certificate,)


def test_both_keys_of_an_authority_are_published(ca: World) -> None:
    prepare(ca, "root")
    uid = authority_in(ca, "root").uid
    chains = [ca.core.public_certificates.authority_chain(uid, number) for number in (1, 2)]
    assert chains[0] != chains[1]
    activate(ca, 2, "root")
    assert [ca.core.public_certificates.authority_chain(uid, number) for number in (1, 2)] == chains
    with pytest.raises(CertdError) as caught:
        ca.core.public_certificates.authority_chain(uid, 3)
    assert caught.value.reason is Reason.AUTHORITY_NOT_FOUND


def test_relying_parties_learn_a_root_before_it_signs_and_until_it_is_retired(ca: World) -> None:
    def roots() -> set[bytes]:
        return set(ca.core.server.trust_bundle(ADMINISTRATOR, TenantName("default")).tenant_roots)

    old = authority_in(ca, "root").certificate
    new = prepare(ca, "root").keys[0].certificate
    assert roots() == {old, new}
    activate(ca, 2, "root")
    assert roots() == {old, new}
    retire(ca, 1, "root", allow_live=True)
    # The chain of the authority below still ends in it.
    assert roots() == {old, new}
    prepare(ca, "ca")
    activate(ca, 2)
    retire(ca, 1, allow_live=True)
    assert roots() == {new}


def test_keys_of_a_root_certify_each_other(ca: World) -> None:
    view = prepare(ca, "root", cross_certify=True)
    old, new = certificate(view.keys[1].certificate), certificate(view.keys[0].certificate)
    (new_by_old,), (old_by_new,) = view.cross_certificates[2], view.cross_certificates[1]
    for der, issuer, subject in ((new_by_old, old, new), (old_by_new, new, old)):
        cross = certificate(der)
        cross.verify_directly_issued_by(issuer)
        assert cross.public_key() == subject.public_key()
        assert cross.subject == cross.issuer
        identifier = cross.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert identifier == subject.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert cross.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
        assert cross.not_valid_after_utc == min(old.not_valid_after_utc, new.not_valid_after_utc)
    assert not view.keys[0].cross_certify
    crossed = [event for event in ca.events() if event.type is EventType.AUTHORITY_CROSS_CERTIFIED]
    assert len(crossed) == 2
    activate(ca, 2, "root")


def test_whoever_counts_cross_certificates_in_path_lengths_is_told_of(ca: World) -> None:
    ca.create_root("deeper", path_length=2)
    ca.create_subordinate("below", issuer="deeper")
    (warning,) = prepare(ca, "root", cross_certify=True).warnings
    assert warning.field == "cross_certify"
    assert "tenants/default/authorities/ca issued" in warning.message
    assert prepare(ca, "deeper", cross_certify=True).warnings == ()


def test_one_key_is_prepared_at_a_time(ca: World) -> None:
    for number in (2, 3):
        assert prepare(ca).keys[0].number == number
        with pytest.raises(CertdError, match="is PREPARED") as caught:
            prepare(ca)
        assert caught.value.reason is Reason.STATE_FORBIDS
        retire(ca, number)


def test_a_repeated_call_finds_what_the_first_one_prepared(ca: World) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    keys = ca.core.rotation.keys
    first = keys.prepare(ADMINISTRATOR, change(key=key), NewKey())
    again = keys.prepare(ADMINISTRATOR, change(key=key), NewKey())
    assert [one.key_id for one in again.keys] == [one.key_id for one in first.keys]
    with pytest.raises(CertdError) as caught:
        keys.prepare(ADMINISTRATOR, change(key=RequestKey(key.request_id, b"b")), NewKey())
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


def test_a_rehearsal_changes_nothing(ca: World) -> None:
    before, count = authority_in(ca), len(ca.events())
    keys, changes = ca.core.rotation.keys, ca.core.rotation.changes
    planned = keys.prepare(ADMINISTRATOR, change(validate_only=True), NewKey())
    assert states(planned) == {2: _PREPARED, 1: _ACTIVE}
    assert authority_in(ca) == before
    prepare(ca)
    prepared, count = authority_in(ca), len(ca.events())
    planned = changes.activate(ADMINISTRATOR, change(validate_only=True), 2)
    assert states(planned) == {2: _ACTIVE, 1: _SUPERSEDED}
    planned = changes.retire(ADMINISTRATOR, change(validate_only=True), 2, allow_live=False)
    assert states(planned)[2] is AuthorityKeyState.RETIRED
    assert authority_in(ca) == prepared
    assert len(ca.events()) == count


@pytest.mark.parametrize("authority_id", ["ca", "root"])
def test_what_a_stranger_may_not(ca: World, authority_id: str) -> None:
    prepare(ca, authority_id)
    rotation = ca.core.rotation
    attempts: tuple[_Attempt, ...] = (
        lambda: rotation.keys.prepare(STRANGER, change(authority_id), NewKey()),
        lambda: rotation.changes.activate(STRANGER, change(authority_id), 2),
        lambda: rotation.changes.taint(STRANGER, change(authority_id), 1),
        lambda: rotation.changes.retire(STRANGER, change(authority_id), 2, allow_live=True),
    )
    for attempt in attempts:
        with pytest.raises(CertdError) as caught:
            attempt()
        assert caught.value.reason is Reason.PERMISSION_MISSING


def test_states_out_of_which_a_key_may_not_come(ca: World) -> None:
    prepare(ca)
    attempts: list[tuple[_Attempt, Reason]] = [
        (lambda: activate(ca, 3), Reason.AUTHORITY_KEY_NOT_FOUND),
        (lambda: taint(ca, 1), Reason.STATE_FORBIDS),
        (lambda: taint(ca, 2), Reason.STATE_FORBIDS),
        (lambda: retire(ca, 1), Reason.STATE_FORBIDS),
    ]
    for wrong, reason in attempts:
        with pytest.raises(CertdError) as caught:
            wrong()
        assert caught.value.reason is reason
    retire(ca, 2)
    for use in (activate, taint):
        with pytest.raises(CertdError, match="RETIRED") as caught:
            use(ca, 2)
        assert caught.value.reason is Reason.STATE_FORBIDS
    # What is there already stays as it is.
    etag = authority_in(ca).etag
    retire(ca, 2)
    activate(ca, 1)
    assert authority_in(ca).etag == etag


def test_wrong_orders_are_refused(ca: World) -> None:
    for wanted, reason in (
        (NewKey(cross_certify=True), Reason.FIELD_INVALID),
        (NewKey(signature_algorithm=SignatureAlgorithm.PURE_ED25519), Reason.FIELD_INVALID),
        (NewKey(lifetime=timedelta(days=7300)), Reason.LIFETIME_EXCEEDS_AUTHORITY),
    ):
        with pytest.raises(CertdError) as caught:
            ca.core.rotation.keys.prepare(ADMINISTRATOR, change(), wanted)
        assert caught.value.reason is reason
    with pytest.raises(CertdError) as caught:
        ca.core.rotation.keys.prepare(ADMINISTRATOR, change(etag="old"), NewKey())
    assert caught.value.reason is Reason.ETAG_MISMATCH
    assert len(prepare(ca).keys) == 2


def test_a_lifetime_that_nobody_chose_is_cut_to_the_end_of_the_issuer(ca: World) -> None:
    root = authority_in(ca, "root")
    ca.clock.advance(timedelta(days=8 * 365))
    with pytest.raises(CertdError) as caught:
        prepare(ca, lifetime=timedelta(days=5 * 365))
    assert caught.value.reason is Reason.LIFETIME_EXCEEDS_AUTHORITY
    assert prepare(ca).keys[0].not_after == root.not_after


def test_a_key_whose_certificate_is_revoked_is_not_activated(ca: World) -> None:
    serial = f"{certificate(prepare(ca).keys[0].certificate).serial_number:x}"
    ca.core.revocation.revoke(
        ADMINISTRATOR,
        NewRevocation(
            name=CertificateName("default", "root", serial),
            reason=RevocationReason.SUPERSEDED,
            invalidity_time=None,
        ),
        key=None,
        validate_only=False,
    )
    with pytest.raises(CertdError, match="revoked") as caught:
        activate(ca, 2)
    assert caught.value.reason is Reason.STATE_FORBIDS


def test_a_key_is_retired_when_nothing_that_it_signed_is_alive(ca: World) -> None:
    leaf = ca.issue("www.example.internal", lifetime=timedelta(days=30))
    prepare(ca)
    activate(ca, 2)
    with pytest.raises(CertdError, match=leaf.certificate.serial) as caught:
        retire(ca, 1)
    assert caught.value.reason is Reason.CERTIFICATE_IN_USE
    ca.clock.advance(timedelta(days=31))
    assert states(retire(ca, 1))[1] is AuthorityKeyState.RETIRED
    # A root's own certificate and its cross-certificates keep it from nothing; authorities below do.
    prepare(ca, "root", cross_certify=True)
    activate(ca, 2, "root")
    with pytest.raises(CertdError) as caught:
        retire(ca, 1, "root")
    assert caught.value.reason is Reason.CERTIFICATE_IN_USE
    assert states(retire(ca, 1, "root", allow_live=True))[1] is AuthorityKeyState.RETIRED


def test_what_a_retired_key_signed_and_is_alive_is_revoked_on_its_crl(ca: World) -> None:
    leaf = ca.issue("www.example.internal", lifetime=timedelta(days=30)).certificate.serial
    prepare(ca)
    activate(ca, 2)
    retire(ca, 1, allow_live=True)

    def entries(number: int) -> dict[str, str]:
        view = ca.core.publication.lists.generate(ADMINISTRATOR, WantedList(authority=name_of("ca"), key_number=number))
        return {
            f"{one.serial_number:x}": one.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
            for one in x509.load_der_x509_crl(view.der)
        }

    def final(number: int) -> bool:
        with ca.core.store.read("test.final") as tx:
            (found,) = revocation_lists.of_key(tx, authority_in(ca).uid, number)
        return found.final

    assert entries(1) == {}
    # The second is an upgrade, which comes when nothing of the key is alive any more.
    for reason in (RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE):
        ca.core.revocation.revoke(
            ADMINISTRATOR,
            NewRevocation(name=CertificateName("default", "ca", leaf), reason=reason),
            key=None,
            validate_only=False,
        )
        assert entries(1) == {leaf: reason.value}
        assert entries(2) == {}
    assert not final(1)
    ca.clock.advance(timedelta(days=31))
    entries(1)
    assert (final(1), final(2)) == (True, False)


def test_a_key_that_had_come_to_its_end_and_signs_anew_is_published_and_answered_for(ca: World) -> None:
    prepare(ca)
    activate(ca, 2)
    key = RevocationListKey(authority_in(ca).uid, 1, 0)

    def found() -> RevocationList | None:
        with ca.core.store.read("test.resumed") as tx:
            return revocation_lists.get(tx, key)

    def answered_for() -> bool:
        with ca.core.store.read("test.resumed") as tx:
            return jobs.due_time(tx, JobKind.ADVANCE_OCSP_RESPONDER, f"{key.authority_uid}/1") is not None

    ca.core.publication.list_signing.sign(key, ADMINISTRATOR.principal)
    ca.core.publication.answering.presigning.advance(f"{key.authority_uid}/1")
    # It has signed nothing, and nothing is to be said of it any more.
    last = found()
    assert last is not None
    assert (last.final, answered_for()) == (True, False)
    activate(ca, 1)
    assert answered_for()
    leaf = ca.issue("www.example.internal")
    revoke(ca, leaf)
    settle(ca)
    again = found()
    assert again is not None
    assert (again.final, again.entry_count) == (False, 1)


def test_what_a_tainted_key_signed_is_renewed_now(ca: World) -> None:
    ca.request("old")
    ca.request("other", authority=name_of("root"))
    names = [ManagedCertificateName("default", managed_id) for managed_id in ("old", "other")]

    def versions() -> list[int]:
        found = [ca.core.managed_certificates.get(ADMINISTRATOR, name) for name in names]
        assert all(one.state in {ManagedCertificateState.ACTIVE, ManagedCertificateState.PENDING} for one in found)
        return [one.managed_certificate.current_version for one in found]

    eventually(lambda: versions() == [1, 1])
    prepare(ca)
    activate(ca, 2)
    ca.request("new")
    names.append(ManagedCertificateName("default", "new"))
    eventually(lambda: versions() == [1, 1, 1])
    view = taint(ca, 1)
    assert states(view)[1] is AuthorityKeyState.TAINTED
    (warning,) = view.warnings
    assert "renewalCampaigns/" in warning.message

    def done() -> bool:
        ca.clock.advance(timedelta(seconds=5))
        (campaign,) = ca.core.renewal_campaigns.page(
            ADMINISTRATOR, TenantName("default"), PageRequest(size=10, token="")
        ).items
        return campaign.state is RenewalCampaignState.DONE

    eventually(done)
    assert versions() == [2, 1, 1]
    renewed = ca.core.managed_certificates.get(ADMINISTRATOR, names[0])
    certificate(renewed.certificate).verify_directly_issued_by(certificate(authority_in(ca).certificate))
