"""Callers by token: a JSON Web Token (RFC 7519) of a configured issuer, verified as RFC 8725 advises."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import jwt
from jwt.types import Options

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.oidc import LONGEST_CLAIM, OidcProvider, principal_of
from certd.outbound.jwks import SigningKey
from certd.pki.names import parse_spiffe_id

LONGEST_TOKEN: Final = 8192
"""Octets."""
LEEWAY: Final = timedelta(seconds=30)
"""By which clocks may differ."""
LONGEST_LIFE: Final = timedelta(hours=24)
"""From `iat` to `exp`: tokens cannot be withdrawn, so they must end soon."""
_TYPES: Final = frozenset({"jwt", "at+jwt"})
"""Of tokens that tell who somebody is (RFC 7519, RFC 9068); an issuer also signs others, of a logout for example."""
_LONGEST_KEY_ID: Final = 256
_LAST_MOMENT: Final = 253_402_300_799
"""The end of the year 9999."""
_NO_CLAIMS: Final[Options] = {
    # The claims are looked at below, against our own clock.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
_SIGNATURE_ALONE: Final[Options] = {**_NO_CLAIMS, "verify_signature": True}
_NOTHING: Final[Options] = {**_NO_CLAIMS, "verify_signature": False}


class Keys(Protocol):
    """The keys of an issuer: `outbound.jwks.KeySet`."""

    def key(self, key_id: str) -> SigningKey:
        """Returns a key; raises CREDENTIAL_INVALID."""


class Bearer:
    """Tells callers by their tokens.

    Args:
        providers: whose tokens are taken, with their keys; each has an issuer of its own.
        clock: against which tokens end.
        trust_domain: of the principals.
    """

    def __init__(self, providers: Sequence[tuple[OidcProvider, Keys]], *, clock: Clock, trust_domain: str) -> None:
        self._providers = {provider.issuer: (provider, keys) for provider, keys in providers}
        self._clock = clock
        self._trust_domain = trust_domain

    def authenticate(self, token: str) -> Caller:
        """Returns who shows the token; raises CREDENTIAL_INVALID, and tells nothing of the token in doing so."""
        header, unverified = _unverified(token)
        issuer = unverified.get("iss")
        provider, keys = self._providers.get(issuer if isinstance(issuer, str) else "", (None, None))
        if provider is None or keys is None:
            raise _invalid("it is of an issuer that this server does not know; see [[oidc]] in certd.toml")
        claims = _verified(token, header, provider, keys)
        ends = _check_times(claims, self._clock.now())
        _check_audience(claims, provider)
        for claim, value in provider.required_claims.items():
            shown = claims.get(claim)
            # 1 is no True.
            if shown != value or type(shown) is not type(value):
                raise _invalid(f"its claim {claim} is not what [[oidc]] {provider.name} requires")
        name = claims.get(provider.principal_claim)
        if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= LONGEST_CLAIM:
            raise _invalid(f"its claim {provider.principal_claim} is no text of 1 to {LONGEST_CLAIM} octets")
        return Caller(principal=self._principal(provider, name), serial="", not_after=ends)

    def _principal(self, provider: OidcProvider, name: str) -> str:
        try:
            principal = principal_of(self._trust_domain, provider.name, name)
            parse_spiffe_id(principal)
        except (UnicodeEncodeError, CertdError) as error:
            raise _invalid(f"its claim {provider.principal_claim} makes no SPIFFE id") from error
        return principal


def _invalid(problem: str) -> CertdError:
    return CertdError(Reason.CREDENTIAL_INVALID, f"the bearer token is refused: {problem}")


def _unverified(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns header and claims, which nothing vouches for yet."""
    if len(token) > LONGEST_TOKEN:
        raise _invalid(f"it has more than {LONGEST_TOKEN} octets")
    try:
        decoded = jwt.decode_complete(token, options=_NOTHING)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise _invalid("it is no JSON Web Token in compact form") from error
    return decoded["header"], decoded["payload"]


def _verified(token: str, header: Mapping[str, Any], provider: OidcProvider, keys: Keys) -> Mapping[str, Any]:
    """Returns the claims that a key of the issuer vouches for."""
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in provider.algorithms or not isinstance(algorithm, str):
        raise _invalid(f"its algorithm is none of {', '.join(provider.algorithms)}")
    if "crit" in header or "b64" in header:
        raise _invalid("its header has extensions that must be understood, and certd understands none")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise _invalid("its header says that it is of another type (typ) than JWT or at+jwt")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_KEY_ID:
        raise _invalid("its header names no key (kid)")
    key = keys.key(key_id)
    if not key.fits(algorithm):
        raise _invalid("its algorithm is not that of the key that it names")
    try:
        claims: Mapping[str, Any] = jwt.decode(token, key=key.key, algorithms=[algorithm], options=_SIGNATURE_ALONE)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise _invalid("its signature does not verify") from error
    return claims


def _check_times(claims: Mapping[str, Any], now: datetime) -> datetime:
    """Returns when the token ends."""
    seconds, leeway = now.timestamp(), LEEWAY.total_seconds()
    ends, issued = _moment(claims, "exp"), _moment(claims, "iat")
    if seconds >= ends + leeway:
        raise _invalid(f"it ended before {rfc3339(now)}; get a new one")
    if issued > seconds + leeway or ("nbf" in claims and _moment(claims, "nbf") > seconds + leeway):
        raise _invalid(f"it is not valid yet at {rfc3339(now)}; compare the clocks of its issuer and of this server")
    if ends - issued > LONGEST_LIFE.total_seconds():
        raise _invalid("it lives longer than a day; have its issuer make shorter ones")
    return datetime.fromtimestamp(ends, UTC)


def _moment(claims: Mapping[str, Any], claim: str) -> float:
    value = claims.get(claim)
    # What is no number is between no two, infinite ones included.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_MOMENT:
        raise _invalid(f"its claim {claim} is missing or no time")
    return float(value)


def _check_audience(claims: Mapping[str, Any], provider: OidcProvider) -> None:
    audience = claims.get("aud")
    if audience != provider.audience and not (isinstance(audience, list) and provider.audience in audience):
        raise _invalid(f"it is for another audience than {provider.audience}; ask its issuer for one for this")
