"""Certificates from CSRs: the five steps, their refusals, their repetition, and what a crash between them leaves."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import select, update

from certd.errors import CertdError, Reason
from certd.model.access import EVERYTHING, Caller, Grant, Role
from certd.model.certificate import CertificateState
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.names import AuthorityName, CertificateName, ProfileName
from certd.pki import distinguished_name
from certd.services.certificates import NewCertificate
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.store import certificates, events, grants, owners, schema
from certd.token.policy import SignatureKind, authority_key_policy
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World, csr_for
from tests.waiting import eventually

CA = AuthorityName("default", "ca")


def key(content: bytes = b"a") -> RequestKey:
    return RequestKey(str(uuid.uuid4()), content)


def test_a_certificate_is_issued_in_five_steps(ca: World) -> None:
    view = ca.issue("www.example.internal")
    assert ca.steps.seen == [
        "issue.1.read",
        "issue.2.prepared",
        "issue.3.intended",
        "issue.4.signed",
        "issue.5.completed",
    ]
    leaf = x509.load_der_x509_certificate(view.der or b"")
    issuer = x509.load_der_x509_certificate(view.chain[0])
    leaf.verify_directly_issued_by(issuer)
    assert len(view.chain) == 2
    assert leaf.not_valid_after_utc == ca.clock.now() + timedelta(days=90, seconds=-1)
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    responder, certificate = (one.access_location.value for one in access)
    assert responder.startswith("http://pki.example.internal/ocsp/")
    assert certificate.startswith("http://pki.example.internal/ca/")
    assert (responder[-2:], certificate[-6:]) == ("/1", "/1.cer")


def test_what_was_issued_can_be_read(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    name = CertificateName.parse("name", f"{CA}/certificates/{issued.certificate.serial.upper()}")
    read = ca.core.certificates.get(ADMINISTRATOR, name)
    assert (read.der, read.chain, read.name) == (issued.der, issued.chain, issued.name)
    assert read.certificate.state is CertificateState.ISSUED


def test_its_event_names_it_and_the_caller(ca: World) -> None:
    view = ca.issue("www.example.internal")
    event = ca.events()[-1]
    assert (event.type, event.principal, event.resource, event.tenant) == (
        EventType.CERTIFICATE_ISSUED,
        ADMINISTRATOR.principal,
        view.name,
        "default",
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"csr": b"no csr"}, Reason.CSR_MALFORMED),
        ({"csr": csr_for("www.example.internal")[:-40]}, Reason.CSR_MALFORMED),
        ({"csr": csr_for("www.example.internal")[:-1] + b"\x00"}, Reason.CSR_SIGNATURE_INVALID),
        ({"csr": b"\x30" * 40_000}, Reason.CSR_MALFORMED),
        ({"csr": csr_for()}, Reason.NAME_NOT_ALLOWED),
        ({"csr": csr_for("bad..name")}, Reason.NAME_NOT_ALLOWED),
        ({"lifetime": timedelta(days=6 * 365)}, Reason.PROFILE_FORBIDS),
        ({"lifetime": timedelta(0)}, Reason.PROFILE_FORBIDS),
        ({"authority": AuthorityName("default", "absent")}, Reason.AUTHORITY_NOT_FOUND),
        ({"profile": ProfileName("default", "absent")}, Reason.PROFILE_NOT_FOUND),
        ({"profile": ProfileName("other", "end-entity")}, Reason.PROFILE_NOT_FOUND),
        ({"profile": ProfileName("default", "root-ca"), "csr": csr_for(subject="CA")}, Reason.PROFILE_FORBIDS),
    ],
)
def test_bad_input_gets_one_precise_error_and_changes_nothing(
    ca: World, changes: dict[str, Any], reason: Reason
) -> None:
    before = ca.events()
    wanted: dict[str, Any] = {"authority": CA, "csr": csr_for("www.example.internal")}
    new = NewCertificate(**(wanted | changes))
    with pytest.raises(CertdError) as refused:
        ca.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=None)
    assert refused.value.reason is reason
    assert ca.events() == before
    assert ca.core.certificates.page(ADMINISTRATOR, CA, PageRequest(10, "")).items == ()


def test_a_certificate_ends_with_its_authority_at_the_latest(world: World) -> None:
    world.create_root()
    world.create_subordinate(lifetime=timedelta(days=30))
    with pytest.raises(CertdError) as refused:
        world.issue("www.example.internal", lifetime=timedelta(days=31))
    assert refused.value.reason is Reason.LIFETIME_EXCEEDS_AUTHORITY
    view = world.issue("www.example.internal")
    assert [warning.field for warning in view.warnings] != []
    assert x509.load_der_x509_certificate(view.der or b"").not_valid_after_utc == world.clock.now() + timedelta(
        days=30, seconds=-1
    )


def test_validate_only_stops_before_anything_is_written(ca: World) -> None:
    before = ca.events()
    new = NewCertificate(authority=CA, csr=csr_for("www.example.internal"))
    view = ca.core.certificates.issue(ADMINISTRATOR, new, key=key(), validate_only=True, timeout=None)
    assert view.name == ""
    assert view.der is not None
    assert ca.events() == before
    assert ca.core.certificates.page(ADMINISTRATOR, CA, PageRequest(10, "")).items == ()


def test_a_repeated_request_issues_once(ca: World) -> None:
    repeated, csr = key(), csr_for("www.example.internal")
    first = ca.issue(csr=csr, key=repeated)
    again = ca.issue(csr=csr, key=repeated)
    assert (again.name, again.der) == (first.name, first.der)
    with pytest.raises(CertdError) as refused:
        ca.issue("other.example.internal", key=RequestKey(repeated.request_id, b"another"))
    assert refused.value.reason is Reason.REQUEST_ID_REUSED


def test_a_request_is_remembered_for_a_day(ca: World) -> None:
    repeated, csr = key(), csr_for("www.example.internal")
    first = ca.issue(csr=csr, key=repeated)
    remembered = select(schema.request_records.c.request_id)

    def forgotten() -> bool:
        ca.core.scheduler.wake()
        with ca.core.store.read("test.records") as tx:
            return tx.execute(remembered).all() == []

    ca.clock.advance(timedelta(hours=23, minutes=59))
    assert ca.issue(csr=csr, key=repeated).name == first.name
    ca.clock.advance(timedelta(minutes=2))
    eventually(forgotten)
    assert ca.issue(csr=csr, key=repeated).name != first.name


def test_a_repeated_request_whose_first_try_is_lost_meanwhile_is_told_to_try_again(ca: World) -> None:
    """It finds the record of the first one in the round of both, and its row lost when it reads it."""
    repeated, csr = key(), csr_for("www.example.internal")
    first = ca.issue(csr=csr, key=repeated)
    lost = update(schema.certificates).where(schema.certificates.c.serial == first.certificate.serial)
    ca.core.store.write("test.lose", lambda tx: tx.execute(lost, {"state": "LOST", "der": None}))
    with pytest.raises(CertdError) as waiting:
        ca.issue(csr=csr, key=repeated)
    assert waiting.value.reason is Reason.REQUEST_IN_PROGRESS
    assert waiting.value.retry_after is not None


def test_repeated_requests_at_once_issue_once(ca: World) -> None:
    repeated, csr = key(), csr_for("www.example.internal")

    def issue(_number: int) -> str | Reason:
        try:
            return ca.issue(csr=csr, key=repeated).name
        except CertdError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = set(pool.map(issue, range(8)))
    assert outcomes <= {next(iter(outcomes - {Reason.REQUEST_IN_PROGRESS})), Reason.REQUEST_IN_PROGRESS}
    assert len(ca.core.certificates.page(ADMINISTRATOR, CA, PageRequest(10, "")).items) == 1


def test_many_callers_at_once_share_rounds_and_serials_differ(ca: World) -> None:
    with ThreadPoolExecutor(16) as pool:
        views = list(pool.map(lambda number: ca.issue(f"host-{number}.example.internal"), range(64)))
    assert len({view.certificate.serial for view in views}) == 64
    assert ca.steps.seen.count("issue.3.intended") < 64
    with ca.core.store.read("test") as tx:
        assert events.verify_all(tx) == []


def test_an_item_that_fails_fails_alone(ca: World) -> None:
    """The token refuses one of two signatures of a round; the other is issued."""
    widened = authority_key_policy(
        kinds={SignatureKind.CERTIFICATE},
        issuer_name=distinguished_name.parse_text("CN=Test root,O=Example"),
        path_length=4,
        longest_lifetime=timedelta(days=36_500),
        self_signed=True,
    )
    root = ca.core.authorities.get(ADMINISTRATOR, AuthorityName("default", "root")).authority
    tampered = update(schema.authority_keys).where(schema.authority_keys.c.authority_uid == root.uid)
    ca.core.store.write("test.tamper", lambda tx: tx.execute(tampered, {"policy": widened}))
    held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gate.wait(20)

    ca.steps.at["issue.3.intended"] = hold
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ca.issue, "first.example.internal")
        assert held.wait(20)
        good = pool.submit(ca.issue, "good.example.internal")
        bad = pool.submit(ca.issue, "bad.example.internal", authority="root")
        eventually(lambda: ca.core.loop.waiting == 2)
        gate.set()
        assert first.result(20).der
        assert good.result(20).der
        with pytest.raises(CertdError) as refused:
            bad.result(20)
    assert refused.value.reason is Reason.TOKEN_POLICY_FORBIDS
    states = [
        view.certificate.state
        for view in ca.core.certificates.page(
            ADMINISTRATOR, AuthorityName("default", "root"), PageRequest(10, "")
        ).items
    ]
    assert sorted(states) == [CertificateState.ISSUED, CertificateState.ISSUED, CertificateState.LOST]


@pytest.mark.parametrize("step", ["issue.3.intended", "issue.4.signed"])
def test_what_dies_between_intent_and_completion_is_recovered_as_lost(ca: World, step: str) -> None:
    """Another epoch takes over, as after a crash: the row ends LOST, and a retry issues afresh."""
    repeated, csr = key(), csr_for("www.example.internal")

    def take_over() -> None:
        ca.core.store.write("test.end", lambda tx: owners.end(tx, ca.core.ownership.epoch()))
        assert ca.core.recovery.run() == 1

    ca.steps.at[step] = take_over
    with pytest.raises(CertdError) as lost:
        ca.issue(csr=csr, key=repeated)
    assert lost.value.reason is Reason.OWNERSHIP_LOST
    (row,) = ca.core.certificates.page(ADMINISTRATOR, CA, PageRequest(10, "")).items
    assert row.certificate.state is CertificateState.LOST
    assert row.certificate.revoke_time == ca.clock.now()
    assert row.der is None
    event = ca.events()[-1]
    assert (event.type, event.principal) == (EventType.CERTIFICATE_LOST, SYSTEM_PRINCIPAL)
    ca.core.ownership.begin()
    afresh = ca.issue(csr=csr, key=repeated)
    assert afresh.certificate.serial != row.certificate.serial


def test_a_token_that_is_away_leaves_no_intent(ca: World) -> None:
    before = ca.events()
    ca.core.token.stop()
    with pytest.raises(CertdError) as away:
        ca.issue("www.example.internal")
    assert away.value.reason is Reason.TOKEN_UNAVAILABLE
    assert away.value.retry_after is not None
    assert ca.events() == before


def test_lists_are_newest_first_over_all_authorities(ca: World) -> None:
    issued = []
    for number in range(5):
        ca.clock.advance(timedelta(seconds=1))
        issued.append(ca.issue(f"host-{number}.example.internal").name)
    everything = AuthorityName("default", "-")
    names: list[str] = []
    token = ""
    while True:
        page = ca.core.certificates.page(ADMINISTRATOR, everything, PageRequest(2, token))
        names += [view.name for view in page.items]
        token = page.next_page_token
        if not token:
            break
    ours = [name for name in names if name in issued]
    assert ours == issued[::-1]
    assert len(names) == len(set(names)) == 7


def test_a_grant_for_one_authority_and_profile_allows_just_that(ca: World) -> None:
    issuer = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/issuer", serial="03")
    grant = Grant(
        grant_id="g", principal=issuer.principal, role=Role.ISSUER, scope=str(CA), profiles=frozenset({"end-entity"})
    )
    ca.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))
    new = NewCertificate(authority=CA, csr=csr_for("www.example.internal"))
    ca.core.certificates.issue(issuer, new, key=None, validate_only=False, timeout=None)
    for refused in (
        NewCertificate(authority=AuthorityName("default", "root"), csr=new.csr),
        NewCertificate(authority=AuthorityName("default", "ca-2"), csr=new.csr),
        NewCertificate(authority=CA, csr=new.csr, profile=ProfileName("default", "subordinate-ca")),
    ):
        with pytest.raises(CertdError) as error:
            ca.core.certificates.issue(issuer, refused, key=None, validate_only=False, timeout=None)
        assert error.value.reason is Reason.PERMISSION_MISSING


def test_a_profile_that_yields_authorities_needs_an_authority_operator(ca: World) -> None:
    issuer = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/issuer", serial="03")
    grant = Grant(grant_id="g", principal=issuer.principal, role=Role.ISSUER, scope=EVERYTHING, profiles=None)
    ca.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))
    new = NewCertificate(
        authority=AuthorityName("default", "root"),
        csr=csr_for("www.example.internal"),
        profile=ProfileName("default", "subordinate-ca"),
    )
    with pytest.raises(CertdError) as error:
        ca.core.certificates.issue(issuer, new, key=None, validate_only=False, timeout=None)
    assert error.value.reason is Reason.PERMISSION_MISSING
    assert error.value.metadata["permission"] == "authority.create"


def test_a_stranger_learns_nothing(ca: World) -> None:
    issued = ca.issue("www.example.internal")
    for text in (issued.name, f"{CA}/certificates/ab"):
        with pytest.raises(CertdError) as error:
            ca.core.certificates.get(STRANGER, CertificateName.parse("name", text))
        assert error.value.reason is Reason.PERMISSION_MISSING


def test_a_pending_certificate_is_not_shown(ca: World) -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(len(ca.core.certificates.page(ADMINISTRATOR, CA, PageRequest(10, "")).items))

    ca.steps.at["issue.3.intended"] = look
    ca.issue("www.example.internal")
    assert seen == [0]
    with ca.core.store.read("test") as tx:
        authority_uid = ca.core.authorities.get(ADMINISTRATOR, CA).authority.uid
        assert len(certificates.page(tx, [authority_uid], after=None, limit=10)) == 1
