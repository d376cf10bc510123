"""Transactions that note how SQLite answers what it is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, Executable, event

from certd.store.dialect import PerEngine, raw_sqlite
from certd.store.transaction import Transaction


class Explaining(Transaction):
    """Notes the plan of every statement that it executes."""

    __slots__ = ("plans",)

    def __init__(self, of: Transaction) -> None:
        connection = of._connection
        assert connection is not None
        super().__init__(connection, of.engine_name)
        self.plans: list[str] = []

    def execute(
        self,
        statement: Executable | PerEngine,
        parameters: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None,
    ) -> CursorResult[Any]:
        connection, said = self._connection, list[tuple[str, Any]]()
        assert connection is not None

        def note(*told: Any) -> None:
            said.append((told[2], told[3]))

        event.listen(connection, "before_cursor_execute", note)
        try:
            result = super().execute(statement, parameters)
        finally:
            event.remove(connection, "before_cursor_execute", note)
        for sql, values in said:
            rows = raw_sqlite(connection).execute(f"EXPLAIN QUERY PLAN {sql}", values)
            self.plans.append("\n".join(str(row[-1]) for row in rows))
        return result
