"""Many revocations, for tests: certificates to revoke, batches and campaigns, and what became of them."""

from collections.abc import Sequence
from typing import Any

from cryptography import x509
from sqlalchemy import select

from certd.errors import CertdError
from certd.model.access import Caller, Grant, Role
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import Event, EventType
from certd.model.names import CertificateName, RevocationCampaignName
from certd.model.revocation_campaign import RevocationCampaign, RevocationCampaignState, Selection
from certd.services.certificates import CertificateView
from certd.services.idempotency import RequestKey
from certd.services.revocation import NewRevocation
from certd.services.revocation_batch import RevocationItem
from certd.services.revocation_campaigns import NewRevocationCampaign
from certd.store import grants, schema
from tests.services.batches import batch_item, issue_batch, made
from tests.services.conftest import ADMINISTRATOR, TRUST_DOMAIN, World, csr_for
from tests.waiting import eventually

LEAK = RevocationCampaignName("default", "leak")
SUPERSEDED, COMPROMISE = RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE
Outcome = CertificateView | CertdError


def issued(world: World, count: int, *, csr: bytes | None = None, **changes: Any) -> list[str]:
    """Issues certificates, all of one key, and returns their names."""
    one = csr or csr_for("www.example.internal")
    return [view.name for view in made(issue_batch(world, [batch_item(csr=one, **changes) for _ in range(count)]))]


def item(
    name: str, reason: RevocationReason = SUPERSEDED, *, key: RequestKey | None = None, **more: Any
) -> RevocationItem:
    return RevocationItem(NewRevocation(name=CertificateName.parse("name", name), reason=reason, **more), key)


def revoke_batch(
    world: World, items: Sequence[RevocationItem], *, caller: Caller = ADMINISTRATOR, validate_only: bool = False
) -> list[Outcome]:
    return world.core.batch_revocation.revoke(caller, items, validate_only=validate_only)


def start(world: World, selection: Selection, **options: Any) -> RevocationCampaign:
    said: dict[str, Any] = {
        "name": LEAK,
        "authority": None,
        "reason": SUPERSEDED,
        "key": None,
        "validate_only": False,
        "caller": ADMINISTRATOR,
    } | options
    caller, key, validate_only = (said.pop(each) for each in ("caller", "key", "validate_only"))
    new = NewRevocationCampaign(selection=selection, **said)
    return world.core.revocation_campaigns.create(caller, new, key=key, validate_only=validate_only)


def get(world: World, name: RevocationCampaignName = LEAK) -> RevocationCampaign:
    return world.core.revocation_campaigns.get(ADMINISTRATOR, name)


def ended(world: World, name: RevocationCampaignName = LEAK) -> RevocationCampaign:
    """Waits until a campaign has ended."""

    def look() -> RevocationCampaign | None:
        world.core.scheduler.wake()
        found = get(world, name)
        return found if found.state is not RevocationCampaignState.RUNNING else None

    return eventually(look, within=60.0)


def counts(campaign: RevocationCampaign) -> tuple[int, int, int, int]:
    """Found, revoked, unchanged, failed."""
    return campaign.found_count, campaign.revoked_count, campaign.unchanged_count, campaign.failed_count


def revoked_names(world: World) -> set[str]:
    """Names of all certificates of the tenant that are revoked."""
    columns, authorities = schema.certificates.c, schema.authorities.c
    statement = (
        select(authorities.authority_id, columns.serial)
        .join_from(schema.certificates, schema.authorities, authorities.uid == columns.authority_uid)
        .where(columns.state == CertificateState.REVOKED.value, authorities.tenant == "default")
    )
    with world.core.store.read("test.revoked") as tx:
        return {
            f"tenants/default/authorities/{row.authority_id}/certificates/{row.serial}" for row in tx.execute(statement)
        }


def events_of(world: World, *types: EventType) -> list[Event]:
    return [event for event in world.events() if event.type in types]


def holder(world: World, name: str, role: Role, scope: str) -> Caller:
    """Returns a caller who holds a role somewhere, by the grant `{name}-given`."""
    caller = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/{name}", serial="03")
    held = Grant(grant_id=f"{name}-given", principal=caller.principal, role=role, scope=scope, profiles=None)

    def work(tx: Any) -> None:
        grants.insert(tx, held)
        tx.configuration_changed()

    world.core.store.write("test.grant", work)
    return caller


def withdraw(world: World, caller: Caller) -> None:
    def work(tx: Any) -> None:
        tx.execute(schema.grants.delete().where(schema.grants.c.principal == caller.principal))
        tx.configuration_changed()

    world.core.store.write("test.withdraw", work)


def serial_of(der: bytes | None) -> str:
    """Returns the serial of a certificate, as resource names have it."""
    assert der is not None
    return f"{x509.load_der_x509_certificate(der).serial_number:x}".zfill(32)
