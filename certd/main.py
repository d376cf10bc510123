"""The composition root: which objects exist, and how they hang together."""

from datetime import timedelta

from certd.auditing import auditing
from certd.authority_life import authority_life
from certd.children import start_preparer, token_client, use_known_keys_of
from certd.clock import Clock
from certd.config import Config, oidc_providers, request_limits, token_settings
from certd.core import Core
from certd.credential_files import CredentialFiles
from certd.delivering import delivering
from certd.incidents import incidents
from certd.model.job import JobKind
from certd.outbound.jwks import KeySet
from certd.publication import publication
from certd.rotation import rotation
from certd.scheduler import Scheduler, Waker
from certd.services.access import Access
from certd.services.administrators import AdministratorRecovery
from certd.services.associations import Associations
from certd.services.authorities import Authorities
from certd.services.authority_activation import AuthorityActivation
from certd.services.authority_views import AuthorityViews
from certd.services.backup_notes import BackupNotes
from certd.services.bearer import Bearer
from certd.services.bootstrap import Bootstrap
from certd.services.certificate_search import CertificateSearches
from certd.services.certificates import Certificates
from certd.services.deployment_checks import DeploymentChecks
from certd.services.download_codes import DownloadCodes
from certd.services.downloads import Downloads
from certd.services.ending_authorities import NextKeys
from certd.services.enrollment import Enrollment
from certd.services.event_feed import EventFeed
from certd.services.event_streams import EventStreams
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
from certd.services.renewal_waits import RenewalWaits
from certd.services.server import Health, Server
from certd.services.server_certificate import ServerCertificate
from certd.services.signers import Signers
from certd.services.steps import StepHook
from certd.services.system import SystemAuthority
from certd.services.system_rotation import SystemRotation
from certd.services.tenants import Tenants
from certd.services.version_keys import VersionKeys
from certd.services.version_making import VersionMaking
from certd.services.wrapping_key_rotation import WrappingKeyRotation
from certd.services.wrapping_keys import WrappingKeys
from certd.store.store import Store


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
        store=store,
        token=token,
        clock=clock,
        authorities=authorities,
        system_authority=system_authority,
        trust_domain=trust_domain,
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
    telling = delivering(
        config.notify,
        store=store,
        token=token,
        clock=clock,
        access=access,
        wrapping_keys=wrapping_keys,
        epoch=ownership.epoch,
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
            telling.secrets.delete_expired,
            Notices(store=store, clock=clock, step=step).tell,
            BackupNotes(config.tls.certificate.parent, store=store, clock=clock).look,
            *proofs.beats,
        ),
        waker=waker,
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
    complaints = (published.list_troubles.problems, NextKeys(store, clock).problems)
    health = Health(store=store, token=token, preparer=preparer, complaints=complaints)
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
        delivering=telling,
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
