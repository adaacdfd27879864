"""Bring the database's schema up to this version: `python -m db.migrate`.

Run it when installing or updating, never from the worker: a worker that meets another schema stops and says so.
"""

import asyncio
import sys

import asyncpg
from pogo_core.util import migrate as pogo

from db.connection import is_pooled
from db.schema import MIGRATIONS_DIR, known_migrations
from db.troubles import DATABASE_DOWN, words_of

# Any constant will do, as long as nothing else on this database takes the same advisory lock.
MIGRATION_LOCK = 7_305_803

BEHIND_POOLER = 'a pooler stands before it, and migrations need a session of their own: set DATABASE_DIRECT_URL'

LOCK_SQL = 'SELECT pg_advisory_lock($1)'
UNLOCK_SQL = 'SELECT pg_advisory_unlock($1)'


MAX_ATTEMPTS_DEFAULT_DDL = 'ALTER TABLE outbound_emails ALTER COLUMN max_attempts SET DEFAULT {}'


async def migrate(conn: asyncpg.Connection, max_attempts: int = 5) -> None:
    """Apply what is missing, each file in a transaction of its own, and set the default of max_attempts.

    Two callers at once are safe: the second waits for the first and then finds nothing to do.

    Raises:
        pogo_core.error.BadMigrationError: a file failed; its cause is the PostgreSQL error. Earlier files stay applied.
    """
    await conn.execute(LOCK_SQL, MIGRATION_LOCK)
    try:
        await pogo.apply(conn, MIGRATIONS_DIR, schema_name='public')
        await conn.execute(MAX_ATTEMPTS_DEFAULT_DDL.format(int(max_attempts)))  # DDL takes no parameters
    finally:
        await conn.execute(UNLOCK_SQL, MIGRATION_LOCK)


async def connect_directly(dsn: str, timeout_s: float) -> asyncpg.Connection:
    """Connect for migrations, which need one session from their first statement to the last.

    Raises:
        asyncpg.FeatureNotSupportedError: there is a pooler in between.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError: there is no way in.
    """
    conn: asyncpg.Connection = await asyncpg.connect(dsn, timeout=timeout_s)
    if await is_pooled(conn):
        conn.terminate()
        raise asyncpg.FeatureNotSupportedError(BEHIND_POOLER)
    return conn


async def main() -> int:
    """Migrate the database the settings name. Returns the exit status."""
    from settings import load_settings  # noqa: PLC0415 - only as an entry point does this module read settings

    settings = load_settings()
    try:
        conn = await connect_directly(settings.direct_dsn, settings.db_connect_timeout_s)
    except (*DATABASE_DOWN, asyncpg.PostgresError, ValueError) as error:
        told = words_of(error)
        print(f'cannot connect to PostgreSQL at {settings.direct_place}: {told}', file=sys.stderr)  # noqa: T201
        return 1
    try:
        await migrate(conn, settings.email_max_attempts)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, its cause is what the operator needs
        cause = error.__cause__ or error
        hint = getattr(cause, 'hint', None)
        print(f'{error}: {cause}{f" ({hint})" if hint else ""}', file=sys.stderr)  # noqa: T201
        return 1
    finally:
        await conn.close()
    print(f'schema is up to date ({max(known_migrations())})')  # noqa: T201
    return 0


if __name__ == '__main__':
    sys.exit(asyncio.run(main()))
