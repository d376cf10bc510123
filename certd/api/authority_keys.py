"""AuthorityService, the keys of an authority: convert, call its services, convert back."""

from datetime import timedelta
from functools import partial

from google.protobuf.duration_pb2 import Duration

from certd.api import fields, x509
from certd.api.authorities import authority_message, key_number
from certd.api.call import Call, Methods
from certd.errors import field_invalid
from certd.model.names import AuthorityName
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.services.authority_changes import Change
from certd.services.authority_key_changes import AuthorityKeyChanges
from certd.services.authority_keys import AuthorityKeys, NewKey
from certd.services.authority_plan import LIFETIME_RULE, check_lifetime
from certd.services.cross_certification import CrossCertifier, NewCrossCertificate
from certd.v1 import authority_pb2, authority_service_pb2, x509_pb2

_LONGEST_ETAG = 128
_Verb = (
    authority_service_pb2.PrepareAuthorityKeyRequest
    | authority_service_pb2.ActivateAuthorityKeyRequest
    | authority_service_pb2.TaintAuthorityKeyRequest
    | authority_service_pb2.RetireAuthorityKeyRequest
)
_OfKey = (
    authority_service_pb2.ActivateAuthorityKeyRequest
    | authority_service_pb2.TaintAuthorityKeyRequest
    | authority_service_pb2.RetireAuthorityKeyRequest
)


def methods(keys: AuthorityKeys, changes: AuthorityKeyChanges, certifier: CrossCertifier) -> Methods:
    """Returns the functions that answer what AuthorityService does with keys."""
    return {
        "PrepareAuthorityKey": partial(prepare_authority_key, keys),
        "ActivateAuthorityKey": partial(activate_authority_key, changes),
        "TaintAuthorityKey": partial(taint_authority_key, changes),
        "RetireAuthorityKey": partial(retire_authority_key, changes),
        "CreateCrossCertificate": partial(create_cross_certificate, certifier),
    }


def prepare_authority_key(
    keys: AuthorityKeys, request: authority_service_pb2.PrepareAuthorityKeyRequest, call: Call
) -> authority_pb2.Authority:
    """PrepareAuthorityKey."""
    violations = fields.Violations()
    spec = violations.attempt(lambda: fields.choice("key_spec", x509_pb2.KeySpec, request.key_spec, KeySpec))
    algorithm = violations.attempt(
        lambda: fields.choice(
            "signature_algorithm", x509_pb2.SignatureAlgorithm, request.signature_algorithm, SignatureAlgorithm
        )
    )
    lifetime = violations.attempt(
        lambda: _authority_lifetime(request.lifetime) if request.HasField("lifetime") else None
    )
    change = _change("PrepareAuthorityKey", request, violations)
    new = NewKey(key_spec=spec, signature_algorithm=algorithm, lifetime=lifetime, cross_certify=request.cross_certify)
    return authority_message(keys.prepare(call.caller, change, new))


def activate_authority_key(
    changes: AuthorityKeyChanges, request: authority_service_pb2.ActivateAuthorityKeyRequest, call: Call
) -> authority_pb2.Authority:
    """ActivateAuthorityKey."""
    change, number = _change_of_key("ActivateAuthorityKey", request)
    return authority_message(changes.activate(call.caller, change, number))


def taint_authority_key(
    changes: AuthorityKeyChanges, request: authority_service_pb2.TaintAuthorityKeyRequest, call: Call
) -> authority_pb2.Authority:
    """TaintAuthorityKey."""
    change, number = _change_of_key("TaintAuthorityKey", request)
    return authority_message(changes.taint(call.caller, change, number))


def retire_authority_key(
    changes: AuthorityKeyChanges, request: authority_service_pb2.RetireAuthorityKeyRequest, call: Call
) -> authority_pb2.Authority:
    """RetireAuthorityKey."""
    change, number = _change_of_key("RetireAuthorityKey", request)
    return authority_message(changes.retire(call.caller, change, number, allow_live=request.allow_live_certificates))


def create_cross_certificate(
    certifier: CrossCertifier, request: authority_service_pb2.CreateCrossCertificateRequest, call: Call
) -> authority_service_pb2.CreateCrossCertificateResponse:
    """CreateCrossCertificate."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: AuthorityName.parse("parent", request.parent))
    violations.attempt(lambda: fields.required("certificate", present=bool(request.certificate)))
    lifetime = violations.attempt(
        lambda: fields.lifetime("lifetime", request.lifetime) if request.HasField("lifetime") else None
    )
    key = violations.attempt(lambda: fields.request_key("CreateCrossCertificate", request, request.request_id))
    violations.check()
    made = certifier.create(
        call.caller,
        NewCrossCertificate(authority=parent, certificate=request.certificate, lifetime=lifetime),
        key=key,
        validate_only=request.validate_only,
    )
    response = authority_service_pb2.CreateCrossCertificateResponse(
        certificate_name=made.name, warnings=x509.warning_messages(made.warnings)
    )
    if made.der:
        response.certificate.CopyFrom(x509.encoded(made.der))
    return response


def _authority_lifetime(given: Duration) -> timedelta:
    lifetime = fields.lifetime("lifetime", given, rule=LIFETIME_RULE)
    check_lifetime("lifetime", lifetime)
    return lifetime


def _change_of_key(method: str, request: _OfKey) -> tuple[Change, int]:
    violations = fields.Violations()
    number = violations.attempt(lambda: _existing_number(request.key_number))
    return _change(method, request, violations), number


def _existing_number(given: int) -> int:
    number = key_number("key_number", given)
    if number is None:
        raise field_invalid("key_number", "must be said; GetAuthority lists the keys")
    return number


def _change(method: str, request: _Verb, violations: fields.Violations) -> Change:
    name = violations.attempt(lambda: AuthorityName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    key = violations.attempt(lambda: fields.request_key(method, request, request.request_id))
    violations.check()
    return Change(name=name, etag=etag, key=key, validate_only=request.validate_only)
