"""What was counted of attempts, by time and by name: see db/history.py for what a row is."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg

# Steps begin where the clock has a multiple of them. What is not complete yet is not told.
SERIES_SQL = """
SELECT to_timestamp(floor(EXTRACT(EPOCH FROM at) / $1) * $1) AS at, outcome,
    sum(attempts)::bigint AS attempts
FROM mail_history
WHERE span_s = $2 AND dimension = 'all' AND at >= $3 AND at < $4
GROUP BY 1, 2 ORDER BY 1, 2
"""
LATENCIES_SQL = """
SELECT to_timestamp(floor(EXTRACT(EPOCH FROM at) / $1) * $1) AS at, name::int AS bucket,
    sum(attempts)::bigint AS attempts
FROM mail_history
WHERE span_s = $2 AND dimension = 'latency' AND at >= $3 AND at < $4
GROUP BY 1, 2 ORDER BY 1, 2
"""
WINDOW_SQL = """
SELECT counted_until,
    to_timestamp(floor(EXTRACT(EPOCH FROM counted_until - $2::interval) / $1) * $1) AS since,
    EXTRACT(EPOCH FROM now() - counted_until)::float8 AS age_s
FROM mail_history_progress
"""


class CountedSpan(NamedTuple):
    """What was counted between two times, by the beginnings of steps.

    Attributes:
        age_s: How long ago `until` is.
        outcomes: How many attempts ended how.
        latencies: How many accepted e-mails had waited how long, by bucket.
    """

    since: datetime
    until: datetime
    age_s: float
    outcomes: Mapping[datetime, Mapping[str, int]]
    latencies: Mapping[datetime, Mapping[int, int]]


async def read_counted(
    pool: asyncpg.Pool, span_s: int, step_s: int, window: timedelta
) -> CountedSpan:
    """Return what was counted up to now, in steps.

    Args:
        span_s: Of the rows that are read, see db.history; divides step_s.
        step_s: How long a time one step is.
        window: How long the whole is.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    [(until, since, age_s)] = await pool.fetch(WINDOW_SQL, step_s, window)
    outcomes: dict[datetime, dict[str, int]] = {}
    for at, outcome, attempts in await pool.fetch(SERIES_SQL, step_s, span_s, since, until):
        outcomes.setdefault(at, {})[outcome] = attempts
    latencies: dict[datetime, dict[int, int]] = {}
    for at, bucket, attempts in await pool.fetch(LATENCIES_SQL, step_s, span_s, since, until):
        latencies.setdefault(at, {})[bucket] = attempts
    return CountedSpan(since, until, max(age_s, 0.0), outcomes, latencies)


BY_NAME_SQL = """
WITH counted AS (
    SELECT name, outcome, sum(attempts)::bigint AS attempts FROM mail_history
    WHERE span_s = $1 AND dimension = $2 AND at >= now() - $3::interval GROUP BY name, outcome
), most AS (
    SELECT name FROM counted GROUP BY name ORDER BY sum(attempts) DESC, name LIMIT $4
)
SELECT name, outcome, attempts FROM counted WHERE name IN (SELECT name FROM most)
"""


async def count_by_name(
    pool: asyncpg.Pool, span_s: int, dimension: str, window: timedelta, limit: int
) -> dict[str, dict[str, int]]:
    """Count the outcomes of the names that had the most attempts."""
    counted: dict[str, dict[str, int]] = {}
    for name, outcome, attempts in await pool.fetch(BY_NAME_SQL, span_s, dimension, window, limit):
        counted.setdefault(name, {})[outcome] = attempts
    return counted
