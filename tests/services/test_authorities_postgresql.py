"""Authorities with an outside parent on PostgreSQL, where several daemons share one database and one token."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState
from certd.model.event import EventType
from certd.model.names import TenantName
from certd.services.authority_changes import Change
from certd.services.idempotency import RequestKey
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.awaiting import SUB, activate, certified, create_awaiting, csr_of, parents
from tests.services.conftest import ADMINISTRATOR, World, two_worlds
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    """Two daemons, each with a token process of its own on the same token."""
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        yield first, second


def test_two_daemons_make_one_csr_and_one_activation(daemons: tuple[World, World]) -> None:
    first, second = daemons
    create_awaiting(first, path_length=1)
    with ThreadPoolExecutor(8) as pool:
        requests = set(pool.map(lambda n: csr_of(daemons[n % 2]), range(8)))
        assert len(requests) == 1
        parent = parents(first)
        certificate = certified(second, parent)
        key = RequestKey(str(uuid.uuid4()), b"a")
        views = list(pool.map(lambda n: activate(daemons[n % 2], certificate, parent.chain, key=key), range(8)))
    assert {view.state for view in views} == {AuthorityState.ENABLED}
    assert {view.authority.etag for view in views} == {views[0].authority.etag}

    def numbered() -> bool:
        types = [event.type for event in first.events()]
        return (types.count(EventType.AUTHORITY_CSR_SIGNED), types.count(EventType.AUTHORITY_ACTIVATED)) == (1, 1)

    eventually(numbered)
    assert second.core.server.trust_bundle(ADMINISTRATOR, TenantName("default")).tenant_roots == (parent.chain[-1],)


def test_what_one_disables_the_other_soon_issues_from_no_more(daemons: tuple[World, World]) -> None:
    first, second = daemons
    create_awaiting(first)
    parent = parents(first)
    activate(first, certified(first, parent), parent.chain)
    assert second.issue("www.example.internal", authority="sub").chain[1:] == parent.chain
    view = first.core.authority_changes.disable(ADMINISTRATOR, Change(name=SUB))
    assert view.state is AuthorityState.DISABLED

    def refusal() -> Reason | None:
        try:
            second.issue("www.example.internal", authority="sub")
        except CertdError as error:
            return error.reason
        return None

    assert eventually(refusal) is Reason.AUTHORITY_NOT_ENABLED
    enabled = second.core.authority_changes.enable(ADMINISTRATOR, Change(name=SUB, etag=view.authority.etag))
    assert enabled.state is AuthorityState.ENABLED
    with pytest.raises(CertdError) as outdated:
        first.core.authority_changes.disable(ADMINISTRATOR, Change(name=SUB, etag=view.authority.etag))
    assert outdated.value.reason is Reason.ETAG_MISMATCH
