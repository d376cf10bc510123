"""The job of each authority key that keeps its responder, and the answers that are signed ahead, in time.

A run does a slice: whoever stops the daemon does not wait for a million signatures, and what is signed already is
passed over by whoever goes on.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityKeyState
from certd.model.job import Job, JobKind
from certd.services.ocsp_jobs import RESPONDER_PROFILE, ensure_responder, parse_subject, subject_of
from certd.services.ocsp_keys import Answering, load_answering
from certd.services.ocsp_responders import LIFETIME, OcspResponders
from certd.services.ocsp_signing import CLOCKS_DIFFER, draft_of, sign, standing_answer
from certd.services.steps import StepHook
from certd.store import authorities, jobs, ocsp_responses
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient

PAGE_LENGTH: Final = 64
"""Answers of one frame of the token and one transaction; few, for others' signatures wait behind them."""
PAGES: Final = 16
"""Of one run."""
_ROUNDS: Final = 16
"""How often in the lifetime of an answer all certificates are looked at."""
_SHORTEST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=6)
_OVER: Final = frozenset({AuthorityKeyState.SUPERSEDED, AuthorityKeyState.TAINTED, AuthorityKeyState.RETIRED})
_AUTHORITIES: Final = 200
"""Of one page."""

_log = logging.getLogger("certd.ocsp")


class OcspPresigning:
    """Does the job.

    Args:
        store: the books.
        token: who signs.
        clock: the time.
        responders: makes those who sign.
        step: is called with the name of each step when it is done.
    """

    def __init__(
        self, *, store: Store, token: TokenClient, clock: Clock, responders: OcspResponders, step: StepHook
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._responders = responders
        self._step = step
        self._positions: dict[str, str] = {}
        """Serials after which unfinished rounds go on, by the subject of their jobs."""

    def advance(self, subject: str) -> None:
        """Does a slice of the job, and puts it again for the next one; raises what the token and the books raise."""
        authority_uid, key_number = parse_subject(subject)
        try:
            answering = self._answering(authority_uid, key_number)
            if self._is_over(answering):
                self._wind_up(subject, answering)
                return
            due = self._responders.ensure(answering)
            # It may be another one since.
            answering = self._answering(authority_uid, key_number)
        except CertdError as error:
            if error.reason is not Reason.AUTHORITY_NOT_FOUND:
                raise
            self._end(subject)
            return
        now = self._clock.now()
        if answering.key_at(now) is None:
            # What it has issued has ended with it.
            self._wind_up(subject, answering)
            return
        after: str | None = self._positions.get(subject, "")
        for _ in range(PAGES):
            after = self._page(answering, after or "")
            if after is None:
                break
        next_time = self._clock.now()
        if after is None:
            self._positions.pop(subject, None)
            ocsp_ended = self._clock.now()
            self._store.write("ocsp.ended", lambda tx: ocsp_responses.delete_ended(tx, ocsp_ended))
            next_time = min(next_time + _pause(answering.lifetime), due or datetime.max.replace(tzinfo=now.tzinfo))
        else:
            self._positions[subject] = after
        job = Job(kind=JobKind.ADVANCE_OCSP_RESPONDER, subject=subject, due_time=next_time)
        self._store.write("ocsp.job", lambda tx: jobs.put(tx, job))

    def _answering(self, authority_uid: str, key_number: int) -> Answering:
        with self._store.read("ocsp.keys") as tx:
            return load_answering(tx, (authority_uid, key_number))

    def _is_over(self, answering: Answering) -> bool:
        """Returns whether nothing is left that a key, which signs no more, has to be answered for.

        Who asks all the same is answered by the last responder, until that ends, or by the authority's own key.
        """
        authority = answering.authority
        if authority.key.state not in _OVER:
            return False
        with self._store.read("ocsp.unended") as tx:
            return not ocsp_responses.any_unended(
                tx,
                authority.uid,
                authority.key.number,
                now=self._clock.now(),
                # Those of its responders are made here.
                but_of_profile=RESPONDER_PROFILE,
            )

    def _page(self, answering: Answering, after: str) -> str | None:
        """Signs the next answers that are due; returns the serial of the last one, None when none is left."""
        authority, now = answering.authority, self._clock.now()
        key = answering.key_at(now)
        if key is None:
            return None
        with self._store.read("ocsp.due") as tx:
            page = ocsp_responses.due(
                tx,
                authority.uid,
                authority.key.number,
                after=after,
                now=now,
                # What ends with the responder or the authority is not signed again and again.
                fresh_until=min(now + answering.lifetime / 2, key.not_after),
                ahead=now + CLOCKS_DIFFER,
                limit=PAGE_LENGTH,
            )
        if not page:
            return None
        drafts = [draft_of(answering, key, [standing_answer(answering, one)], nonce=None, now=now) for one in page]
        signed = sign(self._token, drafts)
        failures = [result for result in signed if isinstance(result, CertdError)]
        answers = [
            ((authority.uid, authority.key.number, one.serial), one, result)
            for one, result in zip(page, signed, strict=True)
            if not isinstance(result, CertdError)
        ]
        self._store.write("ocsp.put", lambda tx: ocsp_responses.put(tx, answers))
        self._step("ocsp.page-signed")
        if failures:
            raise failures[0]
        return page[-1].serial if len(page) == PAGE_LENGTH else None

    def _wind_up(self, subject: str, answering: Answering) -> None:
        """Ends the job once no responder of the key is left whose key is in the token."""
        due_time = self._responders.wind_up(answering)
        if due_time is None:
            self._end(subject)
            return
        job = Job(kind=JobKind.ADVANCE_OCSP_RESPONDER, subject=subject, due_time=due_time)
        self._store.write("ocsp.job", lambda tx: jobs.put(tx, job))

    def _end(self, subject: str) -> None:
        self._positions.pop(subject, None)
        self._store.write("ocsp.job-end", lambda tx: jobs.finish(tx, JobKind.ADVANCE_OCSP_RESPONDER, subject))


def _pause(lifetime: timedelta) -> timedelta:
    return max(_SHORTEST_PAUSE, min(lifetime / _ROUNDS, _LONGEST_PAUSE))


def _is_begun(tx: Transaction, authority: Authority, now: datetime) -> bool:
    """Returns whether the job of a key is put, for a time that no clock which was ahead has told."""
    due_time = jobs.due_time(tx, JobKind.ADVANCE_OCSP_RESPONDER, subject_of(authority.uid, authority.key.number))
    return due_time is not None and due_time <= now + LIFETIME


def begin_all(store: Store, now: datetime) -> None:
    """Has all keys answered for that should be; for when the daemon starts."""
    after = ""
    while True:
        with store.read("ocsp.begin") as tx:
            page = authorities.page_by_uid(tx, after=after, limit=_AUTHORITIES)
            keyed = [(one, one.with_key(key)) for one in page for key in authorities.keys(tx, one.uid)]
            missing = [
                one
                for _, one in keyed
                if one.certificate is not None
                and one.not_after is not None
                and one.not_after > now
                and not _is_begun(tx, one, now)
            ]
        if missing:

            def put(tx: Transaction, several: list[Authority] = missing) -> None:
                for one in several:
                    ensure_responder(tx, one, now)

            store.write("ocsp.begin", put)
        if len(page) < _AUTHORITIES:
            return
        after = page[-1].uid
