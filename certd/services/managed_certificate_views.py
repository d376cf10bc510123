"""Managed certificates and their versions as callers see them."""

from dataclasses import dataclass, replace
from datetime import datetime

from certd.errors import CertdError, Reason, Violation
from certd.model.association import Association
from certd.model.managed_certificate import ManagedCertificate, ManagedCertificateState, ManagedCertificateVersion
from certd.model.names import ManagedCertificateName, ProfileName
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.services.authority_views import authority_with_key
from certd.store import associations, authorities, certificates, managed_certificates, managed_versions
from certd.store.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCertificateView:
    """A managed certificate as a caller sees it."""

    managed_certificate: ManagedCertificate
    state: ManagedCertificateState
    certificate: bytes | None
    """DER of the current certificate."""
    chain: tuple[bytes, ...]
    profile_name: str
    """Empty for an imported one."""
    used_by: tuple[Association, ...] = ()
    """Empty in lists."""
    warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A certificate and those above it."""

    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    """DER, its issuer first, the root last."""


def existing_managed(tx: Transaction, name: ManagedCertificateName) -> ManagedCertificate:
    """Returns a managed certificate; raises MANAGED_CERTIFICATE_NOT_FOUND."""
    found = managed_certificates.get(tx, name.tenant, name.managed_certificate)
    if found is None:
        raise CertdError(Reason.MANAGED_CERTIFICATE_NOT_FOUND, f"{name} does not exist", resource=str(name))
    return found


def check_etag(managed: ManagedCertificate, etag: str, *, field: str = "etag") -> None:
    """Raises ETAG_MISMATCH unless `etag` is empty or the current one."""
    if etag in {"", managed.etag}:
        return
    problem = "is not the current one"
    raise CertdError(
        Reason.ETAG_MISMATCH,
        f"{managed.name} changed since it was read: {field} {problem}; read it again and repeat the change with its"
        " etag",
        metadata={"etag": managed.etag},
        violations=(Violation(field, problem),),
        resource=str(managed.name),
    )


def existing_version(tx: Transaction, managed: ManagedCertificate, number: int) -> ManagedCertificateVersion:
    """Returns a version; raises MANAGED_CERTIFICATE_NOT_FOUND."""
    found = managed_versions.get(tx, managed.uid, number)
    if found is None:
        name = managed.name.version(number)
        raise CertdError(Reason.MANAGED_CERTIFICATE_NOT_FOUND, f"{name} does not exist", resource=name)
    return found


def material_of(tx: Transaction, version: ManagedCertificateVersion) -> Material | None:
    """Returns the certificate of a version, of our own making or imported; None while it is not issued."""
    if version.certificate is not None:
        return Material(certificate=version.certificate, chain=version.chain)
    if version.serial is None:
        return None
    row = certificates.get(tx, version.authority_uid, version.serial)
    authority = authorities.get_by_uid(tx, version.authority_uid)
    if row is None or row.der is None or authority is None:
        return None
    return Material(certificate=row.der, chain=authority_with_key(tx, authority, row.key_number).full_chain)


def certificate_of(tx: Transaction, version: ManagedCertificateVersion) -> bytes | None:
    """Returns the DER of the certificate of a version; None while it is not issued."""
    if version.certificate is not None or version.serial is None:
        return version.certificate
    row = certificates.get(tx, version.authority_uid, version.serial)
    return None if row is None else row.der


def view_of(tx: Transaction, managed: ManagedCertificate, now: datetime) -> ManagedCertificateView:
    """Returns a managed certificate with its current certificate, and who uses it."""
    # As many as it may have.
    most = managed.association_count
    used_by = tuple(associations.page(tx, managed.uid, after="", limit=most)) if most else ()
    return replace(view_with(managed, _current_material(tx, managed), now), used_by=used_by)


def listed_view_of(tx: Transaction, managed: ManagedCertificate, now: datetime) -> ManagedCertificateView:
    """Returns a managed certificate as lists show it: with its current certificate, without what is above that."""
    current = managed_versions.get_bare(tx, managed.uid, managed.current_version) if managed.current_version else None
    certificate = None if current is None else certificate_of(tx, current)
    return replace(view_with(managed, None, now), certificate=certificate)


def _current_material(tx: Transaction, managed: ManagedCertificate) -> Material | None:
    current = managed_versions.get(tx, managed.uid, managed.current_version) if managed.current_version else None
    return None if current is None else material_of(tx, current)


def view_with(managed: ManagedCertificate, material: Material | None, now: datetime) -> ManagedCertificateView:
    """Returns a managed certificate with this current certificate."""
    return ManagedCertificateView(
        managed_certificate=managed,
        state=managed.state_at(now),
        certificate=None if material is None else material.certificate,
        chain=() if material is None else material.chain,
        profile_name=str(ProfileName(managed.tenant, managed.profile)) if managed.profile else "",
    )
