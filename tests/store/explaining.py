"""Transactions that note how SQLite answers what it is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, Executable, text
from sqlalchemy.dialects import sqlite

from certd.store.dialect import PerEngine
from certd.store.transaction import Transaction


class Explaining(Transaction):
    """Notes the plan of every statement before it executes it."""

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
        assert not isinstance(statement, PerEngine)
        compiled = statement.compile(  # type: ignore[attr-defined]  # Every statement here compiles.
            dialect=sqlite.dialect(paramstyle="named"), compile_kwargs={"render_postcompile": True}
        )
        values = compiled.params if parameters is None else compiled.construct_params(parameters)
        rows = super().execute(text(f"EXPLAIN QUERY PLAN {compiled}"), values)
        self.plans.append("\n".join(str(row[-1]) for row in rows))
        return super().execute(statement, parameters)
