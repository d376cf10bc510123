"""What the operations read out of requests, each with the error that names its field."""

from typing import Final

from certd.errors import field_invalid
from certd.internal import token_pb2 as messages
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.sealing import Purpose, SealContext, SecretContext

_KEY_ID_BYTES: Final = 16
_LONGEST_KEY_ID: Final = 64
_LONGEST_NAME: Final = 2048
"""The longest SPIFFE id, and more than any uid has."""


def check_key_id(field: str, key_id: bytes) -> None:
    """FIELD_INVALID for what is no CKA_ID of certd."""
    if len(key_id) != _KEY_ID_BYTES:
        raise field_invalid(field, f"must be {_KEY_ID_BYTES} bytes")


def check_authority_key_id(field: str, key_id: bytes) -> None:
    """FIELD_INVALID for what is no CKA_ID: another program chose that of a key that was adopted."""
    if not 1 <= len(key_id) <= _LONGEST_KEY_ID:
        raise field_invalid(field, f"must be 1 to {_LONGEST_KEY_ID} bytes")


def key_spec_named(name: str) -> KeySpec:
    """Returns the key spec; FIELD_INVALID when there is none of that name."""
    if name not in KeySpec.__members__:
        raise field_invalid("key_spec", f"must be one of {', '.join(KeySpec)}")
    return KeySpec(name)


def signature_algorithm_named(name: str) -> SignatureAlgorithm:
    """Returns the signature algorithm; FIELD_INVALID when there is none of that name."""
    if name not in SignatureAlgorithm.__members__:
        raise field_invalid("signature_algorithm", f"must be one of {', '.join(SignatureAlgorithm)}")
    return SignatureAlgorithm(name)


def context_of(message: messages.SealContext, *, field: str = "context") -> SealContext:
    """Returns what a key is, or is to be, bound to; FIELD_INVALID when that is nothing."""
    if message.purpose not in list(Purpose):
        raise field_invalid(f"{field}.purpose", f"must be one of {', '.join(Purpose)}")
    if not message.tenant or not message.certificate or not message.version:
        raise field_invalid(field, "must name a tenant, a certificate and a version")
    for name in ("tenant", "certificate", "consumer"):
        _check_name(f"{field}.{name}", getattr(message, name))
    return SealContext(
        tenant=message.tenant,
        certificate=message.certificate,
        version=message.version,
        purpose=Purpose(message.purpose),
        consumer=message.consumer,
        exportable=message.exportable,
        public_key_sha256=message.public_key_sha256,
    )


def secret_context_of(message: messages.SecretContext) -> SecretContext:
    """Returns what a secret is, or is to be, bound to; FIELD_INVALID when that is nothing."""
    if not message.tenant or not message.subscription or not message.number:
        raise field_invalid("context", "must name a tenant, a subscription and the number of a secret")
    _check_name("context.tenant", message.tenant)
    _check_name("context.subscription", message.subscription)
    return SecretContext(tenant=message.tenant, subscription=message.subscription, number=message.number)


def _check_name(field: str, name: str) -> None:
    # It stands in the journal, in which nobody but the token process begins a line.
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise field_invalid(field, f"must be at most {_LONGEST_NAME} printable characters")


def in_journal(context: SealContext) -> dict[str, str | int | bool]:
    """Returns what the journal tells of a key that is sealed."""
    told: dict[str, str | int | bool] = {
        "tenant": context.tenant,
        "certificate": context.certificate,
        "version": context.version,
        "purpose": context.purpose.value,
        "exportable": context.exportable,
    }
    if context.consumer:
        told["consumer"] = context.consumer
    if context.public_key_sha256:
        told["public_key_sha256"] = context.public_key_sha256.hex()
    return told


def whose(context: SealContext) -> str:
    """Returns whose key it is, for the journal and for messages."""
    return f"tenant {context.tenant} certificate {context.certificate} version {context.version}"
