"""Authorities of one kind and what they issued, in files that other programs read."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from certd.core import Core
from certd.model.authority import AuthorityType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ManagedCertificateName
from certd.pki import distinguished_name, pkcs8
from certd.pki.encoding import certificate_pem
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.services.authority_plan import NewAuthority
from certd.services.certificates import NewCertificate
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.managed_export import PassphraseExport
from tests.services.conftest import ADMINISTRATOR
from tests.waiting import eventually

HOST = "www.example.internal"
WILDCARD_HOST = "shop.apps.example.internal"
NAMES = SubjectAlternativeNames(dns_names=(HOST, "*.apps.example.internal"), ip_addresses=("192.0.2.7", "2001:db8::7"))
PASSPHRASE = "correct horse battery staple"
_GENPKEY: Mapping[KeySpec, tuple[str, ...]] = {
    KeySpec.RSA_2048: ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    KeySpec.RSA_3072: ("RSA", "-pkeyopt", "rsa_keygen_bits:3072"),
    KeySpec.RSA_4096: ("RSA", "-pkeyopt", "rsa_keygen_bits:4096"),
    KeySpec.EC_P256: ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    KeySpec.EC_P384: ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    KeySpec.EC_P521: ("EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
    KeySpec.ED25519: ("ED25519",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A managed certificate as it left: PEM files, the private key under PASSPHRASE."""

    certificate: Path
    chain: Path
    """From its issuer up to the root."""
    encrypted_key: Path
    passphrase: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A root, an authority below it, and their leaves. Every file is PEM with one certificate unless it says more."""

    key_spec: KeySpec
    root: Path
    subordinate: Path
    leaves: Mapping[KeySpec, Path]
    """Issued from the CSRs that openssl made."""
    bundles: Mapping[KeySpec, Path]
    """Leaf, then subordinate, as servers send them."""
    exported: Exported
    """Of the same kind of key as the authorities."""

    @property
    def certificates(self) -> tuple[Path, ...]:
        return (self.root, self.subordinate, *self.leaves.values(), self.exported.certificate)


def run(*command: str | Path, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs another program to its end, both outputs in one."""
    return subprocess.run(
        [str(word) for word in command],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def make_request(folder: Path, spec: KeySpec) -> bytes:
    """Has openssl make a key and a CSR for NAMES; returns the CSR as PEM."""
    key, csr = folder / f"{spec}.key", folder / f"{spec}.csr"
    alternatives = [*(f"DNS:{name}" for name in NAMES.dns_names), *(f"IP:{address}" for address in NAMES.ip_addresses)]
    made = run("openssl", "genpkey", "-algorithm", *_GENPKEY[spec], "-out", key)
    assert made.returncode == 0, made.stdout
    asked = run(
        *("openssl", "req", "-new", "-key", key, "-out", csr, "-subj", f"/O=Example/CN={HOST}"),
        *("-addext", f"subjectAltName={','.join(alternatives)}"),
    )
    assert asked.returncode == 0, asked.stdout
    return csr.read_bytes()


def make_hierarchy(
    core: Core,
    folder: Path,
    *,
    key_spec: KeySpec,
    signature_algorithm: SignatureAlgorithm | None,
    requests: Mapping[KeySpec, bytes],
) -> Hierarchy:
    """Makes the authorities, issues a leaf from each CSR, and requests and exports a managed certificate."""
    ident = f"{key_spec}-{signature_algorithm or 'default'}".lower().replace("_", "-")
    root = AuthorityName("default", f"root-{ident}")
    subordinate = AuthorityName("default", f"ca-{ident}")
    for name, kind, issuer in (
        (root, AuthorityType.ROOT, None),
        (subordinate, AuthorityType.SUBORDINATE, root),
    ):
        new = NewAuthority(
            name=name,
            type=kind,
            key_spec=key_spec,
            signature_algorithm=signature_algorithm,
            subject=distinguished_name.parse_text(f"C=DE,O=Example Société,CN=Interop {name.authority}"),
            issuer=issuer,
        )
        made = core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False).authority
        assert made.certificate is not None
        (folder / f"{name.authority}.pem").write_text(certificate_pem(made.certificate))
    issuer_pem = (folder / f"{subordinate.authority}.pem").read_text()
    leaves, bundles = {}, {}
    for spec, csr in requests.items():
        asked = NewCertificate(authority=subordinate, csr=csr)
        issued = core.certificates.issue(ADMINISTRATOR, asked, key=None, validate_only=False, timeout=30)
        assert issued.der is not None
        leaves[spec], bundles[spec] = folder / f"leaf-{spec}.pem", folder / f"bundle-{spec}.pem"
        leaves[spec].write_text(certificate_pem(issued.der))
        bundles[spec].write_text(certificate_pem(issued.der) + issuer_pem)
    return Hierarchy(
        key_spec=key_spec,
        root=folder / f"{root.authority}.pem",
        subordinate=folder / f"{subordinate.authority}.pem",
        leaves=leaves,
        bundles=bundles,
        exported=_export(core, folder, name=ManagedCertificateName("default", ident), authority=subordinate),
    )


def _export(core: Core, folder: Path, *, name: ManagedCertificateName, authority: AuthorityName) -> Exported:
    key_spec = core.authorities.get(ADMINISTRATOR, authority).authority.key_spec
    new = NewManagedCertificate(
        name=name, authority=authority, key_spec=key_spec, subject=distinguished_name.EMPTY, names=NAMES
    )
    core.managed_certificates.request(ADMINISTRATOR, new, key=None, validate_only=False)

    def active() -> ManagedCertificateView | None:
        view = core.managed_certificates.get(ADMINISTRATOR, name)
        return view if view.state is ManagedCertificateState.ACTIVE else None

    eventually(active, within=60)
    exported = core.managed_export.export(
        ADMINISTRATOR, name, version=None, protection=PassphraseExport(PASSPHRASE.encode()), reason="interop"
    )
    files = Exported(
        certificate=folder / "managed.pem",
        chain=folder / "managed-chain.pem",
        encrypted_key=folder / "managed.key",
        passphrase=folder / "passphrase",
    )
    files.certificate.write_text(certificate_pem(exported.certificate))
    files.chain.write_text("".join(map(certificate_pem, exported.chain)))
    files.encrypted_key.write_bytes(pkcs8.to_pem(exported.encrypted_key))
    files.passphrase.write_text(f"{PASSPHRASE}\n")
    return files
