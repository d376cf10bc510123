"""Import keys: what is stated of one, what is sealed to it, and that nothing that was changed is believed or opens."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki.import_key import (
    ImportKeyStatement,
    generate_import_key,
    import_info,
    import_key_statement,
    open_private_key,
    parse_import_key_statement,
    seal_private_key,
    subject_public_key_info,
    verify_import_key,
)
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.sealing import canonical
from tests.outside_parent import OutsideAuthority, outside_authority

NOW = datetime(2030, 1, 1, tzinfo=UTC)
END = datetime(2030, 1, 31, 12, 30, 15, 123456, tzinfo=UTC)
ROOT = outside_authority("System Root", now=NOW)
OTHER_ROOT = outside_authority("System Root of tomorrow", now=NOW)
PRIVATE_KEY = b"-----BEGIN PRIVATE KEY-----\nnot looked at here\n"
IMPORT_KEY, PUBLIC_KEY = generate_import_key()
STATEMENT = import_key_statement(tenant="tenant-1", import_key_id="k1", public_key=PUBLIC_KEY, expire_time=END)
_TRIALS = settings(max_examples=200, deadline=None)


def sign(statement: bytes, signer: OutsideAuthority = ROOT) -> bytes:
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    return signer.key.sign(statement, ec.ECDSA(hashes.SHA256()))


SIGNATURE = sign(STATEMENT)
SPKI = b"not looked at here either"
INFO = import_info(STATEMENT, public_key=SPKI, exportable=False)


def seal(statement: bytes = STATEMENT) -> bytes:
    return seal_private_key(PRIVATE_KEY, statement, public_key=SPKI, exportable=False)


CIPHERTEXT = seal()


@dataclass(frozen=True)
class Given:
    """What a client is given and trusts."""

    statement: bytes = STATEMENT
    signature: bytes = SIGNATURE
    algorithm: SignatureAlgorithm = SignatureAlgorithm.ECDSA_WITH_SHA256
    certificate: bytes = ROOT.der
    trusted: tuple[bytes, ...] = (OTHER_ROOT.der, ROOT.der)
    now: datetime = NOW
    tenant: str | None = None

    def verify(self) -> ImportKeyStatement:
        return verify_import_key(
            statement=self.statement,
            signature=self.signature,
            signature_algorithm=self.algorithm,
            authority_certificate=self.certificate,
            trusted=self.trusted,
            now=self.now,
            tenant=self.tenant,
        )


def refused(call: Callable[[], object], *, says: str, field: str = "import_key") -> None:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in caught.value.violations] == [field]
    assert says in caught.value.message


def test_a_statement_has_one_encoding() -> None:
    assert (
        b"".join(
            len(field).to_bytes(4) + field
            for field in (
                b"certd.import-key.v1",
                b"tenant-1",
                b"k1",
                PUBLIC_KEY,
                (1896093015123456).to_bytes(8),
            )
        )
        == STATEMENT
    )
    assert parse_import_key_statement(STATEMENT) == ImportKeyStatement(
        tenant="tenant-1", import_key_id="k1", public_key=PUBLIC_KEY, expire_time=END
    )


@_TRIALS
@given(
    tenant=st.text(min_size=1, max_size=40),
    import_key_id=st.text(min_size=1, max_size=40),
    public_key=st.binary(min_size=32, max_size=32),
    expire_time=st.datetimes(min_value=datetime(1970, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),  # noqa: DTZ001  # hypothesis wants it so.
)
def test_a_statement_is_read_as_it_was_written(
    tenant: str, import_key_id: str, public_key: bytes, expire_time: datetime
) -> None:
    statement = import_key_statement(
        tenant=tenant, import_key_id=import_key_id, public_key=public_key, expire_time=expire_time
    )
    parsed = parse_import_key_statement(statement)
    assert parsed == ImportKeyStatement(
        tenant=tenant, import_key_id=import_key_id, public_key=public_key, expire_time=expire_time
    )


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"public_key": bytes(31)}, "public_key", "raw X25519 key of 32 bytes"),
        ({"expire_time": datetime(1969, 12, 31, tzinfo=UTC)}, "expire_time", "before 1970"),
        ({"tenant": ""}, "import_key", "must name a tenant and a key"),
        ({"import_key_id": ""}, "import_key", "must name a tenant and a key"),
        ({"tenant": "t" * 1000}, "import_key", "a statement of more than 1024 bytes"),
    ],
)
def test_a_statement_about_nothing_is_not_made(changes: dict[str, object], field: str, says: str) -> None:
    values = {"tenant": "t", "import_key_id": "k", "public_key": bytes(32), "expire_time": END} | changes
    refused(lambda: import_key_statement(**values), field=field, says=says)  # type: ignore[arg-type]


_PARTS = (b"tenant-1", b"k1", PUBLIC_KEY, bytes(8))


@pytest.mark.parametrize(
    "statement",
    [
        b"",
        STATEMENT[:-1],
        STATEMENT + b"\x00",
        STATEMENT + bytes(4),
        STATEMENT * 10,
        canonical(b"certd.lease.v1", *_PARTS),
        canonical(b"certd.import-key.v1", *_PARTS[:3]),
        canonical(b"certd.import-key.v1", b"\xff", *_PARTS[1:]),
        canonical(b"certd.import-key.v1", b"", *_PARTS[1:]),
        canonical(b"certd.import-key.v1", *_PARTS[:2], bytes(33), bytes(8)),
        canonical(b"certd.import-key.v1", *_PARTS[:3], bytes(9)),
        canonical(b"certd.import-key.v1", *_PARTS[:3], b"\xff" * 8),
    ],
    ids=range(12),
)
def test_what_is_no_statement_is_not_read_as_one(statement: bytes) -> None:
    refused(lambda: parse_import_key_statement(statement), field="statement", says="is not a statement")
    refused(lambda: seal(statement), field="statement", says="is not a statement")


def test_what_was_sealed_opens_with_the_import_key() -> None:
    assert open_private_key(CIPHERTEXT, import_key=bytes(IMPORT_KEY), info=INFO) == PRIVATE_KEY
    # Everybody who seals makes a key of their own for it.
    assert seal() != CIPHERTEXT


@pytest.mark.parametrize("exportable", [False, True])
def test_an_info_has_one_encoding(*, exportable: bool) -> None:
    assert import_info(STATEMENT, public_key=SPKI, exportable=exportable) == b"".join(
        len(field).to_bytes(4) + field
        for field in (
            b"certd.import.v1",
            STATEMENT,
            hashlib.sha256(SPKI).digest(),
            b"\x01" if exportable else b"\x00",
        )
    )


@pytest.mark.parametrize("exportable", [False, True])
def test_what_was_sealed_opens_under_its_policy_and_for_its_certificate_alone(*, exportable: bool) -> None:
    ciphertext = seal_private_key(PRIVATE_KEY, STATEMENT, public_key=SPKI, exportable=exportable)
    does_not_open(ciphertext, info=import_info(STATEMENT, public_key=SPKI, exportable=not exportable))
    does_not_open(ciphertext, info=import_info(STATEMENT, public_key=SPKI + b"!", exportable=exportable))
    # As it was sealed before there was anything but the statement to it.
    does_not_open(ciphertext, info=STATEMENT)
    info = import_info(STATEMENT, public_key=SPKI, exportable=exportable)
    assert open_private_key(ciphertext, import_key=bytes(IMPORT_KEY), info=info) == PRIVATE_KEY


def test_the_statement_holds_what_was_sealed() -> None:
    others = {"tenant": "tenant-2", "import_key_id": "k2", "expire_time": END + timedelta(microseconds=1)}
    for name, value in others.items():
        values = {"tenant": "tenant-1", "import_key_id": "k1", "public_key": PUBLIC_KEY, "expire_time": END}
        other = import_key_statement(**(values | {name: value}))  # type: ignore[arg-type]
        does_not_open(CIPHERTEXT, info=import_info(other, public_key=SPKI, exportable=False))
    does_not_open(CIPHERTEXT, import_key=bytes(generate_import_key()[0]))


def does_not_open(ciphertext: bytes = CIPHERTEXT, *, import_key: bytes = bytes(IMPORT_KEY), info: bytes = INFO) -> None:
    says = "was sealed for another export policy, import key or certificate"
    with pytest.raises(CertdError, match=says) as caught:
        open_private_key(ciphertext, import_key=import_key, info=info)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in caught.value.violations] == ["sealed_private_key.ciphertext"]
    assert caught.value.__suppress_context__


@_TRIALS
@given(st.integers(0, 8 * len(CIPHERTEXT) - 1))
def test_a_flipped_bit_of_what_was_sealed_does_not_open(bit: int) -> None:
    does_not_open(flipped(CIPHERTEXT, bit))


@_TRIALS
@given(st.binary(max_size=100))
def test_what_nobody_sealed_does_not_open(ciphertext: bytes) -> None:
    does_not_open(ciphertext)


@_TRIALS
@given(st.integers(0, 8 * len(STATEMENT) - 1))
def test_a_flipped_bit_of_the_statement_is_neither_believed_nor_opens(bit: int) -> None:
    changed = flipped(STATEMENT, bit)
    refused(lambda: Given(statement=changed).verify(), says="has a signature that does not verify under its root")
    does_not_open(info=import_info(changed, public_key=SPKI, exportable=False))


@_TRIALS
@given(st.integers(0, 8 * len(INFO) - 1))
def test_a_flipped_bit_of_the_info_does_not_open(bit: int) -> None:
    does_not_open(info=flipped(INFO, bit))


@_TRIALS
@given(st.integers(0, 8 * len(SIGNATURE) - 1))
def test_a_flipped_bit_of_the_signature_is_not_believed(bit: int) -> None:
    changed = flipped(SIGNATURE, bit)
    refused(lambda: Given(signature=changed).verify(), says="has a signature that does not verify under its root")


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_import_key_has_its_length(length: int) -> None:
    refused(
        lambda: open_private_key(CIPHERTEXT, import_key=b"\x07" * length, info=INFO),
        says="is not a raw X25519",
    )


def test_nothing_is_sealed_to_a_point_of_small_order() -> None:
    statement = import_key_statement(tenant="t", import_key_id="k", public_key=bytes(32), expire_time=END)
    refused(
        lambda: seal(statement),
        field="recipient_public_key",
        says="public key that can receive",
    )


def test_the_public_key_is_that_of_the_private_one() -> None:
    private_key, public_key = generate_import_key()
    theirs = X25519PrivateKey.from_private_bytes(bytes(private_key)).public_key()
    assert public_key == theirs.public_bytes_raw()
    info = subject_public_key_info(public_key)
    assert info == theirs.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    refused(lambda: subject_public_key_info(bytes(31)), field="public_key", says="raw X25519 key of 32 bytes")


def test_a_statement_that_a_trusted_root_signed_is_believed() -> None:
    assert Given().verify().public_key == PUBLIC_KEY
    assert Given(tenant="tenant-1").verify().import_key_id == "k1"
    assert Given(now=END - timedelta(microseconds=1)).verify().expire_time == END


def test_the_root_may_be_one_of_rsa() -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = outside_authority("System Root", now=NOW, key=key)
    signature = key.sign(STATEMENT, padding.PKCS1v15(), hashes.SHA256())
    held = Given(
        signature=signature, algorithm=SignatureAlgorithm.SHA256_WITH_RSA, certificate=root.der, trusted=(root.der,)
    )
    assert held.verify().tenant == "tenant-1"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (Given(trusted=()), "under a root that this client does not trust"),
        (Given(trusted=(OTHER_ROOT.der,)), "under a root that this client does not trust"),
        # The same key and name, in another certificate than the one that is trusted.
        (
            Given(certificate=outside_authority("System Root", now=NOW, key=ROOT.key).der),
            "under a root that this client does not trust",
        ),
        (Given(certificate=OTHER_ROOT.der), "has a signature that does not verify under its root"),
        (Given(signature=sign(STATEMENT, OTHER_ROOT)), "has a signature that does not verify under its root"),
        (Given(signature=b""), "has a signature that does not verify under its root"),
        (
            Given(algorithm=SignatureAlgorithm.ECDSA_WITH_SHA384),
            "has a signature that does not verify under its root",
        ),
        (Given(algorithm=SignatureAlgorithm.SHA256_WITH_RSA), "has a signature that does not verify under its root"),
        (Given(tenant="tenant-2"), "is that of another tenant"),
        (Given(now=END), "ended at 2030-01-31T12:30:15Z"),
        (Given(now=NOW + timedelta(days=4000)), "under a root that is not valid now"),
        (Given(now=NOW - timedelta(days=1)), "under a root that is not valid now"),
        (Given(certificate=b"no DER", trusted=(b"no DER",)), "under a root that does not decode"),
    ],
)
def test_a_statement_that_proves_nothing_is_not_believed(case: Given, says: str) -> None:
    refused(case.verify, says=says)


def test_something_else_that_the_root_signed_is_no_statement() -> None:
    for other in (ROOT.certificate.tbs_certificate_bytes, canonical(b"certd.lease.v1", *_PARTS)):
        case = Given(statement=other, signature=sign(other))
        refused(case.verify, field="statement", says="is not a statement about an import key")
