"""A new certificate for the key that an authority has: the same name, key and subject key identifier.

It is issued by the steps of the issuing loop, like any other: the intent is durable before the token signs, and the
completion puts the certificate in place of the one before, with all chains through it. A process that dies in between
leaves the authority as it was, and a certificate that is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.names import serial_text
from certd.pki import name_constraints
from certd.pki.authority_certificate import standing_of
from certd.pki.certificate_request import CertificateRequest
from certd.pki.preparation import Prepared
from certd.services.access import Access
from certd.services.authorities import check_enabled, existing_authority
from certd.services.authority_chains import NewCertificate, check_ends, replace_certificate
from certd.services.authority_changes import Change, check_not_deleted, state_forbids
from certd.services.authority_plan import BACKDATE, check_lifetime, order_of
from certd.services.authority_views import (
    AuthorityView,
    AuthorityViews,
    chain_above,
    check_etag,
    event_of,
    issuer_in_books,
)
from certd.services.idempotency import in_progress, record_of, replay
from certd.services.issuance import Order, issuance_of, issuer_of, prepare
from certd.services.issuing_loop import IssuingLoop
from certd.services.status_locations import locations_of
from certd.store import authorities, certificates
from certd.store.request_records import RequestRecord
from certd.store.store import Store, Transaction
from certd.token.policy import parse_policy

_METHOD: Final = "ReissueAuthorityCertificate"
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reissue:
    """What a caller wants of the new certificate."""

    lifetime: timedelta | None = None
    """None: that of the authority, cut to the end of its issuer."""
    allow_broken_certificates: bool = False


class AuthorityReissue:
    """The use case of a new certificate for an authority whose issuer is here.

    Args:
        store: the books.
        clock: the time.
        access: who may.
        loop: through which everything that is issued goes.
        views: makes answers.
        base_url: under which others reach this server; None: they do not.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        loop: IssuingLoop,
        views: AuthorityViews,
        base_url: str | None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._loop = loop
        self._views = views
        self._base_url = base_url

    def reissue(self, caller: Caller, change: Change, wanted: Reissue) -> AuthorityView:
        """Makes a new certificate for the key that signs. The one before stays valid, as all that the key signed.

        An authority that was EXPIRED is ENABLED again, or DISABLED if it was that before.

        Raises AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED, REQUEST_IN_PROGRESS, FIELD_INVALID for a lifetime
        out of its bounds or longer than the policy lets the signing key sign, STATE_FORBIDS while the authority awaits
        its first certificate, below an outside parent, and when it is deleted, AUTHORITY_NOT_ENABLED for its issuer,
        CERTIFICATE_IN_USE when something alive would outlive the new certificate, unless that is allowed,
        LIFETIME_EXCEEDS_AUTHORITY, LINT_FAILED, and what the issuing loop raises.
        """
        self._access.require(caller, Permission.AUTHORITY_REISSUE, str(change.name))
        now = self._clock.now()
        with self._store.read("authorities.reissue") as tx:
            authority = existing_authority(tx, change.name)
            made = None if change.validate_only else replay(tx, caller, _METHOD, change.key)
            if made is not None:
                return self._replayed(tx, authority, made, now)
            check_etag(authority, change.etag)
            _check_reissuable(authority)
            issuer = issuer_in_books(tx, authority)
        if issuer is not None:
            check_enabled(issuer, now)
        signer = issuer or authority
        order = _order(authority, _lifetime(authority, signer, wanted, now))
        prepared = self._prepared(order, signer, now, own=issuer is None)
        with self._store.read("authorities.reissue-broken") as tx:
            if not wanted.allow_broken_certificates:
                check_ends(tx, authority, prepared.not_after)
            if change.validate_only:
                return self._views.read(tx, authority, now, warnings=prepared.warnings)

        def install(tx: Transaction, der: bytes) -> None:
            found = authorities.get_by_uid(tx, authority.uid)
            if found is None or found.key.number != authority.key.number:
                raise state_forbids(authority, authority.state, "another key signs in its name by now; try again")
            check_etag(found, change.etag)
            check_not_deleted(found)
            if not wanted.allow_broken_certificates:
                # What was issued meanwhile is bound by the certificate before.
                check_ends(tx, found, prepared.not_after)
            new = NewCertificate(
                der=der,
                chain=chain_above(tx, found, signer.key.number),
                not_after=prepared.not_after,
                path_length=found.path_length,
            )
            replace_certificate(tx, found, new, base_url=self._base_url, now=now)
            told = {"serial": serial_text(prepared.serial), "not_after": rfc3339(prepared.not_after)}
            tx.event(event_of(EventType.AUTHORITY_REISSUED, found, caller.principal, now, **told))

        self._loop.issue(
            issuance_of(
                prepared,
                order,
                signer,
                principal=caller.principal,
                now=now,
                record=_recorder(caller, change, now),
                by_enabled_authority=issuer is not None,
                also=install,
            )
        )
        with self._store.read("authorities.reissued") as tx:
            return self._views.read(
                tx, existing_authority(tx, change.name), self._clock.now(), warnings=prepared.warnings
            )

    def _prepared(self, order: Order, signer: Authority, now: datetime, *, own: bool) -> Prepared:
        view = issuer_of(
            signer, public_key=signer.key.public_key or b"", locations=locations_of(signer, self._base_url)
        )
        if own:
            # A root is not bound by the certificate that it replaces.
            view = replace(view, not_after=None, name_constraints=())
        return prepare(order, view, now=now)

    def _replayed(self, tx: Transaction, authority: Authority, row: str, now: datetime) -> AuthorityView:
        uid, _, serial = row.partition("/")
        found = certificates.get(tx, uid, serial)
        if found is None or found.state is CertificateState.PENDING:
            raise in_progress("the certificate of the authority")
        return self._views.read(tx, authority, now)


def _recorder(caller: Caller, change: Change, now: datetime) -> Callable[[str], RequestRecord] | None:
    key = change.key
    return None if key is None else lambda row: record_of(caller, _METHOD, key, resource=row, now=now)


def _check_reissuable(authority: Authority) -> None:
    check_not_deleted(authority)
    if authority.certificate is None:
        raise state_forbids(
            authority, authority.state, "it has no certificate yet; install the one of its parent (ActivateAuthority)"
        )
    if authority.issuer_uid is None:
        raise state_forbids(
            authority,
            authority.state,
            "its parent is an outside one; have that certify its CSR (GetAuthorityCsr) and install the new certificate"
            " (ActivateAuthority)",
        )


def _order(authority: Authority, lifetime: timedelta) -> Order:
    """Returns what is asked of its issuer: what the certificate at present says, for another lifetime."""
    certificate = authority.certificate or b""
    public_key = authority.key.public_key or b""
    order = order_of(replace(authority, lifetime=lifetime), public_key)
    assert isinstance(order.source, CertificateRequest)  # noqa: S101  # No CSR is among what `order_of` returns.
    source = replace(
        order.source,
        name_constraints=name_constraints.of_certificate(certificate),
        subject_key_identifier=standing_of(certificate, ()).subject_key_identifier,
    )
    return replace(order, source=source)


def _lifetime(authority: Authority, signer: Authority, wanted: Reissue, now: datetime) -> timedelta:
    """Returns the lifetime of the new certificate; raises FIELD_INVALID for one that the signing key may not sign."""
    longest = parse_policy(signer.key.policy).longest_lifetime - BACKDATE
    if wanted.lifetime is None:
        bounds = [authority.lifetime, longest]
        if signer.uid != authority.uid and signer.not_after is not None:
            # Both ends of a validity count, so that it ends one second early.
            bounds.append(signer.not_after - now.replace(microsecond=0) + _SECOND)
        return min(bounds)
    check_lifetime("lifetime", wanted.lifetime)
    if wanted.lifetime > longest:
        days = longest / timedelta(days=1)
        raise field_invalid(
            "lifetime",
            f"is longer than the {days:g} days that the policy of the key of {signer.name} allows, which was sealed"
            " with the key when it was made and never changes; choose a shorter one, or prepare another key"
            " (PrepareAuthorityKey)",
        )
    return wanted.lifetime
