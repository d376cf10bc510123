"""What all tables are made of."""

from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, MetaData, Text
from sqlalchemy.types import TypeEngine

metadata = MetaData()

TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
# Only a column declared INTEGER is SQLite's own row number and counts by itself.
COUNTER: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
MICROSECONDS = BigInteger


def text_column(name: str, *constraints: ForeignKey, null: bool = False, **options: Any) -> Column[str]:  # noqa: ANN401  # Options of Column.
    """Returns a column of text, which sorts by bytes."""
    return Column(name, TEXT, *constraints, nullable=null, **options)


def number_column(name: str, *, null: bool = False) -> Column[int]:
    """Returns a column of an integer."""
    return Column(name, BigInteger, nullable=null)


def time_column(name: str, *, null: bool = False) -> Column[int]:
    """Returns a column of a time or a duration, in microseconds."""
    return Column(name, MICROSECONDS, nullable=null)


def bytes_column(name: str, *, null: bool = False) -> Column[bytes]:
    """Returns a column of bytes."""
    return Column(name, LargeBinary, nullable=null)
