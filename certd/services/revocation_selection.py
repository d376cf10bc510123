"""What a revocation campaign finds, page by page, each at a bounded cost however many certificates there are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from certd.model.association import Association
from certd.model.authority import Authority
from certd.model.certificate import Certificate
from certd.model.certificate_filter import AllOf, CertificateFilter, EndsWithin, OfKey, UnderProfile
from certd.model.managed_certificate import ManagedCertificateVersion
from certd.model.names import AssociationName, IdentityName, ManagedCertificateName
from certd.model.revocation_campaign import OfConsumer, OfFilter, OfPublicKey, RevocationCampaign, UnderProfileOf
from certd.services.authorities import every_authority
from certd.services.authority_views import authority_with_key
from certd.services.certificates import place_of
from certd.services.revocation_records import Subject, subject_of
from certd.store import associations, authorities, certificate_search, certificates, identities, managed_versions
from certd.store.store import Transaction

_MOST_COUNTED = 10_000
_COUNTED_TOGETHER = 1_000
_MOST_PAGES_COUNTED = 100


@dataclass(frozen=True, slots=True)
class Selected:
    """A page of what a campaign finds."""

    subjects: tuple[Subject, ...]
    imported: tuple[str, ...]
    """Names of versions of managed certificates that others issued, and nobody here can revoke."""
    position: tuple[str, ...] | None
    """Where the search goes on; None: this is all."""


def selected(tx: Transaction, campaign: RevocationCampaign, *, limit: int) -> Selected:
    """Returns up to `limit` certificates from where the campaign stands; few, or none, say nothing of what is left."""
    match campaign.selection:
        case OfConsumer(consumer):
            return _of_consumer(tx, campaign, IdentityName.parse("consumer", consumer), limit)
        case UnderProfileOf(profile):
            return _searched(tx, campaign, UnderProfile(profile), limit)
        case OfPublicKey(sha256):
            return _searched(tx, campaign, OfKey(sha256), limit)
        case OfFilter(wanted):
            return _searched(tx, campaign, wanted, limit)
        case _:
            assert_never(campaign.selection)


def is_awaited(tx: Transaction, campaign: RevocationCampaign) -> bool:
    """Returns whether something is being signed that was asked for before the campaign, and may be what it is about."""
    return certificates.any_pending(tx, list(_issuers(tx, campaign)), campaign.create_time)


def count(tx: Transaction, campaign: RevocationCampaign) -> int:
    """Returns how many certificates a campaign would find, as far as 10,000, or as a bounded search finds them."""
    found = 0
    for _ in range(_MOST_PAGES_COUNTED):
        page = selected(tx, campaign, limit=_COUNTED_TOGETHER)
        found += len(page.subjects) + len(page.imported)
        if page.position is None or found >= _MOST_COUNTED:
            break
        campaign = replace(campaign, position=page.position)
    return min(found, _MOST_COUNTED)


def _issuers(tx: Transaction, campaign: RevocationCampaign) -> dict[str, Authority]:
    """Returns the authorities that may have issued what is looked for, by uid."""
    name = campaign.authority
    if name is None:
        among = every_authority(tx, campaign.name.tenant)
    else:
        # One that has gone meanwhile has issued nothing that could still be revoked.
        found = authorities.get(tx, name.tenant, name.authority)
        among = [] if found is None else [found]
    return {one.uid: one for one in among}


def _searched(tx: Transaction, campaign: RevocationCampaign, wanted: CertificateFilter, limit: int) -> Selected:
    issuers = _issuers(tx, campaign)
    if not campaign.include_expired:
        wanted = AllOf((wanted, EndsWithin(begin=campaign.create_time, end=None)))
    found = certificate_search.search(
        tx, list(issuers), wanted, after=place_of(list(campaign.position)) if campaign.position else None, limit=limit
    )
    position = None if found.after is None else (found.after[0].isoformat(), found.after[1])
    return Selected(tuple(_subjects(tx, issuers, found.certificates)), (), position)


def _of_consumer(tx: Transaction, campaign: RevocationCampaign, consumer: IdentityName, limit: int) -> Selected:
    """Goes through associations by name, and through the versions of each, the newest first.

    The position is ids of a managed certificate and of an association, and below which version it goes on; empty: with
    the next association.
    """
    issuers = _issuers(tx, campaign)
    identity = identities.get(tx, consumer)
    spiffe_id = "" if identity is None else identity.spiffe_id
    managed_id, association_id, below = campaign.position or ("", "", "")
    open_one = _association(tx, campaign, managed_id, association_id) if below else None
    following = associations.page_of_consumer(
        tx, campaign.name.tenant, spiffe_id, after=(managed_id, association_id), limit=limit
    )
    rows: list[Certificate] = []
    imported: list[str] = []
    for association in [*([] if open_one is None else [open_one]), *following]:
        name, room = association.name, limit - len(rows) - len(imported)
        versions = managed_versions.page(
            tx,
            association.managed_certificate_uid,
            below=int(below) if association is open_one else None,
            limit=room,
        )
        for version in versions:
            _sort(tx, campaign, issuers, name.managed_certificate, version, rows, imported)
        more = len(versions) == room
        managed_id, association_id = name.managed_certificate.managed_certificate, name.association
        below = str(versions[-1].number) if more else ""
        if len(rows) + len(imported) >= limit or more:
            break
    else:
        if len(following) < limit:
            return Selected(tuple(_subjects(tx, issuers, rows)), tuple(imported), None)
    return Selected(tuple(_subjects(tx, issuers, rows)), tuple(imported), (managed_id, association_id, below))


def _association(
    tx: Transaction, campaign: RevocationCampaign, managed_id: str, association_id: str
) -> Association | None:
    managed = ManagedCertificateName(campaign.name.tenant, managed_id)
    return associations.get(tx, AssociationName(managed, association_id))


def _sort(
    tx: Transaction,
    campaign: RevocationCampaign,
    issuers: dict[str, Authority],
    managed: ManagedCertificateName,
    version: ManagedCertificateVersion,
    rows: list[Certificate],
    imported: list[str],
) -> None:
    """Puts a version where it belongs, unless it is none that the campaign is about."""
    ended = version.not_after is not None and version.not_after < campaign.create_time
    if ended and not campaign.include_expired:
        return
    if version.certificate is not None and version.serial is None:
        if campaign.authority is None:
            imported.append(managed.version(version.number))
        return
    if version.serial is not None and version.authority_uid in issuers:
        row = certificates.get(tx, version.authority_uid, version.serial)
        if row is not None:
            rows.append(row)


def _subjects(tx: Transaction, issuers: dict[str, Authority], rows: Sequence[Certificate]) -> list[Subject]:
    return [subject_of(authority_with_key(tx, issuers[row.authority_uid], row.key_number), row) for row in rows]
