"""The journeys on PostgreSQL, where several daemons share one database and one token."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.names import AuthorityName, CertificateName, ManagedCertificateName
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_export import RecipientExport
from certd.services.paging import PageRequest
from certd.services.revocation import NewRevocation
from certd.store import events, owners
from certd.token.settings import TokenSettings
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, World, two_worlds
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

CA = AuthorityName("default", "ca")


@pytest.fixture
def daemons(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> Iterator[tuple[World, World]]:
    """Two daemons, each with a token process of its own on the same token."""
    with two_worlds(tmp_path, token_settings, postgres_url) as (first, second):
        first.create_root()
        first.create_subordinate()
        yield first, second


def chain_is_whole(world: World) -> bool:
    """Numbers come from whoever holds the lease, soon after the commit."""
    with world.core.store.read("test.chain") as tx:
        return events.verify_all(tx) == []


def test_any_daemon_serves_any_call(daemons: tuple[World, World]) -> None:
    first, second = daemons
    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda n: daemons[n % 2].issue(f"host-{n}.example.internal"), range(24)))
    assert len({view.certificate.serial for view in views}) == 24
    issuer = x509.load_der_x509_certificate(views[0].chain[0])
    for view in views:
        x509.load_der_x509_certificate(view.der or b"").verify_directly_issued_by(issuer)
    page = second.core.certificates.page(ADMINISTRATOR, CA, PageRequest(100, ""))
    assert {view.name for view in page.items} == {view.name for view in views}
    eventually(
        lambda: (
            sum(
                event.type is EventType.CERTIFICATE_ISSUED and event.resource.startswith(str(CA))
                for event in first.events()
            )
            == 24
        )
    )
    assert chain_is_whole(first)


def test_a_managed_certificate_is_made_once_and_exported_by_the_other(daemons: tuple[World, World]) -> None:
    first, second = daemons
    name = ManagedCertificateName("default", "web")
    first.request("web")

    def active() -> ManagedCertificateView | None:
        second.core.scheduler.wake()
        view = second.core.managed_certificates.get(ADMINISTRATOR, name)
        return view if view.state is ManagedCertificateState.ACTIVE else None

    assert eventually(active).managed_certificate.current_version == 1
    public_key = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    exported = second.core.managed_export.export(
        ADMINISTRATOR, name, version=None, protection=RecipientExport(public_key), reason=""
    )
    assert exported.version == 1
    eventually(lambda: EventType.MANAGED_CERTIFICATE_EXPORTED in {event.type for event in second.events()})
    types = [event.type for event in second.events()]
    assert types.count(EventType.MANAGED_CERTIFICATE_KEY_GENERATED) == 1
    assert types.count(EventType.WRAPPING_KEY_CREATED) == 1


def test_of_revocations_by_both_at_once_one_succeeds(daemons: tuple[World, World]) -> None:
    """And an authority that one of them disables by it issues nothing through the other."""
    name = CertificateName.parse("name", daemons[0].issue("www.example.internal").name)

    def attempt(number: int) -> Reason | None:
        revocation = daemons[number % 2].core.revocation
        try:
            revocation.revoke(ADMINISTRATOR, NewRevocation(name=name), key=None, validate_only=False)
        except CertdError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    assert sorted(outcomes, key=str) == [Reason.ALREADY_REVOKED] * 7 + [None]
    first, second = daemons
    authority = first.core.authorities.get(ADMINISTRATOR, CA).authority
    serial = x509.load_der_x509_certificate(authority.certificate or b"").serial_number
    own = CertificateName.parse("name", f"tenants/default/authorities/root/certificates/{serial:x}")
    first.core.revocation.revoke(ADMINISTRATOR, NewRevocation(name=own), key=None, validate_only=False)
    with pytest.raises(CertdError) as refused:
        second.issue("other.example.internal")
    assert refused.value.reason is Reason.AUTHORITY_NOT_ENABLED


def test_what_one_left_pending_another_recovers(daemons: tuple[World, World]) -> None:
    first, second = daemons

    def die() -> None:
        first.core.store.write("test.end", lambda tx: owners.end(tx, first.core.ownership.epoch()))
        assert second.core.recovery.run() == 1

    first.steps.at["issue.4.signed"] = die
    with pytest.raises(CertdError) as lost:
        first.issue("www.example.internal")
    assert lost.value.reason is Reason.OWNERSHIP_LOST
    (row,) = second.core.certificates.page(ADMINISTRATOR, CA, PageRequest(10, "")).items
    assert row.certificate.state is CertificateState.LOST
    assert second.issue("www.example.internal").der is not None
    # What the other one has under way is its own.
    assert first.core.recovery.run() == 0
