"""Import keys: to which clients seal the private keys that they import, so that nobody between sees them.

The key pair is made in the token process, which states whose it is, which one and until when; an authority's key signs
that. A client seals to no key whose statement a root of its own trust has not signed. The HPKE info holds the
statement, the public key of the certificate and whether the private key may be exported, so that what was sealed opens
as a message to this tenant and this key alone, and neither for another certificate nor under another export policy.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, field_invalid
from certd.pki.key_spec import SignatureAlgorithm, public_key_der, verify_signature
from certd.pki.lease import microseconds_of, time_of
from certd.pki.sealing import RECIPIENT_PUBLIC_KEY_BYTES, canonical, hpke_decrypt, hpke_encrypt

PRIVATE_KEY_BYTES = 32
"""Raw X25519 (RFC 7748)."""

_DOMAIN = b"certd.import-key.v1"
_INFO_DOMAIN = b"certd.import.v1"
_LONGEST_STATEMENT = 1024
_TIME_BYTES = 8
_ASK_AGAIN = "ask for the import key again, and tell whoever runs the server if that does not help"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKeyStatement:
    """What is said of an import key."""

    tenant: str
    """Opaque uid of the tenant whose certificates may be imported with it."""
    import_key_id: str
    public_key: bytes
    """Raw X25519, 32 bytes."""
    expire_time: datetime


def import_key_statement(*, tenant: str, import_key_id: str, public_key: bytes, expire_time: datetime) -> bytes:
    """Returns the statement: canonical, so that no two say the same and none says two things.

    Args:
        tenant: opaque uid of the tenant.
        import_key_id: id of the key.
        public_key: raw X25519, 32 bytes.
        expire_time: aware; to the microsecond.

    Raises FIELD_INVALID when one of them is out of its bounds.
    """
    if len(public_key) != RECIPIENT_PUBLIC_KEY_BYTES:
        raise field_invalid("public_key", f"must be a raw X25519 key of {RECIPIENT_PUBLIC_KEY_BYTES} bytes")
    microseconds = microseconds_of(expire_time)
    if microseconds < 0:
        raise field_invalid("expire_time", "must not be before 1970")
    if not tenant or not import_key_id:
        raise field_invalid("import_key", "must name a tenant and a key")
    statement = canonical(
        _DOMAIN, tenant.encode(), import_key_id.encode(), public_key, microseconds.to_bytes(_TIME_BYTES)
    )
    if len(statement) > _LONGEST_STATEMENT:
        raise field_invalid("import_key", f"makes a statement of more than {_LONGEST_STATEMENT} bytes")
    return statement


def parse_import_key_statement(statement: bytes) -> ImportKeyStatement:
    """Parses a statement; FIELD_INVALID when it is none, in its one encoding."""
    fields = _fields(statement)
    if len(fields) != 5 or fields[0] != _DOMAIN or len(fields[4]) != _TIME_BYTES:
        raise _no_statement()
    expire_time = time_of(int.from_bytes(fields[4]))
    if expire_time is None:
        raise _no_statement()
    try:
        parsed = ImportKeyStatement(
            tenant=fields[1].decode(),
            import_key_id=fields[2].decode(),
            public_key=fields[3],
            expire_time=expire_time,
        )
        # Checks the bounds of what the fields hold; there is one encoding of each.
        import_key_statement(
            tenant=parsed.tenant,
            import_key_id=parsed.import_key_id,
            public_key=parsed.public_key,
            expire_time=parsed.expire_time,
        )
    except (UnicodeDecodeError, CertdError) as error:
        raise _no_statement() from error
    return parsed


def generate_import_key() -> tuple[bytearray, bytes]:
    """Generates a key pair in memory; returns the private key, the caller's to seal and to wipe, and the public one."""
    key = X25519PrivateKey.generate()
    return bytearray(key.private_bytes_raw()), key.public_key().public_bytes_raw()


def subject_public_key_info(public_key: bytes) -> bytes:
    """Returns the DER of the SubjectPublicKeyInfo (RFC 8410) of a raw X25519 key; FIELD_INVALID when it is none."""
    if len(public_key) != RECIPIENT_PUBLIC_KEY_BYTES:
        raise field_invalid("public_key", f"must be a raw X25519 key of {RECIPIENT_PUBLIC_KEY_BYTES} bytes")
    return X25519PublicKey.from_public_bytes(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def import_info(statement: bytes, *, public_key: bytes, exportable: bool) -> bytes:
    """Returns the HPKE info of a private key that is sealed to an import key.

    Args:
        statement: about the import key.
        public_key: DER of the SubjectPublicKeyInfo of the certificate that the private key belongs to.
        exportable: whether the private key may ever be exported.
    """
    policy = b"\x01" if exportable else b"\x00"
    return canonical(_INFO_DOMAIN, statement, hashlib.sha256(public_key).digest(), policy)


def seal_private_key(private_key: bytes, statement: bytes, *, public_key: bytes, exportable: bool) -> bytes:
    """Seals a private key, as its file has it, to the import key of a statement that `verify_import_key` accepted.

    Args:
        private_key: in any encoding of `pki.private_key`.
        statement: about the import key.
        public_key: as for `import_info`.
        exportable: as for `import_info`.

    Returns the encapsulated key (32 bytes) followed by the ciphertext. FIELD_INVALID when the statement is none, or the
    key in it cannot receive.
    """
    recipient = parse_import_key_statement(statement).public_key
    info = import_info(statement, public_key=public_key, exportable=exportable)
    return hpke_encrypt(private_key, recipient_public_key=recipient, info=info)


def open_private_key(ciphertext: bytes, *, import_key: bytes, info: bytes) -> bytearray:
    """Opens what `seal_private_key` made; returns what was sealed, which the caller wipes.

    Args:
        ciphertext: the encapsulated key followed by the ciphertext.
        import_key: the private half, raw X25519.
        info: what `import_info` returns of what the private key is to be imported for.

    FIELD_INVALID when it was sealed to another key or with another info, or a bit has changed.
    """
    try:
        private_key = X25519PrivateKey.from_private_bytes(import_key)
    except ValueError:
        # Its own text is not shown, nor the one before it: nothing of a key stands in an error.
        raise field_invalid("import_key", f"is not a raw X25519 key of {PRIVATE_KEY_BYTES} bytes") from None
    try:
        return bytearray(hpke_decrypt(ciphertext, private_key=private_key, info=info))
    except CertdError:
        raise field_invalid(
            "sealed_private_key.ciphertext",
            "was sealed for another export policy, import key or certificate, or has changed on its way; seal it again,"
            " to the key that GetImportKey returns, for this certificate and the export policy that it is to have",
        ) from None


def verify_import_key(
    *,
    statement: bytes,
    signature: bytes,
    signature_algorithm: SignatureAlgorithm,
    authority_certificate: bytes,
    trusted: Collection[bytes],
    now: datetime,
    tenant: str | None = None,
) -> ImportKeyStatement:
    """Returns what a statement says when a trusted root signed it and it has not ended.

    Args:
        statement: as the server returned it.
        signature: of the statement.
        signature_algorithm: of the signature.
        authority_certificate: DER of the certificate of the key that signed.
        trusted: DER of the roots that the client trusts; the authority's must be one of them, byte for byte.
        now: the client's time.
        tenant: opaque uid of the tenant that the key must be for; None when the client does not know it.

    Raises FIELD_INVALID with the check that failed; then nothing may be sealed to the key.
    """
    if authority_certificate not in trusted:
        raise _untrusted(
            "is signed under a root that this client does not trust",
            "fetch the trust bundle again from where you trust it",
        )
    try:
        root = x509.load_der_x509_certificate(authority_certificate)
        public_key = public_key_der(root.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _untrusted("is signed under a root that does not decode", "renew the trust bundle") from error
    if not root.not_valid_before_utc <= now <= root.not_valid_after_utc:
        raise _untrusted(
            "is signed under a root that is not valid now", "set the clock of this machine, or renew the trust bundle"
        )
    if not verify_signature(public_key, signature_algorithm, signature=signature, data=statement):
        raise _untrusted("has a signature that does not verify under its root", _ASK_AGAIN)
    parsed = parse_import_key_statement(statement)
    if tenant is not None and parsed.tenant != tenant:
        raise _untrusted("is that of another tenant", _ASK_AGAIN)
    if now >= parsed.expire_time:
        raise _untrusted(
            f"ended at {parsed.expire_time:%Y-%m-%dT%H:%M:%SZ}",
            "ask for it again, and look at the clock of this machine if that does not help",
        )
    return parsed


def _untrusted(problem: str, remedy: str) -> CertdError:
    return field_invalid("import_key", f"{problem}, so that nothing is sealed to it; {remedy}")


def _no_statement() -> CertdError:
    return field_invalid("statement", f"is not a statement about an import key; {_ASK_AGAIN}")


def _fields(statement: bytes) -> list[bytes]:
    """Returns the fields of a canonical encoding; none when it is cut off or too long."""
    fields: list[bytes] = []
    at = 0
    while at < len(statement) <= _LONGEST_STATEMENT:
        end = at + 4 + int.from_bytes(statement[at : at + 4])
        if end > len(statement) or at + 4 > len(statement):
            return []
        fields.append(statement[at + 4 : end])
        at = end
    return fields
