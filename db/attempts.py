"""The latest attempts, for screens that look again every few seconds: only the end of the table is read."""

from typing import Any

import asyncpg

LAST_MINUTE_SQL = """
SELECT outcome, count(*) AS attempts FROM email_attempts
WHERE started_at > now() - interval '1 minute' GROUP BY outcome
"""


async def count_last_minute(pool: asyncpg.Pool) -> dict[str, int]:
    """Return how many attempts began within the last minute and have ended, by outcome."""
    return {row['outcome']: row['attempts'] for row in await pool.fetch(LAST_MINUTE_SQL)}


LAST_FAILURES_SQL = """
SELECT email_id, attempt, outcome, relay, phase, COALESCE(error, reply) AS error, worker, started_at,
    EXTRACT(EPOCH FROM now() - started_at)::float8 AS started_s
FROM email_attempts
WHERE started_at > now() - interval '10 minutes' AND outcome NOT IN ('accepted', 'released')
ORDER BY started_at DESC LIMIT $1
"""


async def read_last_failures(pool: asyncpg.Pool, limit: int) -> list[dict[str, Any]]:
    """Return the last attempts within ten minutes that failed, the latest first."""
    return [dict(row) for row in await pool.fetch(LAST_FAILURES_SQL, limit)]
