"""Associations as callers see them: all of them who may read them, and each consumer its own."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.association import Association
from certd.model.names import AssociationName
from certd.services.tenants import existing_tenant
from certd.store import associations, version_certificates
from certd.store.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationView:
    """An association as a caller sees it."""

    association: Association
    tenant_uid: str
    current_certificate_sha256: bytes
    """Of the certificate (DER) of the current version; empty while there is none."""
    revoked_certificate_sha256: tuple[bytes, ...]
    """Of the certificates among the newest versions that are revoked and have not ended, the newest first."""


def existing_association(tx: Transaction, name: AssociationName) -> Association:
    """Returns an association; raises ASSOCIATION_NOT_FOUND."""
    found = associations.get(tx, name)
    if found is None:
        raise CertdError(
            Reason.ASSOCIATION_NOT_FOUND,
            f"{name} does not exist; ListAssociations shows those that do",
            resource=str(name),
        )
    return found


def own_association(tx: Transaction, caller: Caller, name: AssociationName) -> Association:
    """Returns an association of the caller.

    Raises ASSOCIATION_NOT_FOUND, in the same words for another consumer's as for one that does not exist, or whose
    managed certificate does not: a consumer learns nothing of others.
    """
    found = associations.get(tx, name)
    if found is None or found.consumer_spiffe_id != caller.principal:
        raise CertdError(
            Reason.ASSOCIATION_NOT_FOUND,
            f"{caller.principal} has no association {name}; whoever manages the certificate can make one",
            resource=str(name),
        )
    return found


def view_of(tx: Transaction, association: Association, now: datetime) -> AssociationView:
    """Returns an association as a caller sees it at `now`."""
    tenant = association.name.managed_certificate.tenant
    (view,) = views_of(tx, [association], now, tenant_uids={tenant: existing_tenant(tx, tenant).uid})
    return view


def views_of(
    tx: Transaction, found: Sequence[Association], now: datetime, *, tenant_uids: Mapping[str, str]
) -> list[AssociationView]:
    """Returns associations as a caller sees them at `now`, with one query; `tenant_uids` has the tenant of each."""
    certificates = version_certificates.of_all(tx, [each.managed_certificate_uid for each in found], now)
    none = version_certificates.VersionCertificates()
    views = []
    for association in found:
        of_it = certificates.get(association.managed_certificate_uid, none)
        view = AssociationView(
            association=association,
            tenant_uid=tenant_uids[association.name.managed_certificate.tenant],
            current_certificate_sha256=b"" if of_it.current is None else _sha256(of_it.current),
            revoked_certificate_sha256=tuple(map(_sha256, of_it.revoked)),
        )
        views.append(view)
    return views


def _sha256(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()
