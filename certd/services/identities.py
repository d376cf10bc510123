"""Identities: who may call, as SPIFFE ids in certificates of the system authority; and the server's own certificate."""

import hashlib
from dataclasses import dataclass

from certd.clock import Clock
from certd.model.certificate import CertificateState
from certd.model.event import SYSTEM_PRINCIPAL
from certd.pki import csr, description, distinguished_name
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import CertificateRequest, Validity
from certd.pki.profiles import SYSTEM, Profile
from certd.services.issuance import Order, issuance_of, issuer_of, prepare
from certd.services.issuing_loop import Issued, IssuingLoop
from certd.services.system import SystemAuthority
from certd.store import certificates
from certd.store.store import Store


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate of the system authority."""

    certificate: bytes
    """DER."""
    created: bool
    """False when it stood in the books already."""


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

    def ensure_server(self, names: SubjectAlternativeNames, certification_request: bytes) -> Credential:
        """Returns the valid server certificate for the key of the CSR, whatever its names; issues one when needed."""
        return self._ensure(SYSTEM["listener"], names, certification_request, any_names=True)

    def _ensure(
        self, profile: Profile, names: SubjectAlternativeNames, certification_request: bytes, *, any_names: bool
    ) -> Credential:
        now = self._clock.now()
        authority = self._system_authority.get()
        public_key = csr.parse_csr(certification_request).public_key
        with self._store.read("identities.of-key") as tx:
            found = certificates.latest_of_key(tx, authority.uid, hashlib.sha256(public_key).digest())
        if (
            found is not None
            and found.der is not None
            and found.state is CertificateState.ISSUED
            and found.profile == profile.profile_id
            and found.not_after - now > profile.default_lifetime / 3
            and (any_names or description.describe(found.der).subject_alternative_names == names)
        ):
            return Credential(found.der, created=False)
        order = Order(
            origin="csr",
            source=CertificateRequest(public_key=public_key, subject=distinguished_name.EMPTY, names=names),
            profile=profile,
            validity=Validity(lifetime=None, not_after=None),
        )
        issuer = issuer_of(authority, public_key=authority.key.public_key or b"", information_url=None)
        prepared = prepare(order, issuer, now=now)
        outcome = self._loop.issue(issuance_of(prepared, order, authority, principal=SYSTEM_PRINCIPAL, now=now))
        # Without a request record nothing is ever replayed.
        assert isinstance(outcome, Issued)  # noqa: S101
        return Credential(outcome.der, created=True)
