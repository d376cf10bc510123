"""Authorities whose keys were in the token before certd: taken over with the certificate that they have.

1. check certificate and chain (pure), then the key (token). `validate_only` stops here.
2. token: seal the policy with the key; a second time changes nothing, so that whoever dies here calls again.
3. write: the authority, ENABLED, with its key, its certificate and its chain; event. Commit, answer.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import HIGHEST_PATH_LENGTH, Authority, AuthorityKey, AuthorityState, AuthorityType
from certd.model.event import EventType
from certd.model.names import AuthorityName
from certd.model.revocation_settings import NO_CHANGE, RevocationSettings, SettingsChange, changed_settings
from certd.model.tenant import Quota
from certd.pki import key_spec as key_specs
from certd.pki.adopted_certificate import AdoptedCertificate, adopted_certificate
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.description import describe
from certd.services.access import Access
from certd.services.authorities import every_authority
from certd.services.authority_plan import policy_of
from certd.services.authority_views import AuthorityView, AuthorityViews, event_of
from certd.services.idempotency import RequestKey, in_progress, record_of, replay
from certd.services.issuing_refusals import token_unavailable
from certd.services.status_locations import ensure_lists, location_warnings
from certd.services.steps import StepHook
from certd.services.tenants import check_quota, existing_tenant
from certd.store import authorities, authority_keys, request_records
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

_METHOD = "AdoptAuthority"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedAuthority:
    """What a caller wants taken over."""

    name: AuthorityName
    key_id: bytes
    """CKA_ID."""
    certificate: bytes
    """PEM or DER of one."""
    chain: bytes
    """PEM, or DER of one; empty for a root."""
    labels: Mapping[str, str] = field(default_factory=dict)
    revocation: SettingsChange | None = None
    """Of the defaults; None: those are what is wanted."""


class Adoption:
    """Takes authorities over."""

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

    def adopt(
        self, caller: Caller, new: AdoptedAuthority, *, key: RequestKey | None, validate_only: bool
    ) -> AuthorityView:
        """Makes an authority of a key in the token and its certificate.

        Raises AUTHORITY_EXISTS, QUOTA_EXCEEDED, FIELD_INVALID for a key that can be read out of the token, may not
        sign, or is an authority's already, TOKEN_POLICY_FORBIDS, and what
        `pki.adopted_certificate.adopted_certificate` raises.
        """
        self._access.require(caller, Permission.AUTHORITY_ADOPT, str(new.name))
        now = self._clock.now()
        with self._store.read("authorities.adopt") as tx:
            existing_tenant(tx, new.name.tenant)
            made = None if validate_only else replay(tx, caller, _METHOD, key)
            if made is not None:
                return self._replayed(tx, made, now)
            _check_free(tx, new)
            found = adopted_certificate(new.certificate, new.chain, highest_path_length=HIGHEST_PATH_LENGTH, now=now)
            _check_new_key(tx, found.public_key)
            planned = _plan(new, found, _issuer_uid(tx, new.name.tenant, found), now)
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        adopted = self._token.adopt_authority_key(
            key_id=new.key_id,
            policy=planned.key.policy,
            public_key=found.public_key,
            validate_only=validate_only,
        )
        warnings = [*found.accepted.warnings, *location_warnings(planned, self._base_url)]
        if not adopted.never_extractable:
            problem = "was outside of a token once, as the token says: whoever had it then may have it still"
            warnings.append(Warning("key_id", f"{problem}; prepare another key soon (PrepareAuthorityKey)"))
        if not adopted.sealed and not validate_only:
            problem = "keeps a label that can be changed (CKA_MODIFIABLE), and with it what the key may sign"
            warnings.append(
                Warning(
                    "key_id", f"{problem}, by whoever knows the PIN; prepare another key soon (PrepareAuthorityKey)"
                )
            )
        if validate_only:
            return self._views.of(planned, None, now, warnings=tuple(warnings))
        self._step("adoption.2.sealed")

        def write(tx: Transaction) -> AuthorityView:
            if key is not None:
                record = record_of(caller, _METHOD, key, resource=planned.uid, now=now)
                if request_records.claim(tx, record) is not None:
                    return self._replayed(tx, replay(tx, caller, _METHOD, key) or "", now)
            _check_free(tx, new)
            _check_new_key(tx, found.public_key)
            authorities.insert(tx, planned)
            ensure_lists(tx, planned, self._base_url, now)
            tx.configuration_changed()
            tx.event(event_of(EventType.AUTHORITY_ADOPTED, planned, caller.principal, now, **_details(found)))
            return self._views.read(tx, planned, now, warnings=tuple(warnings))

        view = self._store.write("authorities.adopt", write)
        self._step("adoption.3.written")
        return view

    def _replayed(self, tx: Transaction, uid: str, now: datetime) -> AuthorityView:
        authority = authorities.get_by_uid(tx, uid)
        if authority is None:
            raise in_progress("the authority")
        return self._views.read(tx, authority, now)


def _check_free(tx: Transaction, new: AdoptedAuthority) -> None:
    if authorities.get(tx, new.name.tenant, new.name.authority) is not None:
        raise CertdError(
            Reason.AUTHORITY_EXISTS, f"{new.name} exists already; choose another authority_id", resource=str(new.name)
        )
    check_quota(tx, new.name.tenant, Quota.AUTHORITIES)
    if authority_keys.owner(tx, new.key_id) is not None:
        raise field_invalid("key_id", "is the CKA_ID of a key that an authority of this server has already")


def _check_new_key(tx: Transaction, public_key: bytes) -> None:
    """Raises FIELD_INVALID for a key that signs here: there would be two CRLs of one name and key."""
    if authority_keys.signs_already(tx, public_key):
        raise field_invalid(
            "certificate", "is of a key that an authority of this server has already, by another CKA_ID"
        )


def _issuer_uid(tx: Transaction, tenant: str, found: AdoptedCertificate) -> str | None:
    """Returns the uid of the authority of the tenant whose certificate stands above; None for an outside parent."""
    if found.root:
        return None
    above = describe(found.accepted.chain[0])
    for authority in every_authority(tx, tenant):
        for key in authorities.keys(tx, authority.uid):
            if key.certificate is not None and describe(key.certificate).sha256_fingerprint == above.sha256_fingerprint:
                return authority.uid
    return None


def _plan(new: AdoptedAuthority, found: AdoptedCertificate, issuer_uid: str | None, now: datetime) -> Authority:
    uid, accepted = uuid.uuid4().hex, found.accepted
    policy = policy_of(found.subject, path_length=accepted.path_length, lifetime=found.lifetime, root=found.root)
    return Authority(
        uid=uid,
        tenant=new.name.tenant,
        authority_id=new.name.authority,
        type=AuthorityType.ROOT if found.root else AuthorityType.SUBORDINATE,
        state=AuthorityState.ENABLED,
        key_spec=found.key_spec,
        signature_algorithm=key_specs.default_signature_algorithm(found.key_spec),
        subject=found.subject,
        lifetime=found.lifetime,
        path_length=accepted.path_length,
        issuer_uid=uid if found.root else issuer_uid,
        key=AuthorityKey(number=1, key_id=new.key_id, policy=policy, public_key=found.public_key, state_time=now),
        certificate=accepted.certificate,
        chain=accepted.chain,
        not_after=accepted.not_after,
        name_constraints=found.name_constraints,
        labels=new.labels,
        revocation=changed_settings(
            RevocationSettings(), new.revocation or NO_CHANGE, short_lived=False, field="revocation"
        ),
        create_time=now,
        update_time=now,
    )


def _details(found: AdoptedCertificate) -> dict[str, str]:
    described = describe(found.accepted.certificate)
    return {
        "issuer": described.issuer_text,
        "serial": described.serial_number,
        "sha256": described.sha256_fingerprint.hex(),
        "not_after": found.accepted.not_after.isoformat(),
        "path_length": str(found.accepted.path_length),
    }
