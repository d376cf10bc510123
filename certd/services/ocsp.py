"""Answers to OCSP requests (RFC 6960): from memory, from what was signed ahead, or signed now.

What is asked and not in memory waits in a queue with a bound. A few threads take from it as much as there is: they
look all of it up in one read, and have what is missing signed in one frame of the token.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.metrics import OCSP_ANSWERS
from certd.model.certificate import CertificateState
from certd.pki.ocsp_identifiers import HashAlgorithm
from certd.pki.ocsp_request import OcspRequest
from certd.pki.ocsp_response import ResponseStatus, error_response
from certd.services.ocsp_keys import AUTHORITY, Answering, OcspKeys
from certd.services.ocsp_memory import Answer, AnswerMemory
from certd.services.ocsp_signing import CLOCKS_DIFFER, Draft, answer_of, draft_of, serial_of, sign, single_answer
from certd.services.steps import StepHook
from certd.store import ocsp_responses
from certd.store.ocsp_responses import Standing, StoredAnswer
from certd.store.store import Store, Transaction
from certd.store.transaction import AnswerKey
from certd.token.client import TokenClient

QUEUE_LENGTH: Final = 1024
"""Requests that may wait at once; who comes then is told to try later."""
ROUND_LENGTH: Final = 64
"""Requests that are answered together."""
_WORKERS: Final = 3
"""One looks up, one has the token sign, one puts together."""
_LONGEST_SLEEP: Final = 10.0
_ENDING: Final = timedelta(minutes=5)
"""An answer that was signed ahead is used until so long before its end: clocks differ."""
_PASSING: Final = frozenset(
    {Reason.TOKEN_UNAVAILABLE, Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN, Reason.DEADLINE_EXCEEDED}
)

_log = logging.getLogger("certd.ocsp")

TRY_LATER: Final = Answer(error_response(ResponseStatus.TRY_LATER))
UNAUTHORIZED: Final = Answer(error_response(ResponseStatus.UNAUTHORIZED))
MALFORMED: Final = Answer(error_response(ResponseStatus.MALFORMED_REQUEST))
INTERNAL_ERROR: Final = Answer(error_response(ResponseStatus.INTERNAL_ERROR))
_REFUSALS: Final = (TRY_LATER, UNAUTHORIZED, INTERNAL_ERROR)
_STORED: Final = OCSP_ANSWERS.labels("stored")
_SIGNED: Final = OCSP_ANSWERS.labels("signed")


@dataclass(eq=False, slots=True, kw_only=True)
class _Item:
    authority_uid: str
    key_number: int
    request: OcspRequest
    asked: bytes
    future: Future[Answer]
    answering: Answering | None = None
    stored: StoredAnswer | None = None
    standings: tuple[Standing | None, ...] = ()
    draft: Draft | None = None

    @property
    def ahead(self) -> bool:
        """Whether an answer that was signed ahead will do."""
        request = self.request
        return request.nonce is None and len(request.certificates) == 1

    @property
    def row(self) -> AnswerKey | None:
        """Of the first certificate; None when no certificate can have its serial number."""
        serial = serial_of(self.request.certificates[0])
        return None if serial is None else (self.authority_uid, self.key_number, serial)

    @property
    def keeps(self) -> bool:
        """Whether the answer is stored, as those that are signed ahead are: named by SHA-1."""
        return self.ahead and self.request.certificates[0].algorithm is HashAlgorithm.SHA1

    def lasts(self, now: datetime) -> bool:
        """Returns whether the answer that was signed ahead can be given, and is good for a while.

        Another daemon may have had it signed by a responder of which this one is to hear within the second. One that
        begins in the future was signed while a clock was ahead.
        """
        stored, answering = self.stored, self.answering
        if stored is None or answering is None or stored.next_update - now <= _ENDING:
            return False
        if stored.this_update - now > CLOCKS_DIFFER:
            return False
        return stored.responder_number == AUTHORITY or stored.responder_number in answering.certificates


class OcspAnswers:
    """Answers.

    Args:
        store: the books.
        token: who signs.
        clock: the time.
        keys: which key answers.
        step: is called with the name of each numbered step when it is done.
        queue_length: see QUEUE_LENGTH.
    """

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        keys: OcspKeys,
        step: StepHook,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self.memory = AnswerMemory()
        self._store = store
        self._token = token
        self._clock = clock
        self._keys = keys
        self._step = step
        self._queue: queue.Queue[_Item | None] = queue.Queue(queue_length)
        self._closed = threading.Event()
        self._workers = [
            threading.Thread(target=self._run, name=f"ocsp-{number}", daemon=True) for number in range(_WORKERS)
        ]
        store.when_answers_forgotten(self.memory.forget)

    def start(self) -> None:
        """Starts the threads."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Ends the threads; who waits, or comes, is told to try later."""
        self._closed.set()
        for _ in self._workers:
            # Where there is no place, nobody waits for anything to come.
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
        for worker in self._workers:
            if worker.is_alive():
                worker.join()
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is not None and item.future.set_running_or_notify_cancel():
                _settle(item, TRY_LATER)

    def submit(self, authority_uid: str, key_number: int, request: OcspRequest, asked: bytes) -> Future[Answer]:
        """Has a request answered; the future hears the answer, or AUTHORITY_NOT_FOUND.

        Args:
            authority_uid: of the path.
            key_number: of the path.
            request: what is asked.
            asked: by what the memory finds the answer the next time.
        """
        future: Future[Answer] = Future()
        item = _Item(authority_uid=authority_uid, key_number=key_number, request=request, asked=asked, future=future)
        if self._closed.is_set():
            future.set_result(TRY_LATER)
            return future
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            future.set_result(TRY_LATER)
        return future

    def _run(self) -> None:
        while not self._closed.is_set():
            items = self._take()
            try:
                if items:
                    self._answer(items)
            except Exception:  # noqa: BLE001  # One bad request must not end the thread that all others need.
                _log.exception("answering OCSP requests failed")
            finally:
                for item in items:
                    if not item.future.done():
                        _settle(item, INTERNAL_ERROR)

    def _take(self) -> list[_Item]:
        items: list[_Item] = []
        try:
            while len(items) < ROUND_LENGTH:
                item = self._queue.get(timeout=_LONGEST_SLEEP) if not items else self._queue.get_nowait()
                if item is None:
                    break
                if item.future.set_running_or_notify_cancel():
                    items.append(item)
        except queue.Empty:
            pass
        return items

    def _answer(self, items: Sequence[_Item]) -> None:
        # Taken before anything is read: what changes after that keeps the answer out of the memory.
        version = self.memory.version
        found = [item for item in items if self._find(item)]
        now = self._clock.now()
        try:
            with self._store.read("ocsp.look-up") as tx:
                for item in found:
                    _look_up(tx, item, now)
        except CertdError as error:
            _log.debug("OCSP requests wait for the books: %s", error)
            for item in found:
                _settle(item, TRY_LATER)
            return
        missing = []
        for item in found:
            if item.lasts(now) and self._settle_stored(item, version):
                continue
            draft = self._draft(item, now)
            if isinstance(draft, Answer):
                _settle(item, draft)
            else:
                item.draft = draft
                missing.append(item)
        if missing:
            self._step("ocsp.1.looked-up")
            self._sign(missing, version)

    def _find(self, item: _Item) -> bool:
        """Finds who answers; settles what nobody does."""
        try:
            item.answering = answering = self._keys.get(item.authority_uid, item.key_number)
        except CertdError as error:
            if error.reason is Reason.AUTHORITY_NOT_FOUND:
                item.future.set_exception(error.another())
            else:
                _settle(item, TRY_LATER)
            return False
        if not all(answering.is_about(one) for one in item.request.certificates):
            # RFC 5019, section 2.2.3: of another issuer's certificates nothing is known here.
            _settle(item, UNAUTHORIZED)
            return False
        return True

    def _settle_stored(self, item: _Item, version: int) -> bool:
        answering, stored = item.answering, item.stored
        answer = None if answering is None or stored is None else answer_of(answering, stored, cacheable=True)
        if answer is None:
            return False
        self._keep(item, answer, version)
        _STORED.inc()
        _settle(item, answer)
        return True

    def _draft(self, item: _Item, now: datetime) -> Draft | Answer:
        """Returns what is to be signed, or the answer that needs no signature."""
        answering = item.answering
        key = None if answering is None else answering.key_at(now)
        if answering is None or key is None:
            return UNAUTHORIZED
        if any(one is not None and one.state is CertificateState.PENDING for one in item.standings):
            return TRY_LATER
        answers = [
            single_answer(answering, asked, standing)
            for asked, standing in zip(item.request.certificates, item.standings, strict=True)
        ]
        return draft_of(answering, key, answers, nonce=item.request.nonce, now=now)

    def _sign(self, items: list[_Item], version: int) -> None:
        # Many may ask at once for the one answer that is missing.
        drafts = {_same(item): item.draft for item in items if item.draft is not None}
        places = {key: place for place, key in enumerate(drafts)}
        results: Sequence[StoredAnswer | CertdError]
        try:
            results = sign(self._token, list(drafts.values()))
        except CertdError as error:
            results = [error] * len(drafts)
        stored: dict[AnswerKey, tuple[AnswerKey, Standing, StoredAnswer]] = {}
        for item in items:
            result = results[places[_same(item)]]
            if isinstance(result, CertdError):
                self._fail(item, result)
                continue
            answering, standing, row = item.answering, item.standings[0], item.row
            lasts = item.ahead and standing is not None
            answer = None if answering is None else answer_of(answering, result, cacheable=lasts)
            if answer is None:
                # The responder was replaced, and its row deleted, in this moment.
                _settle(item, TRY_LATER)
                continue
            if lasts:
                self._keep(item, answer, version)
            _SIGNED.inc()
            _settle(item, answer)
            if item.keeps and standing is not None and row is not None:
                stored[row] = (row, standing, result)
        if stored:
            self._step("ocsp.2.answered")
            self._store_all(list(stored.values()))

    def _fail(self, item: _Item, error: CertdError) -> None:
        passing = error.reason in _PASSING
        if not passing:
            _log.error("an OCSP answer was not signed: %s", error)
        stored = item.stored
        still_holds = stored is not None and stored.next_update > self._clock.now()
        answer = (
            answer_of(item.answering, stored, cacheable=True) if item.answering and stored and still_holds else None
        )
        _settle(item, answer or (TRY_LATER if passing else INTERNAL_ERROR))

    def _keep(self, item: _Item, answer: Answer, version: int) -> None:
        row = item.row
        if item.request.plain and row is not None:
            self.memory.put(item.asked, row[2], answer, version=version)

    def _store_all(self, answers: Sequence[tuple[AnswerKey, Standing, StoredAnswer]]) -> None:
        try:
            self._store.write("ocsp.put", lambda tx: ocsp_responses.put(tx, answers))
        except CertdError as error:
            # They are signed anew when they are asked for again.
            _log.debug("OCSP answers were not stored: %s", error)


def _look_up(tx: Transaction, item: _Item, now: datetime) -> None:
    """Reads what the books know: the answer that was signed ahead, or what is to be signed."""
    row = item.row
    if item.keeps and row is not None:
        item.stored = ocsp_responses.get(tx, row)
        if item.lasts(now):
            return
    item.standings = tuple(
        None if serial is None else ocsp_responses.standing(tx, (item.authority_uid, item.key_number, serial))
        for serial in map(serial_of, item.request.certificates)
    )


def _same(item: _Item) -> object:
    """Returns what two items have in common of which one signature serves both."""
    return item if not item.ahead else (item.authority_uid, item.key_number, item.request.certificates)


def _settle(item: _Item, answer: Answer) -> None:
    if answer in _REFUSALS:
        OCSP_ANSWERS.labels("refused").inc()
    item.future.set_result(answer)
