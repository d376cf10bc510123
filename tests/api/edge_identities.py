"""Identities and enrollment behind the edge that do as they are told."""

from datetime import UTC, datetime

from certd.model.access import Caller
from certd.model.identity import Identity, IdentityState
from certd.model.names import IdentityName, TenantName
from certd.pki.enrollment_code import EnrollmentCode
from certd.services.enrollment import Enrollment, MadeCode, NewCode
from certd.services.idempotency import RequestKey
from certd.services.identities import IdentityCredential, IdentityView
from certd.services.identity_changes import IdentityChanges
from certd.services.paging import Page, PageRequest
from tests.api.edge_profiles import Takes

_NOW = datetime(2030, 1, 2, tzinfo=UTC)
WEB = IdentityView(
    Identity(
        name=IdentityName("default", "web"),
        spiffe_id="spiffe://certd.test/tenants/default/identities/web",
        state=IdentityState.ACTIVE,
        create_time=_NOW,
        update_time=_NOW,
    ),
    (),
)
CODE = EnrollmentCode(secret=bytes(range(20)), root_sha256=bytes(range(32)))


class FakeIdentityChanges(IdentityChanges):
    def __init__(self, told: Takes, certificate: bytes) -> None:
        self._told = told
        self._certificate = certificate

    def get(self, caller: Caller, name: IdentityName) -> IdentityView:
        self._told.take(caller, name)
        return WEB

    def page(self, caller: Caller, parent: TenantName | None, request: PageRequest) -> Page[IdentityView]:
        self._told.take(caller, parent, request)
        return Page((WEB,), "next")

    def renew(self, caller: Caller, certification_request: bytes, *, timeout: float) -> IdentityCredential:
        self._told.take(caller, certification_request, timeout)
        return IdentityCredential(
            view=WEB, certificate=self._certificate, system_roots=(self._certificate,), renew_time=_NOW
        )

    def revoke(
        self, caller: Caller, name: IdentityName, *, key: RequestKey | None, validate_only: bool
    ) -> IdentityView:
        self._told.take(caller, name, key, validate_only)
        return WEB


class FakeEnrollment(Enrollment):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def create_code(self, caller: Caller, new: NewCode) -> MadeCode:
        self._told.take(caller, new)
        return MadeCode(code=CODE, identity=WEB.identity.name, spiffe_id=WEB.identity.spiffe_id, expire_time=_NOW)
