"""What operators have paused.

PostgreSQL keeps it; workers hear of a change by NOTIFY, and look themselves as well.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import asyncpg

from db.states import HAS_ATTEMPTS, HAS_NEXT_ATTEMPT, IS_SCHEDULED, IS_UNSCHEDULED

CHANNEL = 'mail_switches_changed'


class SwitchKind(StrEnum):
    """What can be paused."""

    QUEUE = 'queue'
    RELAY = 'relay'
    EMAIL_TYPE = 'email_type'
    CRON = 'cron'


@dataclass(frozen=True, slots=True)
class Switch:
    """One thing that is paused. Without a switch, it runs."""

    kind: SwitchKind
    name: str
    reason: str | None
    paused_at: datetime
    paused_by: str


READ_SWITCHES_SQL = (
    'SELECT kind, name, reason, paused_at, paused_by FROM mail_switches ORDER BY kind, name'
)


async def read_switches(pool: asyncpg.Pool) -> list[Switch]:
    """Return everything that is paused.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    rows = await pool.fetch(READ_SWITCHES_SQL)
    return [
        Switch(
            SwitchKind(row['kind']), row['name'], row['reason'], row['paused_at'], row['paused_by']
        )
        for row in rows
    ]


NOTIFY_CHANGE_SQL = f"SELECT pg_notify('{CHANNEL}', '')"
PAUSE_SQL = """
INSERT INTO mail_switches (kind, name, reason, paused_by)
VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING name
"""


async def pause(
    pool: asyncpg.Pool, kind: SwitchKind, name: str, *, reason: str | None, by: str
) -> bool:
    """Pause something, for all workers, until it is resumed.

    Returns False when it was paused already.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    async with pool.acquire() as conn, conn.transaction():
        changed = await conn.fetchval(PAUSE_SQL, kind.value, name, reason, by) is not None
        await conn.execute(NOTIFY_CHANGE_SQL)
    return changed


RESUME_SQL = 'DELETE FROM mail_switches WHERE kind = $1 AND name = $2 RETURNING name'


async def resume(pool: asyncpg.Pool, kind: SwitchKind, name: str) -> bool:
    """Let something run again. Returns False when it was not paused.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    async with pool.acquire() as conn, conn.transaction():
        changed = await conn.fetchval(RESUME_SQL, kind.value, name) is not None
        await conn.execute(NOTIFY_CHANGE_SQL)
    return changed


# The due index and the youngest rows: every type that matters now, without reading the whole table.
EMAIL_TYPES_SQL = f"""
SELECT DISTINCT email_type FROM (
    (SELECT email_type::text AS email_type FROM mail_outbox
     WHERE {IS_SCHEDULED} LIMIT 20000)
    UNION ALL
    (SELECT email_type::text FROM mail_outbox ORDER BY id DESC LIMIT 20000)
) AS seen
WHERE email_type IS NOT NULL ORDER BY email_type
"""


async def read_email_types(pool: asyncpg.Pool) -> list[str]:
    """Return the e-mail types in use."""
    return [row['email_type'] for row in await pool.fetch(EMAIL_TYPES_SQL)]


DUTY_NAMES_SQL = 'SELECT DISTINCT duty FROM cron_runs ORDER BY duty'


async def read_duty_names(pool: asyncpg.Pool) -> list[str]:
    """Return the cron duties that ever ran."""
    return [row['duty'] for row in await pool.fetch(DUTY_NAMES_SQL)]


WAITING_SQL = f"""
SELECT count(*) FROM mail_outbox
WHERE {HAS_NEXT_ATTEMPT} AND email_type::text = $1
"""


# By the due index, and no further than a page needs.
_SOME = 'SELECT email_type::text AS name FROM mail_outbox WHERE'
WAITING_TYPES_SQL = f"""
SELECT name, count(*) AS emails FROM (
    ({_SOME} {IS_SCHEDULED} AND {HAS_ATTEMPTS} ORDER BY priority, next_retry_at LIMIT $1)
    UNION ALL ({_SOME} {IS_UNSCHEDULED} ORDER BY id LIMIT $1)
) AS waiting GROUP BY 1
"""
MOST_OF_TYPES = 10_000


async def count_waiting_types(pool: asyncpg.Pool) -> tuple[dict[str, int], bool]:
    """Return how many e-mails of each type are to be sent, and whether there may be more.

    More than MOST_OF_TYPES in all are not counted.
    """
    rows = await pool.fetch(WAITING_TYPES_SQL, MOST_OF_TYPES)
    total = sum(row['emails'] for row in rows)
    found = {row['name']: row['emails'] for row in rows if row['name'] is not None}
    return found, total >= MOST_OF_TYPES


async def count_waiting(pool: asyncpg.Pool, email_type: str) -> int:
    """Return how many e-mails of a type are to be sent, now or later."""
    waiting: int = await pool.fetchval(WAITING_SQL, email_type)
    return waiting
