"""Wrapping keys in escrow: each is encrypted to an offline recovery key before it is made. A token gives no key out.

The token process draws the value of the key, hands it out encrypted, and makes the key only when it is told that this
is kept: so no key is in use that nobody could recover. Whose the recovery key is, the configuration of the token
process says, and never its caller.

What this weakens: the value of a key was outside of the token, in the memory of this process, for a moment; the token
cannot vouch that it never was (CKA_LOCAL and CKA_NEVER_EXTRACTABLE are false); and whoever has the private recovery key
and a copy of the database opens what is sealed in it without the token.
"""

import logging
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import Final

from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.pki.escrow import WRAPPING_KEY_BYTES, escrow_of
from certd.pki.recovery_key import parse_recovery_public_key
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.pin import wipe
from certd.token.requests import check_key_id

_logger = logging.getLogger(__name__)

_MOST_WAITING: Final = 256
_LONGEST_TENANT: Final = 64
_LONGEST_FILE: Final = 65_536


class WrappingKeyMaker:
    """Makes wrapping keys, in escrow where there is a recovery key. For the thread of the module.

    Args:
        module: the token.
        recovery_public_key: PEM file of the recovery key; None: the token generates the keys, and has them alone.
        journal: gets a record of each that is made.
    """

    def __init__(self, module: Module, recovery_public_key: Path | None, journal: Journal) -> None:
        self._module = module
        self._file = recovery_public_key
        self._journal = journal
        self._waiting: OrderedDict[bytes, tuple[bytes, bytearray]] = OrderedDict()
        """Keys that are not made yet: escrow and value, by id."""

    def ensure(self, request: messages.EnsureWrappingKeyRequest) -> messages.EnsureWrappingKeyResponse:
        """Does what EnsureWrappingKeyRequest says. TOKEN_UNAVAILABLE when the recovery key cannot be read."""
        check_key_id("key_id", request.key_id)
        if self._file is None:
            created = self._module.ensure_wrapping_key(request.key_id)
            if created:
                self._tell(request, b"")
            return messages.EnsureWrappingKeyResponse(created=created)
        if self._module.has_wrapping_key(request.key_id):
            self._forget(request.key_id)
            return messages.EnsureWrappingKeyResponse(created=False)
        if not 1 <= len(request.tenant) <= _LONGEST_TENANT:
            raise field_invalid("tenant", f"must have 1 to {_LONGEST_TENANT} characters; wrapping keys are in escrow")
        escrow, value = self._waiting.get(request.key_id) or self._begin(request.key_id, request.tenant)
        if not request.escrow or request.escrow != escrow:
            return messages.EnsureWrappingKeyResponse(created=False, escrow=escrow)
        created = self._module.ensure_wrapping_key(request.key_id, value=bytes(value))
        self._forget(request.key_id)
        if created:
            self._tell(request, escrow)
        return messages.EnsureWrappingKeyResponse(created=created)

    def _begin(self, key_id: bytes, tenant: str) -> tuple[bytes, bytearray]:
        recovery_public_key = self._recovery_public_key()
        value = bytearray(secrets.token_bytes(WRAPPING_KEY_BYTES))
        escrow = escrow_of(bytes(value), recovery_public_key=recovery_public_key, tenant=tenant, wrapping_key_id=key_id)
        self._waiting[key_id] = escrow, value
        if len(self._waiting) > _MOST_WAITING:
            self._forget(next(iter(self._waiting)))
        return escrow, value

    def _forget(self, key_id: bytes) -> None:
        waiting = self._waiting.pop(key_id, None)
        if waiting is not None:
            wipe(waiting[1])

    def _recovery_public_key(self) -> bytes:
        assert self._file is not None  # noqa: S101  # Who calls has looked.
        try:
            with self._file.open("rb") as file:
                return parse_recovery_public_key(file.read(_LONGEST_FILE), field="token.recovery_public_key")
        except (OSError, CertdError) as error:
            said = error.strerror if isinstance(error, OSError) else error.message
            message = (
                f"No wrapping key is made without its escrow, and {self._file}, [token] recovery_public_key, cannot be"
                f" used: {said}. Put the public key there, readable by the token process's user."
            )
            raise CertdError(Reason.TOKEN_UNAVAILABLE, message) from None

    def _tell(self, request: messages.EnsureWrappingKeyRequest, escrow: bytes) -> None:
        key = request.key_id.hex()
        told = {"tenant": request.tenant, "escrow": escrow.hex()} if escrow else {}
        self._journal.record("create-wrapping-key", key=key, **told)
        _logger.info("wrapping key %s%s", key, ", in escrow" if escrow else "")
