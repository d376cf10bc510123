"""Codes of PKCS#11: what each means for an operator, in a sentence, and what it means for the session."""

import re
from pathlib import Path
from typing import Final

from certd.errors import CertdError, Reason

ADVICE: dict[str, str] = {
    "CKR_HOST_MEMORY": "The module ran out of memory; free some on this host or raise the unit's limit.",
    "CKR_SLOT_ID_INVALID": "The slot is gone; the token is searched again by its label.",
    "CKR_GENERAL_ERROR": "The module cannot go on; look into its own log, its configuration and its storage.",
    "CKR_FUNCTION_FAILED": "The module could not do it; look into its own log and whether its device answers.",
    "CKR_ARGUMENTS_BAD": "The module did not accept the call; its version may not fit, see its release notes.",
    "CKR_ACTION_PROHIBITED": "The token's policy forbids this; allow it there or use another token.",
    "CKR_ATTRIBUTE_READ_ONLY": "The token does not let this attribute be set; its policy must allow key generation.",
    "CKR_ATTRIBUTE_SENSITIVE": "The token does not give this value away, and that is right.",
    "CKR_ATTRIBUTE_TYPE_INVALID": "The token does not know an attribute; it may be too old for this key spec.",
    "CKR_ATTRIBUTE_VALUE_INVALID": "The token does not support this kind or size of key; choose another key spec.",
    "CKR_DATA_INVALID": "The token refused the data; this should not happen, report it.",
    "CKR_DATA_LEN_RANGE": "The token refused data of this length; choose another key spec.",
    "CKR_DEVICE_ERROR": "The device failed; check its cable, network, power and its own log.",
    "CKR_DEVICE_MEMORY": "The token is full; delete objects that are no longer needed or extend the partition.",
    "CKR_DEVICE_REMOVED": "The token was removed; put it back or restore the connection to it.",
    "CKR_DOMAIN_PARAMS_INVALID": "The token does not support this curve; choose another key spec.",
    "CKR_ENCRYPTED_DATA_INVALID": "The token could not decrypt; the data was altered or belongs elsewhere.",
    "CKR_ENCRYPTED_DATA_LEN_RANGE": "The token could not decrypt; the data was cut short or belongs elsewhere.",
    "CKR_FUNCTION_CANCELED": "The device cancelled the operation; it may be shutting down.",
    "CKR_FUNCTION_NOT_SUPPORTED": "The module lacks a function that certd needs; use another or a newer one.",
    "CKR_FUNCTION_REJECTED": "Somebody rejected the operation at the device; confirm it there.",
    "CKR_KEY_FUNCTION_NOT_PERMITTED": "The key may not be used for this; it was not made by certd.",
    "CKR_KEY_HANDLE_INVALID": "The key is gone from the token; restore the token from its backup.",
    "CKR_KEY_SIZE_RANGE": "The token does not support keys of this size; choose another key spec.",
    "CKR_KEY_TYPE_INCONSISTENT": "The key is of another kind than expected; an id was used twice in this token.",
    "CKR_KEY_UNEXTRACTABLE": "The key may not leave the token, and that is right.",
    "CKR_MECHANISM_INVALID": "The token lacks a mechanism; see what GetServerInfo lists as missing.",
    "CKR_MECHANISM_PARAM_INVALID": "The token does not accept the parameters of a mechanism; it may be too old.",
    "CKR_OBJECT_HANDLE_INVALID": "The key is gone from the token; restore the token from its backup.",
    "CKR_OPERATION_ACTIVE": "The session is busy with something unfinished; it is opened again.",
    "CKR_OPERATION_NOT_INITIALIZED": "The session lost its place; it is opened again.",
    "CKR_PIN_EXPIRED": "The PIN has expired; change it with the token's own tool and write it to the PIN file.",
    "CKR_PIN_INCORRECT": "The PIN is wrong; write the right one to the PIN file.",
    "CKR_PIN_INVALID": "The token does not accept this PIN; it may hold characters that the token forbids.",
    "CKR_PIN_LEN_RANGE": "The PIN is too short or too long for this token; SoftHSM wants 4 to 255 characters.",
    "CKR_PIN_LOCKED": "The PIN is locked after too many attempts; unlock it, then write the PIN file.",
    "CKR_PIN_TOO_WEAK": "The token finds the PIN too weak; choose a longer one.",
    "CKR_RANDOM_NO_RNG": "The token has no random number generator and cannot make keys; use another token.",
    "CKR_SESSION_CLOSED": "The session was closed by the token; it is opened again.",
    "CKR_SESSION_COUNT": "The token has no session left; end other programs that use it or raise its limit.",
    "CKR_SESSION_EXISTS": "Another session is open; end other programs that use this token and try again.",
    "CKR_SESSION_HANDLE_INVALID": "The session is gone, perhaps after a restart of the device; it is opened again.",
    "CKR_SESSION_READ_ONLY": "The token allows no writing in this session; check whether it is write-protected.",
    "CKR_SESSION_READ_ONLY_EXISTS": "A read-only session is open; end other programs that use this token.",
    "CKR_SESSION_READ_WRITE_SO_EXISTS": "The security officer is logged in elsewhere; end that session.",
    "CKR_SIGNATURE_INVALID": "The signature does not verify; the key or its device is damaged.",
    "CKR_SIGNATURE_LEN_RANGE": "The signature does not verify; the key or its device is damaged.",
    "CKR_TEMPLATE_INCOMPLETE": "The token wants more attributes for a key than certd gives; it may not be supported.",
    "CKR_TEMPLATE_INCONSISTENT": "The token refuses the attributes of a key; its policy may forbid such keys.",
    "CKR_TOKEN_NOT_PRESENT": "The token is not in its slot; put it back or restore the connection to it.",
    "CKR_TOKEN_NOT_RECOGNIZED": "The module does not recognise the token; check that it fits this module.",
    "CKR_TOKEN_WRITE_PROTECTED": "The token is write-protected; remove the protection to create keys.",
    "CKR_USER_ALREADY_LOGGED_IN": "The user is logged in already; another thread or a fork uses this module.",
    "CKR_USER_ANOTHER_ALREADY_LOGGED_IN": "Another user is logged in to the token; end that session.",
    "CKR_USER_NOT_LOGGED_IN": "The token ended the login; it is repeated.",
    "CKR_USER_PIN_NOT_INITIALIZED": "The token has no user PIN yet; initialise it as security officer.",
    "CKR_USER_TOO_MANY_TYPES": "Too many users are logged in to the token; end other sessions.",
    "CKR_VENDOR_DEFINED": "The module answered with a code of its own; look it up in its manual.",
}
"""Code by code. What is missing here is answered with the name of the code alone."""


KEY_MISSING: Final = "CKR_KEY_HANDLE_INVALID"
"""Of a key that is not in the token, which no waiting brings back."""

PIN_REFUSED: frozenset[str] = frozenset(
    {"CKR_PIN_INCORRECT", "CKR_PIN_LOCKED", "CKR_PIN_EXPIRED", "CKR_PIN_INVALID", "CKR_PIN_LEN_RANGE"}
)
"""Answers to a login after which the same PIN is never tried again."""

REQUEST_REFUSED: frozenset[str] = PIN_REFUSED | {
    "CKR_ACTION_PROHIBITED",
    "CKR_ARGUMENTS_BAD",
    "CKR_ATTRIBUTE_READ_ONLY",
    "CKR_ATTRIBUTE_SENSITIVE",
    "CKR_ATTRIBUTE_TYPE_INVALID",
    "CKR_ATTRIBUTE_VALUE_INVALID",
    "CKR_DATA_INVALID",
    "CKR_DATA_LEN_RANGE",
    "CKR_DEVICE_MEMORY",
    "CKR_DOMAIN_PARAMS_INVALID",
    "CKR_ENCRYPTED_DATA_INVALID",
    "CKR_ENCRYPTED_DATA_LEN_RANGE",
    "CKR_FUNCTION_NOT_SUPPORTED",
    "CKR_FUNCTION_REJECTED",
    "CKR_KEY_FUNCTION_NOT_PERMITTED",
    "CKR_KEY_HANDLE_INVALID",
    "CKR_KEY_SIZE_RANGE",
    "CKR_KEY_TYPE_INCONSISTENT",
    "CKR_KEY_UNEXTRACTABLE",
    "CKR_MECHANISM_INVALID",
    "CKR_MECHANISM_PARAM_INVALID",
    "CKR_OBJECT_HANDLE_INVALID",
    "CKR_PIN_TOO_WEAK",
    "CKR_SESSION_READ_ONLY",
    "CKR_SIGNATURE_INVALID",
    "CKR_SIGNATURE_LEN_RANGE",
    "CKR_TEMPLATE_INCOMPLETE",
    "CKR_TEMPLATE_INCONSISTENT",
    "CKR_TOKEN_WRITE_PROTECTED",
}
"""Answers that concern one request. After any other the token is opened again before anything else is asked of it."""

_IRREGULAR_NAMES = {
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "RandomNoRNG": "CKR_RANDOM_NO_RNG",
    "SessionReadWriteSOExists": "CKR_SESSION_READ_WRITE_SO_EXISTS",
    "SlotIDInvalid": "CKR_SLOT_ID_INVALID",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
}
_UNNAMED_CODES = {0x1B: "CKR_ACTION_PROHIBITED", 0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED"}
_VENDOR_DEFINED = 0x8000_0000


def code_of(error: Exception) -> str:
    """Returns the CKR name of an exception of python-pkcs11, whose classes are named after the codes."""
    name = type(error).__name__
    if name == "PKCS11Error":
        number = re.search(r"0x[0-9a-f]+", str(error))
        code = int(number[0], 16) if number else 0
        return "CKR_VENDOR_DEFINED" if code >= _VENDOR_DEFINED else _UNNAMED_CODES.get(code, "CKR_GENERAL_ERROR")
    return _IRREGULAR_NAMES.get(name) or "CKR_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def explain(code: str) -> str:
    """Returns the code with its advice."""
    advice = ADVICE.get(code, "See the manual of the module.")
    return f"{code}: {advice}"


def unavailable(message: str, code: str = "", *, retry_after: float | None = None) -> CertdError:
    """Returns the error of a token that did not do it."""
    return CertdError(Reason.TOKEN_UNAVAILABLE, message, metadata={"ckr": code}, retry_after=retry_after)


def pin_refused(label: str, pin_file: Path, code: str) -> CertdError:
    """Returns the error of a token whose PIN is wrong."""
    message = (
        f"The token {label} refused the PIN in {pin_file}. {explain(code)} It is tried again as soon as that file "
        "changes, and not before, because tokens lock after a few wrong PINs."
    )
    return unavailable(message, code)
