"""Secrets that are no private keys, as those by which webhooks are signed: sealed for the daemon, and opened for it.

The daemon may read them, unlike private keys. Their associated data is of a domain of its own, so that nothing that was
sealed as a key opens here, and no secret where keys are opened.
"""

import logging
import secrets

from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.pki.sealing import (
    LONGEST_SECRET,
    NONCE_BYTES,
    SecretContext,
    decode_blob,
    encode_blob,
    secret_associated_data,
)
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.requests import check_key_id, secret_context_of

_logger = logging.getLogger(__name__)


def seal_secret(module: Module, request: messages.SealSecretRequest, journal: Journal) -> messages.SealSecretResponse:
    """Seals a secret under a wrapping key, bound to its context. FIELD_INVALID for one that is empty or too long."""
    check_key_id("wrapping_key_id", request.wrapping_key_id)
    context = secret_context_of(request.context)
    if not 0 < len(request.secret) <= LONGEST_SECRET:
        raise field_invalid("secret", f"must be 1 to {LONGEST_SECRET} bytes")
    nonce = secrets.token_bytes(NONCE_BYTES)
    ciphertext = module.encrypt(
        request.wrapping_key_id,
        nonce=nonce,
        plaintext=request.secret,
        associated_data=secret_associated_data(context, request.wrapping_key_id),
    )
    blob = encode_blob(wrapping_key_id=request.wrapping_key_id, nonce=nonce, ciphertext_and_tag=ciphertext)
    journal.record("seal-secret", key=request.wrapping_key_id.hex(), **_in_journal(context))
    return messages.SealSecretResponse(sealed_secret=blob)


def open_secret(module: Module, request: messages.OpenSecretRequest, journal: Journal) -> messages.OpenSecretResponse:
    """Opens a secret.

    TOKEN_POLICY_FORBIDS when it was sealed for another tenant, subscription or number, is no secret but a key, or has
    been altered. FIELD_INVALID when it is no blob or names another wrapping key.
    """
    check_key_id("wrapping_key_id", request.wrapping_key_id)
    context = secret_context_of(request.context)
    blob = decode_blob(request.sealed_secret, field="sealed_secret")
    if blob.wrapping_key_id != request.wrapping_key_id:
        raise field_invalid("sealed_secret", "was sealed under another wrapping key than the one named")
    opened = module.decrypt(
        request.wrapping_key_id,
        nonce=blob.nonce,
        ciphertext=blob.ciphertext_and_tag,
        associated_data=secret_associated_data(context, request.wrapping_key_id),
    )
    if opened is None:
        _logger.warning("not opened: %s", _which(context))
        message = (
            "The sealed secret does not open: it was sealed for another tenant, subscription or number, or it was "
            "altered. Rotate the secret of the subscription (RotateSubscriptionSecret)."
        )
        raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
    journal.record("open-secret", key=request.wrapping_key_id.hex(), **_in_journal(context))
    return messages.OpenSecretResponse(secret=opened)


def _in_journal(context: SecretContext) -> dict[str, str | int]:
    return {"tenant": context.tenant, "subscription": context.subscription, "secret": context.number}


def _which(context: SecretContext) -> str:
    return f"secret {context.number} of tenant {context.tenant} subscription {context.subscription}"
