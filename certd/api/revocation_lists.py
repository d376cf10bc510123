"""AuthorityService, CRLs: convert, call `services.revocation_lists`, convert back."""

from functools import partial

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.names import AuthorityName
from certd.model.revocation_settings import MOST_PARTITIONS
from certd.services.revocation_lists import RevocationLists, RevocationListView, WantedList
from certd.v1 import authority_service_pb2

_Request = authority_service_pb2.GetRevocationListRequest | authority_service_pb2.GenerateRevocationListRequest


def methods(lists: RevocationLists) -> Methods:
    """Returns the functions that answer for CRLs."""
    return {
        "GetRevocationList": partial(get_revocation_list, lists),
        "GenerateRevocationList": partial(generate_revocation_list, lists),
    }


def get_revocation_list(
    lists: RevocationLists, request: authority_service_pb2.GetRevocationListRequest, call: Call
) -> authority_service_pb2.RevocationList:
    """GetRevocationList."""
    return revocation_list_message(lists.get(call.caller, _wanted(request)))


def generate_revocation_list(
    lists: RevocationLists, request: authority_service_pb2.GenerateRevocationListRequest, call: Call
) -> authority_service_pb2.RevocationList:
    """GenerateRevocationList."""
    return revocation_list_message(lists.generate(call.caller, _wanted(request)))


def revocation_list_message(view: RevocationListView) -> authority_service_pb2.RevocationList:
    """Returns a CRL as a message."""
    found = view.found
    message = authority_service_pb2.RevocationList(
        authority=view.authority.name,
        key_number=found.key.key_number,
        partition=found.key.partition,
        number=found.number,
        entry_count=found.entry_count,
        size_bytes=found.size_bytes,
        sha256_fingerprint=found.sha256 or b"",
        urls=found.urls,
        der=view.der,
        last_error=found.last_error,
    )
    if found.this_update is not None and found.next_update is not None:
        message.this_update_time.CopyFrom(x509.timestamp(found.this_update))
        message.next_update_time.CopyFrom(x509.timestamp(found.next_update))
    return message


def _wanted(request: _Request) -> WantedList:
    violations = fields.Violations()
    name = violations.attempt(lambda: AuthorityName.parse("name", request.name))
    if request.key_number < 0:
        violations.add("key_number", "must be the number of a key, from 1, or absent for the one that signs")
    if not 0 <= request.partition <= MOST_PARTITIONS:
        violations.add("partition", f"must be from 1 to {MOST_PARTITIONS}, or absent for the complete CRL")
    violations.check()
    return WantedList(authority=name, key_number=request.key_number or None, partition=request.partition)
