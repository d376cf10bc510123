"""Chains of every kind of key, judged by others: openssl and pkilint."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from certd.pki.encoding import certificate_pem
from certd.pki.key_spec import (
    KeySpec,
    SignatureAlgorithm,
    default_signature_algorithm,
    fits,
    hash_of,
    verify_signature,
)
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profiles import IDENTITY, LISTENER, Profile
from certd.pki.tbs import parse_tbs_certificate
from tests.unit.memory_authority import MemoryAuthority, prepare_leaf, public_key, root, subordinate

_FITTING = [(spec, algorithm) for spec in KeySpec for algorithm in SignatureAlgorithm if fits(algorithm, spec)]

_WILDCARD_OR_SINGLE_LABEL = {"pkix.invalid_domain_name_syntax"}
"""pkilint's validator of DNS names knows neither wildcards nor names of one label; both are names here, on purpose."""
_SPIFFE = {"pkix.invalid_uri_syntax"}
"""pkilint's validator of URIs knows a fixed list of schemes, without `spiffe`."""


def _chain(
    spec: KeySpec, algorithm: SignatureAlgorithm | None = None
) -> tuple[MemoryAuthority, MemoryAuthority, bytes]:
    now = datetime.now(UTC)
    top = root(spec, algorithm=algorithm, now=now)
    below = subordinate(top, spec, algorithm=algorithm, now=now)
    names = SubjectAlternativeNames(
        dns_names=("www.example.internal", "*.example.internal"), ip_addresses=("192.0.2.1",)
    )
    leaf = below.sign(prepare_leaf(below, key=public_key(spec), names=names, now=now))
    return top, below, leaf


def _write(path: Path, certificate: bytes) -> Path:
    path.write_text(certificate_pem(certificate))
    return path


@pytest.mark.parametrize(("spec", "algorithm"), _FITTING)
def test_openssl_verifies_chain_strictly(tmp_path: Path, spec: KeySpec, algorithm: SignatureAlgorithm) -> None:
    top, below, leaf = _chain(spec, algorithm)
    trusted = _write(tmp_path / "root.pem", top.certificate)
    untrusted = _write(tmp_path / "subordinate.pem", below.certificate)
    arguments: list[str | Path] = [
        "-x509_strict",
        "-check_ss_sig",
        "-policy_check",
        "-CAfile",
        trusted,
        "-untrusted",
        untrusted,
    ]
    for purpose in ("sslserver", "sslclient"):
        run = subprocess.run(
            ["openssl", "verify", *arguments, "-purpose", purpose, "-verify_hostname", "a.example.internal",
             _write(tmp_path / "leaf.pem", leaf)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
    wrong_host = subprocess.run(
        ["openssl", "verify", *arguments, "-verify_hostname", "example.com", tmp_path / "leaf.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong_host.returncode != 0


@pytest.mark.parametrize(("spec", "algorithm"), _FITTING)
def test_copy_and_certificate_differ_in_signature_alone(spec: KeySpec, algorithm: SignatureAlgorithm) -> None:
    authority = root(spec, algorithm=algorithm)
    prepared = prepare_leaf(authority, key=public_key(spec))
    certificate = x509.load_der_x509_certificate(authority.sign(prepared))
    copy = x509.load_der_x509_certificate(prepared.lint_certificate)
    assert certificate.tbs_certificate_bytes == copy.tbs_certificate_bytes == prepared.tbs
    assert certificate.signature_algorithm_oid == copy.signature_algorithm_oid
    assert certificate.signature != copy.signature
    own_key, data = authority.issuer.public_key, prepared.tbs
    assert verify_signature(own_key, algorithm, signature=certificate.signature, data=data)
    assert not verify_signature(own_key, algorithm, signature=copy.signature, data=data)


@pytest.mark.parametrize("spec", KeySpec)
def test_builder_signed_by_the_real_key_makes_the_same_bytes(spec: KeySpec) -> None:
    """The library itself, given the real key and what the certificate says, writes the same to-be-signed bytes."""
    authority = root(spec)
    prepared = prepare_leaf(authority, key=public_key(spec), subject="CN=www.example.internal,O=Example")
    copy = x509.load_der_x509_certificate(prepared.lint_certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(copy.subject)
        .issuer_name(x509.load_der_x509_certificate(authority.certificate).subject)
        .public_key(copy.public_key())
        .serial_number(copy.serial_number)
        .not_valid_before(copy.not_valid_before_utc)
        .not_valid_after(copy.not_valid_after_utc)
    )
    for extension in copy.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    signed = builder.sign(authority.private_key, hash_of(authority.issuer.signature_algorithm))
    assert signed.tbs_certificate_bytes == prepared.tbs


def _pkilint(path: Path) -> set[str]:
    run = subprocess.run(
        [Path(sys.executable).parent / "lint_pkix_cert", "lint", "-f", "JSON", "-s", "NOTICE", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = json.loads(run.stdout)
    return {found["code"] for result in report["results"] for found in result["finding_descriptions"]}


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.ED25519])
def test_pkilint_has_nothing_to_say(tmp_path: Path, spec: KeySpec) -> None:
    top, below, leaf = _chain(spec)
    plain = below.sign(prepare_leaf(below, subject="CN=www.example.internal,O=Example,C=DE"))
    certificates = {"root": top.certificate, "subordinate": below.certificate, "leaf": leaf, "plain": plain}
    findings = {name: _pkilint(_write(tmp_path / f"{name}.pem", found)) for name, found in certificates.items()}
    assert findings == {"root": set(), "subordinate": set(), "leaf": _WILDCARD_OR_SINGLE_LABEL, "plain": set()}


@pytest.mark.parametrize(
    ("profile", "names", "allowed"),
    [
        (IDENTITY, SubjectAlternativeNames(uris=("spiffe://certd.internal/identities/admin",)), _SPIFFE),
        (LISTENER, SubjectAlternativeNames(dns_names=("host.internal",), ip_addresses=("127.0.0.1", "::1")), set()),
        (LISTENER, SubjectAlternativeNames(dns_names=("localhost",)), _WILDCARD_OR_SINGLE_LABEL),
    ],
)
def test_pkilint_has_nothing_to_say_on_system_profiles(
    tmp_path: Path, profile: Profile, names: SubjectAlternativeNames, allowed: set[str]
) -> None:
    authority = root(path_length=0)
    leaf = authority.sign(prepare_leaf(authority, names=names, profile=profile))
    assert _pkilint(_write(tmp_path / "leaf.pem", leaf)) == allowed


def test_pkilint_would_speak(tmp_path: Path) -> None:
    """A certificate with a broken rule is reported, so that silence above means something."""
    authority = root()
    leaf = authority.sign(prepare_leaf(authority))
    broken = leaf.replace(bytes.fromhex("0603551d0f0101ff"), bytes.fromhex("0603551d110101ff"))
    assert broken != leaf
    assert _pkilint(_write(tmp_path / "leaf.pem", broken))


@pytest.mark.parametrize("spec", KeySpec)
def test_token_reads_what_was_prepared(spec: KeySpec) -> None:
    authority = root(spec)
    prepared = prepare_leaf(authority)
    parsed = parse_tbs_certificate(prepared.tbs)
    assert parsed.issuer == authority.issuer.name
    assert (parsed.not_before, parsed.not_after) == (prepared.not_before, prepared.not_after)
    assert parsed.signature_algorithm is default_signature_algorithm(spec)
    assert not parsed.authority
    own = parse_tbs_certificate(x509.load_der_x509_certificate(authority.certificate).tbs_certificate_bytes)
    assert own.authority
    assert own.path_length == 2
    assert own.issuer == own.subject
