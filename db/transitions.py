"""State changes that no attempt makes: retry, cancel, expire, and the end of retention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from db.claims import NEXT_ATTEMPT
from db.narrowing import fetch_narrowly
from db.pools import BY_INDEX, DATABASE_DOWN
from db.references import Connection, Reference, delete_narrowly, held, read_references
from db.states import CLAIMED, IS_SCHEDULED, IS_UNSCHEDULED, OVER, RETRYABLE, listed
from db.times import elapsed_s
from mail_outbox.states import DeadReason

# Room for one attempt more, whatever the numbers are.
NEXT_MAX_ATTEMPTS = f'GREATEST(max_attempts, {NEXT_ATTEMPT.replace("e.", "")})'

RETRY_SQL = f"""
UPDATE mail_outbox
SET status = 'pending', next_retry_at = now(), dead_reason = NULL, lost_attempts = 0,
    max_attempts = {NEXT_MAX_ATTEMPTS},
    expires_at = CASE WHEN expires_at <= now() THEN now() + $2 * interval '1 hour'
                      ELSE expires_at END,
    updated_at = now()
WHERE id = ANY($1::bigint[]) AND status = ANY($3::text[])
RETURNING id
"""


async def retry(
    pool: asyncpg.Pool,
    email_ids: Sequence[int],
    *,
    expiry_hours: float,
    from_states: Sequence[str] = RETRYABLE,
) -> list[int]:
    """Make e-mails that ended, or wait for a decision, due now, with at least one attempt left.

    Args:
        expiry_hours: The new life of those that have expired.
        from_states: Only e-mails that are still in one of these.
    Returns:
        The ids that were changed.
    """
    states = [state for state in from_states if state in RETRYABLE]
    return await fetch_narrowly(pool, RETRY_SQL, email_ids, expiry_hours, states)


MARK_SENT_SQL = """
UPDATE mail_outbox
SET status = 'sent', sent_at = COALESCE(last_attempt_at, now()), next_retry_at = NULL,
    updated_at = now()
WHERE id = ANY($1::bigint[]) AND status = 'uncertain'
RETURNING id
"""


async def mark_sent(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Decide that uncertain e-mails did arrive. Returns the changed ids."""
    return await fetch_narrowly(pool, MARK_SENT_SQL, email_ids)


GIVE_UP_SQL = f"""
UPDATE mail_outbox
SET status = 'failed', dead_reason = '{DeadReason.GIVEN_UP}', next_retry_at = NULL,
    updated_at = now()
WHERE id = ANY($1::bigint[])
  AND (status = 'uncertain' OR (status = 'failed' AND next_retry_at IS NOT NULL))
RETURNING id
"""


async def give_up(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Decide that uncertain or failing e-mails get no further attempt. Returns the changed ids."""
    return await fetch_narrowly(pool, GIVE_UP_SQL, email_ids)


# Columns in functions: only the primary key is to serve, see db/claims.py.
EXPIRE_SQL = f"""
UPDATE mail_outbox
SET status = CASE WHEN status = 'uncertain' THEN 'uncertain' ELSE 'expired' END,
    next_retry_at = NULL,
    last_error = COALESCE(last_error, 'expired before it could be sent'), updated_at = now()
WHERE id = ANY($1::bigint[]) AND COALESCE(status, '') IN ({listed(CLAIMED)})
  AND COALESCE(expires_at, 'infinity') <= now()
  AND (status = 'pending' OR next_retry_at IS NOT NULL)
RETURNING id
"""


async def expire(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Expire those of these e-mails whose time is over. Returns the changed ids.

    Dead ones stay failed. Uncertain ones may have been delivered, so they stay uncertain, without
    another attempt.
    """
    return await fetch_narrowly(pool, EXPIRE_SQL, email_ids, or_none=True)


# What waits stands in the due index or in the one of rows without a time, so neither part reads the
# whole table.
EXPIRABLE_SQL = f"""
SELECT id FROM mail_outbox WHERE {IS_SCHEDULED} AND expires_at <= now()
UNION ALL
SELECT id FROM mail_outbox WHERE {IS_UNSCHEDULED} AND expires_at <= now()
LIMIT $1
"""


async def expire_all(pool: asyncpg.Pool, batch: int = 1000) -> int:
    """Expire everything whose time is over, in batches. Returns how many."""
    expired = 0
    while ids := [row['id'] for row in await pool.fetch(EXPIRABLE_SQL, batch)]:
        done = await expire(pool, ids)
        expired += len(done)
        if not done:  # the rest is held by somebody, who will decide
            break
    return expired


@dataclass(frozen=True, slots=True)
class Removed:
    """What one batch of the retention removed.

    last_id is the last id it looked at, None when the rest is not old.

    held counts the e-mails that a foreign key kept, refused those that the server would not delete,
    and refusal is why.
    """

    emails: int
    content_ids: list[str]
    last_id: int | None
    held: int = 0
    refused: int = 0
    refusal: str | None = None


# An adopted table may hold NULLs: a row without any time is looked past, and never deleted.
_NEXT_OLD = """
WITH next AS (
    SELECT id,
        (COALESCE(created_at, updated_at) < now() - $1 * interval '1 day') IS NOT FALSE AS is_old
    FROM mail_outbox WHERE id > $2 ORDER BY id LIMIT $3
)"""
_ENDED_LONG_AGO = f"""
    id = ANY(ARRAY(SELECT id FROM next WHERE is_old))
      AND COALESCE(updated_at, created_at) < now() - $1 * interval '1 day'
      AND (COALESCE(status, '') IN ({listed(OVER)})
           OR (status = 'failed' AND next_retry_at IS NULL))
"""

# Ids grow with time, so each batch is the next stretch of the primary key: no row is looked at
# twice, however many dead ones the batches before have left. SKIP LOCKED keeps the hot path free.
REMOVE_SQL = f"""
{_NEXT_OLD}, old AS (
    SELECT id FROM mail_outbox WHERE {_ENDED_LONG_AGO}
    FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM mail_outbox WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING id, content_id
), attempts AS (
    DELETE FROM email_attempts WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
)
SELECT count(*) AS emails,
    COALESCE(array_agg(content_id) FILTER (WHERE content_id IS NOT NULL), '{{}}') AS content_ids,
    (SELECT max(id) FROM next HAVING bool_or(is_old)) AS last_id
FROM removed
"""

OUTBOUND_EMAILS_SQL = "SELECT 'outbound_emails'::regclass::oid"


async def remove_old(
    pool: asyncpg.Pool, older_than_days: int, after_id: int = 0, batch: int = 1000
) -> Removed:
    """Delete e-mails that ended long ago, with their attempts, in one stretch of ids.

    Uncertain ones stay.

    What another row refers to stays, and what the server refuses to delete.

    Args:
        after_id: The last_id of the stretch before.
        batch: How many rows it looks at.
    """
    references = await read_references(pool, await pool.fetchval(OUTBOUND_EMAILS_SQL))
    if not references:
        try:
            [row] = await pool.fetch(REMOVE_SQL, older_than_days, after_id, batch)
            return Removed(row['emails'], row['content_ids'], row['last_id'])
        except (*DATABASE_DOWN, asyncpg.InsufficientPrivilegeError):
            raise
        except asyncpg.PostgresError:  # a trigger of the application's refuses one of them
            pass
    async with pool.acquire() as conn, conn.transaction():
        return await _remove_around(conn, references, older_than_days, after_id, batch)


LOCK_OLD_SQL = f"""
{_NEXT_OLD}, old AS (
    SELECT id FROM mail_outbox WHERE {_ENDED_LONG_AGO}
    FOR UPDATE SKIP LOCKED
)
SELECT ARRAY(SELECT id::bigint FROM old) AS ids,
    (SELECT max(id) FROM next HAVING bool_or(is_old)) AS last_id
"""

# Their tables may be large and have no index that helps: better read one once than once for each
# row.
PLAN_FREELY_SQL = "SELECT set_config(name, 'on', true) FROM unnest($1::text[]) AS s (name)"

DELETE_SQL = """
WITH removed AS (
    DELETE FROM mail_outbox WHERE id = ANY($1::bigint[]) RETURNING id, content_id
), attempts AS (
    DELETE FROM email_attempts WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
)
SELECT content_id FROM removed
"""


async def _remove_around(
    conn: Connection,
    references: Sequence[Reference],
    older_than_days: int,
    after_id: int,
    batch: int,
) -> Removed:
    """Do what REMOVE_SQL does, around the rows that must stay.

    Once the rows are locked, nobody can refer to one of them anew.
    """
    await conn.execute('SET CONSTRAINTS ALL IMMEDIATE')
    [old] = await conn.fetch(LOCK_OLD_SQL, older_than_days, after_id, batch)
    ids = set(old['ids'])
    await conn.execute(PLAN_FREELY_SQL, list(BY_INDEX))
    for reference in references:
        sql = (
            'SELECT t.id FROM outbound_emails AS t '
            f'WHERE t.id = ANY($1::bigint[]) AND {held(reference)}'
        )
        ids -= {row['id'] for row in await conn.fetch(sql, list(ids))}
    done = await delete_narrowly(conn, sorted(ids), lambda some: conn.fetch(DELETE_SQL, some))
    content_ids = [row['content_id'] for row in done.done if row['content_id'] is not None]
    return Removed(
        len(done.done),
        content_ids,
        old['last_id'],
        held=len(old['ids']) - len(ids),
        refused=len(done.refused),
        refusal=done.refusal,
    )


COUNT_OLD_SQL = f"""
{_NEXT_OLD}
SELECT (SELECT count(*) FROM mail_outbox WHERE {_ENDED_LONG_AGO}) AS emails,
    (SELECT max(id) FROM next HAVING bool_or(is_old)) AS last_id
"""


async def count_old(pool: asyncpg.Pool, older_than_days: int, batch: int = 10_000) -> int:
    """Count the e-mails that the retention would delete, foreign keys apart."""
    emails = 0
    last_id: int | None = 0
    while last_id is not None:
        [row] = await pool.fetch(COUNT_OLD_SQL, older_than_days, last_id, batch)
        emails, last_id = emails + row['emails'], row['last_id']
    return emails


STATE_SQL = f"""
SELECT id, status, COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    lost_attempts,
    next_retry_at, expires_at, claimed_by,
    email_type::text AS email_type, expires_at <= now() AS past_expiry,
    CASE WHEN next_retry_at IS NOT NULL
         THEN LEAST({elapsed_s('now()', 'next_retry_at')}, 1e9) END AS due_in_s
FROM mail_outbox WHERE id = ANY($1::bigint[])
"""


async def states_of(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[dict[str, Any] | None]:
    """Return what decides whether each of these e-mails can be claimed.

    None: there is no such row.

    Keys: id, status, attempts, max_attempts, lost_attempts, next_retry_at, expires_at, claimed_by,
    email_type, past_expiry, due_in_s (negative: overdue, None: no time).
    """
    states = {row['id']: dict(row) for row in await pool.fetch(STATE_SQL, list(email_ids))}
    return [states.get(email_id) for email_id in email_ids]
