"""What the token process does for the daemon, operation by operation.

Everything here runs on the one thread that may call the module, except what is handed back as `InHelper`.
"""

import hashlib
import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.ipc.frames import failure_of
from certd.pki.checkpoint import parse_checkpoint
from certd.pki.key_spec import KeySpec
from certd.pki.sealing import Purpose
from certd.token.adoption import adopt
from certd.token.destruction import destroy_authority_key
from certd.token.escrow import WrappingKeyMaker
from certd.token.exports import Exports
from certd.token.handed_on import InHelper, InModule
from certd.token.imports import Imports
from certd.token.journal import SIGNED, Journal
from certd.token.leases import Leases
from certd.token.module import AUTHORITY_LABEL, Module
from certd.token.policy import CertifiedAuthority, Policy, SignatureKind, check, parse_policy
from certd.token.requests import (
    check_authority_key_id,
    check_key_id,
    context_of,
    in_journal,
    key_spec_named,
    signature_algorithm_named,
)
from certd.token.reseals import reseal
from certd.token.seal import generate, seal
from certd.token.sealed_secrets import open_secret, seal_secret
from certd.token.settings import TokenSettings
from certd.token.signatures import key_with_policy, verified_signature
from certd.token.uploads import Uploads

_logger = logging.getLogger(__name__)

_SLOW_TO_GENERATE = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096})
_POLICIES_REMEMBERED = 1024
_MOST_RECORDS = 1000
"""Of the journal, in one answer."""

_MOST_LISTED = 1000
"""Keys, in one answer."""
_LONGEST_KEY_ID = 256

_Handler = Callable[[messages.TokenRequest], messages.TokenResponse | InHelper]


class Operations:
    """The operations on a token."""

    def __init__(self, module: Module, settings: TokenSettings, clock: Clock, journal: Journal) -> None:
        self._module = module
        self._journal = journal
        self._exports = Exports(module, settings, journal)
        self._imports = Imports(module, settings, clock, journal)
        self._leases = Leases(module, settings, clock, journal)
        self._wrapping_keys = WrappingKeyMaker(module, settings.recovery_public_key_file, journal)
        self._policies: dict[bytes, Policy] = {}
        self._uploads = Uploads()
        self._handlers: dict[str, _Handler] = {
            "describe": lambda _request: self._describe(),
            "create_authority_key": lambda request: self._create_authority_key(request.create_authority_key),
            "sign": lambda request: self._sign(request.sign),
            "ensure_wrapping_key": lambda request: messages.TokenResponse(
                ensure_wrapping_key=self._wrapping_keys.ensure(request.ensure_wrapping_key)
            ),
            "generate_subscriber_key": lambda request: self._generate_subscriber_key(request.generate_subscriber_key),
            "export": lambda request: self._exports.export(request.export),
            "generate_import_key": lambda request: messages.TokenResponse(
                generate_import_key=self._imports.generate_import_key(request.generate_import_key)
            ),
            "import_key": lambda request: self._imports.import_key(request.import_key),
            "reseal": lambda request: messages.TokenResponse(
                reseal=reseal(self._module, request.reseal, self._journal)
            ),
            "lease": lambda request: messages.TokenResponse(lease=self._leases.lease(request.lease)),
            "destroy_wrapping_key": lambda request: self._destroy_wrapping_key(request.destroy_wrapping_key),
            "seal_secret": lambda request: messages.TokenResponse(
                seal_secret=seal_secret(self._module, request.seal_secret, self._journal)
            ),
            "open_secret": lambda request: messages.TokenResponse(
                open_secret=open_secret(self._module, request.open_secret, self._journal)
            ),
            "set_pin": lambda request: self._set_pin(request.set_pin),
            "read_journal": lambda request: self._read_journal(request.read_journal),
            "list_keys": lambda request: self._list_keys(request.list_keys),
            "append": lambda request: self._append(request.append),
            "adopt_authority_key": lambda request: messages.TokenResponse(
                adopt_authority_key=adopt(self._module, request.adopt_authority_key, self._journal)
            ),
            "destroy_authority_key": lambda request: messages.TokenResponse(
                destroy_authority_key=destroy_authority_key(self._module, request.destroy_authority_key, self._journal)
            ),
        }

    def handle(self, payload: bytes) -> messages.TokenResponse | InHelper:
        """Does what a serialised TokenRequest asks for; every error is a CertdError."""
        try:
            request = messages.TokenRequest.FromString(payload)
        except DecodeError as error:
            raise field_invalid("payload", "is not a TokenRequest") from error
        operation = request.WhichOneof("operation")
        if operation is None:
            raise field_invalid("operation", "is one that this token process does not know; upgrade it first")
        return self._handlers[operation](request)

    def _describe(self) -> messages.TokenResponse:
        found = self._module.describe()
        described = messages.DescribeResponse(
            module=found.module,
            label=found.label,
            serial_number=found.serial_number,
            manufacturer=found.manufacturer,
            model=found.model,
            mechanisms=found.mechanisms,
            missing=found.missing,
            authority_key_specs=[spec.value for spec in found.authority_key_specs],
        )
        return messages.TokenResponse(describe=described)

    def _create_authority_key(self, request: messages.CreateAuthorityKeyRequest) -> messages.TokenResponse:
        check_key_id("key_id", request.key_id)
        spec = key_spec_named(request.key_spec)
        policy = parse_policy(request.policy)
        label = AUTHORITY_LABEL + policy.sha256
        key = self._module.create_authority_key(request.key_id, spec, label=label)
        if key.label != label or key.spec is not spec:
            message = (
                f"The token has the key {request.key_id.hex()} already, with another policy or key spec. What was "
                "sealed with a key does not change; create another key."
            )
            raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
        self._journal.record(
            "create-authority-key",
            key=request.key_id.hex(),
            key_spec=spec.value,
            policy_sha256=policy.sha256,
            public_key_sha256=hashlib.sha256(key.public_key).hexdigest(),
        )
        _logger.info("authority key %s of kind %s with policy %s", request.key_id.hex(), spec, policy.sha256)
        created = messages.CreateAuthorityKeyResponse(public_key=key.public_key)
        return messages.TokenResponse(create_authority_key=created)

    def _sign(self, request: messages.SignRequest) -> messages.TokenResponse:
        results = []
        for item in request.items:
            try:
                signature = self._sign_item(item)
            except CertdError as error:
                _logger.warning("not signed with %s: %s", item.key_id.hex(), error)
                results.append(messages.SignResult(failure=failure_of(error)))
            else:
                results.append(messages.SignResult(signature=signature))
        return messages.TokenResponse(sign=messages.SignResponse(results=results))

    def _sign_item(self, item: messages.SignItem) -> bytes:
        check_authority_key_id("key_id", item.key_id)
        algorithm = signature_algorithm_named(item.signature_algorithm)
        policy = self._policy(item.policy)
        key = key_with_policy(self._module, item.key_id, policy)
        to_be_signed = self._uploads.take(item.upload_id) if item.upload_id else item.to_be_signed
        what = check(
            policy,
            kind=item.kind,
            algorithm=algorithm,
            to_be_signed=to_be_signed,
            key_spec=key.spec,
            public_key=key.public_key,
            certified=self._certified(item),
        )
        told: dict[str, str | int] = {
            "key": item.key_id.hex(),
            "signed": SignatureKind(item.kind).name,
            "what": what,
            "sha256": hashlib.sha256(to_be_signed).hexdigest(),
        }
        if SignatureKind(item.kind) is not SignatureKind.CHECKPOINT:
            signature = verified_signature(self._module, key, algorithm, to_be_signed)
        else:
            checkpoint = parse_checkpoint(to_be_signed, field="to_be_signed")
            self._journal.check_checkpoint(item.key_id, checkpoint)
            signature = verified_signature(self._module, key, algorithm, to_be_signed)
            self._journal.remember_checkpoint(item.key_id, checkpoint)
            told |= {"sequence": checkpoint.seq, "chain_hash": checkpoint.chain_hash.hex()}
        self._journal.record(SIGNED, **told)
        return signature

    def _certified(self, item: messages.SignItem) -> CertifiedAuthority | None:
        if not item.certified_key_id:
            return None
        check_authority_key_id("certified_key_id", item.certified_key_id)
        policy = self._policy(item.certified_policy)
        return CertifiedAuthority(policy, key_with_policy(self._module, item.certified_key_id, policy).public_key)

    def _policy(self, encoded: bytes) -> Policy:
        policy = self._policies.get(encoded)
        if policy is None:
            policy = parse_policy(encoded)
            if len(self._policies) >= _POLICIES_REMEMBERED:
                self._policies.clear()
            self._policies[encoded] = policy
        return policy

    def _append(self, request: messages.AppendRequest) -> messages.TokenResponse:
        self._uploads.append(request.upload_id, request.offset, request.content)
        return messages.TokenResponse(append=messages.AppendResponse())

    def _list_keys(self, request: messages.ListKeysRequest) -> messages.TokenResponse:
        if not 1 <= request.limit <= _MOST_LISTED or len(request.after) > _LONGEST_KEY_ID:
            raise field_invalid("limit", f"must be 1 to {_MOST_LISTED}, and after {_LONGEST_KEY_ID} bytes at most")
        keys = [
            messages.ListedKey(key_id=one.key_id, label=one.label, secret=one.secret)
            for one in self._module.list_keys(after=request.after, limit=request.limit)
        ]
        return messages.TokenResponse(list_keys=messages.ListKeysResponse(keys=keys))

    def _destroy_wrapping_key(self, request: messages.DestroyWrappingKeyRequest) -> messages.TokenResponse:
        check_key_id("key_id", request.key_id)
        destroyed = self._module.destroy_wrapping_key(request.key_id)
        if destroyed:
            self._journal.record("destroy-wrapping-key", key=request.key_id.hex())
        _logger.warning("%s wrapping key %s", "destroyed" if destroyed else "found no", request.key_id.hex())
        response = messages.DestroyWrappingKeyResponse(destroyed=destroyed)
        return messages.TokenResponse(destroy_wrapping_key=response)

    def _generate_subscriber_key(
        self, request: messages.GenerateSubscriberKeyRequest
    ) -> messages.TokenResponse | InHelper:
        check_key_id("wrapping_key_id", request.wrapping_key_id)
        spec = key_spec_named(request.key_spec)
        context = context_of(request.context)
        if context.purpose is Purpose.IMPORT:
            raise field_invalid("context.purpose", "must be another than import; those keys are generate_import_key's")
        if context.public_key_sha256:
            raise field_invalid("context.public_key_sha256", "must be empty; the token process fills it in")

        def sealed(private_key: bytearray, public_key: bytes) -> messages.TokenResponse:
            wrapping_key_id = request.wrapping_key_id
            blob = seal(
                self._module, private_key, wrapping_key_id=wrapping_key_id, context=context, public_key=public_key
            )
            bound = {"key_spec": spec.value, "public_key_sha256": hashlib.sha256(public_key).hexdigest()}
            self._journal.record("generate-subscriber-key", key=wrapping_key_id.hex(), **in_journal(context), **bound)
            generated = messages.GenerateSubscriberKeyResponse(public_key=public_key, sealed_key=blob)
            return messages.TokenResponse(generate_subscriber_key=generated)

        def generate_slowly() -> InModule:
            private_key, public_key = generate(spec)
            return InModule(lambda: sealed(private_key, public_key))

        return InHelper(generate_slowly) if spec in _SLOW_TO_GENERATE else sealed(*generate(spec))

    def _set_pin(self, request: messages.SetPinRequest) -> messages.TokenResponse:
        user = request.user
        if user not in {messages.SetPinRequest.NORMAL, messages.SetPinRequest.SECURITY_OFFICER}:
            raise field_invalid("user", "must be the token's user or its security officer")
        try:
            old_pin, new_pin = request.old_pin.decode(), request.new_pin.decode()
        except UnicodeDecodeError:
            raise field_invalid("new_pin", "must be UTF-8, and the old one too") from None
        security_officer = user == messages.SetPinRequest.SECURITY_OFFICER
        self._module.set_pin(security_officer=security_officer, old_pin=old_pin, new_pin=new_pin)
        user_name = "security officer" if security_officer else "user"
        self._journal.record("set-pin", user=user_name)
        _logger.info("changed the PIN of the %s", user_name)
        return messages.TokenResponse(set_pin=messages.SetPinResponse())

    def _read_journal(self, request: messages.ReadJournalRequest) -> messages.TokenResponse:
        if not 0 <= request.position < 2**63 or not 1 <= request.limit <= _MOST_RECORDS:
            raise field_invalid("limit", f"must be 1 to {_MOST_RECORDS}, and position 0 or more")
        head = self._journal.head
        read = messages.ReadJournalResponse(
            journal=head.journal,
            number=head.number,
            chain_hash=head.chain_hash,
            records=self._journal.read(position=request.position, limit=request.limit),
        )
        return messages.TokenResponse(read_journal=read)
