"""GetCheckpoint and CreateAuditReport: convert, call one service, convert back."""

from collections.abc import Iterator
from functools import partial

from certd.api import fields
from certd.api.call import Call, Methods
from certd.api.x509 import timestamp
from certd.errors import field_invalid
from certd.model.names import AuthorityName
from certd.services.audit_reports import AuditReports, ReportFormat, ReportQuery
from certd.services.checkpoints import Checkpoints
from certd.v1 import authority_service_pb2, event_service_pb2, x509_pb2

_Format = authority_service_pb2.CreateAuditReportRequest.Format
_FORMATS = {
    _Format.FORMAT_UNSPECIFIED: ReportFormat.JSON,
    _Format.JSON: ReportFormat.JSON,
    _Format.CSV: ReportFormat.CSV,
}


def event_methods(checkpoints: Checkpoints) -> Methods:
    """Returns the function that answers the method of EventService."""
    return {"GetCheckpoint": partial(get_checkpoint, checkpoints)}


def authority_methods(audit_reports: AuditReports) -> Methods:
    """Returns the function that answers the method of AuthorityService."""
    return {"CreateAuditReport": partial(create_audit_report, audit_reports)}


def get_checkpoint(
    checkpoints: Checkpoints, _request: event_service_pb2.GetCheckpointRequest, call: Call
) -> event_service_pb2.Checkpoint:
    """GetCheckpoint."""
    found = checkpoints.get(call.caller)
    return event_service_pb2.Checkpoint(
        statement=found.statement,
        signature=found.signature,
        public_key=found.public_key,
        signature_algorithm=x509_pb2.SignatureAlgorithm.Value(found.signature_algorithm.value),
        seq=found.seq,
        chain_hash=found.chain_hash,
        time=timestamp(found.time),
    )


def create_audit_report(
    audit_reports: AuditReports, request: authority_service_pb2.CreateAuditReportRequest, call: Call
) -> Iterator[authority_service_pb2.CreateAuditReportResponse]:
    """CreateAuditReport."""
    violations = fields.Violations()
    name = violations.attempt(lambda: AuthorityName.parse("name", request.name))
    start = violations.attempt(
        lambda: fields.instant("start_time", request.start_time) if request.HasField("start_time") else None
    )
    end = violations.attempt(
        lambda: fields.instant("end_time", request.end_time) if request.HasField("end_time") else None
    )
    if request.format not in _FORMATS:
        violations.add("format", "must be JSON or CSV")
    violations.check()
    if start is not None and end is not None and end <= start:
        raise field_invalid("end_time", "must be after start_time")
    query = ReportQuery(authority=name, format=_FORMATS[request.format], start_time=start, end_time=end)
    return (
        authority_service_pb2.CreateAuditReportResponse(content=part.content, record_count=part.record_count)
        for part in audit_reports.create(call.caller, query, call.open_stream)
    )
