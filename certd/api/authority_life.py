"""AuthorityService, how an authority goes on and how it ends: convert, call its services, convert back."""

from functools import partial

from certd.api import fields
from certd.api.authorities import authority_message
from certd.api.authority_changes import change_of
from certd.api.call import Call, Methods
from certd.services.authority_deletion import LONGEST_WINDOW, AuthorityDeletion, Deletion
from certd.services.authority_plan import LIFETIME_RULE
from certd.services.authority_reissue import AuthorityReissue, Reissue
from certd.v1 import authority_pb2, authority_service_pb2


def methods(reissue: AuthorityReissue, deletion: AuthorityDeletion) -> Methods:
    """Returns the functions that answer this part of AuthorityService."""
    return {
        "ReissueAuthorityCertificate": partial(reissue_authority_certificate, reissue),
        "DeleteAuthority": partial(delete_authority, deletion),
        "UndeleteAuthority": partial(undelete_authority, deletion),
    }


def reissue_authority_certificate(
    reissue: AuthorityReissue, request: authority_service_pb2.ReissueAuthorityCertificateRequest, call: Call
) -> authority_pb2.Authority:
    """ReissueAuthorityCertificate."""
    violations = fields.Violations()
    lifetime = violations.attempt(
        lambda: (
            fields.lifetime("lifetime", request.lifetime, rule=LIFETIME_RULE) if request.HasField("lifetime") else None
        )
    )
    change = change_of("ReissueAuthorityCertificate", request, violations)
    wanted = Reissue(lifetime=lifetime, allow_broken_certificates=request.allow_broken_certificates)
    return authority_message(reissue.reissue(call.caller, change, wanted))


def delete_authority(
    deletion: AuthorityDeletion, request: authority_service_pb2.DeleteAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """DeleteAuthority."""
    violations = fields.Violations()
    window = violations.attempt(
        lambda: (
            fields.lifetime("window", request.window, rule="must be from 7 to 30 days")
            if request.HasField("window")
            else LONGEST_WINDOW
        )
    )
    change = change_of("DeleteAuthority", request, violations)
    wanted = Deletion(window=window, allow_live_certificates=request.allow_live_certificates)
    return authority_message(deletion.delete(call.caller, change, wanted))


def undelete_authority(
    deletion: AuthorityDeletion, request: authority_service_pb2.UndeleteAuthorityRequest, call: Call
) -> authority_pb2.Authority:
    """UndeleteAuthority."""
    return authority_message(
        deletion.undelete(call.caller, change_of("UndeleteAuthority", request, fields.Violations()))
    )
