"""Authorities that await the certificate of an outside parent: their creation, and the CSR for it."""

import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState, AuthorityType
from certd.model.event import EventType
from certd.model.job import JobKind
from certd.model.names import AuthorityName
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec, key_identifier
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.services.authority_plan import NewAuthority
from certd.services.authority_views import AuthorityView
from certd.services.idempotency import RequestKey
from certd.store import schema
from certd.token.client import TokenClient
from tests.services.awaiting import SUB, create_awaiting, csr_of
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash
from tests.waiting import eventually


def new_awaiting(**changes: Any) -> NewAuthority:
    wanted: dict[str, Any] = {
        "name": SUB,
        "type": AuthorityType.SUBORDINATE,
        "subject": distinguished_name.parse_text("CN=Awaiting,O=Example"),
    }
    return NewAuthority(**(wanted | changes))


def jobs(world: World) -> list[Any]:
    with world.core.store.read("test.jobs") as tx:
        return list(tx.execute(select(schema.jobs.c.subject).where(schema.jobs.c.kind == JobKind.ADVANCE_AUTHORITY)))


def test_without_an_issuer_it_awaits_its_certificate(world: World) -> None:
    view = create_awaiting(world)
    assert (view.state, view.issuer_name) == (AuthorityState.AWAITING_CERTIFICATE, "")
    assert view.authority.key.public_key
    assert (view.authority.certificate, view.authority.path_length) == (None, 0)
    assert [(event.type, event.details.get("state")) for event in world.events()][-3:] == [
        (EventType.AUTHORITY_REQUESTED, None),
        (EventType.AUTHORITY_KEY_GENERATED, None),
        (EventType.AUTHORITY_CREATED, "AWAITING_CERTIFICATE"),
    ]
    assert jobs(world) == []


def test_whoever_looks_for_what_is_unfinished_leaves_it_alone(world: World) -> None:
    view = create_awaiting(world)
    before = world.events()
    world.core.authorities.resume(view.authority.uid)
    world.core.ownership.begin()
    world.core.recovery.run()
    assert world.core.authorities.finish(view.authority.uid, principal="test") == view.authority
    assert world.core.authorities.get(ADMINISTRATOR, SUB) == view
    assert world.events() == before


def test_it_issues_nothing(world: World) -> None:
    create_awaiting(world)
    with pytest.raises(CertdError) as refused:
        world.issue("www.example.internal", authority="sub")
    assert refused.value.reason is Reason.AUTHORITY_NOT_ENABLED
    assert refused.value.metadata["state"] == "AWAITING_CERTIFICATE"
    assert "install the certificate of its parent" in refused.value.message
    with pytest.raises(CertdError) as refused:
        world.create_subordinate("below", issuer="sub")
    assert refused.value.reason is Reason.AUTHORITY_NOT_ENABLED


def test_a_repeated_request_returns_it(world: World) -> None:
    repeated = RequestKey(str(uuid.uuid4()), b"a")
    create = world.core.authorities.create
    first = create(ADMINISTRATOR, new_awaiting(), key=repeated, validate_only=False)
    assert create(ADMINISTRATOR, new_awaiting(), key=repeated, validate_only=False) == first


@pytest.mark.parametrize("step", ["authority.1.requested", "authority.2.key-made", "authority.3.key-recorded"])
def test_whatever_a_crash_leaves_is_finished(world: World, step: str) -> None:
    repeated = RequestKey(str(uuid.uuid4()), b"a")
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        world.core.authorities.create(ADMINISTRATOR, new_awaiting(), key=repeated, validate_only=False)
    world.core.ownership.begin()
    world.core.recovery.run()
    world.core.scheduler.wake()

    def made() -> AuthorityView | None:
        found = world.core.authorities.get(ADMINISTRATOR, SUB)
        return found if found.authority.key.public_key is not None and not jobs(world) else None

    view = eventually(made)
    assert view.state is AuthorityState.AWAITING_CERTIFICATE
    again = world.core.authorities.create(ADMINISTRATOR, new_awaiting(), key=repeated, validate_only=False)
    assert again.authority == view.authority
    types = [event.type for event in world.events() if event.resource == str(SUB)]
    assert types.count(EventType.AUTHORITY_CREATED) == 1


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"path_length": 4}, Reason.PROFILE_FORBIDS, "authority.path_length"),
        ({"path_length": 5}, Reason.FIELD_INVALID, "authority.path_length"),
        ({"subject": distinguished_name.EMPTY}, Reason.NAME_NOT_ALLOWED, "authority.subject"),
    ],
)
def test_what_no_authority_here_would_sign_is_not_asked_for(
    world: World, changes: dict[str, Any], reason: Reason, field: str
) -> None:
    before = world.events()
    with pytest.raises(CertdError) as refused:
        create_awaiting(world, **changes)
    assert refused.value.reason is reason
    assert [violation.field for violation in refused.value.violations] == [field]
    assert world.events() == before


def test_validate_only_makes_nothing(world: World) -> None:
    before = world.events()
    view = world.core.authorities.create(ADMINISTRATOR, new_awaiting(), key=None, validate_only=True)
    assert view.state is AuthorityState.AWAITING_CERTIFICATE
    assert world.events() == before


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.EC_P521, KeySpec.ED25519])
def test_the_csr_asks_for_what_the_authority_is(world: World, spec: KeySpec, tmp_path: Path) -> None:
    constraints = NameConstraints(
        permitted=Subtrees(dns_names=("example.internal",), ip_ranges=("192.0.2.0/24",)),
        excluded=Subtrees(dns_names=("bad.example.internal",)),
    )
    view = create_awaiting(world, key_spec=spec, path_length=1, name_constraints=constraints)
    der = csr_of(world)
    (tmp_path / "request.der").write_bytes(der)
    verified = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", tmp_path / "request.der", "-verify", "-noout"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr
    assert "OK" in verified.stdout + verified.stderr
    request = x509.load_der_x509_csr(der)
    assert request.is_signature_valid
    assert request.subject.public_bytes() == view.authority.subject
    public_key = view.authority.key.public_key or b""
    assert public_key in der
    found = {type(one.value): one for one in request.extensions}
    assert len(found) == 4
    basic = found[x509.BasicConstraints]
    assert (basic.critical, basic.value) == (True, x509.BasicConstraints(ca=True, path_length=1))
    usage = found[x509.KeyUsage]
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert found[x509.SubjectKeyIdentifier].value == x509.SubjectKeyIdentifier(key_identifier(public_key))
    limits = found[x509.NameConstraints]
    assert limits.critical
    assert isinstance(limits.value, x509.NameConstraints)
    assert [str(one.value) for one in limits.value.permitted_subtrees or ()] == ["example.internal", "192.0.2.0/24"]
    assert [str(one.value) for one in limits.value.excluded_subtrees or ()] == ["bad.example.internal"]


def test_the_csr_is_signed_once_and_stays_the_same(world: World) -> None:
    view = create_awaiting(world)
    der = csr_of(world)
    assert [csr_of(world) for _ in range(3)] == [der] * 3
    signed = [event for event in world.events() if event.type is EventType.AUTHORITY_CSR_SIGNED]
    assert [(event.resource, event.principal) for event in signed] == [(str(SUB), ADMINISTRATOR.principal)]
    # What the resource shows has not changed.
    assert world.core.authorities.get(ADMINISTRATOR, SUB).authority.etag == view.authority.etag


def test_of_two_calls_at_once_the_first_one_holds(world: World) -> None:
    create_awaiting(world)
    first: list[bytes] = []
    world.steps.at["csr.1.signed"] = lambda: first.append(csr_of(world))
    assert csr_of(world) == first[0]
    assert [event.type for event in world.events()].count(EventType.AUTHORITY_CSR_SIGNED) == 1


@pytest.mark.parametrize("step", ["csr.1.signed", "csr.2.kept"])
def test_a_crash_leaves_one_csr_or_none(world: World, step: str) -> None:
    create_awaiting(world)
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        csr_of(world)
    assert csr_of(world) == csr_of(world)
    assert [event.type for event in world.events()].count(EventType.AUTHORITY_CSR_SIGNED) == 1


def test_every_authority_has_a_csr_for_a_second_parent(world: World) -> None:
    root, ca = world.create_root(), world.create_subordinate()
    for view in (root, ca):
        request = x509.load_der_x509_csr(csr_of(world, AuthorityName("default", view.authority.authority_id)))
        assert request.is_signature_valid
        assert request.subject.public_bytes() == view.authority.subject
        own = x509.load_der_x509_certificate(view.authority.certificate or b"")
        assert request.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ) == own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_no_csr_before_there_is_a_key(world: World) -> None:
    world.steps.at["authority.1.requested"] = crash
    with pytest.raises(CrashError):
        create_awaiting(world)
    with pytest.raises(CertdError) as waiting:
        csr_of(world)
    assert waiting.value.reason is Reason.REQUEST_IN_PROGRESS
    assert waiting.value.retry_after is not None
    assert "try again" in waiting.value.message


class AbsentToken(TokenClient):
    """A token that is away."""

    def __init__(self) -> None:
        """Needs no channel."""

    @property
    def ready(self) -> bool:
        return False

    @property
    def problem(self) -> str:
        return "the token was removed"


def test_no_csr_while_the_token_is_away(world: World) -> None:
    create_awaiting(world)
    world.core.authority_activation._token = AbsentToken()
    with pytest.raises(CertdError) as refused:
        csr_of(world)
    assert refused.value.reason is Reason.TOKEN_UNAVAILABLE


def test_a_csr_is_for_who_may_activate(world: World) -> None:
    create_awaiting(world)
    for name in (SUB, AuthorityName("default", "absent")):
        with pytest.raises(CertdError) as refused:
            world.core.authority_activation.csr(STRANGER, name)
        assert refused.value.reason is Reason.PERMISSION_MISSING
    with pytest.raises(CertdError) as missing:
        csr_of(world, AuthorityName("default", "absent"))
    assert missing.value.reason is Reason.AUTHORITY_NOT_FOUND
