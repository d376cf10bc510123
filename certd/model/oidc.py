"""Issuers of OpenID Connect whose tokens name callers, and how a claim becomes a principal."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

COLLECTION: Final = "oidc"
"""First segment of the paths of callers by token; no certificate names such a path."""
LONGEST_CLAIM: Final = 512
"""Octets of a claim that becomes a principal."""
_KEPT: Final = frozenset(string.ascii_letters + string.digits + "-.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcProvider:
    """An issuer whose tokens are taken."""

    name: str
    """Second segment of its callers' paths."""
    issuer: str
    """What `iss` must be, to the letter."""
    audience: str
    """What `aud` must have."""
    jwks_url: str
    """Where its keys are, an https URL."""
    algorithms: tuple[str, ...]
    """Signature algorithms of RFC 7518 and RFC 8037 that are taken, asymmetric ones alone."""
    principal_claim: str = "sub"
    """Claim that names the caller, a text."""
    required_claims: Mapping[str, str | bool] = field(default_factory=dict)
    """Claims that must have just these values."""
    ca_file: Path | None = None
    """PEM of the roots that vouch for `jwks_url`; None: those of the machine."""


def principal_of(trust_domain: str, provider: str, claim: str) -> str:
    """Returns the SPIFFE id of a caller by token.

    Different claims have different ids: letters, digits, `-` and `.` stand for themselves, a slash parts segments, and
    every other octet of the UTF-8 text is `_` with two hexadecimal digits. An empty segment is `_`, and the dots of a
    segment that has nothing else are written in hexadecimal, for SPIFFE knows neither.
    """
    path = "/".join(_segment(part) for part in claim.split("/"))
    return f"spiffe://{trust_domain}/{COLLECTION}/{provider}/{path}"


def _segment(text: str) -> str:
    if not text:
        return "_"
    kept = _KEPT - {"."} if not text.strip(".") else _KEPT
    return "".join(
        character if character in kept else "".join(f"_{octet:02X}" for octet in character.encode())
        for character in text
    )
