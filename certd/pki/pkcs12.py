"""Certificates, and a private key, in one file under a passphrase: PKCS#12 (RFC 7292).

The modern form is assembled here, for the cryptographic library has no way to set the rounds of the MAC. It makes
2,048, and a passphrase is tried against whatever is quickest; a file that hashes 250,000 times everywhere else would be
as weak as that. The legacy form, which is weak whatever one does, is the library's.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import PrivateFormat, load_der_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import PBES, serialize_key_and_certificates
from cryptography.x509.oid import NameOID

from certd.errors import field_invalid
from certd.pki import der, pbes2
from certd.pki.key_spec import public_key_der
from certd.pki.pkcs8 import PASSPHRASE_BYTES
from certd.pki.pkcs8 import check_passphrase as check_length

ROUNDS: Final = 250_000
"""Of each: the encryption of the key, that of the certificates, and the MAC. .NET reads no more than 300,000 in one."""
_LEGACY_ROUNDS: Final = 2048
_ROUNDS_BETWEEN_PAUSES: Final = 256

_SALT_BYTES: Final = 16
_HASH_BLOCK_BYTES: Final = 64
_FOR_MAC: Final = b"\x03"
_VERSION: Final = 3

_DATA: Final = der.object_identifier("1.2.840.113549.1.7.1")
_ENCRYPTED_DATA: Final = der.object_identifier("1.2.840.113549.1.7.6")
_SHROUDED_KEY_BAG: Final = der.object_identifier("1.2.840.113549.1.12.10.1.2")
_CERTIFICATE_BAG: Final = der.object_identifier("1.2.840.113549.1.12.10.1.3")
_X509_CERTIFICATE: Final = der.object_identifier("1.2.840.113549.1.9.22.1")
_FRIENDLY_NAME: Final = der.object_identifier("1.2.840.113549.1.9.20")
_LOCAL_KEY_ID: Final = der.object_identifier("1.2.840.113549.1.9.21")
_JAVA_TRUSTED_KEY_USAGE: Final = der.object_identifier("2.16.840.1.113894.746875.1.1")
_ANY_EXTENDED_KEY_USAGE: Final = der.object_identifier("2.5.29.37.0")
_SHA256: Final = der.object_identifier("2.16.840.1.101.3.4.2.1")
_IMPLICIT_OCTETS: Final = 0x80
"""Tag of `[0] IMPLICIT OCTET STRING`."""

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def check_passphrase(passphrase: bytes, field: str, *, longest: int = PASSPHRASE_BYTES.stop - 1) -> None:
    """Checks a passphrase of PKCS#12, which is text; FIELD_INVALID with its bounds, never its bytes."""
    check_length(passphrase, field, longest=longest)
    _text(passphrase, field)


def encrypt(
    private_key_info: bytes,
    certificates: Sequence[bytes],
    passphrase: bytes,
    *,
    friendly_name: str,
    legacy: bool = False,
    pause: Callable[[], None] = lambda: None,
) -> bytes:
    """Returns the DER of a PKCS#12 with a private key, its certificate, and those above it.

    PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC, and a MAC with HMAC-SHA256, 250,000 rounds each; about 0.2 s.
    `legacy`: 3DES and SHA-1 with 2,048 rounds, for what reads nothing else.

    Args:
        private_key_info: DER of the PKCS#8 PrivateKeyInfo.
        certificates: DER, the one that holds the key first, then its issuer, the root last.
        passphrase: 8 to 1,024 bytes of UTF-8.
        friendly_name: name of the entry.
        legacy: whether it is for old readers.
        pause: called many times in between, while this would hold the interpreter.

    FIELD_INVALID when the passphrase is none, or the first certificate does not hold the key.
    """
    check_passphrase(passphrase, "passphrase")
    private_key = _private_key_of(private_key_info, certificates)
    if legacy:
        return _legacy(private_key, certificates, passphrase, friendly_name)
    leaf, *others = certificates
    attributes = (_friendly_name(friendly_name), _attribute(_LOCAL_KEY_ID, der.octet_string(_fingerprint(leaf))))
    bags = [_certificate_bag(leaf, attributes), *(_certificate_bag(other, ()) for other in others)]
    algorithm, encrypted = pbes2.encrypt(private_key_info, passphrase, rounds=ROUNDS)
    shrouded = der.sequence(algorithm, der.octet_string(encrypted))
    key_bag = _bag(_SHROUDED_KEY_BAG, shrouded, attributes)
    return _authenticated((_encrypted_contents(bags, passphrase), _contents((key_bag,))), passphrase, pause)


def truststore(certificates: Sequence[bytes], passphrase: bytes) -> bytes:
    """Returns the DER of a PKCS#12 with certificates (DER) alone, which Java takes as trusted ones.

    Each entry is named after its subject. FIELD_INVALID when the passphrase or a certificate is none.
    """
    check_passphrase(passphrase, "passphrase")
    if not certificates:
        raise field_invalid("certificates", "must be one at least; Java opens no empty file")
    # As Java marks what it trusts, and for what: for everything.
    trusted = _attribute(_JAVA_TRUSTED_KEY_USAGE, _ANY_EXTENDED_KEY_USAGE)
    bags = [
        _certificate_bag(certificate, (_friendly_name(name), trusted))
        for certificate, name in zip(certificates, _names_of(certificates), strict=True)
    ]
    return _authenticated((_encrypted_contents(bags, passphrase),), passphrase, lambda: None)


def _text(passphrase: bytes, field: str) -> str:
    try:
        text = passphrase.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise field_invalid(field, "must be text of UTF-8 without NUL, which PKCS#12 writes in another encoding")
    return text


def _private_key_of(private_key_info: bytes, certificates: Sequence[bytes]) -> _PrivateKey:
    """Returns the private key; FIELD_INVALID when the first certificate does not hold it."""
    try:
        # It was checked when it was made or imported, which takes long.
        private_key = load_der_private_key(private_key_info, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise field_invalid("private_key", "is no PrivateKeyInfo of a kind that certd knows") from error
    if not isinstance(private_key, _PrivateKey):
        raise field_invalid("private_key", "is of a kind that PKCS#12 has no place for")
    if not certificates or public_key_of(certificates[0]) != public_key_der(private_key.public_key()):
        raise field_invalid("certificates", "must begin with the certificate that holds the key")
    return private_key


def public_key_of(certificate: bytes) -> bytes:
    """Returns the DER of the SubjectPublicKeyInfo of a certificate; FIELD_INVALID when it is none."""
    try:
        return public_key_der(_certificate(certificate).public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise field_invalid("certificates", "has one whose key is of a kind that certd does not know") from error


def _certificate(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise field_invalid("certificates", "has something that is no certificate") from error


def _legacy(private_key: _PrivateKey, certificates: Sequence[bytes], passphrase: bytes, friendly_name: str) -> bytes:
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_LEGACY_ROUNDS)
        .key_cert_algorithm(PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(SHA1())  # noqa: S303  # What old readers know.
        .build(passphrase)
    )
    leaf, *others = map(_certificate, certificates)
    return serialize_key_and_certificates(friendly_name.encode(), private_key, leaf, others, encryption)


def _authenticated(contents: Iterable[bytes], passphrase: bytes, pause: Callable[[], None]) -> bytes:
    """Returns the PFX (RFC 7292, section 4)."""
    safe = der.sequence(*contents)
    salt = secrets.token_bytes(_SALT_BYTES)
    mac = hmac.digest(_mac_key(_text(passphrase, "passphrase"), salt, pause), safe, "sha256")
    digest_info = der.sequence(der.sequence(_SHA256, der.encode(der.NULL, b"")), der.octet_string(mac))
    return der.sequence(
        der.integer(_VERSION),
        _content_info(_DATA, der.octet_string(safe)),
        der.sequence(digest_info, der.octet_string(salt), der.integer(ROUNDS)),
    )


def _mac_key(passphrase: str, salt: bytes, pause: Callable[[], None]) -> bytes:
    """Returns the key of the MAC (RFC 7292, appendix B.2), for which one output of SHA-256 suffices."""
    password = passphrase.encode("utf-16-be") + b"\0\0"
    digest = hashlib.sha256(_FOR_MAC * _HASH_BLOCK_BYTES + _filled(salt) + _filled(password)).digest()
    for number in range(1, ROUNDS):
        digest = hashlib.sha256(digest).digest()
        if number % _ROUNDS_BETWEEN_PAUSES == 0:
            pause()
    return digest


def _filled(data: bytes) -> bytes:
    """Returns `data` again and again, cut where it fills blocks of the hash."""
    length = -(-len(data) // _HASH_BLOCK_BYTES) * _HASH_BLOCK_BYTES
    return (data * (length // len(data) + 1))[:length]


def _contents(bags: Iterable[bytes]) -> bytes:
    """Returns SafeContents that stand open."""
    return _content_info(_DATA, der.octet_string(der.sequence(*bags)))


def _encrypted_contents(bags: Iterable[bytes], passphrase: bytes) -> bytes:
    """Returns SafeContents that are encrypted."""
    algorithm, encrypted = pbes2.encrypt(der.sequence(*bags), passphrase, rounds=ROUNDS)
    content = der.sequence(_DATA, algorithm, der.encode(_IMPLICIT_OCTETS, encrypted))
    return _content_info(_ENCRYPTED_DATA, der.sequence(der.integer(0), content))


def _content_info(kind: bytes, content: bytes) -> bytes:
    return der.sequence(kind, der.encode(der.context(0), content))


def _certificate_bag(certificate: bytes, attributes: Sequence[bytes]) -> bytes:
    value = der.sequence(_X509_CERTIFICATE, der.encode(der.context(0), der.octet_string(certificate)))
    return _bag(_CERTIFICATE_BAG, value, attributes)


def _bag(kind: bytes, value: bytes, attributes: Sequence[bytes]) -> bytes:
    return der.sequence(kind, der.encode(der.context(0), value), *((der.set_of(attributes),) if attributes else ()))


def _attribute(kind: bytes, value: bytes) -> bytes:
    return der.sequence(kind, der.set_of((value,)))


def _friendly_name(name: str) -> bytes:
    return _attribute(_FRIENDLY_NAME, der.encode(der.BMP_STRING, name.encode("utf-16-be")))


def _fingerprint(certificate: bytes) -> bytes:
    """Returns what ties a key to its certificate."""
    return hashlib.sha256(certificate).digest()


def _names_of(certificates: Sequence[bytes]) -> list[str]:
    """Returns a name for each certificate, no two the same, in whatever case."""
    names: list[str] = []
    taken: set[str] = set()
    for certificate in certificates:
        subject = _certificate(certificate).subject
        common = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        base = str(common[0].value) if common else subject.rfc4514_string() or "certificate"
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base} ({number})"
        taken.add(name.lower())
        names.append(name)
    return names
