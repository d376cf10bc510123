"""Wrapping keys in escrow: none is made that is not kept, and what is kept opens what is sealed."""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from certd.errors import CertdError, Reason
from certd.pki.escrow import recovered
from certd.pki.key_spec import KeySpec
from certd.pki.sealing import Purpose, SealContext, associated_data, decode_blob
from certd.token.client import TokenClient, start_child
from certd.token.settings import TokenSettings
from tests.softhsm import make_token

_SECONDS = 120
_CONTEXT = SealContext(
    tenant="t", certificate="c", version=1, purpose=Purpose.CUSTODY, exportable=True, public_key_sha256=b""
)


@pytest.fixture
def recovery_key() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


@pytest.fixture
def escrowing(tmp_path: Path, recovery_key: X25519PrivateKey) -> TokenSettings:
    """Settings of a token whose wrapping keys are in escrow."""
    file = tmp_path / "recovery.pem"
    file.write_bytes(recovery_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return replace(make_token(tmp_path), recovery_public_key_file=file)


@pytest.fixture
def escrowing_client(escrowing: TokenSettings) -> Iterator[TokenClient]:
    client = start_child(escrowing)
    assert client.wait_ready(_SECONDS), client.problem
    yield client
    client.stop()


def _made(client: TokenClient, key_id: bytes) -> list[bytes]:
    kept: list[bytes] = []
    assert client.ensure_wrapping_key(key_id=key_id, tenant="acme", keep_escrow=kept.append)
    return kept


def test_a_key_is_kept_before_it_is_made_and_opens_what_is_sealed(
    escrowing_client: TokenClient, recovery_key: X25519PrivateKey
) -> None:
    client, key_id = escrowing_client, secrets.token_bytes(16)
    there: list[bool] = []

    def keep(_escrow: bytes) -> None:
        there.append(any(one.key_id == key_id for one in client.list_keys()))

    assert client.ensure_wrapping_key(key_id=key_id, tenant="acme", keep_escrow=keep)
    # Kept while there was no key, and again when there was.
    assert there == [False, True]
    # A second time it is there, and in no other escrow.
    assert not client.ensure_wrapping_key(key_id=key_id, tenant="acme", keep_escrow=keep)
    assert len(there) == 2

    another = secrets.token_bytes(16)
    escrow = _made(client, another)[-1]
    sealed = client.generate_subscriber_key(wrapping_key_id=another, key_spec=KeySpec.EC_P256, context=_CONTEXT)
    value = recovered(escrow, recovery_key=recovery_key, tenant="acme", wrapping_key_id=another)
    blob = decode_blob(sealed.sealed_key)
    bound = replace(_CONTEXT, public_key_sha256=hashlib.sha256(sealed.public_key).digest())
    opened = AESGCM(value).decrypt(blob.nonce, blob.ciphertext_and_tag, associated_data(bound, another))
    public = load_der_private_key(opened, None).public_key()
    assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == sealed.public_key

    for tenant, wrong_id, key in (
        ("other", another, recovery_key),
        ("acme", key_id, recovery_key),
        ("acme", another, X25519PrivateKey.generate()),
    ):
        with pytest.raises(CertdError, match="does not open the wrapping key"):
            recovered(escrow, recovery_key=key, tenant=tenant, wrapping_key_id=wrong_id)


def test_what_nobody_keeps_is_not_made(escrowing_client: TokenClient) -> None:
    key_id = secrets.token_bytes(16)
    with pytest.raises(CertdError) as caught:
        escrowing_client.ensure_wrapping_key(key_id=key_id, tenant="acme")
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE

    def fail(_escrow: bytes) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        escrowing_client.ensure_wrapping_key(key_id=key_id, tenant="acme", keep_escrow=fail)
    assert escrowing_client.list_keys() == []


def test_a_process_that_died_before_the_key_was_made_draws_another(escrowing: TokenSettings) -> None:
    key_id = secrets.token_bytes(16)
    kept: list[bytes] = []
    clients = [start_child(escrowing)]
    try:
        assert clients[0].wait_ready(_SECONDS), clients[0].problem

        def keep(escrow: bytes) -> None:
            if not kept:
                # It dies with the key that it drew.
                clients[0].stop()
            kept.append(escrow)

        with pytest.raises(CertdError):
            clients[0].ensure_wrapping_key(key_id=key_id, tenant="acme", keep_escrow=keep)
        clients.append(start_child(escrowing))
        assert clients[1].wait_ready(_SECONDS), clients[1].problem
        assert clients[1].ensure_wrapping_key(key_id=key_id, tenant="acme", keep_escrow=keep)
        assert len(set(kept)) == 2
        assert [one.key_id for one in clients[1].list_keys()] == [key_id]
    finally:
        for client in clients:
            client.stop()


def test_without_its_recovery_key_no_wrapping_key_is_made(escrowing: TokenSettings) -> None:
    assert escrowing.recovery_public_key_file is not None
    escrowing.recovery_public_key_file.write_text("no key\n")
    client = start_child(escrowing)
    try:
        assert client.wait_ready(_SECONDS), client.problem
        with pytest.raises(CertdError, match="No wrapping key is made without its escrow") as caught:
            _made(client, secrets.token_bytes(16))
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
        assert client.list_keys() == []
    finally:
        client.stop()
