"""What works and reads are handed: a connection within a transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable

from certd.model.event import Event
from certd.store.dialect import SQLITE, Many, PerEngine, Query
from certd.store.event_chain import canonical
from certd.store.values import labels_text, microseconds

AnswerKey = tuple[str, int, str]
"""What an OCSP answer is about: uid of the authority, number of its key, serial of the certificate."""


class PendingEvent:
    """An event of a work, encoded while the work runs, so that one which cannot be encoded fails its own work."""

    __slots__ = ("canonical", "columns")

    def __init__(self, event: Event) -> None:
        self.canonical = canonical(event)
        self.columns: dict[str, object] = {
            "time": microseconds(event.time),
            "type": event.type.value,
            "tenant": event.tenant,
            "principal": event.principal,
            "resource": event.resource,
            "details": labels_text(event.details),
        }


class Transaction:
    """The transaction of one work or one read; of no use after its end."""

    __slots__ = ("_connection", "configuration_is_changed", "engine_name", "events", "forgotten_answers")

    def __init__(self, connection: Connection, engine_name: str) -> None:
        self._connection: Connection | None = connection
        self.engine_name = engine_name
        """SQLITE or POSTGRESQL."""
        self.events: list[PendingEvent] = []
        """What the work recorded, for those who commit."""
        self.configuration_is_changed = False
        """Whether the work said so, for those who commit."""
        self.forgotten_answers: list[AnswerKey] = []
        """Of what the work said so, for those who commit."""

    def execute(
        self,
        statement: Executable | PerEngine,
        parameters: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None,
    ) -> CursorResult[Any]:
        """Executes a statement, for the modules of the store; many rows of parameters execute it once for each."""
        if self._connection is None:
            raise RuntimeError("the transaction has ended; nothing of it may be used after its work has returned")
        if isinstance(statement, PerEngine):
            statement = statement.sqlite if self.engine_name == SQLITE else statement.postgresql
        result: CursorResult[Any] = self._connection.execute(statement, parameters)
        return result

    def execute_many(self, statement: Many, rows: Sequence[Mapping[str, object]]) -> int:
        """Executes a statement for each of the rows, which is quicker than `execute`; returns how many were changed."""
        if not rows:
            return 0
        if self.engine_name != SQLITE:
            return self.execute(statement.statement, rows).rowcount
        if self._connection is None:
            raise RuntimeError("the transaction has ended; nothing of it may be used after its work has returned")
        return statement.on_sqlite(self._connection, rows)

    def query(self, query: Query, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Returns the rows of a query, quicker than `execute`."""
        if self.engine_name != SQLITE:
            return self.execute(query.statement, values).all()
        if self._connection is None:
            raise RuntimeError("the transaction has ended; nothing of it may be used after its work has returned")
        return query.on_sqlite(self._connection, values)

    def event(self, event: Event) -> None:
        """Records an event; it gets its number with the commit, or on PostgreSQL soon after."""
        if self._connection is None:
            raise RuntimeError("the transaction has ended; its events can no longer be recorded")
        self.events.append(PendingEvent(event))

    def configuration_changed(self) -> None:
        """Says that the work changes what daemons keep in memory: grants, profiles, authorities or identities.

        With the commit `Store.configuration_version` grows, here at once and in other daemons within a second.
        """
        self.configuration_is_changed = True

    def answer_forgotten(self, key: AnswerKey) -> None:
        """Says that what is answered about a certificate has changed, for those who keep answers in memory."""
        self.forgotten_answers.append(key)

    def end(self) -> None:
        """Makes the transaction useless, for those who commit."""
        self._connection = None
