"""The open e-mails: counted by what becomes of them, and those that are sent now or next."""

import asyncpg

from db.late import TAKEN_BACK
from db.states import (
    HAS_ATTEMPTS,
    IS_CLAIMED,
    IS_HELD,
    IS_SCHEDULED,
    IS_SENDING,
    IS_TRIED,
    IS_UNSCHEDULED,
)
from db.times import Row, elapsed_s, rows_of

# Each branch is one of the table's partial indexes, so what is sent is never read. The states are
# disjoint. A time before 2000 is nobody's: such a row counts as one of that year.
OUTBOX_SQL = f"""
WITH open AS (
    SELECT status, next_retry_at, attempts, max_attempts, expires_at, lease_expires_at
    FROM mail_outbox WHERE {IS_SCHEDULED}
    UNION ALL
    SELECT status, created_at, attempts, max_attempts, expires_at, lease_expires_at
    FROM mail_outbox WHERE {IS_UNSCHEDULED}
    UNION ALL
    SELECT status, NULL, attempts, max_attempts, NULL, lease_expires_at
    FROM mail_outbox WHERE {IS_SENDING}
    UNION ALL
    SELECT status, NULL, attempts, max_attempts, NULL, NULL
    FROM mail_outbox WHERE {IS_TRIED} AND next_retry_at IS NULL
    UNION ALL
    SELECT status, NULL, attempts, max_attempts, NULL, NULL FROM mail_outbox WHERE {IS_HELD}
), judged AS (
    SELECT status, next_retry_at, CASE
        WHEN status = 'sending' AND lease_expires_at < now() - interval '30 seconds' THEN 'stuck'
        WHEN status = 'sending' THEN 'sending'
        WHEN status <> 'pending' AND (next_retry_at IS NULL OR attempts >= max_attempts)
            -- Also what has the status `held`
            THEN CASE status WHEN 'failed' THEN 'dead' ELSE 'held' END
        WHEN expires_at <= now() THEN 'past_expiry'
        WHEN next_retry_at <= now() THEN 'due'
        WHEN status = 'pending' THEN 'scheduled'
        WHEN status = 'failed' THEN 'retrying'
        ELSE 'uncertain' END AS state
    FROM open
)
SELECT * FROM (SELECT count(*) FILTER (WHERE state = 'due') AS due,
    EXTRACT(EPOCH FROM now() - min(GREATEST(next_retry_at, '2000-01-01'))
        FILTER (WHERE state = 'due'))::float8 AS oldest_due_s,
    count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
    count(*) FILTER (WHERE state = 'sending') AS sending,
    count(*) FILTER (WHERE state = 'stuck') AS stuck,
    count(*) FILTER (WHERE state = 'retrying') AS retrying,
    count(*) FILTER (WHERE state = 'dead') AS dead,
    count(*) FILTER (WHERE state = 'uncertain') AS uncertain,
    count(*) FILTER (WHERE state = 'held') AS held,
    count(*) FILTER (WHERE status = 'held') AS held_unsent,
    count(*) FILTER (WHERE state = 'past_expiry') AS past_expiry
FROM judged) AS waiting CROSS JOIN (
    -- error: somebody was refused all the same
    SELECT count(*) FILTER (WHERE started_at > now() - interval '1 hour') AS sent_last_hour,
        count(NULLIF(error, '{TAKEN_BACK}')) AS sent_in_part_last_day
    FROM email_attempts WHERE outcome = 'accepted' AND started_at > now() - interval '1 day'
) AS sent
"""


async def read_outbox(pool: asyncpg.Pool) -> Row:
    """Count the e-mails that are not finished.

    Returns:
        due (a worker may claim it now) and oldest_due_s (None without any), scheduled (pending,
        later), sending, stuck (sending, but the lease ran out more than 30 s ago), retrying
        (failed, with a time), dead (failed, without), uncertain (will be tried again), held (waits
        for an operator: of that status, or uncertain for good), held_unsent (those of that status
        alone), past_expiry, sent_last_hour, sent_in_part_last_day (a relay took it, but not for
        every recipient).
    """
    (row,) = await pool.fetch(OUTBOX_SQL)
    return dict(row)


# The same rows that OUTBOX_SQL counts as due, by whether an operator has paused their type.
PAUSED_DUE_SQL = f"""
WITH paused AS (
    SELECT name FROM mail_switches WHERE kind = 'email_type'
), open AS (
    SELECT email_type::text, next_retry_at, expires_at FROM mail_outbox
    WHERE {IS_CLAIMED} AND next_retry_at <= now() AND {HAS_ATTEMPTS} AND EXISTS (SELECT FROM paused)
    UNION ALL
    SELECT email_type::text, created_at, expires_at FROM mail_outbox
    WHERE {IS_UNSCHEDULED} AND EXISTS (SELECT FROM paused)
), judged AS (
    SELECT next_retry_at,
        COALESCE(email_type IN (SELECT name FROM paused), false) AS is_paused
    FROM open WHERE expires_at IS NULL OR expires_at > now()
)
SELECT count(*) FILTER (WHERE is_paused) AS due,
    count(*) FILTER (WHERE NOT is_paused) AS others_due,
    EXTRACT(EPOCH FROM now() - min(GREATEST(next_retry_at, '2000-01-01'))
        FILTER (WHERE is_paused))::float8 AS oldest_due_s,
    EXTRACT(EPOCH FROM now() - min(GREATEST(next_retry_at, '2000-01-01'))
        FILTER (WHERE NOT is_paused))::float8 AS oldest_other_s
FROM judged
"""


async def read_paused_due(pool: asyncpg.Pool) -> Row:
    """Count the due e-mails whose type is paused, and the others.

    Nothing is read while no type is paused.

    Returns:
        due and oldest_due_s of the paused types (0 and None without any), others_due and
        oldest_other_s of all others.
    """
    (row,) = await pool.fetch(PAUSED_DUE_SQL)
    return dict(row)


ACTIVE_SQL = f"""
SELECT id, claimed_by AS worker, email_type::text AS email_type, relay AS last_relay,
    COALESCE(attempts, 0) AS attempt, COALESCE(max_attempts, 32767) AS max_attempts,
    claimed_at, {elapsed_s('claimed_at')} AS claimed_s,
    {elapsed_s('now()', 'lease_expires_at')} AS lease_ends_in_s
FROM mail_outbox WHERE {IS_SENDING} ORDER BY claimed_at, id LIMIT $1
"""


async def read_active(pool: asyncpg.Pool, limit: int) -> list[Row]:
    """Return the e-mails that are being sent, the oldest claim first.

    last_relay is the relay of an earlier attempt.
    """
    return rows_of(await pool.fetch(ACTIVE_SQL, limit))


SCHEDULED_SQL = f"""
SELECT id, email_type::text AS email_type, status,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    next_retry_at, {elapsed_s('now()', 'next_retry_at')} AS due_in_s, count(*) OVER () AS total
FROM mail_outbox
WHERE {IS_CLAIMED} AND next_retry_at > now() AND {HAS_ATTEMPTS}
ORDER BY next_retry_at LIMIT $1
"""


async def read_scheduled(pool: asyncpg.Pool, limit: int) -> tuple[int, list[Row]]:
    """Return how many e-mails have a time to come, and the next of them."""
    rows = rows_of(await pool.fetch(SCHEDULED_SQL, limit))
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows
