"""Looks at the books: authorities, CRLs, responders, profiles, jobs, subscriptions, the chain of events."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from certd.config import Config
from certd.doctor import machine
from certd.doctor.findings import Finding, error, info, warning
from certd.errors import CertdError
from certd.model.access import EVERYTHING, Role
from certd.model.authority import Authority, AuthorityKeyState, AuthorityState
from certd.pki.profile import NameRules, Profile
from certd.pki.profile_document import from_document
from certd.pki.profiles import BUILT_IN
from certd.services.ending_authorities import outgrown
from certd.store import authorities, events, examination, grants
from certd.store.reader import Reader
from certd.store.transaction import Transaction

_SKEW: Final = timedelta(minutes=2)
_LONG_UNCHANGED: Final = timedelta(hours=1)
_LONG_PROFILE: Final = timedelta(days=398)
"""What browsers take from public authorities; longer ones are for those who cannot renew."""
_ATTEMPTS: Final = 10
_OVERDUE: Final = timedelta(hours=1)
_CHAIN_LOOK: Final = 2000
"""Events at the end of the record; certd audit verify looks at all."""
_PAGE: Final = 500
_LATE: Final = 0.05
_EARLY: Final = 0.2
_LATE_AUTHORITY: Final = timedelta(days=30)


def look(settings: Config, reader: Reader, now: datetime) -> Iterator[Finding]:
    """Yields what is to be said of the books. Raises STORE_UNAVAILABLE."""
    with reader.read("doctor.events") as tx:
        yield from _events(tx, now)
        yield from machine.backups(settings, examination.last_backup(tx), now)
    with reader.read("doctor.authorities") as tx:
        found = list(_all_authorities(tx))
        responders = examination.newest_responders(tx)
        keys = {one.uid: authorities.keys(tx, one.uid) for one in found}
    publishing = []
    for authority in found:
        ends = [
            (one.number, one.certificate)
            for one in keys[authority.uid]
            if one.state is AuthorityKeyState.ACTIVE and one.certificate is not None
        ]
        with reader.read("doctor.outgrown") as tx:
            lifetime = None if authority.tenant is None else outgrown(tx, authority, now)
        for number, certificate in ends:
            yield from _near_end(authority, number, certificate, now, outgrown_by=lifetime)
            yield from _responder(authority, responders.get((authority.uid, number)), now)
        wanted = authority.revocation
        if authority.tenant is not None and (
            (wanted.crl.enabled and not wanted.crl.base_urls) or (wanted.ocsp.enabled and not wanted.ocsp.base_urls)
        ):
            publishing.append(authority.name)
    yield from machine.unset_base_url(settings, publishing)
    with reader.read("doctor.published") as tx:
        yield from _lists(tx, now)
        yield from _leaves(tx, now)
        yield from _profiles(tx)
        yield from _grants(tx, now)
        yield from _work(tx, now)
        yield from _escrow(settings, tx)
        yield from _sealed(tx)
        yield from _server(tx, now)


def _all_authorities(tx: Transaction) -> Iterator[Authority]:
    after = ""
    while page := authorities.page_by_uid(tx, after=after, limit=_PAGE):
        after = page[-1].uid
        for one in page:
            if one.state is AuthorityState.ENABLED and one.delete_time is None:
                yield one


def _near_end(
    authority: Authority, number: int, der: bytes, now: datetime, *, outgrown_by: timedelta | None
) -> Iterator[Finding]:
    """Yields that an authority ends soon; `outgrown_by` is a lifetime of what it issues for which that is too soon."""
    certificate = x509.load_der_x509_certificate(der)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin > now + _SKEW:
        yield machine.clock_finding(f"the certificate of {authority.name} begins at {begin.isoformat()}", now)
    left, life = end - now, end - begin
    said = f"the certificate of {authority.name}, key {number}, ends {end.isoformat()}"
    why = "no certificate below it outlives it: what it issues gets shorter, and then ends with it"
    remedy = (
        "certd makes the next system authority by itself, see its log; certd rotate-system-authority does so now"
        if authority.tenant is None
        else "prepare its next key now (certctl authority prepare-key) and activate it once relying parties trust it, "
        "or have its certificate issued anew (certctl authority reissue)"
    )
    if left < min(_LATE_AUTHORITY, life * _EARLY) or left < life * _LATE:
        yield error("authority-end", said, why=why, remedy=remedy)
    elif left < life * _EARLY or outgrown_by is not None:
        if outgrown_by is not None:
            said += f", and some of what it issues lives for {outgrown_by.days} days"
        yield warning("authority-end", said, why=why, remedy=remedy)


def _responder(authority: Authority, spans: tuple[datetime, datetime] | None, now: datetime) -> Iterator[Finding]:
    if spans is None or not authority.revocation.ocsp.enabled:
        return
    begin, end = spans
    if now + (end - begin) / 8 < end:
        return
    said = f"the OCSP responder of {authority.name} ends {end.isoformat()}"
    why = "its answers are refused after that, and clients that insist on one refuse the certificates"
    remedy = "the daemon makes the next one by itself while it runs: see its log, and whether the token is there"
    yield (error if end <= now else warning)("responder-end", said, why=why, remedy=remedy)


def _lists(tx: Transaction, now: datetime) -> Iterator[Finding]:
    for one in examination.troubled_lists(tx, now, changed_before=now - _LONG_UNCHANGED):
        remedy = (
            "see the log of the daemon, and whether the token is there; certctl authority crl generate tries it now"
        )
        if one.next_update is not None and one.next_update < now:
            said = f"the CRL of {one.name} has ended at {one.next_update.isoformat()}"
            yield error("crl", said, why="relying parties that insist on one refuse everything", remedy=remedy)
        elif one.last_error:
            said = f"the CRL of {one.name} cannot be signed: {one.last_error}"
            yield error("crl", said, why="what is revoked stays good for relying parties", remedy=remedy)
        elif one.changed_time is not None:
            said = f"the CRL of {one.name} does not say what changed at {one.changed_time.isoformat()}"
            yield warning("crl", said, why="what is revoked stays good for relying parties", remedy=remedy)


def _leaves(tx: Transaction, now: datetime) -> Iterator[Finding]:
    profiles = [profile.profile_id for profile in BUILT_IN.values() if profile.authority]
    profiles += [profile.profile_id for _, profile in _documents(tx) if profile.authority]
    found = examination.leaves_of_roots(tx, now, authority_profiles=[*profiles, "ocsp-signing", "ocsp-responder"])
    if found:
        yield warning(
            "root-leaves",
            f"roots have issued end-entity certificates, such as {found[0]}" + _and_more(found),
            why="the key of a root is in use every day, and its compromise cannot be revoked by anybody",
            remedy="issue by a subordinate authority, and disable the root: certctl authority disable",
        )


def _documents(tx: Transaction) -> list[tuple[str, Profile]]:
    found = []
    for tenant, profile_id, version, document in examination.profile_documents(tx):
        try:
            found.append((tenant, from_document(document, profile_id=profile_id, version=version)))
        except CertdError:
            # Of a newer release.
            continue
    return found


def _profiles(tx: Transaction) -> Iterator[Finding]:
    for tenant, profile in _documents(tx):
        name = f"tenants/{tenant}/profiles/{profile.profile_id}"
        if _any_name(profile.names) and profile.longest_lifetime > _LONG_PROFILE and not profile.authority:
            yield warning(
                "wide-profile",
                f"{name} allows any name for {profile.longest_lifetime.days} days",
                why="whoever may use it can pose as every host, for longer than anybody remembers",
                remedy="limit its names to suffixes, or its lifetime: certctl profile update",
            )


def _any_name(names: NameRules) -> bool:
    kinds = (names.dns_names, names.ip_addresses, names.uris, names.email_addresses)
    return any(kind is not None and kind.allow_any for kind in kinds)


def _grants(tx: Transaction, now: datetime) -> Iterator[Finding]:
    # They could grant themselves what they lack.
    administrators = {one.principal for one in grants.administrators(tx, now)}
    for principal, scope, grant_id in examination.grants_of_every_profile(tx, Role.ISSUER.value):
        if principal not in administrators and (scope == EVERYTHING or principal.endswith("/*")):
            yield warning(
                "wide-grant",
                f"the grant {grant_id} lets {principal} issue by every profile on {scope}",
                why="the profiles of authorities are among them, and an authority of their own issues anything",
                remedy="make a grant with --profile for each that is needed, and delete this one: certctl grant",
            )


def _work(tx: Transaction, now: datetime) -> Iterator[Finding]:
    running = examination.daemons(tx, now)
    if not running:
        yield info(
            "daemon",
            "no daemon uses the books at present",
            why="nothing is issued, renewed or revoked, and CRLs end one day",
            remedy="certd serve, or systemctl start certd",
        )
    stuck = examination.stuck_jobs(tx, now, attempts=_ATTEMPTS, overdue=_OVERDUE if running else timedelta(days=36500))
    if stuck:
        yield warning(
            "jobs",
            f"{len(stuck)} jobs do not come to their end: {stuck[0]}" + _and_more(stuck),
            why="what they are for does not happen: a renewal, a CRL, a delivery",
            remedy="the log of the daemon says why each attempt failed",
        )
    failing = examination.failing_subscriptions(tx)
    if failing:
        yield warning(
            "subscriptions",
            f"{len(failing)} subscriptions are not delivered: {failing[0]}" + _and_more(failing),
            why="those who should hear of expiry and revocation do not",
            remedy="see certctl subscription get, and whether the target answers: certctl subscription test",
        )


def _escrow(settings: Config, tx: Transaction) -> Iterator[Finding]:
    if settings.token.recovery_public_key is None:
        return
    found = examination.keys_without_escrow(tx)
    if found:
        yield warning(
            "escrow",
            f"{len(found)} wrapping keys are in no escrow, such as {found[0]}",
            why="they were made before [token] recovery_public_key was set, and are lost with the token",
            remedy="rotate them: certctl wrapping-key rotate",
        )


def _sealed(tx: Transaction) -> Iterator[Finding]:
    count = examination.sealed_without_key(tx)
    if count:
        yield error(
            "sealed-keys",
            f"{count} keys and secrets are sealed under wrapping keys that are not there, or were destroyed",
            why="nothing opens them any more: they can be neither exported nor leased nor used",
            remedy="their rows or those of wrapping keys were changed: restore a backup that has both",
        )


def _server(tx: Transaction, now: datetime) -> Iterator[Finding]:
    time = examination.server_time(tx)
    if time is not None and abs(time - now) > _SKEW:
        yield machine.clock_finding(
            f"the clock of the PostgreSQL server says {time.isoformat(timespec='seconds')}", now
        )
    found = examination.server_settings(tx)
    if not found:
        return
    for name in ("fsync", "full_page_writes"):
        if found.get(name) == "off":
            yield error(
                "postgresql",
                f"PostgreSQL runs with {name} = off",
                why="a power cut loses certificates that were answered, or the whole database",
                remedy=f"set {name} = on in postgresql.conf",
            )
    if found.get("synchronous_commit") == "off":
        yield info(
            "postgresql",
            "PostgreSQL has synchronous_commit = off; certd asks for on in its own sessions",
            why="what other programs write to the same server may be lost",
            remedy="set synchronous_commit = on in postgresql.conf",
        )
    if not found.get("synchronous_standby_names"):
        yield info(
            "postgresql",
            "PostgreSQL has no synchronous standby",
            why="what was answered since the last backup is lost with the disk of its machine",
            remedy="set synchronous_standby_names, or make backups often",
        )


def _events(tx: Transaction, now: datetime) -> Iterator[Finding]:
    head = events.head(tx)
    before = events.head_at(tx, max(0, head.seq - _CHAIN_LOOK))
    broken = []
    if before is None:
        broken = [f"event {head.seq - _CHAIN_LOOK} is missing"]
    else:
        found, reached = events.verify_page(tx, before, limit=_CHAIN_LOOK)
        broken = [one.description for one in found]
        if not broken and reached != head:
            broken = [f"the record ends at event {reached.seq}, and should at {head.seq}"]
    if broken:
        yield error(
            "events",
            f"the record of events is not what was written: {broken[0]}" + _and_more(broken),
            why="somebody changed the database, or it is damaged",
            remedy="certd audit verify tells all; restore a backup if it was no one's doing",
        )
    newest = events.last(tx)
    if newest is not None and newest.event.time > now + _SKEW:
        yield machine.clock_finding(f"event {newest.seq} happened at {newest.event.time.isoformat()}", now)


def _and_more(found: list[str]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
