"""E-mails that are held: they wait for an operator, who releases or cancels them.

Until then nobody sends, expires or deletes them.
"""

from collections.abc import Sequence
from typing import Any

import asyncpg

from db.narrowing import fetch_narrowly
from db.selection import OWN_1, OWN_2, SELECTED, Selection
from db.states import CLAIMED, HAS_NEXT_ATTEMPT, IS_HELD, sql_list
from db.times import as_row, elapsed_s
from db.transitions import NEXT_MAX_ATTEMPTS
from mail_outbox.states import Status

# How old it is counts from when it was due: that is how long somebody has been waiting for it.
_DUE_AT = 'COALESCE(next_retry_at, created_at)'

COUNT_HELD_SQL = f"""
SELECT email_type::text AS email_type, count(*) AS emails,
    min({_DUE_AT}) AS oldest_at, max({_DUE_AT}) AS newest_at,
    count(*) FILTER (WHERE {_DUE_AT} > now() - interval '1 day') AS within_a_day,
    count(*) FILTER (WHERE {_DUE_AT} <= now() - interval '1 day'
        AND {_DUE_AT} > now() - interval '7 days') AS within_a_week,
    count(*) FILTER (WHERE {_DUE_AT} <= now() - interval '7 days'
        AND {_DUE_AT} > now() - interval '30 days') AS within_a_month,
    count(*) FILTER (WHERE {_DUE_AT} <= now() - interval '30 days') AS older,
    count(*) FILTER (WHERE expires_at <= now()) AS past_expiry
FROM mail_outbox WHERE {IS_HELD} AND {SELECTED} GROUP BY 1 ORDER BY min({_DUE_AT}), 1
"""


async def count_held(pool: asyncpg.Pool, selection: Selection) -> list[dict[str, Any]]:
    """Count what is held by type, the type with the oldest e-mail first.

    Returns:
        email_type, emails, oldest_at and newest_at (when they were due), within_a_day,
        within_a_week, within_a_month
        and older, which add up to emails, and past_expiry: what a release gives a new life.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    return [dict(row) for row in await pool.fetch(COUNT_HELD_SQL, *selection.parameters)]


LIST_HELD_SQL = f"""
SELECT id, recipient, email_type::text AS email_type,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    {_DUE_AT} AS due_at, created_at,
    expires_at, {elapsed_s(_DUE_AT)} AS due_s
FROM mail_outbox WHERE {IS_HELD} AND {SELECTED} ORDER BY {_DUE_AT}, id LIMIT {OWN_1}
"""


async def list_held(pool: asyncpg.Pool, selection: Selection, limit: int) -> list[dict[str, Any]]:
    """Return what is held, the longest due first."""
    return [as_row(row) for row in await pool.fetch(LIST_HELD_SQL, *selection.parameters, limit)]


HELD_IDS_SQL = f"""
SELECT id FROM mail_outbox WHERE {IS_HELD} AND id > {OWN_1} AND {SELECTED} ORDER BY id LIMIT {OWN_2}
"""


async def next_held(
    pool: asyncpg.Pool, selection: Selection, after_id: int, limit: int
) -> list[int]:
    """Return the next ids of what is held, in their order."""
    return [
        row['id'] for row in await pool.fetch(HELD_IDS_SQL, *selection.parameters, after_id, limit)
    ]


# What may have been delivered is not held: held mail counts as never sent.
HOLDABLE = tuple(status for status in CLAIMED if status is not Status.UNCERTAIN)
HOLD_SQL = f"""
UPDATE mail_outbox SET status = 'held', updated_at = now()
WHERE id = ANY($1::bigint[]) AND status IN ({sql_list(HOLDABLE)}) AND {HAS_NEXT_ATTEMPT}
RETURNING id
"""


async def hold(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Keep e-mails that wait for an attempt from being sent. Returns the ids that were changed."""
    return await fetch_narrowly(pool, HOLD_SQL, email_ids)


RELEASE_SQL = f"""
UPDATE mail_outbox
SET status = 'pending', next_retry_at = now(), dead_reason = NULL, lost_attempts = 0,
    max_attempts = {NEXT_MAX_ATTEMPTS},
    expires_at = CASE WHEN expires_at <= now() THEN now() + $2 * interval '1 hour'
                      ELSE expires_at END,
    updated_at = now()
WHERE id = ANY($1::bigint[]) AND {IS_HELD}
RETURNING id
"""


async def release(
    pool: asyncpg.Pool, email_ids: Sequence[int], *, expiry_hours: float
) -> list[int]:
    """Make held e-mails due now, with at least one attempt left.

    Args:
        expiry_hours: The new life of those that have expired.
    Returns:
        The ids that were changed.
    """
    return await fetch_narrowly(pool, RELEASE_SQL, email_ids, expiry_hours)


CANCEL_HELD_SQL = f"""
UPDATE mail_outbox SET status = 'cancelled', next_retry_at = NULL, updated_at = now()
WHERE id = ANY($1::bigint[]) AND {IS_HELD}
RETURNING id
"""


async def cancel_held(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Cancel held e-mails. Returns the ids that were changed."""
    return await fetch_narrowly(pool, CANCEL_HELD_SQL, email_ids)


COUNT_ALL_HELD_SQL = f'SELECT count(*) FROM mail_outbox WHERE {IS_HELD}'


async def count_all_held(pool: asyncpg.Pool) -> int:
    """Count what is held."""
    held: int = await pool.fetchval(COUNT_ALL_HELD_SQL)
    return held
