"""What stands behind the edge for associations and leases."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from certd.model.access import Caller
from certd.model.association import Association, Deployment, DeploymentState
from certd.model.names import AssociationName, IdentityName, ManagedCertificateName
from certd.services.association_views import AssociationView
from certd.services.associations import Associations, NewAssociation
from certd.services.idempotency import RequestKey
from certd.services.leases import GivenDeployment, Leased, Leases, SignedLease
from certd.services.paging import Page, PageRequest

if TYPE_CHECKING:
    from tests.api.edge_server import Told

MADE = datetime(2026, 3, 1, tzinfo=UTC)
WEB = ManagedCertificateName("default", "web")
ASSOCIATION = Association(
    managed_certificate_uid="uid-of-web",
    name=AssociationName(WEB, "machine"),
    consumer="tenants/default/identities/machine",
    consumer_spiffe_id="spiffe://example/tenants/default/identities/machine",
    creator="spiffe://example/identities/alice",
    create_time=MADE,
    leased_version=2,
    lease_time=MADE + timedelta(days=1),
    deployment=Deployment(
        state=DeploymentState.FAILED,
        version=2,
        certificate_sha256=bytes(range(32)),
        message="nginx -t failed",
        report_time=MADE + timedelta(days=2),
    ),
    current_version=3,
)
NEVER_LEASED = Association(
    managed_certificate_uid="uid-of-web",
    name=AssociationName(WEB, "other"),
    consumer="identities/other",
    consumer_spiffe_id="spiffe://example/identities/other",
    creator="spiffe://example/identities/alice",
    create_time=MADE,
)
CURRENT_SHA256 = bytes(range(1, 33))
REVOKED_SHA256 = (bytes(range(2, 34)), bytes(range(3, 35)))
_VIEW = AssociationView(
    association=ASSOCIATION,
    tenant_uid="uid-of-default",
    current_certificate_sha256=CURRENT_SHA256,
    revoked_certificate_sha256=REVOKED_SHA256,
)
_NEVER_LEASED_VIEW = AssociationView(
    association=NEVER_LEASED,
    tenant_uid="uid-of-default",
    current_certificate_sha256=b"",
    revoked_certificate_sha256=(),
)


class FakeAssociations(Associations):
    def __init__(self, told: "Told") -> None:
        self._told = told

    def create(
        self, caller: Caller, new: NewAssociation, *, key: RequestKey | None, validate_only: bool
    ) -> AssociationView:
        self._told.take(caller, new, key, validate_only)
        return _VIEW

    def get(self, caller: Caller, name: AssociationName) -> AssociationView:
        self._told.take(caller, name)
        return _VIEW

    def page(
        self,
        caller: Caller,
        parent: ManagedCertificateName,
        request: PageRequest,
        *,
        consumer: IdentityName | None = None,
    ) -> Page[AssociationView]:
        self._told.take(caller, parent, request, consumer)
        return Page((_VIEW, _NEVER_LEASED_VIEW), "next")

    def delete(self, caller: Caller, name: AssociationName, *, key: RequestKey | None) -> None:
        self._told.take(caller, name, key)


class FakeLeases(Leases):
    def __init__(self, told: "Told", certificate: bytes, chain: tuple[bytes, ...]) -> None:
        self._told = told
        self._certificate = certificate
        self._chain = chain

    def lease(self, caller: Caller, name: AssociationName, signed: SignedLease) -> Leased:
        self._told.take(caller, name, signed)
        return Leased(
            version=signed.version, certificate=self._certificate, chain=self._chain, encrypted_key=b"encrypted"
        )

    def report(self, caller: Caller, name: AssociationName, given: GivenDeployment) -> AssociationView:
        self._told.take(caller, name, given)
        return _VIEW
