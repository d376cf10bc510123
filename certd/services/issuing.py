"""Steps 2 to 5 of issuing, for one certificate or many: prepared beside each other, then handed to the issuing loop.

Who asks waits once. What a prepare process answers goes from the thread that reads it straight to the loop.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from datetime import datetime

from certd.errors import CertdError, Reason
from certd.pki.names import HIGHEST_COUNT, check_count
from certd.pki.preparation import Prepared
from certd.prepare.client import Preparer
from certd.prepare.messages import Answer, Wanted
from certd.prepare.order import Terms
from certd.services.issuance import Issuance, Order, issuance_of, item_of, told, with_paths
from certd.services.issuing_loop import Issued, IssuingLoop, Replayed, outcome_of
from certd.services.signers import Signer
from certd.services.steps import StepHook
from certd.store.request_records import RequestRecord

_FRAME_LENGTH = 10
"""Items of one call to a prepare process: enough to share its cost, few enough to keep all processes busy."""
_WINDOW = 100
"""Certificates of one batch that are on their way at once, so that a large one does not fill the queue for all."""
_DESCRIPTIONS = Wanted(descriptions=True)
_REHEARSAL = Wanted(descriptions=True, lint_certificates=True)
_LONGEST_REHEARSAL = 60.0
"""Seconds, for those who set no deadline."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What would be signed."""

    prepared: Prepared
    issuance: Issuance
    description: bytes
    """See `IssuedCertificate.description`."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate that is in the books."""

    der: bytes
    issuance: Issuance
    prepared: Prepared
    description: bytes
    """Serialised certd.v1.CertificateDescription without fingerprint; empty when it was not wanted."""


Record = Callable[[str], RequestRecord]
"""Makes the request record of an item, given the key of its row (see `issuance.row_key`)."""


@dataclass(slots=True)
class Pending:
    """An order on its way."""

    order: Order
    deadline: float | None
    future: "Future[Issued | Replayed]" = field(default_factory=Future)
    rehearsed: Rehearsed | None = None

    def outcome(self) -> IssuedCertificate | Replayed:
        """Waits; raises what preparing and the issuing loop tell, and DEADLINE_EXCEEDED."""
        try:
            outcome = outcome_of(self.future, deadline=self.deadline)
        except CertdError as error:
            if self.rehearsed is not None:
                # What preparing tells names the fields of the call already; the loop does not know them.
                told(self.order, error)
            raise
        if isinstance(outcome, Replayed):
            return outcome
        # The loop has nothing that was not prepared.
        assert self.rehearsed is not None  # noqa: S101
        return IssuedCertificate(
            outcome.der, self.rehearsed.issuance, self.rehearsed.prepared, self.rehearsed.description
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What all orders of a call share."""

    signer: Signer
    principal: str
    now: datetime
    deadline: float | None
    """In the time of `time.monotonic`; None: none."""
    most_names: int = HIGHEST_COUNT
    """That a certificate may have; those of a CSR are known when it is prepared."""


class Issuing:
    """Has certificates prepared and issued.

    Args:
        preparer: does step 2.
        loop: does steps 3 to 5.
        step: is called with the name of each numbered step when it is done.
    """

    def __init__(self, *, preparer: Preparer, loop: IssuingLoop, step: StepHook) -> None:
        self._preparer = preparer
        self._loop = loop
        self._step = step
        self.window = min(_WINDOW, loop.queue_length)
        """Orders that a call begins before it waits, so that a batch that is alone never finds the queue full."""

    def begin(
        self, asked: Asked, orders: Sequence[Order], *, records: Sequence[Record | None], descriptions: bool
    ) -> list[Pending]:
        """Has orders of one profile issued, and returns at once what to wait for, in their order."""
        pending = [Pending(order, asked.deadline) for order in orders]
        makers = list(records)
        wanted = _DESCRIPTIONS if descriptions else Wanted()
        for start in range(0, len(orders), _FRAME_LENGTH):
            part = slice(start, start + _FRAME_LENGTH)
            self._prepare(asked, pending[part], wanted, self._to_loop(asked, pending[part], makers[part]))
        return pending

    def rehearse(self, asked: Asked, orders: Sequence[Order]) -> list[Rehearsed | CertdError]:
        """Has orders of one profile prepared and no more; returns what would be signed, or why nothing would."""
        rehearsals: list[Future[Rehearsed]] = [Future() for _ in orders]
        for start in range(0, len(orders), _FRAME_LENGTH):
            part = slice(start, start + _FRAME_LENGTH)
            pending = [Pending(order, asked.deadline) for order in orders[part]]
            self._prepare(asked, pending, _REHEARSAL, _to_futures(asked, pending, rehearsals[part]))
        return [_rehearsal(future, asked.deadline) for future in rehearsals]

    def prepare(self, signer: Signer, order: Order, *, now: datetime) -> Prepared:
        """Returns what would be signed; raises what preparing tells."""
        asked = Asked(signer=signer, principal="", now=now, deadline=None)
        (outcome,) = self.rehearse(asked, [order])
        if isinstance(outcome, CertdError):
            raise outcome
        return outcome.prepared

    def _prepare(
        self, asked: Asked, pending: Sequence[Pending], wanted: Wanted, heard: Callable[[Sequence[Answer]], None]
    ) -> None:
        terms = Terms(issuer=asked.signer.issuer, profile=pending[0].order.profile)
        self._preparer.submit(terms, [item_of(one.order, asked.now) for one in pending], heard, wanted=wanted)

    def _to_loop(
        self, asked: Asked, pending: Sequence[Pending], records: Sequence[Record | None]
    ) -> Callable[[Sequence[Answer]], None]:
        def heard(answers: Sequence[Answer]) -> None:
            for one, answer, record in zip(pending, answers, records, strict=True):
                try:
                    one.rehearsed = rehearsed = _rehearsed(asked, one.order, answer, record)
                    self._step("issue.2.prepared")
                    self._loop.submit(rehearsed.issuance, one.future, deadline=one.deadline)
                except Exception as error:  # noqa: BLE001  # Whatever it is, who waits hears of it.
                    # Who stopped waiting has cancelled it, and those after it hear all the same.
                    with contextlib.suppress(InvalidStateError):
                        one.future.set_exception(error)

        return heard


def _to_futures(
    asked: Asked, pending: Sequence[Pending], rehearsals: Sequence[Future[Rehearsed]]
) -> Callable[[Sequence[Answer]], None]:
    def heard(answers: Sequence[Answer]) -> None:
        for one, answer, future in zip(pending, answers, rehearsals, strict=True):
            try:
                future.set_result(_rehearsed(asked, one.order, answer, None))
            except Exception as error:  # noqa: BLE001  # As above.
                future.set_exception(error)

    return heard


def _rehearsed(asked: Asked, order: Order, answer: Answer, record: Record | None) -> Rehearsed:
    if isinstance(answer, CertdError):
        raise told(order, answer)
    try:
        check_count(answer.prepared.names, field="subject_alternative_names", highest=asked.most_names)
    except CertdError as error:
        raise told(order, error) from error
    prepared = with_paths(order, answer.prepared)
    issuance = issuance_of(
        prepared, order, asked.signer.authority, principal=asked.principal, now=asked.now, record=record
    )
    return Rehearsed(prepared, issuance, answer.description)


def _rehearsal(future: Future[Rehearsed], deadline: float | None) -> Rehearsed | CertdError:
    left = _LONGEST_REHEARSAL if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return future.result(left)
    except CertdError as error:
        return error
    except FutureTimeoutError:
        return CertdError(Reason.DEADLINE_EXCEEDED, "the deadline passed before the request was checked; try again")
