"""What an authority's settings mean for the certificates that it signs, and for the CRLs that they name."""

from datetime import datetime, timedelta
from functools import partial

from certd.model.authority import Authority, AuthorityKeyState, AuthorityState, UsageMode
from certd.model.revocation_settings import partitions_of
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.status_locations import (
    NOWHERE,
    StatusLocations,
    authority_stem,
    crl_stem,
    crl_url,
    responder_url,
)
from certd.services.ocsp_jobs import ensure_responder
from certd.store import authorities, revocation_lists
from certd.store.store import Store, Transaction

_PAGE_LENGTH = 200
_CLOCKS_DIFFER = timedelta(minutes=5)


def locations_of(authority: Authority, base_url: str | None) -> StatusLocations:
    """Returns what is written into the certificates that the key of an authority signs.

    Args:
        authority: who signs. Those of the system, whose certificates certd alone reads, say nothing.
        base_url: under which this server is reached; None: it is not, and what has no URL of its own is left out.
    """
    if authority.tenant is None:
        return NOWHERE
    settings, uid, number = authority.revocation, authority.uid, authority.key.number
    own = () if base_url is None else (base_url,)
    issuers = () if settings.omit_issuer_url else settings.issuer_base_urls or own
    responders = settings.ocsp.base_urls or own if settings.ocsp.enabled and not settings.ocsp.omit_extension else ()
    lists = settings.crl.base_urls or own if settings.crl.enabled and not settings.crl.omit_extension else ()
    return StatusLocations(
        issuer_urls=tuple(f"{authority_stem(base, uid, number)}.cer" for base in issuers),
        responder_urls=tuple(responder_url(base, uid, number) for base in responders),
        crl_stems=tuple(crl_stem(base, uid, number) for base in lists),
        partition_count=settings.crl.partition_count if lists and settings.crl.partitioned else 0,
        short_lived=authority.usage_mode is UsageMode.SHORT_LIVED,
    )


def crl_urls(authority: Authority, base_url: str | None, partition: int) -> tuple[str, ...]:
    """Returns the URLs of a CRL of the authority's key that certificates name now; partition 0: the complete one."""
    return tuple(crl_url(stem, partition) for stem in locations_of(authority, base_url).crl_stems)


def ensure_lists(tx: Transaction, authority: Authority, base_url: str | None, now: datetime) -> None:
    """Has every CRL signed, and requests answered, that certificates of the authority's key may lead to.

    It happens before the first one does.

    To be called in the transaction that gives a key its certificate, and in that of new settings; idempotent.
    """
    ensure_responder(tx, authority, now)
    urls = _urls_by_partition(authority, base_url)
    revocation_lists.ensure_rows(tx, authority.uid, authority.key.number, urls, now=now)


def _urls_by_partition(authority: Authority, base_url: str | None) -> dict[int, tuple[str, ...]]:
    """Returns the URLs of every CRL that the authority's key is to sign.

    The complete one perhaps has none. A partition without a URL has no CRL either: no certificate can name it, and a
    reader could not tell it from the complete one (RFC 5280, section 5.2.5).
    """
    if authority.tenant is None or not authority.revocation.crl.enabled:
        return {}
    found = {number: crl_urls(authority, base_url, number) for number in partitions_of(authority.revocation)}
    return {number: urls for number, urls in found.items() if urls or number == revocation_lists.COMPLETE}


def resume_lists(tx: Transaction, authority: Authority, now: datetime) -> None:
    """Has the CRLs of the authority's key signed again, also after the last of them, and requests answered.

    To be called in the transaction by which a key that had come to its end signs anew; idempotent.
    """
    ensure_responder(tx, authority, now)
    # Also those of which somebody signs the last at this moment: what is marked meanwhile is not the last.
    signed = revocation_lists.of_key(tx, authority.uid, authority.key.number)
    revocation_lists.mark_all_changed(tx, {one.key for one in signed}, now)


def ensure_lists_of_keys(tx: Transaction, authority: Authority, base_url: str | None, now: datetime) -> None:
    """Does what `ensure_lists` does for every key of an authority that signs something yet; for its new settings."""
    for one in _by_key(tx, authority, now):
        ensure_lists(tx, one, base_url, now)


def follow_base_url(store: Store, base_url: str | None, now: datetime) -> None:
    """Has the CRLs of all authorities name `base_url`, which may be another than when the daemon last ran.

    To be called before anything is issued.
    """
    after = ""
    while True:
        with store.read("revocation-lists.named") as tx:
            page = authorities.page_by_uid(tx, after=after, limit=_PAGE_LENGTH)
            behind = [
                authority
                for authority in page
                if any(_is_behind(tx, one, base_url) for one in _by_key(tx, authority, now))
            ]
        for authority in behind:
            store.write("revocation-lists.name", partial(_ensure, authority.uid, base_url, now))
        if len(page) < _PAGE_LENGTH:
            return
        after = page[-1].uid


def follow_clock(store: Store, now: datetime) -> None:
    """Has CRLs signed anew that begin in the future: a clock was ahead when they were signed, and nobody accepts them.

    To be called when the daemon starts; the next ones would be due as far ahead.
    """
    with store.read("revocation-lists.ahead") as tx:
        found = revocation_lists.ahead(tx, now + _CLOCKS_DIFFER)
    if found:
        store.write("revocation-lists.ahead", lambda tx: revocation_lists.mark_all_changed(tx, set(found), now))


def _by_key(tx: Transaction, authority: Authority, now: datetime) -> list[Authority]:
    """Returns the authority as it is where each of its keys signs, but for those that sign nothing any more."""
    if authority.tenant is None or authority.state is AuthorityState.PURGED:
        return []
    return [
        authority.with_key(key)
        for key in authorities.keys(tx, authority.uid)
        if key.state is not AuthorityKeyState.RETIRED and key.not_after is not None and now <= key.not_after
    ]


def _is_behind(tx: Transaction, authority: Authority, base_url: str | None) -> bool:
    # Each by itself: partitions may have been asked for when there was no URL, but the complete CRL had one of before.
    known = revocation_lists.urls_of_key(tx, authority.uid, authority.key.number)
    named = _urls_by_partition(authority, base_url)
    return any(not set(urls) <= set(known.get(number, ())) for number, urls in named.items())


def _ensure(uid: str, base_url: str | None, now: datetime, tx: Transaction) -> None:
    # Settings may have changed since they were read.
    found = authorities.get_by_uid(tx, uid)
    if found is not None:
        ensure_lists_of_keys(tx, found, base_url, now)


def location_warnings(authority: Authority, base_url: str | None) -> tuple[Warning, ...]:
    """Returns what certificates of the authority will lack though its settings want it, and the remedy."""
    settings = authority.revocation
    warnings = []
    if authority.usage_mode is UsageMode.SHORT_LIVED and authority.path_length > 0:
        warnings.append(
            Warning(
                "authority.usage_mode",
                "authorities may stand below it, whose certificates say nothing of revocation either and can only end;"
                " let a GENERAL_PURPOSE authority sign those, or say path_length 0",
            )
        )
    crl, ocsp = settings.crl, settings.ocsp
    lacking = {
        "their CRL": crl.enabled and not crl.omit_extension and not crl.base_urls,
        "an OCSP responder": ocsp.enabled and not ocsp.omit_extension and not ocsp.base_urls,
        "the certificate of their issuer": not settings.omit_issuer_url and not settings.issuer_base_urls,
    }
    unnamed = [what for what, is_lacking in lacking.items() if is_lacking]
    if base_url is None and unnamed:
        *others, last = unnamed
        told = f"{', '.join(others)} or {last}" if others else last
        unsigned = "; until then its partitions have no CRLs" if crl.partitioned and "their CRL" in unnamed else ""
        warnings.append(
            Warning(
                "authority.revocation",
                f"certificates will not say where {told} is, for the server does not know where others reach it: set"
                f" [web] base_url, or base URLs of the authority{unsigned}",
            )
        )
    return tuple(warnings)
