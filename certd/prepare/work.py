"""One item, prepared and described: what a prepare process does, and the daemon where it has none."""

import logging
import secrets

from certd.errors import CertdError, Reason
from certd.log import traceback_of
from certd.prepare.description import description_bytes
from certd.prepare.messages import Answer, Described, Wanted
from certd.prepare.order import Item, Terms, prepare_item

_logger = logging.getLogger(__name__)


def answer_item(terms: Terms, item: Item, wanted: Wanted) -> Answer:
    """Returns what becomes of an item; a defect becomes INTERNAL with an id, under which the log tells more."""
    try:
        prepared = prepare_item(terms, item)
        return Described(prepared, description_bytes(prepared) if wanted.descriptions else b"")
    except CertdError as error:
        return error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  # A panic in the X.509 library is no Exception, and is one request's failure.
        error_id = secrets.token_hex(8)
        _logger.error("error %s: %s", error_id, traceback_of(error))  # noqa: TRY400  # Its text may quote a stranger.
        return CertdError(Reason.INTERNAL, f"preparing failed; the log has more under the error id {error_id}")
