"""What inserting many rows at once needs besides: parts of bounded size, and statistics that know of them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

PART_BYTES = 8 * 1024 * 1024  # of text: what is sent to the server at once, and kept for it
PART_ROWS = 5000
ANALYZE_ROWS = 1000  # fewer change no plan

Rows = Sequence[tuple[Any, ...]]


async def insert_in_parts(
    conn: asyncpg.Connection, sql: str, rows: AsyncIterator[tuple[Any, ...]]
) -> list[Any]:
    """Run an INSERT ... RETURNING id for each row, in parts that are all committed together.

    Args:
        rows: May raise: then nothing is inserted.
    Returns:
        The ids, in the order of the rows.
    Raises:
        asyncpg.PostgresError: the insert failed.
    """
    ids: list[Any] = []
    part: list[tuple[Any, ...]] = []
    size_bytes = 0
    async with AsyncExitStack() as stack:
        async for row in rows:
            part.append(row)
            size_bytes += sum(len(value) for value in row if isinstance(value, str))
            if size_bytes >= PART_BYTES or len(part) >= PART_ROWS:
                if not ids:  # one part alone is a transaction, or none, as the caller has it
                    await stack.enter_async_context(conn.transaction())
                ids += await _insert(conn, sql, part)
                part, size_bytes = [], 0
        if part:
            ids += await _insert(conn, sql, part)
        if len(ids) >= ANALYZE_ROWS:
            await _refresh_statistics(conn, len(ids))
    return ids


async def _insert(conn: asyncpg.Connection, sql: str, rows: Rows) -> list[Any]:
    return [row['id'] for row in await conn.fetchmany(sql, rows)]


# Only who owns the table may, or since PostgreSQL 17 who was granted MAINTAIN; others would be told
# a warning.
STALE_SQL = """
SELECT c.reltuples < 2 * $1::float8 AND CASE WHEN current_setting('server_version_num')::int >= 170000
    THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE pg_has_role(c.relowner, 'USAGE') END
FROM pg_class AS c WHERE c.oid = to_regclass('outbound_emails') AND c.relkind = 'r'
"""
# It never waits for a lock, but keeps one until the caller commits, which only DDL and VACUUM have
# to wait for.
ANALYZE_SQL = 'ANALYZE (SKIP_LOCKED) outbound_emails'


async def _refresh_statistics(conn: asyncpg.Connection, inserted: int) -> None:
    """Analyse a table that has grown by half or more; autovacuum, a minute later, does so where this role must not.

    The worker's statements do without; reports and what an application asks itself are planned by
    them.
    """
    if not await conn.fetchval(STALE_SQL, inserted):
        return
    try:
        async with (
            conn.transaction()
        ):  # the caller's goes on when this fails, at its session's time limit for example
            await conn.execute(ANALYZE_SQL)
    except (asyncpg.PostgresError, TimeoutError):
        return
