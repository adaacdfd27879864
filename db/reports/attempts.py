"""The latest attempts of the fleet: only the end of their table is read."""

import asyncpg

from db.history import MINUTE_SPAN_S, MOST_LATEST, OTHERS, quantile_ms, reason_fields
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
# phases. Minutes that are counted, and the attempts since.
FAILURES_SQL = f"""
WITH latest AS (
    SELECT outcome, jsonb_build_array(phase, relay, smtp_code, enhanced_code) AS reason,
        started_at AS at, 1 AS attempts
    FROM email_attempts
    WHERE recorded_at >= GREATEST((SELECT counted_until FROM mail_history_progress),
                                  now() - interval '1 hour')
      AND started_at > now() - interval '1 hour' AND outcome NOT IN ('accepted', 'released')
    LIMIT {MOST_LATEST}
), counted AS (
    SELECT outcome, CASE WHEN name <> '{OTHERS}' THEN name::jsonb END, at, attempts
    FROM mail_history
    WHERE span_s = {MINUTE_SPAN_S} AND dimension = 'reason' AND at > now() - interval '1 hour'
)
SELECT outcome, COALESCE(reason, '["other reasons", null, null, null]') AS reason,
    sum(attempts)::bigint AS attempts, EXTRACT(EPOCH FROM now() - max(at))::float8 AS last_s
FROM (TABLE latest UNION ALL TABLE counted) AS failed
GROUP BY outcome, reason ORDER BY attempts DESC, last_s LIMIT $1
"""


async def count_failures(pool: asyncpg.Pool, limit: int) -> list[Row]:
    """Count the attempts of the last hour that failed by reason, the commonest first.

    Returns:
        outcome, phase (how far it came), relay, smtp_code, enhanced_code, attempts, last_s (how
        long ago the last was, to a minute).
    """
    return [
        {'outcome': row['outcome'], **reason_fields(row['reason'])}
        | {'attempts': row['attempts'], 'last_s': row['last_s']}
        for row in await pool.fetch(FAILURES_SQL, limit)
    ]


QUANTILES = (0.5, 0.95, 0.99)
DURATIONS_SQL = f"""
SELECT count(*) AS attempts,
    percentile_cont($1::float8[]) WITHIN GROUP (ORDER BY duration_ms) AS quantiles_ms
FROM (
    SELECT duration_ms FROM email_attempts WHERE recorded_at > now() - interval '5 minutes'
    LIMIT {MOST_LATEST}
) AS latest
"""
COUNTED_DURATIONS_SQL = f"""
SELECT name::int AS bucket, sum(attempts)::bigint AS attempts FROM mail_history
WHERE span_s = {MINUTE_SPAN_S} AND dimension = 'duration' AND at > now() - interval '6 minutes'
GROUP BY name
"""


async def read_durations(pool: asyncpg.Pool) -> dict[float, float]:
    """Return how long attempts of the last five minutes took, in seconds by quantile.

    Without attempts there are none. Of very many, those are told that are counted, to a tenth.
    """
    [latest] = await pool.fetch(DURATIONS_SQL, QUANTILES)
    if latest['attempts'] == MOST_LATEST:
        buckets = dict(map(tuple, await pool.fetch(COUNTED_DURATIONS_SQL)))
        if buckets:
            return {q: quantile_ms(buckets, q) / 1000 for q in QUANTILES}
    return {q: ms / 1000 for q, ms in zip(QUANTILES, latest['quantiles_ms'] or (), strict=False)}


ATTEMPTS_BY_WORKER_SQL = f"""
WITH latest AS (
    SELECT worker, outcome, started_at AS at, 1 AS attempts FROM email_attempts
    WHERE recorded_at >= GREATEST((SELECT counted_until FROM mail_history_progress),
                                  now() - interval '1 day')
      AND started_at > now() - interval '1 day'
    LIMIT {MOST_LATEST}
), counted AS (
    SELECT name, outcome, at, attempts FROM mail_history
    WHERE span_s = {MINUTE_SPAN_S} AND dimension = 'worker' AND at > now() - interval '1 day'
)
SELECT worker, outcome, sum(attempts)::bigint AS day,
    COALESCE(sum(attempts) FILTER (WHERE at > now() - interval '1 hour'), 0)::bigint AS hour
FROM (TABLE latest UNION ALL TABLE counted) AS ended
GROUP BY worker, outcome ORDER BY worker, outcome
"""


async def count_attempts(pool: asyncpg.Pool) -> list[Row]:
    """Count attempts by worker and outcome.

    Returns:
        worker, outcome, hour (the last one), day (the last 24 hours).
    """
    return rows_of(await pool.fetch(ATTEMPTS_BY_WORKER_SQL))
