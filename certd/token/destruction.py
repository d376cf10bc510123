"""Authority keys that are destroyed, for ever: those of an authority that is purged, and of responders."""

import logging

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.token.journal import Journal
from certd.token.module import AUTHORITY_LABEL, Module
from certd.token.policy import SignatureKind, parse_policy
from certd.token.requests import check_authority_key_id

_logger = logging.getLogger(__name__)


def destroy_authority_key(
    module: Module, request: messages.DestroyAuthorityKeyRequest, journal: Journal
) -> messages.DestroyAuthorityKeyResponse:
    """Destroys a key with which this policy was sealed; a second time finds none.

    TOKEN_POLICY_FORBIDS for every other key of the token, and for one that signs checkpoints: with that, whoever took
    over the daemon would be rid of who says what it did.
    """
    key_id, policy = request.key_id, parse_policy(request.policy)
    check_authority_key_id("key_id", key_id)
    if SignatureKind.CHECKPOINT in policy.kinds:
        message = f"The key {key_id.hex()} signs checkpoints, and the token process destroys none of those."
        raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
    destroyed = module.destroy_authority_key(key_id, label=AUTHORITY_LABEL + policy.sha256)
    if destroyed:
        journal.record("destroy-authority-key", key=key_id.hex(), policy_sha256=policy.sha256)
    _logger.warning("%s authority key %s", "destroyed" if destroyed else "found no", key_id.hex())
    return messages.DestroyAuthorityKeyResponse(destroyed=destroyed)
