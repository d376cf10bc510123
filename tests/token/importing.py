"""A token process that imports keys, and what a client and a careless or hostile daemon ask of it."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from certd.errors import CertdError, Reason
from certd.pki.import_key import seal_private_key
from certd.pki.key_spec import KeySpec, generate_private_key, public_key_der
from certd.pki.private_key import PrivateKey
from certd.pki.sealing import Purpose, SealContext, export_info, hpke_decrypt
from certd.token.client import GeneratedImportKey, ImportedKey, SealedImport, TokenClient
from tests.token.material import Authority, make_authority, make_context

END = datetime(2030, 1, 31, tzinfo=UTC)
SEALED_FOR_ANOTHER = "was sealed for another export policy, import key or certificate"
EC = generate_private_key(KeySpec.EC_P256)
OTHER = generate_private_key(KeySpec.EC_P256)


def pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def import_context(**changes: object) -> SealContext:
    """Returns what an import key is bound to."""
    return make_context(**{"certificate": "k1", "purpose": Purpose.IMPORT, "exportable": False, **changes})


@dataclass(frozen=True)
class Importer:
    """Imports a key into one tenant."""

    client: TokenClient
    authority: Authority
    wrapping_key_id: bytes
    key: PrivateKey = EC
    context: SealContext = field(default_factory=make_context)

    @property
    def public_key(self) -> bytes:
        return public_key_der(self.key.public_key())

    def generate(self, **changes: object) -> GeneratedImportKey:
        values: dict[str, object] = {
            "wrapping_key_id": self.wrapping_key_id,
            "context": import_context(),
            "expire_time": END,
            "authority_key_id": self.authority.key_id,
            "authority_policy": self.authority.policy,
            "signature_algorithm": self.authority.item(b"").signature_algorithm,
        }
        return self.client.generate_import_key(**{**values, **changes})  # type: ignore[arg-type]

    def sealed(self, made: GeneratedImportKey, data: bytes | None = None, **changes: object) -> SealedImport:
        """Returns the key, sealed to an import key for this certificate and policy, or what a careless client seals."""
        values: dict[str, object] = {
            "wrapping_key_id": self.wrapping_key_id,
            "sealed_import_key": made.sealed_key,
            "context": import_context(),
            "statement": made.statement,
            "ciphertext": seal_private_key(
                pkcs8(self.key) if data is None else data,
                made.statement,
                public_key=self.public_key,
                exportable=self.context.exportable,
            ),
        }
        return SealedImport(**{**values, **changes})  # type: ignore[arg-type]

    def import_(self, private_key: bytes | SealedImport | None = None, **changes: object) -> ImportedKey:
        values: dict[str, object] = {
            "wrapping_key_id": self.wrapping_key_id,
            "context": self.context,
            "public_key": self.public_key,
            "private_key": pkcs8(self.key) if private_key is None else private_key,
        }
        return self.client.import_key(**{**values, **changes})  # type: ignore[arg-type]

    def exported(self, imported: ImportedKey) -> bytes:
        """Returns the PrivateKeyInfo that was sealed, as an export has it."""
        recipient = X25519PrivateKey.generate()
        bound = replace(self.context, public_key_sha256=hashlib.sha256(self.public_key).digest())
        message = self.client.export_to_recipient(
            wrapping_key_id=self.wrapping_key_id,
            sealed_key=imported.sealed_key,
            context=bound,
            recipient_public_key=recipient.public_key().public_bytes_raw(),
        )
        return hpke_decrypt(message, private_key=recipient, info=export_info(bound))

    def same(self, imported: ImportedKey) -> bool:
        """Whether what was sealed is this key."""
        return pkcs8(load_der_private_key(self.exported(imported), password=None)) == pkcs8(self.key)  # type: ignore[arg-type]


def make_importer(client: TokenClient) -> Importer:
    key_id = secrets.token_bytes(16)
    client.ensure_wrapping_key(key_id=key_id)
    return Importer(client, make_authority(client), key_id)


def refused(call: Callable[[], object], reason: Reason, *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message
    return caught.value
