"""Where relying parties learn what an authority has revoked, as its operator wants it."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

DEFAULT_CRL_LIFETIME: Final = timedelta(days=7)
DEFAULT_OCSP_LIFETIME: Final = timedelta(days=2)
DEFAULT_PARTITION_COUNT: Final = 16
MOST_PARTITIONS: Final = 4096
MOST_BASE_URLS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlSettings:
    """CRLs (RFC 5280, section 5)."""

    enabled: bool = True
    partitioned: bool = False
    """Whether new certificates name the CRL of a partition; the complete CRL is signed all the same."""
    partition_count: int = DEFAULT_PARTITION_COUNT
    lifetime: timedelta = DEFAULT_CRL_LIFETIME
    """From thisUpdate to nextUpdate."""
    base_urls: tuple[str, ...] = ()
    """Of hosts that serve them in place of this server; empty: this server's own."""
    omit_extension: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspSettings:
    """OCSP answers (RFC 6960)."""

    enabled: bool = True
    lifetime: timedelta = DEFAULT_OCSP_LIFETIME
    """From thisUpdate to nextUpdate of an answer that is signed ahead."""
    base_urls: tuple[str, ...] = ()
    omit_extension: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationSettings:
    """All of it. New settings touch new certificates only."""

    crl: CrlSettings = field(default_factory=CrlSettings)
    ocsp: OcspSettings = field(default_factory=OcspSettings)
    omit_issuer_url: bool = False
    issuer_base_urls: tuple[str, ...] = ()
