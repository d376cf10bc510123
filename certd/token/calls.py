"""What the daemon asks the token process for, and what it is answered."""

import enum
from dataclasses import dataclass

from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.sealing import SealContext
from certd.token.policy import SignatureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SignItem:
    """Something to sign."""

    key_id: bytes
    """CKA_ID of the authority key."""
    policy: bytes
    """The policy that was sealed with the key."""
    kind: SignatureKind
    signature_algorithm: SignatureAlgorithm
    to_be_signed: bytes
    """DER."""
    certified: "CertifiedKey | None" = None
    """The other key of a root that a cross-certificate of its own name is for."""


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """An authority key in the token that another one certifies."""

    key_id: bytes
    """CKA_ID."""
    policy: bytes
    """The policy that was sealed with it."""


@dataclass(frozen=True, slots=True)
class AdoptedKey:
    """What the token process found of a key that it took over."""

    key_spec: KeySpec
    never_extractable: bool
    """Whether the token says that the key was never outside of one."""
    sealed: bool
    """Whether nobody can change the label that names its policy; False in a rehearsal."""


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A subscriber's key pair, the private half sealed."""

    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    sealed_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOrder:
    """A subscriber's key that is to be generated."""

    wrapping_key_id: bytes
    """CKA_ID of the tenant's wrapping key."""
    key_spec: KeySpec
    context: SealContext
    """What it is bound to; its `public_key_sha256` is empty, and the token process fills it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResealItem:
    """A sealed key that is to be sealed anew."""

    wrapping_key_id: bytes
    """CKA_ID of the wrapping key under which it is sealed."""
    sealed_key: bytes
    context: SealContext
    """What it is bound to."""
    new_wrapping_key_id: bytes
    """CKA_ID of the wrapping key under which it is to be sealed; may be the same."""
    new_context: SealContext
    """What it is to be bound to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImportKey:
    """A key pair to which clients seal what they import, the private half sealed."""

    public_key: bytes
    """Raw X25519, 32 bytes."""
    sealed_key: bytes
    statement: bytes
    """Of `pki.import_key`."""
    signature: bytes
    """Of the statement, by the authority's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedImport:
    """A private key that a client sealed to an import key."""

    wrapping_key_id: bytes
    """CKA_ID of the wrapping key of the import key."""
    sealed_import_key: bytes
    context: SealContext
    """What the import key is bound to; the token process takes the hash of its public key from the statement."""
    statement: bytes
    ciphertext: bytes
    """HPKE encapsulated key and ciphertext."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKey:
    """A private key that was made elsewhere, sealed."""

    sealed_key: bytes
    key_spec: KeySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """A private or secret key in the token."""

    key_id: bytes
    """CKA_ID."""
    label: str
    """CKA_LABEL."""
    secret: bool
    """False: a private one."""


class Isolation(enum.StrEnum):
    """Whose process the token process is. The same names as the proto's `Isolation`."""

    SAME_USER = "SAME_USER"
    SEPARATE_USER = "SEPARATE_USER"


class PinUser(enum.StrEnum):
    """Whose PIN. The same names as the proto's `User`."""

    NORMAL = "NORMAL"
    SECURITY_OFFICER = "SECURITY_OFFICER"
