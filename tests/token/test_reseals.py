"""Sealing anew: under another wrapping key, for one consumer, and never for more than before."""

import hashlib
import itertools
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from certd.errors import CertdError, Reason
from certd.pki.import_key import subject_public_key_info
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.sealing import Purpose, SealContext, decode_blob, export_info, hpke_decrypt
from certd.token.client import ResealItem
from certd.token.settings import RESEALS_AT_ONCE
from tests.token.consumers import CONSUMER, DAY, NOW, OTHER_CONSUMER
from tests.token.journal_files import uses
from tests.token.leasing import Custodian, Leaser, custodian
from tests.token.material import make_authority


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Custodian]:
    with custodian(tmp_path_factory.mktemp("reseals")) as found:
        yield found


@pytest.fixture(scope="module")
def other_key_id(kept: Custodian) -> bytes:
    key_id = secrets.token_bytes(16)
    assert kept.client.ensure_wrapping_key(key_id=key_id)
    return key_id


def _association(kept: Custodian) -> SealContext:
    return replace(kept.context, purpose=Purpose.ASSOCIATION, consumer=CONSUMER, exportable=False)


def _reseal(kept: Custodian, item: ResealItem, **changes: Any) -> bytes:
    (result,) = kept.client.reseal([replace(item, **changes)])
    if isinstance(result, CertdError):
        raise result
    return result


def _exported(kept: Custodian, sealed_key: bytes, wrapping_key_id: bytes, context: SealContext) -> bytes:
    """Returns the public key of what a blob in custody holds."""
    recipient = X25519PrivateKey.generate()
    message = kept.client.export_to_recipient(
        wrapping_key_id=wrapping_key_id,
        sealed_key=sealed_key,
        context=context,
        recipient_public_key=recipient.public_key().public_bytes_raw(),
    )
    plaintext = hpke_decrypt(message, private_key=recipient, info=export_info(context))
    public_key = load_der_private_key(plaintext, password=None).public_key()
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_key_in_custody_moves_under_another_wrapping_key(kept: Custodian, other_key_id: bytes) -> None:
    moved = _reseal(kept, kept.item(kept.context), new_wrapping_key_id=other_key_id)
    assert decode_blob(moved).wrapping_key_id == other_key_id
    assert _exported(kept, moved, other_key_id, kept.context) == kept.public_key
    # And back: nothing about it has changed.
    back = _reseal(
        kept,
        kept.item(kept.context),
        wrapping_key_id=other_key_id,
        sealed_key=moved,
        new_wrapping_key_id=kept.wrapping_key_id,
    )
    assert _exported(kept, back, kept.wrapping_key_id, kept.context) == kept.public_key
    with pytest.raises(CertdError):
        _exported(kept, moved, kept.wrapping_key_id, kept.context)


def test_the_same_key_is_sealed_with_another_nonce_each_time(kept: Custodian) -> None:
    blobs = {_reseal(kept, kept.item(kept.context)) for _ in range(3)}
    assert len(blobs | {kept.sealed_key}) == 4


def test_a_copy_for_a_consumer_is_leased_by_it_and_not_exported(kept: Custodian) -> None:
    leaser = kept.consumer()
    kept.opened(request := leaser.sign(), leaser.lease(request))
    for context in (leaser.context, kept.context, replace(leaser.context, exportable=True)):
        with pytest.raises(CertdError) as caught:
            _exported(kept, leaser.sealed_key, kept.wrapping_key_id, context)
        assert caught.value.reason in {Reason.NOT_EXPORTABLE, Reason.TOKEN_POLICY_FORBIDS}


def test_the_copy_of_a_consumer_moves_under_another_wrapping_key(kept: Custodian, other_key_id: bytes) -> None:
    leaser = kept.consumer()
    moved = _reseal(
        kept,
        kept.item(leaser.context),
        sealed_key=leaser.sealed_key,
        context=leaser.context,
        new_wrapping_key_id=other_key_id,
    )
    request = leaser.sign()
    kept.opened(request, leaser.lease(request, sealed_key=moved, wrapping_key_id=other_key_id))


def test_what_is_exportable_may_cease_to_be_so_for_ever(kept: Custodian) -> None:
    narrower = replace(kept.context, exportable=False)
    sealed_key = _reseal(kept, kept.item(narrower))
    with pytest.raises(CertdError) as caught:
        _exported(kept, sealed_key, kept.wrapping_key_id, narrower)
    assert caught.value.reason is Reason.NOT_EXPORTABLE
    with pytest.raises(CertdError, match="never becomes so") as caught:
        _reseal(kept, kept.item(kept.context), sealed_key=sealed_key, context=narrower)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    # Whoever lies about what it was opens nothing.
    with pytest.raises(CertdError, match="does not open"):
        _reseal(kept, kept.item(kept.context), sealed_key=sealed_key)


OTHER: dict[str, Any] = {
    "tenant": "tenant-2",
    "certificate": "certificate-2",
    "version": 2,
    "public_key_sha256": bytes(32),
}


@pytest.mark.parametrize("purpose", [Purpose.CUSTODY, Purpose.ASSOCIATION])
@pytest.mark.parametrize("field", OTHER)
def test_a_key_stays_whose_it_is(kept: Custodian, field: str, purpose: Purpose) -> None:
    context = kept.context if purpose is Purpose.CUSTODY else _association(kept)
    with pytest.raises(CertdError, match=f"{field} stays what it is") as caught:
        _reseal(kept, kept.item(replace(context, **{field: OTHER[field]})))
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


_CUSTODY, _ASSOCIATION, _IMPORT = Purpose.CUSTODY, Purpose.ASSOCIATION, Purpose.IMPORT
ALLOWED = {(_CUSTODY, _CUSTODY), (_CUSTODY, _ASSOCIATION), (_ASSOCIATION, _ASSOCIATION), (_IMPORT, _IMPORT)}


def _key_of_purpose(kept: Custodian, context: SealContext) -> tuple[bytes, bytes]:
    """Returns a sealed key of this purpose and the hash of its public key."""
    if context.purpose is not Purpose.IMPORT:
        generated = kept.client.generate_subscriber_key(
            wrapping_key_id=kept.wrapping_key_id, key_spec=KeySpec.EC_P256, context=context
        )
        return generated.sealed_key, hashlib.sha256(generated.public_key).digest()
    authority = make_authority(kept.client)
    made = kept.client.generate_import_key(
        wrapping_key_id=kept.wrapping_key_id,
        context=context,
        expire_time=NOW + DAY,
        authority_key_id=authority.key_id,
        authority_policy=authority.policy,
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
    )
    return made.sealed_key, hashlib.sha256(subject_public_key_info(made.public_key)).digest()


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Purpose, Purpose)))
def test_only_a_key_in_custody_gets_another_purpose_and_only_one(kept: Custodian, old: Purpose, new: Purpose) -> None:
    def bound(purpose: Purpose) -> SealContext:
        consumer = CONSUMER if purpose is Purpose.ASSOCIATION else ""
        return replace(kept.context, purpose=purpose, consumer=consumer, exportable=False, public_key_sha256=b"")

    sealed_key, digest = _key_of_purpose(kept, bound(old))
    item = ResealItem(
        wrapping_key_id=kept.wrapping_key_id,
        sealed_key=sealed_key,
        context=replace(bound(old), public_key_sha256=digest),
        new_wrapping_key_id=kept.wrapping_key_id,
        new_context=replace(bound(new), public_key_sha256=digest),
    )
    if (old, new) in ALLOWED:
        assert decode_blob(_reseal(kept, item)).wrapping_key_id == kept.wrapping_key_id
        return
    with pytest.raises(CertdError, match="never") as caught:
        _reseal(kept, item)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.mark.parametrize("consumer", [OTHER_CONSUMER, f"{CONSUMER}0", CONSUMER[:-1], ""])
def test_the_copy_of_one_consumer_never_becomes_another_s(kept: Custodian, consumer: str) -> None:
    leaser = kept.consumer()
    with pytest.raises(CertdError, match="never sealed for another") as caught:
        _reseal(
            kept,
            kept.item(replace(leaser.context, consumer=consumer)),
            sealed_key=leaser.sealed_key,
            context=leaser.context,
        )
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.mark.parametrize(
    ("consumer", "exportable"), [("", False), (CONSUMER, True), ("", True)], ids=["nobody", "exportable", "both"]
)
def test_the_copy_for_an_association_has_a_consumer_and_is_not_exportable(
    kept: Custodian, consumer: str, *, exportable: bool
) -> None:
    context = replace(_association(kept), consumer=consumer, exportable=exportable)
    with pytest.raises(CertdError, match="has a consumer and is not exportable") as caught:
        _reseal(kept, kept.item(context))
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.mark.parametrize(
    "changes",
    [
        {"wrapping_key_id": b"short"},
        {"new_wrapping_key_id": b"short"},
        {"sealed_key": b""},
        {"sealed_key": b"no blob"},
    ],
    ids=["wrapping_key_id", "new_wrapping_key_id", "no blob", "another blob"],
)
def test_what_is_no_request_is_refused_by_field(kept: Custodian, changes: dict[str, Any]) -> None:
    with pytest.raises(CertdError) as caught:
        _reseal(kept, kept.item(kept.context), **changes)
    assert [violation.field for violation in caught.value.violations] == [
        "sealed_key" if "sealed_key" in changes else next(iter(changes))
    ]


def test_the_new_context_is_named_when_it_is_none(kept: Custodian) -> None:
    with pytest.raises(CertdError) as caught:
        _reseal(kept, kept.item(replace(kept.context, tenant="")))
    assert [violation.field for violation in caught.value.violations] == ["new_context"]


def test_a_wrapping_key_that_is_not_there_fails_its_item_alone(kept: Custodian) -> None:
    missing = secrets.token_bytes(16)
    good = kept.item(kept.context)
    bent = bytearray(kept.sealed_key)
    bent[-1] ^= 1
    results = kept.client.reseal(
        [
            good,
            replace(good, new_wrapping_key_id=missing),
            replace(good, sealed_key=bytes(bent)),
            replace(good, new_context=replace(kept.context, version=2)),
            good,
        ]
    )
    reasons = [result.reason if isinstance(result, CertdError) else None for result in results]
    refused = Reason.TOKEN_POLICY_FORBIDS
    assert reasons == [None, Reason.TOKEN_UNAVAILABLE, refused, refused, None]
    assert kept.client.ready


def test_a_frame_has_a_bound(kept: Custodian) -> None:
    item = kept.item(kept.context)
    results = kept.client.reseal([item] * RESEALS_AT_ONCE)
    assert len({result for result in results if isinstance(result, bytes)}) == RESEALS_AT_ONCE
    with pytest.raises(CertdError) as caught:
        kept.client.reseal([item] * (RESEALS_AT_ONCE + 1))
    assert [violation.field for violation in caught.value.violations] == ["items"]
    assert kept.client.reseal([]) == []


def test_the_journal_has_every_key_that_was_sealed_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with custodian(tmp_path) as found:
        context = _association(found)
        items = [found.item(replace(context, consumer=f"{CONSUMER}-{number}")) for number in range(45)]
        found.client.reseal([*items, found.item(replace(context, version=9))])
    done = uses(tmp_path, "reseal")
    assert [one.text("consumer") for one in done] == [f"{CONSUMER}-{number}" for number in range(45)]
    assert {(one.text("tenant"), one.text("purpose"), one.count("version")) for one in done} == {
        ("tenant-1", "association", 1)
    }
    (refused,) = [line for line in capfd.readouterr().err.splitlines() if "not resealed" in line]
    assert "TOKEN_POLICY_FORBIDS" in refused


def test_many_threads_reseal_lease_and_sign_at_once(kept: Custodian, other_key_id: bytes) -> None:
    together = threading.Barrier(6)

    def work(number: int) -> tuple[Leaser, bytes]:
        leaser = kept.consumer(f"spiffe://certd.internal/identities/hammer-{number}")
        together.wait(20)
        key_ids = itertools.cycle([(kept.wrapping_key_id, other_key_id), (other_key_id, kept.wrapping_key_id)])
        sealed_key = leaser.sealed_key
        for _ in range(20):
            old, new = next(key_ids)
            item = ResealItem(
                wrapping_key_id=old,
                sealed_key=sealed_key,
                context=leaser.context,
                new_wrapping_key_id=new,
                new_context=leaser.context,
            )
            wider = replace(item, new_context=replace(leaser.context, exportable=True))
            moved, refused = kept.client.reseal([item, wider])
            assert isinstance(moved, bytes)
            assert isinstance(refused, CertdError)
            sealed_key = moved
            request = leaser.sign()
            kept.opened(request, leaser.lease(request, sealed_key=sealed_key, wrapping_key_id=new))
        return leaser, sealed_key

    with ThreadPoolExecutor(6) as pool:
        for leaser, sealed_key in pool.map(work, range(6)):
            request = leaser.sign()
            kept.opened(request, leaser.lease(request, sealed_key=sealed_key))
