"""Bring the database's schema up to this version: `python -m db.migrate`.

Run it when installing or updating, never from the worker: a worker that meets another schema stops and says so.
"""

import asyncio
import sys

import asyncpg
from pogo_core.util import migrate as pogo

from db.schema import MIGRATIONS_DIR, known_migrations
from mail.outcome import BY_LIFE

# Any constant will do, as long as nothing else on this database takes the same advisory lock.
MIGRATION_LOCK = 7_305_803

LOCK_SQL = 'SELECT pg_advisory_lock($1)'
UNLOCK_SQL = 'SELECT pg_advisory_unlock($1)'


MAX_ATTEMPTS_DEFAULT_DDL = 'ALTER TABLE outbound_emails ALTER COLUMN max_attempts SET DEFAULT {}'


async def migrate(conn: asyncpg.Connection, max_attempts: int | None = None) -> None:
    """Apply what is missing, each file in a transaction of its own, and set the default of max_attempts.

    Args:
        max_attempts: None: rows that do not say have no number of their own, see mail.outcome.BY_LIFE.

    Two callers at once are safe: the second waits for the first and then finds nothing to do.

    Raises:
        pogo_core.error.BadMigrationError: a file failed; its cause is the PostgreSQL error. Earlier files stay applied.
    """
    await conn.execute(LOCK_SQL, MIGRATION_LOCK)
    try:
        await pogo.apply(conn, MIGRATIONS_DIR, schema_name='public')
        await conn.execute(MAX_ATTEMPTS_DEFAULT_DDL.format(int(max_attempts or BY_LIFE)))  # DDL takes no parameters
    finally:
        await conn.execute(UNLOCK_SQL, MIGRATION_LOCK)


async def main() -> int:
    """Migrate the database the settings name. Returns the exit status."""
    from settings import load_settings  # noqa: PLC0415 - only as an entry point does this module read settings

    settings = load_settings()
    try:
        conn = await asyncpg.connect(settings.postgres_dsn, timeout=settings.db_connect_timeout_s)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        print(f'cannot connect to PostgreSQL at {settings.postgres_place}: {error}', file=sys.stderr)  # noqa: T201
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
