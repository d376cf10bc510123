"""AuthorityService, what becomes of an authority: convert, call its services, convert back."""

from functools import partial

from certd.api import fields, revocation_settings
from certd.api.authorities import authority_message, key_number
from certd.api.call import Call, Methods
from certd.model.names import AuthorityName
from certd.model.request_limits import RequestLimits
from certd.model.revocation_settings import EVERY_SETTING
from certd.pki.encoding import pem
from certd.services.authority_activation import Activation, AuthorityActivation
from certd.services.authority_changes import AuthorityChanges, Change, NewSettings
from certd.v1 import authority_pb2, authority_service_pb2

_LABELS, _DELETION_PROTECTION = "labels", "deletion_protection"
_CHANGEABLE = (_LABELS, revocation_settings.FIELD, _DELETION_PROTECTION)
_ALL = "*"
_UNDER_REVOCATION = f"{revocation_settings.FIELD}."
_LONGEST_ETAG = 128
_Verb = (
    authority_service_pb2.ActivateAuthorityRequest
    | authority_service_pb2.EnableAuthorityRequest
    | authority_service_pb2.DisableAuthorityRequest
    | authority_service_pb2.ReissueAuthorityCertificateRequest
    | authority_service_pb2.DeleteAuthorityRequest
    | authority_service_pb2.UndeleteAuthorityRequest
)


def methods(activation: AuthorityActivation, changes: AuthorityChanges, limits: RequestLimits) -> Methods:
    """Returns the functions that answer the other half of AuthorityService."""
    return {
        "UpdateAuthority": partial(update_authority, changes, limits),
        "GetAuthorityCsr": partial(get_authority_csr, activation),
        "ActivateAuthority": partial(activate_authority, activation),
        "EnableAuthority": partial(enable_authority, changes),
        "DisableAuthority": partial(disable_authority, changes),
    }


def update_authority(
    changes: AuthorityChanges,
    limits: RequestLimits,
    request: authority_service_pb2.UpdateAuthorityRequest,
    call: Call,
) -> authority_pb2.Authority:
    """UpdateAuthority."""
    given, violations = request.authority, fields.Violations()
    violations.attempt(lambda: fields.required("authority", present=request.HasField("authority")))
    name = violations.attempt(lambda: AuthorityName.parse("authority.name", given.name))
    etag = violations.attempt(lambda: fields.text("authority.etag", given.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key("UpdateAuthority", request, request.request_id))
    labels = violations.attempt(lambda: fields.labels("authority.labels", given.labels, most=limits.labels))
    for index, path in enumerate(request.update_mask.paths):
        if path not in _CHANGEABLE and path != _ALL and path.removeprefix(_UNDER_REVOCATION) not in _settings_of(path):
            violations.add(f"update_mask.paths[{index}]", _path_problem(path))
    wanted = _wanted(request)
    settings = _settings_in(wanted)
    revocation = violations.attempt(
        lambda: revocation_settings.parse("authority.revocation", given.revocation, settings) if settings else None
    )
    violations.check()
    change = Change(name=name, etag=etag, key=key, validate_only=request.validate_only)
    new = NewSettings(
        labels=labels if _LABELS in wanted else None,
        revocation=revocation,
        deletion_protection=given.deletion_protection if _DELETION_PROTECTION in wanted else None,
    )
    return authority_message(changes.update(call.caller, change, new))


def _wanted(request: authority_service_pb2.UpdateAuthorityRequest) -> frozenset[str]:
    """Returns the paths that shall change: without a mask those that are set and can; an empty map is not set."""
    paths = frozenset(request.update_mask.paths)
    if _ALL in paths:
        return frozenset(_CHANGEABLE)
    if paths:
        return paths
    given = request.authority
    said = {field.name for field, _ in given.ListFields()} & {_LABELS, _DELETION_PROTECTION}
    settings = revocation_settings.paths_that_are_set(given.revocation)
    return frozenset(said | {_UNDER_REVOCATION + path for path in settings})


def _settings_in(paths: frozenset[str]) -> frozenset[str]:
    """Returns the paths of the revocation settings among those of a request; unknown ones are told elsewhere."""
    if revocation_settings.FIELD in paths:
        return EVERY_SETTING
    named = {path.removeprefix(_UNDER_REVOCATION) for path in paths if path.startswith(_UNDER_REVOCATION)}
    return frozenset(named & revocation_settings.PATHS)


def _settings_of(path: str) -> frozenset[str]:
    """Returns what may stand behind the beginning of a path."""
    return revocation_settings.PATHS if path.startswith(_UNDER_REVOCATION) else frozenset()


def get_authority_csr(
    activation: AuthorityActivation, request: authority_service_pb2.GetAuthorityCsrRequest, call: Call
) -> authority_service_pb2.AuthorityCsr:
    """GetAuthorityCsr."""
    violations = fields.Violations()
    name = violations.attempt(lambda: AuthorityName.parse("name", request.name))
    number = violations.attempt(lambda: key_number("key_number", request.key_number))
    violations.check()
    der = activation.csr(call.caller, name, number)
    return authority_service_pb2.AuthorityCsr(der=der, pem=pem("CERTIFICATE REQUEST", der))


def activate_authority(
    activation: AuthorityActivation, request: authority_service_pb2.ActivateAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """ActivateAuthority."""
    violations = fields.Violations()
    violations.attempt(lambda: fields.required("certificate", present=bool(request.certificate)))
    violations.attempt(lambda: fields.required("chain", present=bool(request.chain)))
    number = violations.attempt(lambda: key_number("key_number", request.key_number))
    change = change_of("ActivateAuthority", request, violations)
    given = Activation(
        certificate=request.certificate,
        chain=request.chain,
        key_number=number,
        allow_broken_certificates=request.allow_broken_certificates,
    )
    return authority_message(activation.activate(call.caller, change, given))


def enable_authority(
    changes: AuthorityChanges, request: authority_service_pb2.EnableAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """EnableAuthority."""
    return authority_message(changes.enable(call.caller, change_of("EnableAuthority", request, fields.Violations())))


def disable_authority(
    changes: AuthorityChanges, request: authority_service_pb2.DisableAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """DisableAuthority."""
    return authority_message(changes.disable(call.caller, change_of("DisableAuthority", request, fields.Violations())))


def change_of(method: str, request: _Verb, violations: fields.Violations) -> Change:
    """Returns what every verb on an authority has; raises FIELD_INVALID with all that was attempted before."""
    name = violations.attempt(lambda: AuthorityName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key(method, request, request.request_id))
    violations.check()
    return Change(name=name, etag=etag, key=key, validate_only=request.validate_only)


def _path_problem(path: str) -> str:
    shown, first = ascii(path[:64]), path.partition(".")[0]
    if first == _LABELS:
        return f"{shown}: labels are replaced as a whole; say {_LABELS}"
    if first in authority_pb2.Authority.DESCRIPTOR.fields_by_name and first not in _CHANGEABLE:
        return f"{shown} never changes; only {', '.join(_CHANGEABLE)} can"
    return f"{shown} is no field of an authority; only {', '.join(_CHANGEABLE)} and what is in them can change"
