"""The outer form of a backup: it opens whole, with the right secret, or not at all."""

import io
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, Reason
from certd.pki.encrypted_file import PART_BYTES, Decrypting, Encrypting, Passphrase, Recipient, is_for_recipient

_KEY = X25519PrivateKey.generate()
_TO = Recipient(_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
_TAG = 16


def _encrypted(content: bytes, to: Passphrase | Recipient = _TO) -> bytes:
    out = io.BytesIO()
    encrypting = Encrypting(out.write, to)
    # In pieces that fit no part.
    for start in range(0, len(content), 300_007):
        encrypting.write(content[start : start + 300_007])
    encrypting.finish()
    return out.getvalue()


def _refusal(data: bytes, secret: Passphrase | X25519PrivateKey = _KEY) -> str:
    with pytest.raises(CertdError) as caught:
        Decrypting(io.BytesIO(data), secret).read()
    assert caught.value.reason is Reason.FIELD_INVALID
    return caught.value.message


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_what_is_encrypted_comes_back(size: int) -> None:
    content = bytes(index * 7 % 251 for index in range(min(size, 1000))) * (size // 1000 + 1)
    content = content[:size]
    data = _encrypted(content)
    assert is_for_recipient(io.BytesIO(data))
    assert Decrypting(io.BytesIO(data), _KEY).read() == content
    reading = Decrypting(io.BytesIO(data), _KEY)
    pieces = list(iter(lambda: reading.read(70_000), b""))
    assert b"".join(pieces) == content
    assert content[:100] not in data or size < 100


def test_a_passphrase_opens_it_and_another_does_not() -> None:
    data = _encrypted(b"content", Passphrase(b"correct horse battery"))
    assert not is_for_recipient(io.BytesIO(data))
    assert Decrypting(io.BytesIO(data), Passphrase(b"correct horse battery")).read() == b"content"
    assert "passphrase" in _refusal(data, Passphrase(b"correct horse batterz"))
    assert "--passphrase-file" in _refusal(data, _KEY)


def test_another_recovery_key_is_told_apart() -> None:
    data = _encrypted(b"content")
    assert "the one given is" in _refusal(data, X25519PrivateKey.generate())
    assert "--recovery-key" in _refusal(data, Passphrase(b"correct horse battery"))


def test_passphrases_have_a_length() -> None:
    for text in (b"eleven chrs", b"x" * 1025):
        with pytest.raises(CertdError, match="12 to 1024"):
            Passphrase(text)


def test_a_recipient_of_low_order_is_refused() -> None:
    with pytest.raises(CertdError, match="recipient"):
        Recipient(bytes(32))


def _parts(data: bytes) -> tuple[bytes, list[bytes]]:
    """Returns what is before the parts, and the parts."""
    begin = data.index(b"\n") + 1
    start = begin + 4 + int.from_bytes(data[begin : begin + 4])
    length = PART_BYTES + _TAG
    return data[:start], [data[at : at + length] for at in range(start, len(data), length)]


def test_a_changed_bit_anywhere_is_refused() -> None:
    data = _encrypted(bytes(2 * PART_BYTES + 5))
    head, parts = _parts(data)
    assert len(parts) == 3
    starts = [len(head) + number * (PART_BYTES + _TAG) for number in range(3)]
    # All of the header, and of each part the first byte, one in the middle, and the last one.
    places = [
        *range(len(head)),
        *(at + offset for at in starts[:2] for offset in (0, PART_BYTES // 2, PART_BYTES + 15)),
    ]
    for place in [*places, starts[2], len(data) - 1]:
        changed = bytearray(data)
        changed[place] ^= 1
        _refusal(bytes(changed))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda parts: parts[:-1], id="without the last part"),
        pytest.param(lambda parts: parts[:1], id="without two parts"),
        pytest.param(lambda parts: [*parts[:-1], parts[-1][:-1]], id="without the last byte"),
        pytest.param(lambda parts: [*parts, b"x"], id="with a byte more"),
        pytest.param(lambda parts: [parts[1], parts[0], parts[2]], id="in another order"),
        pytest.param(lambda parts: [parts[0], parts[2]], id="without one in the middle"),
        pytest.param(lambda _parts: [], id="without any"),
    ],
)
def test_parts_cannot_be_left_out_moved_or_added(change: Callable[[list[bytes]], list[bytes]]) -> None:
    head, parts = _parts(_encrypted(bytes(2 * PART_BYTES + 5)))
    _refusal(head + b"".join(change(parts)))


def test_parts_of_another_file_are_refused() -> None:
    head, _ = _parts(_encrypted(b"one"))
    _, parts = _parts(_encrypted(b"two"))
    assert "damaged" in _refusal(head + b"".join(parts))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"to":"nobody"}',
        b'{"to":"passphrase","n":1073741824,"r":8,"p":1,"salt":"00","key":"00"}',
        b'{"to":"passphrase","n":"131072","r":8,"p":1,"salt":"00","key":"00"}',
        b'{"to":"passphrase","n":3,"r":8,"p":1,"salt":"00","key":"00"}',
        b'{"to":"passphrase","n":16,"r":8,"p":1,"salt":"zz","key":"00"}',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(header: bytes) -> None:
    data = b"certd encrypted file 1\n" + len(header).to_bytes(4) + header + bytes(100)
    assert "header" in _refusal(data, Passphrase(b"correct horse battery"))


@pytest.mark.parametrize("data", [b"", b"certd", b"PK\x03\x04" * 100, b"certd encrypted file 1\n\xff\xff\xff\xff"])
def test_another_file_is_refused(data: bytes) -> None:
    assert "no backup of certd" in _refusal(data)
