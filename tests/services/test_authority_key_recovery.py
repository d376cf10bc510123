"""A key that is being prepared: from wherever a crash left it, and below an outside parent."""

import uuid
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityKeyState, AuthorityState
from certd.model.event import EventType
from certd.services.authority_activation import Activation
from certd.services.authority_keys import NewKey
from certd.services.idempotency import RequestKey
from certd.store import schema
from tests.outside_parent import certify, pem_of
from tests.services.awaiting import SUB, create_active, create_awaiting, parents
from tests.services.conftest import ADMINISTRATOR, CrashError, World, crash
from tests.services.rotated_books import activate, authority_in, certificate, change, prepare, retire, states
from tests.services.test_authorities import UnableToken
from tests.waiting import eventually


def restart(world: World) -> None:
    """As after a restart: the epoch of the dead has ended, and what it had claimed is due at once."""
    world.core.ownership.begin()
    world.core.recovery.run()
    world.core.scheduler.wake()


def jobs_of_keys(world: World) -> list[str]:
    with world.core.store.read("test.jobs") as tx:
        rows = tx.execute(select(schema.jobs.c.subject).where(schema.jobs.c.kind == "advance-authority-key"))
        return [row.subject for row in rows]


@pytest.mark.parametrize(
    "step", ["key.1.requested", "key.2.made", "key.3.recorded", "key.4.certified", "key.5.cross-certified"]
)
def test_whatever_a_crash_leaves_is_finished(ca: World, step: str) -> None:
    ca.steps.at[step] = crash
    with pytest.raises(CrashError):
        prepare(ca, "root", cross_certify=True)
    # Nobody activates what is not all there yet.
    with pytest.raises(CertdError) as waiting:
        activate(ca, 2, "root")
    assert waiting.value.reason is Reason.REQUEST_IN_PROGRESS
    restart(ca)
    eventually(lambda: not jobs_of_keys(ca))
    name = change("root").name
    view = ca.core.authorities.get(ADMINISTRATOR, name)
    assert states(view) == {2: AuthorityKeyState.PREPARED, 1: AuthorityKeyState.ACTIVE}
    assert [len(view.cross_certificates[number]) for number in (1, 2)] == [1, 1]
    made = certificate(view.keys[0].certificate)
    made.verify_directly_issued_by(made)
    happened = [event.type for event in ca.events() if event.details.get("key_number") == "2"]
    assert happened.count(EventType.AUTHORITY_KEY_GENERATED) == 1
    assert happened.count(EventType.AUTHORITY_KEY_PREPARED) == 1
    activate(ca, 2, "root")
    certificate(ca.issue("www.example.internal", authority="root").der).verify_directly_issued_by(made)


def test_a_retry_while_the_first_call_hangs_is_told_so(ca: World) -> None:
    key = RequestKey(str(uuid.uuid4()), b"a")
    ca.steps.at["key.1.requested"] = crash
    with pytest.raises(CrashError):
        ca.core.rotation.keys.prepare(ADMINISTRATOR, change(key=key), NewKey())
    with pytest.raises(CertdError) as waiting:
        ca.core.rotation.keys.prepare(ADMINISTRATOR, change(key=key), NewKey())
    assert waiting.value.reason is Reason.REQUEST_IN_PROGRESS
    restart(ca)
    eventually(lambda: not jobs_of_keys(ca))
    assert len(ca.core.rotation.keys.prepare(ADMINISTRATOR, change(key=key), NewKey()).keys) == 2


def test_a_key_that_the_token_can_never_make_leaves_nothing_behind(ca: World) -> None:
    keys = ca.core.rotation.keys
    token, keys._token = keys._token, UnableToken()
    with pytest.raises(CertdError) as refused:
        prepare(ca)
    assert refused.value.reason is Reason.TOKEN_UNAVAILABLE
    assert ca.events()[-1].type is EventType.AUTHORITY_KEY_FAILED
    assert jobs_of_keys(ca) == []
    keys._token = token
    assert prepare(ca).keys[0].number == 2


def test_a_key_that_was_retired_while_it_was_made_is_not_made_on(ca: World) -> None:
    def retire_and_crash() -> None:
        retire(ca, 2)
        crash()

    ca.steps.at["key.2.made"] = retire_and_crash
    with pytest.raises(CrashError):
        prepare(ca)
    restart(ca)
    eventually(lambda: not jobs_of_keys(ca))
    view = ca.core.authorities.get(ADMINISTRATOR, change().name)
    assert states(view)[2] is AuthorityKeyState.RETIRED
    assert view.keys[0].certificate is None


def test_below_an_outside_parent_a_new_key_awaits_its_certificate(world: World) -> None:
    parent = parents(world)
    before = create_active(world, parent).authority
    view = prepare(world, "sub")
    assert jobs_of_keys(world) == []
    assert view.keys[0].certificate is None
    with pytest.raises(CertdError, match="awaits its certificate") as caught:
        activate(world, 2, "sub")
    assert caught.value.reason is Reason.STATE_FORBIDS
    activation = world.core.authority_activation
    requests = [x509.load_der_x509_csr(activation.csr(ADMINISTRATOR, SUB, number)) for number in (None, 1, 2)]
    assert requests[0] == requests[1]
    assert requests[2].public_key() != requests[1].public_key()
    assert requests[2].subject == requests[1].subject
    made = certify(
        parent,
        now=world.clock.now(),
        subject=requests[2].subject,
        public_key=requests[2].public_key(),
        path_length=0,
        ends=timedelta(days=1500),
    ).public_bytes(Encoding.DER)
    wrong = Activation(certificate=pem_of(made), chain=pem_of(*parent.chain))
    given = Activation(certificate=pem_of(made), chain=pem_of(*parent.chain), key_number=2)
    with pytest.raises(CertdError) as caught:
        activation.activate(ADMINISTRATOR, change("sub"), wrong)
    assert caught.value.reason in {Reason.STATE_FORBIDS, Reason.IMPORT_KEY_MISMATCH}
    planned = activation.activate(ADMINISTRATOR, change("sub", validate_only=True), given)
    assert planned.keys[0].certificate == made
    installed = activation.activate(ADMINISTRATOR, change("sub"), given)
    assert (installed.keys[0].certificate, installed.keys[0].chain) == (made, parent.chain)
    assert installed.authority.certificate == before.certificate
    assert world.events()[-1].type is EventType.AUTHORITY_KEY_PREPARED
    activate(world, 2, "sub")
    now = authority_in(world, "sub")
    assert (now.certificate, now.state) == (made, AuthorityState.ENABLED)
    leaf = world.issue("www.example.internal", authority="sub")
    assert leaf.chain == (made, *parent.chain)


def test_no_key_is_prepared_before_the_first_certificate(world: World) -> None:
    create_awaiting(world)
    with pytest.raises(CertdError, match="no certificate for its first key") as caught:
        prepare(world, "sub")
    assert caught.value.reason is Reason.STATE_FORBIDS
