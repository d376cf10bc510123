"""The composition root: which objects exist, how they hang together, how they start and stop."""

import logging
from dataclasses import dataclass
from datetime import timedelta

from certd.auditing import Auditing, auditing
from certd.authority_life import AuthorityLife, authority_life
from certd.children import start_preparer, token_client, use_known_keys_of
from certd.clock import Clock
from certd.config import Config, oidc_providers, request_limits, token_settings
from certd.config_notify import mail_server
from certd.credential_files import CredentialFiles
from certd.errors import CertdError
from certd.incidents import incidents
from certd.model.job import JobKind
from certd.outbound.addresses import Reach
from certd.outbound.jwks import KeySet
from certd.outbound.mail import Mail
from certd.outbound.webhook import Webhooks
from certd.prepare.client import Preparer
from certd.publication import Publication, publication
from certd.rotation import Rotation, rotation
from certd.scheduler import Scheduler, Waker
from certd.services.access import Access
from certd.services.administrators import AdministratorRecovery
from certd.services.associations import Associations
from certd.services.authorities import Authorities
from certd.services.authority_activation import AuthorityActivation
from certd.services.authority_changes import AuthorityChanges
from certd.services.authority_views import AuthorityViews
from certd.services.backup_notes import BackupNotes
from certd.services.bearer import Bearer
from certd.services.bootstrap import Bootstrap
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import Certificates
from certd.services.courier import Courier
from certd.services.deliveries import Deliveries
from certd.services.delivery_wakes import DeliveryWakes
from certd.services.deployment_checks import DeploymentChecks
from certd.services.download_codes import DownloadCodes
from certd.services.downloads import Downloads
from certd.services.enrollment import Enrollment
from certd.services.event_feed import EventFeed
from certd.services.event_streams import EventStreams
from certd.services.failed_deliveries import FailedDeliveries
from certd.services.grants import Grants
from certd.services.idempotency import RequestRecords
from certd.services.identities import Identities
from certd.services.identity_changes import IdentityChanges
from certd.services.import_keys import ImportKeys
from certd.services.issuing import Issuing
from certd.services.issuing_loop import IssuingLoop
from certd.services.lease_refusals import LeaseRefusals
from certd.services.leases import Leases
from certd.services.managed_certificate_changes import ManagedCertificateChanges
from certd.services.managed_certificate_search import ManagedCertificateSearches
from certd.services.managed_certificate_steps import ManagedCertificateSteps
from certd.services.managed_certificates import ManagedCertificates
from certd.services.managed_export import ManagedExport
from certd.services.managed_import import ManagedImport
from certd.services.managed_revocation import ManagedRevocation
from certd.services.managed_upkeep import ManagedUpkeep
from certd.services.managed_watch import ManagedWatch
from certd.services.notices import Notices
from certd.services.pinned_roots import PinnedRoots
from certd.services.profile_check import ProfileChecks
from certd.services.profiles import Profiles
from certd.services.public import PublicCertificates
from certd.services.rates import Rates
from certd.services.recovery import Ownership, Recovery
from certd.services.refusals import Refusals
from certd.services.renewal_campaigns import RenewalCampaigns
from certd.services.renewal_waits import RenewalWaits
from certd.services.revocation import Revocation
from certd.services.revocation_batch import BatchRevocation
from certd.services.revocation_campaigns import RevocationCampaigns
from certd.services.server import Health, Server
from certd.services.server_certificate import ServerCertificate
from certd.services.signers import Signers
from certd.services.status_locations import follow_base_url
from certd.services.steps import StepHook
from certd.services.subscription_secrets import SubscriptionSecrets
from certd.services.subscriptions import Subscriptions
from certd.services.system import SystemAuthority
from certd.services.system_rotation import SystemRotation
from certd.services.tenants import Tenants
from certd.services.version_keys import VersionKeys
from certd.services.version_making import VersionMaking
from certd.services.wrapping_key_rotation import WrappingKeyRotation
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store
from certd.token.client import TokenClient

_log = logging.getLogger("certd.main")

_TOKEN_START_SECONDS = 20.0
_PREPARE_START_SECONDS = 20.0
_DELIVERIES_AT_ONCE = 64
"""Subscriptions whose targets are waited for; one tenant has a fourth of them."""


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
    delivery_scheduler: Scheduler
    """Of its own, because it waits for strangers."""
    deliveries: Deliveries
    delivery_wakes: DeliveryWakes
    subscriptions: Subscriptions
    failed_deliveries: FailedDeliveries
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

    def start(self) -> None:
        """Starts what works without being asked, after recovery of what the last run left half done."""
        if not self.token.wait_settled(_TOKEN_START_SECONDS):
            _log.error(
                "the token does not answer; certd serves what needs no key until it does: %s", self.token.problem
            )
        if not self.preparer.wait_settled(_PREPARE_START_SECONDS):
            _log.error("a prepare process does not start; what needs one is refused until it does")
        self.ownership.begin()
        self.recovery.run()
        follow_base_url(self.store, self.config.web.base_url, self.clock.now())
        self.loop.start()
        self.publication.answering.start()
        self.scheduler.start()
        self.delivery_scheduler.start()
        self.delivery_wakes.start()
        for keys in self.key_sets:
            keys.start()

    def stop(self) -> None:
        """Ends what `start` started: first who gives work, then who does it, the books last."""
        for keys in self.key_sets:
            keys.stop()
        self.event_feed.close()
        self.delivery_wakes.stop()
        self.deliveries.stop()
        self.delivery_scheduler.stop()
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


def assemble(config: Config, *, clock: Clock, step: StepHook) -> Core:
    """Opens the database and constructs everything that needs no listener. Raises STORE_UNAVAILABLE, FIELD_INVALID."""
    use_known_keys_of(config)
    store = Store.open(config.database.url, clock=clock)
    token = token_client(config)
    preparer = start_preparer(config)
    base_url = config.web.base_url
    trust_domain = config.tls.trust_domain
    limits = request_limits(config)

    system_authority = SystemAuthority(store, clock)
    access = Access(store, clock, system_authority=system_authority, trust_domain=trust_domain)
    issuers = tuple(
        (provider, KeySet(provider.jwks_url, provider.ca_file, clock=clock)) for provider in oidc_providers(config)
    )
    tenants = Tenants(store=store, clock=clock, access=access)
    rates = Rates(
        calls_per_second=config.limits.calls_per_second,
        burst=config.limits.calls_burst,
        of_tenant=tenants.calls_per_second,
    )
    refusals = Refusals(store, clock)
    lease_refusals = LeaseRefusals(store, clock)
    ownership = Ownership(store=store, clock=clock)
    recovery = Recovery(store=store, clock=clock, step=step)
    loop = IssuingLoop(
        store=store,
        token=token,
        clock=clock,
        epoch=ownership.epoch,
        step=step,
        queue_length=config.limits.signing_queue,
    )
    issuing = Issuing(preparer=preparer, loop=loop, step=step)
    signers = Signers(store, base_url=base_url, trust_domain=trust_domain)
    wrapping_keys = WrappingKeys(store=store, token=token, clock=clock)
    views = AuthorityViews(config.token.label)
    authorities = Authorities(
        store=store,
        token=token,
        clock=clock,
        access=access,
        loop=loop,
        epoch=ownership.epoch,
        views=views,
        base_url=base_url,
        step=step,
    )
    time_to_deploy = timedelta(seconds=config.notify.deployment_late)
    version_keys = VersionKeys(store=store, token=token, clock=clock, wrapping_keys=wrapping_keys, step=step)
    steps = ManagedCertificateSteps(
        store=store,
        clock=clock,
        making=VersionMaking(
            store=store,
            keys=version_keys,
            clock=clock,
            signers=signers,
            issuing=issuing,
            time_to_deploy=time_to_deploy,
            step=step,
        ),
        waits=RenewalWaits(store),
    )
    identities = Identities(store=store, clock=clock, loop=loop, system_authority=system_authority)
    enrollment = Enrollment(
        store=store,
        clock=clock,
        access=access,
        identities=identities,
        system_authority=system_authority,
        trust_domain=trust_domain,
    )
    download_codes = DownloadCodes(store=store, clock=clock, access=access)
    export = ManagedExport(store=store, token=token, clock=clock, access=access, step=step)
    system_rotation = SystemRotation(
        clock=clock, authorities=authorities, system_authority=system_authority, trust_domain=trust_domain
    )
    pinned_roots = PinnedRoots(token_settings(config).system_roots, token=token, system_authority=system_authority)
    server_certificate = ServerCertificate(
        CredentialFiles(certificate=config.tls.certificate, private_key=config.tls.private_key),
        store=store,
        clock=clock,
        identities=identities,
        system_authority=system_authority,
    )
    waker = Waker()
    after_incidents = incidents(store=store, clock=clock, access=access, wake_scheduler=waker, step=step)
    wrapping_rotation = WrappingKeyRotation(
        store=store,
        token=token,
        clock=clock,
        access=access,
        wrapping_keys=wrapping_keys,
        wake_scheduler=waker,
        step=step,
    )
    secrets = SubscriptionSecrets(store=store, token=token, clock=clock, wrapping_keys=wrapping_keys)
    webhooks = Webhooks(Reach(networks=config.notify.allowed_networks))
    wake_deliveries = Waker()
    deliveries = Deliveries(
        store=store,
        clock=clock,
        courier=Courier(webhooks=webhooks, mail=Mail(mail_server(config.notify)), secrets=secrets),
        wake_scheduler=wake_deliveries,
        step=step,
    )
    proofs = auditing(
        config.audit,
        store=store,
        token=token,
        clock=clock,
        access=access,
        system_authority=system_authority,
        wake_scheduler=waker,
        step=step,
    )
    rotated = rotation(
        store=store,
        token=token,
        clock=clock,
        access=access,
        loop=loop,
        epoch=ownership.epoch,
        views=views,
        base_url=base_url,
        wake_scheduler=waker,
        step=step,
    )
    upkeep = ManagedUpkeep(store=store, clock=clock, wake_scheduler=waker)
    published = publication(store=store, token=token, clock=clock, access=access, loop=loop, step=step)
    life = authority_life(
        store=store,
        token=token,
        clock=clock,
        access=access,
        loop=loop,
        views=views,
        lists=published.list_signing,
        base_url=base_url,
        wake_scheduler=waker,
        step=step,
    )
    scheduler = Scheduler(
        store=store,
        clock=clock,
        runs={
            JobKind.ADVANCE_AUTHORITY: authorities.resume,
            JobKind.ADVANCE_AUTHORITY_KEY: rotated.keys.resume,
            JobKind.PURGE_AUTHORITY: life.purge.run,
            JobKind.ADVANCE_RENEWAL_CAMPAIGN: after_incidents.renewal_campaigns.advance,
            JobKind.ADVANCE_REVOCATION_CAMPAIGN: after_incidents.revocation_campaigns.advance,
            JobKind.RESEAL_KEYS: wrapping_rotation.reseal,
            JobKind.SIGN_CHECKPOINT: proofs.checkpoints.advance,
            JobKind.GENERATE_REVOCATION_LIST: published.list_signing.run,
            JobKind.ADVANCE_OCSP_RESPONDER: published.answering.presigning.advance,
            JobKind.CHECK_DEPLOYMENT: DeploymentChecks(
                store=store, clock=clock, longest=time_to_deploy, step=step
            ).check,
        },
        together={JobKind.ADVANCE_MANAGED_CERTIFICATE: steps.advance},
        blocked={
            JobKind.ADVANCE_MANAGED_CERTIFICATE: steps.blocked,
            JobKind.GENERATE_REVOCATION_LIST: published.list_signing.blocked,
        },
        epoch=ownership.epoch,
        beats=(
            ownership.renew,
            recovery.run,
            RequestRecords(store=store, clock=clock).forget_old,
            refusals.flush,
            lease_refusals.flush,
            enrollment.tidy,
            download_codes.tidy,
            system_rotation.look,
            pinned_roots.look,
            server_certificate.look,
            upkeep.look,
            upkeep.delete_keys,
            secrets.delete_expired,
            Notices(store=store, clock=clock, step=step).tell,
            BackupNotes(config.tls.certificate.parent, store=store, clock=clock).look,
            *proofs.beats,
        ),
        waker=waker,
        step=step,
    )
    delivery_scheduler = Scheduler(
        store=store,
        clock=clock,
        runs={JobKind.DELIVER_EVENTS: deliveries.deliver},
        together={},
        blocked={JobKind.DELIVER_EVENTS: deliveries.blocked},
        epoch=ownership.epoch,
        beats=(),
        waker=wake_deliveries,
        workers=_DELIVERIES_AT_ONCE,
        apart=True,
        step=step,
    )
    import_keys = ImportKeys(store=store, token=token, wrapping_keys=wrapping_keys, system_authority=system_authority)
    managed_certificates = ManagedCertificates(
        store=store,
        clock=clock,
        access=access,
        signers=signers,
        issuing=issuing,
        wake_scheduler=waker,
        step=step,
    )
    feed = EventFeed(store)
    health = Health(store=store, token=token, preparer=preparer, complaints=(published.list_troubles.problems,))
    return Core(
        config=config,
        clock=clock,
        store=store,
        token=token,
        preparer=preparer,
        ownership=ownership,
        recovery=recovery,
        loop=loop,
        scheduler=scheduler,
        delivery_scheduler=delivery_scheduler,
        deliveries=deliveries,
        delivery_wakes=DeliveryWakes(store=store, clock=clock, wake_scheduler=wake_deliveries),
        subscriptions=Subscriptions(
            store=store,
            clock=clock,
            access=access,
            secrets=secrets,
            webhooks=webhooks,
            tester=deliveries,
            sends_mail=config.notify.smtp is not None,
            wake_scheduler=wake_deliveries,
        ),
        failed_deliveries=FailedDeliveries(store=store, clock=clock, access=access, wake_scheduler=wake_deliveries),
        system_authority=system_authority,
        access=access,
        key_sets=tuple(keys for _, keys in issuers),
        bearer=Bearer(issuers, clock=clock, trust_domain=trust_domain),
        authorities=authorities,
        authority_activation=AuthorityActivation(
            store=store, token=token, clock=clock, access=access, views=views, base_url=base_url, step=step
        ),
        authority_changes=life.changes,
        authority_life=life,
        rotation=rotated,
        certificates=Certificates(
            store=store, clock=clock, access=access, signers=signers, issuing=issuing, limits=limits, step=step
        ),
        certificate_searches=CertificateSearches(store=store, access=access),
        revocation=after_incidents.revocation,
        batch_revocation=after_incidents.batch_revocation,
        revocation_campaigns=after_incidents.revocation_campaigns,
        managed_certificates=managed_certificates,
        managed_export=export,
        download_codes=download_codes,
        downloads=Downloads(
            store=store,
            access=access,
            rates=rates,
            refusals=refusals,
            codes=download_codes,
            export=export,
            passphrase_bytes=limits.passphrase_bytes,
        ),
        managed_import=ManagedImport(
            store=store,
            token=token,
            clock=clock,
            access=access,
            wrapping_keys=wrapping_keys,
            import_keys=import_keys,
            time_to_deploy=time_to_deploy,
            step=step,
        ),
        managed_certificate_changes=ManagedCertificateChanges(
            store=store, clock=clock, access=access, wake_scheduler=waker, step=step
        ),
        managed_revocation=after_incidents.managed_revocation,
        managed_certificate_searches=ManagedCertificateSearches(store=store, clock=clock, access=access),
        associations=Associations(
            store=store,
            token=token,
            clock=clock,
            access=access,
            wrapping_keys=wrapping_keys,
            time_to_deploy=time_to_deploy,
            step=step,
        ),
        leases=Leases(
            store=store,
            token=token,
            clock=clock,
            access=access,
            wrapping_keys=wrapping_keys,
            refusals=lease_refusals,
            step=step,
        ),
        lease_refusals=lease_refusals,
        renewal_campaigns=after_incidents.renewal_campaigns,
        wrapping_key_rotation=wrapping_rotation,
        profiles=Profiles(store=store, clock=clock, access=access),
        profile_checks=ProfileChecks(store=store, clock=clock, access=access, signers=signers, limits=limits),
        tenants=tenants,
        grants=Grants(store=store, clock=clock, access=access, trust_domain=trust_domain),
        administrator_recovery=AdministratorRecovery(
            store=store, clock=clock, identities=identities, system_authority=system_authority, step=step
        ),
        identities=identities,
        enrollment=enrollment,
        identity_changes=IdentityChanges(
            store=store,
            clock=clock,
            access=access,
            identities=identities,
            system_authority=system_authority,
            trust_domain=trust_domain,
        ),
        bootstrap=Bootstrap(
            store=store,
            clock=clock,
            authorities=authorities,
            identities=identities,
            system_authority=system_authority,
            step=step,
        ),
        system_rotation=system_rotation,
        pinned_roots=pinned_roots,
        auditing=proofs,
        event_feed=feed,
        event_streams=EventStreams(store=store, clock=clock, access=access, feed=feed),
        managed_watch=ManagedWatch(store=store, clock=clock, access=access, feed=feed),
        server=Server(
            store=store,
            token=token,
            preparer=preparer,
            access=access,
            system_authority=system_authority,
            health=health,
            trust_domain=trust_domain,
            start_time=clock.now(),
        ),
        server_certificate=server_certificate,
        health=health,
        rates=rates,
        refusals=refusals,
        public_certificates=PublicCertificates(store),
        publication=published,
    )
