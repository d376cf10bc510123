"""AuthorityService, what is taken over from another CA: convert, call its services, convert back."""

from functools import partial

from certd.api import fields, revocation_settings, x509
from certd.api.authorities import authority_message, key_number
from certd.api.call import Call, Methods
from certd.api.revocation import parse_reason
from certd.errors import field_invalid
from certd.model.names import AuthorityName, TenantName, check_new_authority_id
from certd.model.request_limits import RequestLimits
from certd.services.adoption import AdoptedAuthority, Adoption
from certd.services.issued_import import GivenCertificate, GivenCertificates, IssuedImport
from certd.v1 import authority_pb2, authority_service_pb2

_LONGEST_KEY_ID = 64
_MOST_CERTIFICATES = 1000
_MOST_BYTES = 2_500_000


def methods(adoption: Adoption, issued_import: IssuedImport, limits: RequestLimits) -> Methods:
    """Returns the functions that answer what AuthorityService takes over."""
    return {
        "AdoptAuthority": partial(adopt_authority, adoption, limits),
        "ImportIssuedCertificates": partial(import_issued_certificates, issued_import),
    }


def adopt_authority(
    adoption: Adoption, limits: RequestLimits, request: authority_service_pb2.AdoptAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """AdoptAuthority."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    authority_id = violations.attempt(lambda: check_new_authority_id("authority_id", request.authority_id))
    key_id = violations.attempt(lambda: _key_id(request.key_id))
    violations.attempt(lambda: fields.required("certificate", present=bool(request.certificate)))
    labels = violations.attempt(lambda: fields.labels("labels", request.labels, most=limits.labels))
    revocation = violations.attempt(
        lambda: revocation_settings.parse("revocation", request.revocation) if request.HasField("revocation") else None
    )
    key = violations.attempt(lambda: fields.request_key("AdoptAuthority", request, request.request_id))
    violations.check()
    view = adoption.adopt(
        call.caller,
        AdoptedAuthority(
            name=AuthorityName(parent.tenant, authority_id),
            key_id=key_id,
            certificate=request.certificate,
            chain=request.chain,
            labels=labels,
            revocation=revocation,
        ),
        key=key,
        validate_only=request.validate_only,
    )
    return authority_message(view)


def import_issued_certificates(
    issued_import: IssuedImport, request: authority_service_pb2.ImportIssuedCertificatesRequest, call: Call
) -> authority_service_pb2.ImportIssuedCertificatesResponse:
    """ImportIssuedCertificates."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: AuthorityName.parse("parent", request.parent))
    number = violations.attempt(lambda: key_number("key_number", request.key_number))
    violations.attempt(lambda: _check_size(request))
    violations.check()
    certificates = [
        violations.attempt(partial(_given, f"certificates[{index}]", one))
        for index, one in enumerate(request.certificates)
    ]
    violations.check()
    imported = issued_import.take(
        call.caller,
        GivenCertificates(
            authority=parent,
            certificates=certificates,
            key_number=number,
            next_crl_number=request.next_crl_number,
        ),
        validate_only=request.validate_only,
    )
    return authority_service_pb2.ImportIssuedCertificatesResponse(
        imported_count=imported.imported,
        revoked_count=imported.revoked,
        unchanged_count=imported.unchanged,
        warnings=x509.warning_messages(imported.warnings),
    )


def _key_id(text: str) -> bytes:
    try:
        key_id = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        key_id = b""
    if not 1 <= len(key_id) <= _LONGEST_KEY_ID:
        raise field_invalid("key_id", f"must be a CKA_ID of 1 to {_LONGEST_KEY_ID} bytes in hexadecimal")
    return key_id


def _check_size(request: authority_service_pb2.ImportIssuedCertificatesRequest) -> None:
    if not 1 <= len(request.certificates) <= _MOST_CERTIFICATES:
        raise field_invalid("certificates", f"must be 1 to {_MOST_CERTIFICATES}; send more in further calls")
    if sum(len(one.certificate) for one in request.certificates) > _MOST_BYTES:
        raise field_invalid("certificates", f"are more than {_MOST_BYTES} bytes together; send fewer in one call")
    # A CRL number has at most 20 octets (RFC 5280, section 5.2.3); here it is one that a database can count on from.
    if not 0 <= request.next_crl_number < 1 << 62:
        raise field_invalid("next_crl_number", "must be 0 or more, and below 2^62")


def _given(field: str, one: authority_service_pb2.IssuedCertificate) -> GivenCertificate:
    violations = fields.Violations()
    not_after = violations.attempt(
        lambda: fields.moment(f"{field}.not_after_time", one.not_after_time) if one.HasField("not_after_time") else None
    )
    revoke_time = violations.attempt(
        lambda: fields.instant(f"{field}.revoke_time", one.revoke_time) if one.HasField("revoke_time") else None
    )
    invalidity_time = violations.attempt(
        lambda: (
            fields.instant(f"{field}.invalidity_time", one.invalidity_time) if one.HasField("invalidity_time") else None
        )
    )
    reason = violations.attempt(lambda: parse_reason(f"{field}.revocation_reason", one.revocation_reason))
    violations.check()
    return GivenCertificate(
        certificate=one.certificate,
        serial_number=one.serial_number,
        not_after=not_after,
        subject=one.subject,
        revoke_time=revoke_time,
        reason=reason,
        invalidity_time=invalidity_time,
    )
