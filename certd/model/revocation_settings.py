"""Where relying parties learn what an authority has revoked, as its operator wants it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from certd.errors import CertdError, Reason, Violation

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChange:
    """Settings that a caller asks for."""

    given: RevocationSettings
    """What is not said has its default."""
    paths: frozenset[str]
    """Which settings become as given, by the names of the fields: `crl`, `crl.lifetime`, `omit_issuer_url`."""
    enables: frozenset[str] = frozenset()
    """`crl`, `ocsp`: said in so many words to be enabled, which is more than the default."""


NO_CHANGE: Final = SettingsChange(given=RevocationSettings(), paths=frozenset())
EVERY_SETTING: Final = frozenset({"crl", "ocsp", "omit_issuer_url", "issuer_base_urls"})


def partitions_of(settings: RevocationSettings) -> range:
    """Returns the CRLs that new certificates may stand on: 0, the complete one, and the numbers of its partitions."""
    return range(1 + (settings.crl.partition_count if settings.crl.partitioned else 0))


def changed_settings(
    current: RevocationSettings, change: SettingsChange, *, short_lived: bool, field: str
) -> RevocationSettings:
    """Returns settings as a change leaves them.

    Raises FIELD_INVALID with every setting that contradicts another, or what the authority is for.

    Args:
        current: what they are.
        change: what is asked for.
        short_lived: whether nobody asks for the state of the authority's certificates, so that both kinds are off.
        field: path of the settings in the request.
    """
    wanted = _replaced(current, change)
    violations = []
    if short_lived:
        violations = [
            Violation(
                f"{field}.{kind}.enabled",
                "is true and the authority is SHORT_LIVED, whose certificates name neither CRL nor responder: leave it"
                " out, or create a GENERAL_PURPOSE authority",
            )
            for kind in sorted(change.enables)
        ]
        wanted = replace(wanted, crl=replace(wanted.crl, enabled=False), ocsp=replace(wanted.ocsp, enabled=False))
    violations += [Violation(f"{field}.{path}", problem) for path, problem in _contradictions(wanted)]
    if violations:
        raise CertdError(
            Reason.FIELD_INVALID,
            "; ".join(f"{violation.field} {violation.description}" for violation in violations),
            violations=tuple(violations),
        )
    return wanted


def _replaced(current: RevocationSettings, change: SettingsChange) -> RevocationSettings:
    parts: dict[str, Any] = {}
    for path in sorted(change.paths):
        # A part that is replaced as a whole comes before its own parts, which change nothing more.
        part, _, leaf = path.partition(".")
        given = getattr(change.given, part)
        if leaf:
            given = replace(parts.get(part, getattr(current, part)), **{leaf: getattr(given, leaf)})
        parts[part] = given
    return replace(current, **parts)


def _contradictions(settings: RevocationSettings) -> Iterator[tuple[str, str]]:
    for kind, part in (("crl", settings.crl), ("ocsp", settings.ocsp)):
        if part.omit_extension and part.base_urls:
            yield f"{kind}.base_urls", f"stand in certificates, which {kind}.omit_extension forbids; say one of the two"
    if settings.omit_issuer_url and settings.issuer_base_urls:
        yield "issuer_base_urls", "stand in certificates, which omit_issuer_url forbids; say one of the two"
    if settings.crl.omit_extension and settings.crl.partitioned:
        yield (
            "crl.partitioned",
            "spreads certificates over CRLs that they name, which crl.omit_extension forbids; say one of the two",
        )
