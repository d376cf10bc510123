"""Keys that were made elsewhere: taken in plain or sealed, held against their certificates, opened for nobody else."""

import base64
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.pki.key_spec import (
    KeySpec,
    generate_private_key,
    public_key_der,
)
from certd.pki.sealing import Purpose, hpke_encrypt
from certd.token.client import TokenClient, start_child
from tests.softhsm import make_token
from tests.token.clocked_token import set_clock, start_clocked
from tests.token.importing import EC, END, OTHER, SEALED_FOR_ANOTHER, Importer, make_importer, pkcs8, refused
from tests.token.journal_files import uses
from tests.token.material import make_authority, make_certificate, make_context


@pytest.fixture(scope="module")
def importer(shared: TokenClient) -> Importer:
    return make_importer(shared)


@pytest.mark.parametrize("spec", KeySpec)
def test_a_key_of_every_kind_is_imported(importer: Importer, spec: KeySpec) -> None:
    mine = replace(importer, key=generate_private_key(spec))
    imported = mine.import_()
    assert imported.key_spec is spec
    assert mine.same(imported)
    sealed = mine.import_(mine.sealed(mine.generate()))
    assert sealed.key_spec is spec
    assert mine.same(sealed)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH])
def test_every_encoding_becomes_the_one_in_custody(importer: Importer, form: PrivateFormat) -> None:
    data = EC.private_bytes(Encoding.PEM, form, NoEncryption())
    made = importer.generate()
    for private_key in (data, importer.sealed(made, data)):
        assert importer.same(importer.import_(private_key))


def test_a_key_is_held_against_its_certificate(importer: Importer) -> None:
    made = importer.generate()
    for private_key in (pkcs8(OTHER), importer.sealed(made, pkcs8(OTHER))):
        error = refused(
            lambda k=private_key: importer.import_(k),  # type: ignore[misc]
            Reason.IMPORT_KEY_MISMATCH,
            says="private_key is not the key of the certificate; give the one that belongs to it",
        )
        assert "openssl" in error.message
    refused(
        lambda: importer.import_(public_key=b""), Reason.IMPORT_KEY_MISMATCH, says="is not the key of the certificate"
    )


def test_what_is_no_key_is_refused(importer: Importer) -> None:
    made = importer.generate()
    encrypted = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame"))
    weak = rsa.generate_private_key(65537, 1024)
    for data, reason, says in [
        (b"", Reason.FIELD_INVALID, "private_key is empty"),
        (b"no key", Reason.FIELD_INVALID, "private_key is neither PEM nor DER"),
        (encrypted, Reason.FIELD_INVALID, "private_key is encrypted; decrypt it first"),
        (pkcs8(EC) + b"\x00", Reason.FIELD_INVALID, "private_key has something after the end of its key"),
        (pkcs8(weak), Reason.KEY_TOO_WEAK, "private_key is an RSA key of 1024 bits"),
        (b"\x30" * (20 << 10), Reason.FIELD_INVALID, "private_key is longer than 16384 bytes"),
    ]:
        refused(lambda d=data: importer.import_(d), reason, says=says)  # type: ignore[misc]
        refused(lambda d=data: importer.import_(importer.sealed(made, d)), reason, says=says)  # type: ignore[misc]
    assert importer.same(importer.import_())


def test_a_request_has_a_private_key(importer: Importer) -> None:
    context = messages.SealContext(tenant="t", certificate="c", version=1, purpose="custody")
    request = messages.ImportKeyRequest(
        wrapping_key_id=importer.wrapping_key_id, context=context, public_key=importer.public_key
    )
    refused(
        lambda: importer.client._call(messages.TokenRequest(import_key=request), 20),
        Reason.FIELD_INVALID,
        says="private_key: must be there",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": Purpose.ASSOCIATION, "consumer": "machine-1"},
        {"purpose": Purpose.IMPORT},
        {"consumer": "machine-1"},
        {"public_key_sha256": bytes(32)},
        {"tenant": ""},
        {"version": 0},
    ],
    ids=str,
)
def test_a_key_is_imported_into_custody_alone(importer: Importer, changes: dict[str, object]) -> None:
    error = refused(lambda: importer.import_(context=make_context(**changes)), Reason.FIELD_INVALID, says="context")
    assert error.violations[0].field.startswith("context")


def test_what_was_imported_as_not_exportable_stays_so(importer: Importer) -> None:
    closed = replace(importer, context=make_context(exportable=False))
    imported = closed.import_()
    refused(lambda: closed.exported(imported), Reason.NOT_EXPORTABLE, says="not exportable")
    refused(lambda: importer.exported(imported), Reason.TOKEN_POLICY_FORBIDS, says="does not open")


# A daemon that was taken over says what it likes; what it hands on says what the client meant.


def test_what_was_sealed_as_not_exportable_is_not_imported_as_exportable(importer: Importer) -> None:
    made = importer.generate()
    closed = replace(importer, context=make_context(exportable=False))
    sealed = closed.sealed(made)
    error = refused(lambda: importer.import_(sealed), Reason.FIELD_INVALID, says=SEALED_FOR_ANOTHER)
    assert [violation.field for violation in error.violations] == ["sealed_private_key.ciphertext"]
    imported = closed.import_(sealed)
    refused(lambda: closed.exported(imported), Reason.NOT_EXPORTABLE, says="not exportable")
    refused(lambda: importer.exported(imported), Reason.TOKEN_POLICY_FORBIDS, says="does not open")
    # Nor the other way round, which would hold back what somebody counts on.
    refused(lambda: closed.import_(importer.sealed(made)), Reason.FIELD_INVALID, says=SEALED_FOR_ANOTHER)
    assert importer.same(importer.import_(importer.sealed(made)))


def test_what_was_sealed_for_a_certificate_is_not_imported_with_that_of_another_key(importer: Importer) -> None:
    sealed = importer.sealed(importer.generate())
    for public_key in (public_key_der(OTHER.public_key()), importer.public_key + b"\0", b""):
        refused(
            lambda p=public_key: importer.import_(sealed, public_key=p),  # type: ignore[misc]
            Reason.FIELD_INVALID,
            says=SEALED_FOR_ANOTHER,
        )
    # Nor does its own certificate get it when it was sealed for that one.
    other = replace(importer, key=OTHER).sealed(importer.generate(), pkcs8(importer.key))
    refused(lambda: importer.import_(other), Reason.FIELD_INVALID, says=SEALED_FOR_ANOTHER)
    assert importer.same(importer.import_(sealed))


def test_what_is_sealed_with_the_statement_alone_is_not_imported(importer: Importer) -> None:
    """That says nothing of export nor of a certificate, so anybody could say what they like."""
    made = importer.generate()
    loose = hpke_encrypt(pkcs8(importer.key), recipient_public_key=made.public_key, info=made.statement)
    for exportable in (False, True):
        context = make_context(exportable=exportable)
        refused(
            lambda c=context: importer.import_(importer.sealed(made, ciphertext=loose), context=c),  # type: ignore[misc]
            Reason.FIELD_INVALID,
            says=SEALED_FOR_ANOTHER,
        )


def test_a_wrapping_key_that_is_not_there_is_named(importer: Importer) -> None:
    missing = secrets.token_bytes(16)
    refused(lambda: importer.import_(wrapping_key_id=missing), Reason.TOKEN_UNAVAILABLE, says=missing.hex())
    refused(lambda: importer.generate(wrapping_key_id=missing), Reason.TOKEN_UNAVAILABLE, says=missing.hex())
    for call in (lambda: importer.import_(wrapping_key_id=b""), lambda: importer.generate(wrapping_key_id=b"")):
        refused(call, Reason.FIELD_INVALID, says="wrapping_key_id: must be 16 bytes")


# Times and rates.


def test_an_import_key_that_has_ended_opens_nothing(tmp_path: Path) -> None:
    clock_file = tmp_path / "clock"
    set_clock(clock_file, END - timedelta(seconds=1))
    client = start_clocked(make_token(tmp_path), clock_file)
    try:
        assert client.wait_ready(20), client.problem
        importer = make_importer(client)
        sealed = importer.sealed(importer.generate())
        assert importer.same(importer.import_(sealed))
        set_clock(clock_file, END)
        refused(
            lambda: importer.import_(sealed), Reason.TOKEN_POLICY_FORBIDS, says="ended at 2030-01-31T00:00:00Z; seal to"
        )
        # What is plain has no end.
        assert importer.same(importer.import_())
    finally:
        client.stop()


@pytest.fixture
def slow_importer(tmp_path: Path) -> Iterator[Importer]:
    client = start_child(replace(make_token(tmp_path), imports_per_minute=3))
    try:
        assert client.wait_ready(20), client.problem
        yield make_importer(client)
    finally:
        client.stop()


def test_imports_have_a_rate(slow_importer: Importer) -> None:
    made = slow_importer.generate()
    slow_importer.import_()
    slow_importer.import_(slow_importer.sealed(made))
    refused(lambda: slow_importer.import_(pkcs8(OTHER)), Reason.IMPORT_KEY_MISMATCH, says="is not the key")
    for private_key in (None, slow_importer.sealed(made)):
        error = refused(
            lambda k=private_key: slow_importer.import_(k),  # type: ignore[misc]
            Reason.RATE_LIMITED,
            says="has imported as many keys as it may",
        )
        assert error.retry_after is not None
        # Three a minute are one in twenty seconds.
        assert 0 < error.retry_after <= 20
    # What is no import is not limited.
    slow_importer.generate()


def test_who_imports_rsa_keys_keeps_nobody_from_signing(shared: TokenClient, importer: Importer) -> None:
    """The library's own check of such a key would hold the interpreter for a quarter of a second."""
    mine = replace(importer, key=generate_private_key(KeySpec.RSA_4096))
    authority = make_authority(shared)
    item = authority.item(make_certificate())
    done = threading.Event()

    def sign() -> list[float]:
        waits = []
        while not done.is_set():
            started = time.perf_counter()
            shared.sign([item], timeout=20)
            waits.append(time.perf_counter() - started)
        return waits

    with ThreadPoolExecutor() as pool:
        signing = pool.submit(sign)
        for _ in range(50):
            mine.import_()
        done.set()
        waits = signing.result()
    # It would hold up one signature of every import; what else is busy on this machine holds up a few.
    assert len(waits) > 50
    assert sum(wait > 0.1 for wait in waits) < 25


# The journal.


def test_the_journal_tells_what_came_in_and_nothing_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = replace(make_token(tmp_path), log_level="debug")
    client = start_child(settings)
    rsa_key = generate_private_key(KeySpec.RSA_2048)
    damaged = bytearray(pkcs8(rsa_key))
    damaged[200] ^= 1
    try:
        assert client.wait_ready(20), client.problem
        importer = replace(make_importer(client), key=rsa_key)
        made = importer.generate()
        importer.import_()
        importer.import_(importer.sealed(made))
        for data in (bytes(damaged), pkcs8(EC), _sec1(EC), b"-----BEGIN X-----\n" + base64.b64encode(pkcs8(EC))):
            for private_key in (data, importer.sealed(made, data)):
                with pytest.raises(CertdError):
                    importer.import_(private_key)
    finally:
        client.stop()
    logged = capfd.readouterr().err
    lines = [line for line in logged.splitlines() if "[certd.token.imports]" in line]
    whose = "tenant tenant-1 certificate certificate-1 version 1"
    assert sum(f"not imported the key of {whose}" in line for line in lines) == 8
    imported = uses(tmp_path, "import")
    assert [(one.text("form"), one.text("key_spec")) for one in imported] == [
        ("plain", "RSA_2048"),
        ("sealed", "RSA_2048"),
    ]
    (made_record,) = uses(tmp_path, "generate-import-key")
    assert (made_record.text("tenant"), made_record.text("certificate")) == ("tenant-1", "k1")
    told = logged.encode() + b"".join(one.line for one in uses(tmp_path))
    assert not [
        piece
        for key in (pkcs8(rsa_key), bytes(damaged), pkcs8(EC), _sec1(EC))
        for piece in _pieces(key)
        if piece in told
    ]


def _sec1(key: object) -> bytes:
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yields a key's stretches in the forms in which a log might have them."""
    for at in range(len(data) - 8):
        piece = data[at : at + 8]
        yield from (piece.hex().encode(), repr(piece)[2:-1].encode(), str(int.from_bytes(piece)).encode())
        yield base64.b64encode(data[at : at + 9])
