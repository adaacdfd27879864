"""The traces that workers, duties and services leave in PostgreSQL."""

import json
from typing import Any

import asyncpg

from db.states import IS_SENDING
from db.times import Row, elapsed_s, rows_of

# A lease that runs is the proof of a life: somebody renewed it seconds ago. A duty's run is a
# trace.
SEEN_WORKERS_SQL = f"""
SELECT worker, sum(sending)::bigint AS sending, bool_or(alive) AS alive,
    max(seen_at) AS last_seen_at, {elapsed_s('max(seen_at)')} AS last_seen_s
FROM (
    SELECT claimed_by AS worker, count(*) AS sending, bool_or(lease_expires_at > now()) AS alive,
        max(claimed_at) AS seen_at
    FROM mail_outbox WHERE {IS_SENDING} GROUP BY claimed_by
    UNION ALL
    SELECT worker, 0, bool_or(finished_at IS NULL AND lease_expires_at > now()),
        max(COALESCE(finished_at, started_at))
    FROM cron_runs
    WHERE slot > now() - interval '1 hour' AND started_at > now() - interval '1 hour'
    GROUP BY worker
) AS seen
GROUP BY worker ORDER BY last_seen_at DESC
"""


async def read_seen_workers(pool: asyncpg.Pool) -> list[Row]:
    """Return the workers that left a trace in PostgreSQL within the hour, the latest first.

    Returns:
        worker, sending (e-mails it holds), alive (True: it holds a lease that runs), last_seen_at,
        last_seen_s.
    """
    return rows_of(await pool.fetch(SEEN_WORKERS_SQL))


# By the primary key, a few rows of each duty: the table holds weeks of runs, and screens ask every
# few seconds.
DUTIES_SQL = """
WITH RECURSIVE duties AS (
    (SELECT duty FROM cron_runs ORDER BY duty LIMIT 1)
    UNION ALL
    SELECT (SELECT duty FROM cron_runs WHERE duty > duties.duty ORDER BY duty LIMIT 1)
    FROM duties WHERE duties.duty IS NOT NULL
)
SELECT last.duty, slot, worker, started_at, finished_at,
    CASE WHEN finished_at IS NOT NULL THEN outcome
        WHEN lease_expires_at > now() THEN 'running' ELSE 'cut off' END AS outcome,
    affected, detail, EXTRACT(EPOCH FROM now() - started_at)::float8 AS started_s, (
        SELECT finished_at FROM cron_runs WHERE duty = last.duty AND outcome = 'done'
        ORDER BY slot DESC LIMIT 1
    ) AS succeeded_at
FROM duties CROSS JOIN LATERAL (
    SELECT * FROM cron_runs WHERE duty = duties.duty ORDER BY slot DESC LIMIT 1
) AS last ORDER BY last.duty
"""


async def read_duties(pool: asyncpg.Pool) -> list[Row]:
    """Return the last run of each cron duty.

    Returns:
        duty, slot, worker, started_at, started_s, finished_at, outcome, affected; detail: what the
        job returned, or {'error': ...}, text where what was stored is no JSON, as when it was too
        long; succeeded_at: when a run last ended well, this one or an earlier one, None when none
        did.
    """
    rows = rows_of(await pool.fetch(DUTIES_SQL))
    return [row | {'detail': _detail(row['detail'])} for row in rows]


def _detail(stored: str | None) -> Any:
    try:
        return stored and json.loads(stored)
    except ValueError:
        return stored


SERVICES_SQL = """
SELECT DISTINCT ON (service_name) service_name AS service, status, response_time_ms,
    error_message AS error, checked_at,
    EXTRACT(EPOCH FROM now() - checked_at)::float8 AS checked_s
FROM mail_service_health WHERE checked_at > now() - interval '1 day'
ORDER BY service_name, checked_at DESC
"""


async def read_services(pool: asyncpg.Pool) -> list[Row]:
    """Return what the last check within a day said of each service.

    Returns:
        service, status, response_time_ms, error, checked_at, checked_s.
    """
    return rows_of(await pool.fetch(SERVICES_SQL))
