"""The token process: one thread that calls the module, and what keeps it fed, honest and alive."""

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from certd.clock import Clock, SystemClock
from certd.errors import CertdError, Reason
from certd.internal.token_pb2 import TokenResponse
from certd.ipc.child import Child, Endpoint, ReceivedCall, Replies
from certd.ipc.garbage import spare_what_lives
from certd.ipc.hardening import harden
from certd.ipc.processor import interrupt_nobody
from certd.token.handed_on import InHelper, InModule
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.operations import Operations
from certd.token.settings import TokenSettings

_logger = logging.getLogger(__name__)

_HELPERS = 2
_HELPED_CALLS = 64
"""How many calls may wait for a helper."""
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
"""Between attempts to open the token, in seconds. A PIN that was refused is looked for at this pace, not tried."""
_PROBE_INTERVAL = 5.0


def run(
    settings: TokenSettings,
    endpoint: Endpoint,
    *,
    parent_process_id: int | None = None,
    make_module: Callable[[TokenSettings], Module] = Module,
    clock: Clock | None = None,
) -> None:
    """Serves a token until the parent closes the socket, or SIGTERM or SIGINT arrives.

    Call it on the main thread: signals arrive there, and it becomes the one thread that calls the module.

    Args:
        settings: which token, and how.
        endpoint: whom to serve.
        parent_process_id: the process that spawned this one, whose death ends it; None when it stands alone.
        make_module: replaces the module, for tests that make it fail.
        clock: replaces the machine's clock, for tests.
    """
    harden(parent_process_id=parent_process_id)
    interrupt_nobody()
    if settings.softhsm_conf is not None:
        os.environ["SOFTHSM2_CONF"] = str(settings.softhsm_conf)
    child = Child(endpoint, queue_length=settings.queue_length)
    _stop_on_signals(child)
    child.start()
    spare_what_lives()
    try:
        _TokenProcess(child, make_module(settings), settings, clock or SystemClock()).run()
    finally:
        child.close()


def _stop_on_signals(child: Child) -> None:
    """Has SIGTERM and SIGINT end the child.

    A handler in Python runs between two bytecodes of the main thread, so one that comes just before that thread begins
    to wait would be heard only after the wait. The byte that the interpreter writes at once is heard at once.
    """
    listening, speaking = socket.socketpair()
    speaking.setblocking(False)
    signal.set_wakeup_fd(speaking.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def listen() -> None:
        listening.recv(1)
        child.request_stop()

    threading.Thread(target=listen, name="signals", daemon=True).start()


class _TokenProcess:
    def __init__(self, child: Child, module: Module, settings: TokenSettings, clock: Clock) -> None:
        self._child = child
        self._module = module
        self._journal = Journal(settings.journal, clock)
        self._operations = Operations(module, settings, clock, self._journal)
        # One writing to the disk for all that is answered together.
        self._replies = Replies(before_leaving=self._journal.commit)
        self._helpers = ThreadPoolExecutor(_HELPERS, thread_name_prefix="helper")
        self._helper_places = threading.BoundedSemaphore(_HELPED_CALLS)
        self._problem = "It is starting."
        self._delay = 0.0
        self._next_look = time.monotonic()

    def run(self) -> None:
        self._look_after_token()
        while (items := self._child.take(max(0.0, self._next_look - time.monotonic()))) is not None:
            for item in items:
                if isinstance(item, ReceivedCall):
                    self._serve(item)
                else:
                    item()
            self._replies.flush()
            if not self._journal.is_open and not self._problem:
                self._lose(self._journal.problem)
            self._look_after_token()
        self._helpers.shutdown(cancel_futures=True)
        self._module.close()
        self._journal.close()

    def _look_after_token(self) -> None:
        """Opens the token when it is due, and asks an open one from time to time whether it is still there."""
        if time.monotonic() < self._next_look:
            return
        try:
            if not self._journal.is_open:
                self._journal.open()
            if self._module.is_open:
                self._module.probe()
            else:
                self._module.open()
                _logger.info("the token is open")
        except CertdError as error:
            self._lose(error)
        except Exception as error:  # noqa: BLE001  # A bug here must not end the process: it would only start over.
            self._lose(_internal(error))
        else:
            self._problem = ""
            self._delay = 0.0
            self._next_look = time.monotonic() + _PROBE_INTERVAL
            self._child.set_readiness(ready=True)

    def _lose(self, error: CertdError) -> None:
        if error.message != self._problem:
            _logger.error("the token is not available: %s", error.message)
        self._problem = error.message
        self._module.close()
        self._next_look = time.monotonic() + self._delay
        self._delay = min(max(self._delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
        self._child.set_readiness(ready=False, problem=self._problem)

    def _serve(self, call: ReceivedCall) -> None:
        if call.expired:
            # Nobody waits for it any more, but the daemon keeps a place for every answer.
            self._replies.add(call, _too_late())
            return
        if self._problem:
            self._replies.add(
                call, CertdError(Reason.TOKEN_UNAVAILABLE, self._problem, retry_after=self._delay or None)
            )
            return
        self._work(call, lambda: self._operations.handle(call.payload))

    def _work(self, call: ReceivedCall, work: Callable[[], TokenResponse | InHelper]) -> None:
        """Does something with the module on behalf of a call."""
        outcome: bytes | CertdError
        try:
            result = work()
            if isinstance(result, InHelper):
                self._help(call, result)
                return
            outcome = result.SerializeToString()
        except CertdError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  # One call's bug is that call's failure.
            outcome = _internal(error)
        self._replies.add(call, outcome)
        if not self._module.is_open:
            self._lose(outcome if isinstance(outcome, CertdError) else _closed())

    def _help(self, call: ReceivedCall, rest: InHelper) -> None:
        if not self._helper_places.acquire(blocking=False):
            message = f"{_HELPED_CALLS} calls already wait for a helper; try again in a moment."
            self._replies.add(call, CertdError(Reason.SIGNING_QUEUE_FULL, message, retry_after=0.5))
            return

        def help_out() -> None:
            try:
                result = None if call.expired else rest.work()
            except CertdError as error:
                call.answer(error)
            except Exception as error:  # noqa: BLE001  # As in `_work`.
                call.answer(_internal(error))
            else:
                if isinstance(result, InModule):
                    self._child.post(lambda: self._work(call, result.work))
                elif result is not None:
                    # By way of the thread that writes the journal, which has this use of a key before it is answered.
                    answer = result.SerializeToString()
                    self._child.post(lambda: self._replies.add(call, answer))
            finally:
                self._helper_places.release()

        self._helpers.submit(help_out)


def _too_late() -> CertdError:
    return CertdError(Reason.DEADLINE_EXCEEDED, "The deadline passed before the token came to it; try again.")


def _closed() -> CertdError:
    return CertdError(
        Reason.TOKEN_UNAVAILABLE, "The token went away and is being opened again.", retry_after=_FIRST_DELAY
    )


def _internal(error: Exception) -> CertdError:
    """Returns what a caller may know of a bug; the log has the rest under the same id."""
    error_id = secrets.token_hex(8)
    _logger.error("error %s", error_id, exc_info=error)
    return CertdError(Reason.INTERNAL, f"The token process failed; its log has more under the error id {error_id}.")
