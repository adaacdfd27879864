"""Which tables this program made, and which were there before.

From those that were there, duties delete only what a setting names.
"""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

IS_ADOPTED_SQL = 'SELECT EXISTS (SELECT FROM outbox_adoption)'


async def was_adopted(pool: asyncpg.Pool) -> bool:
    """Whether outbound_emails was there before this program, finished or not."""
    adopted: bool = await pool.fetchval(IS_ADOPTED_SQL)
    return adopted


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a table."""

    made_here: bool
    reported_at: datetime | None  # when a duty first counted what it would delete
    reported_rows: int | None


# By the table, not by its name: the same table may be named with its schema or without.
ORIGIN_SQL = """
SELECT made_here, reported_at, reported_rows FROM table_origins
WHERE to_regclass(name) = $1::oid::regclass ORDER BY reported_at NULLS LAST LIMIT 1
"""


async def read_origin(pool: asyncpg.Pool, table: int) -> Origin:
    """Return where the table with this oid comes from; one that nobody noted was there before."""
    row = await pool.fetchrow(ORIGIN_SQL, table)
    return Origin(*row) if row else Origin(made_here=False, reported_at=None, reported_rows=None)


NOTE_REPORT_SQL = """
INSERT INTO table_origins (name, made_here, reported_at, reported_rows)
VALUES ($1::oid::regclass::text, false, now(), $2)
ON CONFLICT (name) DO UPDATE SET reported_at = now(), reported_rows = $2
"""


async def note_report(pool: asyncpg.Pool, table: int, rows: int) -> None:
    """Write down that a duty counted what it would delete from a table that was there before."""
    await pool.execute(NOTE_REPORT_SQL, table, rows)
