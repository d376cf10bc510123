"""Private keys that other programs put into a token."""

import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certd.token.settings import TokenSettings
from tests.softhsm import USER_PIN

_GENERATE = """
import sys
import pkcs11
module, label, pin, key_id, capabilities, extractable = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=label)
with token.open(rw=True, user_pin=pin) as session:
    session.generate_keypair(
        pkcs11.KeyType.RSA, 2048, id=bytes.fromhex(key_id), label="foreign", store=True,
        capabilities=pkcs11.MechanismFlag[capabilities],
        private_template={
            pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: extractable == "yes",
            pkcs11.Attribute.SIGN: capabilities == "SIGN", pkcs11.Attribute.DECRYPT: capabilities == "DECRYPT",
        },
    )
    public = session.get_key(pkcs11.ObjectClass.PUBLIC_KEY, id=bytes.fromhex(key_id))
    print(public[pkcs11.Attribute.MODULUS].hex())
"""


def import_key(settings: TokenSettings, key: PrivateKeyTypes, key_id: bytes, folder: Path) -> None:
    """Imports a key with SoftHSM's own tool, as an operator would."""
    file = folder / "imported.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    subprocess.run(
        ["softhsm2-util", "--import", file, "--token", settings.label, "--label", "old CA", "--id", key_id.hex(),
         "--pin", USER_PIN],
        env=_environment(settings), check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    file.unlink()


def generate_key(settings: TokenSettings, key_id: bytes, *, extractable: bool = False, use: str = "SIGN") -> int:
    """Has another program generate an RSA key in the token; returns its modulus."""
    result = subprocess.run(
        [sys.executable, "-c", _GENERATE, str(settings.module), settings.label, USER_PIN, key_id.hex(), use,
         "yes" if extractable else "no"],
        env=_environment(settings), check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return int(result.stdout, 16)


def _environment(settings: TokenSettings) -> dict[str, str]:
    return {**os.environ, "SOFTHSM2_CONF": str(settings.softhsm_conf)}
