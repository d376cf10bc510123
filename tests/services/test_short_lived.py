"""Authorities of certificates that live 7 days at most, and whose state nobody asks for."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.model.authority import UsageMode
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, ProfileName
from certd.model.renewal import RenewalPolicy
from certd.model.revocation_settings import (
    EVERY_SETTING,
    CrlSettings,
    OcspSettings,
    RevocationSettings,
    SettingsChange,
)
from certd.services.authority_changes import Change, NewSettings
from certd.services.certificates import NewCertificate
from certd.store import revocation_lists
from tests.services.conftest import ADMINISTRATOR, World, csr_for
from tests.services.managed_books import at_version, get
from tests.services.renewals import at_planned
from tests.services.test_status_locations import authority_of, said, urls_under

JOBS = AuthorityName("default", "jobs")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
NO_REVOCATION_AVAILABLE = "0500"


@pytest.fixture
def jobs(world: World) -> World:
    """A world with the authority `jobs` below `root`, of certificates that are short-lived."""
    world.create_root()
    world.create_subordinate("jobs", usage_mode=UsageMode.SHORT_LIVED)
    return world


def refused(call: Callable[[], object]) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    return caught.value


def end_of(der: bytes | None) -> datetime:
    return x509.load_der_x509_certificate(der or b"").not_valid_after_utc


def issue(world: World, **changes: Any) -> Any:
    new = NewCertificate(authority=JOBS, csr=csr_for("www.example.internal"), **changes)
    return world.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)


def test_its_certificates_say_that_nobody_need_ask_and_where_their_issuer_is(jobs: World) -> None:
    authority = authority_of(jobs, "jobs")
    issued = issue(jobs, lifetime=2 * DAY)
    assert said(issued.der) == {
        "issuer": urls_under(authority, "http://pki.example.internal")["issuer"],
        "noRevAvail": [NO_REVOCATION_AVAILABLE],
    }
    assert issued.certificate.crl_partition is None
    assert not authority.revocation.crl.enabled
    assert not authority.revocation.ocsp.enabled
    with jobs.core.store.read("test.lists") as tx:
        assert revocation_lists.urls(tx, authority.uid, 1, 0) == []
    # The authority itself can be revoked, by a root that is of the other kind.
    assert said(authority.certificate).keys() == {"crl", "ocsp", "issuer"}


def test_they_live_seven_days_at_most_and_a_default_is_cut(jobs: World) -> None:
    now = jobs.clock.now()
    issued = issue(jobs)
    assert end_of(issued.der) == now + 7 * DAY - SECOND
    assert [(warning.field, "SHORT_LIVED" in warning.message) for warning in issued.warnings] == [("lifetime", True)]
    for allowed in ({"lifetime": 7 * DAY}, {"not_after": now + 7 * DAY - SECOND}):
        issued = issue(jobs, **allowed)
        assert (end_of(issued.der), issued.warnings) == (now + 7 * DAY - SECOND, ())
    for field, asked in (("lifetime", 7 * DAY + SECOND), ("not_after", now + 7 * DAY)):
        error = refused(lambda f=field, a=asked: issue(jobs, **{f: a}))  # type: ignore[misc]
        assert error.reason is Reason.LIFETIME_EXCEEDS_AUTHORITY
        assert "GENERAL_PURPOSE" in error.message
        assert error.metadata == {"longest_lifetime_seconds": "604800"}
        (violation,) = error.violations
        assert violation.field == {"lifetime": "lifetime", "not_after": "not_after_time"}[field]


def test_what_a_profile_declares_to_need_no_asking_lives_no_longer(jobs: World) -> None:
    profile = ProfileName("default", "ocsp-signing")
    csr = csr_for(subject="Responder")
    new = NewCertificate(authority=JOBS, csr=csr, profile=profile, lifetime=8 * DAY)
    error = refused(lambda: jobs.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30))
    assert error.reason is Reason.LIFETIME_EXCEEDS_AUTHORITY
    new = NewCertificate(authority=JOBS, csr=csr, profile=profile, lifetime=7 * DAY)
    issued = jobs.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)
    assert said(issued.der).keys() == {"issuer"}


def test_authorities_below_and_roots_live_as_they_please_and_the_answer_warns(world: World) -> None:
    root = world.create_root(usage_mode=UsageMode.SHORT_LIVED)
    assert root.authority.lifetime == 3650 * DAY
    assert said(root.authority.certificate) == {}
    assert [warning.field for warning in root.warnings] == ["authority.usage_mode"]
    below = world.create_subordinate("jobs", lifetime=365 * DAY)
    assert end_of(below.authority.certificate) == world.clock.now().replace(microsecond=0) + 365 * DAY - SECOND
    # NoRevAvail is never an authority's.
    assert said(below.authority.certificate).keys() == {"issuer"}


def test_revocation_settings_that_it_cannot_have_are_refused(jobs: World) -> None:
    def change(**enables: bool) -> SettingsChange:
        given = RevocationSettings(crl=CrlSettings(lifetime=DAY), ocsp=OcspSettings(lifetime=DAY))
        return SettingsChange(given=given, paths=EVERY_SETTING, enables=frozenset(enables))

    def update(asked: SettingsChange) -> object:
        return jobs.core.authority_changes.update(ADMINISTRATOR, Change(name=JOBS), NewSettings(revocation=asked))

    for call in (
        lambda: update(change(crl=True, ocsp=True)),
        lambda: jobs.create_root("other", usage_mode=UsageMode.SHORT_LIVED, revocation=change(crl=True, ocsp=True)),
    ):
        error = refused(call)
        assert error.reason is Reason.FIELD_INVALID
        fields = [violation.field for violation in error.violations]
        assert fields == ["authority.revocation.crl.enabled", "authority.revocation.ocsp.enabled"]
        assert "SHORT_LIVED" in error.message
    update(change())
    after = authority_of(jobs, "jobs").revocation
    assert (after.crl.enabled, after.ocsp.enabled, after.crl.lifetime) == (False, False, DAY)


def test_a_managed_certificate_of_the_default_lifetime_works_and_is_renewed_in_time(jobs: World) -> None:
    view = jobs.request(authority=JOBS)
    assert [warning.field for warning in view.warnings] == ["managed_certificate.lifetime"]
    first = at_version(jobs, 1).managed_certificate
    assert first.state is ManagedCertificateState.ACTIVE
    assert first.not_after == jobs.clock.now().replace(microsecond=0) + 7 * DAY - SECOND
    for version in (2, 3):
        managed = at_planned(jobs)
        assert managed.current_version == version
        assert managed.not_after == jobs.clock.now().replace(microsecond=0) + 7 * DAY - SECOND
    assert said(get(jobs).certificate)["noRevAvail"] == [NO_REVOCATION_AVAILABLE]


def test_one_that_is_renewed_early_gains_little_each_time_and_is_renewed_all_the_same(jobs: World) -> None:
    jobs.request(authority=JOBS, renewal=RenewalPolicy(remaining_percent=80))
    at_version(jobs, 1)
    for version in (2, 3, 4):
        assert at_planned(jobs).current_version == version


def test_a_managed_certificate_of_a_longer_lifetime_is_refused_with_the_remedy(jobs: World) -> None:
    error = refused(lambda: jobs.request(authority=JOBS, lifetime=8 * DAY))
    assert error.reason is Reason.LIFETIME_EXCEEDS_AUTHORITY
    assert [violation.field for violation in error.violations] == ["managed_certificate.lifetime"]
    assert "GENERAL_PURPOSE" in error.message
    assert jobs.request(authority=JOBS, lifetime=6 * DAY).warnings == ()
