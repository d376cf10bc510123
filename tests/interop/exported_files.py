"""Managed certificates in every form in which they are exported, in files that other programs read."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from certd.core import Core
from certd.model.authority import AuthorityType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ManagedCertificateName
from certd.pki import distinguished_name, pkcs7, pkcs8, pkcs12
from certd.pki.encoding import certificate_pem
from certd.pki.export_form import ExportForm
from certd.pki.key_spec import KeySpec, public_key_der
from certd.services.authority_plan import NewAuthority
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.managed_export import Exported, PassphraseExport
from tests.interop.hierarchy import NAMES, PASSPHRASE
from tests.services.conftest import ADMINISTRATOR
from tests.waiting import eventually

AUTHORITY = AuthorityName("default", "files-ca")
ALIAS = "files"
"""Id of the managed certificate, but for the kind of its key behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFiles:
    """One managed certificate; its key is under PASSPHRASE wherever it is."""

    key_spec: KeySpec
    alias: str
    certificate: Path
    """PEM."""
    chain: Path
    """PEM, from its issuer up to the root."""
    keys: Mapping[str, Path]
    """The key alone: `pkcs8` and `acm-compatible` are PEM, `der` is what it says."""
    bundles: Mapping[str, Path]
    """Key and certificates: `modern` and `legacy`."""
    pkcs7: Path
    truststore: Path
    passphrase: Path
    wrong_passphrase: Path
    certificate_digests: tuple[str, ...]
    """SHA-256 of the certificate, and of those above it, in hex."""
    key_digest: str
    """SHA-256 of its public key."""

    @property
    def certificate_pems(self) -> list[str]:
        """The certificate, and those above it."""
        return pem_blocks(self.certificate.read_text() + self.chain.read_text(), "CERTIFICATE")


def pem_blocks(text: str, label: str) -> list[str]:
    """Returns the PEM blocks of a kind in what a program printed, without what it wrote around them."""
    return re.findall(f"-----BEGIN {label}-----[^-]*-----END {label}-----", text)


def make_authority(core: Core) -> None:
    """Makes the authority that issues the certificates, below a root of its own."""
    root = AuthorityName("default", "files-root")
    for name, kind, issuer in ((root, AuthorityType.ROOT, None), (AUTHORITY, AuthorityType.SUBORDINATE, root)):
        new = NewAuthority(
            name=name,
            type=kind,
            key_spec=KeySpec.EC_P256,
            subject=distinguished_name.parse_text(f"O=Example Société,CN=Interop {name.authority}"),
            issuer=issuer,
        )
        core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False)


def make_files(core: Core, folder: Path, spec: KeySpec) -> ExportedFiles:
    """Requests a managed certificate and exports it in every form."""
    name = ManagedCertificateName("default", f"{ALIAS}-{spec.lower().replace('_', '-')}")
    new = NewManagedCertificate(
        name=name, authority=AUTHORITY, key_spec=spec, subject=distinguished_name.EMPTY, names=NAMES
    )
    core.managed_certificates.request(ADMINISTRATOR, new, key=None, validate_only=False)

    def active() -> ManagedCertificateView | None:
        view = core.managed_certificates.get(ADMINISTRATOR, name)
        return view if view.state is ManagedCertificateState.ACTIVE else None

    eventually(active, within=60)

    def export(form: ExportForm) -> Exported:
        protection = PassphraseExport(PASSPHRASE.encode(), form)
        return core.managed_export.export(ADMINISTRATOR, name, version=None, protection=protection, reason="interop")

    def write(file: str, content: bytes) -> Path:
        (folder / file).write_bytes(content)
        return folder / file

    strong = export(ExportForm.PKCS8)
    leaf = x509.load_der_x509_certificate(strong.certificate)
    everything = (strong.certificate, *strong.chain)
    return ExportedFiles(
        key_spec=spec,
        alias=name.managed_certificate,
        certificate=write("cert.pem", certificate_pem(strong.certificate).encode()),
        chain=write("chain.pem", "".join(map(certificate_pem, strong.chain)).encode()),
        keys={
            "pkcs8": write("key.pem", pkcs8.to_pem(strong.encrypted_key)),
            "der": write("key.der", strong.encrypted_key),
            "acm-compatible": write("acm.pem", pkcs8.to_pem(export(ExportForm.ACM_COMPATIBLE).encrypted_key)),
        },
        bundles={
            "modern": write("modern.p12", export(ExportForm.PKCS12_MODERN).encrypted_key),
            "legacy": write("legacy.p12", export(ExportForm.PKCS12_LEGACY).encrypted_key),
        },
        pkcs7=write("chain.p7b", pkcs7.certificates_only(everything)),
        truststore=write("truststore.p12", pkcs12.truststore(strong.chain, PASSPHRASE.encode())),
        passphrase=write("passphrase", f"{PASSPHRASE}\n".encode()),
        wrong_passphrase=write("wrong", f"{PASSPHRASE}!\n".encode()),
        certificate_digests=tuple(hashlib.sha256(each).hexdigest() for each in everything),
        key_digest=hashlib.sha256(public_key_der(leaf.public_key())).hexdigest(),
    )
