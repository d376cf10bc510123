"""Batches: each item succeeds or fails alone, in its place, as a call of its own would."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certd.errors import Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.names import AuthorityName, CertificateName, ProfileName
from certd.pki.preparation import Warning as PreparationWarning
from certd.services.authority_changes import Change
from certd.services.certificates import BatchItem, CertificateView, NewCertificate
from certd.store import events
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import (
    CA,
    batch_item,
    grant,
    issue_batch,
    issued_events,
    key,
    made,
    nothing_written,
    outcomes,
    refused,
    rows,
)
from tests.services.conftest import (
    ADMINISTRATOR,
    STRANGER,
    TRUST_DOMAIN,
    World,
    configuration,
    csr_for,
    running_world,
)
from tests.services.profile_books import GIVEN, WEB
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

ISSUER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/issuer", serial="03")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world with the authority `ca`, on either engine."""
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    with running_world(configuration(tmp_path, token_settings, database_url=url), FakeClock()) as running:
        running.create_root()
        running.create_subordinate()
        running.steps.seen.clear()
        yield running


def test_good_and_bad_items_keep_their_places(engine: World) -> None:
    server, absent = ProfileName("default", "server"), ProfileName("default", "absent")
    items = [
        batch_item("a.example.internal"),
        batch_item(csr=b"no csr"),
        batch_item("b.example.internal", profile=server),
        batch_item(csr=csr_for("c.example.internal")[:-1] + b"\x00"),
        batch_item("d.example.internal", profile=absent),
        batch_item("e.example.internal", lifetime=timedelta(days=6 * 365)),
        batch_item("bad..name"),
        batch_item("f.example.internal", lifetime=timedelta(days=3)),
        batch_item(profile=ProfileName("default", "subordinate-ca")),
    ]
    results = issue_batch(engine, items)
    assert outcomes(results) == [
        None,
        Reason.CSR_MALFORMED,
        None,
        Reason.CSR_SIGNATURE_INVALID,
        Reason.PROFILE_NOT_FOUND,
        Reason.PROFILE_FORBIDS,
        Reason.NAME_NOT_ALLOWED,
        None,
        Reason.NAME_NOT_ALLOWED,
    ]
    first, second, third = made([results[0], results[2], results[7]])
    assert [view.profile_name.rpartition("/")[2] for view in (first, second, third)] == [
        "end-entity",
        "server",
        "end-entity",
    ]
    for view, name in ((first, "a"), (second, "b"), (third, "f")):
        leaf = x509.load_der_x509_certificate(view.der or b"")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [f"{name}.example.internal"]
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(view.chain[0]))
        read = engine.core.certificates.get(ADMINISTRATOR, CertificateName.parse("name", view.name))
        assert read.der == view.der
    assert third.certificate.not_after == engine.clock.now() + timedelta(days=3, seconds=-1)
    assert rows(engine)[0] == Counter({"ISSUED": 3})
    assert [issued_events(engine)[view.name] for view in (first, second, third)] == [1, 1, 1]


def test_an_item_fails_as_a_call_of_its_own_would(ca: World) -> None:
    for item in (
        batch_item(csr=b"no csr"),
        batch_item("bad..name"),
        batch_item(lifetime=timedelta(days=6 * 365)),
        batch_item(profile=ProfileName("default", "absent")),
        batch_item(authority=CA, profile=ProfileName("default", "root-ca")),
    ):
        (result,) = issue_batch(ca, [item])
        alone = refused(
            lambda item=item: ca.core.certificates.issue(  # type: ignore[misc]  # mypy infers no type for a default.
                ADMINISTRATOR, item.new, key=None, validate_only=False, timeout=30
            ),
            Reason(str(outcomes([result])[0])),
        )
        assert vars(result) == vars(alone)


def test_a_thousand_items_of_several_profiles_are_issued_in_order(engine: World) -> None:
    csrs = {name: csr_for(name) for name in (f"host-{number}.example.internal" for number in range(10))}
    profiles = [ProfileName("default", name) for name in ("end-entity", "server", "client")]
    names = [f"host-{number % 10}.example.internal" for number in range(1000)]
    items = [
        batch_item(csr=csrs[name], profile=profiles[number % 3], labels={"number": str(number)})
        for number, name in enumerate(names)
    ]
    items[500] = batch_item(csr=b"no csr")
    results = issue_batch(engine, items, timeout=120)
    assert outcomes(results) == [None] * 500 + [Reason.CSR_MALFORMED] + [None] * 499
    views = made(results[:500] + results[501:])
    assert [view.certificate.labels["number"] for view in views] == [
        str(number) for number in range(1000) if number != 500
    ]
    assert [view.certificate.profile for view in views[:3]] == ["end-entity", "server", "client"]
    assert len({view.certificate.serial for view in views}) == 999
    assert rows(engine)[0] == Counter({"ISSUED": 999})
    assert set(Counter(issued_events(engine)[view.name] for view in views)) == {1}
    with engine.core.store.read("test.chain") as tx:
        assert events.verify_all(tx) == []
    # The loop shares its rounds, and a batch does not fill its queue for all others.
    assert engine.steps.seen.count("issue.3.intended") < 500


def test_a_batch_leaves_room_for_others(ca: World) -> None:
    """While one is under way, single calls are answered, and not after it alone."""
    csr = csr_for("www.example.internal")
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(issue_batch, ca, [batch_item(csr=csr)] * 600)
        eventually(lambda: "issue.5.completed" in ca.steps.seen)
        ca.issue("single.example.internal")
        assert not batch.done()
        made(batch.result(60))


def test_descriptions_come_when_they_are_wanted(ca: World) -> None:
    (view,) = made(issue_batch(ca, [batch_item()]))
    assert view.description
    (view,) = made(issue_batch(ca, [batch_item()], descriptions=False))
    assert view.description == b""


def test_an_empty_batch_makes_nothing(ca: World) -> None:
    with nothing_written(ca):
        assert issue_batch(ca, []) == []


def test_a_repeated_batch_issues_only_what_is_missing(engine: World) -> None:
    """The first time one of the items failed with what was not its fault, and one with what was."""
    keys = [key(bytes([number])) for number in range(4)]
    items = [batch_item(f"{number}.example.internal", key=one) for number, one in enumerate(keys)]
    profile = ProfileName("default", "late")
    items[1] = batch_item("1.example.internal", key=keys[1], profile=profile)
    items[3] = batch_item(csr=b"no csr", key=keys[3])
    first = issue_batch(engine, items)
    assert outcomes(first) == [None, Reason.PROFILE_NOT_FOUND, None, Reason.CSR_MALFORMED]
    engine.core.profiles.create(ADMINISTRATOR, profile, GIVEN, key=None, validate_only=False)
    second = issue_batch(engine, items)
    assert outcomes(second) == [None, None, None, Reason.CSR_MALFORMED]
    again = made([first[0], first[2]])
    assert [view.name for view in made([second[0], second[2]])] == [view.name for view in again]
    assert [view.der for view in made([second[0], second[2]])] == [view.der for view in again]
    assert outcomes(issue_batch(engine, items)) == outcomes(second)
    assert rows(engine)[0] == Counter({"ISSUED": 3})


def test_an_item_repeated_as_a_call_of_its_own_returns_what_the_batch_made(engine: World) -> None:
    item = batch_item(key=key())
    (view,) = made(issue_batch(engine, [item]))
    alone = engine.core.certificates.issue(ADMINISTRATOR, item.new, key=item.key, validate_only=False, timeout=30)
    assert (alone.name, alone.der, alone.chain) == (view.name, view.der, view.chain)
    single = batch_item(key=key())
    before = engine.core.certificates.issue(ADMINISTRATOR, single.new, key=single.key, validate_only=False, timeout=30)
    (after,) = made(issue_batch(engine, [single]))
    assert (after.name, after.der) == (before.name, before.der)


def test_a_request_id_of_another_request_fails_its_item_alone(engine: World) -> None:
    used = key(b"first")
    made(issue_batch(engine, [batch_item("a.example.internal", key=used)]))
    results = issue_batch(
        engine, [batch_item("b.example.internal", key=key(b"other", used.request_id)), batch_item("c.example.internal")]
    )
    assert outcomes(results) == [Reason.REQUEST_ID_REUSED, None]
    assert rows(engine)[0] == Counter({"ISSUED": 2})


def test_one_request_id_twice_in_a_batch_issues_once(engine: World) -> None:
    same = batch_item(key=key())
    results = issue_batch(engine, [same, same, batch_item("other.example.internal")])
    assert outcomes(results)[0::2] == [None, None]
    # The second either waits for nobody and is told so, or found what the first one made.
    assert outcomes(results)[1] in {None, Reason.REQUEST_IN_PROGRESS}
    assert rows(engine)[0] == Counter({"ISSUED": 2})
    first, second, _ = made(issue_batch(engine, [same, same, batch_item()]))
    assert first.name == second.name == made(results[:1])[0].name


def test_repeated_batches_at_once_issue_each_item_once(engine: World) -> None:
    items = [batch_item(f"{number}.example.internal", key=key()) for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: issue_batch(engine, items), range(4)))
    assert {reason for one in results for reason in outcomes(one)} <= {None, Reason.REQUEST_IN_PROGRESS}
    assert rows(engine)[0] == Counter({"ISSUED": 20})
    views = made(issue_batch(engine, items))
    assert {issued_events(engine)[view.name] for view in views} == {1}


def test_validate_only_tells_of_every_item_and_writes_nothing(engine: World) -> None:
    items = [batch_item(key=key()), batch_item(csr=b"no csr", key=key()), batch_item("b.example.internal")]
    with nothing_written(engine):
        results = issue_batch(engine, items, validate_only=True)
    assert outcomes(results) == [None, Reason.CSR_MALFORMED, None]
    for view in made(results[0::2]):
        assert view.name == ""
        assert x509.load_der_x509_certificate(view.der or b"").issuer.rfc4514_string()
        assert view.description
    # It claimed no request id.
    made(issue_batch(engine, [items[0], items[2]]))


def test_warnings_are_those_of_their_items(ca: World) -> None:
    long = timedelta(days=365)
    ca.create_subordinate("short", lifetime=timedelta(days=30))
    short = AuthorityName("default", "short")
    new = NewCertificate(authority=short, csr=csr_for("a.example.internal"))
    fits = NewCertificate(authority=short, csr=new.csr, lifetime=timedelta(days=2))
    past = NewCertificate(authority=short, csr=new.csr, lifetime=long)
    results = ca.core.certificates.issue_batch(
        ADMINISTRATOR, short, [BatchItem(one, None) for one in (new, fits, past)], validate_only=False, timeout=30
    )
    assert outcomes(results) == [None, None, Reason.LIFETIME_EXCEEDS_AUTHORITY]
    cut, whole = made(results[:2])
    assert all(isinstance(one, PreparationWarning) for one in cut.warnings)
    assert (len(cut.warnings), len(whole.warnings)) == (1, 0)


def test_a_deadline_in_the_middle_leaves_what_was_issued_in_the_books(ca: World) -> None:
    """The rest is told so, and a repetition with the same ids issues just that."""
    items = [batch_item(f"{number}.example.internal", key=key()) for number in range(250)]
    ca.steps.at["issue.5.completed"] = lambda: threading.Event().wait(2)
    results = issue_batch(ca, items, timeout=1)
    counted = Counter(outcomes(results))
    assert set(counted) <= {None, Reason.DEADLINE_EXCEEDED}
    assert counted[Reason.DEADLINE_EXCEEDED] > 0

    def repeated() -> list[CertificateView] | None:
        again = issue_batch(ca, items)
        # What was on its way when the deadline passed is still issued.
        assert set(outcomes(again)) <= {None, Reason.REQUEST_IN_PROGRESS}
        return made(again) if set(outcomes(again)) == {None} else None

    assert len({view.name for view in eventually(repeated)}) == 250
    assert rows(ca)[0] == Counter({"ISSUED": 250})


def test_a_deadline_that_has_passed_issues_nothing(engine: World) -> None:
    items = [batch_item(key=key()), batch_item("b.example.internal")]
    assert outcomes(issue_batch(engine, items, timeout=0)) == [Reason.DEADLINE_EXCEEDED] * 2
    eventually(lambda: engine.core.loop.waiting == 0)
    assert rows(engine)[0] == Counter()
    made(issue_batch(engine, items))


def test_who_may_issue_nothing_there_is_refused_as_a_whole(ca: World) -> None:
    error = refused(lambda: issue_batch(ca, [batch_item()], caller=STRANGER), Reason.PERMISSION_MISSING)
    assert error.resource == str(CA)
    absent = AuthorityName("default", "absent")
    refused(
        lambda: ca.core.certificates.issue_batch(STRANGER, absent, [batch_item()], validate_only=False, timeout=30),
        Reason.PERMISSION_MISSING,
    )


def test_a_profile_that_the_grant_does_not_name_fails_its_items_alone(ca: World) -> None:
    grant(
        ca,
        Grant(
            grant_id="g",
            principal=ISSUER.principal,
            role=Role.ISSUER,
            scope=str(CA),
            profiles=frozenset({"end-entity", "absent"}),
        ),
    )
    items = [
        batch_item(profile=ProfileName("default", "server")),
        batch_item("b.example.internal"),
        batch_item(profile=ProfileName("default", "absent")),
    ]
    for validate_only in (False, True):
        results = issue_batch(ca, items, caller=ISSUER, validate_only=validate_only)
        assert outcomes(results) == [Reason.PERMISSION_MISSING, None, Reason.PROFILE_NOT_FOUND]


def test_a_restricted_profile_needs_an_authority_operator_also_in_a_batch(ca: World) -> None:
    grant(ca, Grant(grant_id="g", principal=ISSUER.principal, role=Role.ISSUER, scope=EVERYTHING, profiles=None))
    passing = ProfileName("default", "passing")
    given = replace(GIVEN, passed_extensions=("1.3.6.1.5.5.7.1.24",))
    ca.core.profiles.create(ADMINISTRATOR, passing, given, key=None, validate_only=False)
    items = [batch_item(profile=passing), batch_item("b.example.internal")]
    results = issue_batch(ca, items, caller=ISSUER)
    assert outcomes(results) == [Reason.PERMISSION_MISSING, None]
    operator = Grant(
        grant_id="o", principal=ISSUER.principal, role=Role.AUTHORITY_OPERATOR, scope=str(CA), profiles=None
    )
    grant(ca, operator)
    made(issue_batch(ca, items, caller=ISSUER))


def test_a_token_that_is_away_fails_every_item_and_leaves_no_intent(engine: World) -> None:
    items = [batch_item(f"{number}.example.internal", key=key()) for number in range(30)]
    engine.core.token.stop()
    with nothing_written(engine):
        results = issue_batch(engine, items)
    assert outcomes(results) == [Reason.TOKEN_UNAVAILABLE] * 30
    assert len({id(result) for result in results}) == 30
    # What needs no key is done.
    made(issue_batch(engine, items, validate_only=True))


def test_an_authority_that_is_disabled_fails_every_item_but_those_that_were_made(engine: World) -> None:
    old = batch_item(key=key())
    (view,) = made(issue_batch(engine, [old]))
    engine.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))
    results = issue_batch(engine, [old, batch_item("b.example.internal", key=key()), batch_item("c.example.internal")])
    assert outcomes(results) == [None, Reason.AUTHORITY_NOT_ENABLED, Reason.AUTHORITY_NOT_ENABLED]
    assert made(results[:1])[0].name == view.name


def test_an_authority_that_does_not_exist_fails_every_item(ca: World) -> None:
    absent = AuthorityName("default", "absent")
    items = [BatchItem(NewCertificate(authority=absent, csr=csr_for("a.example.internal")), key())]
    results = ca.core.certificates.issue_batch(ADMINISTRATOR, absent, items, validate_only=False, timeout=30)
    assert outcomes(results) == [Reason.AUTHORITY_NOT_FOUND]


def test_versions_of_profiles_stand_in_rows_and_views(ca: World) -> None:
    ca.core.profiles.create(ADMINISTRATOR, WEB, GIVEN, key=None, validate_only=False)
    items = [batch_item(profile=WEB, key=key(request_id=str(uuid.uuid4()))), batch_item("b.example.internal")]
    of_tenant, built_in = made(issue_batch(ca, items))
    assert (of_tenant.certificate.profile_version, built_in.certificate.profile_version) == (1, 1)
    read = ca.core.certificates.get(ADMINISTRATOR, CertificateName.parse("name", of_tenant.name))
    assert (read.certificate.profile, read.certificate.profile_version) == ("web", 1)


def test_a_defect_in_one_item_takes_nothing_from_the_others(ca: World) -> None:
    def stumble() -> None:
        raise ValueError("a defect")

    ca.steps.at["issue.2.prepared"] = stumble
    results = issue_batch(ca, [batch_item(f"www{number}.example.internal") for number in range(3)])
    assert outcomes(results) == [Reason.INTERNAL, None, None]
