"""Bring the database's schema up to this version: `python -m db.migrate`.

Run it when installing or updating, never from the worker: a worker that meets another schema stops and says so. An
outbound_emails that was there before is adopted: docs/migration.md.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
from pogo_core.util import migrate as pogo

from db.adoption.expand import Plan, expand, is_adopted, plan
from db.adoption.locks import Progress
from db.schema import MIGRATIONS_DIR

# Any constant will do, as long as nothing else on this database takes the same advisory lock.
MIGRATION_LOCK = 7_305_803

LOCK_SQL = 'SELECT pg_advisory_lock($1)'
UNLOCK_SQL = 'SELECT pg_advisory_unlock($1)'
ZONE_SQL = "SELECT set_config('TimeZone', $1, false)"

MAX_ATTEMPTS_DEFAULT_DDL = 'ALTER TABLE outbound_emails ALTER COLUMN max_attempts SET DEFAULT {}'


def silent(_: str) -> None:
    """Report no progress."""


@asynccontextmanager
async def alone(conn: asyncpg.Connection, zone: str) -> AsyncIterator[None]:
    """Be the only one that changes the schema, in a session whose times without a zone mean this zone."""
    before = await conn.fetchval("SELECT current_setting('TimeZone')")
    await conn.execute(LOCK_SQL, MIGRATION_LOCK)
    try:
        await conn.execute(ZONE_SQL, zone)
        yield
    finally:
        if not conn.is_closed():
            await conn.execute(ZONE_SQL, before)
            await conn.execute(UNLOCK_SQL, MIGRATION_LOCK)


async def migrate(
    conn: asyncpg.Connection,
    max_attempts: int = 5,
    *,
    zone: str = 'UTC',
    given: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Plan | None:
    """Apply what is missing, each file in a transaction of its own; then expand a table that was there before.

    Two callers at once are safe: the second waits for the first and then finds nothing to do.

    Args:
        max_attempts: The default of new rows.
        zone: What times without a zone in an adopted table mean.
        given: What an operator says of words in an adopted table's status: word -> state.
    Returns:
        What an adopted table is like; None when this program made it.
    Raises:
        NotAdoptableError: nothing was changed; names every reason.
        pogo_core.error.BadMigrationError: a file failed; its cause is the PostgreSQL error. Earlier files stay applied.
    """
    async with alone(conn, zone):
        planned = None
        if await is_adopted(conn):  # before anything is changed
            planned = await plan(conn, zone=zone, max_attempts=max_attempts, given=given)
        await pogo.apply(conn, MIGRATIONS_DIR, schema_name='public')
        if planned is None:
            await conn.execute(MAX_ATTEMPTS_DEFAULT_DDL.format(int(max_attempts)))  # DDL takes no parameters
        else:
            await expand(conn, planned, progress)
        return planned


if __name__ == '__main__':
    import asyncio
    import sys

    from ops.migration import main

    sys.exit(asyncio.run(main()))
