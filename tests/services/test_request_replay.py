"""Repeated requests, when much has changed since the first one; and what is looked at again before a signature."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import delete

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.names import CertificateName
from certd.services.authority_changes import Change
from certd.services.certificates import BatchItem, CertificateView
from certd.services.profile_changes import GivenProfile
from certd.services.profiles import ProfileChange
from certd.services.revocation import NewRevocation
from certd.store import owners, request_records, schema
from certd.store.store import Transaction
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.batches import (
    CA,
    batch_item,
    grant,
    issue_batch,
    key,
    made,
    nothing_written,
    outcomes,
    refused,
    rows,
)
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, configuration, running_world
from tests.services.profile_books import GIVEN, WEB
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

OTHER = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/other", serial="03")


@pytest.fixture(params=["sqlite", "postgresql"])
def ca(request: pytest.FixtureRequest, tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world with the authority `ca`, on either engine."""
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    with running_world(configuration(tmp_path, token_settings, database_url=url), FakeClock()) as running:
        running.create_root()
        running.create_subordinate()
        running.steps.seen.clear()
        yield running


def issue(world: World, item: BatchItem, caller: Caller = ADMINISTRATOR) -> CertificateView:
    return world.core.certificates.issue(caller, item.new, key=item.key, validate_only=False, timeout=30)


def disable(world: World) -> None:
    world.core.authority_changes.disable(ADMINISTRATOR, Change(name=CA))


def enable(world: World) -> None:
    world.core.authority_changes.enable(ADMINISTRATOR, Change(name=CA))


def csr_of(private_key: ec.EllipticCurvePrivateKey, name: str = "www.example.internal") -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def compromised(world: World) -> bytes:
    """Returns a CSR of a key that had a certificate, which was revoked because the key was stolen."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    view = issue(world, batch_item(csr=csr_of(private_key)))
    name = CertificateName.parse("name", view.name)
    revocation = NewRevocation(name=name, reason=RevocationReason.KEY_COMPROMISE)
    world.core.revocation.revoke(ADMINISTRATOR, revocation, key=None, validate_only=False)
    spki = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert view.certificate.public_key_sha256 == hashlib.sha256(spki).digest()
    return csr_of(private_key, "again.example.internal")


def test_what_was_issued_is_returned_also_when_the_authority_is_disabled(ca: World) -> None:
    item = batch_item(key=key())
    first = issue(ca, item)
    disable(ca)
    assert issue(ca, item).name == first.name
    refused(lambda: issue(ca, batch_item(key=key())), Reason.AUTHORITY_NOT_ENABLED)
    # Another request with its id is told so, and not that the authority is disabled.
    other = BatchItem(item.new, key(b"other", item.key.request_id if item.key else ""))
    refused(lambda: issue(ca, other), Reason.REQUEST_ID_REUSED)


def test_what_was_issued_is_returned_also_when_its_profile_is_deleted(ca: World) -> None:
    ca.core.profiles.create(ADMINISTRATOR, WEB, GIVEN, key=None, validate_only=False)
    item = batch_item(profile=WEB, key=key())
    first = issue(ca, item)
    ca.core.profiles.delete(ADMINISTRATOR, WEB, etag="", key=None, validate_only=False)
    again = issue(ca, item)
    assert (again.name, again.der, again.certificate.profile_version) == (first.name, first.der, 1)
    refused(lambda: issue(ca, batch_item(profile=WEB, key=key())), Reason.PROFILE_NOT_FOUND)


def test_what_was_issued_is_returned_also_when_its_profile_now_refuses_it(ca: World) -> None:
    ca.core.profiles.create(ADMINISTRATOR, WEB, GIVEN, key=None, validate_only=False)
    item = batch_item(profile=WEB, key=key())
    first = issue(ca, item)
    names = replace(GIVEN.names, fewest=2) if GIVEN.names else None
    change = ProfileChange(name=WEB, given=GivenProfile(names=names), fields=frozenset({"names"}))
    ca.core.profiles.update(ADMINISTRATOR, change, key=None, validate_only=False)
    refused(lambda: issue(ca, batch_item(profile=WEB, key=key())), Reason.NAME_NOT_ALLOWED)
    assert issue(ca, item).name == first.name


def test_what_was_issued_is_returned_also_when_it_is_revoked_and_its_key_blocked(ca: World) -> None:
    """It says so: the state is that of now."""
    item = batch_item(key=key())
    first = issue(ca, item)
    name = CertificateName.parse("name", first.name)
    revocation = NewRevocation(name=name, reason=RevocationReason.KEY_COMPROMISE)
    ca.core.revocation.revoke(ADMINISTRATOR, revocation, key=None, validate_only=False)
    again = issue(ca, item)
    assert (again.name, again.certificate.state) == (first.name, CertificateState.REVOKED)
    refused(lambda: issue(ca, BatchItem(item.new, key())), Reason.KEY_TOO_WEAK)


def test_validate_only_looks_at_what_holds_now(ca: World) -> None:
    item = batch_item(key=key())
    issue(ca, item)
    disable(ca)
    refused(
        lambda: ca.core.certificates.issue(ADMINISTRATOR, item.new, key=item.key, validate_only=True, timeout=30),
        Reason.AUTHORITY_NOT_ENABLED,
    )


def test_permission_comes_before_what_was_made(ca: World) -> None:
    """The grant is gone: what its holder made is not told again."""
    held = Grant(grant_id="g", principal=OTHER.principal, role=Role.ISSUER, scope=str(CA), profiles=None)
    grant(ca, held)
    item = batch_item(key=key())
    issue(ca, item, OTHER)

    def take_back(tx: Transaction) -> None:
        tx.execute(delete(schema.grants).where(schema.grants.c.grant_id == "g"))
        tx.configuration_changed()

    ca.core.store.write("test.take-back", take_back)
    refused(lambda: issue(ca, item, OTHER), Reason.PERMISSION_MISSING)


def test_permission_for_a_profile_comes_before_what_was_made(ca: World) -> None:
    """The profile has come to need more than the caller may."""
    grant(ca, Grant(grant_id="g", principal=OTHER.principal, role=Role.ISSUER, scope=str(CA), profiles=None))
    ca.core.profiles.create(ADMINISTRATOR, WEB, GIVEN, key=None, validate_only=False)
    item = batch_item(profile=WEB, key=key())
    issue(ca, item, OTHER)
    change = ProfileChange(
        name=WEB, given=GivenProfile(passed_extensions=("*",)), fields=frozenset({"passed_extensions"})
    )
    ca.core.profiles.update(ADMINISTRATOR, change, key=None, validate_only=False)
    refused(lambda: issue(ca, item, OTHER), Reason.PERMISSION_MISSING)


def test_a_request_id_belongs_to_its_caller(ca: World) -> None:
    grant(ca, Grant(grant_id="g", principal=OTHER.principal, role=Role.ISSUER, scope=str(CA), profiles=None))
    item = batch_item(key=key())
    assert issue(ca, item).name != issue(ca, item, OTHER).name


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("validate_only", [False, True])
def test_a_key_that_was_compromised_is_never_certified_again(ca: World, *, batch: bool, validate_only: bool) -> None:
    csr = compromised(ca)
    item = batch_item(csr=csr, key=key())
    with nothing_written(ca):
        if batch:
            items = [item, batch_item(csr=b"no csr")]
            error, other = issue_batch(ca, items, validate_only=validate_only)
            assert outcomes([error, other]) == [Reason.KEY_TOO_WEAK, Reason.CSR_MALFORMED]
        else:
            error = refused(
                lambda: ca.core.certificates.issue(
                    ADMINISTRATOR, item.new, key=item.key, validate_only=validate_only, timeout=30
                ),
                Reason.KEY_TOO_WEAK,
            )
    assert isinstance(error, CertdError)
    assert error.metadata == {"finding": "compromised"}
    assert [violation.field for violation in error.violations] == ["csr.public_key"]
    # Its request id is free: with another key the same call is a first one.
    assert issue(ca, batch_item(key=item.key)).der


def test_a_key_that_is_compromised_while_its_request_is_prepared_is_refused(ca: World) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())
    first = issue(ca, batch_item(csr=csr_of(private_key)))

    def steal() -> None:
        name = CertificateName.parse("name", first.name)
        revocation = NewRevocation(name=name, reason=RevocationReason.KEY_COMPROMISE)
        ca.core.revocation.revoke(ADMINISTRATOR, revocation, key=None, validate_only=False)

    ca.steps.at["issue.2.prepared"] = steal
    item = batch_item(csr=csr_of(private_key, "again.example.internal"), key=key())
    error = refused(lambda: issue(ca, item), Reason.KEY_TOO_WEAK)
    assert [violation.field for violation in error.violations] == ["csr.public_key"]
    assert rows(ca)[0] == Counter({"REVOKED": 1})


def test_an_authority_that_is_disabled_while_a_request_is_prepared_issues_nothing(ca: World) -> None:
    item = batch_item(key=key())
    ca.steps.at["issue.2.prepared"] = lambda: disable(ca)
    error = refused(lambda: issue(ca, item), Reason.AUTHORITY_NOT_ENABLED)
    assert error.resource == str(CA)
    assert rows(ca)[0] == Counter()
    # The refusal left no request record: the same call is made afresh.
    enable(ca)
    assert issue(ca, item).der
    assert rows(ca)[0] == Counter({"ISSUED": 1})


def test_an_authority_that_is_disabled_under_a_batch_refuses_what_had_no_intent_yet(ca: World) -> None:
    items = [batch_item(f"{number}.example.internal", key=key()) for number in range(150)]
    ca.steps.at["issue.5.completed"] = lambda: disable(ca)
    results = issue_batch(ca, items)
    counted = Counter(outcomes(results))
    assert set(counted) == {None, Reason.AUTHORITY_NOT_ENABLED}
    assert rows(ca)[0] == Counter({"ISSUED": counted[None]})
    enable(ca)
    again = made(issue_batch(ca, items))
    assert len({view.name for view in again}) == 150
    assert rows(ca)[0] == Counter({"ISSUED": 150})


def test_one_id_twice_at_once_for_what_is_refused_is_refused_twice(ca: World) -> None:
    """Neither finds a record of the other that leads nowhere."""
    item = batch_item(csr=compromised(ca), key=key())
    held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gate.wait(20)

    ca.steps.at["issue.3.intended"] = hold
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(issue, ca, batch_item("first.example.internal"))
        assert held.wait(20)
        with ThreadPoolExecutor(1) as others:
            batch = others.submit(issue_batch, ca, [item, item])
            eventually(lambda: ca.core.loop.waiting == 2)
            gate.set()
            results = batch.result(20)
        assert first.result(20).der
    assert set(outcomes(results)) <= {Reason.KEY_TOO_WEAK, Reason.REQUEST_IN_PROGRESS}
    assert outcomes(results)[0] is Reason.KEY_TOO_WEAK
    refused(lambda: issue(ca, item), Reason.KEY_TOO_WEAK)


@pytest.mark.parametrize("step", ["issue.3.intended", "issue.4.signed"])
def test_a_batch_that_is_taken_over_is_lost_and_its_repetition_issues_it_afresh(ca: World, step: str) -> None:
    items = [batch_item(f"{number}.example.internal", key=key()) for number in range(30)]

    def take_over() -> None:
        ca.core.store.write("test.end", lambda tx: owners.end(tx, ca.core.ownership.epoch()))
        assert ca.core.recovery.run() > 0

    ca.steps.at[step] = take_over
    results = issue_batch(ca, items)
    lost = outcomes(results).count(Reason.OWNERSHIP_LOST)
    assert lost > 0
    assert set(outcomes(results)) <= {None, Reason.OWNERSHIP_LOST}
    ca.core.ownership.begin()
    again = made(issue_batch(ca, items))
    assert len({view.name for view in again}) == 30
    states = rows(ca)[0]
    assert states["LOST"] >= lost
    assert states["ISSUED"] == 30
    with ca.core.store.read("test.records") as tx:
        for item, view in zip(items, again, strict=True):
            assert item.key is not None
            record = request_records.get(tx, ADMINISTRATOR.principal, "IssueCertificate", item.key.request_id)
            assert record is not None
            assert record.resource == f"{view.certificate.authority_uid}/{view.certificate.serial}"


def test_a_profile_that_changes_while_a_request_is_prepared_holds_as_it_was_read(ca: World) -> None:
    ca.core.profiles.create(ADMINISTRATOR, WEB, GIVEN, key=None, validate_only=False)
    change = ProfileChange(name=WEB, given=GivenProfile(policies=("1.2.3.4",)), fields=frozenset({"policies"}))
    ca.steps.at["issue.2.prepared"] = lambda: ca.core.profiles.update(
        ADMINISTRATOR, change, key=None, validate_only=False
    )
    before = issue(ca, batch_item(profile=WEB))
    after = issue(ca, batch_item(profile=WEB))
    assert [view.certificate.profile_version for view in (before, after)] == [1, 2]
    policies = [
        any(
            one.oid == x509.CertificatePolicies.oid
            for one in x509.load_der_x509_certificate(view.der or b"").extensions
        )
        for view in (before, after)
    ]
    assert policies == [False, True]
