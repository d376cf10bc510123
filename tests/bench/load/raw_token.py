"""How often a token signs when nothing stands between: one thread, one session, the module's own call."""

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from certd.token import lock
from certd.token.settings import TokenSettings

_TO_BE_SIGNED = os.urandom(600)
"""As long as the to-be-signed part of a small certificate."""
_BURST = 100


def measure(connection: Connection, settings: TokenSettings, *, key_id: bytes, seconds: float) -> None:
    """Sends the signatures per second of the authority key `key_id`; main of a process of its own."""
    if settings.softhsm_conf is not None:
        os.environ["SOFTHSM2_CONF"] = str(settings.softhsm_conf)
    with lock.held(settings.lock):
        token = pkcs11.lib(str(settings.module)).get_token(token_label=settings.label)
        session = token.open(user_pin=settings.pin_file.read_text().strip())
    with session:
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id}
        (key,) = list(session.get_objects(wanted))
        sign = _signer(key)
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            for _ in range(_BURST):
                sign()
            count += _BURST
    connection.send(count / elapsed)


def _signer(key: Any) -> Callable[[], bytes]:
    """Returns what signs once. The binding mixes a key's operations in at run time, so that its types lack them."""
    if key.key_type is KeyType.RSA:
        return partial(key.sign, _TO_BE_SIGNED, mechanism=Mechanism.SHA256_RSA_PKCS)
    if key.key_type is KeyType.EC_EDWARDS:
        return partial(key.sign, _TO_BE_SIGNED, mechanism=Mechanism.EDDSA)
    # SoftHSM does not hash for ECDSA, and neither does the token process have it do so.
    return lambda: key.sign(hashlib.sha256(_TO_BE_SIGNED).digest(), mechanism=Mechanism.ECDSA)
