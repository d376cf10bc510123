"""What is imported, as files hold it: read, decrypted here, and held against each other before anything is sent.

Certificates and keys leave this file in one encoding, whatever the files have: what else stands in them goes nowhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
    load_ssh_private_key,
    pkcs12,
)

from certd.cli.certctl import files
from certd.errors import CertdError, Reason
from certd.pki.certificate_chain import Element, parse
from certd.pki.encoding import LONGEST_CHAIN, certificate_pem, parse_certificates
from certd.pki.key_spec import public_key_der
from certd.pki.private_key import LONGEST_PRIVATE_KEY, private_key_info

_CERTIFICATE_FILE: Final = 2 << 20
"""Bytes; it may hold the chain too."""
_PKCS12_FILE: Final = 4 << 20
_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A certificate, those above it, and its private key, which belongs to it."""

    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    """DER; in the order of the file."""
    private_key: bytes = field(repr=False)
    """DER of the PKCS#8 PrivateKeyInfo, not encrypted."""
    notes: tuple[str, ...]
    """What people should know of the files, a sentence each."""

    @property
    def chain_pem(self) -> bytes:
        """PEM of the chain; empty for none."""
        return "".join(certificate_pem(each) for each in self.chain).encode()


@dataclass(frozen=True, slots=True)
class _File:
    """Certificates of a file."""

    path: str
    elements: tuple[Element, ...]


def read_pem(*, certificate: str, private_key: str, chain: str | None, passphrase_file: str | None) -> Material:
    """Reads a certificate, its private key and its chain, each from its file, PEM or DER.

    Without a chain of its own, what stands behind the certificate in its file is the chain. Raises CertdError, with the
    file and what to do: IMPORT_NOT_PEM, FIELD_INVALID, IMPORT_KEY_MISMATCH.
    """
    notes: list[str] = []
    leaf, *behind = _certificates(certificate, _CERTIFICATE_FILE, "certificate").elements
    if chain is not None:
        if behind:
            raise CertdError(
                Reason.FIELD_INVALID,
                f"{certificate} holds {len(behind) + 1} certificates; leave --chain out, and those after the first are"
                " the chain, or give a file with the first alone",
            )
        behind = list(_certificates(chain, LONGEST_CHAIN, "chain").elements)
    elif behind:
        notes.append(f"{certificate}: the first certificate is imported, those after it ({len(behind)}) are its chain")
    data, warning = files.read_private_key(private_key, longest=LONGEST_PRIVATE_KEY, what="private key")
    notes += [warning] if warning else []
    key = _decrypted(private_key, data, _passphrase(passphrase_file, notes), notes)
    return _material(leaf, behind, key, notes, of=certificate, key_file=private_key)


def read_pkcs12(path: str, *, passphrase_file: str | None) -> Material:
    """Reads all of it from a PKCS#12 file; raises CertdError as `read_pem` does.

    Its certificates have no order, so they are put in order; those that are not above the certificate stay behind.
    """
    notes: list[str] = []
    data, _ = files.read_private_key(path, longest=_PKCS12_FILE, what="PKCS#12 file")
    passphrase = _passphrase(passphrase_file, notes)
    try:
        found = pkcs12.load_pkcs12(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertdError(Reason.FIELD_INVALID, f"{path} {_pkcs12_problem(data, passphrase)}") from error
    if found.key is None or found.cert is None:
        missing = "private key" if found.key is None else "certificate that belongs to its private key"
        raise CertdError(
            Reason.FIELD_INVALID, f"{path} holds no {missing}; export certificate and private key together"
        )
    others = [_parsed(path, each.certificate.public_bytes(Encoding.DER)) for each in found.additional_certs]
    leaf = _parsed(path, found.cert.certificate.public_bytes(Encoding.DER))
    chain = _above(leaf, others)
    left = [element.text for element in others if element not in chain]
    if left:
        notes.append(f"{path}: left out, for it is not above the certificate: {'; '.join(left)}")
    return _material(leaf, chain, _private_key_info(path, found.key), notes, of=path, key_file=path)


def _material(
    leaf: Element, chain: Sequence[Element], key: bytes, notes: Sequence[str], *, of: str, key_file: str
) -> Material:
    """Raises IMPORT_KEY_MISMATCH unless the key is the certificate's."""
    try:
        opened, public_key, _ = private_key_info(key, field=key_file)
    except CertdError as error:
        raise CertdError(error.reason, error.message, metadata=error.metadata) from error
    if public_key != _public_key(leaf):
        raise CertdError(
            Reason.IMPORT_KEY_MISMATCH,
            f"the private key in {key_file} does not belong to the certificate in {of} ({leaf.text}); name the pair"
            " that was made together",
        )
    return Material(
        certificate=leaf.der,
        chain=tuple(element.der for element in chain),
        private_key=bytes(opened),
        notes=tuple(notes),
    )


def _public_key(leaf: Element) -> bytes:
    """Returns the SubjectPublicKeyInfo in the encoding in which that of a private key is told, empty for none known."""
    try:
        return public_key_der(leaf.parsed.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _passphrase(path: str | None, notes: list[str]) -> bytes | None:
    if path is None:
        return None
    passphrase, warning = files.read_passphrase_of_another(path)
    notes += [warning] if warning else []
    return passphrase


def _certificates(path: str, longest: int, what: str) -> _File:
    data = files.read_certificates(path, longest=longest, what=what)
    if any(label.endswith(b"PRIVATE KEY") for label in _PEM_BLOCK.findall(data)):
        raise CertdError(
            Reason.FIELD_INVALID,
            f"{path} holds a private key beside the {what}; give that with --private-key, and certificates alone here",
        )
    try:
        found = parse_certificates(data, field=path)
    except CertdError as error:
        raise CertdError(
            Reason.IMPORT_NOT_PEM, f"{error.message}; name a file with the {what} as PEM or DER"
        ) from error
    return _File(path, tuple(_parsed(path, certificate) for certificate in found))


def _parsed(path: str, certificate: bytes) -> Element:
    try:
        return parse(certificate, field=path)
    except CertdError as error:
        raise CertdError(error.reason, error.message) from error


def _above(leaf: Element, others: Sequence[Element]) -> list[Element]:
    """Returns those of the certificates that stand above one by their names, in their order."""
    chain: list[Element] = []
    below = leaf
    while below.subject != below.issuer:
        above = next((each for each in others if each.subject == below.issuer and each not in chain), None)
        if above is None:
            break
        chain.append(above)
        below = above
    return chain


def _decrypted(path: str, data: bytes, passphrase: bytes | None, notes: list[str]) -> bytes:
    """Returns a private key as its file has it, or as PKCS#8 when it was encrypted."""
    if not _is_encrypted(data):
        if passphrase is not None:
            notes.append(f"{path} is not encrypted, so its passphrase is not used")
        return data
    if passphrase is None:
        raise CertdError(
            Reason.FIELD_INVALID, f"the private key in {path} is encrypted; say with --private-key-passphrase-file how"
        )
    try:
        return _private_key_info(path, _load(data, passphrase))
    except UnsupportedAlgorithm as error:
        remedy = (
            "make a copy of it, and of that `ssh-keygen -p -m PKCS8 -f COPY`"
            if _OPENSSH in data
            else "write it anew with `openssl pkcs8 -topk8`"
        )
        raise CertdError(
            Reason.FIELD_INVALID, f"the private key in {path} is encrypted in a way that is not known here; {remedy}"
        ) from error
    except (ValueError, TypeError) as error:
        raise CertdError(
            Reason.FIELD_INVALID, f"the private key in {path} does not open with its passphrase; look at both files"
        ) from error


def _is_encrypted(data: bytes) -> bool:
    try:
        _load(data, None)
    except TypeError:
        return True
    except (ValueError, UnsupportedAlgorithm):
        # What it is instead, the rules for private keys tell.
        return False
    return False


def _load(data: bytes, passphrase: bytes | None) -> PrivateKeyTypes:
    """Returns a private key of any kind; raises TypeError when a passphrase is missing or too many."""
    if _OPENSSH in data:
        return load_ssh_private_key(data[data.index(_OPENSSH) :], passphrase)
    load = load_der_private_key if data.startswith(b"\x30") else load_pem_private_key
    return load(data, passphrase)


def _private_key_info(path: str, key: PrivateKeyTypes) -> bytes:
    try:
        return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertdError(
            Reason.FIELD_INVALID, f"the private key in {path} is of a kind that cannot be imported"
        ) from error


def _pkcs12_problem(data: bytes, passphrase: bytes | None) -> str:
    if not data.startswith(b"\x30"):
        return "is no PKCS#12 file; name PEM files with --certificate and --private-key"
    if passphrase is None:
        return "is no PKCS#12 file that opens without a passphrase; say which with --passphrase-file"
    return "does not open with the passphrase, or is no PKCS#12 file; look at both files"
