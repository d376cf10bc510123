"""Enrollment in AccessService: convert, call `services.enrollment`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.identities import credential_message
from certd.errors import CertdError, Reason, field_invalid
from certd.model.names import IdentityName
from certd.services.enrollment import Enrollment, MadeCode, NewCode
from certd.v1 import access_service_pb2, identity_pb2, server_service_pb2

_LIFETIME_RULE: Final = "must be from a minute to 7 days"


def methods(enrollment: Enrollment) -> Methods:
    """Returns the functions that answer for enrollment on the port of the API."""
    return {"CreateEnrollmentCode": partial(create_enrollment_code, enrollment), "Enroll": refuse_to_enroll}


def create_enrollment_code(
    enrollment: Enrollment, request: access_service_pb2.CreateEnrollmentCodeRequest, call: Call
) -> access_service_pb2.EnrollmentCode:
    """CreateEnrollmentCode."""
    violations = fields.Violations()
    name = violations.attempt(lambda: IdentityName.parse("identity", request.identity))
    lifetime = violations.attempt(
        lambda: (
            fields.lifetime("lifetime", request.lifetime, rule=_LIFETIME_RULE) if request.HasField("lifetime") else None
        )
    )
    violations.check()
    new = NewCode(
        identity=name,
        lifetime=lifetime,
        public_key_sha256=request.public_key_sha256 or None,
        source_networks=tuple(request.source_networks),
    )
    return _code_message(enrollment.create_code(call.caller, new))


def refuse_to_enroll(_request: access_service_pb2.EnrollRequest, _call: Call) -> identity_pb2.IdentityCredential:
    """Enroll, on the port where everybody has enrolled."""
    raise CertdError(
        Reason.STATE_FORBIDS,
        "who calls here has enrolled; call RenewIdentity for another certificate, or Enroll on the enrollment port",
    )


def enroll(
    enrollment: Enrollment, request: access_service_pb2.EnrollRequest, address: str, timeout: float
) -> identity_pb2.IdentityCredential:
    """Enroll, for a call that came from an IP address and waits so many seconds."""
    return credential_message(enrollment.enroll(request.code, request.csr, address=address, timeout=timeout))


def get_trust_bundle(
    enrollment: Enrollment, request: server_service_pb2.GetTrustBundleRequest, _address: str, _timeout: float
) -> server_service_pb2.TrustBundle:
    """GetTrustBundle, for those who are nobody yet: the system roots alone."""
    if request.tenant:
        raise field_invalid("tenant", "must be empty here; the roots of a tenant are told on the port of the API")
    return server_service_pb2.TrustBundle(system_roots=x509.encoded_chain(enrollment.system_roots()))


def _code_message(made: MadeCode) -> access_service_pb2.EnrollmentCode:
    return access_service_pb2.EnrollmentCode(
        code=made.code.text(),
        identity=str(made.identity),
        spiffe_id=made.spiffe_id,
        expire_time=x509.timestamp(made.expire_time),
        system_root_public_key_sha256=made.code.root_sha256,
    )
