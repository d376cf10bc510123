"""ManagedCertificateService, leases: convert, call `services.leases`, convert back."""

from functools import partial
from typing import Final

from certd.api import associations, fields, x509
from certd.api.call import Call, Methods
from certd.errors import field_invalid
from certd.model.association import DeploymentState
from certd.model.names import AssociationName
from certd.pki.encoding import parse_certificates
from certd.pki.sealing import RECIPIENT_PUBLIC_KEY_BYTES
from certd.services.leases import GivenDeployment, Leases, SignedLease
from certd.v1 import association_pb2, managed_certificate_pb2, managed_certificate_service_pb2

_LARGEST_CERTIFICATE: Final = 32 * 1024
_LONGEST_SIGNATURE: Final = 1024
"""Bytes. That of the largest RSA key of an identity has 512."""
_LONGEST_MESSAGE: Final = 1024
_SHA256_BYTES: Final = 32
_MICROSECOND: Final = 1000
"""Nanoseconds."""


def methods(leases: Leases) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "LeaseKey": partial(lease_key, leases),
        "ReportDeployment": partial(report_deployment, leases),
    }


def lease_key(
    leases: Leases, request: managed_certificate_service_pb2.LeaseKeyRequest, call: Call
) -> managed_certificate_service_pb2.LeaseKeyResponse:
    """LeaseKey."""
    violations = fields.Violations()
    name = violations.attempt(lambda: AssociationName.parse("name", request.name))
    if request.version < 1:
        violations.add(
            "version", "must be the number of a version, from 1; the association has that of the current one"
        )
    if len(request.public_key) != RECIPIENT_PUBLIC_KEY_BYTES:
        violations.add("public_key", f"must be the {RECIPIENT_PUBLIC_KEY_BYTES} bytes of a raw X25519 public key")
    sign_time = violations.attempt(lambda: fields.instant("sign_time", request.sign_time))
    if request.sign_time.nanos % _MICROSECOND:
        violations.add("sign_time", "must be to the microsecond, as it was signed")
    certificate = violations.attempt(lambda: _certificate(request.certificate))
    if not 0 < len(request.signature) <= _LONGEST_SIGNATURE:
        violations.add("signature", f"must have 1 to {_LONGEST_SIGNATURE} bytes")
    violations.check()
    leased = leases.lease(
        call.caller,
        name,
        SignedLease(
            version=request.version,
            public_key=request.public_key,
            sign_time=sign_time,
            certificate=certificate,
            signature=request.signature,
        ),
    )
    return managed_certificate_service_pb2.LeaseKeyResponse(
        version=leased.version,
        certificate=x509.encoded(leased.certificate),
        chain=x509.encoded_chain(leased.chain),
        sealed_private_key=leased.encrypted_key,
    )


def report_deployment(
    leases: Leases, request: managed_certificate_service_pb2.ReportDeploymentRequest, call: Call
) -> association_pb2.Association:
    """ReportDeployment."""
    violations = fields.Violations()
    name = violations.attempt(lambda: AssociationName.parse("name", request.name))
    violations.attempt(lambda: fields.required("deployment", present=request.HasField("deployment")))
    deployment = violations.attempt(lambda: _deployment(request.deployment))
    violations.check()
    return associations.association_message(leases.report(call.caller, name, deployment))


def _certificate(given: bytes) -> bytes:
    """Returns the DER of the one certificate that is given; whose it is, the token process looks at."""
    if len(given) > _LARGEST_CERTIFICATE:
        raise field_invalid("certificate", f"is longer than {_LARGEST_CERTIFICATE} bytes")
    found = parse_certificates(given, field="certificate")
    if len(found) != 1:
        raise field_invalid("certificate", f"must be the identity's certificate alone, and is {len(found)}")
    return found[0]


def _deployment(given: managed_certificate_pb2.Deployment) -> GivenDeployment:
    violations = fields.Violations()
    states = managed_certificate_pb2.Deployment.State
    state = violations.attempt(lambda: fields.choice("deployment.state", states, given.state, DeploymentState))
    if given.state == 0:
        violations.add("deployment.state", "is required")
    if given.version < 1:
        violations.add("deployment.version", "must be the number of a version, from 1")
    if len(given.certificate_sha256) not in {0, _SHA256_BYTES}:
        violations.add("deployment.certificate_sha256", f"must be the {_SHA256_BYTES} bytes of a SHA-256, or nothing")
    message = violations.attempt(lambda: fields.text("deployment.message", given.message, longest=_LONGEST_MESSAGE))
    violations.check()
    return GivenDeployment(
        state=state or DeploymentState.SERVING,
        version=given.version,
        certificate_sha256=given.certificate_sha256,
        message=message,
    )
