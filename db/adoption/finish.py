"""The last step: give an adopted table the form of a new one, once no old program writes to it."""

import re

import asyncpg

from db.adoption.finish_plan import CHECKS, NOT_NULL, REPLACED, FinishPlan
from db.adoption.indexes import INDEX_STATE_SQL
from db.adoption.locks import ReportProgress, briefly, by_index, count_rows
from db.adoption.phases import AdoptionPhase, set_phase
from db.adoption.quoting import quoted
from db.adoption.takeover import BATCH
from db.states import ALL_DEAD_REASONS
from mail_outbox.states import DeadReason

FILL_SQL = """
WITH stretch AS (
    SELECT id FROM outbound_emails WHERE id > $1::bigint ORDER BY id LIMIT $2
), filled AS (
    UPDATE outbound_emails AS e
    SET mail_status = CASE WHEN COALESCE(e.mail_status, 'external') = 'external'
                           THEN COALESCE(outbox_state(e.status::text), 'external')
                           ELSE e.mail_status END,
        attempts = COALESCE(e.attempts, 0),
        max_attempts = GREATEST(COALESCE(e.max_attempts, $3::int), e.attempts, 1),
        created_at = COALESCE(e.created_at, e.updated_at, now()),
        updated_at = COALESCE(e.updated_at, e.created_at, now()),
        sent_at = CASE WHEN e.mail_status = 'sent' OR outbox_state(e.status::text) = 'sent'
                       THEN COALESCE(e.sent_at, e.last_attempt_at, e.updated_at, e.created_at,
                                     now())
                       ELSE e.sent_at END
    WHERE e.id IN (SELECT id FROM stretch) AND (
        e.mail_status IS NULL OR e.mail_status = 'external'
        OR e.attempts IS NULL OR e.max_attempts IS NULL OR e.attempts > e.max_attempts
        OR e.max_attempts < 1 OR e.created_at IS NULL OR e.updated_at IS NULL
        OR (e.mail_status = 'sent' AND e.sent_at IS NULL))
    RETURNING 1
)
SELECT (SELECT max(id) FROM stretch) AS last_id, (SELECT count(*) FROM stretch) AS walked,
    (SELECT count(*) FROM filled) AS filled
"""
REMEMBER_SQL = 'UPDATE outbox_adoption SET rebuilt_indexes = $1, added_columns = $2'
REMEMBERED_SQL = 'SELECT rebuilt_indexes FROM outbox_adoption'
LATE_SQL = """
UPDATE outbound_emails
SET status = COALESCE(status, 'external'), attempts = COALESCE(attempts, 0),
    max_attempts = GREATEST(COALESCE(max_attempts, $1::int), attempts, 1),
    created_at = COALESCE(created_at, updated_at, now()),
    updated_at = COALESCE(updated_at, created_at, now()),
    sent_at = CASE WHEN status = 'sent'
                   THEN COALESCE(sent_at, last_attempt_at, updated_at, created_at, now())
                   ELSE sent_at END
WHERE status IS NULL OR attempts IS NULL OR max_attempts IS NULL OR attempts > max_attempts
   OR max_attempts < 1 OR created_at IS NULL OR updated_at IS NULL
   OR (status = 'sent' AND sent_at IS NULL)
"""
# This program never wrote another word, so an operator did; see 0008_dead_reasons_checked.sql.
OTHER_REASONS_SQL = f"""
UPDATE mail_outbox
SET last_error = concat_ws('; ', last_error, dead_reason), dead_reason = '{DeadReason.GIVEN_UP}'
WHERE dead_reason NOT IN ({ALL_DEAD_REASONS})
"""


async def finish(conn: asyncpg.Connection, plan: FinishPlan, progress: ReportProgress) -> None:
    """Do what the plan lists. Called again after an interruption, it goes on.

    Raises:
        TableBusyError: somebody holds the table; calling again goes on.
        asyncpg.PostgresError: connection or statement failure; calling again goes on.
    """
    if plan.is_renaming:
        await _fill(conn, plan, progress)

        async def change() -> None:
            rebuilt = [_concurrently(ddl) for ddl in plan.rebuilt.values()]
            await conn.execute(REMEMBER_SQL, rebuilt, list(plan.added_columns))
            for name in plan.rebuilt:
                await conn.execute(f'DROP INDEX {quoted(name)}')
            for change in plan.changes:
                if change.ddl:
                    await conn.execute(change.ddl)

        await briefly(conn, change, progress)
        progress('the table has its new form')
    await _rebuild(conn, progress)
    await conn.execute(LATE_SQL, plan.max_attempts)
    await conn.execute(OTHER_REASONS_SQL)
    for name in (*CHECKS, *(f'outbound_emails_{name}_given' for name in NOT_NULL)):
        await conn.execute(f'ALTER TABLE outbound_emails VALIDATE CONSTRAINT {name}')

    async def refuse_null() -> None:
        set_not_null = ', '.join(f'ALTER COLUMN {name} SET NOT NULL' for name in NOT_NULL)
        drop = ', '.join(f'DROP CONSTRAINT outbound_emails_{name}_given' for name in NOT_NULL)
        # Two statements: the CHECKs that are valid spare the first one a look at every row.
        await conn.execute(f'ALTER TABLE outbound_emails {set_not_null}')
        await conn.execute(f'ALTER TABLE outbound_emails {drop}')

    await briefly(conn, refuse_null, progress)
    await set_phase(conn, AdoptionPhase.FINISHED)


async def _fill(conn: asyncpg.Connection, plan: FinishPlan, progress: ReportProgress) -> None:
    """Give every row what the CHECKs will ask for, in stretches of ids."""
    last_id, filled = -(2**63), 0
    walked, total = 0, await count_rows(conn)
    async with by_index(conn):
        while last_id is not None:
            [row] = await conn.fetch(FILL_SQL, last_id, BATCH, plan.max_attempts)
            last_id = row['last_id']
            filled += row['filled']
            walked += row['walked']
            progress(f'{filled} rows filled', walked, total)


def _concurrently(ddl: str) -> str:
    """Return an index's DDL for building it while others write, with the names of afterwards."""
    for name in REPLACED:
        ddl = ddl.replace(f'mail_{name}', name)
    return re.sub(r'^CREATE (UNIQUE )?INDEX ', r'CREATE \1INDEX CONCURRENTLY ', ddl)


async def _rebuild(conn: asyncpg.Connection, progress: ReportProgress) -> None:
    """Build the indexes that were dropped under the lock; a half-built one is built anew."""
    for ddl in await conn.fetchval(REMEMBERED_SQL):
        name = ddl.partition('CONCURRENTLY ')[2].partition(' ON ')[0]
        valid = await conn.fetchval(INDEX_STATE_SQL, name)
        if valid is False:
            await conn.execute(f'DROP INDEX CONCURRENTLY {name}')
        if not valid:
            await conn.execute(ddl)
            progress(f'built the index {name}')
