"""How many e-mails organisations may queue in a day, and how many they have queued.

A trigger counts and refuses, see db/quota_triggers.py; it is there while a quota is.
"""

from dataclasses import dataclass
from typing import Any

import asyncpg

EVERYBODY = '*'  # each organisation that has no quota of its own

SET_QUOTA_SQL = """
INSERT INTO mail_quotas (organization_id, emails_per_day, time_zone, created_by)
VALUES ($1, $2, $3, $4)
ON CONFLICT (organization_id) DO UPDATE SET emails_per_day = excluded.emails_per_day,
    time_zone = excluded.time_zone, created_by = excluded.created_by, updated_at = now()
"""


@dataclass(frozen=True, slots=True)
class Quota:
    """What an organisation may queue.

    Attributes:
        organization_id: EVERYBODY stands for those without a quota of their own.
        emails_per_day: None: as many as it likes.
        time_zone: In which its day begins at midnight.
    """

    organization_id: str
    emails_per_day: int | None
    time_zone: str = 'UTC'


async def set_quota(pool: asyncpg.Pool, quota: Quota, created_by: str | None) -> None:
    """Store a quota, in the place of one that was there.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was changed. The
            first quota waits up to 3 s for those who are writing to the outbox.
    """
    await pool.execute(
        SET_QUOTA_SQL, quota.organization_id, quota.emails_per_day, quota.time_zone, created_by
    )


REMOVE_QUOTA_SQL = 'DELETE FROM mail_quotas WHERE organization_id = $1 RETURNING true'


async def remove_quota(pool: asyncpg.Pool, organization_id: str) -> bool:
    """Take a quota away. Returns whether there was one."""
    return bool(await pool.fetchval(REMOVE_QUOTA_SQL, organization_id))


# Those with a quota of their own, whether or not they have queued; of others those who have. The
# fullest first.
READ_QUOTAS_SQL = """
WITH everybody AS (SELECT * FROM mail_quotas WHERE organization_id = '*'),
named AS (
    SELECT m.organization_id, m.emails_per_day, m.time_zone, true AS is_own FROM mail_quotas AS m
    WHERE m.organization_id <> '*'
    UNION ALL
    SELECT u.organization_id, e.emails_per_day, e.time_zone, false
    FROM everybody AS e JOIN mail_quota_use AS u ON u.day = (now() AT TIME ZONE e.time_zone)::date
    WHERE NOT EXISTS (SELECT FROM mail_quotas AS m WHERE m.organization_id = u.organization_id)
    UNION ALL
    SELECT organization_id, emails_per_day, time_zone, true FROM everybody
)
SELECT n.*, COALESCE(u.emails, 0) AS queued,
    ((now() AT TIME ZONE n.time_zone)::date + 1)::timestamp AT TIME ZONE n.time_zone AS resets_at,
    count(*) OVER () AS total
FROM named AS n LEFT JOIN mail_quota_use AS u
    ON u.organization_id = n.organization_id AND u.day = (now() AT TIME ZONE n.time_zone)::date
WHERE $1::text IS NULL OR n.organization_id = $1
ORDER BY COALESCE(u.emails, 0)::float8 / NULLIF(n.emails_per_day, 0) DESC NULLS LAST, 1
LIMIT $2
"""


async def read_quotas(
    pool: asyncpg.Pool, *, limit: int, organization_id: str | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many there are, and the first of them, the fullest first.

    Returns:
        Rows with organization_id, emails_per_day, time_zone, is_own, queued (today), resets_at.
    """
    rows = [dict(row) for row in await pool.fetch(READ_QUOTAS_SQL, organization_id, limit)]
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows


QUOTA_OF_SQL = """
SELECT emails_per_day, time_zone FROM mail_quotas WHERE organization_id = $1
"""


async def quota_of(pool: asyncpg.Pool, organization_id: str) -> Quota | None:
    """Return the quota that an organisation has of its own."""
    row = await pool.fetchrow(QUOTA_OF_SQL, organization_id)
    return None if row is None else Quota(organization_id, *row)
