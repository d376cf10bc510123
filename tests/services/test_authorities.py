"""Authorities: created in one call, from wherever a crash left them."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import select

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.authority import AuthorityState, AuthorityType
from certd.model.event import EventType
from certd.model.names import AuthorityName, TenantName
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.services import checkpoints
from certd.services.authority_plan import NewAuthority
from certd.services.authority_views import AuthorityView
from certd.services.idempotency import RequestKey
from certd.services.paging import PageRequest
from certd.store import grants, schema
from certd.token.client import TokenClient
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, CrashError, World, crash
from tests.waiting import eventually


def key(content: bytes = b"a") -> RequestKey:
    return RequestKey(str(uuid.uuid4()), content)


def new_root(authority_id: str = "root") -> NewAuthority:
    return NewAuthority(
        name=AuthorityName("default", authority_id),
        type=AuthorityType.ROOT,
        subject=distinguished_name.parse_text("CN=Test Root,O=Example"),
    )


def test_a_root_signs_itself_and_is_enabled(world: World) -> None:
    view = world.create_root()
    assert view.state is AuthorityState.ENABLED
    assert view.issuer_name == ""
    assert view.mechanism == "CKM_ECDSA"
    certificate = x509.load_der_x509_certificate(view.authority.certificate or b"")
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc == world.clock.now() + timedelta(days=3650, seconds=-1)
    assert certificate.not_valid_before_utc == world.clock.now() - timedelta(minutes=5)


def test_a_subordinate_is_signed_by_its_issuer_and_carries_its_chain(world: World) -> None:
    root = world.create_root()
    view = world.create_subordinate()
    assert view.issuer_name == "tenants/default/authorities/root"
    assert view.authority.chain == (root.authority.certificate,)
    certificate = x509.load_der_x509_certificate(view.authority.certificate or b"")
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(root.authority.certificate or b""))
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P521, KeySpec.ED25519])
def test_each_kind_of_key_makes_an_authority(world: World, spec: KeySpec) -> None:
    view = world.create_root(key_spec=spec)
    certificate = x509.load_der_x509_certificate(view.authority.certificate or b"")
    certificate.verify_directly_issued_by(certificate)


def test_its_making_is_in_the_events_in_order(world: World) -> None:
    world.create_root()
    made = [(event.type, event.principal) for event in world.events()][-4:]
    assert made == [
        (EventType.AUTHORITY_REQUESTED, ADMINISTRATOR.principal),
        (EventType.AUTHORITY_KEY_GENERATED, ADMINISTRATOR.principal),
        (EventType.AUTHORITY_CREATED, ADMINISTRATOR.principal),
        (EventType.CERTIFICATE_ISSUED, ADMINISTRATOR.principal),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lifetime": timedelta(minutes=59)}, Reason.FIELD_INVALID),
        ({"lifetime": timedelta(days=41 * 365)}, Reason.FIELD_INVALID),
        ({"path_length": 5}, Reason.FIELD_INVALID),
        ({"path_length": -1}, Reason.FIELD_INVALID),
        (
            {"key_spec": KeySpec.EC_P256, "signature_algorithm": SignatureAlgorithm.SHA256_WITH_RSA},
            Reason.FIELD_INVALID,
        ),
        ({"subject": distinguished_name.EMPTY}, Reason.NAME_NOT_ALLOWED),
        ({"issuer": AuthorityName("default", "root")}, Reason.FIELD_INVALID),
    ],
)
def test_a_bad_root_is_refused_and_nothing_changes(world: World, changes: dict[str, Any], reason: Reason) -> None:
    before = world.events()
    with pytest.raises(CertdError) as refused:
        world.create_root(**changes)
    assert refused.value.reason is reason
    assert world.events() == before
    with pytest.raises(CertdError) as missing:
        world.core.authorities.get(ADMINISTRATOR, AuthorityName("default", "root"))
    assert missing.value.reason is Reason.AUTHORITY_NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lifetime": timedelta(days=11 * 365)}, Reason.LIFETIME_EXCEEDS_AUTHORITY),
        ({"path_length": 1}, Reason.PROFILE_FORBIDS),
        ({"issuer": AuthorityName("default", "absent")}, Reason.AUTHORITY_NOT_FOUND),
        ({"issuer": AuthorityName("other", "root")}, Reason.AUTHORITY_NOT_FOUND),
        ({"name": AuthorityName("other", "ca")}, Reason.TENANT_NOT_FOUND),
    ],
)
def test_a_bad_subordinate_is_refused_and_nothing_changes(
    world: World, changes: dict[str, Any], reason: Reason
) -> None:
    world.create_root()
    before = world.events()
    wanted: dict[str, Any] = {
        "name": AuthorityName("default", "ca"),
        "type": AuthorityType.SUBORDINATE,
        "subject": distinguished_name.parse_text("CN=Test CA"),
        "issuer": AuthorityName("default", "root"),
    }
    new = NewAuthority(**(wanted | changes))
    with pytest.raises(CertdError) as refused:
        world.core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False)
    assert refused.value.reason is reason
    assert world.events() == before


def test_an_id_is_taken_once(world: World) -> None:
    world.create_root()
    with pytest.raises(CertdError) as refused:
        world.create_root()
    assert refused.value.reason is Reason.AUTHORITY_EXISTS


def test_an_expired_issuer_signs_nothing(world: World) -> None:
    world.create_root(lifetime=timedelta(hours=2))
    world.clock.advance(timedelta(hours=3))
    with pytest.raises(CertdError) as refused:
        world.create_subordinate()
    assert refused.value.reason is Reason.AUTHORITY_NOT_ENABLED
    assert refused.value.metadata["state"] == "EXPIRED"


def test_validate_only_returns_what_would_be_and_changes_nothing(world: World) -> None:
    before = world.events()
    view = world.core.authorities.create(ADMINISTRATOR, new_root(), key=key(), validate_only=True)
    assert view.authority.certificate is None
    assert world.events() == before


def test_a_repeated_request_returns_the_same_authority(world: World) -> None:
    repeated = key()
    first = world.core.authorities.create(ADMINISTRATOR, new_root(), key=repeated, validate_only=False)
    second = world.core.authorities.create(ADMINISTRATOR, new_root(), key=repeated, validate_only=False)
    assert second.authority == first.authority
    other = RequestKey(repeated.request_id, b"another request")
    with pytest.raises(CertdError) as refused:
        world.core.authorities.create(ADMINISTRATOR, new_root("other"), key=other, validate_only=False)
    assert refused.value.reason is Reason.REQUEST_ID_REUSED


def test_a_repeated_request_is_answered_whatever_became_of_the_issuer(world: World) -> None:
    world.create_root(lifetime=timedelta(hours=2))
    repeated = key()
    new = NewAuthority(
        name=AuthorityName("default", "ca"),
        type=AuthorityType.SUBORDINATE,
        issuer=AuthorityName("default", "root"),
        subject=distinguished_name.parse_text("CN=Test CA,O=Example"),
        lifetime=timedelta(hours=1),
    )
    first = world.core.authorities.create(ADMINISTRATOR, new, key=repeated, validate_only=False)
    world.clock.advance(timedelta(hours=3))
    again = world.core.authorities.create(ADMINISTRATOR, new, key=repeated, validate_only=False)
    assert again.authority == first.authority


class UnableToken(TokenClient):
    """A token that is there and cannot make such keys."""

    def __init__(self) -> None:
        """Needs no channel."""

    @property
    def ready(self) -> bool:
        return True

    def create_authority_key(self, *, key_id: bytes, key_spec: KeySpec, policy: bytes) -> bytes:
        assert key_id
        assert policy
        raise CertdError(Reason.TOKEN_UNAVAILABLE, f"The token has no mechanism for {key_spec}.")


def test_a_key_that_the_token_can_never_make_leaves_nothing_behind(world: World) -> None:
    """Its id is free again, and no job tries for ever."""
    token, world.core.authorities._token = world.core.authorities._token, UnableToken()
    with pytest.raises(CertdError) as refused:
        world.create_root()
    assert refused.value.reason is Reason.TOKEN_UNAVAILABLE
    assert world.events()[-1].type is EventType.AUTHORITY_FAILED
    with world.core.store.read("test.jobs") as tx:
        # But that of the checkpoints, which the scheduler puts by itself.
        subjects = set(tx.execute(select(schema.jobs.c.subject)).scalars())
    assert subjects <= {checkpoints.SUBJECT}
    world.core.authorities._token = token
    assert world.create_root().state is AuthorityState.ENABLED


@pytest.mark.parametrize("step", ["authority.1.requested", "authority.2.key-made", "authority.3.key-recorded"])
def test_an_authority_in_the_making_issues_nothing(world: World, step: str) -> None:
    """Whoever asks too early is told so, whether it has its key or not, and is served when it is made."""
    reasons = []

    def issue() -> None:
        with pytest.raises(CertdError) as refused:
            world.issue("www.example.internal", authority="root")
        reasons.append(refused.value.reason)

    world.steps.at[step] = issue
    world.create_root()
    assert reasons == [Reason.AUTHORITY_NOT_ENABLED]
    assert world.issue("www.example.internal", authority="root").der


@pytest.mark.parametrize("step", ["authority.1.requested", "authority.2.key-made", "authority.3.key-recorded"])
def test_whatever_a_crash_leaves_is_finished(world: World, step: str) -> None:
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        world.create_root()
    # As after a restart: the epoch of the dead has ended, and what it had claimed is due at once.
    world.core.ownership.begin()
    world.core.recovery.run()
    world.core.scheduler.wake()
    name = AuthorityName("default", "root")

    def enabled() -> AuthorityView | None:
        found = world.core.authorities.get(ADMINISTRATOR, name)
        return found if found.state is AuthorityState.ENABLED else None

    view = eventually(enabled)
    certificate = x509.load_der_x509_certificate(view.authority.certificate or b"")
    certificate.verify_directly_issued_by(certificate)
    created = [event for event in world.events() if event.type is EventType.AUTHORITY_CREATED and event.tenant]
    assert len(created) == 1


def test_a_retry_while_the_first_call_hangs_is_told_so(world: World) -> None:
    repeated = key()
    world.steps.at["authority.1.requested"] = crash
    with pytest.raises(CrashError):
        world.core.authorities.create(ADMINISTRATOR, new_root(), key=repeated, validate_only=False)
    with pytest.raises(CertdError) as waiting:
        world.core.authorities.create(ADMINISTRATOR, new_root(), key=repeated, validate_only=False)
    assert waiting.value.reason is Reason.REQUEST_IN_PROGRESS
    assert waiting.value.retry_after is not None


def test_lists_go_page_by_page(world: World) -> None:
    for number in range(3):
        world.create_root(f"root-{number}")
    parent = TenantName("default")
    first = world.core.authorities.page(ADMINISTRATOR, parent, PageRequest(2, ""))
    assert [view.authority.authority_id for view in first.items] == ["root-0", "root-1"]
    second = world.core.authorities.page(ADMINISTRATOR, parent, PageRequest(2, first.next_page_token))
    assert [view.authority.authority_id for view in second.items] == ["root-2"]
    assert second.next_page_token == ""
    for token in ("!!!", "bm9uZQ==", first.next_page_token[:-4]):
        with pytest.raises(CertdError) as refused:
            world.core.authorities.page(ADMINISTRATOR, parent, PageRequest(2, token))
        assert refused.value.reason is Reason.FIELD_INVALID


def test_an_issuer_is_used_only_by_who_may_use_it(world: World) -> None:
    world.create_root()
    operator = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/operator", serial="03")
    scope = "tenants/default/authorities/dev"
    grant = Grant(grant_id="g", principal=operator.principal, role=Role.AUTHORITY_OPERATOR, scope=scope, profiles=None)
    world.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))
    for issuer in ("root", "absent"):
        new = NewAuthority(
            name=AuthorityName("default", "dev"),
            type=AuthorityType.SUBORDINATE,
            subject=distinguished_name.parse_text("CN=Dev"),
            issuer=AuthorityName("default", issuer),
        )
        with pytest.raises(CertdError) as refused:
            world.core.authorities.create(operator, new, key=None, validate_only=False)
        assert refused.value.reason is Reason.PERMISSION_MISSING


def test_a_stranger_learns_nothing(world: World) -> None:
    world.create_root()
    for name in ("root", "absent"):
        with pytest.raises(CertdError) as refused:
            world.core.authorities.get(STRANGER, AuthorityName("default", name))
        assert refused.value.reason is Reason.PERMISSION_MISSING
    with pytest.raises(CertdError) as refused:
        world.core.authorities.create(STRANGER, new_root("mine"), key=None, validate_only=False)
    assert refused.value.reason is Reason.PERMISSION_MISSING
