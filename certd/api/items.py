"""What a caller is told of an item of a batch that failed."""

import uuid

import structlog

from certd.api import status
from certd.errors import CertdError, Reason
from certd.log import traceback_of
from certd.v1 import certificate_service_pb2

_log = structlog.get_logger("certd.api")


def item_error(error: CertdError, *, method: str) -> certificate_service_pb2.ItemError:
    """Returns an item's error; of a defect, which `method` had, an id under which the log tells more."""
    if error.reason is Reason.INTERNAL:
        error_id = uuid.uuid4().hex
        _log.error("defect", error_id=error_id, method=method, traceback=traceback_of(error))
        message = f"a defect of the server; its log tells more under the error id {error_id}"
        error = CertdError(Reason.INTERNAL, message, metadata={"error_id": error_id})
    return status.item_error(error)
