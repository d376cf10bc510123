"""The daemon's side of the token process. Every call raises TOKEN_UNAVAILABLE, with `retry_after`, while it is away."""

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.ipc.channel import Channel, Endpoint, SpawnedChild, UnixSocket
from certd.ipc.frames import error_of
from certd.pki.checkpoint import JournalHead
from certd.pki.export_form import ExportForm
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.lease import microseconds_of
from certd.pki.sealing import SealContext, SecretContext
from certd.token import conversions
from certd.token.calls import (
    AdoptedKey,
    CertifiedKey,
    GeneratedImportKey,
    GeneratedKey,
    ImportedKey,
    Isolation,
    KeyOrder,
    ListedKey,
    PinUser,
    ResealItem,
    SealedImport,
    SignItem,
)
from certd.token.description import TokenDescription
from certd.token.settings import TokenSettings
from certd.token.uploads import ID_BYTES, PART_BYTES

__all__ = [
    "AdoptedKey",
    "CertifiedKey",
    "GeneratedImportKey",
    "GeneratedKey",
    "ImportedKey",
    "Isolation",
    "KeyOrder",
    "ListedKey",
    "PinUser",
    "ResealItem",
    "SealedImport",
    "SignItem",
    "TokenClient",
    "connect",
    "start_child",
]

_TIMEOUT = 30.0
_ESCROW_ATTEMPTS = 4
_KEYS_AT_ONCE = 500
# Hardware takes its time for the primes of an RSA key.
_KEY_GENERATION_TIMEOUT = 120.0


class TokenClient:
    """Calls the token process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @property
    def ready(self) -> bool:
        """Whether the token is open; no intent is written while it is not."""
        return self._channel.ready

    @property
    def problem(self) -> str:
        """Why it is not ready, and the remedy; empty when it is."""
        return self._channel.problem

    @property
    def process_id(self) -> int | None:
        """Process id of a spawned token process; None otherwise."""
        return self._channel.process_id

    def isolation(self) -> Isolation | None:
        """Returns whether the token process belongs to another user than this one; None while there is none."""
        user_id = self._channel.peer_user_id
        if user_id is None:
            return None
        return Isolation.SAME_USER if user_id == os.geteuid() else Isolation.SEPARATE_USER

    def wait_ready(self, timeout: float) -> bool:
        """Waits until the token is open, at most `timeout` seconds; returns whether it is."""
        return self._channel.wait_ready(timeout)

    def wait_settled(self, timeout: float) -> bool:
        """Waits until the token process has opened its token or said why not; returns whether it is open."""
        return self._channel.wait_settled(timeout)

    def on_change(self, callback: Callable[[bool, str], None]) -> None:
        """Calls `callback(ready, problem)` at every change, on a thread that must not be blocked."""
        self._channel.on_change(callback)

    def stop(self) -> None:
        """Ends a spawned token process, or hangs up on one behind a unix socket. Waiting calls fail."""
        self._channel.stop()

    def describe(self) -> TokenDescription:
        """Describes module and token."""
        response = self._call(messages.TokenRequest(describe=messages.DescribeRequest()), _TIMEOUT).describe
        return conversions.description_of(response)

    def create_authority_key(self, *, key_id: bytes, key_spec: KeySpec, policy: bytes) -> bytes:
        """Generates an authority's key in the token, or finds it; returns the DER of its SubjectPublicKeyInfo.

        Args:
            key_id: CKA_ID, 16 random bytes that a row allocated first.
            key_spec: kind and size.
            policy: of `token.policy.authority_key_policy`; sealed with the key.

        Raises:
            CertdError: TOKEN_POLICY_FORBIDS when the id has a key with another policy or spec; TOKEN_UNAVAILABLE,
                without `retry_after`, when the token cannot make such a key.
        """
        request = messages.CreateAuthorityKeyRequest(key_id=key_id, key_spec=key_spec.value, policy=policy)
        response = self._call(messages.TokenRequest(create_authority_key=request), _KEY_GENERATION_TIMEOUT)
        return response.create_authority_key.public_key

    def adopt_authority_key(
        self, *, key_id: bytes, policy: bytes, public_key: bytes, validate_only: bool = False
    ) -> AdoptedKey:
        """Makes an authority key of a private key that is in the token already; a second time changes nothing.

        Args:
            key_id: its CKA_ID.
            policy: of `token.policy.authority_key_policy`; sealed with the key for ever.
            public_key: DER of the SubjectPublicKeyInfo that it must have.
            validate_only: whether nothing is sealed.

        Raises:
            CertdError: FIELD_INVALID when there is no such key, or one that authorities cannot have;
                IMPORT_KEY_MISMATCH when it has another public key; TOKEN_POLICY_FORBIDS when it is an authority key
                with another policy.
        """
        request = messages.AdoptAuthorityKeyRequest(
            key_id=key_id, policy=policy, public_key=public_key, validate_only=validate_only
        )
        response = self._call(messages.TokenRequest(adopt_authority_key=request), _TIMEOUT).adopt_authority_key
        return AdoptedKey(KeySpec(response.key_spec), response.never_extractable, response.sealed)

    def destroy_authority_key(self, *, key_id: bytes, policy: bytes) -> bool:
        """Destroys an authority key in the token, for ever; returns False when there was no such key.

        TOKEN_POLICY_FORBIDS for a key with which another policy was sealed, and for what is no authority key.
        """
        request = messages.DestroyAuthorityKeyRequest(key_id=key_id, policy=policy)
        response = self._call(messages.TokenRequest(destroy_authority_key=request), _TIMEOUT)
        return response.destroy_authority_key.destroyed

    def sign(self, items: Sequence[SignItem], *, timeout: float) -> list[bytes | CertdError]:
        """Signs; returns a signature or a failure for each item, in order. Raises when the whole frame failed."""
        return conversions.signatures_of(self._call(conversions.request_to_sign(items), timeout))

    def sign_large(self, item: SignItem, *, timeout: float) -> bytes:
        """Signs something of any size up to `token.uploads.MOST_BYTES`, sent in parts; returns the signature.

        Others' calls go in between. `timeout` is that of each part, and of the signature, in seconds.
        """
        data, upload_id = item.to_be_signed, secrets.token_bytes(ID_BYTES)
        for offset in range(0, len(data), PART_BYTES):
            part = messages.AppendRequest(
                upload_id=upload_id, offset=offset, content=data[offset : offset + PART_BYTES]
            )
            self._call(messages.TokenRequest(append=part), timeout)
        request = conversions.request_to_sign([replace(item, to_be_signed=b"")])
        request.sign.items[0].upload_id = upload_id
        (signature,) = conversions.signatures_of(self._call(request, timeout))
        if isinstance(signature, CertdError):
            raise signature
        return signature

    def submit_signatures(
        self,
        items: Sequence[SignItem],
        *,
        timeout: float,
        answered: Callable[[list[bytes | CertdError] | CertdError], None],
    ) -> None:
        """Does what `sign` does and returns at once; `answered` hears on a thread that must not be blocked.

        It hears nothing of a token process that lives and does not answer. Raises TOKEN_UNAVAILABLE while that is not
        ready; then nobody hears.
        """

        def heard(outcome: bytes | CertdError) -> None:
            if isinstance(outcome, CertdError):
                answered(outcome)
                return
            try:
                results = conversions.signatures_of(messages.TokenResponse.FromString(outcome))
            except DecodeError:
                results = []
            answered(results)

        self._channel.submit(conversions.request_to_sign(items).SerializeToString(), timeout=timeout, answered=heard)

    def ensure_wrapping_key(
        self, *, key_id: bytes, tenant: str = "", keep_escrow: Callable[[bytes], object] | None = None
    ) -> bool:
        """Makes sure that a tenant's wrapping key exists in the token; returns whether this call made it.

        Args:
            key_id: its CKA_ID.
            tenant: id of the tenant.
            keep_escrow: keeps the key as it is in escrow, where it is: before the key is made, and again once it is,
                for another daemon may have begun as well.
        """
        request = messages.EnsureWrappingKeyRequest(key_id=key_id, tenant=tenant)
        for _ in range(_ESCROW_ATTEMPTS):
            answer = self._call(messages.TokenRequest(ensure_wrapping_key=request), _TIMEOUT).ensure_wrapping_key
            if not answer.escrow:
                if answer.created and request.escrow and keep_escrow is not None:
                    keep_escrow(request.escrow)
                return answer.created
            if keep_escrow is None:
                break
            keep_escrow(answer.escrow)
            # A token process that was started anew has drawn another key, and says so.
            request.escrow = answer.escrow
        raise CertdError(Reason.TOKEN_UNAVAILABLE, f"The wrapping key {key_id.hex()} is in escrow, and was not made.")

    def list_keys(self) -> list[ListedKey]:
        """Returns the private and secret keys in the token, by their CKA_IDs."""
        found: list[ListedKey] = []
        while True:
            request = messages.ListKeysRequest(after=found[-1].key_id if found else b"", limit=_KEYS_AT_ONCE)
            keys = self._call(messages.TokenRequest(list_keys=request), _TIMEOUT).list_keys.keys
            if not keys:
                return found
            found += [ListedKey(key_id=one.key_id, label=one.label, secret=one.secret) for one in keys]

    def generate_subscriber_key(
        self, *, wrapping_key_id: bytes, key_spec: KeySpec, context: SealContext
    ) -> GeneratedKey:
        """Generates a subscriber's key in the token process and seals it.

        Args:
            wrapping_key_id: CKA_ID of the tenant's wrapping key.
            key_spec: kind and size.
            context: what it is bound to; its `public_key_sha256` is empty, and the token process fills it in.
        """
        order = KeyOrder(wrapping_key_id=wrapping_key_id, key_spec=key_spec, context=context)
        (generated,) = self.generate_subscriber_keys([order])
        if isinstance(generated, CertdError):
            raise generated
        return generated

    def generate_subscriber_keys(self, orders: Sequence[KeyOrder]) -> list[GeneratedKey | CertdError]:
        """As `generate_subscriber_key` for each, side by side; returns a key or a failure for each, in order."""
        payloads = [
            messages.TokenRequest(
                generate_subscriber_key=messages.GenerateSubscriberKeyRequest(
                    wrapping_key_id=order.wrapping_key_id,
                    key_spec=order.key_spec.value,
                    context=conversions.context_of(order.context),
                )
            ).SerializeToString()
            for order in orders
        ]
        answers = self._channel.call_all(payloads, timeout=_KEY_GENERATION_TIMEOUT)
        return [answer if isinstance(answer, CertdError) else conversions.generated_of(answer) for answer in answers]

    def export_under_passphrase(
        self,
        *,
        wrapping_key_id: bytes,
        sealed_key: bytes,
        context: SealContext,
        passphrase: bytes,
        form: ExportForm = ExportForm.PKCS8,
        certificates: Sequence[bytes] = (),
        friendly_name: str = "",
    ) -> bytes:
        """Returns the DER of an EncryptedPrivateKeyInfo (PKCS#8), or of a PKCS#12 with `certificates`.

        Args:
            wrapping_key_id: CKA_ID of the tenant's wrapping key.
            sealed_key: the key as its row has it.
            context: what it is bound to.
            passphrase: by the rules of the form.
            form: how the key is encoded.
            certificates: of a PKCS#12, the one of the key first.
            friendly_name: of the entry in a PKCS#12.

        Raises:
            CertdError: FIELD_INVALID when the passphrase is none of the form's, or the first certificate is not that of
                the key; NOT_EXPORTABLE; RATE_LIMITED; TOKEN_POLICY_FORBIDS when the sealed key does not open in this
                context.
        """
        request = messages.ExportRequest(
            wrapping_key_id=wrapping_key_id,
            sealed_key=sealed_key,
            context=conversions.context_of(context),
            passphrase=passphrase,
            format=form.value,
            certificates=certificates,
            friendly_name=friendly_name,
        )
        return self._call(messages.TokenRequest(export=request), _TIMEOUT).export.encrypted_key

    def export_to_recipient(
        self, *, wrapping_key_id: bytes, sealed_key: bytes, context: SealContext, recipient_public_key: bytes
    ) -> bytes:
        """Returns an HPKE message to a raw X25519 key (`pki.sealing.hpke_decrypt`). Raises as the other export."""
        request = messages.ExportRequest(
            wrapping_key_id=wrapping_key_id,
            sealed_key=sealed_key,
            context=conversions.context_of(context),
            recipient_public_key=recipient_public_key,
        )
        return self._call(messages.TokenRequest(export=request), _TIMEOUT).export.encrypted_key

    def reseal(self, items: Sequence[ResealItem]) -> list[bytes | CertdError]:
        """Seals keys anew, at most `token.settings.RESEALS_AT_ONCE`; returns a blob or a failure for each, in order.

        An item fails alone: TOKEN_POLICY_FORBIDS when the new context is wider than the old one, or the sealed key does
        not open in the old one. Raises when the whole frame failed.
        """
        request = conversions.request_to_reseal(items)
        response = self._call(messages.TokenRequest(reseal=request), _TIMEOUT).reseal
        return [
            error_of(result.failure) if result.HasField("failure") else result.sealed_key for result in response.results
        ]

    def generate_import_key(
        self,
        *,
        wrapping_key_id: bytes,
        context: SealContext,
        expire_time: datetime,
        authority_key_id: bytes,
        authority_policy: bytes,
        signature_algorithm: SignatureAlgorithm,
    ) -> GeneratedImportKey:
        """Makes a key to which clients seal what they import, and has it stated that it is one.

        Args:
            wrapping_key_id: CKA_ID of the tenant's wrapping key, under which the private half is sealed.
            context: purpose import, version 1, `certificate` the id of the key, not exportable, no hash.
            expire_time: aware; end of its use, which the statement tells. The token process holds nobody to it.
            authority_key_id: CKA_ID of the authority key that signs the statement.
            authority_policy: that was sealed with that key.
            signature_algorithm: of the signature.

        Raises:
            CertdError: FIELD_INVALID; TOKEN_POLICY_FORBIDS when the policy is not that of the key.
        """
        request = messages.GenerateImportKeyRequest(
            wrapping_key_id=wrapping_key_id,
            context=conversions.context_of(context),
            expire_time=microseconds_of(expire_time),
            authority_key_id=authority_key_id,
            authority_policy=authority_policy,
            signature_algorithm=signature_algorithm.value,
        )
        response = self._call(messages.TokenRequest(generate_import_key=request), _TIMEOUT)
        return conversions.import_key_of(response.generate_import_key)

    def import_key(
        self, *, wrapping_key_id: bytes, context: SealContext, public_key: bytes, private_key: bytes | SealedImport
    ) -> ImportedKey:
        """Verifies a private key against the public one, and seals it.

        Args:
            wrapping_key_id: CKA_ID of the tenant's wrapping key.
            context: what it is to be bound to, purpose custody; its `public_key_sha256` is empty.
            public_key: DER of the SubjectPublicKeyInfo that it must have.
            private_key: in any encoding of `pki.private_key`, or that sealed to an import key, for this public key and
                what the context says of export.

        Raises:
            CertdError: IMPORT_KEY_MISMATCH when it is another key; FIELD_INVALID and KEY_TOO_WEAK when it is none, or
                does not open; TOKEN_POLICY_FORBIDS when the import key does not open, or is another than it is said to
                be; RATE_LIMITED.
        """
        request = messages.ImportKeyRequest(
            wrapping_key_id=wrapping_key_id, context=conversions.context_of(context), public_key=public_key
        )
        if isinstance(private_key, SealedImport):
            request.sealed.CopyFrom(conversions.sealed_import_of(private_key))
        else:
            request.plain = private_key
        imported = self._call(messages.TokenRequest(import_key=request), _TIMEOUT).import_key
        return ImportedKey(sealed_key=imported.sealed_key, key_spec=KeySpec(imported.key_spec))

    def lease(
        self,
        *,
        wrapping_key_id: bytes,
        sealed_key: bytes,
        context: SealContext,
        certificate: bytes,
        recipient_public_key: bytes,
        sign_time: datetime,
        signature: bytes,
    ) -> bytes:
        """Opens a key for the consumer who signed for it; returns an HPKE message whose info is the lease statement.

        Args:
            wrapping_key_id: CKA_ID of the wrapping key.
            sealed_key: the copy for this consumer.
            context: what it is bound to: purpose association, and the consumer.
            certificate: DER of the consumer's identity certificate.
            recipient_public_key: raw X25519, 32 bytes.
            sign_time: of the statement, aware.
            signature: over `pki.lease.lease_statement`, by the key of the certificate.

        Raises:
            CertdError: LEASE_REFUSED with the check that failed; RATE_LIMITED; TOKEN_POLICY_FORBIDS when the sealed key
                does not open in this context.
        """
        request = messages.LeaseRequest(
            wrapping_key_id=wrapping_key_id,
            sealed_key=sealed_key,
            context=conversions.context_of(context),
            certificate=certificate,
            recipient_public_key=recipient_public_key,
            sign_time=microseconds_of(sign_time),
            signature=signature,
        )
        return self._call(messages.TokenRequest(lease=request), _TIMEOUT).lease.encrypted_key

    def destroy_wrapping_key(self, *, key_id: bytes) -> bool:
        """Destroys a wrapping key in the token, for ever; returns False when there was no such key.

        Whatever is sealed under it, in a backup too, never opens again. TOKEN_POLICY_FORBIDS for a secret key that is
        none of certd's.
        """
        request = messages.DestroyWrappingKeyRequest(key_id=key_id)
        response = self._call(messages.TokenRequest(destroy_wrapping_key=request), _TIMEOUT)
        return response.destroy_wrapping_key.destroyed

    def seal_secret(self, secret: bytes, *, wrapping_key_id: bytes, context: SecretContext) -> bytes:
        """Seals a secret of 1 to `pki.sealing.LONGEST_SECRET` bytes, bound to `context`; returns the blob."""
        request = messages.SealSecretRequest(
            wrapping_key_id=wrapping_key_id, secret=secret, context=conversions.secret_context_of(context)
        )
        return self._call(messages.TokenRequest(seal_secret=request), _TIMEOUT).seal_secret.sealed_secret

    def open_secret(self, sealed_secret: bytes, *, wrapping_key_id: bytes, context: SecretContext) -> bytes:
        """Opens what `seal_secret` made, and nothing else; TOKEN_POLICY_FORBIDS when it does not open."""
        request = messages.OpenSecretRequest(
            wrapping_key_id=wrapping_key_id, sealed_secret=sealed_secret, context=conversions.secret_context_of(context)
        )
        return self._call(messages.TokenRequest(open_secret=request), _TIMEOUT).open_secret.secret

    def read_journal(self, *, position: int, limit: int) -> tuple[JournalHead, list[bytes]]:
        """Returns how far the journal goes, and up to `limit` lines of the records after number `position`.

        Fewer lines come than there are when a file ends; `token.journal_records` tells what they say and verifies them.
        """
        request = messages.ReadJournalRequest(position=position, limit=limit)
        read = self._call(messages.TokenRequest(read_journal=request), _TIMEOUT).read_journal
        head = JournalHead(journal=read.journal, number=read.number, chain_hash=read.chain_hash)
        return head, list(read.records)

    def set_pin(self, *, user: PinUser, old_pin: bytes, new_pin: bytes) -> None:
        """Changes the PIN of the user or of the security officer; FIELD_INVALID when the token refuses one of them.

        The token process reads the PIN file whenever it opens the token, so the file must hold the user's new PIN then.
        """
        number = messages.SetPinRequest.User.Value(user.value)
        request = messages.SetPinRequest(user=number, old_pin=old_pin, new_pin=new_pin)
        self._call(messages.TokenRequest(set_pin=request), _TIMEOUT)

    def _call(self, request: messages.TokenRequest, timeout: float) -> messages.TokenResponse:
        payload = self._channel.call(request.SerializeToString(), timeout=timeout)
        return messages.TokenResponse.FromString(payload)


def start_child(settings: TokenSettings) -> TokenClient:
    """Spawns a token process and returns its client at once; `wait_ready` waits for the token."""
    # -I: neither the working directory nor the environment chooses what the holder of the PIN imports.
    argv = (sys.executable, "-I", "-m", "certd.token", *settings.arguments())
    return _start(SpawnedChild(argv))


def connect(socket_path: Path) -> TokenClient:
    """Connects to a token process behind a unix socket, and reconnects; returns the client at once."""
    return _start(UnixSocket(socket_path))


def _start(endpoint: Endpoint) -> TokenClient:
    channel = Channel(endpoint, name="token process")
    channel.start()
    return TokenClient(channel)
