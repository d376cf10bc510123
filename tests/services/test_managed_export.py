"""Exports: in every form, of what may leave, with a record of it that no change meanwhile can undo."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from sqlalchemy import delete, update

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState
from certd.model.names import CertificateName, ManagedCertificateName
from certd.pki.export_form import ExportForm
from certd.pki.key_spec import public_key_der
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_export import Exported, ManagedExport, PassphraseExport, RecipientExport
from certd.services.managed_import_plan import NewImport, PlainPrivateKey
from certd.services.revocation import NewRevocation
from certd.store import managed_schema, managed_versions, sealed_keys
from certd.store.store import Transaction
from certd.token.client import TokenClient
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.imports import pair
from tests.outside_parent import outside_authority
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, World, two_worlds
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

WEB = ManagedCertificateName("default", "web")
PASSPHRASE = b"correct horse"
_managed = managed_schema.managed_certificates


@pytest.fixture
def web(world: World) -> World:
    """A world with a managed certificate that is issued."""
    world.create_root()
    world.create_subordinate()
    world.request()
    settled(world)
    return world


def settled(world: World) -> ManagedCertificateView:
    def look() -> ManagedCertificateView | None:
        world.core.scheduler.wake()
        view = world.core.managed_certificates.get(ADMINISTRATOR, WEB)
        return view if view.state is not ManagedCertificateState.PENDING else None

    return eventually(look)


def stands(world: World) -> ManagedCertificate:
    return world.core.managed_certificates.get(ADMINISTRATOR, WEB).managed_certificate


def export(world: World, form: ExportForm = ExportForm.ACM_COMPATIBLE, *, version: int | None = None) -> Exported:
    """Exports; the form is that which takes the least time."""
    return world.core.managed_export.export(
        ADMINISTRATOR, WEB, version=version, protection=PassphraseExport(PASSPHRASE, form), reason="a test"
    )


def refused(world: World, *, version: int | None = None) -> CertdError:
    """Returns why an export is refused, which leaves no event; the server may be at work by itself meanwhile."""
    before = by_callers(world)
    with pytest.raises(CertdError) as caught:
        export(world, version=version)
    assert by_callers(world) == before
    return caught.value


def by_callers(world: World) -> list[Event]:
    return [event for event in world.events() if event.principal != SYSTEM_PRINCIPAL]


def rewrite(world: World, **columns: Any) -> None:
    statement = update(_managed).values(**columns)
    world.core.store.write("test.rewrite", lambda tx: tx.execute(statement))


@pytest.mark.parametrize("form", list(ExportForm))
def test_every_form_holds_the_key_of_the_certificate(web: World, form: ExportForm) -> None:
    exported = export(web, form)
    leaf = x509.load_der_x509_certificate(exported.certificate)
    if form.is_pkcs12:
        opened = load_pkcs12(exported.encrypted_key, PASSPHRASE)
        assert opened.key is not None
        assert opened.cert is not None
        assert (opened.cert.certificate, opened.cert.friendly_name) == (leaf, b"web")
        chain = [each.certificate.public_bytes(Encoding.DER) for each in opened.additional_certs]
        assert chain == list(exported.chain)
        private_key: Any = opened.key
    else:
        private_key = load_der_private_key(exported.encrypted_key, PASSPHRASE)
    assert public_key_der(private_key.public_key()) == public_key_der(leaf.public_key())
    details = web.events()[-1].details
    assert (details["protection"], details["form"], details["version"]) == ("passphrase", form.value, "1")


def test_the_chain_goes_from_the_issuer_to_the_root(web: World) -> None:
    exported = export(web)
    leaf, issuer, root = map(x509.load_der_x509_certificate, (exported.certificate, *exported.chain))
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)


def test_no_secret_is_in_the_event_nor_in_what_is_shown(web: World) -> None:
    assert PASSPHRASE.decode() not in repr(web.events())
    export(web)
    assert PASSPHRASE.decode() not in repr(web.events())
    assert PASSPHRASE.decode() not in repr(PassphraseExport(PASSPHRASE, ExportForm.PKCS12_MODERN))


def test_an_export_is_remembered_with_its_event(web: World) -> None:
    before = stands(web)
    assert (before.used, before.exported_version, before.export_time) == (False, 0, None)
    web.clock.advance(timedelta(hours=1))
    export(web)
    after = stands(web)
    assert (after.used, after.exported_version, after.export_time) == (True, 1, web.clock.now())
    assert after.etag != before.etag
    event = web.events()[-1]
    assert (event.type, event.time) == (EventType.MANAGED_CERTIFICATE_EXPORTED, web.clock.now())
    assert (event.resource, event.details["reason"]) == (f"{WEB}/versions/1", "a test")


def test_an_export_of_an_earlier_version_does_not_make_the_current_one_used(web: World) -> None:
    rewrite(web, current_version=2)
    export(web, version=1)
    after = stands(web)
    assert (after.used, after.exported_version, after.export_time) == (False, 0, web.clock.now())
    rewrite(web, exported_version=2)
    export(web, version=1)
    assert (stands(web).used, stands(web).exported_version) == (True, 2)


def test_what_was_exported_before_a_renewal_does_not_count_after_it(web: World) -> None:
    export(web)
    rewrite(web, current_version=2)
    assert not stands(web).used


@dataclass
class Meanwhile:
    """A token client that does something between the look at the books and the record."""

    token: TokenClient
    happens: Callable[[], object]
    problem: str = ""

    @property
    def ready(self) -> bool:
        self.happens()
        return True

    def export_under_passphrase(self, **arguments: Any) -> bytes:
        return self.token.export_under_passphrase(**arguments)


def export_while(world: World, happens: Callable[[], object]) -> Exported:
    core = world.core
    use_case = ManagedExport(
        store=core.store,
        token=cast("TokenClient", Meanwhile(core.token, happens)),
        clock=core.clock,
        access=core.access,
        step=world.steps,
    )
    protection = PassphraseExport(PASSPHRASE, ExportForm.ACM_COMPATIBLE)
    return use_case.export(ADMINISTRATOR, WEB, version=None, protection=protection, reason="")


def test_whoever_changes_it_meanwhile_neither_fails_the_export_nor_is_undone(web: World) -> None:
    revision = stands(web).revision
    exported = export_while(web, lambda: rewrite(web, revision=revision + 7, forced_version=1, association_count=3))
    assert exported.version == 1
    after = stands(web)
    assert (after.exported_version, after.forced_version, after.association_count) == (1, 1, 3)
    assert after.revision == revision + 8


def test_a_renewal_meanwhile_does_not_fail_the_export_of_what_was_current(web: World) -> None:
    assert export_while(web, lambda: rewrite(web, current_version=2)).version == 1
    assert not stands(web).used


def test_what_is_revoked_or_deleted_meanwhile_does_not_leave(web: World) -> None:
    uid = stands(web).uid

    def revoke() -> None:
        web.core.store.write(
            "test.revoke",
            lambda tx: managed_versions.set_revoked(
                tx, uid, 1, revoke_time=web.clock.now(), reason=RevocationReason.SUPERSEDED
            ),
        )

    def replace_by_another() -> None:
        def write(tx: Transaction) -> None:
            tx.execute(update(managed_schema.managed_certificates).values(managed_certificate_id="old"))
            managed = managed_schema.managed_certificates
            row = tx.execute(managed.select()).mappings().one()
            tx.execute(managed.insert(), dict(row) | {"uid": "another", "managed_certificate_id": "web"})

        web.core.store.write("test.replace", write)

    for happens, reason in (
        (replace_by_another, Reason.MANAGED_CERTIFICATE_NOT_FOUND),
        (lambda: rewrite(web, managed_certificate_id=_managed.c.uid), Reason.MANAGED_CERTIFICATE_NOT_FOUND),
    ):
        with pytest.raises(CertdError) as gone:
            export_while(web, happens)
        assert gone.value.reason is reason
    web.core.store.write("test.delete", lambda tx: tx.execute(delete(_managed).where(_managed.c.uid == "another")))
    rewrite(web, managed_certificate_id="web")
    with pytest.raises(CertdError) as revoked:
        export_while(web, revoke)
    assert revoked.value.reason is Reason.STATE_FORBIDS
    assert EventType.MANAGED_CERTIFICATE_EXPORTED not in {event.type for event in web.events()}
    assert stands(web).exported_version == 0


def test_a_revoked_version_does_not_leave(web: World) -> None:
    view = web.core.managed_certificates.get(ADMINISTRATOR, WEB)
    serial = f"{x509.load_der_x509_certificate(view.certificate or b'').serial_number:x}"
    name = CertificateName.parse("name", f"tenants/default/authorities/ca/certificates/{serial}")
    web.core.revocation.revoke(ADMINISTRATOR, NewRevocation(name=name), key=None, validate_only=False)
    error = refused(web)
    assert error.reason is Reason.STATE_FORBIDS
    assert "is revoked" in error.message
    assert error.resource == f"{WEB}/versions/1"


def test_an_expired_version_leaves_while_its_key_is_there(web: World) -> None:
    uid, end = stands(web).uid, stands(web).not_after
    assert end is not None
    # The current one, whose renewal is blocked: nobody wakes the scheduler.
    web.clock.advance(end - web.clock.now() + timedelta(days=1))
    assert export(web).version == 1

    def delete_key(tx: Transaction) -> int:
        sealed_keys.set_expiry(tx, uid, 1, end)
        return sealed_keys.delete_expired(tx, web.clock.now(), 10)

    assert web.core.store.write("test.delete-key", delete_key) == 1
    error = refused(web, version=1)
    assert error.reason is Reason.STATE_FORBIDS
    assert "has no key any more" in error.message


def test_a_version_in_the_making_says_so(world: World) -> None:
    world.create_root()
    world.create_subordinate()
    world.steps.at["managed.3.key-sealed"] = lambda: (_ for _ in ()).throw(CertdError(Reason.TOKEN_UNAVAILABLE, "away"))
    world.request()
    assert refused(world).reason is Reason.STATE_FORBIDS
    eventually(lambda: not world.steps.at)
    error = refused(world, version=1)
    assert error.reason is Reason.STATE_FORBIDS
    assert "has no certificate yet" in error.message


def test_an_imported_one_leaves_if_it_was_imported_so(world: World) -> None:
    now = FakeClock().now()
    root = outside_authority("Outside Root", now=now)
    given = pair(outside_authority("Outside Issuer", root, now=now), "shop.example.internal", now=now)

    def import_(managed_id: str, *, exportable: bool) -> ManagedCertificateName:
        new = NewImport(
            name=ManagedCertificateName("default", managed_id),
            certificate=given.pem,
            chain=given.chain_pem,
            private_key=PlainPrivateKey(given.key_pem),
            exportable=exportable,
        )
        world.core.managed_import.import_(ADMINISTRATOR, new, key=None, validate_only=False)
        return new.name

    protection = PassphraseExport(PASSPHRASE, ExportForm.PKCS12_LEGACY)
    exported = world.core.managed_export.export(
        ADMINISTRATOR, import_("shop", exportable=True), version=None, protection=protection, reason=""
    )
    opened = load_pkcs12(exported.encrypted_key, PASSPHRASE)
    assert opened.cert is not None
    issuers = [each.certificate.subject for each in opened.additional_certs]
    assert issuers == [opened.cert.certificate.issuer, opened.additional_certs[0].certificate.issuer]
    kept = import_("kept", exportable=False)
    with pytest.raises(CertdError, match="was imported as not exportable") as caught:
        world.core.managed_export.export(ADMINISTRATOR, kept, version=None, protection=protection, reason="")
    assert caught.value.reason is Reason.NOT_EXPORTABLE


@pytest.mark.parametrize(
    ("form", "passphrase"),
    [
        (ExportForm.PKCS12_MODERN, b"\xff" * 8),
        (ExportForm.PKCS12_LEGACY, b"seven77"),
        (ExportForm.ACM_COMPATIBLE, b"with#hash"),
        (ExportForm.ACM_COMPATIBLE, b"x" * 129),
    ],
)
def test_a_passphrase_against_the_rules_of_its_form_leaves_no_event(
    web: World, form: ExportForm, passphrase: bytes
) -> None:
    before = web.events()
    with pytest.raises(CertdError) as caught:
        web.core.managed_export.export(
            ADMINISTRATOR, WEB, version=None, protection=PassphraseExport(passphrase, form), reason=""
        )
    assert caught.value.reason is Reason.FIELD_INVALID
    assert web.events() == before


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        first.request()
        settled(first)
        yield first, second


def test_exports_by_two_daemons_at_once_all_succeed(daemons: tuple[World, World]) -> None:
    """Each counts up the revision of the row, which another has just read."""

    def attempt(number: int) -> int:
        public_key = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        protection = RecipientExport(public_key)
        use_case = daemons[number % 2].core.managed_export
        return use_case.export(ADMINISTRATOR, WEB, version=None, protection=protection, reason=str(number)).version

    before = stands(daemons[0]).revision
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(24))) == [1] * 24
    after = stands(daemons[0])
    assert (after.revision, after.exported_version) == (before + 24, 1)

    def reasons() -> set[str] | None:
        exports = [e for e in daemons[0].events() if e.type is EventType.MANAGED_CERTIFICATE_EXPORTED]
        return {event.details["reason"] for event in exports} if len(exports) == 24 else None

    assert eventually(reasons) == {str(number) for number in range(24)}
