"""Certificate authorities: what one is, and what it may do."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from certd.model.names import AuthorityName
from certd.model.revocation_settings import RevocationSettings
from certd.pki import name_constraints
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.name_constraints import NameConstraints

HIGHEST_PATH_LENGTH = 4
"""Depth of a hierarchy is at most five: a root and four levels below it."""


class AuthorityType(enum.StrEnum):
    """Where an authority stands."""

    ROOT = "ROOT"
    SUBORDINATE = "SUBORDINATE"


class AuthorityState(enum.StrEnum):
    """What an authority may do at the moment. EXPIRED and DELETED are computed, never stored."""

    AWAITING_CERTIFICATE = "AWAITING_CERTIFICATE"
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    EXPIRED = "EXPIRED"
    DELETED = "DELETED"
    PURGED = "PURGED"


class UsageMode(enum.StrEnum):
    """What an authority is for."""

    GENERAL_PURPOSE = "GENERAL_PURPOSE"
    SHORT_LIVED = "SHORT_LIVED"
    """Certificates of at most 7 days, whose state nobody asks for (RFC 9608)."""


class AuthorityKeyState(enum.StrEnum):
    """Where a key stands in a rotation."""

    PREPARED = "PREPARED"
    ACTIVE = "ACTIVE"
    SUPERSEDED = "SUPERSEDED"
    TAINTED = "TAINTED"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityKey:
    """A key of an authority, which exists in the token.

    What `Authority.key` leaves as None or empty is as the authority itself says; `store.authorities.keys` fills it in.
    """

    number: int
    """Number within the authority, from 1; public URLs contain it."""
    key_id: bytes
    """CKA_ID, 16 random bytes, allocated before the key is generated."""
    policy: bytes
    """What the key may sign, serialised; sealed with the key in the token."""
    public_key: bytes | None
    """DER of the SubjectPublicKeyInfo; None until the token has answered."""
    state: AuthorityKeyState = AuthorityKeyState.ACTIVE
    state_time: datetime | None = None
    """When it came to its state."""
    key_spec: KeySpec | None = None
    """None: as the authority says."""
    signature_algorithm: SignatureAlgorithm | None = None
    """None: as the authority says."""
    certificate: bytes | None = None
    """DER of the authority's certificate for this key; None while it has none."""
    chain: tuple[bytes, ...] = ()
    not_after: datetime | None = None
    path_length: int | None = None
    lifetime: timedelta | None = None
    """Of the certificate that was asked for; None: as the authority says."""
    cross_certify: bool = False
    """Whether the key that signs and this one are still to certify each other before its preparation is over."""

    @property
    def full_chain(self) -> tuple[bytes, ...]:
        """DER of its certificate and those above it."""
        return (self.certificate, *self.chain) if self.certificate is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority."""

    uid: str
    """Opaque, never used again; public URLs contain it."""
    tenant: str | None
    """Id of the tenant; None for the system authority, which no service but identity reaches."""
    authority_id: str
    type: AuthorityType
    state: AuthorityState
    """As stored; use `state_at` for what a caller sees."""
    key_spec: KeySpec
    signature_algorithm: SignatureAlgorithm
    subject: bytes
    """DER of the distinguished name, copied byte for byte into issuer fields."""
    lifetime: timedelta
    path_length: int
    issuer_uid: str | None
    """Uid of the authority that signs its certificate; its own for a root, None when its parent is an outside one."""
    key: AuthorityKey
    certificate: bytes | None = None
    """DER; None while it awaits its certificate."""
    chain: tuple[bytes, ...] = ()
    """DER of the certificates from its issuer up to the root, its own excluded."""
    not_after: datetime | None = None
    """End of its certificate."""
    name_constraints: bytes | None = None
    """Value of the extension that was asked for; None for none. What holds is what its certificate says."""
    labels: Mapping[str, str] = field(default_factory=dict)
    usage_mode: UsageMode = UsageMode.GENERAL_PURPOSE
    revocation: RevocationSettings = field(default_factory=RevocationSettings)
    deletion_protection: bool = False
    delete_time: datetime | None = None
    """None: not deleted."""
    purge_time: datetime | None = None
    """When it is purged, if it is deleted."""
    create_time: datetime
    update_time: datetime
    revision: int = 1
    """Grows by one with every change; the etag is made of it."""

    @property
    def name(self) -> str:
        """The resource name; the system authority has none that a caller could say."""
        return str(AuthorityName(self.tenant or "-", self.authority_id))

    @property
    def constraints(self) -> NameConstraints | None:
        """Which names may stand below it: as its certificate says, or as was asked for while it has none."""
        if self.certificate is not None:
            return name_constraints.of_certificate(self.certificate)
        return None if self.name_constraints is None else name_constraints.decode(self.name_constraints)

    @property
    def etag(self) -> str:
        """Changes with every change of the authority."""
        return f"{self.uid}-{self.revision}"

    @property
    def finished(self) -> bool:
        """Whether its creation is over: it has its certificate, or its key and awaits one of an outside parent."""
        return self.certificate is not None or self.awaits_parent

    @property
    def awaits_parent(self) -> bool:
        """Whether it awaits the certificate of an outside parent; its key exists then."""
        return self.certificate is None and self.issuer_uid is None and self.key.public_key is not None

    def with_key(self, key: AuthorityKey) -> "Authority":
        """Returns the authority as it is where this key, one of `store.authorities.keys`, signs in its name."""
        return replace(
            self,
            key=key,
            key_spec=key.key_spec or self.key_spec,
            signature_algorithm=key.signature_algorithm or self.signature_algorithm,
            lifetime=key.lifetime or self.lifetime,
            path_length=self.path_length if key.path_length is None else key.path_length,
            certificate=key.certificate,
            chain=key.chain,
            not_after=key.not_after,
        )

    def state_at(self, now: datetime) -> AuthorityState:
        """Returns the state at `now`: DELETED wins over EXPIRED, which holds once its certificate has ended."""
        if self.state is AuthorityState.PURGED:
            return AuthorityState.PURGED
        if self.delete_time is not None:
            return AuthorityState.DELETED
        expired = self.not_after is not None and now > self.not_after
        return AuthorityState.EXPIRED if expired else self.state

    @property
    def full_chain(self) -> tuple[bytes, ...]:
        """DER of its own certificate and those above it: the chain of what it issues."""
        return (self.certificate, *self.chain) if self.certificate is not None else ()
