"""Managed certificates: declared, advanced step by step, exported; no crash loses or doubles anything."""

import subprocess
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from sqlalchemy import select, update

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ManagedCertificateName, ProfileName, TenantName
from certd.pki import distinguished_name, sealing
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.services.authority_changes import Change
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.managed_export import Exported, PassphraseExport, RecipientExport
from certd.services.paging import PageRequest
from certd.store import grants, managed_schema, managed_versions, schema, sealed_keys
from certd.store.store import Transaction
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, CrashError, World, crash
from tests.waiting import eventually

WEB = ManagedCertificateName("default", "web")
SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def settled(ca: World, name: ManagedCertificateName = WEB) -> ManagedCertificateView:
    """Waits until the scheduler has made of it what can be made."""

    def look() -> ManagedCertificateView | None:
        view = ca.core.managed_certificates.get(ADMINISTRATOR, name)
        return view if view.state is not ManagedCertificateState.PENDING else None

    # A daemon whose clock runs away from it loses its term, and what it was about with it.
    return eventually(look, pause=0.05)


def settled_as_time_goes_by(ca: World) -> ManagedCertificateView:
    """As `settled`, for what waits for its next attempt."""

    def look() -> ManagedCertificateView | None:
        ca.clock.advance(timedelta(minutes=1))
        ca.core.scheduler.wake()
        view = ca.core.managed_certificates.get(ADMINISTRATOR, WEB)
        return view if view.state is not ManagedCertificateState.PENDING else None

    # A daemon whose clock runs away from it loses its term, and what it was about with it.
    return eventually(look, pause=0.05)


def export_to_recipient(ca: World, private_key: X25519PrivateKey) -> Exported:
    public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return ca.core.managed_export.export(
        ADMINISTRATOR, WEB, version=None, protection=RecipientExport(public_key), reason="test"
    )


def test_it_becomes_active_with_a_key_that_only_the_token_opens(ca: World) -> None:
    requested = ca.request()
    assert requested.state is ManagedCertificateState.PENDING
    view = settled(ca)
    assert view.state is ManagedCertificateState.ACTIVE
    assert view.managed_certificate.current_version == 1
    (condition,) = view.managed_certificate.conditions
    assert (condition.type, condition.status, condition.reason) == ("Issued", True, "Issued")
    leaf = x509.load_der_x509_certificate(view.certificate or b"")
    leaf.verify_directly_issued_by(x509.load_der_x509_certificate(view.chain[0]))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["www.example.internal"]
    private_key = X25519PrivateKey.generate()
    exported = export_to_recipient(ca, private_key)
    opened = sealing.hpke_decrypt(exported.encrypted_key, private_key=private_key, info=exported.hpke_info)
    assert load_der_private_key(opened, None).public_key().public_bytes(*SPKI) == leaf.public_key().public_bytes(*SPKI)


def test_every_step_has_its_event(ca: World) -> None:
    ca.request()
    settled(ca)
    export_to_recipient(ca, X25519PrivateKey.generate())
    types = [event.type for event in ca.events() if event.type.startswith(("managed", "wrapping"))]
    assert types == [
        EventType.MANAGED_CERTIFICATE_REQUESTED,
        EventType.WRAPPING_KEY_CREATED,
        EventType.MANAGED_CERTIFICATE_KEY_GENERATED,
        EventType.MANAGED_CERTIFICATE_ISSUED,
        EventType.MANAGED_CERTIFICATE_EXPORTED,
    ]


@pytest.mark.parametrize("spec", list(KeySpec))
def test_each_kind_of_key_is_exported_under_a_passphrase_that_openssl_opens(
    ca: World, spec: KeySpec, tmp_path: Path
) -> None:
    ca.request(key_spec=spec)
    view = settled(ca)
    exported = ca.core.managed_export.export(
        ADMINISTRATOR, WEB, version=1, protection=PassphraseExport(b"correct horse"), reason=""
    )
    (tmp_path / "key.der").write_bytes(exported.encrypted_key)
    opened = subprocess.run(
        ["openssl", "pkcs8", "-inform", "DER", "-in", tmp_path / "key.der", "-passin", "pass:correct horse"],
        check=True,
        capture_output=True,
    ).stdout
    public = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "DER"], input=opened, check=True, capture_output=True
    ).stdout
    leaf = x509.load_der_x509_certificate(view.certificate or b"")
    assert public == leaf.public_key().public_bytes(*SPKI)


@pytest.mark.parametrize("step", ["managed.2.wrapping-key", "managed.3.key-sealed", "managed.4.issued"])
def test_no_crash_loses_or_doubles_it(ca: World, step: str) -> None:
    """The scheduler's run dies at the step; the job is still there and the next run goes on from the books."""
    ca.steps.at[step] = crash
    ca.request()
    eventually(lambda: not ca.steps.at)

    view = settled_as_time_goes_by(ca)
    assert view.managed_certificate.current_version == 1
    types = [event.type for event in ca.events()]
    assert types.count(EventType.MANAGED_CERTIFICATE_KEY_GENERATED) == 1
    assert types.count(EventType.MANAGED_CERTIFICATE_ISSUED) == 1
    assert types.count(EventType.WRAPPING_KEY_CREATED) == 1


def test_a_step_that_fails_for_a_while_is_blocked_with_the_reason_and_goes_on(ca: World) -> None:
    """The authority is disabled under the running request, and enabled again."""
    change = Change(name=AuthorityName("default", "ca"))
    ca.core.authority_changes.disable(ADMINISTRATOR, change)
    with pytest.raises(CertdError) as refused:
        ca.request()
    assert refused.value.reason is Reason.AUTHORITY_NOT_ENABLED
    ca.core.authority_changes.enable(ADMINISTRATOR, change)
    ca.steps.at["managed.3.key-sealed"] = lambda: ca.core.authority_changes.disable(ADMINISTRATOR, change)
    ca.request()

    def blocked() -> ManagedCertificateView | None:
        view = ca.core.managed_certificates.get(ADMINISTRATOR, WEB)
        return view if view.managed_certificate.conditions[0].reason != "Requested" else None

    view = eventually(blocked)
    assert view.state is ManagedCertificateState.PENDING
    assert view.managed_certificate.conditions[0].reason == Reason.AUTHORITY_NOT_ENABLED
    assert view.managed_certificate.next_attempt_time is not None
    assert view.managed_certificate.next_attempt_time > ca.clock.now()
    ca.core.authority_changes.enable(ADMINISTRATOR, change)
    assert settled_as_time_goes_by(ca).state is ManagedCertificateState.ACTIVE


def test_what_can_never_be_issued_fails_with_the_reason(world: World) -> None:
    """Its lifetime fitted when it was asked for, and no longer when it is issued."""
    world.create_root()
    world.create_subordinate(lifetime=timedelta(days=90))
    world.steps.at["managed.2.wrapping-key"] = crash
    world.request(lifetime=timedelta(days=90))
    eventually(lambda: not world.steps.at)
    world.clock.advance(timedelta(days=1))
    view = settled_as_time_goes_by(world)
    assert view.state is ManagedCertificateState.FAILED
    assert view.managed_certificate.conditions[0].reason == Reason.LIFETIME_EXCEEDS_AUTHORITY
    # As time goes by the authorities get OCSP responders, which are told of as well.
    assert EventType.MANAGED_CERTIFICATE_FAILED in {event.type for event in world.events()}
    with world.core.store.read("test.jobs") as tx:
        of_certificates = schema.jobs.c.kind == JobKind.ADVANCE_MANAGED_CERTIFICATE
        assert tx.execute(select(schema.jobs.c.subject).where(of_certificates)).all() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": SubjectAlternativeNames()}, Reason.NAME_NOT_ALLOWED),
        (
            {"names": SubjectAlternativeNames(uris=("spiffe://test.internal/identities/admin",))},
            Reason.NAME_NOT_ALLOWED,
        ),
        ({"authority": AuthorityName("default", "absent")}, Reason.AUTHORITY_NOT_FOUND),
        ({"authority": AuthorityName("other", "ca")}, Reason.AUTHORITY_NOT_FOUND),
        ({"profile": ProfileName("default", "subordinate-ca")}, Reason.PROFILE_FORBIDS),
        ({"profile": ProfileName("default", "absent")}, Reason.PROFILE_NOT_FOUND),
        ({"lifetime": timedelta(days=6 * 365)}, Reason.PROFILE_FORBIDS),
    ],
)
def test_bad_input_is_refused_at_once_and_nothing_changes(ca: World, changes: dict[str, Any], reason: Reason) -> None:
    before = ca.events()
    with pytest.raises(CertdError) as refused:
        ca.request(**changes)
    assert refused.value.reason is reason
    if not reason.endswith("NOT_FOUND"):
        assert all(violation.field.startswith("managed_certificate.") for violation in refused.value.violations)
        assert refused.value.violations
    assert ca.events() == before


def test_a_repeated_request_returns_the_same_one(ca: World) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    new = NewManagedCertificate(
        name=WEB,
        authority=AuthorityName("default", "ca"),
        subject=distinguished_name.EMPTY,
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
    )
    request = ca.core.managed_certificates.request
    first = request(ADMINISTRATOR, new, key=key, validate_only=False)
    again = request(ADMINISTRATOR, new, key=key, validate_only=False)
    assert again.managed_certificate.uid == first.managed_certificate.uid
    with pytest.raises(CertdError) as reused:
        request(ADMINISTRATOR, new, key=RequestKey(key.request_id, b"b"), validate_only=False)
    assert reused.value.reason is Reason.REQUEST_ID_REUSED
    with pytest.raises(CertdError) as taken:
        request(ADMINISTRATOR, new, key=None, validate_only=False)
    assert taken.value.reason is Reason.MANAGED_CERTIFICATE_EXISTS
    settled(ca)


def test_validate_only_changes_nothing(ca: World) -> None:
    before = ca.events()
    new = NewManagedCertificate(
        name=WEB,
        authority=AuthorityName("default", "ca"),
        subject=distinguished_name.EMPTY,
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
    )
    view = ca.core.managed_certificates.request(ADMINISTRATOR, new, key=None, validate_only=True)
    assert view.state is ManagedCertificateState.PENDING
    assert ca.events() == before


def test_its_tenant_has_one_wrapping_key(ca: World) -> None:
    for number in range(6):
        ca.request(f"web-{number}")
    for number in range(6):
        settled(ca, ManagedCertificateName("default", f"web-{number}"))
    with ca.core.store.read("test.wrapping-keys") as tx:
        assert len(tx.execute(select(managed_schema.wrapping_keys.c.number)).all()) == 1


def test_a_key_that_is_not_exportable_never_leaves(ca: World) -> None:
    ca.request(exportable=False)
    settled(ca)
    with pytest.raises(CertdError) as refused:
        export_to_recipient(ca, X25519PrivateKey.generate())
    assert refused.value.reason is Reason.NOT_EXPORTABLE
    # Nor when a writer of the database says that it may: the flag is in the associated data.
    widen = update(managed_schema.managed_certificates).values(exportable=True)
    ca.core.store.write("test.widen", lambda tx: tx.execute(widen))
    with pytest.raises(CertdError) as still:
        export_to_recipient(ca, X25519PrivateKey.generate())
    assert still.value.reason is Reason.TOKEN_POLICY_FORBIDS


def test_a_sealed_key_that_was_moved_to_another_certificate_does_not_open(ca: World) -> None:
    ca.request()
    ca.request("other")
    ours, other = settled(ca), settled(ca, ManagedCertificateName("default", "other"))

    def swap(tx: Transaction) -> None:
        foreign = sealed_keys.get(tx, other.managed_certificate.uid, 1)
        keys = managed_schema.sealed_keys
        rows = update(keys).where(keys.c.managed_certificate_uid == ours.managed_certificate.uid)
        tx.execute(rows, {"blob": foreign})

    ca.core.store.write("test.swap", swap)
    assert refused_export(ca, version=1).reason is Reason.TOKEN_POLICY_FORBIDS


def test_a_sealed_key_that_was_moved_to_another_version_does_not_open(ca: World) -> None:
    ca.request()
    uid = settled(ca).managed_certificate.uid

    def copy(tx: Transaction) -> None:
        first = managed_versions.get(tx, uid, 1)
        assert first is not None
        managed_versions.insert(tx, replace(first, number=2))
        sealed_keys.insert(tx, uid, 2, first.wrapping_key_number, sealed_keys.get(tx, uid, 1) or b"")

    ca.core.store.write("test.copy", copy)
    assert refused_export(ca, version=2).reason is Reason.TOKEN_POLICY_FORBIDS
    assert export_to_recipient(ca, X25519PrivateKey.generate()).version == 1


def refused_export(ca: World, *, version: int) -> CertdError:
    public_key = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    with pytest.raises(CertdError) as refused:
        ca.core.managed_export.export(
            ADMINISTRATOR, WEB, version=version, protection=RecipientExport(public_key), reason=""
        )
    return refused.value


@pytest.mark.parametrize("passphrase", [b"", b"seven77", b"x" * 1025])
def test_a_passphrase_out_of_bounds_is_refused_before_the_event(ca: World, passphrase: bytes) -> None:
    ca.request()
    settled(ca)
    before = ca.events()
    with pytest.raises(CertdError) as refused:
        ca.core.managed_export.export(
            ADMINISTRATOR, WEB, version=None, protection=PassphraseExport(passphrase), reason=""
        )
    assert refused.value.reason is Reason.FIELD_INVALID
    assert passphrase.decode() not in refused.value.message or not passphrase
    assert ca.events() == before


def test_the_event_is_there_before_the_bytes_leave(ca: World) -> None:
    ca.request()
    settled(ca)
    ca.steps.at["export.1.recorded"] = crash
    with pytest.raises(CrashError):
        export_to_recipient(ca, X25519PrivateKey.generate())
    event = ca.events()[-1]
    assert event.type is EventType.MANAGED_CERTIFICATE_EXPORTED
    assert event.resource == f"{WEB}/versions/1"
    assert event.details == {
        "uid": ca.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate.uid,
        "authority": "tenants/default/authorities/ca",
        "profile": "end-entity",
        "protection": "recipient",
        "version": "1",
        "reason": "test",
    }


def test_a_version_that_is_not_there_is_not_exported(ca: World) -> None:
    ca.request()
    settled(ca)
    for version, name in ((7, WEB), (None, ManagedCertificateName("default", "absent"))):
        with pytest.raises(CertdError) as refused:
            ca.core.managed_export.export(
                ADMINISTRATOR, name, version=version, protection=PassphraseExport(b"correct horse"), reason=""
            )
        assert refused.value.reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND


def test_an_expired_one_says_so(ca: World) -> None:
    ca.request()
    settled(ca)
    ca.clock.advance(timedelta(days=90))
    assert ca.core.managed_certificates.get(ADMINISTRATOR, WEB).state is ManagedCertificateState.EXPIRED


def test_lists_go_page_by_page(ca: World) -> None:
    for number in range(3):
        ca.request(f"web-{number}")
    parent = TenantName("default")
    first = ca.core.managed_certificates.page(ADMINISTRATOR, parent, PageRequest(2, ""))
    rest = ca.core.managed_certificates.page(ADMINISTRATOR, parent, PageRequest(2, first.next_page_token))
    names = [view.managed_certificate.managed_certificate_id for view in (*first.items, *rest.items)]
    assert names == ["web-0", "web-1", "web-2"]


def test_an_authority_is_used_only_by_who_may_use_it(ca: World) -> None:
    requester = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/requester", serial="03")

    def allow(scope: str) -> None:
        grant = Grant(grant_id=scope, principal=requester.principal, role=Role.REQUESTER, scope=scope, profiles=None)
        ca.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))

    def request(authority: str) -> ManagedCertificateView:
        new = NewManagedCertificate(
            name=WEB,
            authority=AuthorityName("default", authority),
            subject=distinguished_name.EMPTY,
            names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
        )
        return ca.core.managed_certificates.request(requester, new, key=None, validate_only=False)

    allow(str(WEB))
    for authority in ("ca", "absent"):
        with pytest.raises(CertdError) as refused:
            request(authority)
        assert refused.value.reason is Reason.PERMISSION_MISSING
    allow("tenants/default/authorities/ca")
    assert request("ca").state is ManagedCertificateState.PENDING


def test_a_stranger_learns_nothing(ca: World) -> None:
    ca.request()
    settled(ca)
    for name in (WEB, ManagedCertificateName("default", "absent")):
        with pytest.raises(CertdError) as refused:
            ca.core.managed_certificates.get(STRANGER, name)
        assert refused.value.reason is Reason.PERMISSION_MISSING
        with pytest.raises(CertdError) as export:
            ca.core.managed_export.export(
                STRANGER, name, version=None, protection=PassphraseExport(b"correct horse"), reason=""
            )
        assert export.value.reason is Reason.PERMISSION_MISSING
