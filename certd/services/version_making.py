"""A version of a managed certificate, the first or a later one: its key, its certificate, and when it is replaced.

Each step may be the last before a crash, and the next run goes on from what is in the books:

1. write: the tenant's wrapping key gets its row and CKA_ID, once; token: it gets its key (`version_keys.py`).
2. token: generate the key of the version and seal it; write: version and sealed key. Commit.
3. read: when the version will be replaced in turn.
4. issue its certificate by the five steps of the issuing loop. In the transaction that completes it the version becomes
   the current one, the key of the one before gets its end, and the job is put for the next renewal.

Many versions are made side by side and share what can be shared: commits, statements, frames to the token. One that
fails, fails alone. Two daemons that make one version share its row: one of their certificates becomes the current one,
the other counts as lost.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, Violation
from certd.model.event import SYSTEM_PRINCIPAL
from certd.model.managed_certificate import ManagedCertificate
from certd.model.names import AuthorityName, ProfileName
from certd.pki.admission import admit_validity, default_lifetime
from certd.pki.preparation import CertificateRequest, Validity
from certd.pki.profiles import Profile
from certd.services.issuance import ManagedVersion, Order
from certd.services.issuing import Asked, Issuing, Pending
from certd.services.issuing_refusals import is_key_blocked
from certd.services.profiles import existing_profile
from certd.services.remembered import Remembered
from certd.services.renewal_planning import plan_renewal
from certd.services.signers import Signer, Signers
from certd.services.steps import StepHook
from certd.services.version_completion import Completion, Planned
from certd.services.version_keys import Failures, Making, VersionKeys, tell
from certd.store import profiles
from certd.store.store import Store, Transaction

_LEAST_GAIN: Final = 10
"""A renewed certificate that ends with its authority ends later by at least such a part of its lifetime, while the one
before it lives longer than that."""
_LONGEST_ISSUE: Final = 180.0
"""Seconds. The lease of a job is longer."""
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ordered:
    """A version whose certificate can be ordered."""

    making: Making
    signer: Signer
    profile: Profile
    not_before: datetime
    not_after: datetime


class VersionMaking:
    """Makes versions.

    Args:
        store: the books.
        keys: makes their keys.
        clock: time of each step.
        signers: finds their authorities.
        issuing: has their certificates issued.
        time_to_deploy: how long consumers may take to serve a version, at most.
        step: is called with the name of each step when it is done.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: VersionKeys,
        clock: Clock,
        signers: Signers,
        issuing: Issuing,
        time_to_deploy: timedelta,
        step: StepHook,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._signers = signers
        self._issuing = issuing
        self._time_to_deploy = time_to_deploy
        self._step = step
        self._profiles: Remembered[tuple[ProfileName, str], Profile] = Remembered(
            store, "managed-certificates.profile", lambda tx, key: leaf_profile(tx, key[0], key[1])
        )

    def make(self, makings: Sequence[Making]) -> Failures:
        """Makes versions, no two of one managed certificate; returns which failed, and why."""
        failures: Failures = {}
        keyed = self._keys.make(makings, failures)
        tell(self._step, keyed, first="managed.3.key-sealed", renewal="renewal.2.key-sealed")
        now = self._clock.now()
        ordered = self._order_all(keyed, failures, now)
        completion = Completion(self._plan(ordered, now), now, self._time_to_deploy)
        tell(self._step, [one.making for one in ordered], first="managed.3.planned", renewal="renewal.3.planned")
        issued = self._issue(ordered, completion, failures, now)
        for making in keyed:
            if making.uid in failures and is_key_blocked(failures[making.uid]):
                failures[making.uid] = self._keys.replace_compromised(making)
        tell(self._step, issued, first="managed.4.issued", renewal="renewal.4.issued")
        return failures

    def _order_all(self, makings: Sequence[Making], failures: Failures, now: datetime) -> list[_Ordered]:
        ordered = []
        for making in makings:
            try:
                ordered.append(self._order(making, now))
            except CertdError as error:
                failures[making.uid] = error
        return ordered

    def _order(self, making: Making, now: datetime) -> _Ordered:
        """Returns who signs, by which rules, and for how long; raises why nothing can be issued at the moment."""
        managed = making.managed
        # Its newest version: what is renewed follows what was changed.
        profile = self._profiles.get((ProfileName(managed.tenant, managed.profile), managed.tenant))
        if profile.restricted:
            self._check_asked_for(managed)
        signer = self._signers.enabled(AuthorityName.parse("authority", managed.authority_name), now)
        if signer.authority.uid != managed.authority_uid:
            raise _another_authority(managed)
        try:
            period = admit_validity(signer.issuer, profile, Validity(lifetime=managed.lifetime, not_after=None), now)
        except CertdError as error:
            # Not what one that is SHORT_LIVED never issues: it ends no sooner for that.
            if "authority_not_after" in error.metadata and managed.current_version:
                raise _authority_ends(managed, signer) from error
            raise
        default = default_lifetime(signer.issuer, profile)
        if _gains_too_little(managed, default, period.not_after, now):
            raise _authority_ends(managed, signer)
        return _Ordered(
            making=making,
            signer=signer,
            profile=profile,
            not_before=period.not_before,
            not_after=period.not_after,
        )

    def _check_asked_for(self, managed: ManagedCertificate) -> None:
        """Raises PROFILE_FORBIDS when a restricted profile has changed since the request, and so who may use it."""
        with self._store.read("managed-certificates.restricted") as tx:
            row = profiles.get(tx, managed.tenant, managed.profile)
        # A built-in profile has no row, and never changes.
        if row is not None and row.update_time > managed.create_time:
            rule = f"the profile {managed.profile} has changed since the request and needs an authority operator"
            violation = Violation("managed_certificate.profile", rule)
            raise CertdError(Reason.PROFILE_FORBIDS, f"{rule}; have one request it again", violations=(violation,))

    def _plan(self, ordered: Sequence[_Ordered], now: datetime) -> dict[str, Planned]:
        planned: dict[str, Planned] = {}
        beside: list[datetime] = []
        with self._store.read("managed-certificates.plan") as tx:
            for one in ordered:
                making = one.making
                plan = plan_renewal(
                    tx,
                    uid=making.uid,
                    version=making.number,
                    policy=making.managed.renewal,
                    # The lifetime of one that begins in the past is what is left of it.
                    not_before=max(one.not_before, now),
                    not_after=one.not_after,
                    now=now,
                    beside=beside,
                )
                planned[making.uid] = Planned(making=making, plan=plan)
                if plan is not None:
                    beside.append(plan.time)
        return planned

    def _issue(
        self, ordered: Sequence[_Ordered], completion: Completion, failures: Failures, now: datetime
    ) -> list[Making]:
        """Returns which were issued."""
        issued: list[Making] = []
        for start in range(0, len(ordered), self._issuing.window):
            begun: list[tuple[Making, Pending]] = []
            for group in _groups(ordered[start : start + self._issuing.window]):
                try:
                    begun += self._begin(group, completion, now)
                except CertdError as error:
                    failures.update({one.making.uid: error.another() for one in group})
            for making, pending in begun:
                try:
                    pending.outcome()
                except CertdError as error:
                    failures[making.uid] = error
                else:
                    issued.append(making)
        return issued

    def _begin(self, group: Sequence[_Ordered], completion: Completion, now: datetime) -> list[tuple[Making, Pending]]:
        """Has issued what one authority signs by one profile."""
        asked = Asked(
            signer=group[0].signer,
            principal=SYSTEM_PRINCIPAL,
            now=now,
            deadline=time.monotonic() + _LONGEST_ISSUE,
        )
        orders = []
        for one in group:
            version = one.making.version
            # Nothing is ordered without its key.
            assert version is not None  # noqa: S101
            order = order_of(one.making.managed, one.profile, version.public_key)
            number = ManagedVersion(uid=one.making.uid, number=version.number)
            orders.append(replace(order, managed_version=number, together=completion))
        pending = self._issuing.begin(asked, orders, records=[None] * len(orders), descriptions=False)
        return list(zip([one.making for one in group], pending, strict=True))


def _groups(ordered: Sequence[_Ordered]) -> list[list[_Ordered]]:
    """Returns them by authority and profile."""
    found: dict[tuple[str, Profile], list[_Ordered]] = {}
    for one in ordered:
        found.setdefault((one.signer.authority.uid, one.profile), []).append(one)
    return list(found.values())


def _gains_too_little(managed: ManagedCertificate, default: timedelta, not_after: datetime, now: datetime) -> bool:
    """Returns whether a certificate would replace one that ends about as late, as its authority ends.

    Otherwise those of an authority that ends would be renewed again and again, in ever shorter steps. One that ends
    before that is worth it is replaced once more all the same, when it doubles what is left; so none ends while its
    authority could give it days. What somebody wants renewed now need only end no earlier.
    """
    if managed.current_version == 0 or managed.not_after is None or managed.lifetime is not None:
        return False
    whole = now.astimezone(UTC).replace(microsecond=0) + default - _SECOND
    left = max(managed.not_after - now, _SECOND)
    least = timedelta(0) if managed.forced else min(default / _LEAST_GAIN, left)
    return not_after < whole and not_after - managed.not_after < least


def _another_authority(managed: ManagedCertificate) -> CertdError:
    """Returns the error of a name that another authority has by now: nobody asked that one."""
    name = managed.authority_name
    return CertdError(
        Reason.AUTHORITY_NOT_FOUND,
        f"the authority that was asked for was purged, and {name} is another one; request this again",
        resource=name,
    )


def _authority_ends(managed: ManagedCertificate, signer: Signer) -> CertdError:
    name, end = managed.authority_name, signer.issuer.not_after
    told = "soon" if end is None else f"at {rfc3339(end)}"
    return CertdError(
        Reason.LIFETIME_EXCEEDS_AUTHORITY,
        f"the authority {name} ends {told}, too soon for a certificate in place of this one: re-issue the authority's"
        " certificate; the renewal then goes on by itself",
        metadata={} if end is None else {"authority_not_after": rfc3339(end)},
        resource=name,
    )


def leaf_profile(tx: Transaction, name: ProfileName, tenant: str) -> Profile:
    """Returns a profile in its newest version; PROFILE_FORBIDS when it yields authorities, as it may since a change."""
    profile = existing_profile(tx, name, tenant)
    if profile.authority:
        rule = f"the profile {profile.profile_id} yields an authority; use CreateAuthority"
        violation = Violation("managed_certificate.profile", rule)
        raise CertdError(Reason.PROFILE_FORBIDS, rule, violations=(violation,))
    return profile


def order_of(managed: ManagedCertificate, profile: Profile, public_key: bytes) -> Order:
    """Returns what is asked of the authority for a version with this key."""
    return Order(
        origin="managed_certificate",
        source=CertificateRequest(public_key=public_key, subject=managed.subject, names=managed.names),
        profile=profile,
        validity=Validity(lifetime=managed.lifetime, not_after=None),
        labels=managed.labels,
    )
