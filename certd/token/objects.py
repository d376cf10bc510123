"""Keys in the token, as the binding has them: found, read, generated, tried and used.

Called by `module.Module` alone, on its thread and within its guard, so that errors are the binding's own here.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import pkcs11
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams

from certd.errors import field_invalid
from certd.pki.key_spec import (
    KeyFamily,
    KeySpec,
    SignatureAlgorithm,
    default_signature_algorithm,
    family_of,
    hash_of,
    key_spec_of,
    verify_signature,
)
from certd.token.advice import KEY_MISSING, REQUEST_REFUSED, code_of, explain, unavailable
from certd.token.public_key import CURVE_PARAMETERS, LoadedKey, from_modulus, from_point

_SELF_TEST = b"certd self-test"
_WRAPPING_KEY_BITS = 256
_RSA_BITS = {KeySpec.RSA_2048: 2048, KeySpec.RSA_3072: 3072, KeySpec.RSA_4096: 4096}
_KEY_BITS = {**_RSA_BITS, KeySpec.EC_P256: 256, KeySpec.EC_P384: 384, KeySpec.EC_P521: 521}
_RSA_MECHANISMS = {
    SignatureAlgorithm.SHA256_WITH_RSA: Mechanism.SHA256_RSA_PKCS,
    SignatureAlgorithm.SHA384_WITH_RSA: Mechanism.SHA384_RSA_PKCS,
    SignatureAlgorithm.SHA512_WITH_RSA: Mechanism.SHA512_RSA_PKCS,
}
FAMILY_MECHANISMS: dict[KeyFamily, tuple[Mechanism, ...]] = {
    KeyFamily.RSA: (Mechanism.RSA_PKCS_KEY_PAIR_GEN, *_RSA_MECHANISMS.values()),
    KeyFamily.EC: (Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA),
    KeyFamily.ED25519: (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
}


class Handle(Protocol):
    """A key in the token. The binding mixes the operations in at run time, so that its own types lack them."""

    key_type: KeyType
    sign: Callable[..., bytes]
    encrypt: Callable[..., bytes]
    decrypt: Callable[..., bytes]
    destroy: Callable[[], None]
    copy: Callable[[dict[Attribute, Any]], "Handle"]

    def __getitem__(self, attribute: Attribute) -> Any: ...  # noqa: ANN401  # Each attribute has a type of its own.

    def __setitem__(self, attribute: Attribute, value: Any) -> None: ...  # noqa: ANN401  # As above.


@dataclass(frozen=True, slots=True)
class AuthorityKey:
    """An authority's key pair in the token."""

    key_id: bytes
    spec: KeySpec
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    label: str
    """Its CKA_LABEL, which names the policy that was sealed with it."""
    handle: Handle = field(repr=False)
    """The private key, as the binding has it."""


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A private or secret key in the token."""

    key_id: bytes
    label: str
    """Its CKA_LABEL."""
    secret: bool
    """False: a private one."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A private key that certd did not make."""

    pair: AuthorityKey
    sensitive: bool
    extractable: bool
    never_extractable: bool
    """Whether it was never outside of a token, as the token says."""
    modifiable: bool
    """Whether the token lets it have another label."""
    signs: bool
    failure: str
    """What is wrong when it signs, in a sentence, or nothing."""


def supports(slot: pkcs11.Slot, spec: KeySpec, available: set[Mechanism]) -> bool:
    """Returns whether the token can make and use authority keys of this kind."""
    needed = FAMILY_MECHANISMS[family_of(default_signature_algorithm(spec))]
    if spec not in _KEY_BITS or not set(needed) <= available:
        # Ed25519 has one size, of which modules disagree whether it is 255 or 256 bits.
        return set(needed) <= available
    information = slot.get_mechanism_info(needed[0])
    # Zero means that the module does not say.
    shortest, longest = information.min_key_length or 0, information.max_key_length or 0
    return not longest or shortest <= _KEY_BITS[spec] <= longest


def search(session: pkcs11.Session, attributes: Mapping[Attribute, object]) -> list[Handle]:
    """Returns what the token has with these attributes."""
    # A search that is not read to its end stays open in the session, and blocks the next.
    return cast("list[Handle]", list(session.get_objects(dict(attributes))))


def only(session: pkcs11.Session, attributes: Mapping[Attribute, object]) -> Handle | None:
    """Returns the one object with these attributes, or None; TOKEN_UNAVAILABLE when there are several."""
    found = search(session, attributes)
    if len(found) > 1:
        key_id = attributes[Attribute.ID]
        message = f"The token has {len(found)} keys of one kind with the id {key_id!r}. Remove what is not used."
        raise unavailable(message)
    return found[0] if found else None


def label_of(handle: Handle) -> str:
    """Returns the CKA_LABEL; empty when it is no text."""
    try:
        return str(handle[Attribute.LABEL])
    except UnicodeDecodeError:
        # Not of ours.
        return ""


def read_pair(session: pkcs11.Session, handle: Handle, key_id: bytes) -> AuthorityKey:
    """Returns a private key with its public half; TOKEN_UNAVAILABLE when that is not there, or of no use."""
    public = only(session, {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})
    if public is None:
        message = f"The token lacks the public half of the key {key_id.hex()}. Restore the token from its backup."
        raise unavailable(message, KEY_MISSING)
    pair = _pair(handle, public, key_id)
    if pair is None:
        message = f"The key {key_id.hex()} in the token is of a kind that certd does not use."
        raise unavailable(message)
    return pair


def foreign_key(handle: Handle, public: Handle, key_id: bytes) -> ForeignKey | None:
    """Returns a private key that certd did not make, with what its token says of it; None for no kind of certd's."""
    pair = _pair(handle, public, key_id)
    if pair is None:
        return None
    signs = _says(handle, Attribute.SIGN)
    return ForeignKey(
        pair=pair,
        sensitive=_says(handle, Attribute.SENSITIVE),
        # Who does not say is taken to mean the worse.
        extractable=_says(handle, Attribute.EXTRACTABLE, unsaid=True),
        never_extractable=_says(handle, Attribute.NEVER_EXTRACTABLE),
        modifiable=_says(handle, Attribute.MODIFIABLE, unsaid=True),
        signs=signs,
        failure=failure_of(pair) if signs else "",
    )


def is_sealed(handle: Handle, label: str) -> bool:
    """Returns whether a key has this CKA_LABEL for ever."""
    return label_of(handle) == label and not _says(handle, Attribute.MODIFIABLE, unsaid=True)


def sealed_copy(handle: Handle, label: str) -> bool:
    """Copies a private key within the token, with a CKA_LABEL for ever; returns False when the token does not do that.

    CKA_MODIFIABLE never becomes false but in a copy (PKCS#11 3.1, section 5.7.2). What could not be destroyed would
    stand beside its copy, and is not copied.
    """
    if not _says(handle, Attribute.DESTROYABLE, unsaid=True):
        return False
    wanted = {Attribute.TOKEN: True, Attribute.PRIVATE: True, Attribute.LABEL: label, Attribute.MODIFIABLE: False}
    try:
        made = handle.copy(wanted)
    except pkcs11.PKCS11Error as error:
        if code_of(error) in REQUEST_REFUSED:
            return False
        raise
    sealed = is_sealed(made, label) and _says(made, Attribute.SENSITIVE)
    if sealed and not _says(made, Attribute.EXTRACTABLE, unsaid=True):
        return True
    made.destroy()
    return False


def _pair(handle: Handle, public: Handle, key_id: bytes) -> AuthorityKey | None:
    try:
        loaded = _load_public_key(public)
    except (ValueError, UnsupportedAlgorithm, pkcs11.AttributeTypeInvalid):
        # Of another curve, or of a kind that has other attributes.
        return None
    spec = key_spec_of(loaded)
    if spec is None:
        return None
    encoded = loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return AuthorityKey(key_id, spec, encoded, label_of(handle), handle)


def _says(handle: Handle, attribute: Attribute, *, unsaid: bool = False) -> bool:
    try:
        return bool(handle[attribute])
    except pkcs11.AttributeTypeInvalid:
        return unsaid


def _load_public_key(public: Handle) -> LoadedKey:
    if public.key_type is KeyType.RSA:
        return from_modulus(public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT])
    return from_point(public[Attribute.EC_PARAMS], public[Attribute.EC_POINT])


def was_left_unfinished(key: Handle) -> bool:
    """Returns whether nobody can say that the token generated the key; then a trial tells whether it is one.

    A module sets CKA_LOCAL (PKCS#11 3.1, section 4.7) together with the value of a key that it generates. A process
    that is killed before that leaves an object with the id and label of the key, and nothing in it. A key whose value
    was given, because it is in escrow or was recovered, never has it, and passes its trial.
    """
    return not key[Attribute.LOCAL]


def failure_of(key: AuthorityKey) -> str:
    """Has a key sign and verifies it; returns what is wrong, in a sentence, or nothing."""
    algorithm = default_signature_algorithm(key.spec)
    try:
        signature = sign(key.handle, algorithm, _SELF_TEST)
    except pkcs11.PKCS11Error as error:
        return explain(code_of(error))
    if not verify_signature(key.public_key, algorithm, signature=signature, data=_SELF_TEST):
        return "its signature does not verify"
    return ""


def failure_of_wrapping(key: Handle) -> str:
    """Has a wrapping key encrypt; returns what is wrong, in a sentence, or nothing."""
    try:
        encrypt(key, _SELF_TEST, GCMParams(secrets.token_bytes(12), b""))
    except pkcs11.PKCS11Error as error:
        return explain(code_of(error))
    return ""


def generate_pair(session: pkcs11.Session, spec: KeySpec, *, key_id: bytes, label: str) -> None:
    """Generates a key pair in the token."""
    common: dict[str, Any] = {
        "id": key_id,
        "label": label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "public_template": {Attribute.MODIFIABLE: False},
        "private_template": {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.MODIFIABLE: False},
    }
    if spec in _RSA_BITS:
        session.generate_keypair(KeyType.RSA, _RSA_BITS[spec], **common)
        return
    key_type, mechanism = KeyType.EC, Mechanism.EC_KEY_PAIR_GEN
    if spec is KeySpec.ED25519:
        key_type, mechanism = KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    parameters = {Attribute.EC_PARAMS: CURVE_PARAMETERS[spec]}
    domain = session.create_domain_parameters(key_type, parameters, local=True)
    domain.generate_keypair(mechanism=mechanism, **common)


def make_wrapping_key(session: pkcs11.Session, *, key_id: bytes, label: str, value: bytes | None) -> None:
    """Makes an AES-256 key that never leaves the token: generates it, or takes its value."""
    secret = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.MODIFIABLE: False}
    if value is None:
        session.generate_key(
            KeyType.AES,
            _WRAPPING_KEY_BITS,
            id=key_id,
            label=label,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template=secret,
        )
        return
    if len(value) * 8 != _WRAPPING_KEY_BITS:
        raise field_invalid("value", f"must be {_WRAPPING_KEY_BITS // 8} bytes")
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.ID: key_id,
            Attribute.LABEL: label,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            Attribute.VALUE: value,
            **secret,
        }
    )


def sign(key: Handle, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
    """Signs as `Module.sign` says."""
    if algorithm in _RSA_MECHANISMS:
        return key.sign(data, mechanism=_RSA_MECHANISMS[algorithm])
    digest = hash_of(algorithm)
    if digest is None:
        return key.sign(data, mechanism=Mechanism.EDDSA)
    # Not every module hashes for ECDSA, SoftHSM among them.
    raw = key.sign(hashlib.new(digest.name, data).digest(), mechanism=Mechanism.ECDSA)
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def encrypt(key: Handle, plaintext: bytes, parameters: GCMParams) -> bytes:
    """Encrypts with AES-GCM; the tag comes last."""
    return key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)


def decrypt(key: Handle, ciphertext: bytes, parameters: GCMParams) -> bytes | None:
    """Opens what `encrypt` made; None when anything is not as it was."""
    try:
        return key.decrypt(ciphertext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
    except (pkcs11.EncryptedDataInvalid, pkcs11.EncryptedDataLenRange):
        return None
    except (pkcs11.GeneralError, pkcs11.FunctionFailed):
        # SoftHSM says CKR_GENERAL_ERROR to a wrong tag, but also when it is broken. If the key still opens what it has
        # just sealed, the token is well; if not, this raises too.
        probe = GCMParams(secrets.token_bytes(12), b"")
        key.decrypt(encrypt(key, _SELF_TEST, probe), mechanism=Mechanism.AES_GCM, mechanism_param=probe)
        return None
