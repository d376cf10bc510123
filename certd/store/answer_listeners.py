"""Those who keep OCSP answers in memory, and are told of the commits that make them wrong."""

import logging
from collections.abc import Callable, Sequence

from certd.store.transaction import AnswerKey, Transaction

_log = logging.getLogger("certd.store")


class AnswerListeners:
    """Functions that are called for each answer that a commit has made wrong, in the thread that committed."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[AnswerKey], None], ...] = ()

    def add(self, listener: Callable[[AnswerKey], None]) -> None:
        """Has `listener` called from now on."""
        self._listeners = (*self._listeners, listener)

    def tell(self, transactions: Sequence[Transaction]) -> None:
        """Calls every listener for what these transactions changed."""
        for transaction in transactions:
            for key in transaction.forgotten_answers:
                for listener in self._listeners:
                    try:
                        listener(key)
                    except Exception:  # noqa: BLE001  # A commit does not fail by those who hear of it.
                        _log.exception("a listener of OCSP answers failed")
