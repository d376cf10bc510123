"""Profiles: what may be issued. The built-in ones belong to every tenant; a tenant adds its own, in versions."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.event import Event, EventType
from certd.model.names import GrantName, ProfileName, TenantName
from certd.model.tenant import Quota
from certd.pki.profile_document import from_document, to_document
from certd.pki.profiles import BUILT_IN, SYSTEM, Profile
from certd.services.access import Access
from certd.services.idempotency import RequestKey, record_of, replay, same_request
from certd.services.paging import Page, PageRequest, page_of
from certd.services.profile_changes import FIELDS, GivenProfile, changed, made_of
from certd.services.tenants import check_quota, existing_tenant
from certd.store import profiles, request_records
from certd.store.profiles import ProfileRow
from certd.store.store import Store, Transaction

DEFAULT_PROFILE = "end-entity"
_CREATE, _UPDATE, _DELETE = "CreateProfile", "UpdateProfile", "DeleteProfile"
_NAMED = 3
"""How many of those who name a profile are told."""
_OF_OTHERS = "some of the server"
"""Stands for grants that the caller may not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileView:
    """A profile as a caller sees it."""

    name: ProfileName
    profile: Profile
    built_in: bool = False
    create_time: datetime | None = None
    """None for a built-in profile and for versions of before a deletion."""
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Another one for every version, also after the id was used again."""
        return f"{self.name.profile}-{self.profile.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileChange:
    """What a caller wants changed."""

    name: ProfileName
    given: GivenProfile
    fields: frozenset[str] = FIELDS
    """Names of the fields to take from `given`."""
    etag: str = ""
    """That of the version that the caller has read; empty when that does not matter."""


class Profiles:
    """The use cases of profiles."""

    def __init__(self, *, store: Store, clock: Clock, access: Access) -> None:
        self._store = store
        self._clock = clock
        self._access = access

    def create(
        self, caller: Caller, name: ProfileName, given: GivenProfile, *, key: RequestKey | None, validate_only: bool
    ) -> ProfileView:
        """Makes a profile.

        Raises FIELD_INVALID with every rule that it breaks, PROFILE_EXISTS, QUOTA_EXCEEDED, TENANT_NOT_FOUND,
        REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.PROFILE_WRITE, str(name))
        now = self._clock.now()
        with self._store.read("profiles.create") as tx:
            existing_tenant(tx, name.tenant)
            if not validate_only and replay(tx, caller, _CREATE, key) is not None:
                return _replayed(tx, name)
            _check_room(tx, name)
        made = made_of(given, profile_id=name.profile)
        if validate_only:
            return ProfileView(name=name, profile=made, create_time=now, update_time=now)

        def create(tx: Transaction) -> ProfileView:
            if _is_repeated(tx, caller, _CREATE, key, name=name, now=now):
                return _replayed(tx, name)
            _check_room(tx, name)
            view = _view(profiles.insert(tx, name.tenant, name.profile, document=to_document(made), now=now))
            _record(tx, EventType.PROFILE_CREATED, view, caller, now)
            return view

        return self._store.write("profiles.create", create)

    def get(self, caller: Caller, name: ProfileName, *, version: int | None = None) -> ProfileView:
        """Returns a profile in its newest version, or in one asked for, which is there also after it was deleted.

        Raises PROFILE_NOT_FOUND, TENANT_NOT_FOUND.
        """
        self._access.require(caller, Permission.PROFILE_READ, str(name))
        with self._store.read("profiles.get") as tx:
            existing_tenant(tx, name.tenant)
            return _existing(tx, name, version)

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[ProfileView]:
        """Returns a page of a tenant's profiles by name, built-in ones among them; raises TENANT_NOT_FOUND."""
        self._access.require(caller, Permission.PROFILE_READ, f"{parent}/profiles")
        query = f"profiles {parent}"
        key = request.after(query)
        after = key[0] if key else ""
        with self._store.read("profiles.page") as tx:
            existing_tenant(tx, parent.tenant)
            # More, for a later release may make the id of a tenant's profile one of its own.
            rows = profiles.page(tx, parent.tenant, after=after, limit=request.size + 1 + len(BUILT_IN))
        own = [_view(row) for row in rows if row.profile_id not in BUILT_IN]
        built_in = [_built_in_view(parent.tenant, BUILT_IN[each]) for each in sorted(BUILT_IN) if each > after]
        views = list(heapq.merge(own, built_in, key=lambda view: view.name.profile))[: request.size + 1]
        return page_of(views, request, query, key=lambda view: [view.name.profile])

    def update(
        self, caller: Caller, change: ProfileChange, *, key: RequestKey | None, validate_only: bool
    ) -> ProfileView:
        """Changes a profile, which makes a new version of it; when nothing is changed, none.

        Raises FIELD_INVALID with every rule that the result breaks, PROFILE_NOT_FOUND, ETAG_MISMATCH, STATE_FORBIDS for
        a built-in profile, REQUEST_ID_REUSED.
        """
        name = change.name
        self._access.require(caller, Permission.PROFILE_WRITE, str(name))
        _refuse_built_in(name, "changed")
        now = self._clock.now()

        def plan(tx: Transaction) -> tuple[ProfileView, Profile]:
            existing_tenant(tx, name.tenant)
            found = _existing(tx, name, None)
            _check_etag(found, change.etag)
            return found, changed(found.profile, change.given, change.fields)

        def update(tx: Transaction) -> ProfileView:
            if _is_repeated(tx, caller, _UPDATE, key, name=name, now=now):
                return _replayed(tx, name)
            found, planned = plan(tx)
            if planned == found.profile:
                return found
            row = profiles.add_version(
                tx,
                name.tenant,
                name.profile,
                expected_version=found.profile.version,
                document=to_document(planned),
                now=_after_requests(tx, name, now) if planned.restricted else now,
            )
            if row is None:
                raise _mismatch(found)
            view = _view(row)
            _record(tx, EventType.PROFILE_UPDATED, view, caller, now)
            return view

        if not validate_only:
            return self._store.write("profiles.update", update)
        with self._store.read("profiles.update") as tx:
            found, planned = plan(tx)
        if planned == found.profile:
            return found
        return replace(found, profile=replace(planned, version=found.profile.version + 1), update_time=now)

    def delete(
        self, caller: Caller, name: ProfileName, *, etag: str, key: RequestKey | None, validate_only: bool
    ) -> None:
        """Deletes a profile; what was issued under it stays, and so do its versions.

        Raises PROFILE_NOT_FOUND, ETAG_MISMATCH, PROFILE_IN_USE while a managed certificate or a grant names it,
        STATE_FORBIDS for a built-in profile, REQUEST_ID_REUSED.
        """
        self._access.require(caller, Permission.PROFILE_WRITE, str(name))
        _refuse_built_in(name, "deleted")
        now = self._clock.now()

        def plan(tx: Transaction) -> ProfileView:
            existing_tenant(tx, name.tenant)
            found = _existing(tx, name, None)
            _check_etag(found, etag)
            _check_unused(tx, name, lambda grant: self._access.may(caller, Permission.GRANT_READ, str(grant)))
            return found

        def delete(tx: Transaction) -> None:
            if _is_repeated(tx, caller, _DELETE, key, name=name, now=now):
                return
            found = plan(tx)
            profiles.delete(tx, name.tenant, name.profile)
            _record(tx, EventType.PROFILE_DELETED, found, caller, now)

        if validate_only:
            with self._store.read("profiles.delete") as tx:
                plan(tx)
            return
        self._store.write("profiles.delete", delete)


def existing_profile(tx: Transaction, name: ProfileName, tenant: str, *, version: int | None = None) -> Profile:
    """Returns a profile that `tenant` may use, in its newest version or in one asked for; raises PROFILE_NOT_FOUND.

    A version is there for ever, also after the profile was deleted: certificates name the one they were issued under.
    """
    if name.tenant != tenant:
        raise _not_found(name, tenant)
    return _existing(tx, name, version).profile


def _existing(tx: Transaction, name: ProfileName, version: int | None) -> ProfileView:
    built_in = BUILT_IN.get(name.profile)
    if built_in is not None:
        if version not in {None, built_in.version}:
            raise _version_not_found(name, version)
        return _built_in_view(name.tenant, built_in)
    if version is None:
        row = profiles.get(tx, name.tenant, name.profile)
        if row is None:
            raise _not_found(name, name.tenant)
        return _view(row)
    row = profiles.get_version(tx, name.tenant, name.profile, version)
    if row is None:
        raise _version_not_found(name, version)
    return _view(row)


def _not_found(name: ProfileName, tenant: str) -> CertdError:
    return CertdError(
        Reason.PROFILE_NOT_FOUND,
        f"{name} does not exist in tenants/{tenant}; use one of certd's own ({', '.join(sorted(BUILT_IN))}) or one that"
        " ListProfiles shows",
        resource=str(name),
    )


def _version_not_found(name: ProfileName, version: int | None) -> CertdError:
    return CertdError(
        Reason.PROFILE_NOT_FOUND,
        f"{name} has no version {version}; ask for none to have the newest",
        metadata={"version": str(version)},
        resource=str(name),
    )


def _view(row: ProfileRow) -> ProfileView:
    return ProfileView(
        name=ProfileName(row.tenant, row.profile_id),
        profile=from_document(row.document, profile_id=row.profile_id, version=row.version),
        create_time=row.create_time,
        update_time=row.update_time,
    )


def _built_in_view(tenant: str, profile: Profile) -> ProfileView:
    return ProfileView(name=ProfileName(tenant, profile.profile_id), profile=profile, built_in=True)


def _is_repeated(
    tx: Transaction, caller: Caller, method: str, key: RequestKey | None, *, name: ProfileName, now: datetime
) -> bool:
    """Claims a request; returns whether it was made before. Raises REQUEST_ID_REUSED when that was another one."""
    if key is None:
        return False
    found = request_records.claim(tx, record_of(caller, method, key, resource=str(name), now=now))
    if found is None:
        return False
    same_request(found, key.request_sha256)
    return True


def _replayed(tx: Transaction, name: ProfileName) -> ProfileView:
    """Reads again what an earlier call with the same request id made."""
    row = profiles.get(tx, name.tenant, name.profile)
    if row is None:
        raise CertdError(
            Reason.PROFILE_NOT_FOUND,
            f"{name}, which this request_id was about, is deleted; send a new one",
            resource=str(name),
        )
    return _view(row)


def _record(tx: Transaction, type_: EventType, view: ProfileView, caller: Caller, now: datetime) -> None:
    """Records what was done to a profile, for the audit and for those who keep profiles in memory."""
    tx.event(
        Event(
            time=now,
            type=type_,
            tenant=view.name.tenant,
            principal=caller.principal,
            resource=str(view.name),
            details={"version": str(view.profile.version)},
        )
    )
    tx.configuration_changed()


def _check_room(tx: Transaction, name: ProfileName) -> None:
    """Raises PROFILE_EXISTS when the id is taken, QUOTA_EXCEEDED when the tenant has as many as it may have."""
    if name.profile in BUILT_IN or name.profile in SYSTEM:
        raise CertdError(
            Reason.PROFILE_EXISTS,
            f"{name.profile} is one of certd's own profiles; choose another profile_id",
            resource=str(name),
        )
    if profiles.get(tx, name.tenant, name.profile) is not None:
        raise CertdError(
            Reason.PROFILE_EXISTS,
            f"{name} exists already; choose another profile_id, or change it with UpdateProfile",
            resource=str(name),
        )
    check_quota(tx, name.tenant, Quota.PROFILES)


def _refuse_built_in(name: ProfileName, done: str) -> None:
    if name.profile in BUILT_IN:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{name} is one of certd's own profiles, which cannot be {done}; create another one and use that",
            resource=str(name),
        )


def _check_etag(found: ProfileView, etag: str) -> None:
    if etag not in {"", found.etag}:
        raise _mismatch(found)


def _mismatch(found: ProfileView) -> CertdError:
    return CertdError(
        Reason.ETAG_MISMATCH,
        f"{found.name} has changed since it was read, and is now at version {found.profile.version}; read it again and"
        " repeat the change with its etag",
        metadata={"etag": found.etag},
        resource=str(found.name),
    )


def _after_requests(tx: Transaction, name: ProfileName, now: datetime) -> datetime:
    """Returns a time after every request under a profile, by whichever daemon's clock it was made.

    By it those are told apart who asked for a managed certificate before the profile was restricted.
    """
    last = profiles.last_request_of(tx, name.tenant, name.profile)
    return now if last is None else max(now, last + timedelta(microseconds=1))


def _check_unused(tx: Transaction, name: ProfileName, may_read: Callable[[GrantName], bool]) -> None:
    """Raises PROFILE_IN_USE, naming the first few who name a profile, as far as the caller may know of them."""
    managed = profiles.managed_certificates_of(tx, name.tenant, name.profile, most=_NAMED + 1)
    granted = profiles.grants_of(tx, name.tenant, name.profile, most=_NAMED + 1)
    # The tenant need not be told that it is the tenant.
    known = [one.grant for one in granted if may_read(one)]
    grants = [_some(known)] if known else []
    if len(known) < len(granted):
        grants.append(_OF_OTHERS)
    kinds = {"managed_certificates": ("managed certificates", _some(managed)), "grants": ("grants", ", ".join(grants))}
    told = {key: (kind, some) for key, (kind, some) in kinds.items() if some}
    if told:
        raise CertdError(
            Reason.PROFILE_IN_USE,
            f"{name} is named by the {' and the '.join(f'{kind} {some}' for kind, some in told.values())};"
            " delete these, or have them name another profile",
            metadata={key: some for key, (_, some) in told.items()},
            resource=str(name),
        )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (" and more" if len(ids) > _NAMED else "")
