"""Private keys that other programs put into a token."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certd.token.settings import TokenSettings
from tests.softhsm import USER_PIN
from tests.token.material import run_python

_GENERATE_PAIRS = """
import json
import sys
import pkcs11
from pkcs11 import Attribute, KeyType
module, label, pin, pairs = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=label)
with token.open(rw=True, user_pin=pin) as session:
    for one in json.loads(pairs):
        private = {Attribute[name]: value for name, value in one["attributes"].items()}
        private |= {Attribute.ID: bytes.fromhex(one["key_id"]), Attribute.LABEL: one["label"]}
        options = {
            "store": True, "private_template": private,
            "public_template": {Attribute.ID: bytes.fromhex(one["public_key_id"])},
        }
        if one["curve"]:
            parameters = {Attribute.EC_PARAMS: bytes.fromhex(one["curve"])}
            domain = session.create_domain_parameters(KeyType.EC, parameters, local=True)
            print(domain.generate_keypair(**options)[0][Attribute.EC_POINT].hex())
        else:
            print(session.generate_keypair(KeyType.RSA, 1024, **options)[0][Attribute.MODULUS].hex())
"""
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


P256 = "06082a8648ce3d030107"
_RELABEL = """
import sys
import pkcs11
from pkcs11 import Attribute, ObjectClass
module, name, pin, key_id, label, how = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=name)
with token.open(rw=True, user_pin=pin) as session:
    wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: bytes.fromhex(key_id)}
    for key in list(session.get_objects(wanted)):
        try:
            if how == "copy":
                key.copy({Attribute.TOKEN: True, Attribute.LABEL: label, Attribute.MODIFIABLE: False})
            else:
                key[Attribute.LABEL] = label
            print("done")
        except pkcs11.PKCS11Error:
            print("refused")
"""


@dataclass(frozen=True, slots=True)
class ForeignPair:
    """A key pair that another program is to generate."""

    key_id: bytes
    attributes: Mapping[str, bool] = field(default_factory=dict)
    """Of the private key, beside what makes it fit to be adopted."""
    curve: str = P256
    """DER of its object identifier; empty for RSA with 1024 bits."""
    label: str = "foreign"
    public_key_id: bytes = b""
    """CKA_ID of the public half; empty for that of the private one."""


def generate_pairs(settings: TokenSettings, pairs: Sequence[ForeignPair]) -> list[bytes]:
    """Has another program generate key pairs; returns the point (SEC 1, uncompressed) or modulus of each."""
    fit = {"SENSITIVE": True, "EXTRACTABLE": False, "SIGN": True}
    wanted = [
        {
            "key_id": one.key_id.hex(),
            "public_key_id": (one.public_key_id or one.key_id).hex(),
            "attributes": {**fit, **one.attributes},
            "curve": one.curve,
            "label": one.label,
        }
        for one in pairs
    ]
    told = run_python(
        *(_GENERATE_PAIRS, str(settings.module), settings.label, USER_PIN, json.dumps(wanted)),
        configuration=settings.softhsm_conf,
    )
    # PKCS#11 has points within an OCTET STRING.
    return [bytes.fromhex(line).removeprefix(bytes.fromhex("0441")) for line in told.splitlines()]


def relabel(settings: TokenSettings, key_id: bytes, label: str, *, how: str = "in place") -> list[str]:
    """Has another program that knows the PIN give private keys a label, or copies of them; returns how that went.

    A copy keeps its label for ever, as one that certd makes when it adopts a key.
    """
    told = run_python(
        *(_RELABEL, str(settings.module), settings.label, USER_PIN, key_id.hex(), label, how),
        configuration=settings.softhsm_conf,
    )
    return told.splitlines()


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
