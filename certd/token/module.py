"""The PKCS#11 module. Only this and `objects` import `pkcs11`, and one thread of one process calls what is here.

python-pkcs11 tells the module that there is one thread, yet lets go of the interpreter's lock around every call: two
threads, even with a session each, crash the process. So `Module` refuses every thread but the one that made it.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass
from pkcs11.mechanisms import GCMParams

from certd.errors import CertdError, Reason, field_invalid
from certd.pki.key_spec import (
    KeyFamily,
    KeySpec,
    SignatureAlgorithm,
)
from certd.token import lock, objects
from certd.token.advice import KEY_MISSING, PIN_REFUSED, REQUEST_REFUSED, code_of, explain, pin_refused, unavailable
from certd.token.description import TokenDescription
from certd.token.durable import missing_softhsm, sync_softhsm
from certd.token.pin import RefusedPins, read_pin, wipe
from certd.token.settings import TokenSettings

_logger = logging.getLogger(__name__)

AUTHORITY_LABEL = "certd authority policy sha256:"
"""What the CKA_LABEL of an authority key begins with; the hash of its policy in hexadecimal follows."""
WRAPPING_LABEL = "certd wrapping key"
_RETRY_AFTER = 1.0

_T = TypeVar("_T")

_KEY_GONE = (pkcs11.KeyHandleInvalid, pkcs11.ObjectHandleInvalid)
_WRAPPING_MECHANISMS = (Mechanism.AES_KEY_GEN, Mechanism.AES_GCM)


class Module:
    """A token, opened through its module and logged in to. Every error names its CKR code in the metadata `ckr`."""

    def __init__(self, settings: TokenSettings) -> None:
        self._settings = settings
        self._thread = threading.get_ident()
        self._library: pkcs11._pkcs11.lib | None = None
        self._open_session: pkcs11.Session | None = None
        self._authority_keys: dict[bytes, objects.AuthorityKey] = {}
        self._wrapping_keys: dict[bytes, objects.Handle] = {}
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
        missing = missing_softhsm(settings.softhsm_conf)
        if missing is not None:
            # SoftHSM itself would only say that it cannot go on.
            raise unavailable(
                f"The token {settings.label} is gone: there is no {missing}, where SoftHSM keeps it. Put it back, or "
                "restore it from its backup (certd restore); only where there is none, initialise a new token in its "
                'place, as "Wrapping keys in escrow" in certd\'s README tells: what the old one signed and opened is '
                "out of reach then."
            )
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
            specs = tuple(spec for spec in KeySpec if objects.supports(token.slot, spec, available))
        needs = [
            *(
                (objects.FAMILY_MECHANISMS[family], f"no authority can have a key of kind {family}.")
                for family in KeyFamily
            ),
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

    def authority_key(self, key_id: bytes) -> objects.AuthorityKey:
        """Returns the authority key with this CKA_ID; TOKEN_UNAVAILABLE when there is none, or it failed its test."""
        if key_id in self._unfit:
            raise unavailable(self._unfit[key_id])
        key = self._authority_keys.get(key_id) or self._find_authority_key(key_id)
        if key is None:
            raise self._no_key("authority", key_id)
        return key

    def create_authority_key(self, key_id: bytes, spec: KeySpec, *, label: str) -> objects.AuthorityKey:
        """Generates a key pair in the token, or returns the one that has this CKA_ID already."""
        with self._speaking(), lock.held(self._settings.lock):
            existing = self._find_authority_key(key_id)
            session = self._session()
            if existing is not None:
                if not (objects.was_left_unfinished(existing.handle) and objects.failure_of(existing)):
                    return existing
                # If it was not the key but the token, nothing is destroyed.
                self.probe()
                _logger.warning("the authority key %s was left unfinished, and is made anew", key_id.hex())
                self._authority_keys.pop(key_id, None)
                self._unfit.pop(key_id, None)
                existing.handle.destroy()
            # Left by a process that died between the halves of a pair, or in the second one.
            for half in objects.search(session, {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id}):
                half.destroy()
            objects.generate_pair(session, spec, key_id=key_id, label=label)
            sync_softhsm(self._settings.softhsm_conf)
            return self.authority_key(key_id)

    def destroy_authority_key(self, key_id: bytes, *, label: str) -> bool:
        """Destroys both halves of an authority key; returns False when there is no private one.

        TOKEN_POLICY_FORBIDS, with nothing destroyed, when the key has another CKA_LABEL.
        """
        with self._speaking(), lock.held(self._settings.lock):
            session = self._session()
            private, public = (
                objects.search(session, {Attribute.CLASS: half, Attribute.ID: key_id})
                for half in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
            )
            if any(objects.label_of(handle) != label for handle in private):
                message = f"The key {key_id.hex()} is no authority key of certd, or one with another policy."
                raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
            self._authority_keys.pop(key_id, None)
            self._unfit.pop(key_id, None)
            # The private half first: what a process leaves that dies in between signs nothing.
            for handle in private:
                handle.destroy()
            for handle in public:
                # That of a key which was adopted has the label that it came with.
                if private or objects.label_of(handle) == label:
                    handle.destroy()
            sync_softhsm(self._settings.softhsm_conf)
            return bool(private)

    def foreign_key(self, key_id: bytes, *, label: str) -> objects.ForeignKey:
        """Returns a private key that another program made or imported, and that is to have this CKA_LABEL.

        FIELD_INVALID when there is none, or several, or one without a public half or of a kind that no authority has.
        """
        with self._speaking():
            session = self._session()
            private, public = (
                objects.search(session, {Attribute.CLASS: half, Attribute.ID: key_id})
                for half in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
            )
            if not private:
                problem = f"is the CKA_ID of no private key in the token {self._settings.label}"
                raise field_invalid("key_id", f"{problem}; list its objects with the token's own tool")
            # Who died while it was sealed has left the original beside the copy.
            private = [one for one in private if objects.is_sealed(one, label)] or private
            if len(private) > 1 or len(public) > 1:
                raise field_invalid("key_id", "is the CKA_ID of several keys; give each one of its own first")
            if not public:
                raise field_invalid("key_id", "names a private key without a public one; write that beside it first")
            found = objects.foreign_key(private[0], public[0], key_id)
            if found is None:
                raise field_invalid("key_id", f"names a key that is none of {', '.join(KeySpec)}")
            return found

    def seal_key(self, found: objects.ForeignKey, label: str) -> bool:
        """Gives a private key another CKA_LABEL for ever; returns False when this token lets it be changed again.

        It is an authority key from then on. A copy takes its place; whoever dies in between calls again.
        """
        with self._speaking(), lock.held(self._settings.lock):
            pair = found.pair
            sealed = objects.is_sealed(pair.handle, label) or objects.sealed_copy(pair.handle, label)
            if not sealed and pair.label != label:
                pair.handle[Attribute.LABEL] = label
            sync_softhsm(self._settings.softhsm_conf)
            self._authority_keys.pop(pair.key_id, None)
            if sealed:
                wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: pair.key_id}
                for one in objects.search(self._session(), wanted):
                    # No other key than the one that was copied.
                    same = not objects.failure_of(replace(pair, handle=one))
                    if same and not objects.is_sealed(one, label):
                        one.destroy()
                sync_softhsm(self._settings.softhsm_conf)
            return sealed

    def sign(self, key_id: bytes, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
        """Hashes and signs `data`; the signature is as X.509 wants it, DER for ECDSA (RFC 3279, section 2.2.3)."""
        with self._speaking():
            try:
                return objects.sign(self.authority_key(key_id).handle, algorithm, data)
            except _KEY_GONE:
                self._authority_keys.pop(key_id, None)
                return objects.sign(self.authority_key(key_id).handle, algorithm, data)

    def has_wrapping_key(self, key_id: bytes) -> bool:
        """Returns whether there is a wrapping key with this CKA_ID that can be used."""
        with self._speaking():
            found = self._find_wrapping_key(key_id)
            return found is not None and not _is_unfinished(found)

    def ensure_wrapping_key(self, key_id: bytes, *, value: bytes | None = None) -> bool:
        """Makes sure that an AES-256 key with this CKA_ID exists; returns whether this call made it.

        The token generates it, unless its value is given, 32 random bytes that somebody else keeps as well.
        """
        with self._speaking(), lock.held(self._settings.lock):
            existing = self._find_wrapping_key(key_id)
            if existing is not None:
                if not _is_unfinished(existing):
                    return False
                self.probe()
                _logger.warning("the wrapping key %s was left unfinished, and is made anew", key_id.hex())
                self._wrapping_keys.pop(key_id, None)
                existing.destroy()
            objects.make_wrapping_key(self._session(), key_id=key_id, label=WRAPPING_LABEL, value=value)
            sync_softhsm(self._settings.softhsm_conf)
            return True

    def destroy_wrapping_key(self, key_id: bytes) -> bool:
        """Destroys a wrapping key; returns False when there is none. TOKEN_POLICY_FORBIDS for another secret key."""
        with self._speaking(), lock.held(self._settings.lock):
            handle = self._find_wrapping_key(key_id)
            self._wrapping_keys.pop(key_id, None)
            if handle is None:
                return False
            if objects.label_of(handle) != WRAPPING_LABEL:
                message = f"The secret key {key_id.hex()} is no wrapping key of certd; use the token's own tool on it."
                raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
            handle.destroy()
            sync_softhsm(self._settings.softhsm_conf)
            return True

    def encrypt(self, key_id: bytes, *, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Encrypts with AES-256-GCM under a wrapping key; the tag of 16 bytes comes last."""
        return self._with_wrapping_key(
            key_id, lambda key: objects.encrypt(key, plaintext, GCMParams(nonce, associated_data))
        )

    def decrypt(self, key_id: bytes, *, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes | None:
        """Opens what `encrypt` made; None when anything of it, or of its associated data, is not as it was."""
        return self._with_wrapping_key(
            key_id, lambda key: objects.decrypt(key, ciphertext, GCMParams(nonce, associated_data))
        )

    def list_keys(self, *, after: bytes, limit: int) -> list[objects.ListedKey]:
        """Returns `limit` private and secret keys behind a CKA_ID, by their CKA_IDs, and more with the last id."""
        with self._speaking():
            session = self._session()
            found = [
                objects.ListedKey(bytes(handle[Attribute.ID]), objects.label_of(handle), kind is ObjectClass.SECRET_KEY)
                for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
                for handle in objects.search(session, {Attribute.CLASS: kind})
            ]
        behind = sorted((one for one in found if one.key_id > after), key=lambda one: one.key_id)
        return [one for one in behind if one.key_id <= behind[:limit][-1].key_id] if behind else []

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
            for handle in objects.search(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
                if not objects.label_of(handle).startswith(AUTHORITY_LABEL):
                    continue
                key_id = bytes(handle[Attribute.ID])
                try:
                    key = objects.read_pair(session, handle, key_id)
                    finding = objects.failure_of(key)
                except pkcs11.PKCS11Error as error:
                    finding = explain(code_of(error))
                except CertdError as error:
                    finding = error.message
                if not finding:
                    self._authority_keys[key_id] = key
                    continue
                self._unfit[key_id] = f"The authority key {key_id.hex()} failed its test and is not used: {finding}"
                _logger.error(self._unfit[key_id])
        # If it was not the key but the token, nothing is open.
        if self._unfit:
            self.probe()

    def _find_authority_key(self, key_id: bytes) -> objects.AuthorityKey | None:
        with self._speaking():
            session = self._session()
            handle = objects.only(session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})
            if handle is None:
                return None
            key = self._authority_keys[key_id] = objects.read_pair(session, handle, key_id)
            return key

    def _find_wrapping_key(self, key_id: bytes) -> objects.Handle | None:
        with self._speaking():
            handle = objects.only(self._session(), {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.ID: key_id})
            if handle is not None:
                self._wrapping_keys[key_id] = handle
            return handle

    def _with_wrapping_key(self, key_id: bytes, work: Callable[[objects.Handle], _T]) -> _T:
        with self._speaking():
            try:
                return work(self._wrapping_key(key_id))
            except _KEY_GONE:
                self._wrapping_keys.pop(key_id, None)
                return work(self._wrapping_key(key_id))

    def _wrapping_key(self, key_id: bytes) -> objects.Handle:
        key = self._wrapping_keys.get(key_id) or self._find_wrapping_key(key_id)
        if key is None:
            raise self._no_key("wrapping", key_id)
        return key

    def _no_key(self, kind: str, key_id: bytes) -> CertdError:
        # A token that is gone has no keys either, and that is another error.
        self.probe()
        label = self._settings.label
        message = f"The token {label} has no {kind} key with the id {key_id.hex()}. Restore the token from its backup."
        return unavailable(message, KEY_MISSING)


def _is_unfinished(key: objects.Handle) -> bool:
    return objects.was_left_unfinished(key) and bool(objects.failure_of_wrapping(key))
