"""Identities as callers see and change them: read, renewed by themselves, revoked by those who may."""

import hashlib
from datetime import datetime

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.certificate import Certificate, CertificateState, RevocationReason
from certd.model.event import Event, EventType
from certd.model.identity import Identity, IdentityState, name_of, spiffe_id_of
from certd.model.names import IdentityName, TenantName
from certd.pki import csr
from certd.pki.description import describe
from certd.services.access import Access
from certd.services.idempotency import RequestKey, record_of, same_request
from certd.services.identities import Identities, IdentityCredential, IdentityView
from certd.services.paging import Page, PageRequest, page_of
from certd.services.system import SystemAuthority
from certd.services.tenants import existing_tenant
from certd.store import download_codes, enrollment_codes, grants, identities, request_records, revocations
from certd.store.store import Store, Transaction

MOST_LIVE_CERTIFICATES = 100
"""Of one identity, so that revoking it is one transaction. Who renews when a third is left has two."""
_REVOKE = "RevokeIdentity"
_REASON = RevocationReason.PRIVILEGE_WITHDRAWN
_BATCH = 1000


class IdentityChanges:
    """The use cases of identities that exist."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        identities: Identities,
        system_authority: SystemAuthority,
        trust_domain: str,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._identities = identities
        self._system_authority = system_authority
        self._trust_domain = trust_domain

    def get(self, caller: Caller, name: IdentityName) -> IdentityView:
        """Returns an identity; raises IDENTITY_NOT_FOUND, TENANT_NOT_FOUND."""
        self._access.require(caller, Permission.IDENTITY_READ, str(name))
        with self._store.read("identities.get") as tx:
            return self._identities.view(tx, _existing(tx, name))

    def page(self, caller: Caller, parent: TenantName | None, request: PageRequest) -> Page[IdentityView]:
        """Returns a page of the identities of a tenant, or of the server, by name; raises TENANT_NOT_FOUND."""
        collection = "identities" if parent is None else f"{parent}/identities"
        self._access.require(caller, Permission.IDENTITY_READ, collection)
        key = request.after(collection)
        with self._store.read("identities.page") as tx:
            if parent is not None:
                existing_tenant(tx, parent.tenant)
            tenant = None if parent is None else parent.tenant
            rows = identities.page(tx, tenant, after=key[0] if key else "", limit=request.size + 1)
            views = [self._identities.view(tx, row) for row in rows]
        return page_of(views, request, collection, key=lambda view: [view.identity.name.identity])

    def renew(self, caller: Caller, certification_request: bytes, *, timeout: float) -> IdentityCredential:
        """Gives the caller another certificate, for another key; the old one stays until it expires.

        A repeated call with the same CSR returns the same certificate, so that a lost answer costs nothing.

        Raises STATE_FORBIDS for a caller without a certificate and for an identity that is not ACTIVE,
        CREDENTIAL_REVOKED for one whose own was revoked meanwhile, FIELD_INVALID for a key that was certified before,
        QUOTA_EXCEEDED past a hundred live certificates, and what `Identities.issue_identity` and `csr.parse_csr` raise.
        """
        name = None if not caller.serial else name_of(caller.principal, self._trust_domain)
        if name is None:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"{caller.principal} calls without a certificate of this server, so there is none to renew; get another"
                " token from the issuer of the one that was shown",
            )
        public_key = csr.parse_csr(certification_request).public_key
        key_sha256 = hashlib.sha256(public_key).digest()
        with self._store.read("identities.renew") as tx:
            _check_active(self._own(tx, name, caller))
            own = _still_good(self._system_authority.certificate(tx, caller.serial), caller)
            found = self._system_authority.latest_of_key(tx, key_sha256)
            if found is not None:
                if not _is_repeated(found, own, caller.principal, self._clock.now()):
                    raise field_invalid("csr", "is for a key that has been certified before; make a new key and a CSR")
                return self._identities.credential(tx, self._own(tx, name, caller), found.der or b"")

        def also(tx: Transaction, certificate: bytes) -> None:
            now = self._clock.now()
            # Who renews while it is revoked comes after the revocation, or its new certificate is revoked with it.
            identity = identities.ensure(tx, name, caller.principal, IdentityState.ACTIVE, now)
            _check_active(identity)
            # It may be ACTIVE again, for those who enrolled anew.
            _still_good(self._system_authority.certificate(tx, caller.serial), caller)
            live = self._identities.live(tx, caller.principal, now=now, limit=MOST_LIVE_CERTIFICATES + 1)
            if len(live) > MOST_LIVE_CERTIFICATES:
                raise _too_many(name)
            described = describe(certificate)
            tx.event(
                Event(
                    time=now,
                    type=EventType.IDENTITY_RENEWED,
                    tenant=name.tenant,
                    principal=caller.principal,
                    resource=str(name),
                    details={
                        "serial": described.serial_number,
                        "not_after": rfc3339(described.not_after_time),
                        "former_serial": caller.serial,
                        "public_key_sha256": key_sha256.hex(),
                    },
                )
            )

        issued = self._identities.issue_identity(
            caller.principal, public_key, principal=caller.principal, also=also, timeout=timeout
        )
        with self._store.read("identities.renewed") as tx:
            return self._identities.credential(tx, _existing(tx, name), issued)

    def revoke(
        self, caller: Caller, name: IdentityName, *, key: RequestKey | None, validate_only: bool
    ) -> IdentityView:
        """Revokes every certificate of an identity; its next call is refused.

        Its enrollment codes are deleted, and those that it made for others and nobody has used.

        Repeated, it revokes what has come since. Raises IDENTITY_NOT_FOUND, TENANT_NOT_FOUND, REQUEST_ID_REUSED, and
        LAST_ADMINISTRATOR when nobody would be left who administers everything.
        """
        self._access.require(caller, Permission.IDENTITY_REVOKE, str(name))
        now = self._clock.now()
        if validate_only:
            with self._store.read("identities.revoke") as tx:
                found = self._calling(tx, name, now)
                _check_not_last(tx, found, now)
            return IdentityView(_revoked(found, now), ())

        def work(tx: Transaction) -> IdentityView:
            found = self._calling(tx, name, now)
            if key is not None:
                earlier = request_records.claim(tx, record_of(caller, _REVOKE, key, resource=str(name), now=now))
                if earlier is not None:
                    same_request(earlier, key.request_sha256)
                    return self._identities.view(tx, found)
            _check_not_last(tx, found, now)
            identities.ensure(tx, name, found.spiffe_id, found.state, now)
            self._revoke(tx, caller, found, now)
            return self._identities.view(tx, _existing(tx, name))

        return self._store.write("identities.revoke", work)

    def _revoke(self, tx: Transaction, caller: Caller, found: Identity, now: datetime) -> None:
        names = {authority.uid: authority.name for authority in self._system_authority.trusted()}
        revoked = 0
        while live := self._identities.live(tx, found.spiffe_id, now=now, limit=_BATCH):
            for row in live:
                revocations.revoke(
                    tx, row.authority_uid, row.serial, revoke_time=now, reason=_REASON, invalidity_time=None
                )
                tx.event(
                    _certificate_event(f"{names[row.authority_uid]}/certificates/{row.serial}", row, found, caller, now)
                )
            revoked += len(live)
        codes = enrollment_codes.delete_of(tx, found.name) + enrollment_codes.delete_made_by(tx, found.spiffe_id)
        downloads = download_codes.delete_made_by(tx, found.spiffe_id)
        if found.state is IdentityState.REVOKED and not revoked and not codes and not downloads:
            return
        # Says that the configuration changed, so that certificates that daemons remember are looked at anew.
        identities.set_state(tx, found.name, IdentityState.REVOKED, now)
        tx.event(
            Event(
                time=now,
                type=EventType.IDENTITY_REVOKED,
                tenant=found.name.tenant,
                principal=caller.principal,
                resource=str(found.name),
                details={
                    "spiffe_id": found.spiffe_id,
                    "certificates": str(revoked),
                    "enrollment_codes": str(codes),
                    "download_codes": str(downloads),
                },
            )
        )

    def _calling(self, tx: Transaction, name: IdentityName, now: datetime) -> Identity:
        """Returns an identity; one of before identities had rows is there while it has a certificate."""
        spiffe_id = spiffe_id_of(name, self._trust_domain)
        if identities.get(tx, name) is None and self._identities.live(tx, spiffe_id, now=now, limit=1):
            return Identity(
                name=name, spiffe_id=spiffe_id, state=IdentityState.ACTIVE, create_time=now, update_time=now
            )
        return _existing(tx, name)

    def _own(self, tx: Transaction, name: IdentityName, caller: Caller) -> Identity:
        """Returns the caller's identity; one of before identities had rows is as ACTIVE as its certificate."""
        now = self._clock.now()
        return identities.get(tx, name) or Identity(
            name=name, spiffe_id=caller.principal, state=IdentityState.ACTIVE, create_time=now, update_time=now
        )


def _existing(tx: Transaction, name: IdentityName) -> Identity:
    if name.tenant is not None:
        existing_tenant(tx, name.tenant)
    found = identities.get(tx, name)
    if found is None:
        raise CertdError(
            Reason.IDENTITY_NOT_FOUND,
            f"{name} does not exist; ListIdentities shows those that do, and an enrollment code makes one",
            resource=str(name),
        )
    return found


def _still_good(own: Certificate | None, caller: Caller) -> Certificate:
    """Returns the certificate that a caller showed; raises CREDENTIAL_REVOKED when it has been revoked since."""
    if own is None or own.state is not CertificateState.ISSUED:
        raise CertdError(Reason.CREDENTIAL_REVOKED, f"the client certificate {caller.serial} was revoked; enroll again")
    return own


def _is_repeated(found: Certificate, own: Certificate, spiffe_id: str, now: datetime) -> bool:
    """Returns whether a certificate is what an earlier call with the same CSR made, and still good."""
    return (
        found.der is not None
        and found.state is CertificateState.ISSUED
        and found.not_after > now
        and found.create_time > own.create_time
        and found.public_key_sha256 != own.public_key_sha256
        and describe(found.der).subject_alternative_names.uris == (spiffe_id,)
    )


def _check_active(identity: Identity) -> None:
    if identity.state is not IdentityState.ACTIVE:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{identity.name} is {identity.state}, and only one that is ACTIVE renews; enroll with a new code",
            metadata={"state": identity.state},
            resource=str(identity.name),
        )


def _too_many(name: IdentityName) -> CertdError:
    return CertdError(
        Reason.QUOTA_EXCEEDED,
        f"{name} has {MOST_LIVE_CERTIFICATES} certificates that have not expired, as many as it may have; use the"
        " newest of them, and renew when a third of its lifetime is left",
        metadata={"limit": str(MOST_LIVE_CERTIFICATES)},
        resource=str(name),
    )


def _check_not_last(tx: Transaction, found: Identity, now: datetime) -> None:
    """Raises LAST_ADMINISTRATOR when this identity alone administers everything."""
    administrators = {grant.principal for grant in grants.administrators(tx, now)}
    if administrators == {found.spiffe_id}:
        raise CertdError(
            Reason.LAST_ADMINISTRATOR,
            f"{found.name} alone administers this server; let another identity enroll, grant it administrator on"
            " everything, then revoke this one",
            resource=str(found.name),
        )


def _revoked(found: Identity, now: datetime) -> Identity:
    return Identity(
        name=found.name,
        spiffe_id=found.spiffe_id,
        state=IdentityState.REVOKED,
        create_time=found.create_time,
        update_time=now,
    )


def _certificate_event(resource: str, row: Certificate, found: Identity, caller: Caller, now: datetime) -> Event:
    return Event(
        time=now,
        type=EventType.CERTIFICATE_REVOKED,
        tenant=None,
        principal=caller.principal,
        resource=resource,
        details={
            "reason": _REASON.name,
            "profile": row.profile,
            "identity": str(found.name),
            "not_after": row.not_after.isoformat(),
            "public_key_sha256": row.public_key_sha256.hex(),
            "revoke_time": now.isoformat(),
        },
    )
