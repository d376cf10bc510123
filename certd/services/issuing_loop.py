"""The issuing loop: steps 3 to 5 of every issuance, in one thread for all callers.

    3. write: the intent is durable: serial, to-be-signed bytes, request record, owner epoch.
    4. token: sign.
    5. write: complete where the row is still pending and the epoch is ours; event. Answer after the commit.

One round takes whatever is prepared and whatever the token has signed meanwhile, writes the intents and completions in
one transaction, and sends one frame to the token, which signs while the next round is gathered and written. Thirty-two
certificates cost the two commits that one costs. An item that fails, fails alone.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.pki.preparation import assemble
from certd.services.idempotency import same_request
from certd.services.issuance import Issuance, by_together, certificate_event
from certd.services.issuing_refusals import (
    QUEUE_LENGTH,
    RETRY_AFTER,
    books_behind,
    key_blocked,
    never_begun,
    ownership_lost,
    queue_full,
    senseless,
    shutting_down,
    signs_no_more,
    still_issuing,
    token_late,
    token_unavailable,
)
from certd.services.steps import StepHook
from certd.store import authorities, blocked_keys, certificates, request_records, revocation_lists
from certd.store.blocked_keys import TenantKey
from certd.store.certificates import Completion
from certd.store.store import Store, Transaction
from certd.token.client import SignItem, TokenClient
from certd.token.policy import SignatureKind

_log = logging.getLogger("certd.issuing")

ROUND_LENGTH = 256
_SIGN_TIMEOUT = 10.0
"""Seconds for a frame, and one more for each signature: slow tokens make a few in a second."""
_LONGEST_WAIT_FOR_OTHERS = 120.0
"""Seconds by which what the token signs already prolongs that at most: no caller waits longer."""
_PAUSE_FOR_EACH = 0.0002
_LONGEST_PAUSE = 0.005
_LONGEST_SLEEP = 1.0
"""Seconds after which the loop looks whether the token is late."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that is in the books."""

    der: bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """The request was made before; this is the resource that it made."""

    resource: str


Outcome: TypeAlias = Issued | Replayed
"""What becomes of an issuance that does not fail."""


@dataclass(eq=False, slots=True)
class _Item:
    issuance: Issuance
    deadline: float | None
    future: Future[Outcome]
    der: bytes | None = None
    error: CertdError | None = None
    """Why the signature failed; the row is lost in the next transaction."""

    @property
    def row(self) -> tuple[str, str]:
        return self.issuance.intent.authority_uid, self.issuance.intent.serial

    @property
    def key(self) -> TenantKey:
        return self.issuance.tenant, self.issuance.intent.public_key_sha256


class IssuingLoop:
    """The thread through which everything that is issued goes.

    Args:
        store: where intents and completions are written.
        token: who signs.
        clock: time of completion.
        epoch: returns the owner epoch of this daemon.
        step: is called with the name of each numbered step when it is done.
        queue_length: certificates that may be on their way at once.
    """

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        epoch: Callable[[], int],
        step: StepHook,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self.queue_length = queue_length
        self._store = store
        self._token = token
        self._clock = clock
        self._epoch = epoch
        self._step = step
        self._queue: queue.SimpleQueue[_Item | _Answer | None] = queue.SimpleQueue()
        self._frames: dict[int, _Frame] = {}
        """What the token signs at the moment; for the thread of the loop alone."""
        self._signing = 0
        """How many certificates that are; the thread of the loop writes it."""
        self._frame_numbers = itertools.count(1)
        self._last_size = 0
        self._unrecorded: list[_Item] = []
        self._accepting = threading.Lock()
        """Held by whoever puts an item or closes the queue, so that nothing comes after its end."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="issuing-loop", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finishes what was accepted, refuses what comes, and ends the thread."""
        with self._accepting:
            self._stopping = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    @property
    def waiting(self) -> int:
        """How many certificates wait for their round."""
        return self._queue.qsize()

    def issue(self, issuance: Issuance, *, timeout: float | None = None) -> Outcome:
        """Writes, signs and completes; returns after the commit.

        Raises what `submit` tells, and DEADLINE_EXCEEDED after `timeout` seconds, in which case the certificate may yet
        be issued: a repeated call with the same request id finds it.
        """
        future: Future[Outcome] = Future()
        deadline = None if timeout is None else time.monotonic() + timeout
        self.submit(issuance, future, deadline=deadline)
        return outcome_of(future, deadline=deadline)

    def submit(self, issuance: Issuance, future: Future[Outcome], *, deadline: float | None) -> None:
        """Takes an issuance into one of the next rounds; `future` hears after the commit, or why there is none.

        It hears SIGNING_QUEUE_FULL, TOKEN_UNAVAILABLE, TOKEN_POLICY_FORBIDS, STORE_UNAVAILABLE, OWNERSHIP_LOST,
        AUTHORITY_NOT_ENABLED, KEY_TOO_WEAK for a key that was reported as compromised, REQUEST_ID_REUSED,
        REQUEST_IN_PROGRESS, SHUTTING_DOWN, or DEADLINE_EXCEEDED when `deadline`, in the time of `time.monotonic`, had
        passed before its round. A future that is cancelled before its round is left out of it.
        """
        refused: CertdError | None = None
        with self._accepting:
            if self._stopping:
                refused = shutting_down()
            elif max(self._queue.qsize(), self._signing) >= self.queue_length:
                # A slow token keeps no queue here: what it signs has left this one, and counts all the same.
                refused = queue_full(self.queue_length)
            else:
                self._queue.put(_Item(issuance, deadline, future))
        if refused is not None:
            future.set_exception(refused)

    def _run(self) -> None:
        last = False
        while not last or self._frames:
            round_ = self._take()
            last |= round_.last
            self._round(round_)

    def _take(self) -> "_Round":
        """Waits, and returns all that is there, up to a round."""
        round_ = _Round()
        waits = True
        while len(round_.fresh) < ROUND_LENGTH:
            try:
                found = self._queue.get(timeout=self._longest_wait()) if waits else self._queue.get_nowait()
            except queue.Empty:
                break
            if waits:
                waits = False
                self._gather()
            if found is None:
                round_.last = True
                break
            if isinstance(found, _Item):
                if found.future.set_running_or_notify_cancel():
                    round_.fresh.append(found)
            else:
                round_.signed += self._take_answer(found)
        round_.signed += self._give_up_frames()
        self._last_size = len(round_.fresh) + len(round_.signed)
        return round_

    def _gather(self) -> None:
        """Lets a busy loop's round grow for a moment; a caller who comes alone is served at once.

        A commit costs as much as the rows of several certificates, so the longer the last round was, the longer this
        one waits for company: what is lost in latency is less than what the callers would lose by queueing.
        """
        pause = min((self._last_size - 1) * _PAUSE_FOR_EACH, _LONGEST_PAUSE)
        if pause > 0 and not self._stopping:
            time.sleep(pause)

    def _longest_wait(self) -> float | None:
        """Returns for how many seconds nothing has to be done unless something comes; None: for ever."""
        if self._unrecorded:
            return RETRY_AFTER
        return _LONGEST_SLEEP if self._frames else None

    def _take_answer(self, answer: "_Answer") -> list[_Item]:
        """Returns the items of a frame with the certificate or the error in each; none when it was given up."""
        if answer.frame not in self._frames:
            return []
        items = self._end_frame(answer.frame)
        _put_results(items, answer.results)
        self._step("issue.4.signed")
        return items

    def _end_frame(self, number: int) -> list[_Item]:
        items = self._frames.pop(number).items
        self._signing -= len(items)
        return items

    def _give_up_frames(self) -> list[_Item]:
        """Returns the items of frames that the token process should have answered."""
        now = time.monotonic()
        late = [number for number, frame in self._frames.items() if now > frame.deadline]
        given_up = [item for number in late for item in self._end_frame(number)]
        for item in given_up:
            item.error = token_late()
        return given_up

    def _round(self, round_: "_Round") -> None:
        """Commits what was signed and what was taken, wakes who waited, and has signed what was taken."""
        fresh = self._admissible(round_.fresh)
        intended = self._commit([*round_.signed, *self._forget_unrecorded()], fresh)
        if intended:
            self._step("issue.3.intended")
            self._sign(intended)

    def _forget_unrecorded(self) -> list[_Item]:
        unrecorded, self._unrecorded = self._unrecorded, []
        return unrecorded

    def _admissible(self, taken: list[_Item]) -> list[_Item]:
        """Drops what is past its deadline, and everything while the token is away: no intent without a signer.

        Also everything while the database takes nothing and as much as may be waits to be recorded as lost.
        """
        now = time.monotonic()
        fresh = []
        for item in taken:
            if item.deadline is not None and now > item.deadline:
                item.future.set_exception(never_begun())
            elif not self._token.ready:
                item.future.set_exception(token_unavailable(self._token.problem))
            elif len(self._unrecorded) >= self.queue_length:
                item.future.set_exception(books_behind(self.queue_length))
            else:
                fresh.append(item)
        return fresh

    def _commit(self, signed: list[_Item], fresh: list[_Item]) -> list[_Item]:
        """Writes both halves in one transaction, item by item only after an error; returns the items to sign."""
        if not signed and not fresh:
            return []
        try:
            outcome = self._store.write("issuing.round", lambda tx: self._work(tx, signed, fresh))
        except CertdError as error:
            if len(signed) + len(fresh) == 1 or error.reason is Reason.STORE_UNAVAILABLE:
                self._give_up(signed, fresh, error)
                return []
            outcome = None
        except Exception as error:  # noqa: BLE001  # One bad item must not end the loop that all others need.
            if len(signed) + len(fresh) == 1:
                self._give_up(signed, fresh, error)
                return []
            outcome = None
        if outcome is None:
            for item in signed:
                self._commit([item], [])
            return [intended for item in fresh for intended in self._commit([], [item])]
        self._wake(signed, fresh, outcome)
        return [item for item in fresh if outcome.is_open(item)]

    def _work(self, tx: Transaction, signed: list[_Item], fresh: list[_Item]) -> "_Outcome":
        now = self._clock.now()
        epoch = self._epoch()
        outcome = _Outcome()
        # 5. Complete where the row is still pending and the epoch is ours, and nobody has reported the key meanwhile.
        blocked = blocked_keys.blocked(tx, {item.key for item in (*signed, *fresh)})
        outcome.refused = {item: key_blocked() for item in signed if item.key in blocked}
        finished = [item for item in signed if item.der is not None and item not in outcome.refused]
        completed = certificates.complete(
            tx,
            [
                Completion(authority_uid=item.row[0], serial=item.row[1], der=item.der or b"", owner_epoch=epoch)
                for item in finished
            ],
        )
        outcome.completed = {item for item in finished if item.row in completed}
        done = [item for item in finished if item in outcome.completed]
        for together, issuances in by_together(item.issuance for item in done).items():
            together(tx, issuances)
        for item in done:
            if item.issuance.also is not None:
                item.issuance.also(tx, item.der or b"")
            tx.event(certificate_event(item.issuance, EventType.CERTIFICATE_ISSUED, item.issuance.principal, now))
        failed = [item for item in signed if item.der is None or item in outcome.refused]
        lost = certificates.mark_lost(tx, [item.row for item in failed], now)
        gone = [item for item in failed if item.row in lost]
        named = {(one.authority_uid, one.key_number, one.crl_partition) for one in (_.issuance.intent for _ in gone)}
        revocation_lists.mark_all_changed(tx, named, now)
        for item in gone:
            tx.event(certificate_event(item.issuance, EventType.CERTIFICATE_LOST, SYSTEM_PRINCIPAL, now))
            if item.issuance.record is not None:
                request_records.delete(tx, item.issuance.record)
        # 3. What will be signed is durable before the token signs it.
        self._claim_requests(tx, fresh, outcome)
        self._refuse(tx, [item for item in fresh if outcome.is_open(item)], outcome, blocked)
        intents = [replace(item.issuance.intent, owner_epoch=epoch) for item in fresh if outcome.is_open(item)]
        certificates.insert_intents(tx, intents)
        return outcome

    @staticmethod
    def _claim_requests(tx: Transaction, fresh: list[_Item], outcome: "_Outcome") -> None:
        """Finds out which requests were made before."""
        recorded = [(item, item.issuance.record) for item in fresh if item.issuance.record is not None]
        found = request_records.claim_all(tx, [record for _, record in recorded])
        for (item, record), earlier in zip(recorded, found, strict=True):
            if earlier is not None:
                try:
                    outcome.replayed[item] = same_request(earlier, record.request_sha256)
                except CertdError as error:
                    outcome.refused[item] = error

    def _refuse(self, tx: Transaction, items: list[_Item], outcome: "_Outcome", blocked: Collection[TenantKey]) -> None:
        """Looks again at what may have changed since the issuances were prepared; who is refused may ask again."""
        standing = authorities.standing(tx, {item.issuance.intent.authority_uid for item in items})
        for item in items:
            issuance = item.issuance
            refused = signs_no_more(issuance, standing.get(issuance.intent.authority_uid))
            if refused is not None:
                outcome.refused[item] = refused
                # If another daemon changed it, this one would hear within a second: who asks again need not wait.
                self._store.forget_configuration_version()
            elif item.key in blocked:
                outcome.refused[item] = key_blocked()
            else:
                continue
            if issuance.record is not None:
                request_records.delete(tx, issuance.record)

    def _wake(self, signed: list[_Item], fresh: list[_Item], outcome: "_Outcome") -> None:
        """Answers, after the commit."""
        if signed:
            self._step("issue.5.completed")
        for item in signed:
            if item.future.done():
                continue
            if item in outcome.completed:
                item.future.set_result(Issued(item.der or b""))
            else:
                refused = item.error or outcome.refused.get(item)
                item.future.set_exception(refused or ownership_lost(item.issuance.resource))
        for item in fresh:
            if item in outcome.replayed:
                item.future.set_result(Replayed(outcome.replayed[item]))
            elif item in outcome.refused:
                item.future.set_exception(outcome.refused[item])

    def _give_up(self, signed: list[_Item], fresh: list[_Item], error: Exception) -> None:
        """Answers after a failed transaction; what was signed and not recorded is marked lost as soon as that works."""
        if not isinstance(error, CertdError):
            _log.error("a round of the issuing loop failed", exc_info=error)
        for item in (*signed, *fresh):
            if not item.future.done():
                item.future.set_exception(error.another() if isinstance(error, CertdError) else error)
        # A commit that failed on the way may have been done all the same, so that also intents may stand in the books.
        for item in (*signed, *fresh):
            item.der = None
        self._unrecorded += [*signed, *fresh]

    def _sign(self, items: list[_Item]) -> None:
        """Step 4: one frame to the token, whose answer comes back through the queue."""
        frame = [
            SignItem(
                key_id=item.issuance.key_id,
                policy=item.issuance.key_policy,
                kind=SignatureKind.CERTIFICATE,
                signature_algorithm=item.issuance.signature_algorithm,
                to_be_signed=item.issuance.intent.tbs,
                certified=item.issuance.certified,
            )
            for item in items
        ]
        number = next(self._frame_numbers)
        timeout = _SIGN_TIMEOUT + len(frame) + min(self._signing, _LONGEST_WAIT_FOR_OTHERS)
        self._frames[number] = _Frame(items, time.monotonic() + timeout)
        self._signing += len(items)

        def answered(results: list[bytes | CertdError] | CertdError) -> None:
            self._queue.put(_Answer(number, results))

        try:
            self._token.submit_signatures(frame, timeout=timeout, answered=answered)
        except Exception as error:  # noqa: BLE001  # Whatever it is, it must not end the loop that all others need.
            answered(error if isinstance(error, CertdError) else senseless(error))


@dataclass(eq=False, slots=True)
class _Round:
    """What one transaction is to write."""

    signed: list[_Item] = field(default_factory=list)
    fresh: list[_Item] = field(default_factory=list)
    last: bool = False
    """Whether nothing fresh comes after it."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the token is signing."""

    items: list[_Item]
    deadline: float
    """In the time of `time.monotonic`."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the token has answered to a frame."""

    frame: int
    results: list[bytes | CertdError] | CertdError


def _put_results(items: list[_Item], results: list[bytes | CertdError] | CertdError) -> None:
    """Leaves the certificate or the error in each item."""
    if isinstance(results, list) and len(results) != len(items):
        results = senseless(None)
    if isinstance(results, CertdError):
        for item in items:
            item.error = results.another()
        return
    for item, result in zip(items, results, strict=True):
        if isinstance(result, CertdError):
            item.error = result
        else:
            # The certificate is made of the very bytes that the books hold.
            item.der = assemble(item.issuance.intent.tbs, item.issuance.signature_algorithm, result)


@dataclass(eq=False, slots=True)
class _Outcome:
    """What a transaction did; built anew each time that its work runs."""

    completed: set[_Item] = field(default_factory=set)
    replayed: dict[_Item, str] = field(default_factory=dict)
    refused: dict[_Item, CertdError] = field(default_factory=dict)

    def is_open(self, item: _Item) -> bool:
        """Returns whether nothing has been decided of an item."""
        return item not in self.replayed and item not in self.refused


def outcome_of(future: Future[Outcome], *, deadline: float | None) -> Outcome:
    """Waits for what `submit` tells; raises it, or DEADLINE_EXCEEDED."""
    try:
        return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        future.cancel()
        raise still_issuing() from None
