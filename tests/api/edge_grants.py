"""Grants behind the edge that do as they are told."""

from certd.model.access import Caller, Grant, Role
from certd.model.names import GrantName, TenantName
from certd.services.grants import GivenGrant, Grants, Question, Verdict
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest
from tests.api.edge_profiles import Takes

GRANT = Grant(
    grant_id="web",
    tenant="default",
    principal="spiffe://certd.test/identities/bob",
    role=Role.ISSUER,
    scope="tenants/default/authorities/web-ca",
    profiles=frozenset({"server", "end-entity"}),
    creator="spiffe://certd.test/identities/alice",
)


class FakeGrants(Grants):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def create(
        self, caller: Caller, name: GrantName, given: GivenGrant, *, key: RequestKey | None, validate_only: bool
    ) -> Grant:
        self._told.take(caller, name, given, key, validate_only)
        return GRANT

    def get(self, caller: Caller, name: GrantName) -> Grant:
        self._told.take(caller, name)
        return GRANT

    def page(
        self, caller: Caller, parent: TenantName | None, request: PageRequest, *, principal: str | None = None
    ) -> Page[Grant]:
        self._told.take(caller, parent, request, principal)
        return Page((GRANT,), "next")

    def delete(self, caller: Caller, name: GrantName, *, key: RequestKey | None, validate_only: bool) -> None:
        self._told.take(caller, name, key, validate_only)

    def held(self, caller: Caller) -> tuple[Grant, ...]:
        self._told.take(caller)
        return (GRANT,)

    def test_permissions(
        self, caller: Caller, resource: str, questions: list[Question], *, principal: str, profile: str | None
    ) -> list[Verdict]:
        self._told.take(caller, resource, questions, principal, profile)
        return [Verdict(asked=each.asked, allowed=True, grants=(GRANT.name,), explanation="") for each in questions]
