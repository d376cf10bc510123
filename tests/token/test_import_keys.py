"""Import keys: stated and signed, of one tenant, one wrapping key and one time, and opening nothing else."""

import hashlib
import secrets
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.pki import der
from certd.pki.import_key import import_key_statement, parse_import_key_statement, verify_import_key
from certd.pki.key_spec import (
    KeySpec,
    SignatureAlgorithm,
    algorithm_identifier,
    default_signature_algorithm,
    verify_signature,
)
from certd.pki.sealing import Purpose
from certd.token.client import ResealItem, SealedImport, TokenClient
from tests.token.importing import END, SEALED_FOR_ANOTHER, Importer, import_context, make_importer, refused
from tests.token.material import AUTHORITY, NOW, make_authority, make_certificate, make_context, make_policy


@pytest.fixture(scope="module")
def importer(shared: TokenClient) -> Importer:
    return make_importer(shared)


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
    refused(lambda: importer.import_(longer), Reason.FIELD_INVALID, says=SEALED_FOR_ANOTHER)
    ciphertext = importer.sealed(other).ciphertext
    refused(
        lambda: importer.import_(replace(good, ciphertext=ciphertext)),
        Reason.FIELD_INVALID,
        says=SEALED_FOR_ANOTHER,
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
