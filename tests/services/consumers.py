"""Consumers in a world: identities with keys, their associations, and the leases that they sign for."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)

from certd.errors import CertdError
from certd.model.access import Caller, Grant, Role
from certd.model.event import Event, EventType
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState, ManagedCertificateVersion
from certd.model.names import AssociationName, IdentityName, ManagedCertificateName
from certd.pki.credential_request import new_credential_request
from certd.pki.lease import lease_statement, sign_lease
from certd.pki.sealing import hpke_decrypt
from certd.services.association_views import AssociationView
from certd.services.associations import NewAssociation
from certd.services.leases import Leased, SignedLease
from certd.services.managed_certificate_records import seal_context
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.tenants import existing_tenant
from certd.store import grants, identities, managed_certificates, managed_versions, sealed_keys
from certd.store.store import Transaction
from certd.token.pinning import pin_roots
from certd.token.settings import TokenSettings
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, new_world
from tests.waiting import eventually

WEB = ManagedCertificateName("default", "web")
_NUMBERS = itertools.count(1)
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def leasing_world(folder: Path, token: TokenSettings) -> Iterator[World]:
    """Runs a core whose clock stands at the real time, for the token process has a clock of its own.

    It has an authority, and the token process knows the root of the system.
    """
    with new_world(folder, token, authorities=True, of_today=True) as world:
        pin_system_root(world, token)
        yield world


def pin_system_root(world: World, token: TokenSettings) -> None:
    pin_roots(token.system_roots, world.core.system_authority.roots())


def active(world: World, name: ManagedCertificateName = WEB) -> ManagedCertificateView:
    """Requests a managed certificate and waits until it is issued."""
    world.request(name.managed_certificate, name=name)

    def look() -> ManagedCertificateView | None:
        world.core.scheduler.wake()
        view = world.core.managed_certificates.get(ADMINISTRATOR, name)
        return view if view.state is ManagedCertificateState.ACTIVE else None

    return eventually(look)


def give(world: World, principal: str, role: Role, scope: str = "tenants/default") -> None:
    grant = Grant(grant_id=f"given-{next(_NUMBERS)}", principal=principal, role=role, scope=scope, profiles=None)
    world.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """An identity that calls."""

    name: IdentityName
    caller: Caller
    certificate: bytes
    private_key: PrivateKeyTypes

    @property
    def spiffe_id(self) -> str:
        return self.caller.principal


def consumer(
    world: World,
    identity: str = "machine",
    *,
    tenant: str | None = "default",
    role: Role | None = Role.CONSUMER,
    scope: str = "tenants/default",
) -> Consumer:
    """Makes an identity with a certificate, which holds a role."""
    name, core = IdentityName(tenant, identity), world.core
    spiffe_id, made = spiffe_id_of(name, TRUST_DOMAIN), new_credential_request()
    core.store.write(
        "test.identity", lambda tx: identities.ensure(tx, name, spiffe_id, IdentityState.ACTIVE, world.clock.now())
    )
    certificate = core.identities.ensure_identity(spiffe_id, made.csr).certificate
    if role is not None:
        give(world, spiffe_id, role, scope)
    return Consumer(
        name=name,
        caller=core.access.authenticate(certificate),
        certificate=certificate,
        private_key=load_pem_private_key(made.private_key, None),
    )


def associate(
    world: World, who: Consumer, managed: ManagedCertificateName = WEB, association_id: str = ""
) -> AssociationView:
    new = NewAssociation(managed_certificate=managed, association_id=association_id, consumer=who.name)
    return world.core.associations.create(ADMINISTRATOR, new, key=None, validate_only=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A lease that a consumer signed for, and what opens the answer."""

    signed: SignedLease
    statement: bytes
    one_time_key: X25519PrivateKey

    def open(self, leased: Leased) -> PrivateKeyTypes:
        """The private key in an answer."""
        opened = hpke_decrypt(leased.encrypted_key, private_key=self.one_time_key, info=self.statement)
        return load_der_private_key(opened, None)


def signed_request(
    who: Consumer,
    view: AssociationView,
    version: int = 1,
    *,
    sign_time: datetime | None = None,
    signs_for: int | None = None,
) -> Request:
    """What a consumer sends; with `signs_for` it signs for another version than it asks for."""
    one_time_key = X25519PrivateKey.generate()
    sign_time = sign_time or datetime.now(UTC)
    public_key = one_time_key.public_key().public_bytes_raw()
    statement = lease_statement(
        tenant=view.tenant_uid,
        certificate=view.association.managed_certificate_uid,
        version=signs_for or version,
        consumer=who.spiffe_id,
        public_key=public_key,
        sign_time=sign_time,
    )
    signed = SignedLease(
        version=version,
        public_key=public_key,
        sign_time=sign_time,
        certificate=who.certificate,
        signature=sign_lease(who.private_key, statement),
    )
    return Request(signed=signed, statement=statement, one_time_key=one_time_key)


def lease(world: World, who: Consumer, view: AssociationView, version: int = 1) -> PrivateKeyTypes:
    """Leases a key and opens it, when it belongs to the certificate that came with it."""
    request = signed_request(who, view, version)
    leased = world.core.leases.lease(who.caller, view.association.name, request.signed)
    key = request.open(leased)
    assert leased.version == version
    leaf = x509.load_der_x509_certificate(leased.certificate)
    assert key.public_key().public_bytes(*_SPKI) == leaf.public_key().public_bytes(*_SPKI)
    return key


def add_version(world: World, name: ManagedCertificateName = WEB) -> ManagedCertificate:
    """Gives a managed certificate one more version, as a renewal would, with a certificate of nobody we know."""
    core, now = world.core, world.clock.now()
    with core.store.read("test") as tx:
        managed = managed_certificates.get(tx, name.tenant, name.managed_certificate)
        tenant = existing_tenant(tx, name.tenant)
        latest = None if managed is None else managed_versions.latest(tx, managed.uid)
        assert managed is not None
        assert latest is not None
    primary = core.associations._keys._wrapping_keys.primary(name.tenant, known=None)
    number = latest.number + 1
    generated = core.token.generate_subscriber_key(
        wrapping_key_id=primary.key_id,
        key_spec=managed.key_spec,
        context=seal_context(tenant.uid, managed, number, public_key_sha256=b""),
    )
    version = ManagedCertificateVersion(
        managed_certificate_uid=managed.uid,
        number=number,
        public_key=generated.public_key,
        wrapping_key_number=primary.number,
        authority_uid="",
        serial=None,
        create_time=now,
        certificate=_certificate_for(generated.public_key, now),
        not_before=now,
        not_after=now + timedelta(days=90),
    )

    def keep(tx: Transaction) -> ManagedCertificate:
        found = managed_certificates.get_by_uid(tx, managed.uid)
        assert found is not None
        managed_versions.insert(tx, version)
        sealed_keys.insert(tx, managed.uid, number, primary.number, generated.sealed_key)
        changed = managed_certificates.update(tx, replace(found, current_version=number), found.revision)
        assert changed is not None
        return changed

    return core.store.write("test.renewed", keep)


def _certificate_for(public_key: bytes, now: datetime) -> bytes:
    key = load_der_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=90))
    )
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def association_name(association_id: str = "machine", managed: ManagedCertificateName = WEB) -> AssociationName:
    return AssociationName(managed, association_id)


def refusal(call: Callable[[], object]) -> CertdError:
    with pytest.raises(CertdError) as refused:
        call()
    return refused.value


def attempt(world: World, who: Consumer, name: AssociationName, request: Request | SignedLease) -> CertdError:
    """How a lease is refused."""
    signed = request.signed if isinstance(request, Request) else request
    return refusal(lambda: world.core.leases.lease(who.caller, name, signed))


def told(world: World, *types: EventType) -> list[Event]:
    return [event for event in world.events() if event.type in types]


def refusals_told(world: World) -> list[tuple[str, str, str]]:
    """Principal, resource and reason of the refused leases."""
    events = told(world, EventType.MANAGED_CERTIFICATE_LEASE_REFUSED)
    return [(event.principal, event.resource, event.details["reason"]) for event in events]
