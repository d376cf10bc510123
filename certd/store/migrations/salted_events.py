"""Migration 6: a secret salt for each event.

Code of migration 5 must not number events any more: it knows no salts, and a tenant could guess what others did between
two events of its own. So it does not start on these tables. A daemon of it that still runs beside a new one on
PostgreSQL serves its calls and leaves its events to the new one, for the column is gone by which it would take turns;
its streams end whenever something happens, and their readers go on from their cursors.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds columns, and says where the salted events begin."""
    _salt_events()
    op.execute("UPDATE schema_compatibility SET schema_number = 6, oldest_code = 6 WHERE id = 1")


def _salt_events() -> None:
    # In the order in which a daemon that numbers locks them, for it may be at work.
    op.execute("ALTER TABLE event_sequence RENAME COLUMN holder TO numberer")
    salted_from = sa.Column("salted_from", sa.BigInteger(), nullable=False, server_default=sa.text("1"))
    op.add_column("event_sequence", salted_from)
    op.execute("UPDATE event_sequence SET salted_from = last_seq + 1")
    op.add_column("events", sa.Column("salt", sa.LargeBinary(), nullable=True))
