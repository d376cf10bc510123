"""Imports: all of one happens or nothing; nobody but the token process sees a sealed key; a version may come back."""

import hashlib
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import update

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.event import EventType
from certd.model.managed_certificate import (
    ManagedCertificateState,
    ManagedCertificateType,
    VersionState,
)
from certd.model.names import ImportKeyName, ManagedCertificateName, TenantName
from certd.model.tenant import Quotas
from certd.pki.key_spec import KeySpec, public_key_der
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_changes import LABELS, ManagedCertificateChange
from certd.services.managed_import_plan import PlainPrivateKey, SealedPrivateKey
from certd.store import blocked_keys, grants, managed_schema, sealed_keys, tenants
from certd.store.store import Transaction
from tests.imports import pair
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, CrashError, World, crash
from tests.services.import_books import (
    ISSUER,
    NEXT_PAIR,
    NOW,
    SHOP,
    SHOP_PAIR,
    TENANT,
    books,
    expire_time_of,
    export,
    import_,
    refused,
    roll_back,
    sealed,
    version_of,
)
from tests.services.renewals import settle


@pytest.mark.parametrize("way", ["plain", "sealed"])
def test_a_new_one_is_active_with_its_key_in_custody(world: World, way: str) -> None:
    plain = PlainPrivateKey(SHOP_PAIR.key_pem)
    private_key = plain if way == "plain" else sealed(world, SHOP_PAIR, exportable=True)
    view = import_(world, private_key=private_key, exportable=True, labels={"team": "web"})
    managed = view.managed_certificate
    assert (view.state, managed.type) == (ManagedCertificateState.ACTIVE, ManagedCertificateType.IMPORTED)
    assert (managed.current_version, managed.key_spec) == (1, KeySpec.EC_P256)
    assert managed.names.dns_names == ("shop.example.internal", "www.shop.example.internal")
    assert (managed.authority_name, managed.profile, managed.next_attempt_time) == ("", "", None)
    assert (managed.labels, managed.exportable) == ({"team": "web"}, True)
    assert managed.not_after == SHOP_PAIR.certificate.not_valid_after_utc
    assert managed.issue_time == world.clock.now()
    assert (view.certificate, view.chain) == (SHOP_PAIR.der, SHOP_PAIR.above)
    assert view.warnings == ()
    got = world.core.managed_certificates.get(ADMINISTRATOR, SHOP)
    assert (got.certificate, got.chain, got.managed_certificate) == (view.certificate, view.chain, managed)
    exported = load_der_private_key(export(world).encrypted_key, None)
    assert exported.public_key() == SHOP_PAIR.key.public_key()


def test_its_event_says_what_came_and_no_more(world: World) -> None:
    import_(world, private_key=sealed(world, SHOP_PAIR))
    event = next(event for event in world.events() if event.type is EventType.MANAGED_CERTIFICATE_IMPORTED)
    serial = f"{SHOP_PAIR.certificate.serial_number:x}"
    public_key = public_key_der(SHOP_PAIR.key.public_key())
    assert event.principal == ADMINISTRATOR.principal
    assert event.resource == f"{SHOP}/versions/1"
    details = dict(event.details)
    assert details.pop("uid")
    assert details == {
        "serial": serial if len(serial) % 2 == 0 else f"0{serial}",
        "issuer": "CN=Outside Issuer",
        "public_key_sha256": hashlib.sha256(public_key).hexdigest(),
        "not_after": "2030-04-01T00:00:00Z",
        "exportable": "false",
        "private_key": "sealed",
    }


def test_an_imported_key_never_leaves_unless_it_was_said_to(world: World) -> None:
    import_(world)
    with pytest.raises(CertdError) as caught:
        export(world)
    assert caught.value.reason is Reason.NOT_EXPORTABLE


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(65537, 3072),
        rsa.generate_private_key(65537, 4096),
    ],
    ids=lambda key: f"{type(key).__name__}-{key.key_size}",
)
def test_keys_of_every_size_come_in_sealed(world: World, key: Any) -> None:
    given = pair(ISSUER, "shop.example.internal", now=NOW, key=key)
    import_(world, given, private_key=sealed(world, given, exportable=True), exportable=True)
    assert load_der_private_key(export(world).encrypted_key, None).public_key() == key.public_key()


def test_a_self_signed_one_needs_no_chain(world: World) -> None:
    given = pair(None, "shop.example.internal", now=NOW)
    view = import_(world, given, chain=b"")
    assert view.chain == ()


def test_a_chain_in_any_order_is_sorted_with_a_warning(world: World) -> None:
    backwards = b"".join(
        x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in reversed(SHOP_PAIR.above)
    )
    view = import_(world, chain=backwards)
    assert view.chain == SHOP_PAIR.above
    assert [warning.field for warning in view.warnings] == ["certificate_chain"]


@pytest.mark.parametrize("way", ["plain", "sealed"])
def test_a_key_of_another_certificate_is_refused_by_the_token_process(world: World, way: str) -> None:
    plain = PlainPrivateKey(NEXT_PAIR.key_pem)
    # Its client took it for that of this certificate.
    private_key = plain if way == "plain" else sealed(world, SHOP_PAIR, private_key=NEXT_PAIR.key_der)
    assert refused(world, private_key=private_key).reason is Reason.IMPORT_KEY_MISMATCH


def test_bytes_that_are_no_key_get_as_far_as_the_token_process_only(world: World) -> None:
    error = refused(world, private_key=PlainPrivateKey(b"-----BEGIN NONSENSE-----"))
    assert error.reason is Reason.FIELD_INVALID
    nonsense = sealed(world, SHOP_PAIR, private_key=b"no key at all")
    error = refused(world, private_key=nonsense)
    assert error.reason is Reason.FIELD_INVALID
    assert "neither PEM nor DER" in error.message
    good = sealed(world, SHOP_PAIR)
    flipped = replace(good, ciphertext=good.ciphertext[:-1] + bytes([good.ciphertext[-1] ^ 1]))
    error = refused(world, private_key=flipped)
    assert error.reason is Reason.FIELD_INVALID
    assert "was sealed for another export policy, import key or certificate" in error.message


def test_what_the_checks_refuse_never_gets_to_the_token_process(world: World) -> None:
    expired = pair(ISSUER, "shop.example.internal", now=NOW - timedelta(days=100))
    for given, changes, reason in (
        (expired, {}, Reason.IMPORT_EXPIRED),
        (SHOP_PAIR, {"chain": b""}, Reason.IMPORT_CHAIN_INVALID),
        (SHOP_PAIR, {"certificate": SHOP_PAIR.pem + SHOP_PAIR.chain_pem}, Reason.IMPORT_NOT_PEM),
        (SHOP_PAIR, {"certificate": b"nonsense"}, Reason.IMPORT_NOT_PEM),
    ):
        # A key that the token process would complain of, were it asked.
        error = refused(world, given, private_key=PlainPrivateKey(b"nonsense"), **changes)
        assert error.reason is reason
    assert "import.1.sealed" not in world.steps.seen


def test_one_that_is_there_is_replaced_only_when_told(world: World) -> None:
    import_(world)
    error = refused(world, NEXT_PAIR)
    assert error.reason is Reason.MANAGED_CERTIFICATE_EXISTS
    assert "replace" in error.message
    missing = refused(world, NEXT_PAIR, name=ManagedCertificateName("default", "other"), replace=True)
    assert missing.reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND


def test_one_that_an_authority_issues_is_not_replaced(world: World) -> None:
    world.create_root()
    world.create_subordinate()
    world.request("shop")
    # On a busy machine its first version is issued after the answer, and is no work of a refused import.
    settle(world)
    error = refused(world, replace=True)
    assert error.reason is Reason.STATE_FORBIDS
    assert "import under another id" in error.message
    again = refused(world)
    assert again.reason is Reason.MANAGED_CERTIFICATE_EXISTS
    assert "replace" not in again.message
    with pytest.raises(CertdError) as caught:
        roll_back(world)
    assert caught.value.reason is Reason.STATE_FORBIDS


def test_a_new_version_becomes_current_and_the_one_before_stays_until_it_ends(world: World) -> None:
    first = import_(world, exportable=True, labels={"team": "web"})
    world.clock.advance(timedelta(days=10))
    view = import_(world, NEXT_PAIR, private_key=sealed(world, NEXT_PAIR, exportable=True), replace=True)
    managed = view.managed_certificate
    assert managed.uid == first.managed_certificate.uid
    assert (managed.current_version, view.certificate) == (2, NEXT_PAIR.der)
    assert managed.names.dns_names == ("shop.example.internal", "new.example.internal")
    assert managed.not_after == NEXT_PAIR.certificate.not_valid_after_utc
    assert (managed.labels, managed.exportable) == ({"team": "web"}, True)
    assert managed.issue_time == world.clock.now()
    assert managed.etag != first.managed_certificate.etag
    assert load_der_private_key(export(world).encrypted_key, None).public_key() == NEXT_PAIR.key.public_key()
    assert expire_time_of(world, 2) is None
    end = SHOP_PAIR.certificate.not_valid_after_utc
    assert expire_time_of(world, 1) == int(end.timestamp()) * 1_000_000
    assert version_of(world, 1).state_at(world.clock.now(), current_version=2) is VersionState.SUPERSEDED
    event = world.events()[-2]
    assert (event.type, event.resource) == (EventType.MANAGED_CERTIFICATE_REIMPORTED, f"{SHOP}/versions/2")


def test_labels_of_a_new_version_take_the_place_of_the_old_ones(world: World) -> None:
    import_(world, labels={"team": "web", "stage": "test"})
    view = import_(world, NEXT_PAIR, replace=True, labels={"team": "shop"})
    assert view.managed_certificate.labels == {"team": "shop"}


@pytest.mark.parametrize("exportable", [True, False])
def test_the_export_policy_stays(world: World, *, exportable: bool) -> None:
    import_(world, exportable=exportable)
    error = refused(world, NEXT_PAIR, replace=True, exportable=not exportable)
    assert error.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in error.violations] == ["export_policy"]
    view = import_(world, NEXT_PAIR, replace=True, exportable=exportable)
    assert view.managed_certificate.exportable is exportable


@pytest.mark.parametrize("exportable", [True, False])
@pytest.mark.parametrize("replacing", [True, False])
def test_a_key_is_imported_under_the_policy_that_it_was_sealed_for(
    world: World, *, exportable: bool, replacing: bool
) -> None:
    """Whatever the daemon says to the token process, which is asked as it is of every import."""
    if replacing:
        import_(world, exportable=exportable)
    asked = {"replace": True, "exportable": None} if replacing else {"exportable": exportable}
    given = NEXT_PAIR if replacing else SHOP_PAIR
    error = refused(world, given, private_key=sealed(world, given, exportable=not exportable), **asked)
    assert error.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in error.violations] == ["sealed_private_key.ciphertext"]
    assert "was sealed for another export policy, import key or certificate" in error.message
    view = import_(world, given, private_key=sealed(world, given, exportable=exportable), **asked)
    assert view.managed_certificate.exportable is exportable


def test_a_row_that_is_made_exportable_does_not_make_what_is_sealed_for_the_next_version_so(world: World) -> None:
    """Who writes into the database changes the policy of the books, and not that of what a client sealed."""
    import_(world, exportable=False)
    rows = managed_schema.managed_certificates
    world.core.store.write("test.policy", lambda tx: tx.execute(update(rows).values(exportable=True)))
    error = refused(world, NEXT_PAIR, private_key=sealed(world, NEXT_PAIR), replace=True)
    assert error.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in error.violations] == ["sealed_private_key.ciphertext"]


def test_a_key_is_imported_with_the_certificate_that_it_was_sealed_for(world: World) -> None:
    """Even when it is that of another, too: whoever sealed it said which one it is for."""
    error = refused(world, private_key=sealed(world, NEXT_PAIR, private_key=SHOP_PAIR.key_der))
    assert error.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in error.violations] == ["sealed_private_key.ciphertext"]
    import_(world, private_key=sealed(world, SHOP_PAIR))


def test_a_new_version_takes_nothing_from_the_consumers(world: World) -> None:
    both = pair(
        ISSUER,
        "shop.example.internal",
        now=NOW,
        extended=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    )
    import_(world, both)
    other_size = pair(ISSUER, "shop.example.internal", now=NOW, key=ec.generate_private_key(ec.SECP384R1()))
    other_name = pair(ISSUER, "other.example.internal", now=NOW)
    other_use = pair(ISSUER, "shop.example.internal", now=NOW, extended=[ExtendedKeyUsageOID.CLIENT_AUTH])
    for given in (other_size, other_name, other_use):
        assert refused(world, given, replace=True).reason is Reason.IMPORT_NOT_COMPATIBLE
    # The one exception there is to that, told.
    view = import_(world, SHOP_PAIR, replace=True)
    assert ["clientAuth" in warning.message for warning in view.warnings] == [True]


def test_one_that_has_ended_gets_a_new_version(world: World) -> None:
    import_(world)
    world.clock.advance(timedelta(days=100))
    assert world.core.managed_certificates.get(ADMINISTRATOR, SHOP).state is ManagedCertificateState.EXPIRED
    assert import_(world, NEXT_PAIR, replace=True).state is ManagedCertificateState.ACTIVE


def test_validate_only_changes_nothing_and_says_what_it_did_not_see(world: World) -> None:
    private_key = sealed(world, NEXT_PAIR)
    before = books(world)
    view = import_(world, private_key=private_key, validate_only=True)
    assert (view.managed_certificate.current_version, view.certificate) == (1, SHOP_PAIR.der)
    assert [warning.field for warning in view.warnings] == ["sealed_private_key"]
    view = import_(world, validate_only=True)
    assert view.warnings == ()
    assert books(world) == before
    error = refused(world, private_key=PlainPrivateKey(NEXT_PAIR.key_pem), validate_only=True)
    assert error.reason is Reason.IMPORT_KEY_MISMATCH
    assert [violation.field for violation in error.violations] == ["plain_private_key"]
    import_(world)
    after = books(world)
    assert import_(world, NEXT_PAIR, validate_only=True, replace=True).managed_certificate.current_version == 2
    assert refused(world, validate_only=True).reason is Reason.MANAGED_CERTIFICATE_EXISTS
    assert books(world) == after


def test_a_repeated_import_returns_what_the_first_one_made(world: World) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    first = import_(world, key=key)
    before = books(world)
    # A client that repeats seals anew.
    again = import_(world, key=key, private_key=sealed(world, SHOP_PAIR))
    assert again.managed_certificate == first.managed_certificate
    # Also when by now it would be refused.
    world.clock.advance(timedelta(days=100))
    assert import_(world, key=key).managed_certificate.uid == first.managed_certificate.uid
    assert books(world) == before
    error = refused(world, NEXT_PAIR, key=RequestKey(key.request_id, b"b"))
    assert error.reason is Reason.REQUEST_ID_REUSED


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("step", ["import.1.sealed", "import.2.committed"])
def test_no_crash_leaves_half_of_an_import(world: World, step: str, *, replacing: bool) -> None:
    if replacing:
        import_(world)
    before = books(world)
    given, key = (NEXT_PAIR if replacing else SHOP_PAIR), RequestKey(str(uuid.uuid4()), b"a")
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        import_(world, given, key=key, replace=replacing, exportable=None)
    committed = step == "import.2.committed"
    assert (books(world) == before) is not committed
    view = import_(world, given, key=key, replace=replacing)
    assert view.managed_certificate.current_version == (2 if replacing else 1)
    events = [event for event in world.events() if event.type.startswith("managed")]
    assert len(events) == (2 if replacing else 1)


def test_two_new_versions_at_once_are_two_versions(world: World) -> None:
    """What was sealed for a version that is another's by now is sealed anew."""
    import_(world, exportable=True)
    third = pair(ISSUER, "shop.example.internal", "third.example.internal", now=NOW)
    world.steps.at["import.1.sealed"] = lambda: import_(world, NEXT_PAIR, replace=True)
    view = import_(world, third, replace=True)
    assert view.managed_certificate.current_version == 3
    assert load_der_private_key(export(world).encrypted_key, None).public_key() == third.key.public_key()
    assert version_of(world, 2).certificate == NEXT_PAIR.der


def test_two_new_ones_of_a_name_at_once_are_one(world: World) -> None:
    world.steps.at["import.1.sealed"] = lambda: import_(world, NEXT_PAIR)
    with pytest.raises(CertdError) as caught:
        import_(world)
    assert caught.value.reason is Reason.MANAGED_CERTIFICATE_EXISTS
    assert world.core.managed_certificates.get(ADMINISTRATOR, SHOP).certificate == NEXT_PAIR.der


def test_who_is_always_late_is_told(world: World) -> None:
    import_(world)

    def import_again() -> None:
        import_(world, replace=True)
        world.steps.at["import.1.sealed"] = import_again

    world.steps.at["import.1.sealed"] = import_again
    with pytest.raises(CertdError) as caught:
        import_(world, NEXT_PAIR, replace=True)
    assert caught.value.reason is Reason.OWNERSHIP_LOST
    assert caught.value.retry_after is not None
    view = world.core.managed_certificates.get(ADMINISTRATOR, SHOP)
    assert (view.managed_certificate.current_version, view.certificate) == (4, SHOP_PAIR.der)


def test_what_else_changes_meanwhile_stays_and_keeps_no_new_version_out(world: World) -> None:
    import_(world, exportable=True)
    exports = 0

    def export_and_label() -> None:
        nonlocal exports
        exports += 1
        export(world)
        change = ManagedCertificateChange(name=SHOP, fields=frozenset({LABELS}), labels={"exports": str(exports)})
        world.core.managed_certificate_changes.update(ADMINISTRATOR, change, key=None, validate_only=False)
        world.steps.at["import.1.sealed"] = export_and_label

    world.steps.at["import.1.sealed"] = export_and_label
    view = import_(world, NEXT_PAIR, replace=True)
    managed = view.managed_certificate
    assert (managed.current_version, view.certificate, exports) == (2, NEXT_PAIR.der, 1)
    assert (managed.labels, managed.exported_version) == ({"exports": "1"}, 1)
    assert managed.export_time is not None
    assert managed == world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate


def test_no_more_are_imported_than_the_tenant_may_have(world: World) -> None:
    import_(world)

    def limit(tx: Transaction) -> None:
        tenant = tenants.get(tx, "default")
        assert tenant is not None
        tenants.update(tx, replace(tenant, quotas=replace(Quotas(), managed_certificates=1)))

    world.core.store.write("test.quota", limit)
    other = ManagedCertificateName("default", "other")
    assert refused(world, name=other).reason is Reason.QUOTA_EXCEEDED
    assert refused(world, name=other, validate_only=True).reason is Reason.QUOTA_EXCEEDED
    assert import_(world, NEXT_PAIR, replace=True).managed_certificate.current_version == 2


def test_a_key_that_was_reported_as_compromised_is_not_taken(world: World) -> None:
    sha256 = hashlib.sha256(public_key_der(SHOP_PAIR.key.public_key())).digest()
    world.core.store.write(
        "test.block",
        lambda tx: blocked_keys.block(tx, "default", sha256, authority_uid="", serial="", now=world.clock.now()),
    )
    assert refused(world).reason is Reason.KEY_TOO_WEAK
    import_(world, NEXT_PAIR)


def test_who_may_import_one_name_imports_no_other(world: World) -> None:
    requester = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/requester", serial="03")
    grant = Grant(grant_id="g", principal=requester.principal, role=Role.REQUESTER, scope=str(SHOP), profiles=None)
    world.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))
    # The import key too, without which it would have to show its private key.
    key = world.core.managed_import.import_key(requester, TENANT)
    private_key = SealedPrivateKey(key.name, SHOP_PAIR.sealed_to(key.statement))
    import_(world, private_key=private_key, caller=requester)
    error = refused(world, name=ManagedCertificateName("default", "other"), caller=requester)
    assert error.reason is Reason.PERMISSION_MISSING
    with pytest.raises(CertdError) as caught:
        world.core.managed_import.import_key(requester, TenantName("other"))
    assert caught.value.reason is Reason.PERMISSION_MISSING


def test_a_stranger_learns_nothing(world: World) -> None:
    import_(world)
    for name in (SHOP, ManagedCertificateName("default", "absent"), ManagedCertificateName("absent", "shop")):
        for replacing in (False, True):
            error = refused(world, name=name, replace=replacing, caller=STRANGER)
            assert error.reason is Reason.PERMISSION_MISSING
        with pytest.raises(CertdError) as caught:
            world.core.managed_import.roll_back(STRANGER, name, version=None, etag="", key=None)
        assert caught.value.reason is Reason.PERMISSION_MISSING
        with pytest.raises(CertdError) as caught:
            world.core.managed_import.import_key(STRANGER, TenantName(name.tenant))
        assert caught.value.reason is Reason.PERMISSION_MISSING


def test_a_tenant_that_is_not_there_is_told_to_who_may_know(world: World) -> None:
    assert refused(world, name=ManagedCertificateName("absent", "shop")).reason is Reason.TENANT_NOT_FOUND
    with pytest.raises(CertdError) as caught:
        world.core.managed_import.import_key(ADMINISTRATOR, TenantName("absent"))
    assert caught.value.reason is Reason.TENANT_NOT_FOUND


def test_an_import_key_of_no_use_is_refused_with_the_remedy(world: World) -> None:
    unknown = SealedPrivateKey(ImportKeyName("default", "k0000000000000000"), b"x" * 100)
    late = sealed(world, SHOP_PAIR)
    world.clock.advance(timedelta(days=31))
    for private_key in (unknown, late):
        error = refused(world, private_key=private_key)
        assert error.reason is Reason.FIELD_INVALID
        assert [violation.field for violation in error.violations] == ["sealed_private_key.import_key"]
        assert "GetImportKey" in error.message


def test_a_sealed_key_does_not_move_into_another_row(world: World) -> None:
    import_(world, exportable=True)
    import_(world, NEXT_PAIR, replace=True)
    managed = world.core.managed_certificates.get(ADMINISTRATOR, SHOP).managed_certificate

    def swap(tx: Transaction) -> None:
        keys = managed_schema.sealed_keys
        foreign = sealed_keys.get(tx, managed.uid, 1)
        tx.execute(update(keys).where(keys.c.version == 2), {"blob": foreign})

    world.core.store.write("test.swap", swap)
    with pytest.raises(CertdError) as caught:
        export(world)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
