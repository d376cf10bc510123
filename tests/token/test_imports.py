"""Keys that were made elsewhere: taken in plain or sealed, held against their certificates, opened for nobody else."""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.pki import der
from certd.pki.import_key import import_key_statement, parse_import_key_statement, verify_import_key
from certd.pki.key_spec import (
    KeySpec,
    SignatureAlgorithm,
    algorithm_identifier,
    default_signature_algorithm,
    generate_private_key,
    verify_signature,
)
from certd.pki.sealing import Purpose
from certd.token.client import ResealItem, SealedImport, TokenClient, start_child
from tests.softhsm import make_token
from tests.token.clocked_token import set_clock, start_clocked
from tests.token.importing import EC, END, Importer, import_context, make_importer, pkcs8
from tests.token.material import AUTHORITY, NOW, make_authority, make_certificate, make_context, make_policy

OTHER = generate_private_key(KeySpec.EC_P256)


@pytest.fixture(scope="module")
def importer(shared: TokenClient) -> Importer:
    return make_importer(shared)


def refused(call: Callable[[], object], reason: Reason, *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message
    return caught.value


# Plain keys.


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


def test_a_wrapping_key_that_is_not_there_is_named(importer: Importer) -> None:
    missing = secrets.token_bytes(16)
    refused(lambda: importer.import_(wrapping_key_id=missing), Reason.TOKEN_UNAVAILABLE, says=missing.hex())
    refused(lambda: importer.generate(wrapping_key_id=missing), Reason.TOKEN_UNAVAILABLE, says=missing.hex())
    for call in (lambda: importer.import_(wrapping_key_id=b""), lambda: importer.generate(wrapping_key_id=b"")):
        refused(call, Reason.FIELD_INVALID, says="wrapping_key_id: must be 16 bytes")


# Import keys.


def test_an_import_key_is_stated_and_signed(importer: Importer) -> None:
    made, again = importer.generate(), importer.generate()
    stated = parse_import_key_statement(made.statement)
    assert (stated.tenant, stated.import_key_id, stated.expire_time) == ("tenant-1", "k1", END)
    assert stated.public_key == made.public_key
    assert made.public_key != again.public_key
    algorithm = default_signature_algorithm(importer.authority.spec)
    assert verify_signature(importer.authority.public_key, algorithm, signature=made.signature, data=made.statement)


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P384, KeySpec.ED25519])
def test_a_client_believes_it_by_its_root(shared: TokenClient, importer: Importer, spec: KeySpec) -> None:
    algorithm = default_signature_algorithm(spec)
    authority = make_authority(shared, spec, make_policy(path_length=0, self_signed=True))
    tbs = make_certificate(
        algorithm=algorithm, subject=AUTHORITY, public_key=authority.public_key, authority=True, path_length=0
    )
    (signature,) = shared.sign([authority.item(tbs)], timeout=20)
    assert isinstance(signature, bytes), signature
    root = der.sequence(tbs, algorithm_identifier(algorithm), der.bit_string(signature))
    mine = replace(importer, authority=authority)
    made = mine.generate()
    stated = verify_import_key(
        statement=made.statement,
        signature=made.signature,
        signature_algorithm=algorithm,
        authority_certificate=root,
        trusted=[root],
        now=NOW + timedelta(days=1),
        tenant="tenant-1",
    )
    assert stated.public_key == made.public_key
    assert mine.same(mine.import_(mine.sealed(made)))


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": Purpose.CUSTODY},
        {"purpose": Purpose.ASSOCIATION},
        {"version": 2},
        {"consumer": "machine-1"},
        {"exportable": True},
        {"public_key_sha256": bytes(32)},
        {"tenant": ""},
    ],
    ids=str,
)
def test_an_import_key_is_bound_to_nothing_else(importer: Importer, changes: dict[str, object]) -> None:
    error = refused(lambda: importer.generate(context=import_context(**changes)), Reason.FIELD_INVALID, says="context")
    assert error.violations[0].field.startswith("context")


def test_the_signing_key_has_its_own_policy_and_algorithm(shared: TokenClient, importer: Importer) -> None:
    refused(
        lambda: importer.generate(authority_policy=make_policy(self_signed=True)),
        Reason.TOKEN_POLICY_FORBIDS,
        says="this is not the policy that was sealed with the key",
    )
    refused(lambda: importer.generate(authority_policy=b"\xff"), Reason.FIELD_INVALID, says="policy")
    refused(
        lambda: importer.generate(signature_algorithm=SignatureAlgorithm.SHA256_WITH_RSA),
        Reason.TOKEN_POLICY_FORBIDS,
        says="SHA256_WITH_RSA does not fit a key of kind EC_P256",
    )
    missing = secrets.token_bytes(16)
    refused(lambda: importer.generate(authority_key_id=missing), Reason.TOKEN_UNAVAILABLE, says=missing.hex())
    refused(lambda: importer.generate(authority_key_id=b""), Reason.FIELD_INVALID, says="authority_key_id")
    # No wrapping key signs, and no authority's key wraps.
    refused(
        lambda: importer.generate(authority_key_id=importer.wrapping_key_id),
        Reason.TOKEN_UNAVAILABLE,
        says=importer.wrapping_key_id.hex(),
    )
    refused(
        lambda: importer.generate(wrapping_key_id=importer.authority.key_id),
        Reason.TOKEN_UNAVAILABLE,
        says=importer.authority.key_id.hex(),
    )
    assert shared.ready


def test_the_end_of_an_import_key_is_a_time(importer: Importer) -> None:
    context = messages.SealContext(tenant="t", certificate="k", version=1, purpose="import")
    for expire_time, field in ((1 << 62, "expire_time"), (-1, "expire_time")):
        request = messages.GenerateImportKeyRequest(
            wrapping_key_id=importer.wrapping_key_id,
            context=context,
            expire_time=expire_time,
            authority_key_id=importer.authority.key_id,
            authority_policy=importer.authority.policy,
            signature_algorithm="ECDSA_WITH_SHA256",
        )
        error = refused(
            lambda r=request: importer.client._call(messages.TokenRequest(generate_import_key=r), 20),  # type: ignore[misc]
            Reason.FIELD_INVALID,
            says=field,
        )
        assert [violation.field for violation in error.violations] == [field]


def test_no_statement_is_signed_as_something_else(importer: Importer) -> None:
    """What `sign` takes is a certificate or a request, so that nobody but this process states anything."""
    statement = import_key_statement(
        tenant="tenant-1",
        import_key_id="k1",
        public_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        expire_time=END,
    )
    for kind in messages.SignatureKind.values():
        item = messages.SignItem(
            key_id=importer.authority.key_id,
            policy=importer.authority.policy,
            kind=kind,
            signature_algorithm="ECDSA_WITH_SHA256",
            to_be_signed=statement,
        )
        request = messages.TokenRequest(sign=messages.SignRequest(items=[item]))
        (result,) = importer.client._call(request, 20).sign.results
        assert result.HasField("failure")


# An import key opens nothing but what was sealed to it, for its tenant, and leaves this process in no way.


def test_an_import_key_is_of_one_tenant(importer: Importer) -> None:
    made = importer.generate()
    sealed = importer.sealed(made)
    refused(
        lambda: importer.import_(sealed, context=make_context(tenant="tenant-2")),
        Reason.TOKEN_POLICY_FORBIDS,
        says="the import key is another tenant's",
    )
    lying = replace(sealed, context=import_context(tenant="tenant-2"))
    for context in (make_context(), make_context(tenant="tenant-2")):
        refused(
            lambda c=context: importer.import_(lying, context=c),  # type: ignore[misc]
            Reason.TOKEN_POLICY_FORBIDS,
            says="the statement is about another import key",
        )
    statement = _stated(made.public_key, tenant="tenant-2")
    refused(
        lambda: importer.import_(
            importer.sealed(replace(made, statement=statement), context=import_context(tenant="tenant-2")),
            context=make_context(tenant="tenant-2"),
        ),
        Reason.TOKEN_POLICY_FORBIDS,
        says="does not open",
    )


def _stated(public_key: bytes, *, tenant: str = "tenant-1", key: str = "k1", end: datetime = END) -> bytes:
    return import_key_statement(tenant=tenant, import_key_id=key, public_key=public_key, expire_time=end)


def test_parts_of_two_import_keys_do_not_go_together(importer: Importer) -> None:
    one, other = importer.generate(), importer.generate(context=import_context(certificate="k2"))
    good = importer.sealed(one)
    assert importer.same(importer.import_(good))
    hashed = import_context(public_key_sha256=bytes(32))
    cases: list[tuple[SealedImport, str]] = [
        (replace(good, statement=other.statement), "the statement is about another import key"),
        (replace(good, context=import_context(certificate="k2")), "the statement is about another import key"),
        (replace(good, context=hashed), "the statement is about another import key"),
        (replace(good, sealed_import_key=other.sealed_key), "does not open"),
        (replace(good, statement=_stated(other.public_key)), "does not open"),
        (replace(good, statement=_stated(bytes(32))), "does not open"),
    ]
    for case, says in cases:
        refused(lambda c=case: importer.import_(c), Reason.TOKEN_POLICY_FORBIDS, says=says)  # type: ignore[misc]
    # What is stated of the end is held by HPKE, for the blob does not know of it.
    longer = replace(good, statement=_stated(one.public_key, end=END + timedelta(days=1)))
    refused(lambda: importer.import_(longer), Reason.FIELD_INVALID, says="does not open with the import key")
    ciphertext = importer.sealed(other).ciphertext
    refused(
        lambda: importer.import_(replace(good, ciphertext=ciphertext)),
        Reason.FIELD_INVALID,
        says="does not open with the import key",
    )
    for field, context in [
        ("purpose", import_context(purpose=Purpose.CUSTODY)),
        ("context", import_context(version=2)),
        ("context", import_context(exportable=True)),
        ("context", import_context(consumer="machine-1")),
    ]:
        changed = replace(good, context=context)
        refused(lambda c=changed: importer.import_(c), Reason.FIELD_INVALID, says=field)  # type: ignore[misc]


def test_no_flipped_bit_opens(importer: Importer) -> None:
    good = importer.sealed(importer.generate())
    for field in ("sealed_import_key", "statement", "ciphertext"):
        data: bytes = getattr(good, field)
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            with pytest.raises(CertdError) as caught:
                importer.import_(replace(good, **{field: bytes(changed)}))  # type: ignore[arg-type]
            assert caught.value.reason in {Reason.TOKEN_POLICY_FORBIDS, Reason.FIELD_INVALID}, (field, at)
    assert importer.client.ready
    assert importer.same(importer.import_(good))


def test_a_blob_of_custody_is_no_import_key(importer: Importer) -> None:
    made = importer.generate()
    custody = importer.import_()
    refused(
        lambda: importer.import_(importer.sealed(made, sealed_import_key=custody.sealed_key)),
        Reason.TOKEN_POLICY_FORBIDS,
        says="does not open",
    )
    error = refused(
        lambda: importer.client.generate_subscriber_key(
            wrapping_key_id=importer.wrapping_key_id, key_spec=KeySpec.EC_P256, context=import_context()
        ),
        Reason.FIELD_INVALID,
        says="generate_import_key",
    )
    assert [violation.field for violation in error.violations] == ["context.purpose"]


def test_an_import_key_leaves_in_no_way(importer: Importer) -> None:
    made = importer.generate()
    raw = X25519PrivateKey.generate().public_key()
    info = made.public_key
    spki = der.sequence(der.sequence(der.object_identifier("1.3.101.110")), der.bit_string(info))
    context = import_context(public_key_sha256=hashlib.sha256(spki).digest())
    blob = {"wrapping_key_id": importer.wrapping_key_id, "sealed_key": made.sealed_key}
    for exportable in (False, True):
        with pytest.raises(CertdError) as caught:
            importer.client.export_to_recipient(
                **blob, context=replace(context, exportable=exportable), recipient_public_key=raw.public_bytes_raw()
            )
        assert caught.value.reason in {Reason.NOT_EXPORTABLE, Reason.TOKEN_POLICY_FORBIDS}
    widened = [replace(context, purpose=Purpose.CUSTODY), replace(context, purpose=Purpose.ASSOCIATION, consumer="m")]
    for new_context in (*widened, replace(context, exportable=True)):
        item = ResealItem(
            **blob, context=context, new_wrapping_key_id=importer.wrapping_key_id, new_context=new_context
        )
        (result,) = importer.client.reseal([item])
        assert isinstance(result, CertdError)
        assert result.reason is Reason.TOKEN_POLICY_FORBIDS
    # The positive control: it is this context in which it opens.
    (resealed,) = importer.client.reseal(
        [ResealItem(**blob, context=context, new_wrapping_key_id=importer.wrapping_key_id, new_context=context)]
    )
    assert isinstance(resealed, bytes)
    assert importer.same(importer.import_(importer.sealed(made, sealed_import_key=resealed, context=context)))


def test_an_import_key_is_of_its_wrapping_key(importer: Importer) -> None:
    other = secrets.token_bytes(16)
    importer.client.ensure_wrapping_key(key_id=other)
    made = importer.generate()
    refused(
        lambda: importer.import_(importer.sealed(made, wrapping_key_id=other)),
        Reason.FIELD_INVALID,
        says="another wrapping key",
    )
    forged = made.sealed_key.replace(importer.wrapping_key_id, other)
    refused(
        lambda: importer.import_(importer.sealed(made, wrapping_key_id=other, sealed_import_key=forged)),
        Reason.TOKEN_POLICY_FORBIDS,
        says="does not open",
    )
    refused(
        lambda: importer.import_(importer.sealed(made, wrapping_key_id=b"")),
        Reason.FIELD_INVALID,
        says="sealed.wrapping_key_id",
    )
    # What is imported may lie under another one than the import key.
    imported = importer.import_(importer.sealed(made), wrapping_key_id=other)
    assert replace(importer, wrapping_key_id=other).same(imported)


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
    lines = [line for line in logged.splitlines() if "[certd.token.journal]" in line]
    whose = "tenant tenant-1 certificate certificate-1 version 1"
    assert sum(f"imported a key of kind RSA_2048 that was plain for {whose}" in line for line in lines) == 1
    assert (
        sum(f"imported a key of kind RSA_2048 that was sealed to an import key for {whose}" in line for line in lines)
        == 1
    )
    assert sum(f"not imported the key of {whose}" in line for line in lines) == 8
    assert sum("import key k1 of tenant tenant-1 until 2030-01-31T00:00:00+00:00" in line for line in lines) == 1
    told = logged.encode()
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
