"""The gRPC edge on a loopback port over real mutual TLS, with small services behind it that do as they are told."""

import contextlib
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.api.credentials import Credentials
from certd.api.server import GrpcServer, Limits, Services, serve
from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.authority import Authority, AuthorityKey, AuthorityState, AuthorityType
from certd.model.certificate import Certificate, CertificateState
from certd.model.managed_certificate import Condition, ManagedCertificate, ManagedCertificateState
from certd.model.names import AuthorityName, CertificateName, ManagedCertificateName, TenantName
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Warning as PreparationWarning
from certd.services.access import Access
from certd.services.authorities import Authorities
from certd.services.authority_activation import Activation, AuthorityActivation
from certd.services.authority_changes import AuthorityChanges, Change, NewSettings
from certd.services.authority_deletion import AuthorityDeletion, Deletion
from certd.services.authority_plan import NewAuthority
from certd.services.authority_reissue import AuthorityReissue, Reissue
from certd.services.authority_views import AuthorityView
from certd.services.certificates import BatchItem, Certificates, CertificateView, NewCertificate
from certd.services.idempotency import RequestKey
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import ManagedCertificates, NewManagedCertificate
from certd.services.managed_export import Exported, ManagedExport, PassphraseExport, RecipientExport
from certd.services.paging import Page, PageRequest
from certd.services.rates import Rates
from tests.api.edge_associations import FakeAssociations, FakeLeases
from tests.api.edge_certificates import FakeCertificateSearches, FakeRevocation
from tests.api.edge_credentials import Identity, identity_of, issue
from tests.api.edge_downloads import FakeDownloadCodes
from tests.api.edge_events import FakeEventStreams, FakeManagedWatch
from tests.api.edge_grants import FakeGrants
from tests.api.edge_identities import FakeEnrollment, FakeIdentityChanges
from tests.api.edge_imports import FakeManagedImport
from tests.api.edge_managed_changes import (
    FakeManagedCertificateChanges,
    FakeManagedRevocation,
    FakeRenewalCampaigns,
)
from tests.api.edge_profiles import FakeProfileChecks, FakeProfiles
from tests.api.edge_server_info import FakeRefusals, FakeServer
from tests.api.edge_subscriptions import FakeFailedDeliveries, FakeSubscriptions
from tests.api.edge_tenants import FakeTenants
from tests.api.edge_wrapping_keys import FakeManagedCertificateSearches, FakeWrappingKeyRotation

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
_CN, _O, _OU = "2.5.4.3", "2.5.4.10", "2.5.4.11"
ALICE = "spiffe://certd.test/identities/alice"

SYSTEM_ROOT = issue("System")
FOREIGN_ROOT = issue("System")
SERVER = issue(
    "server",
    names=(x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
    issuer=SYSTEM_ROOT,
)
CLIENT = identity_of(ALICE, SYSTEM_ROOT)
UNKNOWN_CLIENT = identity_of("spiffe://certd.test/identities/mallory", SYSTEM_ROOT)
REVOKED_CLIENT = identity_of("spiffe://certd.test/identities/bob", SYSTEM_ROOT)
FOREIGN_CLIENT = identity_of(ALICE, FOREIGN_ROOT)
TENANT_ROOT = issue("Example Root")
LEAF = issue("", names=(x509.DNSName("www.example.internal"),), issuer=TENANT_ROOT)

_TRIED_ELSEWHERE = (
    "authority_keys",
    "authority_key_changes",
    "cross_certifier",
    "adoption",
    "issued_import",
    "revocation_lists",
    "batch_revocation",
    "revocation_campaigns",
    "checkpoints",
    "audit_reports",
)
"""Use cases that are not here: what becomes of their calls is tried on a whole daemon."""

CREDENTIALS = Credentials(certificate_chain=SERVER.pem, private_key=SERVER.key_pem, client_roots=SYSTEM_ROOT.pem)

AUTHORITY = Authority(
    uid="5f0c",
    tenant="default",
    authority_id="web-ca",
    type=AuthorityType.ROOT,
    state=AuthorityState.ENABLED,
    key_spec=KeySpec.EC_P256,
    signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
    subject=distinguished_name.encode((((_CN, "Example Root"),), ((_O, "Example"), (_OU, "Trust")))),
    lifetime=timedelta(days=3650),
    path_length=0,
    issuer_uid="5f0c",
    key=AuthorityKey(
        number=1,
        key_id=bytes(range(16)),
        policy=b"policy",
        public_key=TENANT_ROOT.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ),
    certificate=TENANT_ROOT.der,
    chain=(),
    not_after=TENANT_ROOT.certificate.not_valid_after_utc,
    labels={"team": "web"},
    create_time=NOW,
    update_time=NOW,
    revision=3,
)
CERTIFICATE = Certificate(
    authority_uid="5f0c",
    key_number=1,
    serial="0a1b",
    state=CertificateState.ISSUED,
    der=LEAF.der,
    profile="end-entity",
    profile_version=4,
    subject_text="",
    not_before=NOW,
    not_after=NOW,
    public_key_sha256=bytes(32),
    key_spec=KeySpec.EC_P256,
    managed_certificate_uid=None,
    managed_certificate_version=None,
    labels={"team": "web"},
    create_time=NOW,
    revoke_time=None,
    revocation_reason=None,
    invalidity_time=None,
)
MANAGED = ManagedCertificate(
    uid="77aa",
    tenant="default",
    managed_certificate_id="web",
    authority_uid="5f0c",
    authority_name="tenants/default/authorities/web-ca",
    profile="end-entity",
    key_spec=KeySpec.EC_P256,
    subject=distinguished_name.EMPTY,
    names=SubjectAlternativeNames(dns_names=("www.example.internal",), ip_addresses=("192.0.2.1",)),
    lifetime=timedelta(days=90),
    exportable=True,
    state=ManagedCertificateState.ACTIVE,
    current_version=2,
    not_after=NOW,
    conditions=(
        Condition(type="Issued", status=True, reason="ISSUED", message="issued", last_transition_time=NOW),
        Condition(type="Renewed", status=False, reason="LINT_FAILED", message="not", last_transition_time=NOW),
    ),
    next_attempt_time=NOW,
    labels={},
    create_time=NOW,
    update_time=NOW,
    revision=5,
)
WARNING = PreparationWarning(field="csr.extensions", message="1.2.3 was dropped")


class Told:
    """What a service does: raise, or answer; and what it was called with."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.before: Any = None

    def take(self, *arguments: object) -> None:
        self.calls.append(arguments)
        if self.before is not None:
            self.before()
        if self.error is not None:
            raise self.error

    @property
    def last(self) -> tuple[Any, ...]:
        return self.calls[-1]


class FakeAccess(Access):
    def __init__(self) -> None:
        self.callers: dict[bytes, Caller | CertdError] = {
            CLIENT.der: Caller(principal=ALICE, serial="01"),
            REVOKED_CLIENT.der: CertdError(Reason.CREDENTIAL_REVOKED, "the client certificate 02 was revoked"),
        }

    def authenticate(self, certificate_der: bytes) -> Caller:
        found = self.callers.get(certificate_der)
        if found is None:
            raise CertdError(Reason.CREDENTIAL_INVALID, "the client certificate is not in the books of this server")
        if isinstance(found, CertdError):
            raise found
        return found


class FakeAuthorities(Authorities):
    def __init__(self, told: Told) -> None:
        self._told = told
        self.view = AuthorityView(
            authority=AUTHORITY,
            state=AuthorityState.ENABLED,
            issuer_name="",
            token_label="certd",
            mechanism="CKM_ECDSA",
            warnings=(WARNING,),
        )
        self.many = 1

    def create(
        self, caller: Caller, new: NewAuthority, *, key: RequestKey | None, validate_only: bool
    ) -> AuthorityView:
        self._told.take(caller, new, key, validate_only)
        return self.view

    def get(self, caller: Caller, name: AuthorityName) -> AuthorityView:
        self._told.take(caller, name)
        return self.view

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[AuthorityView]:
        self._told.take(caller, parent, request)
        return Page((self.view,) * min(request.size, self.many), "next")


class FakeAuthorityActivation(AuthorityActivation):
    def __init__(self, told: Told, authorities: FakeAuthorities) -> None:
        self._told = told
        self._authorities = authorities

    def csr(self, caller: Caller, name: AuthorityName, key_number: int | None = None) -> bytes:
        self._told.take(caller, name, key_number)
        return b"csr"

    def activate(self, caller: Caller, change: Change, given: Activation) -> AuthorityView:
        self._told.take(caller, change, given)
        return self._authorities.view


class FakeAuthorityChanges(AuthorityChanges):
    def __init__(self, told: Told, authorities: FakeAuthorities) -> None:
        self._told = told
        self._authorities = authorities

    def update(self, caller: Caller, change: Change, new: NewSettings) -> AuthorityView:
        self._told.take(caller, change, new)
        return self._authorities.view

    def enable(self, caller: Caller, change: Change) -> AuthorityView:
        self._told.take("enable", caller, change)
        return self._authorities.view

    def disable(self, caller: Caller, change: Change) -> AuthorityView:
        self._told.take("disable", caller, change)
        return self._authorities.view


class FakeAuthorityReissue(AuthorityReissue):
    def __init__(self, told: Told, authorities: FakeAuthorities) -> None:
        self._told = told
        self._authorities = authorities

    def reissue(self, caller: Caller, change: Change, wanted: Reissue) -> AuthorityView:
        self._told.take(caller, change, wanted)
        return self._authorities.view


class FakeAuthorityDeletion(AuthorityDeletion):
    def __init__(self, told: Told, authorities: FakeAuthorities) -> None:
        self._told = told
        self._authorities = authorities

    def delete(self, caller: Caller, change: Change, deletion: Deletion) -> AuthorityView:
        self._told.take(caller, change, deletion)
        return self._authorities.view

    def undelete(self, caller: Caller, change: Change) -> AuthorityView:
        self._told.take("undelete", caller, change)
        return self._authorities.view


class FakeCertificates(Certificates):
    def __init__(self, told: Told) -> None:
        self._told = told
        self.failures: dict[bytes, CertdError] = {}
        """By the CSR of an item of a batch."""
        self.view = CertificateView(
            name="tenants/default/authorities/web-ca/certificates/0a1b",
            certificate=CERTIFICATE,
            der=LEAF.der,
            profile_name="tenants/default/profiles/end-entity",
            managed_certificate_version="",
            chain=(TENANT_ROOT.der,),
            warnings=(WARNING,),
        )

    def issue(
        self, caller: Caller, new: NewCertificate, *, key: RequestKey | None, validate_only: bool, timeout: float | None
    ) -> CertificateView:
        self._told.take(caller, new, key, validate_only, timeout)
        return self.view

    def issue_batch(
        self,
        caller: Caller,
        authority: AuthorityName,
        items: Sequence[BatchItem],
        *,
        validate_only: bool,
        timeout: float | None,
        descriptions: bool = True,
    ) -> list[CertificateView | CertdError]:
        self._told.take(caller, authority, list(items), validate_only, timeout, descriptions)
        return [self.failures.get(item.new.csr) or self.view for item in items]

    def get(self, caller: Caller, name: CertificateName) -> CertificateView:
        self._told.take(caller, name)
        return self.view

    def page(self, caller: Caller, parent: AuthorityName, request: PageRequest) -> Page[CertificateView]:
        self._told.take(caller, parent, request)
        lost = replace(
            self.view, certificate=replace(CERTIFICATE, state=CertificateState.LOST, revoke_time=NOW), der=None
        )
        return Page((replace(self.view, chain=()), replace(lost, chain=())), "")


class FakeManagedCertificates(ManagedCertificates):
    def __init__(self, told: Told) -> None:
        self._told = told
        self.view = ManagedCertificateView(
            managed_certificate=MANAGED,
            state=ManagedCertificateState.ACTIVE,
            certificate=LEAF.der,
            chain=(TENANT_ROOT.der,),
            profile_name="tenants/default/profiles/end-entity",
            warnings=(WARNING,),
        )

    def request(
        self, caller: Caller, new: NewManagedCertificate, *, key: RequestKey | None, validate_only: bool
    ) -> ManagedCertificateView:
        self._told.take(caller, new, key, validate_only)
        pending = replace(MANAGED, current_version=0, next_attempt_time=None, conditions=(), lifetime=None)
        return replace(
            self.view, managed_certificate=pending, state=ManagedCertificateState.PENDING, certificate=None, chain=()
        )

    def get(self, caller: Caller, name: ManagedCertificateName) -> ManagedCertificateView:
        self._told.take(caller, name)
        return self.view

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[ManagedCertificateView]:
        self._told.take(caller, parent, request)
        return Page((self.view,), "")


class FakeManagedExport(ManagedExport):
    def __init__(self, told: Told) -> None:
        self._told = told

    def export(
        self,
        caller: Caller,
        name: ManagedCertificateName,
        *,
        version: int | None,
        protection: PassphraseExport | RecipientExport,
        reason: str,
    ) -> Exported:
        self._told.take(caller, name, version, protection, reason)
        return Exported(
            version=2,
            certificate=LEAF.der,
            chain=(TENANT_ROOT.der,),
            encrypted_key=b"\x30\x03encrypted",
            hpke_info=b"info" if isinstance(protection, RecipientExport) else b"",
        )


@dataclass
class Edge:
    """A running edge and what stands behind it."""

    server: GrpcServer
    told: Told
    access: FakeAccess
    authorities: FakeAuthorities
    certificates: FakeCertificates
    managed_certificates: FakeManagedCertificates
    profiles: FakeProfiles
    profile_checks: FakeProfileChecks
    description: FakeServer
    services: Services
    refusals: FakeRefusals
    channels: list[grpc.Channel] = field(default_factory=list)

    def channel(
        self, client: Identity | None = CLIENT, *, roots: Identity = SYSTEM_ROOT, **options: Any
    ) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            roots.pem, client.key_pem if client else None, client.pem if client else None
        )
        arguments = [(f"grpc.{name}", value) for name, value in options.items()]
        # A channel of its own, not one that shares the connection of another test.
        arguments.append(("grpc.use_local_subchannel_pool", 1))
        channel = grpc.secure_channel(f"localhost:{self.server.port}", credentials, arguments)
        self.channels.append(channel)
        return channel

    def stub(self, kind: Callable[..., Any], client: Identity = CLIENT, **options: Any) -> Any:
        """A stub of a generated class, which protoc leaves untyped."""
        return kind(self.channel(client, **options))

    def method(self, name: str, client: Identity = CLIENT) -> Callable[..., Any]:
        """A method by its full name, which takes and returns bytes."""
        call: Callable[..., Any] = self.channel(client).unary_unary(name, bytes, bytes)
        return call


@contextlib.contextmanager
def running_edge(
    *, limits: Limits | None = None, credentials: Credentials = CREDENTIALS, rates: Rates | None = None
) -> Iterator[Edge]:
    told = Told()
    access, authorities, certificates = FakeAccess(), FakeAuthorities(told), FakeCertificates(told)
    managed, description = (
        FakeManagedCertificates(told),
        FakeServer(told, start_time=NOW, system_root=SYSTEM_ROOT.der, tenant_root=TENANT_ROOT.der),
    )
    profiles, profile_checks = FakeProfiles(told), FakeProfileChecks(told)
    refusals = FakeRefusals()
    services = Services(
        access=access,
        authorities=authorities,
        authority_activation=FakeAuthorityActivation(told, authorities),
        authority_changes=FakeAuthorityChanges(told, authorities),
        authority_reissue=FakeAuthorityReissue(told, authorities),
        authority_deletion=FakeAuthorityDeletion(told, authorities),
        **dict.fromkeys(_TRIED_ELSEWHERE, None),  # type: ignore[arg-type]  # Nobody calls them.
        certificates=certificates,
        certificate_searches=FakeCertificateSearches(told, certificates.view),
        revocation=FakeRevocation(told, certificates.view),
        managed_certificates=managed,
        managed_certificate_changes=FakeManagedCertificateChanges(told, managed.view),
        managed_revocation=FakeManagedRevocation(told, managed.view),
        renewal_campaigns=FakeRenewalCampaigns(told),
        managed_export=FakeManagedExport(told),
        download_codes=FakeDownloadCodes(told),
        managed_certificate_searches=FakeManagedCertificateSearches(told, managed.view),
        wrapping_key_rotation=FakeWrappingKeyRotation(told),
        managed_import=FakeManagedImport(told, managed.view, now=NOW, authority_certificate=SYSTEM_ROOT.der),
        associations=FakeAssociations(told),
        leases=FakeLeases(told, LEAF.der, (TENANT_ROOT.der,)),
        profiles=profiles,
        profile_checks=profile_checks,
        tenants=FakeTenants(told),
        grants=FakeGrants(told),
        identity_changes=FakeIdentityChanges(told, LEAF.der),
        enrollment=FakeEnrollment(told),
        event_streams=FakeEventStreams(told),
        subscriptions=FakeSubscriptions(told),
        failed_deliveries=FakeFailedDeliveries(told),
        managed_watch=FakeManagedWatch(told),
        server=description,
        rates=rates or Rates(),
        refusals=refusals,
    )
    server = serve(host="127.0.0.1", port=0, credentials=credentials, services=services, limits=limits)
    edge = Edge(
        server,
        told,
        access,
        authorities,
        certificates,
        managed,
        profiles,
        profile_checks,
        description,
        services,
        refusals,
    )
    try:
        yield edge
    finally:
        for channel in edge.channels:
            channel.close()
        server.stop(0)
