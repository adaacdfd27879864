"""The slots of the cron duties: PostgreSQL decides who runs one, and remembers every run."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import asyncpg

SLOT_LEASE_S = 60.0

# The slot is counted by the database's clock, so machines that disagree about the time agree about
# the slot.
OPEN_DUTIES_SQL = """
SELECT duty FROM unnest($1::text[], $2::integer[]) AS d (duty, every_s)
WHERE NOT EXISTS (
    SELECT FROM cron_runs AS r
    WHERE r.duty = d.duty AND r.slot = to_timestamp(
        floor(extract(epoch FROM now()) / d.every_s) * d.every_s)
      AND (r.finished_at IS NOT NULL OR r.lease_expires_at > now())
)
"""


async def open_duties(pool: asyncpg.Pool, every_s: Mapping[str, int]) -> set[str]:
    """Return the duties whose current slot nobody has run or holds.

    Only for these is claim_slot worth its lock.

    Args:
        every_s: The length of a slot, by duty.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    rows = await pool.fetch(OPEN_DUTIES_SQL, list(every_s), list(every_s.values()))
    return {row['duty'] for row in rows}


LOCK_DUTY_SQL = 'SELECT pg_advisory_xact_lock(hashtextextended($1, 0))'

# A run that was cut off holds its slot until its lease is over. Any unfinished run of the duty
# holds off the next slot.
CLAIM_SLOT_SQL = """
INSERT INTO cron_runs (duty, slot, worker, lease_expires_at)
SELECT $1, slot.at, $3, now() + $4 * interval '1 second'
FROM (SELECT to_timestamp(floor(extract(epoch FROM now()) / $2) * $2) AS at) AS slot
WHERE ($5::float8 IS NULL OR slot.at > now() - $5 * interval '1 second')
  AND NOT EXISTS (SELECT FROM cron_runs WHERE duty = $1 AND finished_at IS NULL
      AND lease_expires_at > now())
ON CONFLICT (duty, slot) DO UPDATE
SET worker = excluded.worker, started_at = now(), lease_expires_at = excluded.lease_expires_at
WHERE cron_runs.finished_at IS NULL
RETURNING slot
"""


async def claim_slot(
    pool: asyncpg.Pool, duty: str, every_s: int, worker: str, *, max_age_s: float | None = None
) -> datetime | None:
    """Claim the current slot of a duty.

    Args:
        every_s: The length of a slot; slots are aligned to midnight UTC.
        max_age_s: Do not claim a slot that began longer ago than this.
    Returns:
        The slot's beginning, or None when it is finished, held by somebody, or an earlier run has
        not ended.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(LOCK_DUTY_SQL, duty)
        slot: datetime | None = await conn.fetchval(
            CLAIM_SLOT_SQL, duty, every_s, worker, SLOT_LEASE_S, max_age_s
        )
    return slot


RENEW_SLOT_SQL = """
UPDATE cron_runs SET lease_expires_at = now() + $4 * interval '1 second'
WHERE duty = $1 AND slot = $2 AND worker = $3 AND finished_at IS NULL
"""


async def renew_slot(pool: asyncpg.Pool, duty: str, slot: datetime, worker: str) -> None:
    """Keep a running slot."""
    await pool.execute(RENEW_SLOT_SQL, duty, slot, worker, SLOT_LEASE_S)


FINISH_SLOT_SQL = """
UPDATE cron_runs SET finished_at = now(), outcome = $4, affected = $5, detail = $6
WHERE duty = $1 AND slot = $2 AND worker = $3 AND finished_at IS NULL
"""


async def finish_slot(
    pool: asyncpg.Pool, duty: str, slot: datetime, worker: str, outcome: str, result: dict[str, Any]
) -> None:
    """Record how a run ended.

    Args:
        outcome: 'done' or 'error'.
        result: What the job returned, or {'error': ...}.
    """
    detail = json.dumps(result, default=str)[:2000]
    await pool.execute(FINISH_SLOT_SQL, duty, slot, worker, outcome, result.get('affected'), detail)


GIVE_UP_SLOT_SQL = (
    'DELETE FROM cron_runs WHERE duty = $1 AND slot = $2 AND worker = $3 AND finished_at IS NULL'
)


async def give_up_slot(pool: asyncpg.Pool, duty: str, slot: datetime, worker: str) -> None:
    """Return a slot whose run a shutdown cut off, so that another worker runs it at once."""
    await pool.execute(GIVE_UP_SLOT_SQL, duty, slot, worker)


REMOVE_RUNS_SQL = "DELETE FROM cron_runs WHERE slot < now() - $1 * interval '1 day'"


async def remove_old_runs(pool: asyncpg.Pool, older_than_days: int) -> None:
    """Forget runs of long ago."""
    await pool.execute(REMOVE_RUNS_SQL, older_than_days)
