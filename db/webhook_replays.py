"""Deliveries of events as operators see them: looked at, made again, tested, deleted in the end.

Functions here raise asyncpg.PostgresError or OSError when the connection or the statement fails.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from db.times import Row, rows_of

MOST_REPLAYED = 10_000  # by one statement

ADD_TEST_SQL = """
INSERT INTO mail_webhook_deliveries (webhook_id, event_type, payload, dead_at)
SELECT id, $2, jsonb_build_object('type', $2::text, 'timestamp', now(),
    'data', jsonb_build_object('webhook_id', id)), now() + interval '1 minute'
FROM mail_webhooks WHERE id = $1 AND enabled RETURNING id
"""


async def add_test(pool: asyncpg.Pool, webhook_id: int, event_type: str) -> int | None:
    """Have a worker deliver a test. Returns the delivery's id; None: there is no such webhook."""
    delivery_id: int | None = await pool.fetchval(ADD_TEST_SQL, webhook_id, event_type)
    return delivery_id


_SHOWN = """d.id, d.webhook_id, d.message_id::text AS message_id, d.email_id, d.event_type,
    d.status, d.occurred_at,
    CASE WHEN d.status = 'waiting' THEN d.next_retry_at END AS next_retry_at,
    d.attempts, d.last_attempt_at, d.ended_at, d.http_status, d.answer, d.error, d.duration_ms,
    d.claim_token IS NOT NULL AS is_being_sent"""
READ_DELIVERIES_SQL = f"""
SELECT {_SHOWN} FROM mail_webhook_deliveries AS d
WHERE ($1::bigint IS NULL OR d.webhook_id = $1) AND ($2::text IS NULL OR d.status = $2)
  AND ($3::bigint IS NULL OR d.email_id = $3) AND ($4::bigint IS NULL OR d.id < $4)
ORDER BY d.id DESC LIMIT $5
"""
READ_DELIVERY_SQL = f"""
SELECT {_SHOWN}, d.payload FROM mail_webhook_deliveries AS d WHERE d.id = $1
"""


async def read_deliveries(
    pool: asyncpg.Pool,
    *,
    webhook_id: int | None = None,
    status: str | None = None,
    email_id: int | None = None,
    before_id: int | None = None,
    limit: int,
) -> list[Row]:
    """Return deliveries, the newest first.

    Args:
        before_id: Where the page before ended.
    """
    return rows_of(
        await pool.fetch(READ_DELIVERIES_SQL, webhook_id, status, email_id, before_id, limit)
    )


async def read_delivery(pool: asyncpg.Pool, delivery_id: int) -> Row | None:
    """Return one delivery with its payload; None when there is none."""
    rows = rows_of(await pool.fetch(READ_DELIVERY_SQL, delivery_id))
    return rows[0] if rows else None


# The same message_id: who has had it already knows that it is the same.
_AGAIN = """status = 'waiting', attempts = 0, next_retry_at = now(),
    dead_at = now() + interval '1 day', claim_token = NULL, claimed_by = NULL, ended_at = NULL"""
_REPLAY = f"""
, again AS (
    UPDATE mail_webhook_deliveries SET {_AGAIN}
    WHERE id = ANY(ARRAY(SELECT id FROM found)) RETURNING id
), told AS (
    UPDATE mail_webhooks AS w SET given_up = GREATEST(w.given_up - f.dead, 0)
    FROM (SELECT webhook_id, count(email_id) AS dead FROM found WHERE status = 'dead'
          GROUP BY webhook_id) AS f
    WHERE w.id = f.webhook_id
)
SELECT id FROM again
"""
REPLAY_THESE_SQL = f"""
WITH found AS MATERIALIZED (
    SELECT id, webhook_id, email_id, status FROM mail_webhook_deliveries
    WHERE id = ANY($1::bigint[]) AND webhook_id = $2 AND status <> 'waiting' FOR UPDATE
){_REPLAY}"""
REPLAY_BETWEEN_SQL = f"""
WITH found AS MATERIALIZED (
    SELECT id, webhook_id, email_id, status FROM mail_webhook_deliveries
    WHERE webhook_id = $1 AND occurred_at >= $2 AND occurred_at < $3 AND status = ANY($4::text[])
      AND status <> 'waiting' AND email_id IS NOT NULL AND id > $5
    ORDER BY id LIMIT {MOST_REPLAYED} FOR UPDATE
){_REPLAY}"""


async def replay_these(
    pool: asyncpg.Pool, delivery_ids: Sequence[int], webhook_id: int
) -> list[int]:
    """Have deliveries of a webhook made again. Returns those that are."""
    rows = await pool.fetch(REPLAY_THESE_SQL, list(delivery_ids), webhook_id)
    return [row['id'] for row in rows]


async def replay_between(
    pool: asyncpg.Pool,
    webhook_id: int,
    since: datetime,
    until: datetime,
    statuses: Sequence[str],
    after_id: int = 0,
) -> list[int]:
    """Have deliveries of what happened in a time made again, at most MOST_REPLAYED.

    Args:
        after_id: The last of the call before.
    Returns:
        Those that are.
    """
    rows = await pool.fetch(REPLAY_BETWEEN_SQL, webhook_id, since, until, list(statuses), after_id)
    return sorted(row['id'] for row in rows)


COUNT_BETWEEN_SQL = """
SELECT count(*) FROM mail_webhook_deliveries
WHERE webhook_id = $1 AND occurred_at >= $2 AND occurred_at < $3 AND status = ANY($4::text[])
  AND email_id IS NOT NULL
"""


async def count_between(
    pool: asyncpg.Pool, webhook_id: int, since: datetime, until: datetime, statuses: Sequence[str]
) -> int:
    """Count what replay_between would replay in all."""
    found: int = await pool.fetchval(COUNT_BETWEEN_SQL, webhook_id, since, until, list(statuses))
    return found


# Ids grow with time: each batch is the next stretch of the primary key. What waits is dead first.
REMOVE_DELIVERIES_SQL = """
WITH next AS (
    SELECT id, occurred_at < now() - $1 * interval '1 day' AS is_old, status
    FROM mail_webhook_deliveries WHERE id > $2 ORDER BY id LIMIT $3
), removed AS (
    DELETE FROM mail_webhook_deliveries WHERE id = ANY(ARRAY(
        SELECT id FROM next WHERE is_old AND status <> 'waiting'))
    RETURNING id
)
SELECT (SELECT count(*) FROM removed) AS removed,
    (SELECT max(id) FROM next HAVING bool_or(is_old)) AS last_id
"""


async def remove_old_deliveries(pool: asyncpg.Pool, days: float, batch: int = 10_000) -> int:
    """Delete deliveries that ended and are older than this, in batches. Returns how many."""
    removed = 0
    last_id: int | None = 0
    while last_id is not None:
        [row] = await pool.fetch(REMOVE_DELIVERIES_SQL, days, last_id, batch)
        removed, last_id = removed + row['removed'], row['last_id']
    return removed
