"""An authority with an outside parent: the CSR for that, and the certificate that it made.

csr.1 token: sign the CSR.
csr.2 write: keep it, unless another call was first; event. Commit, answer what was kept.

activation.1 read: permission, authority, state.
activation.2 check certificate and chain, and what of the authority's own would break. `validate_only` stops here.
activation.3 write: certificate, chain and bounds; event. Commit, answer.

A key that has a certificate gets another in the same way, and what it signed stays valid: see `authority_chains`.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason, Violation
from certd.model.access import Caller, Permission
from certd.model.authority import HIGHEST_PATH_LENGTH, Authority, AuthorityKeyState, AuthorityState
from certd.model.event import EventType
from certd.model.names import AuthorityName
from certd.pki import authority_csr, name_constraints
from certd.pki.authority_certificate import Accepted, Awaiting, accept, standing_of
from certd.pki.description import describe
from certd.services.access import Access
from certd.services.authorities import existing_authority
from certd.services.authority_chains import NewCertificate, check_bounds, check_ends, replace_certificate, replaced
from certd.services.authority_changes import (
    Change,
    check_not_deleted,
    check_not_purged,
    made_before,
    state_forbids,
)
from certd.services.authority_keys import install_certificate
from certd.services.authority_views import (
    AuthorityView,
    AuthorityViews,
    authority_with_key,
    check_etag,
    event_of,
    own_key,
)
from certd.services.idempotency import replay
from certd.services.issuing_refusals import token_unavailable
from certd.services.status_locations import ensure_lists
from certd.services.steps import StepHook
from certd.store import authorities
from certd.store.store import Store, Transaction
from certd.token.client import SignItem, TokenClient
from certd.token.policy import SignatureKind, parse_policy

_METHOD = "ActivateAuthority"
_SIGN_TIMEOUT = 10.0
_KEY_AWAITED = 1.0
"""Seconds after which the key of an authority in the making should exist."""


@dataclass(frozen=True, slots=True)
class Activation:
    """What an outside parent made."""

    certificate: bytes
    """PEM or DER of one."""
    chain: bytes
    """PEM, or DER of one."""
    key_number: int | None = None
    """Of the key that the certificate is for; None: the one that signs."""
    allow_broken_certificates: bool = False
    """Whether it may take the place of another though something alive is not within its bounds."""


class AuthorityActivation:
    """The use cases of an authority whose parent is an outside one."""

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        views: AuthorityViews,
        base_url: str | None,
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._views = views
        self._base_url = base_url
        self._step = step

    def csr(self, caller: Caller, name: AuthorityName, key_number: int | None = None) -> bytes:
        """Returns the DER of the CSR of an authority, which is signed at the first call and stays the same.

        Every authority of a tenant has one for each of its keys, whatever its state: a second parent may certify a key
        too. Without a number it is that of the key that signs.
        Raises AUTHORITY_NOT_FOUND, AUTHORITY_KEY_NOT_FOUND, TOKEN_UNAVAILABLE, REQUEST_IN_PROGRESS while its key is
        being made, and STATE_FORBIDS for one that is purged and has none.
        """
        self._access.require(caller, Permission.AUTHORITY_ACTIVATE, str(name))
        with self._store.read("authorities.csr") as tx:
            authority = authority_with_key(tx, existing_authority(tx, name), key_number)
            number = authority.key.number
            found = authorities.csr(tx, authority.uid, number)
        if found is not None:
            return found
        check_not_purged(authority)
        signed = self._sign(authority)
        self._step("csr.1.signed")
        now = self._clock.now()

        def keep(tx: Transaction) -> bytes:
            if authorities.set_csr(tx, authority.uid, signed, number):
                tx.event(event_of(EventType.AUTHORITY_CSR_SIGNED, authority, caller.principal, now))
                return signed
            first = authorities.csr(tx, authority.uid, number)
            if first is None:
                raise CertdError(Reason.AUTHORITY_NOT_FOUND, f"{name} does not exist any more", resource=str(name))
            return first

        kept = self._store.write("authorities.csr", keep)
        self._step("csr.2.kept")
        return kept

    def activate(self, caller: Caller, change: Change, given: Activation) -> AuthorityView:
        """Installs the certificate that an outside parent made, and enables an authority that awaited it.

        One that was EXPIRED is ENABLED again, or DISABLED if it was that before.

        Raises what `pki.authority_certificate.accept` raises, AUTHORITY_NOT_FOUND, ETAG_MISMATCH, REQUEST_ID_REUSED,
        STATE_FORBIDS for an authority whose issuer is here and for one that is deleted, and in place of another
        certificate IMPORT_KEY_MISMATCH when its subject key identifier is another, and CERTIFICATE_IN_USE when
        something alive is not within its bounds, unless that is allowed.
        """
        self._access.require(caller, Permission.AUTHORITY_ACTIVATE, str(change.name))
        now = self._clock.now()
        with self._store.read("authorities.activate") as tx:
            authority = existing_authority(tx, change.name)
            made = None if change.validate_only else replay(tx, caller, _METHOD, change.key)
            if made is not None:
                return self._views.read(tx, authority, now)
            checked = authority_with_key(tx, authority, given.key_number)
        check_etag(authority, change.etag)
        awaiting = _awaiting(checked)
        accepted = accept(given.certificate, given.chain, awaiting=awaiting, now=now)
        if checked.certificate is not None:
            self._check_replaces(checked, given, accepted, now)
        if change.validate_only:
            return self._planned(authority, checked, accepted, now)
        self._step("activation.2.checked")

        def install(tx: Transaction) -> AuthorityView:
            found = existing_authority(tx, change.name)
            if made_before(tx, caller, _METHOD, change.key, found, now):
                return self._views.read(tx, found, now)
            check_etag(found, change.etag)
            wanted = authority_with_key(tx, found, given.key_number)
            _awaiting(wanted)
            if wanted.certificate != checked.certificate:
                raise CertdError(
                    Reason.ETAG_MISMATCH,
                    f"{found.name} got another certificate meanwhile; read it again, then repeat this if it is wanted",
                    metadata={"etag": found.etag},
                    resource=found.name,
                )
            if wanted.certificate is not None:
                if not given.allow_broken_certificates:
                    # What was issued meanwhile is bound by the certificate before.
                    check_ends(tx, wanted, accepted.not_after)
                replace_certificate(tx, wanted, _new(accepted), base_url=self._base_url, now=now)
                tx.event(event_of(EventType.AUTHORITY_REISSUED, wanted, caller.principal, now, **_details(accepted)))
                return self._views.read(tx, existing_authority(tx, change.name), now, warnings=accepted.warnings)
            if wanted.key.number != found.key.number:
                install_certificate(
                    tx,
                    wanted,
                    certificate=accepted.certificate,
                    chain=accepted.chain,
                    not_after=accepted.not_after,
                    path_length=accepted.path_length,
                    base_url=self._base_url,
                    principal=caller.principal,
                    now=now,
                )
                return self._views.read(tx, existing_authority(tx, change.name), now, warnings=accepted.warnings)
            authorities.activate(
                tx,
                found.uid,
                certificate=accepted.certificate,
                chain=accepted.chain,
                not_after=accepted.not_after,
                path_length=accepted.path_length,
                now=now,
            )
            ensure_lists(tx, _activated(found, accepted), self._base_url, now)
            tx.configuration_changed()
            tx.event(event_of(EventType.AUTHORITY_ACTIVATED, found, caller.principal, now, **_details(accepted)))
            return self._views.read(tx, existing_authority(tx, change.name), now, warnings=accepted.warnings)

        view = self._store.write("authorities.activate", install)
        self._step("activation.3.installed")
        return view

    def _check_replaces(self, wanted: Authority, given: Activation, accepted: Accepted, now: datetime) -> None:
        """Raises unless chains through the certificate that the key has lead through the new one as well."""
        before = standing_of(wanted.certificate or b"", ()).subject_key_identifier
        if before != standing_of(accepted.certificate, ()).subject_key_identifier:
            problem = "has another subject key identifier than the certificate that it replaces"
            raise CertdError(
                Reason.IMPORT_KEY_MISMATCH,
                f"certificate {problem}, at which all that it issued points (RFC 5280, section 4.2.1.1); have the"
                f" parent copy it: {'' if before is None else before.hex()}",
                violations=(Violation("certificate", problem),),
                resource=wanted.name,
            )
        if given.allow_broken_certificates:
            return
        with self._store.read("authorities.activate-broken") as tx:
            check_ends(tx, wanted, accepted.not_after)
        check_bounds(self._store, wanted, _new(accepted), now)

    def _planned(self, authority: Authority, wanted: Authority, accepted: Accepted, now: datetime) -> AuthorityView:
        """Returns what an activation would make; the authority itself becomes another if that key signs."""
        activated = _activated(wanted, accepted)
        if wanted.key.number == authority.key.number:
            return self._views.of(activated, None, now, warnings=accepted.warnings)
        return self._views.of(authority, None, now, keys=(own_key(activated),), warnings=accepted.warnings)

    def _sign(self, authority: Authority) -> bytes:
        public_key = authority.key.public_key
        if public_key is None:
            raise _key_in_the_making(authority)
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        info = authority_csr.request_info(
            subject=authority.subject,
            public_key=public_key,
            path_length=authority.path_length,
            name_constraints=authority.name_constraints,
        )
        item = SignItem(
            key_id=authority.key.key_id,
            policy=authority.key.policy,
            kind=SignatureKind.CERTIFICATION_REQUEST,
            signature_algorithm=authority.signature_algorithm,
            to_be_signed=info,
        )
        (signature,) = self._token.sign([item], timeout=_SIGN_TIMEOUT)
        if isinstance(signature, CertdError):
            raise signature
        return authority_csr.assemble(info, authority.signature_algorithm, signature)


def _awaiting(authority: Authority) -> Awaiting:
    """Returns what a certificate for the authority must fit; raises unless its parent is an outside one."""
    check_not_deleted(authority)
    if authority.issuer_uid is not None:
        if authority.certificate is None:
            why = (
                "it is being made and gets its certificate from its issuer here; wait, or create one without an issuer"
            )
        else:
            why = "its issuer is here, and makes its next certificate (ReissueAuthorityCertificate)"
        raise state_forbids(authority, authority.state, why)
    if authority.key.state is AuthorityKeyState.RETIRED:
        raise state_forbids(authority, authority.state, f"its key {authority.key.number} is RETIRED for ever")
    if authority.key.public_key is None:
        raise _key_in_the_making(authority)
    policy, asked = parse_policy(authority.key.policy), authority.name_constraints
    return Awaiting(
        public_key=authority.key.public_key,
        subject=authority.subject,
        # As it was asked for: what an earlier certificate left of it says nothing of the next.
        path_length=authority.path_length if policy.path_length is None else policy.path_length,
        name_constraints=None if asked is None else name_constraints.decode(asked),
        longest_lifetime=policy.longest_lifetime,
        highest_path_length=HIGHEST_PATH_LENGTH,
    )


def _key_in_the_making(authority: Authority) -> CertdError:
    return CertdError(
        Reason.REQUEST_IN_PROGRESS,
        f"the key of {authority.name} is still being made in the token; try again",
        retry_after=_KEY_AWAITED,
        resource=authority.name,
    )


def _activated(authority: Authority, accepted: Accepted) -> Authority:
    return replace(
        replaced(authority, _new(accepted)),
        state=authority.state if authority.certificate is not None else AuthorityState.ENABLED,
    )


def _new(accepted: Accepted) -> NewCertificate:
    return NewCertificate(
        der=accepted.certificate,
        chain=accepted.chain,
        not_after=accepted.not_after,
        path_length=accepted.path_length,
    )


def _details(accepted: Accepted) -> dict[str, str]:
    described = describe(accepted.certificate)
    return {
        "issuer": described.issuer_text,
        "serial": described.serial_number,
        "sha256": described.sha256_fingerprint.hex(),
        "not_after": _text(accepted.not_after),
        "path_length": str(accepted.path_length),
        "chain_length": str(len(accepted.chain)),
    }


def _text(moment: datetime) -> str:
    return moment.isoformat()
