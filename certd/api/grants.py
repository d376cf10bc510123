"""Grants and permissions of AccessService: convert, call `services.grants`, convert back."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from google.protobuf.empty_pb2 import Empty

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.methods import METHODS, Admission
from certd.errors import CertdError, field_invalid
from certd.model.access import ROLES_OF_PROFILES, Grant, Permission, Role, new_grant_id
from certd.model.names import GrantName, TenantName, check_id
from certd.model.request_limits import RequestLimits
from certd.pki.names import parse_spiffe_id
from certd.services.grant_rules import EVERY_PROFILE, check_profiles
from certd.services.grants import GivenGrant, Grants, Question
from certd.services.paging import Page
from certd.v1 import access_service_pb2, grant_pb2

_LONGEST_PRINCIPAL: Final = 2050
_LONGEST_RESOURCE: Final = 512
_MOST_QUESTIONS: Final = 100
_PERMISSIONS: Final = frozenset(Permission)
_RESOURCE = re.compile(r"\*|[A-Za-z0-9-]+(/[A-Za-z0-9-]+)*")


def methods(grants: Grants, limits: RequestLimits) -> Methods:
    """Returns the functions that answer for grants, permissions and the caller."""
    return {
        "WhoAmI": partial(who_am_i, grants),
        "CreateGrant": partial(create_grant, grants),
        "GetGrant": partial(get_grant, grants),
        "ListGrants": partial(list_grants, grants, limits),
        "DeleteGrant": partial(delete_grant, grants),
        "TestPermissions": partial(test_permissions, grants),
    }


def who_am_i(
    grants: Grants, _request: access_service_pb2.WhoAmIRequest, call: Call
) -> access_service_pb2.WhoAmIResponse:
    """WhoAmI."""
    caller = call.caller
    message = access_service_pb2.WhoAmIResponse(
        principal=caller.principal,
        serial_number=caller.serial,
        grants=[grant_message(grant) for grant in grants.held(caller)],
    )
    if caller.not_after is not None:
        message.not_after_time.CopyFrom(x509.timestamp(caller.not_after))
    return message


def create_grant(grants: Grants, request: access_service_pb2.CreateGrantRequest, call: Call) -> grant_pb2.Grant:
    """CreateGrant."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: _parent(request.parent))
    grant_id = violations.attempt(
        lambda: check_id("grant_id", request.grant_id) if request.grant_id else new_grant_id()
    )
    violations.attempt(lambda: fields.required("grant", present=request.HasField("grant")))
    given = violations.attempt(lambda: _given(request.grant))
    key = violations.attempt(lambda: fields.request_key("CreateGrant", request, request.request_id))
    violations.check()
    name = GrantName(None if parent is None else parent.tenant, grant_id)
    return grant_message(grants.create(call.caller, name, given, key=key, validate_only=request.validate_only))


def get_grant(grants: Grants, request: access_service_pb2.GetGrantRequest, call: Call) -> grant_pb2.Grant:
    """GetGrant."""
    return grant_message(grants.get(call.caller, GrantName.parse("name", request.name)))


def list_grants(
    grants: Grants, limits: RequestLimits, request: access_service_pb2.ListGrantsRequest, call: Call
) -> access_service_pb2.ListGrantsResponse:
    """ListGrants."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: _parent(request.parent))
    principal = violations.attempt(lambda: fields.text("principal", request.principal, longest=_LONGEST_PRINCIPAL))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[Grant]) -> access_service_pb2.ListGrantsResponse:
        return access_service_pb2.ListGrantsResponse(
            grants=[grant_message(grant) for grant in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(
        asked, lambda smaller: grants.page(call.caller, parent, smaller, principal=principal or None), answer
    )


def delete_grant(grants: Grants, request: access_service_pb2.DeleteGrantRequest, call: Call) -> Empty:
    """DeleteGrant."""
    violations = fields.Violations()
    name = violations.attempt(lambda: GrantName.parse("name", request.name))
    key = violations.attempt(lambda: fields.request_key("DeleteGrant", request, request.request_id))
    violations.check()
    grants.delete(call.caller, name, key=key, validate_only=request.validate_only)
    return Empty()


def test_permissions(
    grants: Grants, request: access_service_pb2.TestPermissionsRequest, call: Call
) -> access_service_pb2.TestPermissionsResponse:
    """TestPermissions."""
    violations = fields.Violations()
    resource = violations.attempt(lambda: _resource(request.resource))
    questions = violations.attempt(lambda: _questions(request.permissions))
    if request.principal:
        violations.attempt(lambda: _principal(request.principal))
    profile = violations.attempt(lambda: check_id("profile", request.profile) if request.profile else None)
    violations.check()
    verdicts = grants.test_permissions(call.caller, resource, questions, principal=request.principal, profile=profile)
    return access_service_pb2.TestPermissionsResponse(
        results=[
            access_service_pb2.TestPermissionsResponse.Result(
                permission=verdict.asked,
                allowed=verdict.allowed,
                grants=verdict.grants,
                explanation=verdict.explanation,
            )
            for verdict in verdicts
        ]
    )


def grant_message(grant: Grant) -> grant_pb2.Grant:
    """Returns a grant as a message."""
    profiles = (
        [EVERY_PROFILE] if grant.profiles is None and grant.role in ROLES_OF_PROFILES else sorted(grant.profiles or ())
    )
    message = grant_pb2.Grant(
        name=grant.name,
        principal=grant.principal,
        role=grant_pb2.Role.Value(grant.role.name),
        scope=grant.scope,
        profiles=profiles,
        creator=grant.creator,
    )
    if grant.create_time is not None:
        message.create_time.CopyFrom(x509.timestamp(grant.create_time))
    return message


def _parent(text: str) -> TenantName | None:
    return TenantName.parse("parent", text) if text else None


def _given(grant: grant_pb2.Grant) -> GivenGrant:
    violations = fields.Violations()
    if not grant.principal:
        violations.add("grant.principal", "is required")
    role = violations.attempt(lambda: _role(grant.role))
    violations.check()
    profiles = check_profiles("grant.profiles", grant.profiles, role=role)
    return GivenGrant(principal=grant.principal, role=role, scope=grant.scope, profiles=profiles)


def _role(number: int) -> Role:
    role = fields.choice("grant.role", grant_pb2.Role, number, lambda name: Role[name])
    if role is None:
        raise field_invalid("grant.role", "is required")
    return role


def _resource(text: str) -> str:
    if len(text) > _LONGEST_RESOURCE or not _RESOURCE.fullmatch(text):
        raise field_invalid("resource", "must be the name of a resource, such as tenants/default/authorities/web-ca")
    return text


def _principal(text: str) -> str:
    try:
        parse_spiffe_id(text)
    except CertdError as error:
        raise field_invalid("principal", f"must be a SPIFFE id: {error.message}") from error
    return text


def _questions(asked: Sequence[str]) -> list[Question]:
    if not 1 <= len(asked) <= _MOST_QUESTIONS:
        raise field_invalid("permissions", f"must have 1 to {_MOST_QUESTIONS} entries, and has {len(asked)}")
    violations = fields.Violations()
    questions = [
        violations.attempt(partial(_question, f"permissions[{index}]", text)) for index, text in enumerate(asked)
    ]
    violations.check()
    return questions


_BY_SHORT_NAME = {method.rpartition("/")[2]: rule for method, rule in METHODS.items() if method.startswith("/certd.")}
"""No two services of certd have a method of one name."""


def _question(field: str, text: str) -> Question:
    """Returns what stands for a permission, or for the one that a method needs."""
    if text in _PERMISSIONS:
        return Question(asked=text, permission=Permission(text))
    needed = METHODS.get(f"/{text.removeprefix('/')}", _BY_SHORT_NAME.get(text))
    if needed is None:
        raise field_invalid(
            field, "must be a permission, as certificate.issue, or a method, as GetProfile or its full name"
        )
    return Question(asked=text, permission=None if isinstance(needed, Admission) else needed)
