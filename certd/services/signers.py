"""Authorities that may sign at the moment, with all that a signature needs, kept between calls."""

from dataclasses import dataclass
from datetime import datetime

from certd.model.authority import Authority
from certd.model.names import AuthorityName
from certd.pki.certificate_request import Issuer
from certd.services.authorities import check_enabled, existing_authority
from certd.services.issuance import issuer_of
from certd.services.remembered import Remembered
from certd.services.status_locations import locations_of
from certd.store.store import Store, Transaction


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority that signs."""

    authority: Authority
    issuer: Issuer


class Signers:
    """Finds authorities by name.

    Args:
        store: where they are.
        base_url: under which their certificates are published; None: nowhere.
        trust_domain: of certd's own identities, which no authority of a tenant certifies.
    """

    def __init__(self, store: Store, *, base_url: str | None, trust_domain: str) -> None:
        self._base_url = base_url
        self.trust_domain = trust_domain
        self._signers: Remembered[AuthorityName, Signer] = Remembered(store, "signers.load", self._load)

    def enabled(self, name: AuthorityName, now: datetime) -> Signer:
        """Returns an authority that may issue; raises AUTHORITY_NOT_FOUND or AUTHORITY_NOT_ENABLED.

        It may have been disabled since: the issuing loop looks again in the transaction of the intent.
        """
        signer = self._signers.get(name)
        check_enabled(signer.authority, now)
        return signer

    def _load(self, tx: Transaction, name: AuthorityName) -> Signer:
        authority = existing_authority(tx, name)
        if authority.certificate is None:
            # It may not have a key yet, and may vanish without a change of the configuration.
            check_enabled(authority, authority.create_time)
        return self.of(authority)

    def of(self, authority: Authority) -> Signer:
        """Returns an authority with what a signature needs to know of it."""
        public_key = authority.key.public_key or b""
        issuer = issuer_of(
            authority,
            public_key=public_key,
            locations=locations_of(authority, self._base_url),
            reserved_trust_domain=self.trust_domain,
        )
        return Signer(authority, issuer)
