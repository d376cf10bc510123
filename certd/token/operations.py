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
from certd.pki.key_spec import KeySpec
from certd.pki.sealing import Purpose
from certd.token.exports import Exports
from certd.token.handed_on import InHelper, InModule
from certd.token.imports import Imports
from certd.token.leases import Leases
from certd.token.module import AUTHORITY_LABEL, Module
from certd.token.policy import Policy, check, parse_policy
from certd.token.requests import check_key_id, context_of, key_spec_named, signature_algorithm_named, whose
from certd.token.reseals import reseal
from certd.token.seal import generate, seal
from certd.token.sealed_secrets import open_secret, seal_secret
from certd.token.settings import TokenSettings
from certd.token.signatures import key_with_policy, verified_signature

_journal = logging.getLogger("certd.token.journal")

_SLOW_TO_GENERATE = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096})
_POLICIES_REMEMBERED = 1024
_SIGNED_IN_A_LINE = 20

_Handler = Callable[[messages.TokenRequest], messages.TokenResponse | InHelper]


class Operations:
    """The operations on a token."""

    def __init__(self, module: Module, settings: TokenSettings, clock: Clock) -> None:
        self._module = module
        self._exports = Exports(module, settings)
        self._imports = Imports(module, settings, clock)
        self._leases = Leases(module, settings, clock)
        self._policies: dict[bytes, Policy] = {}
        self._handlers: dict[str, _Handler] = {
            "describe": lambda _request: self._describe(),
            "create_authority_key": lambda request: self._create_authority_key(request.create_authority_key),
            "sign": lambda request: self._sign(request.sign),
            "ensure_wrapping_key": lambda request: self._ensure_wrapping_key(request.ensure_wrapping_key),
            "generate_subscriber_key": lambda request: self._generate_subscriber_key(request.generate_subscriber_key),
            "export": lambda request: self._exports.export(request.export),
            "generate_import_key": lambda request: messages.TokenResponse(
                generate_import_key=self._imports.generate_import_key(request.generate_import_key)
            ),
            "import_key": lambda request: self._imports.import_key(request.import_key),
            "reseal": lambda request: messages.TokenResponse(reseal=reseal(self._module, request.reseal)),
            "lease": lambda request: messages.TokenResponse(lease=self._leases.lease(request.lease)),
            "destroy_wrapping_key": lambda request: self._destroy_wrapping_key(request.destroy_wrapping_key),
            "seal_secret": lambda request: messages.TokenResponse(
                seal_secret=seal_secret(self._module, request.seal_secret)
            ),
            "open_secret": lambda request: messages.TokenResponse(
                open_secret=open_secret(self._module, request.open_secret)
            ),
            "set_pin": lambda request: self._set_pin(request.set_pin),
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
        _journal.info("authority key %s of kind %s with policy %s", request.key_id.hex(), spec, policy.sha256)
        created = messages.CreateAuthorityKeyResponse(public_key=key.public_key)
        return messages.TokenResponse(create_authority_key=created)

    def _sign(self, request: messages.SignRequest) -> messages.TokenResponse:
        results = []
        signed: dict[bytes, list[str]] = {}
        for item in request.items:
            try:
                signature, what = self._sign_item(item)
            except CertdError as error:
                _journal.warning("not signed with %s: %s", item.key_id.hex(), error)
                results.append(messages.SignResult(failure=failure_of(error)))
            else:
                signed.setdefault(item.key_id, []).append(what)
                results.append(messages.SignResult(signature=signature))
        # Before the answer, and in one line for many: a line costs what two signatures cost.
        for key_id, all_of_key in signed.items():
            for start in range(0, len(all_of_key), _SIGNED_IN_A_LINE):
                part = all_of_key[start : start + _SIGNED_IN_A_LINE]
                _journal.info("signed with %s: %s", key_id.hex(), "; ".join(part))
        return messages.TokenResponse(sign=messages.SignResponse(results=results))

    def _sign_item(self, item: messages.SignItem) -> tuple[bytes, str]:
        """Returns the signature, and what was signed, for the journal."""
        check_key_id("key_id", item.key_id)
        algorithm = signature_algorithm_named(item.signature_algorithm)
        policy = self._policy(item.policy)
        key = key_with_policy(self._module, item.key_id, policy)
        what = check(
            policy,
            kind=item.kind,
            algorithm=algorithm,
            to_be_signed=item.to_be_signed,
            key_spec=key.spec,
            public_key=key.public_key,
        )
        signature = verified_signature(self._module, key, algorithm, item.to_be_signed)
        digest = hashlib.sha256(item.to_be_signed).hexdigest()
        return signature, f"{what} sha256={digest}"

    def _policy(self, encoded: bytes) -> Policy:
        policy = self._policies.get(encoded)
        if policy is None:
            policy = parse_policy(encoded)
            if len(self._policies) >= _POLICIES_REMEMBERED:
                self._policies.clear()
            self._policies[encoded] = policy
        return policy

    def _ensure_wrapping_key(self, request: messages.EnsureWrappingKeyRequest) -> messages.TokenResponse:
        check_key_id("key_id", request.key_id)
        created = self._module.ensure_wrapping_key(request.key_id)
        if created:
            _journal.info("wrapping key %s", request.key_id.hex())
        return messages.TokenResponse(ensure_wrapping_key=messages.EnsureWrappingKeyResponse(created=created))

    def _destroy_wrapping_key(self, request: messages.DestroyWrappingKeyRequest) -> messages.TokenResponse:
        check_key_id("key_id", request.key_id)
        destroyed = self._module.destroy_wrapping_key(request.key_id)
        _journal.warning("%s wrapping key %s", "destroyed" if destroyed else "found no", request.key_id.hex())
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
            _journal.info("subscriber key of kind %s for %s", spec, whose(context))
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
        _journal.info("changed the PIN of the %s", "security officer" if security_officer else "user")
        return messages.TokenResponse(set_pin=messages.SetPinResponse())
