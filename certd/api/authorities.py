"""AuthorityService: convert, call `services.authorities`, convert back."""

from functools import partial

from google.protobuf.duration_pb2 import Duration

from certd.api import fields, revocation_settings, x509
from certd.api.call import Call, Methods
from certd.errors import field_invalid
from certd.model.authority import AuthorityKey, AuthorityType, UsageMode
from certd.model.names import AuthorityName, TenantName, check_new_authority_id
from certd.model.request_limits import RequestLimits
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.services.authorities import Authorities
from certd.services.authority_plan import LIFETIME_RULE, NewAuthority
from certd.services.authority_views import AuthorityView, own_key
from certd.services.paging import Page
from certd.v1 import authority_pb2, authority_service_pb2, x509_pb2

_KEY_NUMBERS = 1 << 31


def methods(authorities: Authorities, limits: RequestLimits) -> Methods:
    """Returns the functions that answer AuthorityService."""
    return {
        "CreateAuthority": partial(create_authority, authorities, limits),
        "GetAuthority": partial(get_authority, authorities),
        "ListAuthorities": partial(list_authorities, authorities, limits),
    }


def create_authority(
    authorities: Authorities,
    limits: RequestLimits,
    request: authority_service_pb2.CreateAuthorityRequest,
    call: Call,
) -> authority_pb2.Authority:
    """CreateAuthority."""
    given, violations = request.authority, fields.Violations()
    violations.attempt(lambda: fields.required("authority", present=request.HasField("authority")))
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    authority_id = violations.attempt(lambda: check_new_authority_id("authority_id", request.authority_id))
    key = violations.attempt(lambda: fields.request_key("CreateAuthority", request, request.request_id))
    kind = violations.attempt(lambda: _type(given.type))
    key_spec = violations.attempt(
        lambda: fields.choice("authority.key_spec", x509_pb2.KeySpec, given.key_spec, KeySpec)
    )
    algorithm = violations.attempt(
        lambda: fields.choice(
            "authority.signature_algorithm", x509_pb2.SignatureAlgorithm, given.signature_algorithm, SignatureAlgorithm
        )
    )
    subject = violations.attempt(lambda: _subject(given))
    lifetime = violations.attempt(
        lambda: (
            fields.lifetime("authority.lifetime", given.lifetime, rule=LIFETIME_RULE)
            if given.HasField("lifetime")
            else None
        )
    )
    issuer = violations.attempt(lambda: AuthorityName.parse("authority.issuer", given.issuer) if given.issuer else None)
    constraints = violations.attempt(
        lambda: (
            x509.parse_name_constraints("authority.name_constraints", given.name_constraints)
            if given.HasField("name_constraints")
            else None
        )
    )
    labels = violations.attempt(lambda: fields.labels("authority.labels", given.labels, most=limits.labels))
    usage_mode = violations.attempt(
        lambda: fields.choice("authority.usage_mode", authority_pb2.Authority.UsageMode, given.usage_mode, UsageMode)
    )
    revocation = violations.attempt(
        lambda: (
            revocation_settings.parse("authority.revocation", given.revocation)
            if given.HasField("revocation")
            else None
        )
    )
    violations.check()
    view = authorities.create(
        call.caller,
        NewAuthority(
            name=AuthorityName(parent.tenant, authority_id),
            type=kind,
            key_spec=key_spec,
            signature_algorithm=algorithm,
            subject=subject,
            lifetime=lifetime,
            path_length=given.path_length if given.HasField("path_length") else None,
            issuer=issuer,
            name_constraints=constraints,
            labels=labels,
            usage_mode=usage_mode or UsageMode.GENERAL_PURPOSE,
            revocation=revocation,
            deletion_protection=given.deletion_protection,
        ),
        key=key,
        validate_only=request.validate_only,
    )
    return authority_message(view)


def get_authority(
    authorities: Authorities, request: authority_service_pb2.GetAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """GetAuthority."""
    return authority_message(authorities.get(call.caller, AuthorityName.parse("name", request.name)))


def list_authorities(
    authorities: Authorities,
    limits: RequestLimits,
    request: authority_service_pb2.ListAuthoritiesRequest,
    call: Call,
) -> authority_service_pb2.ListAuthoritiesResponse:
    """ListAuthorities."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[AuthorityView]) -> authority_service_pb2.ListAuthoritiesResponse:
        return authority_service_pb2.ListAuthoritiesResponse(
            authorities=[authority_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: authorities.page(call.caller, parent, smaller), answer)


def authority_message(view: AuthorityView) -> authority_pb2.Authority:
    """Returns an authority as a message."""
    authority = view.authority
    lifetime = Duration()
    lifetime.FromTimedelta(authority.lifetime)
    message = authority_pb2.Authority(
        name=authority.name,
        uid=authority.uid,
        type=authority_pb2.Authority.Type.Value(authority.type),
        state=authority_pb2.Authority.State.Value(view.state),
        key_spec=x509.key_spec_number(authority.key_spec),
        signature_algorithm=x509.signature_algorithm_number(authority.signature_algorithm),
        subject=x509.distinguished_name_message(authority.subject),
        lifetime=lifetime,
        path_length=authority.path_length,
        issuer=view.issuer_name,
        key=_key_message(view, own_key(authority)),
        keys=[_key_message(view, key) for key in view.keys],
        chain=x509.encoded_chain(authority.chain),
        labels=authority.labels,
        revocation=revocation_settings.message(authority.revocation),
        usage_mode=authority_pb2.Authority.UsageMode.Value(authority.usage_mode),
        deletion_protection=authority.deletion_protection,
        create_time=x509.timestamp(authority.create_time),
        update_time=x509.timestamp(authority.update_time),
        etag=authority.etag,
        warnings=x509.warning_messages(view.warnings),
    )
    if authority.delete_time is not None:
        message.delete_time.CopyFrom(x509.timestamp(authority.delete_time))
    if authority.purge_time is not None:
        message.purge_time.CopyFrom(x509.timestamp(authority.purge_time))
    if authority.certificate is not None:
        message.certificate.CopyFrom(x509.encoded(authority.certificate))
        message.description.CopyFrom(x509.description(authority.certificate))
    constraints = authority.constraints
    if constraints is not None:
        message.name_constraints.CopyFrom(x509.name_constraints_message(constraints))
    return message


def _key_message(view: AuthorityView, key: AuthorityKey) -> authority_pb2.Authority.Key:
    message = authority_pb2.Authority.Key(
        number=key.number,
        token_label=view.token_label,
        key_id=key.key_id.hex(),
        mechanism=view.mechanism_of(key),
        public_key=key.public_key or b"",
        state=authority_pb2.Authority.Key.State.Value(key.state),
        cross_certificates=x509.encoded_chain(view.cross_certificates.get(key.number, ())),
    )
    if key.certificate is not None:
        message.certificate.CopyFrom(x509.encoded(key.certificate))
    if key.not_after is not None:
        message.not_after_time.CopyFrom(x509.timestamp(key.not_after))
    if key.state_time is not None:
        message.state_time.CopyFrom(x509.timestamp(key.state_time))
    if key.key_spec is not None:
        message.key_spec = x509.key_spec_number(key.key_spec)
    return message


def key_number(field: str, number: int) -> int | None:
    """Returns the number of a key, None for the one that signs; raises FIELD_INVALID."""
    if not 0 <= number < _KEY_NUMBERS:
        raise field_invalid(field, "must be the number of a key, from 1")
    return number or None


def _type(number: int) -> AuthorityType:
    kind = fields.choice("authority.type", authority_pb2.Authority.Type, number, AuthorityType)
    fields.required("authority.type", present=kind is not None)
    return kind or AuthorityType.ROOT


def _subject(given: authority_pb2.Authority) -> bytes:
    fields.required("authority.subject", present=bool(given.subject.relative_distinguished_names))
    return x509.parse_distinguished_name("authority.subject", given.subject)
