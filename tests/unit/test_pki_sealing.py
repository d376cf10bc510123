from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError, Reason
from certd.pki.sealing import (
    Purpose,
    SealContext,
    SecretContext,
    associated_data,
    decode_blob,
    encode_blob,
    export_info,
    hpke_decrypt,
    hpke_encrypt,
    secret_associated_data,
)

_CONTEXT = SealContext(
    tenant="t1", certificate="c1", version=1, purpose=Purpose.CUSTODY, exportable=True, public_key_sha256=b"h" * 32
)
_KEY_ID = b"k" * 16
_OTHERS = [
    replace(_CONTEXT, tenant="t2"),
    replace(_CONTEXT, tenant="t1c", certificate="1"),
    replace(_CONTEXT, certificate="c2"),
    replace(_CONTEXT, version=2),
    replace(_CONTEXT, purpose=Purpose.ASSOCIATION),
    replace(_CONTEXT, consumer="spiffe://td/a"),
    replace(_CONTEXT, exportable=False),
    replace(_CONTEXT, public_key_sha256=b"i" * 32),
]


@pytest.mark.parametrize("other", _OTHERS)
def test_every_field_is_bound(other: SealContext) -> None:
    assert associated_data(other, _KEY_ID) != associated_data(_CONTEXT, _KEY_ID)


def test_wrapping_key_is_bound() -> None:
    assert associated_data(_CONTEXT, b"l" * 16) != associated_data(_CONTEXT, _KEY_ID)


def test_associated_data_is_what_it_always_was() -> None:
    """A change of these bytes orphans every sealed key; it needs a new domain and a migration."""
    assert associated_data(_CONTEXT, _KEY_ID) == (
        b"\x00\x00\x00\x13certd.sealed-key.v1"
        b"\x00\x00\x00\x02t1\x00\x00\x00\x02c1\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01"
        b"\x00\x00\x00\x07custody\x00\x00\x00\x00\x00\x00\x00\x01\x01"
        b"\x00\x00\x00\x20" + b"h" * 32 + b"\x00\x00\x00\x10" + b"k" * 16
    )
    assert export_info(_CONTEXT) == (
        b"\x00\x00\x00\x0fcertd.export.v1\x00\x00\x00\x02t1\x00\x00\x00\x02c1"
        b"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x20" + b"h" * 32
    )


@pytest.mark.parametrize(
    ("context", "field"),
    [
        (replace(_CONTEXT, public_key_sha256=b""), "context.public_key_sha256"),
        (replace(_CONTEXT, version=0), "context.version"),
        (replace(_CONTEXT, version=1 << 64), "context.version"),
    ],
)
def test_context_out_of_bounds(context: SealContext, field: str) -> None:
    for encode in (export_info, lambda bad: associated_data(bad, _KEY_ID)):
        with pytest.raises(CertdError) as caught:
            encode(context)
        assert caught.value.violations[0].field == field


def test_wrapping_key_id_out_of_bounds() -> None:
    with pytest.raises(CertdError, match="16 bytes"):
        associated_data(_CONTEXT, b"k")


def test_blob_round_trips() -> None:
    blob = encode_blob(wrapping_key_id=_KEY_ID, nonce=b"n" * 12, ciphertext_and_tag=b"c" * 17)
    assert blob.startswith(b"CDK1")
    decoded = decode_blob(blob)
    assert (decoded.wrapping_key_id, decoded.nonce, decoded.ciphertext_and_tag) == (_KEY_ID, b"n" * 12, b"c" * 17)


@pytest.mark.parametrize("blob", [b"", b"CDK1", b"CDK2" + b"x" * 60, b"CDK1" + b"x" * 44])
def test_what_is_no_blob(blob: bytes) -> None:
    with pytest.raises(CertdError, match="not a sealed key") as caught:
        decode_blob(blob)
    assert caught.value.reason is Reason.FIELD_INVALID


@pytest.mark.parametrize(
    ("wrapping_key_id", "nonce", "ciphertext", "field"),
    [
        (b"k", b"n" * 12, b"c" * 17, "wrapping_key_id"),
        (_KEY_ID, b"n" * 16, b"c" * 17, "nonce"),
        (_KEY_ID, b"n" * 12, b"c" * 16, "ciphertext_and_tag"),
    ],
)
def test_blob_out_of_bounds(wrapping_key_id: bytes, nonce: bytes, ciphertext: bytes, field: str) -> None:
    with pytest.raises(CertdError) as caught:
        encode_blob(wrapping_key_id=wrapping_key_id, nonce=nonce, ciphertext_and_tag=ciphertext)
    assert caught.value.violations[0].field == field


def test_hpke_opens_for_the_recipient_in_the_context() -> None:
    recipient = X25519PrivateKey.generate()
    info = export_info(_CONTEXT)
    message = hpke_encrypt(b"secret", recipient_public_key=recipient.public_key().public_bytes_raw(), info=info)
    assert b"secret" not in message
    assert hpke_decrypt(message, private_key=recipient, info=info) == b"secret"


def test_hpke_opens_in_no_other_way() -> None:
    recipient = X25519PrivateKey.generate()
    info = export_info(_CONTEXT)
    message = hpke_encrypt(b"secret", recipient_public_key=recipient.public_key().public_bytes_raw(), info=info)
    flipped = message[:-1] + bytes([message[-1] ^ 1])
    attempts = [
        (message, X25519PrivateKey.generate(), info),
        (message, recipient, export_info(replace(_CONTEXT, version=2))),
        (flipped, recipient, info),
        (message[:31], recipient, info),
        (b"", recipient, info),
    ]
    for attempt, private_key, other_info in attempts:
        with pytest.raises(CertdError, match="does not open") as caught:
            hpke_decrypt(attempt, private_key=private_key, info=other_info)
        assert caught.value.violations[0].field == "encrypted_key"


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33, bytes(32), b"\x01" + bytes(31)])
def test_hpke_refuses_a_key_that_cannot_receive(key: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        hpke_encrypt(b"secret", recipient_public_key=key, info=b"")
    assert caught.value.violations[0].field == "recipient_public_key"


_SECRET = SecretContext(tenant="t1", subscription="s1", number=1)


@pytest.mark.parametrize(
    "other",
    [
        replace(_SECRET, tenant="t2"),
        replace(_SECRET, tenant="t1s", subscription="1"),
        replace(_SECRET, subscription="s2"),
        replace(_SECRET, number=2),
    ],
)
def test_every_field_of_a_secret_is_bound(other: SecretContext) -> None:
    assert secret_associated_data(other, _KEY_ID) != secret_associated_data(_SECRET, _KEY_ID)


def test_the_associated_data_of_a_secret_is_what_it_always_was() -> None:
    """As that of keys; and the domain comes first, so that none of it is ever that of a key."""
    assert secret_associated_data(_SECRET, _KEY_ID) == (
        b"\x00\x00\x00\x0fcertd.secret.v1\x00\x00\x00\x02t1\x00\x00\x00\x02s1"
        b"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x10" + b"k" * 16
    )


@pytest.mark.parametrize("number", [0, -1, 1 << 64])
def test_a_secret_has_a_number(number: int) -> None:
    with pytest.raises(CertdError) as caught:
        secret_associated_data(replace(_SECRET, number=number), _KEY_ID)
    assert [violation.field for violation in caught.value.violations] == ["context.number"]
