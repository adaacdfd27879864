"""Bring the database's schema up to this version: `python -m db.migrate`.

Run it when installing or updating, never from the worker: a worker that meets another schema stops
and says so. An outbound_emails that was there before is adopted: docs/migration.md.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
from pogo_core.util import migrate as pogo

from db.adoption.columns import WANTED, view_columns
from db.adoption.expand import expand
from db.adoption.indexes import add_indexes
from db.adoption.locks import ReportProgress, briefly
from db.adoption.phases import read_adoption
from db.adoption.plan import Plan, is_adopted, plan, refuse_elsewhere
from db.adoption.trigger import VIEW_RIGHTS_DDL, state_ddl, view_ddl
from db.adoption.words import SYNONYMS, choose_words
from db.connection import is_pooled
from db.quota_triggers import QUOTA_DDL
from db.schema import MIGRATIONS_DIR
from db.webhook_capture import arm, capture_ddl
from mail_outbox.envelope import BY_LIFE

# Any constant will do, as long as nothing else on this database takes the same advisory lock.
MIGRATION_LOCK = 7_305_803

BEHIND_POOLER = (
    'a pooler stands before it, and migrations need a session of their own: set DATABASE_DIRECT_URL'
)
# Tried again and again: a statement that waits would keep the other caller's CREATE INDEX
# CONCURRENTLY from ending.
TRY_LOCK_SQL = 'SELECT pg_try_advisory_lock($1)'
LOCK_EVERY_S = 0.2
UNLOCK_SQL = 'SELECT pg_advisory_unlock($1)'
# Limits of the role are meant for its requests: an index on a large table takes longer, and ours
# waits for old ones.
NO_TIMEOUTS = (
    'SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0'
)
ZONE_SQL = "SELECT set_config('TimeZone', $1, false)"

MAX_ATTEMPTS_DEFAULT_DDL = 'ALTER TABLE outbound_emails ALTER COLUMN max_attempts SET DEFAULT {}'

# A claim sees by its own row that there are attachments; queue_email says so at once, a plain
# INSERT need not.
NOTE_ATTACHMENTS_DDL = """
CREATE OR REPLACE FUNCTION note_attachments() RETURNS trigger LANGUAGE plpgsql AS $note$
BEGIN
    IF EXISTS (SELECT FROM mail_outbox
               WHERE id IN (SELECT email_id FROM stored) AND has_attachments IS NOT TRUE) THEN
        UPDATE mail_outbox SET has_attachments = true
        WHERE id IN (SELECT email_id FROM stored) AND has_attachments IS NOT TRUE;
    END IF;
    RETURN NULL;
END
$note$;
CREATE OR REPLACE TRIGGER note_attachments AFTER INSERT ON email_attachments
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION note_attachments()
"""


def silent(_text: str, /, done: int | None = None, total: int | None = None) -> None:
    """Report no progress."""


@asynccontextmanager
async def alone(conn: asyncpg.Connection, zone: str) -> AsyncIterator[None]:
    """Be the only one that changes the schema.

    Times without a zone mean this zone in the session meanwhile.
    """
    before = await conn.fetchval("SELECT current_setting('TimeZone')")
    while not await conn.fetchval(TRY_LOCK_SQL, MIGRATION_LOCK):  # noqa: ASYNC110 - another process has it
        await asyncio.sleep(LOCK_EVERY_S)
    try:
        await conn.execute(ZONE_SQL, zone)
        yield
    finally:
        if not conn.is_closed():
            await conn.execute(ZONE_SQL, before)
            await conn.execute(UNLOCK_SQL, MIGRATION_LOCK)


async def migrate(
    conn: asyncpg.Connection,
    max_attempts: int | None = None,
    *,
    zone: str = 'UTC',
    given: Mapping[str, str] | None = None,
    progress: ReportProgress = silent,
) -> Plan | None:
    """Apply what is missing, then expand a table that was there before.

    Each file is applied in a transaction of its own.

    Two callers at once are safe: the second waits for the first and then finds nothing to do.

    Args:
        max_attempts: The default of new rows. None: rows that do not say have no number of their
            own, see mail.outcome.BY_LIFE.
        zone: What times without a zone in an adopted table mean.
        given: What an operator says of words in an adopted table's status: word -> state.
    Returns:
        What an adopted table is like; None when this program made it.
    Raises:
        NotAdoptableError: nothing was changed; names every reason.
        pogo_core.error.BadMigrationError: a file failed; its cause is the PostgreSQL error. Earlier
        files stay applied.
    """
    async with alone(conn, zone):
        planned = None
        await refuse_elsewhere(conn)
        if await is_adopted(conn):  # before anything is changed
            planned = await plan(conn, zone=zone, max_attempts=max_attempts, given=given)
        await pogo.apply(conn, MIGRATIONS_DIR, schema_name='public')
        await conn.execute(f'{NOTE_ATTACHMENTS_DDL};{QUOTA_DDL}')
        if planned is None:
            await conn.execute(
                MAX_ATTEMPTS_DEFAULT_DDL.format(int(max_attempts or BY_LIFE))
            )  # DDL takes no parameters
            adoption = await read_adoption(conn)
            names = view_columns(adoption.added_columns if adoption else ())
            await _make_view(conn, names)
            await add_indexes(conn, names, progress)
        else:
            await expand(conn, planned, progress)
        await _make_capture(conn, progress)
        return planned


async def _make_capture(conn: asyncpg.Connection, progress: ReportProgress) -> None:
    """Make what writes events for webhooks, as far as there are any that want them."""
    adoption = await read_adoption(conn)
    await conn.execute(capture_ddl(view_columns(adoption.added_columns if adoption else ())))
    await briefly(conn, partial(arm, conn), progress)


VIEW_COLUMNS_SQL = """
SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('mail_outbox') AND attnum > 0
  AND NOT attisdropped
"""


async def _make_view(conn: asyncpg.Connection, names: Mapping[str, str]) -> None:
    """Make the view that all statements go through, unless it has all columns already."""
    if await conn.fetchval(VIEW_COLUMNS_SQL) == len(WANTED):
        await conn.execute(VIEW_RIGHTS_DDL)  # a backup keeps none
        return
    async with conn.transaction():
        await conn.execute(state_ddl(choose_words(SYNONYMS)))
        await conn.execute(view_ddl(names))


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
    await conn.execute(NO_TIMEOUTS)
    return conn


if __name__ == '__main__':
    import sys

    from ops.migration import main

    sys.exit(asyncio.run(main()))
