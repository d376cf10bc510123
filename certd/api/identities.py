"""Identities in AccessService: convert, call `services.identity_changes`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.identity import IdentityState
from certd.model.names import IdentityName, TenantName
from certd.model.request_limits import RequestLimits
from certd.services.identities import IdentityCredential, IdentityView
from certd.services.identity_changes import IdentityChanges
from certd.services.paging import Page
from certd.v1 import access_service_pb2, identity_pb2

_STATES: Final = {
    IdentityState.INVITED: identity_pb2.Identity.INVITED,
    IdentityState.ACTIVE: identity_pb2.Identity.ACTIVE,
    IdentityState.REVOKED: identity_pb2.Identity.REVOKED,
}


def methods(changes: IdentityChanges, limits: RequestLimits) -> Methods:
    """Returns the functions that answer what AccessService says of identities."""
    return {
        "RenewIdentity": partial(renew_identity, changes),
        "GetIdentity": partial(get_identity, changes),
        "ListIdentities": partial(list_identities, changes, limits),
        "RevokeIdentity": partial(revoke_identity, changes),
    }


def renew_identity(
    changes: IdentityChanges, request: access_service_pb2.RenewIdentityRequest, call: Call
) -> identity_pb2.IdentityCredential:
    """RenewIdentity."""
    fields.required("csr", present=bool(request.csr))
    return credential_message(changes.renew(call.caller, request.csr, timeout=call.timeout))


def get_identity(
    changes: IdentityChanges, request: access_service_pb2.GetIdentityRequest, call: Call
) -> identity_pb2.Identity:
    """GetIdentity."""
    return identity_message(changes.get(call.caller, IdentityName.parse("name", request.name)))


def list_identities(
    changes: IdentityChanges, limits: RequestLimits, request: access_service_pb2.ListIdentitiesRequest, call: Call
) -> access_service_pb2.ListIdentitiesResponse:
    """ListIdentities."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent) if request.parent else None)
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[IdentityView]) -> access_service_pb2.ListIdentitiesResponse:
        return access_service_pb2.ListIdentitiesResponse(
            identities=[identity_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: changes.page(call.caller, parent, smaller), answer)


def revoke_identity(
    changes: IdentityChanges, request: access_service_pb2.RevokeIdentityRequest, call: Call
) -> identity_pb2.Identity:
    """RevokeIdentity."""
    violations = fields.Violations()
    name = violations.attempt(lambda: IdentityName.parse("name", request.name))
    key = violations.attempt(lambda: fields.request_key("RevokeIdentity", request, request.request_id))
    violations.check()
    return identity_message(changes.revoke(call.caller, name, key=key, validate_only=request.validate_only))


def identity_message(view: IdentityView) -> identity_pb2.Identity:
    """Returns an identity as a message."""
    identity = view.identity
    return identity_pb2.Identity(
        name=str(identity.name),
        spiffe_id=identity.spiffe_id,
        state=_STATES[identity.state],
        certificates=[
            identity_pb2.IdentityCertificate(
                serial_number=row.serial,
                not_after_time=x509.timestamp(row.not_after),
                public_key_sha256=row.public_key_sha256,
            )
            for row in view.certificates
        ],
        create_time=x509.timestamp(identity.create_time),
        update_time=x509.timestamp(identity.update_time),
    )


def credential_message(credential: IdentityCredential) -> identity_pb2.IdentityCredential:
    """Returns what an identity is given with a certificate as a message."""
    return identity_pb2.IdentityCredential(
        identity=identity_message(credential.view),
        certificate=x509.encoded(credential.certificate),
        system_roots=x509.encoded_chain(credential.system_roots),
        renew_time=x509.timestamp(credential.renew_time),
    )
