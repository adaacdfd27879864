"""State changes that no attempt makes: retry, resolve and expire."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from db.claim_request import NEXT_ATTEMPT
from db.narrowing import fetch_narrowly
from db.states import CLAIMED, IS_EMPTIED, IS_SCHEDULED, IS_UNSCHEDULED, RETRYABLE, sql_list
from db.times import elapsed_s
from mail_outbox.states import DeadReason

# Room for one attempt more, whatever the numbers are.
NEXT_MAX_ATTEMPTS = f'GREATEST(max_attempts, {NEXT_ATTEMPT.replace("e.", "")})'

RETRY_SQL = f"""
UPDATE mail_outbox
SET status = 'pending', next_retry_at = now(), dead_reason = NULL, lost_attempts = 0,
    feedback_at = NULL, feedback = NULL,
    max_attempts = {NEXT_MAX_ATTEMPTS},
    expires_at = CASE WHEN expires_at <= now() THEN now() + $2 * interval '1 hour'
                      ELSE expires_at END,
    updated_at = now()
WHERE id = ANY($1::bigint[]) AND status = ANY($3::text[]) AND NOT {IS_EMPTIED}
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
WHERE id = ANY($1::bigint[]) AND COALESCE(status, '') IN ({sql_list(CLAIMED)})
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
