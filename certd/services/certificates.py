"""Certificates issued from CSRs, in five numbered steps; the last three run in the issuing loop.

1. read: permission, authority, profile.
2. prepare: parse and verify the CSR, admit it, build the to-be-signed certificate, lint it. `validate_only` stops here.
3. write: what will be signed is durable.
4. token: sign.
5. write: complete; event. Answer.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority, AuthorityType
from certd.model.certificate import Certificate, CertificateState, Intent
from certd.model.names import WILDCARD, AuthorityName, CertificateName, ManagedCertificateName, ProfileName
from certd.model.request_limits import RequestLimits
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Validity, Warning  # noqa: A004  # The API's word.
from certd.pki.profiles import Profile
from certd.prepare.order import Csr
from certd.services.access import Access
from certd.services.authorities import every_authority, existing_authority
from certd.services.authority_views import authority_with_key
from certd.services.idempotency import RequestKey, in_progress, record_of, replay
from certd.services.issuance import Order, told
from certd.services.issuing import Asked, Issuing, Pending, Record, Rehearsed
from certd.services.issuing_loop import Replayed
from certd.services.issuing_refusals import key_blocked
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profiles import DEFAULT_PROFILE, existing_profile
from certd.services.remembered import Remembered
from certd.services.signers import Signer, Signers
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.store import authorities, blocked_keys, certificates, managed_certificates
from certd.store.store import Store, Transaction

_METHOD = "IssueCertificate"
_HIDDEN = {CertificateState.PENDING}
_OF_THE_LOOP = frozenset({Reason.REQUEST_ID_REUSED, Reason.REQUEST_IN_PROGRESS, Reason.SIGNING_QUEUE_FULL,
                          Reason.DEADLINE_EXCEEDED, Reason.TOKEN_UNAVAILABLE, Reason.STORE_UNAVAILABLE,
                          Reason.SHUTTING_DOWN, Reason.OWNERSHIP_LOST, Reason.PREPARATION_UNAVAILABLE})  # fmt: skip
"""Failures that say nothing of the request, so that an earlier call with its id would not have had them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCertificate:
    """What a caller asks for. With neither lifetime nor end the profile's default holds."""

    authority: AuthorityName
    csr: bytes
    """PEM or DER."""
    profile: ProfileName | None = None
    lifetime: timedelta | None = None
    not_after: datetime | None = None
    subject: bytes | None = None
    """DER of the distinguished name that replaces the CSR's, where the profile allows it."""
    names: SubjectAlternativeNames | None = None
    """Alternative names that replace the CSR's, where the profile allows it."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """A certificate as a caller sees it."""

    name: str
    """Empty when nothing was issued because of `validate_only`."""
    certificate: Certificate
    der: bytes | None
    profile_name: str
    managed_certificate_version: str
    """Resource name; empty when it was issued from a CSR."""
    chain: tuple[bytes, ...]
    warnings: tuple[Warning, ...] = ()
    description: bytes = b""
    """Serialised certd.v1.CertificateDescription without fingerprint, where it is known already."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One certificate of a batch, and what makes it repeatable."""

    new: NewCertificate
    key: RequestKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What the items of a call share."""

    caller: Caller
    authority: AuthorityName
    now: datetime
    deadline: float | None
    validate_only: bool
    descriptions: bool


class Certificates:
    """The use cases of certificates; `limits` bounds the names that a CSR may ask for."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        signers: Signers,
        issuing: Issuing,
        limits: RequestLimits,
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._signers = signers
        self._issuing = issuing
        self._limits = limits
        self._step = step
        self._profiles: Remembered[tuple[ProfileName, str], Profile] = Remembered(
            store, "certificates.profile", lambda tx, key: existing_profile(tx, key[0], key[1])
        )

    def issue(
        self, caller: Caller, new: NewCertificate, *, key: RequestKey | None, validate_only: bool, timeout: float | None
    ) -> CertificateView:
        """Issues a certificate and returns it with its chain.

        Raises what `prepare.order.prepare_item` and the issuing loop raise, AUTHORITY_NOT_FOUND, AUTHORITY_NOT_ENABLED,
        PROFILE_NOT_FOUND, PERMISSION_MISSING, REQUEST_ID_REUSED, REQUEST_IN_PROGRESS.
        """
        call = self._call(caller, new.authority, validate_only=validate_only, timeout=timeout, descriptions=True)
        (outcome,) = self._issue_alike(call, _profile_name(new), [BatchItem(new, key)])
        if isinstance(outcome, CertdError):
            raise outcome
        return outcome

    def issue_batch(
        self,
        caller: Caller,
        authority: AuthorityName,
        items: Sequence[BatchItem],
        *,
        validate_only: bool,
        timeout: float | None,
        descriptions: bool = True,
    ) -> list[CertificateView | CertdError]:
        """Issues certificates by one authority; each item succeeds or fails alone, and the results keep their order.

        An item fails with what `issue` raises. Raises PERMISSION_MISSING for a caller who may issue nothing there.
        """
        self._access.require(caller, Permission.CERTIFICATE_ISSUE, str(authority))
        call = self._call(caller, authority, validate_only=validate_only, timeout=timeout, descriptions=descriptions)
        outcomes: list[CertificateView | CertdError | None] = [None] * len(items)
        by_profile: dict[ProfileName, list[int]] = {}
        for position, item in enumerate(items):
            by_profile.setdefault(_profile_name(item.new), []).append(position)
        window = self._issuing.window
        for profile_name, positions in by_profile.items():
            for start in range(0, len(positions), window):
                chosen = positions[start : start + window]
                made = self._issue_alike(call, profile_name, [items[position] for position in chosen])
                for position, outcome in zip(chosen, made, strict=True):
                    outcomes[position] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _call(
        self,
        caller: Caller,
        authority: AuthorityName,
        *,
        validate_only: bool,
        timeout: float | None,
        descriptions: bool,
    ) -> "_Call":
        return _Call(
            caller=caller,
            authority=authority,
            now=self._clock.now(),
            deadline=None if timeout is None else time.monotonic() + timeout,
            validate_only=validate_only,
            descriptions=descriptions,
        )

    def _issue_alike(
        self, call: "_Call", profile_name: ProfileName, items: Sequence[BatchItem]
    ) -> list[CertificateView | CertdError]:
        """Issues certificates of one profile."""
        # 1. Read.
        try:
            self._check_permissions(call, profile_name)
        except CertdError as error:
            return [error.another() for _ in items]
        try:
            profile = self._usable_profile(call, profile_name)
            signer = self._signers.enabled(call.authority, call.now)
        except CertdError as error:
            if error.reason is Reason.PERMISSION_MISSING:
                # Permission comes before what was made.
                return [error.another() for _ in items]
            return [self._earlier(call, item) or error.another() for item in items]
        self._step("issue.1.read")
        # 2. Prepare.
        orders = [_order(item.new, profile) for item in items]
        asked = Asked(
            signer=signer,
            principal=call.caller.principal,
            now=call.now,
            deadline=call.deadline,
            most_names=self._limits.names,
        )
        if call.validate_only:
            return self._rehearse(asked, orders)
        # 3 to 5 follow from there.
        records = [_recorder(call, item.key) for item in items]
        pending = self._issuing.begin(asked, orders, records=records, descriptions=call.descriptions)
        return [self._outcome(call, item, signer, one) for item, one in zip(items, pending, strict=True)]

    def _check_permissions(self, call: "_Call", profile_name: ProfileName) -> None:
        authority = str(call.authority)
        self._access.require(call.caller, Permission.CERTIFICATE_ISSUE, authority, profile=profile_name.profile)

    def _usable_profile(self, call: "_Call", name: ProfileName) -> Profile:
        profile = self._profiles.get((name, call.authority.tenant))
        if profile.restricted:
            # What yields authorities, or extensions of the CSR's choice, is for those who operate authorities.
            self._access.require(call.caller, Permission.AUTHORITY_CREATE, str(call.authority))
        return profile

    def _outcome(
        self, call: "_Call", item: BatchItem, signer: Signer, pending: Pending
    ) -> CertificateView | CertdError:
        try:
            outcome = pending.outcome()
            if isinstance(outcome, Replayed):
                with self._store.read("certificates.replay") as tx:
                    return self._replayed(tx, outcome.resource)
        except CertdError as error:
            return (self._earlier(call, item) if error.reason not in _OF_THE_LOOP else None) or error
        except Exception as error:  # noqa: BLE001  # A defect in one item takes nothing from the others.
            defect = CertdError(Reason.INTERNAL, "issuing failed by a defect")
            defect.__cause__ = error
            return defect
        row = _row_of(outcome.issuance.intent, outcome.der, CertificateState.ISSUED)
        warnings = _with_advice(signer.authority, pending.order, outcome.prepared.warnings)
        return view_of(row, signer.authority, warnings=warnings, description=outcome.description)

    def _rehearse(self, asked: Asked, orders: Sequence[Order]) -> list[CertificateView | CertdError]:
        """Returns what would be issued, with a signature that no key made and without a name."""
        rehearsed = self._issuing.rehearse(asked, orders)
        tenant = asked.signer.authority.tenant
        keys = [(tenant, one.prepared.public_key_sha256) for one in rehearsed if isinstance(one, Rehearsed)]
        with self._store.read("certificates.rehearse") as tx:
            blocked = blocked_keys.blocked(tx, keys)
        outcomes: list[CertificateView | CertdError] = []
        for order, one in zip(orders, rehearsed, strict=True):
            if isinstance(one, CertdError):
                outcomes.append(one)
            elif (tenant, one.prepared.public_key_sha256) in blocked:
                outcomes.append(told(order, key_blocked()))
            else:
                row = _row_of(one.issuance.intent, one.prepared.lint_certificate, CertificateState.PENDING)
                warnings = _with_advice(asked.signer.authority, order, one.prepared.warnings)
                view = view_of(row, asked.signer.authority, warnings=warnings, description=one.description)
                outcomes.append(replace(view, name=""))
        return outcomes

    def _earlier(self, call: "_Call", item: BatchItem) -> CertificateView | CertdError | None:
        """Returns what an earlier call with the same request id made, though now it would be refused."""
        if call.validate_only or item.key is None:
            return None
        try:
            with self._store.read("certificates.earlier") as tx:
                made = replay(tx, call.caller, _METHOD, item.key)
                return None if made is None else self._replayed(tx, made)
        except CertdError as error:
            return error

    def get(self, caller: Caller, name: CertificateName) -> CertificateView:
        """Returns a certificate with its chain; raises CERTIFICATE_NOT_FOUND or AUTHORITY_NOT_FOUND."""
        self._access.require(caller, Permission.CERTIFICATE_READ, str(name))
        with self._store.read("certificates.get") as tx:
            authority = existing_authority(tx, AuthorityName(name.tenant, name.authority))
            row = certificates.get(tx, authority.uid, name.serial)
            if row is None or row.state in _HIDDEN:
                raise CertdError(Reason.CERTIFICATE_NOT_FOUND, f"{name} does not exist", resource=str(name))
            signer = authority_with_key(tx, authority, row.key_number)
            return view_of(row, signer, managed=managed_version(tx, row))

    def page(self, caller: Caller, parent: AuthorityName, request: PageRequest) -> Page[CertificateView]:
        """Returns a page of certificates, newest first, without chains. The authority may be the wildcard."""
        scope = f"tenants/{parent.tenant}/authorities" if parent.authority == WILDCARD else str(parent)
        self._access.require(caller, Permission.CERTIFICATE_READ, scope)
        query = f"certificates {parent}"
        after = request.after(query)
        with self._store.read("certificates.page") as tx:
            existing_tenant(tx, parent.tenant)
            among = (
                every_authority(tx, parent.tenant) if parent.authority == WILDCARD else [existing_authority(tx, parent)]
            )
            by_uid = {authority.uid: authority for authority in among}
            rows = certificates.page(
                tx,
                list(by_uid),
                after=None if after is None else place_of(after),
                limit=request.size + 1,
            )
            page = page_of(rows, request, query, key=lambda row: [row.create_time.isoformat(), row.serial])
            views = tuple(
                view_of(row, by_uid[row.authority_uid], managed=managed_version(tx, row), with_chain=False)
                for row in page.items
                if row.state not in _HIDDEN
            )
        return Page(views, page.next_page_token)

    def _replayed(self, tx: Transaction, key: str) -> CertificateView:
        """Reads again what an earlier call with the same request id made."""
        row = _row(tx, key)
        authority = authorities.get_by_uid(tx, row.authority_uid)
        # What was lost since the record was read has lost its record too: the next call issues afresh.
        if authority is None or row.state in {CertificateState.PENDING, CertificateState.LOST}:
            raise in_progress("the certificate")
        return view_of(row, authority_with_key(tx, authority, row.key_number), managed=managed_version(tx, row))


def _profile_name(new: NewCertificate) -> ProfileName:
    return new.profile or ProfileName(new.authority.tenant, DEFAULT_PROFILE)


def _order(new: NewCertificate, profile: Profile) -> Order:
    return Order(
        origin="csr",
        source=Csr(data=new.csr, subject=new.subject, names=new.names),
        profile=profile,
        validity=Validity(lifetime=new.lifetime, not_after=new.not_after),
        labels=new.labels,
    )


_ROOT_ADVICE = Warning(
    "parent", "a root issues it; let an authority below the root do so, for a root that rests is a root that is safe"
)


def _with_advice(authority: Authority, order: Order, warnings: tuple[Warning, ...]) -> tuple[Warning, ...]:
    advised = authority.type is AuthorityType.ROOT and not order.profile.authority
    return (*warnings, _ROOT_ADVICE) if advised else warnings


def _recorder(call: _Call, key: RequestKey | None) -> Record | None:
    if key is None:
        return None
    return lambda resource: record_of(call.caller, _METHOD, key, resource=resource, now=call.now)


def place_of(key: list[str]) -> tuple[datetime, str]:
    """Returns creation and serial after which a page begins; raises FIELD_INVALID for a forged token."""
    try:
        create_time, serial = key
        return datetime.fromisoformat(create_time).astimezone(UTC), serial
    except (ValueError, OverflowError) as error:
        raise field_invalid("page_token", "is not a token that this server gave") from error


def _row(tx: Transaction, key: str) -> Certificate:
    authority_uid, serial = key.split("/")
    row = certificates.get(tx, authority_uid, serial)
    if row is None:
        # Two calls with one request id came at once, and what the first one asked for was refused with its record.
        raise in_progress("the certificate")
    return row


def managed_version(tx: Transaction, row: Certificate) -> str:
    """Returns the name of the managed certificate version that a certificate belongs to; empty for none."""
    if row.managed_certificate_uid is None or row.managed_certificate_version is None:
        return ""
    managed = managed_certificates.get_by_uid(tx, row.managed_certificate_uid)
    if managed is None:
        return ""
    return ManagedCertificateName(managed.tenant, managed.managed_certificate_id).version(
        row.managed_certificate_version
    )


def view_of(
    row: Certificate,
    authority: Authority,
    *,
    managed: str = "",
    with_chain: bool = True,
    warnings: tuple[Warning, ...] = (),
    description: bytes = b"",
) -> CertificateView:
    """Returns a certificate as a caller sees it, of an authority as it is where the key signs that signed it."""
    tenant = authority.tenant or ""
    return CertificateView(
        name=str(CertificateName(tenant, authority.authority_id, row.serial)),
        certificate=row,
        der=row.der,
        # What another CA issued, and was taken over, has none.
        profile_name=str(ProfileName(tenant, row.profile)) if row.profile else "",
        managed_certificate_version=managed,
        chain=authority.full_chain if with_chain else (),
        warnings=warnings,
        description=description,
    )


def _row_of(intent: Intent, der: bytes, state: CertificateState) -> Certificate:
    """Returns the row that an intent became, without reading it again."""
    return Certificate(
        authority_uid=intent.authority_uid,
        key_number=intent.key_number,
        serial=intent.serial,
        state=state,
        der=der,
        profile=intent.profile,
        profile_version=intent.profile_version,
        subject_text=intent.subject_text,
        not_before=intent.not_before,
        not_after=intent.not_after,
        public_key_sha256=intent.public_key_sha256,
        key_spec=intent.key_spec,
        managed_certificate_uid=intent.managed_certificate_uid,
        managed_certificate_version=intent.managed_certificate_version,
        labels=intent.labels,
        create_time=intent.create_time,
        revoke_time=None,
        revocation_reason=None,
        invalidity_time=None,
        crl_partition=intent.crl_partition,
    )
