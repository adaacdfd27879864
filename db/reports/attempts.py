"""The latest attempts of the fleet: only the end of their table is read."""

import asyncpg

from db.times import Row, rows_of

LAST_MINUTE_SQL = """
SELECT outcome, count(*) AS attempts FROM email_attempts
WHERE started_at > now() - interval '1 minute' GROUP BY outcome
"""


async def count_last_minute(pool: asyncpg.Pool) -> dict[str, int]:
    """Return how many attempts began within the last minute and have ended, by outcome."""
    return {row['outcome']: row['attempts'] for row in await pool.fetch(LAST_MINUTE_SQL)}


LAST_FAILURES_SQL = """
SELECT email_id, attempt, outcome, relay, phase, COALESCE(error, reply) AS error, worker,
    started_at,
    EXTRACT(EPOCH FROM now() - started_at)::float8 AS started_s
FROM email_attempts
WHERE started_at > now() - interval '10 minutes' AND outcome NOT IN ('accepted', 'released')
ORDER BY started_at DESC LIMIT $1
"""


async def read_last_failures(pool: asyncpg.Pool, limit: int) -> list[Row]:
    """Return the last attempts within ten minutes that failed, the latest first."""
    return [dict(row) for row in await pool.fetch(LAST_FAILURES_SQL, limit)]


# What a relay or an error says in words may hold an address, so reasons are counted by codes and
# phases.
FAILURES_SQL = """
SELECT outcome, phase, relay, smtp_code, enhanced_code, count(*) AS attempts,
    EXTRACT(EPOCH FROM now() - max(started_at))::float8 AS last_s
FROM email_attempts
WHERE started_at > now() - interval '1 hour' AND outcome NOT IN ('accepted', 'released')
GROUP BY outcome, phase, relay, smtp_code, enhanced_code ORDER BY attempts DESC, last_s LIMIT $1
"""


async def count_failures(pool: asyncpg.Pool, limit: int) -> list[Row]:
    """Count the attempts of the last hour that failed by reason, the commonest first.

    Returns:
        outcome, phase (how far it came), relay, smtp_code, enhanced_code, attempts, last_s (how
        long ago the last was).
    """
    return [dict(row) for row in await pool.fetch(FAILURES_SQL, limit)]


QUANTILES = (0.5, 0.95, 0.99)
DURATIONS_SQL = """
SELECT percentile_cont($1::float8[]) WITHIN GROUP (ORDER BY duration_ms) FROM email_attempts
WHERE started_at > now() - interval '5 minutes'
"""


async def read_durations(pool: asyncpg.Pool) -> dict[float, float]:
    """Return how long attempts of the last five minutes took, in seconds by quantile.

    Without attempts there are none.
    """
    quantiles_ms = await pool.fetchval(DURATIONS_SQL, QUANTILES)
    return {q: ms / 1000 for q, ms in zip(QUANTILES, quantiles_ms or (), strict=False)}


ATTEMPTS_BY_WORKER_SQL = """
SELECT worker, outcome, count(*) AS day,
    count(*) FILTER (WHERE started_at > now() - interval '1 hour') AS hour
FROM email_attempts WHERE started_at > now() - interval '1 day'
GROUP BY worker, outcome ORDER BY worker, outcome
"""


async def count_attempts(pool: asyncpg.Pool) -> list[Row]:
    """Count attempts by worker and outcome.

    Returns:
        worker, outcome, hour (the last one), day (the last 24 hours).
    """
    return rows_of(await pool.fetch(ATTEMPTS_BY_WORKER_SQL))
