"""Associations as callers see them: all of them who may read them, and each consumer its own."""

from dataclasses import dataclass

from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.association import Association
from certd.model.names import AssociationName
from certd.services.tenants import existing_tenant
from certd.store import associations
from certd.store.store import Transaction


@dataclass(frozen=True, slots=True)
class AssociationView:
    """An association as a caller sees it."""

    association: Association
    tenant_uid: str


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


def view_of(tx: Transaction, association: Association) -> AssociationView:
    """Returns an association as a caller sees it."""
    tenant = existing_tenant(tx, association.name.managed_certificate.tenant)
    return AssociationView(association, tenant.uid)
