"""The scheduler: wakes by time, claims jobs, calls services. Every retry is a row."""

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.model.job import Job, JobKind
from certd.services.steps import StepHook
from certd.store import jobs
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.scheduler")

WORKERS = 128
"""Jobs at work at once. They wait for commits and for the token most of the time, and share both when they are many."""
_TOGETHER = 64
"""Jobs of one kind that are done together: half of those at work, so that one half waits while the other computes."""
_LEASE = timedelta(minutes=10)
"""After this a job that was claimed and not finished is due again, should its daemon hang and yet live."""
_LONGEST_SLEEP = 10.0
_FIRST_RETRY = timedelta(seconds=1)
_LONGEST_RETRY = timedelta(minutes=10)
_PUT_BACK_TOGETHER = 16
"""Few enough that on PostgreSQL others seldom change one of their subjects meanwhile, and have all be done again."""
_NO_STORE = frozenset({Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN})

Run = Callable[[str], None]
"""Does a job, given its subject. It ends the job in the transaction of its last step."""
RunTogether = Callable[[Sequence[str]], Mapping[str, CertdError]]
"""Does many jobs of one kind, given their subjects, and returns which failed. It ends each as `Run` does."""
Blocked = Callable[[Transaction, str, CertdError, datetime], None]
"""Writes into the subject why it waits, and until when, in the transaction that puts the job back."""


class Waker:
    """Wakes the scheduler; what gives it work is made before it."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def __call__(self) -> None:
        """Says that a job was put that may be due."""
        self.woken.set()


class Scheduler:
    """One thread that claims what is due, and a few that do it.

    Args:
        store: where the jobs are.
        clock: tells what is due.
        runs: what to do for each kind of job.
        together: what to do for kinds whose jobs are done together.
        blocked: what to tell the subject of a job that failed.
        epoch: returns the owner epoch of this daemon.
        beats: called every few seconds: leases, recovery.
        waker: wakes it.
        workers: jobs at work at once.
        apart: it does the jobs of kinds in APART, else all others.
        step: is called with the name of each step when it is done.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        runs: Mapping[JobKind, Run],
        together: Mapping[JobKind, RunTogether],
        blocked: Mapping[JobKind, Blocked],
        epoch: Callable[[], int],
        beats: tuple[Callable[[], object], ...],
        waker: Waker,
        step: StepHook,
        workers: int = WORKERS,
        apart: bool = False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._runs = runs
        self._together = together
        self._blocked = blocked
        self._epoch = epoch
        self._beats = beats
        self._step = step
        self._woken = waker.woken
        self._stopping = threading.Event()
        self._apart = apart
        self._free = threading.Semaphore(workers)
        name = "scheduler-apart" if apart else "scheduler"
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._next_beat = clock.now()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Lets the jobs at work end and claims no more."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._workers.shutdown(wait=True)

    def wake(self) -> None:
        """Says that a job was put that may be due."""
        self._woken.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self._beat()
                sleep = self._claim()
            except CertdError as error:
                _log.warning("the scheduler waits: %s", error)
                sleep = 1.0
            except Exception:  # noqa: BLE001  # A defect in one round must not end all schedules.
                _log.exception("the scheduler failed and goes on")
                sleep = 1.0
            # Whoever stopped us before `clear` set this first, and would else be waited for in vain.
            if not self._stopping.is_set():
                self._woken.wait(sleep)

    def _beat(self) -> None:
        now, pause = self._clock.now(), timedelta(seconds=_LONGEST_SLEEP)
        # It is farther off than that only by a clock that was put back.
        if not now < self._next_beat <= now + pause:
            self._next_beat = now + pause
            for beat in self._beats:
                # What one of them cannot do keeps no other from what it can.
                try:
                    beat()
                except CertdError as error:
                    _log.warning("what is done from time to time waits: %s", error)
                except Exception:  # noqa: BLE001  # As in `_run`.
                    _log.exception("what is done from time to time failed, and is tried again")

    def _claim(self) -> float:
        """Claims as much as there are free workers and returns how long nothing will be due, in seconds."""
        now = self._clock.now()
        free = 0
        while self._free.acquire(blocking=False):
            free += 1
        if not free:
            # All are at work; the next one that is free wakes us.
            return _LONGEST_SLEEP
        claimed = self._claim_for(free, now)
        for job in claimed:
            if job.kind not in self._together:
                self._workers.submit(self._work, job)
        for kind in self._together:
            several = [job for job in claimed if job.kind is kind]
            for start in range(0, len(several), _TOGETHER):
                self._workers.submit(self._work_together, kind, several[start : start + _TOGETHER])
        if len(claimed) == free:
            return _LONGEST_SLEEP
        with self._store.read("jobs.next") as tx:
            due = jobs.next_due(tx, apart=self._apart)
        return _LONGEST_SLEEP if due is None else min(_LONGEST_SLEEP, max(0.0, (due - now).total_seconds()))

    def _claim_for(self, workers: int, now: datetime) -> list[Job]:
        """Claims a job for each of so many workers; those that get none, and all when it fails, are free again."""
        claimed: list[Job] = []
        try:
            claimed = self._store.write(
                "jobs.claim",
                lambda tx: jobs.claim(
                    tx,
                    now,
                    lease_until=now + _LEASE,
                    owner_epoch=self._epoch(),
                    limit=workers,
                    apart=self._apart,
                ),
            )
        finally:
            for _ in range(workers - len(claimed)):
                self._free.release()
        return claimed

    def _work(self, job: Job) -> None:
        try:
            self._runs[job.kind](job.subject)
            self._step(f"job.{job.kind}.done")
        except CertdError as error:
            self._retry([(job, error)])
        except Exception:  # noqa: BLE001  # A defect in one job must not end its worker; the log has it.
            self._retry([(job, _defect(job))])
        finally:
            self._free.release()
            self._woken.set()

    def _work_together(self, kind: JobKind, several: Sequence[Job]) -> None:
        try:
            self._retry(self._run_together(kind, several))
        finally:
            for _ in several:
                self._free.release()
            self._woken.set()

    def _run_together(self, kind: JobKind, several: Sequence[Job]) -> list[tuple[Job, CertdError]]:
        """Returns which failed, and why."""
        try:
            failed = self._together[kind]([job.subject for job in several])
            for job in several:
                if job.subject not in failed:
                    self._step(f"job.{kind}.done")
        except Exception as error:  # noqa: BLE001  # As in `_work`.
            if len(several) > 1:
                # One of them has the others fail; alone it fails alone, and steps that were done stay done.
                return [failure for job in several for failure in self._run_together(kind, [job])]
            if isinstance(error, CertdError):
                return [(several[0], error)]
            return [(several[0], _defect(several[0]))]
        return [(job, failed[job.subject]) for job in several if job.subject in failed]

    def _retry(self, failed: Sequence[tuple[Job, CertdError]]) -> None:
        """Puts jobs back with growing, jittered delays and says so in their subjects, many in one transaction."""
        retries = [(replace(job, due_time=self._clock.now() + _delay(job, error)), error) for job, error in failed]
        # In the order in which others write their subjects, so that on PostgreSQL nobody waits in a circle.
        retries.sort(key=lambda retry: retry[0].subject)
        for job, error in retries:
            # What fails for long says so ever more rarely; its subject says it all the time.
            level = logging.WARNING if job.attempt & (job.attempt - 1) == 0 else logging.DEBUG
            _log.log(level, "the job %s of %s waits until %s: %s", job.kind, job.subject, job.due_time, error)
        for start in range(0, len(retries), _PUT_BACK_TOGETHER):
            self._put_back(retries[start : start + _PUT_BACK_TOGETHER])

    def _put_back(self, retries: Sequence[tuple[Job, CertdError]]) -> None:
        def put_back(tx: Transaction) -> None:
            for job, error in retries:
                tell = self._blocked.get(job.kind)
                if jobs.put_back(tx, job, owner_epoch=self._epoch()) and tell is not None:
                    tell(tx, job.subject, error, job.due_time)

        try:
            self._store.write("jobs.retry", put_back)
        except Exception as failure:  # noqa: BLE001  # As in `_work`.
            if len(retries) > 1 and not (isinstance(failure, CertdError) and failure.reason in _NO_STORE):
                for one in retries:
                    self._put_back([one])
                return
            # The leases of the claims end by themselves.
            told = retries[0][0].subject if len(retries) == 1 else f"{len(retries)} jobs"
            _log.warning("the retry of %s could not be written: %s", told, failure)


def _delay(job: Job, error: CertdError) -> timedelta:
    longest: timedelta = min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(job.attempt, 12))
    if error.reason is Reason.TOKEN_UNAVAILABLE:
        # Seconds, as a rule; there is no use in waiting long when it is back. One that is away for hours is not asked
        # for by thousands every few seconds.
        longest = min(longest, timedelta(seconds=max(5, job.attempt)))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # Jitter is no secret.


def _defect(job: Job) -> CertdError:
    """Returns what may be told of a defect; the log has the rest."""
    _log.exception("the job %s of %s failed", job.kind, job.subject)
    return CertdError(Reason.INTERNAL, "a defect of the server; its log tells more")
