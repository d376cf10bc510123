"""OCSP answers in the memory of one daemon, and revocations by another on the same PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import World, two_worlds
from tests.services.ocsp_books import eventually_stored, run_job, status
from tests.services.revocation_books import revoke
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        yield first, second


def test_a_revocation_reaches_every_daemon(daemons: tuple[World, World]) -> None:
    first, second = daemons
    view = first.issue("www.example.internal")
    run_job(first)
    eventually_stored(first, view)
    # Both have it in memory, and the responder that the first one made signs for the second one too.
    eventually(lambda: status(second, view) is GOOD, within=60)
    assert status(first, view) is GOOD
    revoke(first, view)
    assert status(first, view) is REVOKED
    eventually(lambda: status(second, view) is REVOKED, within=60)
