"""Puts wrapping keys from their escrow into a token."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from certd.clock import SystemClock
from certd.config import Config, token_settings
from certd.errors import CertdError
from certd.ipc.hardening import harden
from certd.ipc.users import become_owner_of
from certd.model.wrapping_key import WrappingKeyState
from certd.pki.escrow import recovered
from certd.pki.sealing import associated_data, decode_blob, secret_associated_data
from certd.services.sealed_contexts import key_context, secret_context
from certd.store import sealed_under, tenants, wrapping_keys
from certd.store.reader import Reader
from certd.store.sealed_under import SecretBlob
from certd.store.transaction import Transaction
from certd.store.wrapping_keys import EscrowedKey
from certd.token.journal import Journal
from certd.token.module import Module


@dataclass(frozen=True, slots=True)
class RecoveredKey:
    """What became of a wrapping key."""

    name: str
    in_token: bool
    outcome: str
    """A few words for people."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Something that is sealed under a wrapping key, by which it is tried."""

    blob: bytes
    associated: bytes


def recover(settings: Config, recovery_key: X25519PrivateKey) -> Iterator[RecoveredKey]:
    """Puts into the token what it lacks and is in escrow; yields what became of each key that is not destroyed.

    It is a token process of its own while it runs: the calling thread calls the module. Root reads the books, and
    becomes the token process's user before it touches token and journal. Raises STORE_UNAVAILABLE and
    TOKEN_UNAVAILABLE.
    """
    harden(parent_process_id=None)
    token = token_settings(settings)
    keys = _read(settings)
    become_owner_of(token.pin_file)
    if token.softhsm_conf is not None:
        os.environ["SOFTHSM2_CONF"] = str(token.softhsm_conf)
    module = Module(token)
    journal = Journal(token.journal, SystemClock())
    try:
        journal.open()
        module.open()
        for key, trial in keys:
            name = f"tenants/{key.tenant}/wrappingKeys/{key.number}"
            try:
                in_token, outcome = _recover(module, journal, key, trial, recovery_key)
            except CertdError as error:
                in_token, outcome = False, error.message
            yield RecoveredKey(name, in_token, outcome)
    finally:
        module.close()
        journal.close()


def _read(settings: Config) -> list[tuple[EscrowedKey, _Trial | None]]:
    """Returns the keys that are not destroyed, each with something to try it by if anything is sealed under it."""
    reader = Reader.open(settings.database.url)
    try:
        with reader.read("recover.keys") as tx:
            keys = [one for one in wrapping_keys.escrows(tx) if one.state is not WrappingKeyState.DESTROYED]
            return [(one, _trial(tx, one)) for one in keys]
    finally:
        reader.close()


def _recover(
    module: Module, journal: Journal, key: EscrowedKey, trial: _Trial | None, recovery_key: X25519PrivateKey
) -> tuple[bool, str]:
    if module.has_wrapping_key(key.key_id):
        return True, "is in the token"
    if key.escrow is None:
        return False, "is not in the token, and was made without escrow: restore the token from its backup"
    value = recovered(key.escrow, recovery_key=recovery_key, tenant=key.tenant, wrapping_key_id=key.key_id)
    if trial is not None and not _opens(value, trial, key):
        return False, "does not open what is sealed under it: its row was changed, and nothing was put into the token"
    module.ensure_wrapping_key(key.key_id, value=value)
    journal.record("recover-wrapping-key", key=key.key_id.hex(), tenant=key.tenant)
    failure = journal.commit()
    if failure is not None:
        raise failure
    return True, "recovered; " + ("nothing is sealed under it" if trial is None else "it opens what is sealed under it")


def _trial(tx: Transaction, key: EscrowedKey) -> _Trial | None:
    row, tenant = wrapping_keys.get(tx, key.tenant, key.number), tenants.get(tx, key.tenant)
    page = [] if row is None else sealed_under.page(tx, row, None, 1)
    if not page or tenant is None:
        return None
    (one,) = page
    if isinstance(one, SecretBlob):
        return _Trial(one.blob, secret_associated_data(secret_context(one, tenant.uid), key.key_id))
    return _Trial(one.blob, associated_data(key_context(one, tenant.uid), key.key_id))


def _opens(value: bytes, trial: _Trial, key: EscrowedKey) -> bool:
    blob = decode_blob(trial.blob)
    try:
        AESGCM(value).decrypt(blob.nonce, blob.ciphertext_and_tag, trial.associated)
    except InvalidTag:
        return False
    return blob.wrapping_key_id == key.key_id
