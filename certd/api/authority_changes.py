"""AuthorityService, what becomes of an authority: convert, call its services, convert back."""

from functools import partial

from certd.api import fields
from certd.api.authorities import authority_message
from certd.api.call import Call, Methods
from certd.model.names import AuthorityName
from certd.model.request_limits import RequestLimits
from certd.pki.encoding import pem
from certd.services.authority_activation import Activation, AuthorityActivation
from certd.services.authority_changes import AuthorityChanges, Change
from certd.v1 import authority_pb2, authority_service_pb2

_CHANGEABLE = "labels"
_LONGEST_ETAG = 128
_Verb = (
    authority_service_pb2.ActivateAuthorityRequest
    | authority_service_pb2.EnableAuthorityRequest
    | authority_service_pb2.DisableAuthorityRequest
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
        if path not in {_CHANGEABLE, "*"}:
            violations.add(f"update_mask.paths[{index}]", _path_problem(path))
    violations.check()
    change = Change(name=name, etag=etag, key=key, validate_only=request.validate_only)
    # Without a mask it is what is set and can change; an empty map is not set.
    wanted = labels if request.update_mask.paths or labels else None
    return authority_message(changes.update(call.caller, change, labels=wanted))


def get_authority_csr(
    activation: AuthorityActivation, request: authority_service_pb2.GetAuthorityCsrRequest, call: Call
) -> authority_service_pb2.AuthorityCsr:
    """GetAuthorityCsr."""
    der = activation.csr(call.caller, AuthorityName.parse("name", request.name))
    return authority_service_pb2.AuthorityCsr(der=der, pem=pem("CERTIFICATE REQUEST", der))


def activate_authority(
    activation: AuthorityActivation, request: authority_service_pb2.ActivateAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """ActivateAuthority."""
    violations = fields.Violations()
    violations.attempt(lambda: fields.required("certificate", present=bool(request.certificate)))
    violations.attempt(lambda: fields.required("chain", present=bool(request.chain)))
    change = _change("ActivateAuthority", request, violations)
    given = Activation(certificate=request.certificate, chain=request.chain)
    return authority_message(activation.activate(call.caller, change, given))


def enable_authority(
    changes: AuthorityChanges, request: authority_service_pb2.EnableAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """EnableAuthority."""
    return authority_message(changes.enable(call.caller, _change("EnableAuthority", request, fields.Violations())))


def disable_authority(
    changes: AuthorityChanges, request: authority_service_pb2.DisableAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """DisableAuthority."""
    return authority_message(changes.disable(call.caller, _change("DisableAuthority", request, fields.Violations())))


def _change(method: str, request: _Verb, violations: fields.Violations) -> Change:
    name = violations.attempt(lambda: AuthorityName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key(method, request, request.request_id))
    violations.check()
    return Change(name=name, etag=etag, key=key, validate_only=request.validate_only)


def _path_problem(path: str) -> str:
    shown, first = ascii(path[:64]), path.partition(".")[0]
    if first == _CHANGEABLE:
        return f"{shown}: labels are replaced as a whole; say {_CHANGEABLE}"
    if first in authority_pb2.Authority.DESCRIPTOR.fields_by_name:
        return f"{shown} never changes; only {_CHANGEABLE} can"
    return f"{shown} is no field of an authority; only {_CHANGEABLE} can change"
