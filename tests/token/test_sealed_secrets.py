"""Secrets that the daemon may read are sealed beside keys that it may not, and neither ever opens as the other."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec
from certd.pki.sealing import LONGEST_SECRET, Purpose, SealContext, SecretContext, decode_blob
from certd.token.client import ResealItem, TokenClient, start_child
from tests.softhsm import make_token
from tests.token.journal_files import uses
from tests.token.leasing import Custodian, custodian
from tests.token.material import make_context

CONTEXT = SecretContext(tenant="tenant-1", subscription="subscription-1", number=1)
SECRET = b"s3cret-" + bytes(range(25))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Custodian]:
    with custodian(tmp_path_factory.mktemp("secrets")) as found:
        yield found


@pytest.fixture(scope="module")
def sealed(kept: Custodian) -> bytes:
    return kept.client.seal_secret(SECRET, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT)


def refusal(call: Callable[[], object]) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    return caught.value


def test_a_secret_opens_as_what_it_was_and_never_lies_open(kept: Custodian, sealed: bytes) -> None:
    client, key_id = kept.client, kept.wrapping_key_id
    assert client.open_secret(sealed, wrapping_key_id=key_id, context=CONTEXT) == SECRET
    assert SECRET not in sealed
    assert decode_blob(sealed).wrapping_key_id == key_id
    again = client.seal_secret(SECRET, wrapping_key_id=key_id, context=CONTEXT)
    assert decode_blob(again).nonce != decode_blob(sealed).nonce


@pytest.mark.parametrize("length", [1, 32, LONGEST_SECRET])
def test_a_secret_has_any_length_up_to_the_longest(kept: Custodian, length: int) -> None:
    secret = secrets.token_bytes(length)
    blob = kept.client.seal_secret(secret, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT)
    assert kept.client.open_secret(blob, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT) == secret


@pytest.mark.parametrize("secret", [b"", bytes(LONGEST_SECRET + 1), bytes(2000)])
def test_nothing_and_what_could_be_a_key_is_no_secret(kept: Custodian, secret: bytes) -> None:
    error = refusal(
        lambda: kept.client.seal_secret(secret, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT),
    )
    assert [violation.field for violation in error.violations] == ["secret"]


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "tenant-2"},
        {"subscription": "subscription-2"},
        {"number": 2},
        {"tenant": "tenant-1s", "subscription": "ubscription-1"},
    ],
    ids=str,
)
def test_it_opens_only_as_that_of_its_own_subscription(kept: Custodian, sealed: bytes, changes: dict[str, Any]) -> None:
    context = replace(CONTEXT, **changes)
    error = refusal(
        lambda: kept.client.open_secret(sealed, wrapping_key_id=kept.wrapping_key_id, context=context),
    )
    assert error.reason is Reason.TOKEN_POLICY_FORBIDS
    assert "does not open" in error.message


def test_what_was_altered_does_not_open(kept: Custodian, sealed: bytes) -> None:
    key_id = kept.wrapping_key_id
    for place in range(20, len(sealed)):
        bent = bytearray(sealed)
        bent[place] ^= 1
        error = refusal(partial(kept.client.open_secret, bytes(bent), wrapping_key_id=key_id, context=CONTEXT))
        assert error.reason is Reason.TOKEN_POLICY_FORBIDS
    assert kept.client.open_secret(sealed, wrapping_key_id=key_id, context=CONTEXT) == SECRET


def test_what_is_no_request_is_refused_by_field(kept: Custodian, sealed: bytes) -> None:
    other = secrets.token_bytes(16)
    kept.client.ensure_wrapping_key(key_id=other)

    def opened(blob: bytes = sealed, key_id: bytes = kept.wrapping_key_id, **changes: Any) -> str:
        context = replace(CONTEXT, **changes)
        error = refusal(lambda: kept.client.open_secret(blob, wrapping_key_id=key_id, context=context))
        assert error.reason is Reason.FIELD_INVALID
        return error.violations[0].field

    assert opened(blob=b"no blob") == "sealed_secret"
    assert opened(key_id=other) == "sealed_secret"
    assert opened(key_id=b"short") == "wrapping_key_id"
    assert opened(number=0) == opened(tenant="") == opened(subscription="") == "context"
    assert opened(subscription="a\nsigned with") == "context.subscription"
    assert opened(tenant="t" * 3000) == "context.tenant"
    missing = secrets.token_bytes(16)
    error = refusal(lambda: kept.client.seal_secret(SECRET, wrapping_key_id=missing, context=CONTEXT))
    assert error.reason is Reason.TOKEN_UNAVAILABLE
    assert kept.client.ready


@pytest.mark.parametrize("purpose", [Purpose.CUSTODY, Purpose.ASSOCIATION])
@pytest.mark.parametrize("spec", [KeySpec.EC_P256, KeySpec.ED25519])
def test_no_private_key_opens_as_a_secret(kept: Custodian, spec: KeySpec, purpose: Purpose) -> None:
    """Also not with names that look like those of a subscription; Ed25519 would be short enough."""
    consumer = "spiffe://certd.internal/identities/a" if purpose is Purpose.ASSOCIATION else ""
    context = make_context(
        certificate=CONTEXT.subscription, purpose=purpose, consumer=consumer, exportable=purpose is Purpose.CUSTODY
    )
    key = kept.client.generate_subscriber_key(
        wrapping_key_id=kept.wrapping_key_id, key_spec=spec, context=context
    ).sealed_key
    error = refusal(lambda: kept.client.open_secret(key, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT))
    assert error.reason is Reason.TOKEN_POLICY_FORBIDS


def test_no_secret_opens_as_a_key_to_be_exported_leased_or_sealed_anew(kept: Custodian) -> None:
    """Not even one whose bytes are a private key, for a context that names what it was sealed for."""
    spki_sha256 = hashlib.sha256(kept.public_key).digest()
    secret = kept.client.seal_secret(SECRET, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT)
    context = replace(kept.context, certificate=CONTEXT.subscription, public_key_sha256=spki_sha256)
    recipient = X25519PrivateKey.generate().public_key().public_bytes_raw()
    leaser = kept.consumer()

    def export_under_passphrase() -> object:
        return kept.client.export_under_passphrase(
            wrapping_key_id=kept.wrapping_key_id, sealed_key=secret, context=context, passphrase=b"correct horse"
        )

    def export_to_recipient() -> object:
        return kept.client.export_to_recipient(
            wrapping_key_id=kept.wrapping_key_id,
            sealed_key=secret,
            context=context,
            recipient_public_key=recipient,
        )

    def lease() -> object:
        return leaser.lease(leaser.sign(), sealed_key=secret)

    def reseal(new: SealContext = context) -> bytes:
        item = replace(kept.item(new), sealed_key=secret, context=context)
        (result,) = kept.client.reseal([item])
        if isinstance(result, CertdError):
            raise result
        return result

    for call in (export_under_passphrase, export_to_recipient, lease, reseal):
        error = refusal(call)
        assert error.reason is Reason.TOKEN_POLICY_FORBIDS, call
        assert "does not open" in error.message
    narrower = replace(context, purpose=Purpose.ASSOCIATION, consumer=leaser.context.consumer, exportable=False)
    assert refusal(lambda: reseal(narrower)).reason is Reason.TOKEN_POLICY_FORBIDS


def test_a_key_is_not_sealed_anew_into_a_secret(kept: Custodian, sealed: bytes) -> None:
    item = ResealItem(
        wrapping_key_id=kept.wrapping_key_id,
        sealed_key=sealed,
        context=kept.context,
        new_wrapping_key_id=kept.wrapping_key_id,
        new_context=kept.context,
    )
    (result,) = kept.client.reseal([item])
    assert isinstance(result, CertdError)
    moved, *_ = kept.client.reseal([kept.item(kept.context)])
    assert isinstance(moved, bytes)
    error = refusal(lambda: kept.client.open_secret(moved, wrapping_key_id=kept.wrapping_key_id, context=CONTEXT))
    assert error.reason is Reason.TOKEN_POLICY_FORBIDS


def test_it_opens_after_the_token_process_began_anew_and_not_once_its_key_is_destroyed(tmp_path: Path) -> None:
    settings = make_token(tmp_path)
    key_id = secrets.token_bytes(16)

    def with_client(work: Callable[[TokenClient], bytes]) -> bytes:
        client = start_child(settings)
        try:
            assert client.wait_ready(20), client.problem
            return work(client)
        finally:
            client.stop()

    def seal(client: TokenClient) -> bytes:
        client.ensure_wrapping_key(key_id=key_id)
        return client.seal_secret(SECRET, wrapping_key_id=key_id, context=CONTEXT)

    blob = with_client(seal)

    def open_and_destroy(client: TokenClient) -> bytes:
        opened = client.open_secret(blob, wrapping_key_id=key_id, context=CONTEXT)
        assert client.destroy_wrapping_key(key_id=key_id)
        with pytest.raises(CertdError):
            client.open_secret(blob, wrapping_key_id=key_id, context=CONTEXT)
        return opened

    assert with_client(open_and_destroy) == SECRET


def test_the_journal_names_what_was_opened_and_never_says_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with custodian(tmp_path) as found:
        blob = found.client.seal_secret(SECRET, wrapping_key_id=found.wrapping_key_id, context=CONTEXT)
        found.client.open_secret(blob, wrapping_key_id=found.wrapping_key_id, context=CONTEXT)
        with pytest.raises(CertdError):
            found.client.open_secret(
                blob, wrapping_key_id=found.wrapping_key_id, context=replace(CONTEXT, subscription="subscription-2")
            )
    logged = capfd.readouterr().err
    assert "not opened: secret 1 of tenant tenant-1 subscription subscription-2" in logged
    sealed, opened = uses(tmp_path, "seal-secret", "open-secret")
    assert (sealed.kind, opened.kind) == ("seal-secret", "open-secret")
    assert all((one.text("subscription"), one.count("secret")) == ("subscription-1", 1) for one in (sealed, opened))
    assert "s3cret" not in logged + str([one.line for one in uses(tmp_path)])
