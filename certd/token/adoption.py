"""Private keys that were in the token before certd, or that its operator imported there, as authority keys."""

import hashlib
import logging
from typing import Final

from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.token import objects
from certd.token.journal import Journal
from certd.token.module import AUTHORITY_LABEL, Module
from certd.token.policy import parse_policy
from certd.token.requests import check_authority_key_id

_logger = logging.getLogger(__name__)

_UNCHANGEABLE: Final = "names a key that the token gives no other label; make it CKA_MODIFIABLE"


def adopt(
    module: Module, request: messages.AdoptAuthorityKeyRequest, journal: Journal
) -> messages.AdoptAuthorityKeyResponse:
    """Seals a policy with a private key, as with one that certd makes; a second time changes nothing.

    A copy of the key takes its place, whose label nobody changes, not even with the PIN. Of two programs that know the
    PIN, either can use every key, and change such a label where the token makes no such copy. So the PIN is certd's
    alone from now on, as `token.pin_file` wants.
    """
    key_id, policy = request.key_id, parse_policy(request.policy)
    check_authority_key_id("key_id", key_id)
    label = AUTHORITY_LABEL + policy.sha256
    found = module.foreign_key(key_id, label=label)
    _check(found, request.public_key, label)
    if found.failure:
        raise field_invalid("key_id", f"names a key that does not sign: {found.failure}")
    sealed = False
    if not request.validate_only:
        sealed = module.seal_key(found, label)
        if module.authority_key(key_id).label != label:
            raise field_invalid("key_id", _UNCHANGEABLE)
        _logger.info("adopted the authority key %s with policy %s", key_id.hex(), policy.sha256)
        # Every time: who died after it had the label has not written this.
        journal.record(
            "adopt-authority-key",
            key=key_id.hex(),
            key_spec=found.pair.spec.value,
            policy_sha256=policy.sha256,
            public_key_sha256=hashlib.sha256(found.pair.public_key).hexdigest(),
        )
    return messages.AdoptAuthorityKeyResponse(
        key_spec=found.pair.spec.value, never_extractable=found.never_extractable, sealed=sealed
    )


def _check(found: objects.ForeignKey, public_key: bytes, label: str) -> None:
    if not found.sensitive or found.extractable:
        raise field_invalid(
            "key_id",
            "names a key that can be read out of the token: it must have CKA_SENSITIVE true and CKA_EXTRACTABLE false;"
            " import it anew with these (softhsm2-util --import does so)",
        )
    if not found.signs:
        raise field_invalid("key_id", "names a key that may not sign: it must have CKA_SIGN true")
    if found.pair.public_key != public_key:
        raise CertdError(
            Reason.IMPORT_KEY_MISMATCH,
            f"the key {found.pair.key_id.hex()} in the token is another than that of the certificate; give the CKA_ID"
            " of the certificate's key",
        )
    if found.pair.label.startswith(AUTHORITY_LABEL) and found.pair.label != label:
        raise CertdError(
            Reason.TOKEN_POLICY_FORBIDS,
            f"The key {found.pair.key_id.hex()} is an authority key with another policy, and what was sealed with a key"
            " does not change.",
        )
    if found.pair.label != label and not found.modifiable:
        raise field_invalid("key_id", _UNCHANGEABLE)
