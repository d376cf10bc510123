"""How the reasons of what becomes of authorities are raised."""

from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from certd.errors import Reason
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    DeleteAuthorityRequest,
    GetAuthorityCsrRequest,
    GetRevocationListRequest,
    UpdateAuthorityRequest,
)
from tests.system.reason_server import CA, DISABLED, Raised, Server, Told


def _protected(server: Server) -> Told:
    def protect(*, protected: bool) -> None:
        authority = Authority(name=DISABLED, deletion_protection=protected)
        mask = FieldMask(paths=["deletion_protection"])
        server.ask(UpdateAuthorityRequest(authority=authority, update_mask=mask))

    protect(protected=True)
    told = server.refused(DeleteAuthorityRequest(name=DISABLED))
    protect(protected=False)
    return told


RAISED_OF_AUTHORITIES: Final = {
    Reason.AUTHORITY_ENABLED: Raised(
        by=lambda it: it.refused(DeleteAuthorityRequest(name=CA)), remedy="disable it first"
    ),
    Reason.DELETION_PROTECTED: Raised(by=_protected, remedy="take that back first"),
    Reason.AUTHORITY_KEY_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetAuthorityCsrRequest(name=CA, key_number=9)), remedy="GetAuthority lists"
    ),
    Reason.REVOCATION_LIST_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetRevocationListRequest(name=CA, partition=99)), remedy="revocation.crl.enabled"
    ),
}
