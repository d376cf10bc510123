"""Tenants: for now the one that exists from the start."""

from certd.errors import CertdError, Reason
from certd.model.tenant import Tenant
from certd.store import tenants
from certd.store.store import Transaction

DEFAULT_TENANT = "default"


def existing_tenant(tx: Transaction, tenant_id: str) -> Tenant:
    """Returns a tenant; raises TENANT_NOT_FOUND."""
    found = tenants.get(tx, tenant_id)
    if found is None:
        raise CertdError(
            Reason.TENANT_NOT_FOUND, f"tenants/{tenant_id} does not exist", resource=f"tenants/{tenant_id}"
        )
    return found
