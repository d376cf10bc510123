"""The purge: the last CRLs, the keys that are gone, what goes on being served and read, and death in between."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityKeyState, AuthorityState
from certd.model.event import EventType
from certd.model.names import CertificateName, TenantName, purged_id
from certd.model.tenant import Quota
from certd.services.authority_changes import Change, NewSettings
from certd.services.ocsp_keys import Answering, load_answering
from certd.services.paging import PageRequest
from certd.store import ocsp_responders, revocation_lists, tenant_counts
from tests.services import renewals
from tests.services.authority_lives import CA, WINDOW, delete, disable, get, in_books, purge_job, purged, undelete
from tests.services.awaiting import SUB, create_awaiting
from tests.services.conftest import ADMINISTRATOR, CrashError, World, crash
from tests.services.consumers import active
from tests.services.managed_books import renew, stands
from tests.services.revocation_books import is_signed, partitioned, revoke, settle
from tests.waiting import eventually

DAY = timedelta(days=1)
STEPS = ["purge.1.begun", "purge.2.published", "purge.3.destroyed", "purge.4.recorded"]


def refused(reason: Reason, call: Callable[[], object], *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message, caught.value.message
    return caught.value


def gone(world: World) -> str:
    """Deletes `ca` and lets its window pass; returns its uid."""
    disable(world)
    uid = delete(world, live=True).authority.uid
    world.clock.advance(WINDOW)
    return uid


def served(world: World, uid: str, partition: int = 0) -> x509.CertificateRevocationList:
    """Returns the CRL that anybody gets under the URL of a uid."""
    lists = world.core.publication.published_lists
    return x509.load_der_x509_crl(lists.content(lists.find(uid, 1, partition)))


def serials(crl: x509.CertificateRevocationList) -> set[int]:
    return {one.serial_number for one in crl}


def load_answering_of(world: World, uid: str) -> Answering:
    with world.core.store.read("test.answering") as tx:
        return load_answering(tx, (uid, 1))


def is_in_token(world: World, uid: str) -> bool:
    """Returns whether any key of an authority is in the token; asking makes none."""
    with world.core.store.read("test.responders") as tx:
        found = [(one.key_id, one.policy) for one in ocsp_responders.of_key(tx, uid, 1)]
    key = in_books(world, uid).key
    return any(
        world.core.token.destroy_authority_key(key_id=key_id, policy=policy)
        for key_id, policy in (*found, (key.key_id, key.policy))
    )


def test_at_the_end_of_the_window_nothing_but_what_relying_parties_need_is_left(ca: World) -> None:
    issued = [ca.issue(f"www{place}.example.internal", lifetime=200 * DAY) for place in range(2)]
    serial = revoke(ca, issued[0])
    settle(ca)
    certificate = issued[0].chain[0]
    uid = gone(ca)
    view = purged(ca, uid)
    authority = view.authority
    name = f"tenants/default/authorities/{purged_id(uid)}"
    assert (view.state, authority.name, authority.uid) == (AuthorityState.PURGED, name, uid)
    assert [key.state for key in view.keys] == [AuthorityKeyState.RETIRED]
    assert purge_job(ca, uid) is None
    assert not is_in_token(ca, uid)
    crl = served(ca, uid)
    assert is_signed(crl, certificate)
    assert serials(crl) == {int(serial, 16)}
    end = max(x509.load_der_x509_certificate(one.der or b"").not_valid_after_utc for one in issued)
    assert crl.next_update_utc == end + DAY
    assert ca.core.public_certificates.authority_chain(uid, 1)[0] == certificate
    (event,) = [event for event in ca.events() if event.type is EventType.AUTHORITY_PURGED]
    assert (event.resource, event.details["uid"], event.details["new_name"]) == (str(CA), uid, name)
    assert event.details["keys"] == authority.key.key_id.hex()
    # It stays so: nothing is signed any more, and nobody tries to.
    ca.clock.advance(400 * DAY)
    settle(ca)
    assert served(ca, uid) == crl
    assert ca.core.publication.list_troubles.problems() == []


def test_what_it_issued_is_read_under_its_new_name(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    uid = gone(ca)
    name = purged(ca, uid).authority.name
    serial = CertificateName.parse("name", issued.name).serial
    found = ca.core.certificates.get(ADMINISTRATOR, CertificateName("default", purged_id(uid), serial))
    assert (found.name, found.der) == (f"{name}/certificates/{serial}", issued.der)
    error = refused(Reason.STATE_FORBIDS, lambda: revoke(ca, found), says="PURGED")
    assert error.metadata == {"state": "PURGED"}
    page = ca.core.authorities.page(ADMINISTRATOR, TenantName("default"), PageRequest(10, ""))
    assert {view.authority.name: view.state for view in page.items}[name] is AuthorityState.PURGED


def test_its_name_is_free_for_another_and_so_is_its_place(ca: World) -> None:
    before = ca.issue("www.example.internal")
    uid = gone(ca)
    purged(ca, uid)
    refused(Reason.AUTHORITY_NOT_FOUND, lambda: get(ca), says="does not exist")

    def count() -> int:
        with ca.core.store.read("test.count") as tx:
            return tenant_counts.get(tx, "default", Quota.AUTHORITIES)

    assert count() == 1
    another = ca.create_subordinate()
    assert count() == 2
    assert another.authority.uid != uid
    assert ca.issue("www.example.internal").chain[0] != before.chain[0]
    serial = CertificateName.parse("name", before.name).serial
    refused(
        Reason.CERTIFICATE_NOT_FOUND,
        lambda: ca.core.certificates.get(ADMINISTRATOR, CertificateName("default", "ca", serial)),
        says="does not exist",
    )


def test_every_partition_has_a_last_crl(ca: World) -> None:
    new = NewSettings(revocation=partitioned(2))
    ca.core.authority_changes.update(ADMINISTRATOR, Change(name=CA), new)
    for place in range(6):
        revoke(ca, ca.issue(f"www{place}.example.internal"))
    settle(ca)
    uid = gone(ca)
    purged(ca, uid)
    with ca.core.store.read("test.lists") as tx:
        found = revocation_lists.of_key(tx, uid, 1)
    assert [(one.key.partition, one.final) for one in found] == [(0, True), (1, True), (2, True)]
    parts = [served(ca, uid, partition) for partition in (1, 2)]
    assert serials(served(ca, uid)) == serials(parts[0]) | serials(parts[1])
    assert len({crl.next_update_utc for crl in (served(ca, uid), *parts)}) == 1


def test_one_that_never_had_a_certificate_is_purged_too(world: World) -> None:
    create_awaiting(world)
    uid = delete(world, SUB).authority.uid
    world.clock.advance(WINDOW)
    assert purged(world, uid).state is AuthorityState.PURGED
    assert not is_in_token(world, uid)


def test_nothing_is_done_before_its_time_or_after_it_is_back(ca: World) -> None:
    disable(ca)
    uid = delete(ca).authority.uid
    ca.clock.advance(WINDOW - timedelta(seconds=1))
    ca.core.authority_life.purge.run(uid)
    assert get(ca).state is AuthorityState.DELETED
    undelete(ca)
    ca.clock.advance(DAY)
    ca.core.authority_life.purge.run(uid)
    assert (get(ca).state, purge_job(ca, uid)) == (AuthorityState.DISABLED, None)


@pytest.mark.parametrize("step", [*STEPS, "revocation-list.claimed", "revocation-list.published"])
def test_a_purge_that_dies_goes_on_where_it_stood(ca: World, step: str) -> None:
    serial = revoke(ca, ca.issue("www.example.internal"))
    settle(ca)
    disable(ca)
    uid = delete(ca, live=True).authority.uid
    ca.core.scheduler.stop()
    ca.clock.advance(WINDOW)
    ca.steps.at[step] = crash
    with pytest.raises(CrashError):
        ca.core.authority_life.purge.run(uid)
    # It cannot be had back from here on.
    refused(
        Reason.AUTHORITY_NOT_FOUND if step == STEPS[3] else Reason.STATE_FORBIDS, lambda: undelete(ca), says="tenants"
    )
    ca.core.authority_life.purge.run(uid)
    assert in_books(ca, uid).authority_id == purged_id(uid)
    assert (purge_job(ca, uid), is_in_token(ca, uid)) == (None, False)
    assert serials(served(ca, uid)) == {int(serial, 16)}
    ca.core.authority_life.purge.run(uid)
    assert [event.type for event in ca.events()].count(EventType.AUTHORITY_PURGED) == 1


def test_a_crl_that_cannot_be_signed_keeps_the_keys(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ca.core.scheduler.stop()
    uid = gone(ca)

    def fails(*_arguments: object, **_options: object) -> bytes:
        raise CertdError(Reason.TOKEN_UNAVAILABLE, "the token is away", retry_after=1.0)

    with monkeypatch.context() as patched:
        patched.setattr(ca.core.token, "sign_large", fails)
        refused(Reason.TOKEN_UNAVAILABLE, lambda: ca.core.authority_life.purge.run(uid), says="away")
    assert get(ca).state is AuthorityState.PURGED
    assert purge_job(ca, uid) is not None
    assert any("could not be signed" in problem for problem in ca.core.publication.list_troubles.problems())
    ca.core.authority_life.purge.run(uid)
    assert not is_in_token(ca, uid)


def test_those_who_answered_for_it_are_gone_with_their_keys(ca: World) -> None:
    def responders(uid: str) -> list[ocsp_responders.Responder]:
        with ca.core.store.read("test.responders") as tx:
            return [one for one in ocsp_responders.of_key(tx, uid, 1) if one.certificate is not None]

    uid = get(ca).authority.uid
    ca.clock.advance(timedelta(minutes=1))
    ca.core.scheduler.wake()
    (responder,) = eventually(lambda: responders(uid), within=60)
    gone(ca)
    purged(ca, uid)
    assert responders(uid) == []
    assert not ca.core.token.destroy_authority_key(key_id=responder.key_id, policy=responder.policy)
    refused(Reason.AUTHORITY_NOT_FOUND, lambda: load_answering_of(ca, uid), says="nobody answers")


def test_a_managed_certificate_does_not_go_to_another_of_the_name(ca: World) -> None:
    before = active(ca).managed_certificate
    uid = gone(ca)
    purged(ca, uid)
    ca.create_subordinate()
    renew(ca)
    renewals.settle(ca)
    condition = renewals.blocked(stands(ca))
    assert condition is not None
    assert (condition.status, condition.reason) == (True, Reason.AUTHORITY_NOT_FOUND)
    assert "purged" in condition.message
    assert stands(ca).current_version == before.current_version
