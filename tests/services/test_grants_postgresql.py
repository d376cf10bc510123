"""Grants in two daemons on one PostgreSQL."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Permission, Role
from certd.model.identity import IdentityState
from certd.store import grants
from certd.store.migration import migrate
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR
from tests.services.grant_books import BUILD, OWNER, Books, fill, open_books, spiffe
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

SOON = 2.0
"""A second, and as long again for a machine that is busy."""


@pytest.fixture
def daemons(postgres_url: str) -> Iterator[tuple[Books, Books]]:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    migrate(url)
    with ExitStack() as stack:
        first, second = (stack.enter_context(open_books(url)) for _ in range(2))
        fill(first)
        yield first, second


def test_a_grant_that_is_withdrawn_in_one_holds_in_the_other_for_a_second_at_most(
    daemons: tuple[Books, Books],
) -> None:
    first, second = daemons
    made = first.create(ADMINISTRATOR, spiffe("identities/*"), Role.AUDITOR)
    eventually(lambda: second.may(BUILD, Permission.CERTIFICATE_READ, "tenants/default/authorities/a"), within=SOON)
    first.delete(ADMINISTRATOR, made.name)
    assert not first.may(BUILD, Permission.CERTIFICATE_READ, "tenants/default/authorities/a")
    eventually(lambda: not second.may(BUILD, Permission.CERTIFICATE_READ, "tenants/default/authorities/a"), within=SOON)


def test_two_daemons_do_not_withdraw_the_last_two_administrators(daemons: tuple[Books, Books]) -> None:
    first, second = daemons
    first.identity(BUILD, IdentityState.ACTIVE)
    first.give(BUILD, Role.ADMINISTRATOR)
    # Who withdraws is neither of the two, and is not counted.
    first.give(spiffe("tenants/default/*"), Role.ADMINISTRATOR)
    with first.store.read("test.administrators") as tx:
        names = [grant.name for grant in grants.administrators(tx, FakeClock().now())]
    assert len(names) == 2
    eventually(lambda: second.may(OWNER, Permission.GRANT_DELETE, "grants/a"), within=SOON)
    start = threading.Barrier(2)
    ended: list[Reason | None] = []

    def withdraw(books: Books, name: str) -> None:
        start.wait()
        try:
            books.delete(OWNER, name)
        except CertdError as error:
            ended.append(error.reason)
        else:
            ended.append(None)

    threads = [
        threading.Thread(target=withdraw, args=(books, name)) for books, name in zip(daemons, names, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, ended)) == [str(Reason.LAST_ADMINISTRATOR), "None"], ended
    with first.store.read("test.administrators") as tx:
        assert len(grants.administrators(tx, FakeClock().now())) == 1
