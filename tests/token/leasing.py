"""A token process with a key in custody, and consumers that lease copies of it."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec
from certd.pki.lease import lease_statement, sign_lease
from certd.pki.sealing import Purpose, SealContext, hpke_decrypt
from certd.token.client import ResealItem, TokenClient
from certd.token.pinning import pin_roots
from certd.token.settings import TokenSettings
from tests.softhsm import make_token
from tests.token.clocked_token import set_clock, start_clocked
from tests.token.consumers import CONSUMER, NOW, Key, SystemRoot, make_root
from tests.token.material import make_context


@dataclass(frozen=True, slots=True)
class Custodian:
    """A token process whose time stands still, with a pinned root and a key in custody."""

    client: TokenClient
    settings: TokenSettings
    clock_file: Path
    root: SystemRoot
    wrapping_key_id: bytes
    sealed_key: bytes
    context: SealContext
    public_key: bytes
    """Of the key in custody, DER."""

    def consumer(self, name: str = CONSUMER, key: Key | None = None) -> "Leaser":
        """Returns a consumer with a copy of the key."""
        key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        context = replace(self.context, purpose=Purpose.ASSOCIATION, consumer=name, exportable=False)
        (sealed_key,) = self.client.reseal([self.item(context)])
        assert isinstance(sealed_key, bytes), sealed_key
        return Leaser(self, key, self.root.issue(key, uris=[name]), sealed_key, context)

    def item(self, context: SealContext) -> ResealItem:
        return ResealItem(
            wrapping_key_id=self.wrapping_key_id,
            sealed_key=self.sealed_key,
            context=self.context,
            new_wrapping_key_id=self.wrapping_key_id,
            new_context=context,
        )

    def opened(self, request: "Signed", message: bytes) -> None:
        """Checks that the recipient opens the message, and that it is the key."""
        plaintext = hpke_decrypt(message, private_key=request.recipient, info=request.statement)
        private_key = load_der_private_key(plaintext, password=None)
        found = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert found == self.public_key


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement that a consumer has signed."""

    recipient: X25519PrivateKey
    statement: bytes
    sign_time: datetime
    signature: bytes


@dataclass(frozen=True, slots=True)
class Leaser:
    """A consumer with a copy of a key."""

    custodian: Custodian
    key: Key
    certificate: bytes
    sealed_key: bytes
    context: SealContext

    def sign(self, key: Key | None = None, **changes: object) -> Signed:
        """Signs a statement, which may be another than the one that is asked for."""
        recipient = X25519PrivateKey.generate()
        values: dict[str, object] = {
            "tenant": self.context.tenant,
            "certificate": self.context.certificate,
            "version": self.context.version,
            "consumer": self.context.consumer,
            "public_key": recipient.public_key().public_bytes_raw(),
            "sign_time": NOW,
            **changes,
        }
        statement = lease_statement(**values)  # type: ignore[arg-type]
        sign_time = values["sign_time"]
        assert isinstance(sign_time, datetime)
        return Signed(recipient, statement, sign_time, sign_lease(self.key if key is None else key, statement))

    def lease(self, request: Signed, **changes: object) -> bytes:
        """Asks for the key, with anything changed on the way."""
        values: dict[str, object] = {
            "wrapping_key_id": self.custodian.wrapping_key_id,
            "sealed_key": self.sealed_key,
            "context": self.context,
            "certificate": self.certificate,
            "recipient_public_key": request.recipient.public_key().public_bytes_raw(),
            "sign_time": request.sign_time,
            "signature": request.signature,
            **changes,
        }
        return self.custodian.client.lease(**values)  # type: ignore[arg-type]

    def refusal(self, request: Signed, **changes: object) -> CertdError:
        """Asks for the key with a blob that is none: whoever is refused is so before anything is opened."""
        with pytest.raises(CertdError) as caught:
            self.lease(request, sealed_key=b"not even a blob", **changes)
        assert caught.value.reason is Reason.LEASE_REFUSED, caught.value
        return caught.value


@contextmanager
def custodian(folder: Path, *, leases_per_minute: int = 6000, spec: KeySpec = KeySpec.EC_P256) -> Iterator[Custodian]:
    settings = make_token(folder, leases_per_minute=leases_per_minute)
    root = make_root()
    pin_roots(settings.system_roots, [root.certificate])
    clock_file = folder / "clock"
    set_clock(clock_file, NOW)
    client = start_clocked(settings, clock_file)
    try:
        assert client.wait_ready(20), client.problem
        wrapping_key_id = secrets.token_bytes(16)
        client.ensure_wrapping_key(key_id=wrapping_key_id)
        context = make_context()
        generated = client.generate_subscriber_key(wrapping_key_id=wrapping_key_id, key_spec=spec, context=context)
        yield Custodian(
            client=client,
            settings=settings,
            clock_file=clock_file,
            root=root,
            wrapping_key_id=wrapping_key_id,
            sealed_key=generated.sealed_key,
            context=replace(context, public_key_sha256=hashlib.sha256(generated.public_key).digest()),
            public_key=generated.public_key,
        )
    finally:
        client.stop()
