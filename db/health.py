"""What check_service_health found, one row per service and check."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from db.results import storable


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """One service at one moment; field names are service_health's columns."""

    service_name: str
    status: str  # 'up' or 'down'
    response_time_ms: int
    error_message: str | None


RECORD_HEALTH_SQL = """
INSERT INTO mail_service_health (service_name, status, response_time_ms, error_message, checked_at)
SELECT *, now() FROM unnest($1::text[], $2::text[], $3::integer[], $4::text[])
"""


async def record_health(pool: asyncpg.Pool, findings: Sequence[ServiceCheck]) -> None:
    """Write the findings of one check."""
    await pool.execute(
        RECORD_HEALTH_SQL,
        [f.service_name for f in findings],
        [f.status for f in findings],
        [f.response_time_ms for f in findings],
        [storable(f.error_message)[:1000] if f.error_message else None for f in findings],
    )


# Where service_health may be the application's, see 0004_adoption.sql, only what this program
# writes is forgotten.
REMOVE_HEALTH_SQL = """
DELETE FROM mail_service_health
WHERE checked_at < now() - $1 * interval '1 day' AND (
    service_name = ANY('{postgresql,redis_queue,redis_cache,mongodb}'::text[])
        OR starts_with(service_name, 'smtp_')
    OR EXISTS (SELECT FROM table_origins WHERE name = 'service_health' AND made_here))
"""


async def remove_old_health(pool: asyncpg.Pool, older_than_days: int) -> None:
    """Forget checks of long ago."""
    await pool.execute(REMOVE_HEALTH_SQL, older_than_days)
