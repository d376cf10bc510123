"""The server without its listeners: which objects there are, and in which order they start and stop."""

import logging
from dataclasses import dataclass

from certd.auditing import Auditing
from certd.authority_life import AuthorityLife
from certd.clock import Clock
from certd.config import Config
from certd.delivering import Delivering
from certd.errors import CertdError
from certd.outbound.jwks import KeySet
from certd.prepare.client import Preparer
from certd.publication import Publication
from certd.rotation import Rotation
from certd.scheduler import Scheduler
from certd.services.access import Access
from certd.services.administrators import AdministratorRecovery
from certd.services.associations import Associations
from certd.services.authorities import Authorities
from certd.services.authority_activation import AuthorityActivation
from certd.services.authority_changes import AuthorityChanges
from certd.services.bearer import Bearer
from certd.services.bootstrap import Bootstrap
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import Certificates
from certd.services.download_codes import DownloadCodes
from certd.services.downloads import Downloads
from certd.services.enrollment import Enrollment
from certd.services.event_feed import EventFeed
from certd.services.event_streams import EventStreams
from certd.services.grants import Grants
from certd.services.identities import Identities
from certd.services.identity_changes import IdentityChanges
from certd.services.issuing_loop import IssuingLoop
from certd.services.lease_refusals import LeaseRefusals
from certd.services.leases import Leases
from certd.services.managed_certificate_changes import ManagedCertificateChanges
from certd.services.managed_certificate_search import ManagedCertificateSearches
from certd.services.managed_certificates import ManagedCertificates
from certd.services.managed_export import ManagedExport
from certd.services.managed_import import ManagedImport
from certd.services.managed_revocation import ManagedRevocation
from certd.services.managed_watch import ManagedWatch
from certd.services.pinned_roots import PinnedRoots
from certd.services.profile_check import ProfileChecks
from certd.services.profiles import Profiles
from certd.services.public import PublicCertificates
from certd.services.rates import Rates
from certd.services.recovery import Ownership, Recovery
from certd.services.refusals import Refusals
from certd.services.renewal_campaigns import RenewalCampaigns
from certd.services.revocation import Revocation
from certd.services.revocation_batch import BatchRevocation
from certd.services.revocation_campaigns import RevocationCampaigns
from certd.services.server import Health, Server
from certd.services.server_certificate import ServerCertificate
from certd.services.status_locations import follow_base_url, follow_clock
from certd.services.system import SystemAuthority
from certd.services.system_rotation import SystemRotation
from certd.services.tenants import Tenants
from certd.services.wrapping_key_rotation import WrappingKeyRotation
from certd.store.store import Store
from certd.token.client import TokenClient

_log = logging.getLogger("certd.main")

_TOKEN_START_SECONDS = 20.0
_PREPARE_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The server without its listeners: what `certd init` runs, and the inside of `certd serve`."""

    config: Config
    clock: Clock
    store: Store
    token: TokenClient
    preparer: Preparer
    ownership: Ownership
    recovery: Recovery
    loop: IssuingLoop
    scheduler: Scheduler
    delivering: Delivering
    system_authority: SystemAuthority
    access: Access
    key_sets: tuple[KeySet, ...]
    """Of the issuers of tokens."""
    bearer: Bearer
    authorities: Authorities
    authority_activation: AuthorityActivation
    authority_changes: AuthorityChanges
    authority_life: AuthorityLife
    rotation: Rotation
    certificates: Certificates
    certificate_searches: CertificateSearches
    revocation: Revocation
    batch_revocation: BatchRevocation
    revocation_campaigns: RevocationCampaigns
    managed_certificates: ManagedCertificates
    managed_export: ManagedExport
    download_codes: DownloadCodes
    downloads: Downloads
    managed_import: ManagedImport
    managed_certificate_changes: ManagedCertificateChanges
    managed_revocation: ManagedRevocation
    managed_certificate_searches: ManagedCertificateSearches
    associations: Associations
    leases: Leases
    lease_refusals: LeaseRefusals
    renewal_campaigns: RenewalCampaigns
    wrapping_key_rotation: WrappingKeyRotation
    profiles: Profiles
    profile_checks: ProfileChecks
    tenants: Tenants
    grants: Grants
    identities: Identities
    identity_changes: IdentityChanges
    enrollment: Enrollment
    bootstrap: Bootstrap
    administrator_recovery: AdministratorRecovery
    auditing: Auditing
    event_feed: EventFeed
    event_streams: EventStreams
    managed_watch: ManagedWatch
    server: Server
    server_certificate: ServerCertificate
    system_rotation: SystemRotation
    pinned_roots: PinnedRoots
    health: Health
    rates: Rates
    refusals: Refusals
    public_certificates: PublicCertificates
    publication: Publication

    def begin(self) -> None:
        """Starts what one command needs, after recovery of what the last run left half done; no job is run."""
        if not self.token.wait_settled(_TOKEN_START_SECONDS):
            _log.error(
                "the token does not answer; certd serves what needs no key until it does: %s", self.token.problem
            )
        if not self.preparer.wait_settled(_PREPARE_START_SECONDS):
            _log.error("a prepare process does not start; what needs one is refused until it does")
        self.ownership.begin()
        self.recovery.run()
        self.loop.start()

    def start(self) -> None:
        """Starts what works without being asked as well."""
        self.begin()
        follow_base_url(self.store, self.config.web.base_url, self.clock.now())
        follow_clock(self.store, self.clock.now())
        self.publication.answering.start()
        self.scheduler.start()
        self.delivering.start()
        for keys in self.key_sets:
            keys.start()

    def stop(self) -> None:
        """Ends what `start` or `begin` started: first who gives work, then who does it, the books last."""
        for keys in self.key_sets:
            keys.stop()
        self.event_feed.close()
        self.delivering.stop()
        self.scheduler.stop()
        self.refusals.flush(whole_minutes=False)
        self.lease_refusals.flush(whole_minutes=False)
        self.publication.answering.stop()
        self.enrollment.tell_all()
        self.download_codes.tell_all()
        self.loop.stop()
        self.preparer.stop()
        self.token.stop()
        try:
            self.ownership.end()
        except CertdError as error:
            # The lease ends by itself.
            _log.warning("the epoch could not be given back: %s", error)
        self.store.close()
