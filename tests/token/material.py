"""What the tests of the token process sign, seal and look at."""

import functools
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from certd.pki.key_spec import (
    KeyFamily,
    KeySpec,
    SignatureAlgorithm,
    default_signature_algorithm,
    family_of,
    generate_private_key,
    hash_of,
    verify_signature,
)
from certd.pki.sealing import Purpose, SealContext
from certd.token.client import SignItem, TokenClient
from certd.token.policy import SignatureKind, authority_key_policy

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
OTHER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody Else")])
LONGEST = timedelta(days=90)
_SMALL = {
    KeyFamily.RSA: KeySpec.RSA_2048,
    KeyFamily.EC: KeySpec.EC_P256,
    KeyFamily.ED25519: KeySpec.ED25519,
}


@dataclass(frozen=True)
class Authority:
    """A key in the token, and the policy that was sealed with it."""

    key_id: bytes
    spec: KeySpec
    policy: bytes
    public_key: bytes

    def item(self, to_be_signed: bytes, **changes: object) -> SignItem:
        values: dict[str, object] = {
            "key_id": self.key_id,
            "policy": self.policy,
            "kind": SignatureKind.CERTIFICATE,
            "signature_algorithm": default_signature_algorithm(self.spec),
            "to_be_signed": to_be_signed,
        }
        return SignItem(**{**values, **changes})  # type: ignore[arg-type]


def make_policy(
    *,
    kinds: tuple[SignatureKind, ...] = (SignatureKind.CERTIFICATE, SignatureKind.CERTIFICATION_REQUEST),
    issuer: x509.Name = AUTHORITY,
    path_length: int | None = None,
    self_signed: bool = False,
) -> bytes:
    return authority_key_policy(
        kinds=kinds,
        issuer_name=issuer.public_bytes(),
        path_length=path_length,
        longest_lifetime=LONGEST,
        self_signed=self_signed,
    )


def make_authority(client: TokenClient, spec: KeySpec = KeySpec.EC_P256, policy: bytes | None = None) -> Authority:
    key_id = secrets.token_bytes(16)
    policy = make_policy() if policy is None else policy
    return Authority(key_id, spec, policy, client.create_authority_key(key_id=key_id, key_spec=spec, policy=policy))


def make_certificate(
    *,
    algorithm: SignatureAlgorithm = SignatureAlgorithm.ECDSA_WITH_SHA256,
    issuer: x509.Name = AUTHORITY,
    subject: x509.Name = OTHER,
    public_key: bytes | None = None,
    lifetime: timedelta = timedelta(days=30),
    authority: bool = False,
    path_length: int | None = None,
    certificate_sign: bool = False,
) -> bytes:
    """Returns the DER of a TBSCertificate, by way of a certificate that a throw-away key signed."""
    key = (
        ec.generate_private_key(ec.SECP256R1()).public_key() if public_key is None else load_der_public_key(public_key)
    )
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + lifetime)
        .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
    )
    if certificate_sign:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(_throw_away(family_of(algorithm)), hash_of(algorithm)).tbs_certificate_bytes


def make_request(authority: Authority, *, subject: x509.Name = AUTHORITY, public_key: bytes | None = None) -> bytes:
    """Returns the DER of a CertificationRequestInfo with the key of `authority` in it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    mold = builder.sign(_throw_away(KeyFamily.EC), hashes.SHA256())
    info = mold.tbs_certrequest_bytes
    theirs = mold.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ours = authority.public_key if public_key is None else public_key
    assert len(ours) == len(theirs)
    return info.replace(theirs, ours)


def make_context(**changes: object) -> SealContext:
    values: dict[str, object] = {
        "tenant": "tenant-1",
        "certificate": "certificate-1",
        "version": 1,
        "purpose": Purpose.CUSTODY,
        "exportable": True,
        "public_key_sha256": b"",
    }
    return SealContext(**{**values, **changes})  # type: ignore[arg-type]


def verifies(authority: Authority, item: SignItem, signature: object) -> bool:
    assert isinstance(signature, bytes), signature
    return verify_signature(authority.public_key, item.signature_algorithm, signature=signature, data=item.to_be_signed)


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True, timeout=60).stdout


@functools.cache
def _throw_away(family: KeyFamily) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    return generate_private_key(_SMALL[family])


def run_python(program: str, *arguments: str, configuration: Path | None) -> str:
    """Runs a program in a process of its own, where it may load the module; returns what it printed."""
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    command = [sys.executable, "-c", program, *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
