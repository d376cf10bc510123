"""What a revocation campaign finds, page by page, each at a bounded cost however many certificates there are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from certd.model.association import Association
from certd.model.authority import Authority
from certd.model.certificate import Certificate
from certd.model.certificate_filter import AllOf, CertificateFilter, EndsWithin, OfKey, UnderProfile
from certd.model.event import EventType
from certd.model.managed_certificate import ManagedCertificateVersion
from certd.model.names import AssociationName, IdentityName, ManagedCertificateName
from certd.model.revocation_campaign import OfConsumer, OfFilter, OfPublicKey, RevocationCampaign, UnderProfileOf
from certd.services.authorities import every_authority
from certd.services.authority_views import authority_with_key
from certd.services.certificates import place_of
from certd.services.revocation_records import Subject, subject_of
from certd.store import (
    associations,
    authorities,
    certificate_search,
    certificates,
    events,
    identities,
    managed_certificates,
    managed_versions,
)
from certd.store.store import Transaction

_MOST_COUNTED = 10_000
_COUNTED_TOGETHER = 1_000
_MOST_PAGES_COUNTED = 100
_ENDED = ""
"""Stands in a position where it goes through associations that have ended; no managed certificate has that id."""
_SPAN = 10_000
"""Numbers of events that are looked at in one page."""


@dataclass(frozen=True, slots=True)
class Selected:
    """A page of what a campaign finds."""

    subjects: tuple[Subject, ...]
    imported: tuple[str, ...]
    """Names of versions of managed certificates that others issued, and nobody here can revoke; and of deleted ones."""
    position: tuple[str, ...] | None
    """Where the search goes on; None: this is all."""


def selected(tx: Transaction, campaign: RevocationCampaign, *, limit: int) -> Selected:
    """Returns up to `limit` certificates from where the campaign stands; few, or none, say nothing of what is left."""
    match campaign.selection:
        case OfConsumer(consumer):
            identity = identities.get(tx, IdentityName.parse("consumer", consumer))
            spiffe_id = "" if identity is None else identity.spiffe_id
            if campaign.position[:1] == (_ENDED,):
                return _of_ended(tx, campaign, spiffe_id, limit)
            return _of_consumer(tx, campaign, spiffe_id, limit)
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


def _of_consumer(tx: Transaction, campaign: RevocationCampaign, spiffe_id: str, limit: int) -> Selected:
    """Goes through associations by name, and through the versions of each, the newest first; then through `_of_ended`.

    The position is ids of a managed certificate and of an association, and below which version it goes on; empty: with
    the next association.
    """
    issuers = _issuers(tx, campaign)
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
            managed_id, association_id, below = _ENDED, str(events.head(tx).seq + 1), ""
    return Selected(tuple(_subjects(tx, issuers, rows)), tuple(imported), (managed_id, association_id, below))


def _of_ended(tx: Transaction, campaign: RevocationCampaign, spiffe_id: str, limit: int) -> Selected:
    """Goes through what tells of associations that have ended, the newest first, and through the versions of each.

    Those that were there before an association ended its consumer may have leased. The position is the number of an
    event, and below which version of what that tells of it goes on; empty: with the events before it. Of a managed
    certificate that is deleted nothing tells which certificates it had: it is named among what could not be revoked.
    """
    issuers = _issuers(tx, campaign)
    _, number, below = campaign.position
    before = int(number)
    rows: list[Certificate] = []
    unfound: list[str] = []
    told = events.of_type_back(
        tx,
        EventType.ASSOCIATION_DELETED,
        campaign.name.tenant,
        before_seq=before + 1 if below else before,
        span=_SPAN,
    )
    for one in told:
        uid, room = one.event.details.get("uid", ""), limit - len(rows) - len(unfound)
        if room == 0:
            return Selected(tuple(_subjects(tx, issuers, rows)), tuple(unfound), (_ENDED, str(one.seq + 1), ""))
        if one.event.details.get("consumer") != spiffe_id or associations.of_consumer(tx, uid, spiffe_id) is not None:
            # Of one that has come back all versions were found before.
            continue
        name = AssociationName.parse("resource", one.event.resource).managed_certificate
        if managed_certificates.get_by_uid(tx, uid) is None:
            unfound.append(str(name))
            continue
        goes_on = int(below) if below and one.seq == before else None
        versions = managed_versions.page(tx, uid, below=goes_on, limit=room)
        for version in versions:
            if version.create_time <= one.event.time:
                _sort(tx, campaign, issuers, name, version, rows, unfound)
        if len(versions) == room:
            position = (_ENDED, str(one.seq), str(versions[-1].number))
            return Selected(tuple(_subjects(tx, issuers, rows)), tuple(unfound), position)
    # As far as the span went that began below the event, or at it.
    left = (before + 1 if below else before) - _SPAN
    following = (_ENDED, str(left), "") if left > 1 else None
    return Selected(tuple(_subjects(tx, issuers, rows)), tuple(unfound), following)


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
