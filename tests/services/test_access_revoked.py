"""Callers who were revoked are refused again without a look into the books, until the configuration changes."""

import pytest

from certd.errors import CertdError, Reason
from certd.metrics import STORE_SECONDS
from certd.model.identity import IdentityState
from certd.model.names import IdentityName
from certd.pki.credential_request import new_credential_request
from certd.services.identities import Identities
from certd.store import identities
from tests.services.conftest import TRUST_DOMAIN, World

_SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/identities/web"
_NAME = IdentityName(None, "web")


def _reads() -> float:
    (metric,) = STORE_SECONDS.labels("read", "access.authenticate").collect()
    return sum(float(sample.value) for sample in metric.samples if sample.name.endswith("_count"))


def _certificate(world: World) -> bytes:
    core = world.core
    made = Identities(store=core.store, clock=world.clock, loop=core.loop, system_authority=core.system_authority)
    return made.ensure_identity(_SPIFFE_ID, new_credential_request().csr).certificate


def _set(world: World, state: IdentityState) -> None:
    now = world.clock.now()
    world.core.store.write("test.ensure", lambda tx: identities.ensure(tx, _NAME, _SPIFFE_ID, state, now))
    world.core.store.write("test.state", lambda tx: identities.set_state(tx, _NAME, state, now))


def _refusal(world: World, certificate: bytes) -> CertdError:
    with pytest.raises(CertdError) as raised:
        world.core.access.authenticate(certificate)
    return raised.value


def test_who_is_refused_and_calls_on_reads_the_books_once(world: World) -> None:
    certificate = _certificate(world)
    _set(world, IdentityState.ACTIVE)
    assert world.core.access.authenticate(certificate).principal == _SPIFFE_ID
    _set(world, IdentityState.REVOKED)
    before = _reads()
    errors = [_refusal(world, certificate) for _ in range(50)]
    assert {error.reason for error in errors} == {Reason.CREDENTIAL_REVOKED}
    assert len({id(error) for error in errors}) == 50, "each has a traceback of its own"
    assert _reads() == before + 1


def test_who_is_let_in_again_is_known_at_once(world: World) -> None:
    certificate = _certificate(world)
    for _ in range(3):
        _set(world, IdentityState.REVOKED)
        assert _refusal(world, certificate).reason is Reason.CREDENTIAL_REVOKED
        _set(world, IdentityState.ACTIVE)
        assert world.core.access.authenticate(certificate).principal == _SPIFFE_ID
