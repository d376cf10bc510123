"""Certificates issued from CSRs, in five numbered steps; the last three run in the issuing loop.

1. read: permission, authority, profile.
2. prepare: parse and verify the CSR, admit it, build the to-be-signed certificate, lint it. `validate_only` stops here.
3. write: what will be signed is durable.
4. token: sign.
5. write: complete; event. Answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.model.access import Caller, Permission
from certd.model.authority import Authority
from certd.model.certificate import Certificate, CertificateState, Intent
from certd.model.names import WILDCARD, AuthorityName, CertificateName, ManagedCertificateName, ProfileName
from certd.pki import csr
from certd.pki.certificate_request import request_of
from certd.pki.preparation import Validity, Warning  # noqa: A004  # The API's word.
from certd.services.access import Access, require_in
from certd.services.authorities import enabled_authority, every_authority, existing_authority, information_url
from certd.services.idempotency import RequestKey, in_progress, record_of, replay
from certd.services.issuance import Order, issuance_of, issuer_of, prepare
from certd.services.issuing_loop import Issued, IssuingLoop
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profiles import DEFAULT_PROFILE, existing_profile
from certd.services.steps import StepHook
from certd.services.tenants import existing_tenant
from certd.store import authorities, certificates, managed_certificates
from certd.store.store import Store, Transaction

_METHOD = "IssueCertificate"
_HIDDEN = {CertificateState.PENDING}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCertificate:
    """What a caller asks for. With neither lifetime nor end the profile's default holds."""

    authority: AuthorityName
    csr: bytes
    """PEM or DER."""
    profile: ProfileName | None = None
    lifetime: timedelta | None = None
    not_after: datetime | None = None
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


class Certificates:
    """The use cases of certificates."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        loop: IssuingLoop,
        base_url: str | None,
        step: StepHook,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._loop = loop
        self._base_url = base_url
        self._step = step

    def issue(
        self, caller: Caller, new: NewCertificate, *, key: RequestKey | None, validate_only: bool, timeout: float | None
    ) -> CertificateView:
        """Issues a certificate and returns it with its chain.

        Raises what `pki.csr.parse_csr`, `pki.preparation.prepare` and the issuing loop raise, AUTHORITY_NOT_FOUND,
        AUTHORITY_NOT_ENABLED, PROFILE_NOT_FOUND, PERMISSION_MISSING, REQUEST_ID_REUSED, REQUEST_IN_PROGRESS.
        """
        now = self._clock.now()
        # 1. Read.
        authority_name = str(new.authority)
        profile_name = new.profile or ProfileName(new.authority.tenant, DEFAULT_PROFILE)
        with self._store.read("certificates.issue") as tx:
            require_in(tx, caller, Permission.CERTIFICATE_ISSUE, authority_name, profile=profile_name.profile)
            profile = existing_profile(profile_name, new.authority.tenant)
            if profile.authority:
                # What yields an authority is for those who operate authorities.
                require_in(tx, caller, Permission.AUTHORITY_CREATE, authority_name)
            made = None if validate_only else replay(tx, caller, _METHOD, key)
            if made is not None:
                return self._replayed(tx, made)
            authority = enabled_authority(tx, new.authority, now)
        self._step("issue.1.read")
        # 2. Prepare.
        parsed = csr.parse_csr(new.csr)
        order = Order(
            origin="csr",
            request=request_of(parsed, profile=profile, subject=None, names=None)[0],
            profile=profile,
            validity=Validity(lifetime=new.lifetime, not_after=new.not_after),
            labels=new.labels,
        )
        issuer = issuer_of(
            authority,
            public_key=authority.key.public_key or b"",
            information_url=information_url(self._base_url, authority),
        )
        prepared = prepare(order, issuer, now=now)
        issuance = issuance_of(
            prepared,
            order,
            authority,
            principal=caller.principal,
            now=now,
            record=None
            if key is None
            else lambda resource: record_of(caller, _METHOD, key, resource=resource, now=now),
        )
        if validate_only:
            # What would be issued, with the signature of a throw-away key.
            row = _row_of(issuance.intent, prepared.lint_certificate, CertificateState.PENDING)
            return replace(_view(row, authority, warnings=prepared.warnings), name="")
        self._step("issue.2.prepared")
        # 3 to 5.
        outcome = self._loop.issue(issuance, timeout=timeout)
        if isinstance(outcome, Issued):
            row = _row_of(issuance.intent, outcome.der, CertificateState.ISSUED)
            return _view(row, authority, warnings=prepared.warnings)
        with self._store.read("certificates.replay") as tx:
            return self._replayed(tx, outcome.resource)

    def get(self, caller: Caller, name: CertificateName) -> CertificateView:
        """Returns a certificate with its chain; raises CERTIFICATE_NOT_FOUND or AUTHORITY_NOT_FOUND."""
        self._access.require(caller, Permission.CERTIFICATE_READ, str(name))
        with self._store.read("certificates.get") as tx:
            authority = existing_authority(tx, AuthorityName(name.tenant, name.authority))
            row = certificates.get(tx, authority.uid, name.serial)
            if row is None or row.state in _HIDDEN:
                raise CertdError(Reason.CERTIFICATE_NOT_FOUND, f"{name} does not exist", resource=str(name))
            return _view(row, authority, managed=_managed_version(tx, row))

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
                after=None if after is None else _page_key(after),
                limit=request.size + 1,
            )
            page = page_of(rows, request, query, key=lambda row: [row.create_time.isoformat(), row.serial])
            views = tuple(
                _view(row, by_uid[row.authority_uid], managed=_managed_version(tx, row), with_chain=False)
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
        return _view(row, authority, managed=_managed_version(tx, row))


def _page_key(key: list[str]) -> tuple[datetime, str]:
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
        raise CertdError(Reason.CERTIFICATE_NOT_FOUND, f"the certificate {serial} is gone from the books")
    return row


def _managed_version(tx: Transaction, row: Certificate) -> str:
    if row.managed_certificate_uid is None or row.managed_certificate_version is None:
        return ""
    managed = managed_certificates.get_by_uid(tx, row.managed_certificate_uid)
    if managed is None:
        return ""
    return ManagedCertificateName(managed.tenant, managed.managed_certificate_id).version(
        row.managed_certificate_version
    )


def _view(
    row: Certificate,
    authority: Authority,
    *,
    managed: str = "",
    with_chain: bool = True,
    warnings: tuple[Warning, ...] = (),
) -> CertificateView:
    tenant = authority.tenant or ""
    return CertificateView(
        name=str(CertificateName(tenant, authority.authority_id, row.serial)),
        certificate=row,
        der=row.der,
        profile_name=str(ProfileName(tenant, row.profile)),
        managed_certificate_version=managed,
        chain=authority.full_chain if with_chain else (),
        warnings=warnings,
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
    )
