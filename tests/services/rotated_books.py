"""Authorities with several keys, to test with."""

from typing import Any

from cryptography import x509

from certd.model.authority import Authority, AuthorityKeyState
from certd.model.names import AuthorityName
from certd.services.authority_changes import Change
from certd.services.authority_keys import NewKey
from certd.services.authority_views import AuthorityView
from certd.store import authorities
from tests.services.conftest import ADMINISTRATOR, World


def name_of(authority_id: str) -> AuthorityName:
    return AuthorityName("default", authority_id)


def change(authority_id: str = "ca", **changes: Any) -> Change:
    return Change(name=name_of(authority_id), **changes)


def prepare(world: World, authority_id: str = "ca", **wanted: Any) -> AuthorityView:
    return world.core.rotation.keys.prepare(ADMINISTRATOR, change(authority_id), NewKey(**wanted))


def activate(world: World, number: int, authority_id: str = "ca") -> AuthorityView:
    return world.core.rotation.changes.activate(ADMINISTRATOR, change(authority_id), number)


def taint(world: World, number: int, authority_id: str = "ca") -> AuthorityView:
    return world.core.rotation.changes.taint(ADMINISTRATOR, change(authority_id), number)


def retire(world: World, number: int, authority_id: str = "ca", *, allow_live: bool = False) -> AuthorityView:
    return world.core.rotation.changes.retire(ADMINISTRATOR, change(authority_id), number, allow_live=allow_live)


def authority_in(world: World, authority_id: str = "ca") -> Authority:
    with world.core.store.read("test.authority") as tx:
        found = authorities.get(tx, "default", authority_id)
    assert found is not None
    return found


def states(view: AuthorityView) -> dict[int, AuthorityKeyState]:
    return {key.number: key.state for key in view.keys}


def certificate(der: bytes | None) -> x509.Certificate:
    return x509.load_der_x509_certificate(der or b"")
