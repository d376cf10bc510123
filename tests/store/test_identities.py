"""Rows of identities: one of each name, in pages, with the certificates that are still good."""

from datetime import timedelta

from certd.model.certificate import RevocationReason
from certd.model.identity import Identity, IdentityState
from certd.model.names import IdentityName
from certd.model.tenant import Quota
from certd.pki.names import SubjectAlternativeNames
from certd.store import certificates, identities, revocations, tenant_counts
from certd.store.certificates import Completion
from certd.store.store import Store
from tests.store.samples import LATER, NOW, add_tenant, intent

_SERVERS = IdentityName(None, "web")
_TENANTS = IdentityName("default", "web")
_TRUST_DOMAIN = "spiffe://test.internal/"


def ensure(store: Store, name: IdentityName, state: IdentityState = IdentityState.INVITED) -> Identity:
    if name.tenant is not None:
        add_tenant(store, name.tenant)
    return store.write("test", lambda tx: identities.ensure(tx, name, f"{_TRUST_DOMAIN}{name}", state, NOW))


def test_an_identity_comes_out_as_it_went_in_and_a_second_one_changes_nothing(store: Store) -> None:
    made = ensure(store, _SERVERS)
    assert made == Identity(
        name=_SERVERS,
        spiffe_id=f"{_TRUST_DOMAIN}identities/web",
        state=IdentityState.INVITED,
        create_time=NOW,
        update_time=NOW,
    )
    of_tenant = ensure(store, _TENANTS, IdentityState.ACTIVE)
    assert ensure(store, _SERVERS, IdentityState.ACTIVE) == made
    with store.read("test") as tx:
        assert identities.get(tx, _SERVERS) == made
        assert identities.get(tx, _TENANTS) == of_tenant
        assert identities.get(tx, IdentityName("other", "web")) is None
        assert identities.of_spiffe_id(tx, of_tenant.spiffe_id) == of_tenant


def test_a_state_changes_for_one_alone_and_with_the_configuration(store: Store) -> None:
    ensure(store, _SERVERS)
    ensure(store, _TENANTS)
    before = store.configuration_version
    assert store.write("test", lambda tx: identities.set_state(tx, _TENANTS, IdentityState.REVOKED, LATER))
    assert store.configuration_version > before
    missing = IdentityName("other", "web")
    assert not store.write("test", lambda tx: identities.set_state(tx, missing, IdentityState.REVOKED, LATER))
    with store.read("test") as tx:
        changed, other = identities.get(tx, _TENANTS), identities.get(tx, _SERVERS)
    assert changed is not None
    assert other is not None
    assert (changed.state, changed.create_time, changed.update_time) == (IdentityState.REVOKED, NOW, LATER)
    assert other.state is IdentityState.INVITED


def test_pages_hold_those_of_one_owner_by_name(store: Store) -> None:
    for name in ("b", "c", "a"):
        ensure(store, IdentityName("default", name))
        ensure(store, IdentityName(None, f"server-{name}"))
    with store.read("test") as tx:
        first = identities.page(tx, "default", after="", limit=2)
        second = identities.page(tx, "default", after=first[-1].name.identity, limit=2)
        assert [one.name.identity for one in (*first, *second)] == ["a", "b", "c"]
        assert len(identities.page(tx, None, after="", limit=9)) == 3
        assert identities.page(tx, "other", after="", limit=9) == []
        assert tenant_counts.get(tx, "default", Quota.IDENTITIES) == 3


def test_live_certificates_are_those_of_the_name_that_are_neither_expired_nor_revoked(store: Store) -> None:
    spiffe_id = f"{_TRUST_DOMAIN}identities/web"
    serials = {}
    for kind, uri, changes in (
        ("old", spiffe_id, {"create_time": NOW}),
        ("new", spiffe_id, {"create_time": LATER}),
        ("revoked", spiffe_id, {}),
        ("expired", spiffe_id, {"not_after": NOW - timedelta(seconds=1)}),
        ("pending", spiffe_id, {}),
        ("longer", f"{spiffe_id}2", {}),
        ("other authority", spiffe_id, {"authority_uid": "other"}),
    ):
        made = intent(names=SubjectAlternativeNames(uris=(uri,)), owner_epoch=0, **changes)
        serials[kind] = made.serial
        store.write("test", lambda tx, made=made: certificates.insert_intents(tx, [made]))  # type: ignore[misc]
        if kind != "pending":
            done = Completion(authority_uid=made.authority_uid, serial=made.serial, der=b"der", owner_epoch=0)
            store.write("test", lambda tx, done=done: certificates.complete(tx, [done]))  # type: ignore[misc]
    store.write(
        "test",
        lambda tx: revocations.revoke(
            tx,
            "authority",
            serials["revoked"],
            revoke_time=NOW,
            reason=RevocationReason.PRIVILEGE_WITHDRAWN,
            invalidity_time=None,
        ),
    )
    with store.read("test") as tx:
        live = identities.live_certificates(tx, "authority", spiffe_id, now=NOW, limit=9)
        assert [one.serial for one in live] == [serials["new"], serials["old"]]
        assert identities.live_certificates(tx, "authority", spiffe_id, now=NOW, limit=1) == live[:1]
        assert identities.live_certificates(tx, "authority", spiffe_id, now=LATER + timedelta(1), limit=9) == []
