"""What a grant may say: whom it names, where it holds, with which profiles. Nothing here looks at the store."""

import re
from collections.abc import Iterable
from typing import Final

from certd.errors import CertdError, field_invalid
from certd.model.access import EVERYTHING, EVERYTHING_BELOW, ROLES_OF_PROFILES, Role
from certd.model.names import check_id
from certd.pki.names import SpiffeId, parse_spiffe_id

MOST_PROFILES: Final = 100
"""Profiles in one grant."""
EVERY_PROFILE: Final = "*"
_LONGEST_SCOPE: Final = 512
_IDENTITIES, _TENANTS, _OIDC = "identities", "tenants", "oidc"
_SCOPE = re.compile(r"tenants(/[A-Za-z0-9-]+)+")


def check_principal(field: str, principal: str, *, trust_domain: str, tenant: str | None) -> str:
    """Returns the principal of a grant; raises FIELD_INVALID.

    Of a tenant's grant it is of that tenant, of the server, or from an OIDC provider, and not of another tenant.
    """
    below = principal.endswith(EVERYTHING_BELOW)
    try:
        parsed = parse_spiffe_id(principal.removesuffix(EVERYTHING_BELOW))
    except CertdError as error:
        raise field_invalid(
            field, "must be a SPIFFE id, or the beginning of SPIFFE ids up to a slash and then *: " + error.message
        ) from error
    if parsed.trust_domain != trust_domain:
        raise field_invalid(
            field, f"is of the trust domain {parsed.trust_domain}; callers of this server are of {trust_domain}"
        )
    words = _words(parsed)
    if not (_could_begin(words) if below else _could_call(words)):
        raise field_invalid(
            field,
            f"names nobody who could call; callers are spiffe://{trust_domain}/identities/ID, "
            f"spiffe://{trust_domain}/tenants/TENANT/identities/ID and spiffe://{trust_domain}/oidc/PROVIDER/SUBJECT",
        )
    if tenant is not None and not (words[:1] in ([_IDENTITIES], [_OIDC]) or words[:2] == [_TENANTS, tenant]):
        raise field_invalid(
            field,
            f"may be of the tenant {tenant}, of the server or from an OIDC provider, for the grant belongs to the "
            "tenant; for others ask an administrator of the server",
        )
    return principal


def check_scope(field: str, scope: str, *, tenant: str | None) -> str:
    """Returns the scope of a grant; raises FIELD_INVALID. That of a tenant's is the tenant, or something of its own."""
    if tenant is not None:
        owner = f"tenants/{tenant}"
        scope = scope or owner
        if scope != owner and not scope.startswith(f"{owner}/"):
            raise field_invalid(field, f"must be {owner}, or begin with {owner}/, for the grant belongs to the tenant")
    elif not scope:
        raise field_invalid(field, f"is required for a grant of the server; {EVERYTHING} is everything")
    if scope != EVERYTHING and (not _SCOPE.fullmatch(scope) or len(scope) > _LONGEST_SCOPE):
        raise field_invalid(field, "must be the name of a tenant or of something in it, such as tenants/default")
    return scope


def check_profiles(field: str, profiles: Iterable[str], *, role: Role) -> frozenset[str] | None:
    """Returns the ids of the profiles of a grant, None for every one; raises FIELD_INVALID."""
    given = list(profiles)
    if role not in ROLES_OF_PROFILES:
        if given:
            roles = " and ".join(sorted(role.upper() for role in ROLES_OF_PROFILES))
            raise field_invalid(field, f"must be empty, for only {roles} use profiles")
        return None
    if not given:
        raise field_invalid(field, f"is required; {EVERY_PROFILE} alone is every profile")
    if given == [EVERY_PROFILE]:
        return None
    if len(given) > MOST_PROFILES:
        raise field_invalid(field, f"has {len(given)} profiles; at most {MOST_PROFILES} are allowed")
    return frozenset(check_id(f"{field}[{index}]", profile) for index, profile in enumerate(given))


def tenant_of_scope(scope: str) -> str | None:
    """Returns the id of the tenant that a scope lies in; None for everything."""
    return None if scope == EVERYTHING else scope.split("/")[1]


def _words(parsed: SpiffeId) -> list[str]:
    return parsed.path.removeprefix("/").split("/") if parsed.path else []


def _could_call(words: list[str]) -> bool:
    match words:
        case ["identities", _] | ["tenants", _, "identities", _]:
            return True
        case ["oidc", _, _, *_]:
            return True
        case _:
            return False


def _could_begin(words: list[str]) -> bool:
    match words:
        case [] | ["identities"] | ["tenants"] | ["tenants", _] | ["tenants", _, "identities"] | ["oidc", *_]:
            return True
        case _:
            return False
