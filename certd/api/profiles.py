"""ProfileService: convert, call `services.profiles` and `services.profile_check`, convert back."""

from datetime import timedelta
from functools import partial

from google.protobuf.empty_pb2 import Empty

from certd.api import fields, profile_fields, x509
from certd.api.call import Call, Methods
from certd.model.names import AuthorityName, ProfileName, TenantName, check_id
from certd.model.request_limits import RequestLimits
from certd.pki.names import SubjectAlternativeNames
from certd.services.paging import Page
from certd.services.profile_changes import FIELDS, GivenProfile
from certd.services.profile_check import CheckedRequest, ProfileChecks, RequestToCheck
from certd.services.profiles import ProfileChange, Profiles, ProfileView
from certd.v1 import certificate_pb2, profile_pb2, profile_service_pb2

_LONGEST_ETAG = 128
_HIGHEST_VERSION_RULE = "must be the number of a version, or 0 for the newest"


def methods(profiles: Profiles, checks: ProfileChecks, limits: RequestLimits) -> Methods:
    """Returns the functions that answer ProfileService."""
    return {
        "CreateProfile": partial(create_profile, profiles),
        "GetProfile": partial(get_profile, profiles),
        "ListProfiles": partial(list_profiles, profiles, limits),
        "UpdateProfile": partial(update_profile, profiles),
        "DeleteProfile": partial(delete_profile, profiles),
        "CheckProfile": partial(check_profile, checks, limits),
    }


def create_profile(
    profiles: Profiles, request: profile_service_pb2.CreateProfileRequest, call: Call
) -> profile_pb2.Profile:
    """CreateProfile."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    profile_id = violations.attempt(lambda: check_id("profile_id", request.profile_id))
    violations.attempt(lambda: fields.required("profile", present=request.HasField("profile")))
    given = violations.attempt(lambda: profile_fields.given_profile(request.profile))
    key = violations.attempt(lambda: fields.request_key("CreateProfile", request, request.request_id))
    violations.check()
    view = profiles.create(
        call.caller,
        ProfileName(parent.tenant, profile_id),
        given,
        key=key,
        validate_only=request.validate_only,
    )
    return profile_message(view)


def get_profile(profiles: Profiles, request: profile_service_pb2.GetProfileRequest, call: Call) -> profile_pb2.Profile:
    """GetProfile."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ProfileName.parse("name", request.name))
    if request.version < 0:
        violations.add("version", _HIGHEST_VERSION_RULE)
    violations.check()
    return profile_message(profiles.get(call.caller, name, version=request.version or None))


def list_profiles(
    profiles: Profiles, limits: RequestLimits, request: profile_service_pb2.ListProfilesRequest, call: Call
) -> profile_service_pb2.ListProfilesResponse:
    """ListProfiles."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[ProfileView]) -> profile_service_pb2.ListProfilesResponse:
        return profile_service_pb2.ListProfilesResponse(
            profiles=[profile_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: profiles.page(call.caller, parent, smaller), answer)


def update_profile(
    profiles: Profiles, request: profile_service_pb2.UpdateProfileRequest, call: Call
) -> profile_pb2.Profile:
    """UpdateProfile."""
    violations = fields.Violations()
    violations.attempt(lambda: fields.required("profile", present=request.HasField("profile")))
    name = violations.attempt(lambda: ProfileName.parse("profile.name", request.profile.name))
    etag = violations.attempt(lambda: fields.text("profile.etag", request.profile.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("UpdateProfile", request, request.request_id))
    change = violations.attempt(lambda: _change(request))
    violations.check()
    changes, given = change
    view = profiles.update(
        call.caller,
        ProfileChange(name=name, given=given, fields=changes, etag=etag),
        key=key,
        validate_only=request.validate_only,
    )
    return profile_message(view)


def _change(request: profile_service_pb2.UpdateProfileRequest) -> tuple[frozenset[str], GivenProfile]:
    """Returns the names of the fields to change, and what these say; what is not to change is not looked at."""
    changes = fields.changed(
        request.profile,
        request.update_mask,
        changeable=FIELDS,
        example="names",
    )
    return changes, profile_fields.given_profile(request.profile, changes)


def delete_profile(profiles: Profiles, request: profile_service_pb2.DeleteProfileRequest, call: Call) -> Empty:
    """DeleteProfile."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ProfileName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("DeleteProfile", request, request.request_id))
    violations.check()
    profiles.delete(call.caller, name, etag=etag, key=key, validate_only=request.validate_only)
    return Empty()


def check_profile(
    checks: ProfileChecks, limits: RequestLimits, request: profile_service_pb2.CheckProfileRequest, call: Call
) -> profile_service_pb2.CheckProfileResponse:
    """CheckProfile."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ProfileName.parse("name", request.name))
    violations.attempt(lambda: fields.required("csr", present=bool(request.csr)))
    given = violations.attempt(
        lambda: profile_fields.given_profile(request.profile) if request.HasField("profile") else None
    )
    lifetime = violations.attempt(lambda: _lifetime(request))
    subject = violations.attempt(
        lambda: x509.parse_distinguished_name("subject", request.subject) if request.HasField("subject") else None
    )
    names = violations.attempt(lambda: _names(request, most=limits.names))
    authority = violations.attempt(
        lambda: AuthorityName.parse("authority", request.authority) if request.authority else None
    )
    violations.check()
    checked = checks.check(
        call.caller,
        RequestToCheck(
            name=name,
            profile=given,
            csr=request.csr,
            lifetime=lifetime,
            subject=subject,
            names=names,
            authority=authority,
        ),
    )
    return _checked_message(checked)


def _lifetime(request: profile_service_pb2.CheckProfileRequest) -> timedelta | None:
    return fields.lifetime("lifetime", request.lifetime) if request.HasField("lifetime") else None


def _names(request: profile_service_pb2.CheckProfileRequest, *, most: int) -> SubjectAlternativeNames | None:
    if not request.HasField("subject_alternative_names"):
        return None
    return x509.parse_names("subject_alternative_names", request.subject_alternative_names, most=most)


def _checked_message(checked: CheckedRequest) -> profile_service_pb2.CheckProfileResponse:
    message = profile_service_pb2.CheckProfileResponse(
        findings=[
            profile_service_pb2.CheckProfileResponse.Finding(
                reason=finding.reason, field=finding.field, description=finding.description
            )
            for finding in checked.findings
        ],
        warnings=x509.warning_messages(checked.warnings),
    )
    if checked.certificate is not None:
        message.certificate.CopyFrom(
            certificate_pb2.Certificate(
                certificate=x509.encoded(checked.certificate),
                description=x509.description(checked.certificate),
                profile=str(checked.profile_name),
            )
        )
    return message


def profile_message(view: ProfileView) -> profile_pb2.Profile:
    """Returns a profile as a message."""
    message = profile_fields.profile_message(view.profile)
    message.name = str(view.name)
    message.built_in = view.built_in
    message.version = view.profile.version
    message.restricted = view.profile.restricted
    message.etag = view.etag
    if view.create_time is not None:
        message.create_time.CopyFrom(x509.timestamp(view.create_time))
    if view.update_time is not None:
        message.update_time.CopyFrom(x509.timestamp(view.update_time))
    return message
