"""What the daemon says to the token process and hears of it, as messages."""

from collections.abc import Sequence

from certd.errors import CertdError
from certd.internal import token_pb2 as messages
from certd.ipc.frames import error_of
from certd.pki.key_spec import KeySpec
from certd.pki.sealing import SealContext, SecretContext
from certd.token.calls import GeneratedImportKey, GeneratedKey, ResealItem, SealedImport, SignItem
from certd.token.description import TokenDescription


def request_to_sign(items: Sequence[SignItem]) -> messages.TokenRequest:
    """Returns the request for signatures."""
    request = messages.SignRequest(
        items=[
            messages.SignItem(
                key_id=item.key_id,
                policy=item.policy,
                kind=messages.SignatureKind.Value(item.kind.name),
                signature_algorithm=item.signature_algorithm.value,
                to_be_signed=item.to_be_signed,
            )
            for item in items
        ]
    )
    for message, item in zip(request.items, items, strict=True):
        if item.certified is not None:
            message.certified_key_id = item.certified.key_id
            message.certified_policy = item.certified.policy
    return messages.TokenRequest(sign=request)


def signatures_of(response: messages.TokenResponse) -> list[bytes | CertdError]:
    """Returns a signature or a failure for each item, in order."""
    return [
        error_of(result.failure) if result.HasField("failure") else result.signature for result in response.sign.results
    ]


def generated_of(answer: bytes) -> GeneratedKey:
    """Returns the key that an answer brings."""
    generated = messages.TokenResponse.FromString(answer).generate_subscriber_key
    return GeneratedKey(generated.public_key, generated.sealed_key)


def context_of(context: SealContext) -> messages.SealContext:
    """Returns what a key is bound to, as the token process reads it."""
    return messages.SealContext(
        tenant=context.tenant,
        certificate=context.certificate,
        version=context.version,
        purpose=context.purpose.value,
        consumer=context.consumer,
        exportable=context.exportable,
        public_key_sha256=context.public_key_sha256,
    )


def secret_context_of(context: SecretContext) -> messages.SecretContext:
    """Returns what a secret is bound to, as the token process reads it."""
    return messages.SecretContext(tenant=context.tenant, subscription=context.subscription, number=context.number)


def request_to_reseal(items: Sequence[ResealItem]) -> messages.ResealRequest:
    """Returns the request for keys that are sealed anew."""
    return messages.ResealRequest(
        items=[
            messages.ResealItem(
                wrapping_key_id=item.wrapping_key_id,
                sealed_key=item.sealed_key,
                context=context_of(item.context),
                new_wrapping_key_id=item.new_wrapping_key_id,
                new_context=context_of(item.new_context),
            )
            for item in items
        ]
    )


def sealed_import_of(private_key: SealedImport) -> messages.SealedImport:
    """Returns a key that is sealed to an import key, as the token process reads it."""
    return messages.SealedImport(
        wrapping_key_id=private_key.wrapping_key_id,
        sealed_import_key=private_key.sealed_import_key,
        context=context_of(private_key.context),
        statement=private_key.statement,
        ciphertext=private_key.ciphertext,
    )


def description_of(response: messages.DescribeResponse) -> TokenDescription:
    """Returns what is said of module and token."""
    return TokenDescription(
        module=response.module,
        label=response.label,
        serial_number=response.serial_number,
        manufacturer=response.manufacturer,
        model=response.model,
        mechanisms=tuple(response.mechanisms),
        missing=tuple(response.missing),
        authority_key_specs=tuple(KeySpec(name) for name in response.authority_key_specs),
    )


def import_key_of(generated: messages.GenerateImportKeyResponse) -> GeneratedImportKey:
    """Returns the import key that an answer brings."""
    return GeneratedImportKey(
        public_key=generated.public_key,
        sealed_key=generated.sealed_key,
        statement=generated.statement,
        signature=generated.signature,
    )
