"""Profiles: what may be issued. The built-in ones belong to every tenant."""

from certd.errors import CertdError, Reason
from certd.model.names import ProfileName
from certd.pki.profiles import BUILT_IN, Profile

DEFAULT_PROFILE = "end-entity"


def existing_profile(name: ProfileName, tenant: str) -> Profile:
    """Returns a profile that `tenant` may use; raises PROFILE_NOT_FOUND."""
    found = BUILT_IN.get(name.profile) if name.tenant == tenant else None
    if found is None:
        raise CertdError(
            Reason.PROFILE_NOT_FOUND,
            f"{name} does not exist in tenants/{tenant}; it has {', '.join(sorted(BUILT_IN))}",
            resource=str(name),
        )
    return found
