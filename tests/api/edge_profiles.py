"""Profiles behind the edge that do as they are told."""

from typing import Protocol

from certd.model.access import Caller
from certd.model.names import ProfileName, TenantName
from certd.pki.profiles import END_ENTITY
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest
from certd.services.profile_changes import GivenProfile
from certd.services.profile_check import CheckedRequest, ProfileChecks, RequestToCheck
from certd.services.profiles import ProfileChange, Profiles, ProfileView


class Takes(Protocol):
    """What remembers the calls, and may raise in their place."""

    def take(self, *arguments: object) -> None: ...


class FakeProfiles(Profiles):
    def __init__(self, told: Takes) -> None:
        self._told = told
        self.view = ProfileView(name=ProfileName("default", "end-entity"), profile=END_ENTITY, built_in=True)

    def create(
        self, caller: Caller, name: ProfileName, given: GivenProfile, *, key: RequestKey | None, validate_only: bool
    ) -> ProfileView:
        self._told.take(caller, name, given, key, validate_only)
        return self.view

    def get(self, caller: Caller, name: ProfileName, *, version: int | None = None) -> ProfileView:
        self._told.take(caller, name, version)
        return self.view

    def page(self, caller: Caller, parent: TenantName, request: PageRequest) -> Page[ProfileView]:
        self._told.take(caller, parent, request)
        return Page((self.view,), "next")

    def update(
        self, caller: Caller, change: ProfileChange, *, key: RequestKey | None, validate_only: bool
    ) -> ProfileView:
        self._told.take(caller, change, key, validate_only)
        return self.view

    def delete(
        self, caller: Caller, name: ProfileName, *, etag: str, key: RequestKey | None, validate_only: bool
    ) -> None:
        self._told.take(caller, name, etag, key, validate_only)


class FakeProfileChecks(ProfileChecks):
    def __init__(self, told: Takes) -> None:
        self._told = told
        self.found = CheckedRequest(profile_name=ProfileName("default", "end-entity"), findings=())

    def check(self, caller: Caller, asked: RequestToCheck) -> CheckedRequest:
        self._told.take(caller, asked)
        return self.found
