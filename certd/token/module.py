"""The PKCS#11 module. Nothing else imports `pkcs11`, and one thread of one process calls what is here.

python-pkcs11 tells the module that there is one thread, yet lets go of the interpreter's lock around every call: two
threads, even with a session each, crash the process. So `Module` refuses every thread but the one that made it.
"""

import contextlib
import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import pkcs11
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams

from certd.errors import CertdError, Reason, field_invalid
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
from certd.token import lock
from certd.token.advice import PIN_REFUSED, REQUEST_REFUSED, code_of, explain, pin_refused, unavailable
from certd.token.description import TokenDescription
from certd.token.durable import sync_softhsm
from certd.token.pin import RefusedPins, read_pin, wipe
from certd.token.public_key import CURVE_PARAMETERS, LoadedKey, from_modulus, from_point
from certd.token.settings import TokenSettings

_logger = logging.getLogger(__name__)

AUTHORITY_LABEL = "certd authority policy sha256:"
"""What the CKA_LABEL of an authority key begins with; the hash of its policy in hexadecimal follows."""
WRAPPING_LABEL = "certd wrapping key"
_SELF_TEST = b"certd self-test"
_WRAPPING_KEY_BITS = 256
_RETRY_AFTER = 1.0

_T = TypeVar("_T")

_KEY_GONE = (pkcs11.KeyHandleInvalid, pkcs11.ObjectHandleInvalid)
_RSA_BITS = {KeySpec.RSA_2048: 2048, KeySpec.RSA_3072: 3072, KeySpec.RSA_4096: 4096}
_KEY_BITS = {**_RSA_BITS, KeySpec.EC_P256: 256, KeySpec.EC_P384: 384, KeySpec.EC_P521: 521}
_RSA_MECHANISMS = {
    SignatureAlgorithm.SHA256_WITH_RSA: Mechanism.SHA256_RSA_PKCS,
    SignatureAlgorithm.SHA384_WITH_RSA: Mechanism.SHA384_RSA_PKCS,
    SignatureAlgorithm.SHA512_WITH_RSA: Mechanism.SHA512_RSA_PKCS,
}
_FAMILY_MECHANISMS: dict[KeyFamily, tuple[Mechanism, ...]] = {
    KeyFamily.RSA: (Mechanism.RSA_PKCS_KEY_PAIR_GEN, *_RSA_MECHANISMS.values()),
    KeyFamily.EC: (Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA),
    KeyFamily.ED25519: (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
}
_WRAPPING_MECHANISMS = (Mechanism.AES_KEY_GEN, Mechanism.AES_GCM)


class _Handle(Protocol):
    """A key in the token. The binding mixes the operations in at run time, so that its own types lack them."""

    key_type: KeyType
    sign: Callable[..., bytes]
    encrypt: Callable[..., bytes]
    decrypt: Callable[..., bytes]
    destroy: Callable[[], None]

    def __getitem__(self, attribute: Attribute) -> Any: ...  # noqa: ANN401  # Each attribute has a type of its own.


@dataclass(frozen=True, slots=True)
class AuthorityKey:
    """An authority's key pair in the token."""

    key_id: bytes
    spec: KeySpec
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    label: str
    """Its CKA_LABEL, which names the policy that was sealed with it."""
    handle: _Handle = field(repr=False)
    """The private key, as the binding has it."""


class Module:
    """A token, opened through its module and logged in to. Every error names its CKR code in the metadata `ckr`."""

    def __init__(self, settings: TokenSettings) -> None:
        self._settings = settings
        self._thread = threading.get_ident()
        self._library: pkcs11._pkcs11.lib | None = None
        self._open_session: pkcs11.Session | None = None
        self._authority_keys: dict[bytes, AuthorityKey] = {}
        self._wrapping_keys: dict[bytes, _Handle] = {}
        self._unfit: dict[bytes, str] = {}
        self._refused_pins = RefusedPins(settings.refused_marker)

    @property
    def is_open(self) -> bool:
        """Whether the token can be used; False from the first sign that the session or the device is gone."""
        return self._open_session is not None

    def open(self) -> None:
        """Loads the module, finds the token by its label, logs in, and has every authority key sign.

        A PIN that was refused is not tried again before its file changes. TOKEN_UNAVAILABLE with the remedy.
        """
        self.close()
        settings = self._settings
        pin = read_pin(settings.pin_file)
        try:
            refused = self._refused_pins.code_of(pin)
            if refused is not None:
                raise pin_refused(settings.label, settings.pin_file, refused)
            with self._speaking(), lock.held(settings.lock):
                token = self._find_token()
                try:
                    self._open_session = token.open(rw=True, user_pin=pin.text())
                except pkcs11.PKCS11Error as error:
                    code = code_of(error)
                    if code not in PIN_REFUSED:
                        raise
                    self._refused_pins.remember(pin, code)
                    raise pin_refused(settings.label, settings.pin_file, code) from None
        finally:
            wipe(pin.value)
        self._refused_pins.forget()
        self._test_keys()

    def close(self) -> None:
        """Logs out and forgets every handle."""
        session = self._open_session
        self._abandon()
        if session is not None:
            with contextlib.suppress(pkcs11.PKCS11Error):
                session.close()

    def probe(self) -> None:
        """Asks the token whether it is still there; TOKEN_UNAVAILABLE when it is not."""
        with self._speaking():
            token = self._session().token
            if token.slot.get_token().serial != token.serial:
                raise pkcs11.TokenNotPresent

    def describe(self) -> TokenDescription:
        """Describes module and token."""
        with self._speaking():
            token = self._session().token
            available = set(token.slot.get_mechanisms())
            specs = tuple(spec for spec in KeySpec if _supports(token.slot, spec, available))
        needs = [
            *((_FAMILY_MECHANISMS[family], f"no authority can have a key of kind {family}.") for family in KeyFamily),
            (_WRAPPING_MECHANISMS, "private keys cannot be sealed, so there are no managed certificates."),
        ]
        missing = [
            f"The token lacks {', '.join(f'CKM_{m.name}' for m in needed if m not in available)}: {consequence}"
            for needed, consequence in needs
            if not set(needed) <= available
        ]
        return TokenDescription(
            module=str(self._settings.module),
            label=token.label,
            serial_number=token.serial.decode(errors="replace"),
            manufacturer=token.manufacturer_id,
            model=token.model,
            mechanisms=tuple(f"CKM_{m.name}" for needed, _ in needs for m in needed if m in available),
            missing=(*missing, *self._unfit.values()),
            authority_key_specs=specs,
        )

    def authority_key(self, key_id: bytes) -> AuthorityKey:
        """Returns the authority key with this CKA_ID; TOKEN_UNAVAILABLE when there is none, or it failed its test."""
        if key_id in self._unfit:
            raise unavailable(self._unfit[key_id])
        key = self._authority_keys.get(key_id) or self._find_authority_key(key_id)
        if key is None:
            raise self._no_key("authority", key_id)
        return key

    def create_authority_key(self, key_id: bytes, spec: KeySpec, *, label: str) -> AuthorityKey:
        """Generates a key pair in the token, or returns the one that has this CKA_ID already."""
        with self._speaking(), lock.held(self._settings.lock):
            existing = self._find_authority_key(key_id)
            if existing is not None:
                return existing
            session = self._session()
            # Left by a process that died between the halves of a pair.
            for half in list(session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})):
                half.destroy()
            _generate_pair(session, spec, key_id=key_id, label=label)
            sync_softhsm(self._settings.softhsm_conf)
            return self.authority_key(key_id)

    def sign(self, key_id: bytes, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
        """Hashes and signs `data`; the signature is as X.509 wants it, DER for ECDSA (RFC 3279, section 2.2.3)."""
        with self._speaking():
            try:
                return _sign(self.authority_key(key_id).handle, algorithm, data)
            except _KEY_GONE:
                self._authority_keys.pop(key_id, None)
                return _sign(self.authority_key(key_id).handle, algorithm, data)

    def ensure_wrapping_key(self, key_id: bytes) -> bool:
        """Makes sure that an AES-256 key with this CKA_ID exists; returns whether this call made it."""
        with self._speaking(), lock.held(self._settings.lock):
            if self._find_wrapping_key(key_id) is not None:
                return False
            self._session().generate_key(
                KeyType.AES,
                _WRAPPING_KEY_BITS,
                id=key_id,
                label=WRAPPING_LABEL,
                store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.MODIFIABLE: False},
            )
            sync_softhsm(self._settings.softhsm_conf)
            return True

    def destroy_wrapping_key(self, key_id: bytes) -> bool:
        """Destroys a wrapping key; returns False when there is none. TOKEN_POLICY_FORBIDS for another secret key."""
        with self._speaking(), lock.held(self._settings.lock):
            handle = self._find_wrapping_key(key_id)
            self._wrapping_keys.pop(key_id, None)
            if handle is None:
                return False
            if _label(handle) != WRAPPING_LABEL:
                message = f"The secret key {key_id.hex()} is no wrapping key of certd; use the token's own tool on it."
                raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
            handle.destroy()
            sync_softhsm(self._settings.softhsm_conf)
            return True

    def encrypt(self, key_id: bytes, *, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Encrypts with AES-256-GCM under a wrapping key; the tag of 16 bytes comes last."""
        return self._with_wrapping_key(key_id, lambda key: _encrypt(key, plaintext, GCMParams(nonce, associated_data)))

    def decrypt(self, key_id: bytes, *, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes | None:
        """Opens what `encrypt` made; None when anything of it, or of its associated data, is not as it was."""
        return self._with_wrapping_key(key_id, lambda key: _decrypt(key, ciphertext, GCMParams(nonce, associated_data)))

    def set_pin(self, *, security_officer: bool, old_pin: str, new_pin: str) -> None:
        """Changes a PIN; FIELD_INVALID when the token refuses the old or the new one. Tries once.

        The user's new PIN must be in the PIN file before the token is opened the next time.
        """
        try:
            with self._speaking():
                if security_officer:
                    self._set_officer_pin(old_pin, new_pin)
                else:
                    self._session().set_pin(old_pin, new_pin)
        except CertdError as error:
            code = error.metadata.get("ckr", "")
            if not code.startswith("CKR_PIN"):
                raise
            refused = "old_pin" if code in {"CKR_PIN_INCORRECT", "CKR_PIN_LOCKED"} else "new_pin"
            raise field_invalid(refused, f"the token answered {code} and keeps the PIN that it had") from None

    def _set_officer_pin(self, old_pin: str, new_pin: str) -> None:
        # The security officer can only log in when nobody else is.
        token = self._session().token
        self.close()
        try:
            with lock.held(self._settings.lock):
                officer = token.open(rw=True, so_pin=old_pin)
                try:
                    officer.set_pin(old_pin, new_pin)
                finally:
                    officer.close()
        finally:
            self.open()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Guards every conversation with the module: one thread, and errors that operators understand."""
        if threading.get_ident() != self._thread:
            raise CertdError(Reason.INTERNAL, "A second thread tried to call the PKCS#11 module.")
        try:
            yield
        except pkcs11.PKCS11Error as error:
            code = code_of(error)
            if code not in REQUEST_REFUSED:
                self._abandon()
            message = f"The token {self._settings.label} failed. {explain(code)}"
            retry_after = None if self.is_open else _RETRY_AFTER
            raise unavailable(message, code, retry_after=retry_after) from error

    def _session(self) -> pkcs11.Session:
        if self._open_session is None:
            message = f"The token {self._settings.label} is not open at the moment."
            raise unavailable(message, retry_after=_RETRY_AFTER)
        return self._open_session

    def _abandon(self) -> None:
        """Forgets session and handles, without a word to the module."""
        self._open_session = None
        self._authority_keys.clear()
        self._wrapping_keys.clear()
        self._unfit.clear()

    def _find_token(self) -> pkcs11.Token:
        settings = self._settings
        # Slots and tokens are listed anew only by a module that starts anew.
        if self._library is not None:
            with contextlib.suppress(pkcs11.PKCS11Error):
                self._library.finalize()
        try:
            self._library = pkcs11.lib(str(settings.module))
        except pkcs11.PKCS11Error as error:
            if type(error) is not pkcs11.PKCS11Error:
                raise
            message = f"The module {settings.module} cannot be loaded: {error}. Install it or correct token.module."
            raise unavailable(message, code_of(error)) from error
        try:
            return self._library.get_token(token_label=settings.label)
        except (pkcs11.NoSuchToken, pkcs11.MultipleTokensReturned) as error:
            found = "no token" if isinstance(error, pkcs11.NoSuchToken) else "more than one token"
            message = (
                f"The module {settings.module} has {found} labelled {settings.label}. Connect or initialise it, or "
                "correct token.label, token.module or the module's own configuration."
            )
            raise unavailable(message, "CKR_TOKEN_NOT_PRESENT", retry_after=_RETRY_AFTER) from error

    def _test_keys(self) -> None:
        """Has every authority key sign and verifies it; one that fails is set aside, and `describe` says so."""
        with self._speaking():
            session = self._session()
            for handle in _search(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
                if not _label(handle).startswith(AUTHORITY_LABEL):
                    continue
                key_id = bytes(handle[Attribute.ID])
                try:
                    key = _read_pair(session, handle, key_id)
                    algorithm = default_signature_algorithm(key.spec)
                    signature = _sign(key.handle, algorithm, _SELF_TEST)
                    sound = verify_signature(key.public_key, algorithm, signature=signature, data=_SELF_TEST)
                    finding = "its signature does not verify"
                except pkcs11.PKCS11Error as error:
                    sound, finding = False, explain(code_of(error))
                except CertdError as error:
                    sound, finding = False, error.message
                if sound:
                    self._authority_keys[key_id] = key
                    continue
                self._unfit[key_id] = f"The authority key {key_id.hex()} failed its test and is not used: {finding}"
                _logger.error(self._unfit[key_id])
        # If it was not the key but the token, nothing is open.
        if self._unfit:
            self.probe()

    def _find_authority_key(self, key_id: bytes) -> AuthorityKey | None:
        with self._speaking():
            session = self._session()
            handle = _only(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})
            if handle is None:
                return None
            key = self._authority_keys[key_id] = _read_pair(session, handle, key_id)
            return key

    def _find_wrapping_key(self, key_id: bytes) -> _Handle | None:
        with self._speaking():
            handle = _only(self._session(), {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.ID: key_id})
            if handle is not None:
                self._wrapping_keys[key_id] = handle
            return handle

    def _with_wrapping_key(self, key_id: bytes, work: Callable[[_Handle], _T]) -> _T:
        with self._speaking():
            try:
                return work(self._wrapping_key(key_id))
            except _KEY_GONE:
                self._wrapping_keys.pop(key_id, None)
                return work(self._wrapping_key(key_id))

    def _wrapping_key(self, key_id: bytes) -> _Handle:
        key = self._wrapping_keys.get(key_id) or self._find_wrapping_key(key_id)
        if key is None:
            raise self._no_key("wrapping", key_id)
        return key

    def _no_key(self, kind: str, key_id: bytes) -> CertdError:
        # A token that is gone has no keys either, and that is another error.
        self.probe()
        label = self._settings.label
        message = f"The token {label} has no {kind} key with the id {key_id.hex()}. Restore the token from its backup."
        return unavailable(message)


def _supports(slot: pkcs11.Slot, spec: KeySpec, available: set[Mechanism]) -> bool:
    needed = _FAMILY_MECHANISMS[family_of(default_signature_algorithm(spec))]
    if spec not in _KEY_BITS or not set(needed) <= available:
        # Ed25519 has one size, of which modules disagree whether it is 255 or 256 bits.
        return set(needed) <= available
    information = slot.get_mechanism_info(needed[0])
    # Zero means that the module does not say.
    shortest, longest = information.min_key_length or 0, information.max_key_length or 0
    return not longest or shortest <= _KEY_BITS[spec] <= longest


def _search(session: pkcs11.Session, attributes: Mapping[Attribute, object]) -> list[_Handle]:
    # A search that is not read to its end stays open in the session, and blocks the next.
    return cast("list[_Handle]", list(session.get_objects(dict(attributes))))


def _only(session: pkcs11.Session, attributes: Mapping[Attribute, object]) -> _Handle | None:
    found = _search(session, attributes)
    if len(found) > 1:
        key_id = attributes[Attribute.ID]
        message = f"The token has {len(found)} keys of one kind with the id {key_id!r}. Remove what is not used."
        raise unavailable(message)
    return found[0] if found else None


def _label(handle: _Handle) -> str:
    try:
        return str(handle[Attribute.LABEL])
    except UnicodeDecodeError:
        # Not of ours.
        return ""


def _read_pair(session: pkcs11.Session, handle: _Handle, key_id: bytes) -> AuthorityKey:
    public = _only(session, {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})
    if public is None:
        message = f"The token lacks the public half of the key {key_id.hex()}. Restore the token from its backup."
        raise unavailable(message)
    loaded = _load_public_key(public)
    spec = key_spec_of(loaded)
    if spec is None:
        message = f"The key {key_id.hex()} in the token is of a kind that certd does not use."
        raise unavailable(message)
    encoded = loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return AuthorityKey(key_id, spec, encoded, _label(handle), handle)


def _load_public_key(public: _Handle) -> LoadedKey:
    if public.key_type is KeyType.RSA:
        return from_modulus(public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT])
    return from_point(public[Attribute.EC_PARAMS], public[Attribute.EC_POINT])


def _generate_pair(session: pkcs11.Session, spec: KeySpec, *, key_id: bytes, label: str) -> None:
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


def _sign(key: _Handle, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
    if algorithm in _RSA_MECHANISMS:
        return key.sign(data, mechanism=_RSA_MECHANISMS[algorithm])
    digest = hash_of(algorithm)
    if digest is None:
        return key.sign(data, mechanism=Mechanism.EDDSA)
    # Not every module hashes for ECDSA, SoftHSM among them.
    raw = key.sign(hashlib.new(digest.name, data).digest(), mechanism=Mechanism.ECDSA)
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _encrypt(key: _Handle, plaintext: bytes, parameters: GCMParams) -> bytes:
    return key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)


def _decrypt(key: _Handle, ciphertext: bytes, parameters: GCMParams) -> bytes | None:
    try:
        return key.decrypt(ciphertext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
    except (pkcs11.EncryptedDataInvalid, pkcs11.EncryptedDataLenRange):
        return None
    except (pkcs11.GeneralError, pkcs11.FunctionFailed):
        # SoftHSM says CKR_GENERAL_ERROR to a wrong tag, but also when it is broken. If the key still opens what it has
        # just sealed, the token is well; if not, this raises too.
        probe = GCMParams(secrets.token_bytes(12), b"")
        key.decrypt(_encrypt(key, _SELF_TEST, probe), mechanism=Mechanism.AES_GCM, mechanism_param=probe)
        return None
