"""Identities: who may call, as SPIFFE ids in certificates of the system authority; and the server's own certificate."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from certd.clock import Clock
from certd.model.certificate import Certificate, CertificateState
from certd.model.event import SYSTEM_PRINCIPAL
from certd.model.identity import Identity
from certd.pki import csr, distinguished_name
from certd.pki.description import describe
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import CertificateRequest, Validity
from certd.pki.profiles import SYSTEM, Profile
from certd.services.issuance import Order, issuance_of, issuer_of, prepare
from certd.services.issuing_loop import Issued, IssuingLoop
from certd.services.system import SystemAuthority
from certd.store import identities
from certd.store.store import Store, Transaction

MOST_SHOWN = 16
"""Certificates of an identity that are shown with it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate of the system authority."""

    certificate: bytes
    """DER."""
    created: bool
    """False when it stood in the books already."""


@dataclass(frozen=True, slots=True)
class IdentityView:
    """An identity as a caller sees it."""

    identity: Identity
    certificates: tuple[Certificate, ...]
    """Those that are neither expired nor revoked, the newest first, MOST_SHOWN at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityCredential:
    """A certificate that an identity was given, and what it needs to use it."""

    view: IdentityView
    certificate: bytes
    """DER."""
    system_roots: tuple[bytes, ...]
    """DER; they vouch for this certificate and for the server."""
    renew_time: datetime
    """When a third of the lifetime is left."""


class Identities:
    """Issues what the system authority issues."""

    def __init__(self, *, store: Store, clock: Clock, loop: IssuingLoop, system_authority: SystemAuthority) -> None:
        self._store = store
        self._clock = clock
        self._loop = loop
        self._system_authority = system_authority

    def ensure_identity(self, spiffe_id: str, certification_request: bytes) -> Credential:
        """Returns the valid certificate of this identity for the key of the CSR; issues it when there is none.

        The newest one for the key counts, and only when it has just this name.
        """
        names = SubjectAlternativeNames(uris=(spiffe_id,))
        return self._ensure(SYSTEM["identity"], names, certification_request, any_names=False)

    def ensure_server(
        self, names: SubjectAlternativeNames, certification_request: bytes, *, any_names: bool = True
    ) -> Credential:
        """Returns the valid server certificate for the key of the CSR; issues one with these names when needed.

        One with other names will do, unless `any_names` is false.
        """
        return self._ensure(SYSTEM["listener"], names, certification_request, any_names=any_names)

    def _ensure(
        self, profile: Profile, names: SubjectAlternativeNames, certification_request: bytes, *, any_names: bool
    ) -> Credential:
        now = self._clock.now()
        authority = self._system_authority.get()
        public_key = csr.parse_csr(certification_request).public_key
        with self._store.read("identities.of-key") as tx:
            found = self._system_authority.latest_of_key(tx, hashlib.sha256(public_key).digest())
        if (
            found is not None
            and found.authority_uid == authority.uid
            and found.der is not None
            and found.state is CertificateState.ISSUED
            and found.profile == profile.profile_id
            and found.not_after - now > profile.default_lifetime / 3
            and (any_names or describe(found.der).subject_alternative_names == names)
        ):
            return Credential(found.der, created=False)
        return Credential(self._issue(profile, names, public_key, SYSTEM_PRINCIPAL, None, None), created=True)

    def issue_identity(
        self,
        spiffe_id: str,
        public_key: bytes,
        *,
        principal: str,
        also: Callable[[Transaction, bytes], None],
        timeout: float,
    ) -> bytes:
        """Issues a certificate of 30 days for this identity and key (DER of the SubjectPublicKeyInfo); returns its DER.

        Args:
            spiffe_id: the one name in it.
            public_key: as `csr.parse_csr` returns it, which has seen the proof that the private one is the caller's.
            principal: who asks.
            also: changes rows in the transaction that makes the certificate valid, given its DER; what it raises
                refuses the certificate, which is then lost, and is raised here.
            timeout: seconds to wait.

        Raises what `IssuingLoop.issue` tells, and PROFILE_FORBIDS for a key that TLS does not take.
        """
        names = SubjectAlternativeNames(uris=(spiffe_id,))
        return self._issue(SYSTEM["identity"], names, public_key, principal, also, timeout)

    def view(self, tx: Transaction, identity: Identity) -> IdentityView:
        """Returns an identity with its certificates that are neither expired nor revoked."""
        return IdentityView(identity, tuple(self.live(tx, identity.spiffe_id, now=self._clock.now(), limit=MOST_SHOWN)))

    def live(self, tx: Transaction, spiffe_id: str, *, now: datetime, limit: int) -> list[Certificate]:
        """Returns up to `limit` certificates of an identity that are neither expired nor revoked, the newest first."""
        found = [
            row
            for authority in self._system_authority.trusted()
            for row in identities.live_certificates(tx, authority.uid, spiffe_id, now=now, limit=limit)
        ]
        return sorted(found, key=lambda row: row.create_time, reverse=True)[:limit]

    def credential(self, tx: Transaction, identity: Identity, certificate: bytes) -> IdentityCredential:
        """Returns what an identity is given with its certificate (DER)."""
        described = describe(certificate)
        lifetime = described.not_after_time - described.not_before_time
        return IdentityCredential(
            view=self.view(tx, identity),
            certificate=certificate,
            system_roots=self._system_authority.roots(),
            renew_time=described.not_after_time - lifetime / 3,
        )

    def _issue(
        self,
        profile: Profile,
        names: SubjectAlternativeNames,
        public_key: bytes,
        principal: str,
        also: Callable[[Transaction, bytes], None] | None,
        timeout: float | None,
    ) -> bytes:
        now = self._clock.now()
        authority = self._system_authority.get()
        order = Order(
            origin="csr",
            source=CertificateRequest(public_key=public_key, subject=distinguished_name.EMPTY, names=names),
            profile=profile,
            validity=Validity(lifetime=None, not_after=None),
        )
        issuer = issuer_of(authority, public_key=authority.key.public_key or b"")
        prepared = prepare(order, issuer, now=now)
        issuance = issuance_of(prepared, order, authority, principal=principal, now=now, also=also)
        outcome = self._loop.issue(issuance, timeout=timeout)
        # Without a request record nothing is ever replayed.
        assert isinstance(outcome, Issued)  # noqa: S101
        return outcome.der
