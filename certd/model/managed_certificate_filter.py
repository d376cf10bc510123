"""A condition on managed certificates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from certd.model.managed_certificate import ManagedCertificateState, ManagedCertificateType
from certd.pki.key_spec import KeySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCertificateFilter:
    """Every condition that is set must hold; empty and None: it is not set. Names are in their normal form."""

    states: frozenset[ManagedCertificateState] = frozenset()
    type: ManagedCertificateType | None = None
    authority: str = ""
    """Resource name."""
    authority_key_number: int = 0
    """With an authority: of the key of it that signed the current version, whoever signs the next; 0: any."""
    profile: str = ""
    """Id."""
    key_spec: KeySpec | None = None
    alternative_name: str = ""
    """It has this name, of whichever kind."""
    domain: str = ""
    """It has a DNS name that is this domain or lies below it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """An empty value stands for any."""
    not_after_before: datetime | None = None
    issued_before: datetime | None = None
    renewal_blocked: bool | None = None
    used: bool | None = None
