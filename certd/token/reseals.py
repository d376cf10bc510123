"""Seals keys anew: under another wrapping key, or a copy for one consumer. Never for more than they were sealed for."""

import logging

from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.ipc.frames import failure_of
from certd.pki.sealing import Purpose, SealContext
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.requests import check_key_id, context_of, in_journal, whose
from certd.token.seal import seal_bound, unseal
from certd.token.settings import RESEALS_AT_ONCE

_logger = logging.getLogger(__name__)


def reseal(module: Module, request: messages.ResealRequest, journal: Journal) -> messages.ResealResponse:
    """Seals each item anew, or says why not. FIELD_INVALID for too many items."""
    if len(request.items) > RESEALS_AT_ONCE:
        raise field_invalid("items", f"must be at most {RESEALS_AT_ONCE}")
    results = []
    for item in request.items:
        try:
            sealed_key = _reseal_item(module, item, journal)
        except CertdError as error:
            _logger.warning("not resealed with %s: %s", item.new_wrapping_key_id.hex(), error)
            results.append(messages.ResealResult(failure=failure_of(error)))
        else:
            results.append(messages.ResealResult(sealed_key=sealed_key))
    return messages.ResealResponse(results=results)


def _reseal_item(module: Module, item: messages.ResealItem, journal: Journal) -> bytes:
    check_key_id("wrapping_key_id", item.wrapping_key_id)
    check_key_id("new_wrapping_key_id", item.new_wrapping_key_id)
    old, new = context_of(item.context), context_of(item.new_context, field="new_context")
    _check_not_wider(old, new)
    private_key = unseal(module, item.sealed_key, wrapping_key_id=item.wrapping_key_id, context=old)
    sealed_key = seal_bound(module, private_key, wrapping_key_id=item.new_wrapping_key_id, context=new)
    keys = {"key": item.wrapping_key_id.hex(), "new_key": item.new_wrapping_key_id.hex()}
    journal.record("reseal", **keys, **in_journal(new))
    return sealed_key


def _check_not_wider(old: SealContext, new: SealContext) -> None:
    """TOKEN_POLICY_FORBIDS when the new context is another key's, or allows what the old one does not."""
    for field in ("tenant", "certificate", "version", "public_key_sha256"):
        if getattr(old, field) != getattr(new, field):
            raise _forbid(old, f"{field} stays what it is")
    if new.exportable and not old.exportable:
        raise _forbid(old, "what is not exportable never becomes so")
    if old.purpose is new.purpose and old.consumer != new.consumer:
        raise _forbid(old, "a key that is sealed for one consumer is never sealed for another")
    if old.purpose is not new.purpose and (old.purpose, new.purpose) != (Purpose.CUSTODY, Purpose.ASSOCIATION):
        raise _forbid(old, f"{old.purpose} never becomes {new.purpose}")
    if new.purpose is Purpose.ASSOCIATION and (not new.consumer or new.exportable):
        raise _forbid(old, "the copy for an association has a consumer and is not exportable")


def _forbid(context: SealContext, rule: str) -> CertdError:
    message = f"The token process refuses to reseal the key of {whose(context)}: {rule}."
    return CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
