"""Subscriber keys: generated, sealed, exported, and not opened anywhere but where they belong."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec, key_spec_of
from certd.pki.sealing import Purpose, SealContext, export_info, hpke_decrypt
from certd.token.client import GeneratedKey, TokenClient, start_child
from tests.softhsm import make_token
from tests.token.journal_files import uses
from tests.token.material import make_context, openssl

PASSPHRASE = b"correct horse"


class Custody:
    """A key in custody, and ways to ask for it."""

    def __init__(self, client: TokenClient, wrapping_key_id: bytes, spec: KeySpec, context: SealContext) -> None:
        self.client = client
        self.wrapping_key_id = wrapping_key_id
        self.key: GeneratedKey = client.generate_subscriber_key(
            wrapping_key_id=wrapping_key_id, key_spec=spec, context=context
        )
        self.context = replace(context, public_key_sha256=hashlib.sha256(self.key.public_key).digest())

    def export(self, passphrase: bytes = PASSPHRASE, **changes: object) -> bytes:
        values: dict[str, object] = {
            "wrapping_key_id": self.wrapping_key_id,
            "sealed_key": self.key.sealed_key,
            "context": self.context,
        }
        return self.client.export_under_passphrase(**{**values, **changes}, passphrase=passphrase)  # type: ignore[arg-type]

    def export_to(self, recipient: bytes, **changes: object) -> bytes:
        return self.client.export_to_recipient(
            wrapping_key_id=self.wrapping_key_id,
            sealed_key=self.key.sealed_key,
            context=replace(self.context, **changes),  # type: ignore[arg-type]
            recipient_public_key=recipient,
        )


@pytest.fixture(scope="module")
def wrapping_key_id(shared: TokenClient) -> bytes:
    key_id = secrets.token_bytes(16)
    assert shared.ensure_wrapping_key(key_id=key_id)
    return key_id


@pytest.fixture(scope="module")
def custody(shared: TokenClient, wrapping_key_id: bytes) -> Custody:
    return Custody(shared, wrapping_key_id, KeySpec.EC_P256, make_context())


def test_a_wrapping_key_is_made_once(shared: TokenClient) -> None:
    key_id = secrets.token_bytes(16)
    assert [shared.ensure_wrapping_key(key_id=key_id) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("spec", KeySpec)
def test_openssl_reads_an_export_under_a_passphrase(
    shared: TokenClient, wrapping_key_id: bytes, tmp_path: Path, spec: KeySpec
) -> None:
    custody = Custody(shared, wrapping_key_id, spec, make_context())
    file = tmp_path / "key.der"
    file.write_bytes(custody.export())
    plain = openssl("pkcs8", "-inform", "DER", "-in", str(file), "-passin", f"pass:{PASSPHRASE.decode()}")
    public_key = openssl("pkey", "-pubout", "-outform", "DER", data=plain)
    assert public_key == custody.key.public_key
    assert key_spec_of(load_der_public_key(public_key)) is spec


def test_a_recipient_opens_an_export_to_its_key(custody: Custody) -> None:
    recipient = X25519PrivateKey.generate()
    message = custody.export_to(recipient.public_key().public_bytes_raw())
    private_key = load_der_private_key(
        hpke_decrypt(message, private_key=recipient, info=export_info(custody.context)), password=None
    )
    public_key = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public_key == custody.key.public_key
    with pytest.raises(CertdError):
        hpke_decrypt(message, private_key=recipient, info=export_info(replace(custody.context, version=2)))


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "tenant-2"},
        {"certificate": "certificate-2"},
        {"version": 2},
        {"consumer": "somebody"},
        {"public_key_sha256": bytes(32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_blob_that_was_moved_does_not_open(custody: Custody, changes: dict[str, object]) -> None:
    recipient = X25519PrivateKey.generate().public_key().public_bytes_raw()
    attempts: list[Callable[[], bytes]] = [
        lambda: custody.export(context=replace(custody.context, **changes)),  # type: ignore[arg-type]
        lambda: custody.export_to(recipient, **changes),
    ]
    for attempt in attempts:
        with pytest.raises(CertdError, match="does not open") as caught:
            attempt()
        assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    # An authentication failure is not a dead token.
    assert custody.client.ready
    assert custody.export_to(recipient)


def test_a_key_that_is_not_exportable_stays_so(shared: TokenClient, wrapping_key_id: bytes) -> None:
    custody = Custody(shared, wrapping_key_id, KeySpec.ED25519, make_context(exportable=False))
    with pytest.raises(CertdError) as caught:
        custody.export()
    assert caught.value.reason is Reason.NOT_EXPORTABLE
    # A daemon that lies about it does not get it either.
    with pytest.raises(CertdError, match="does not open") as caught:
        custody.export(context=replace(custody.context, exportable=True))
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


def test_a_copy_for_a_consumer_is_not_exported(shared: TokenClient, wrapping_key_id: bytes) -> None:
    context = make_context(purpose=Purpose.ASSOCIATION, consumer="machine-1")
    custody = Custody(shared, wrapping_key_id, KeySpec.EC_P256, context)
    with pytest.raises(CertdError, match="leased") as caught:
        custody.export()
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.mark.parametrize("position", [0, 5, 21, 40, -1])
def test_an_altered_blob_does_not_open(custody: Custody, position: int) -> None:
    altered = bytearray(custody.key.sealed_key)
    altered[position] ^= 1
    with pytest.raises(CertdError) as caught:
        custody.export(sealed_key=bytes(altered))
    assert caught.value.reason in {Reason.TOKEN_POLICY_FORBIDS, Reason.FIELD_INVALID}
    assert custody.client.ready


def test_a_blob_of_another_wrapping_key_does_not_open(custody: Custody) -> None:
    other = secrets.token_bytes(16)
    custody.client.ensure_wrapping_key(key_id=other)
    with pytest.raises(CertdError, match="another wrapping key"):
        custody.export(wrapping_key_id=other)
    forged = custody.key.sealed_key.replace(custody.wrapping_key_id, other)
    with pytest.raises(CertdError, match="does not open"):
        custody.export(wrapping_key_id=other, sealed_key=forged)


def test_a_wrapping_key_that_is_not_there_is_named(custody: Custody) -> None:
    missing = secrets.token_bytes(16)
    forged = custody.key.sealed_key.replace(custody.wrapping_key_id, missing)
    with pytest.raises(CertdError, match=missing.hex()) as caught:
        custody.export(wrapping_key_id=missing, sealed_key=forged)
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE


@pytest.mark.parametrize(("length", "allowed"), [(0, False), (7, False), (8, True), (1024, True), (1025, False)])
def test_a_passphrase_has_bounds(custody: Custody, length: int, *, allowed: bool) -> None:
    passphrase = b"\x01" * length
    if allowed:
        exported = custody.export(passphrase)
        assert load_der_private_key(exported, password=passphrase) is not None
        return
    with pytest.raises(CertdError) as caught:
        custody.export(passphrase)
    assert [violation.field for violation in caught.value.violations] == ["passphrase"]
    assert "\x01" not in caught.value.message


def test_the_journal_tells_how_a_key_left(tmp_path: Path) -> None:
    client = start_child(make_token(tmp_path))
    try:
        assert client.wait_ready(20), client.problem
        key_id = secrets.token_bytes(16)
        client.ensure_wrapping_key(key_id=key_id)
        own = Custody(client, key_id, KeySpec.EC_P256, make_context())
        own.export()
        recipient = X25519PrivateKey.generate().public_key().public_bytes_raw()
        own.export_to(recipient)
    finally:
        client.stop()
    first, second = uses(tmp_path, "export")
    assert all(one.text("key") == key_id.hex() and one.count("version") == 1 for one in (first, second))
    assert first.text("form") == "PKCS8"
    assert second.text("recipient_sha256") == hashlib.sha256(recipient).hexdigest()


@pytest.mark.parametrize("recipient", [b"", bytes(31), bytes(32), bytes(33)], ids=["0", "31", "low order", "33"])
def test_a_recipient_that_cannot_receive_is_refused(custody: Custody, recipient: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        custody.export_to(recipient)
    assert [violation.field for violation in caught.value.violations] == ["recipient_public_key"]


@pytest.mark.parametrize(
    "changes",
    [{"tenant": ""}, {"certificate": ""}, {"version": 0}, {"public_key_sha256": bytes(32)}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_key_is_not_generated_for_nobody(
    shared: TokenClient, wrapping_key_id: bytes, changes: dict[str, object]
) -> None:
    with pytest.raises(CertdError) as caught:
        Custody(shared, wrapping_key_id, KeySpec.EC_P256, make_context(**changes))
    assert caught.value.violations[0].field.startswith("context")


@pytest.fixture
def slow_exporter(tmp_path: Path) -> Iterator[TokenClient]:
    client = start_child(make_token(tmp_path, exports_per_minute=3))
    try:
        assert client.wait_ready(20), client.problem
        yield client
    finally:
        client.stop()


def test_exports_have_a_rate(slow_exporter: TokenClient) -> None:
    key_id = secrets.token_bytes(16)
    slow_exporter.ensure_wrapping_key(key_id=key_id)
    custody = Custody(slow_exporter, key_id, KeySpec.EC_P256, make_context())
    recipient = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for _ in range(3):
        custody.export_to(recipient)
    attempts: list[Callable[[], bytes]] = [custody.export, lambda: custody.export_to(recipient)]
    for attempt in attempts:
        with pytest.raises(CertdError) as caught:
            attempt()
        assert caught.value.reason is Reason.RATE_LIMITED
        assert caught.value.retry_after
        # Three a minute are one in twenty seconds.
        assert 0 < caught.value.retry_after <= 20
    # What is not an export is not limited.
    Custody(slow_exporter, key_id, KeySpec.EC_P256, make_context())
