"""Webhooks: where events go, which, and with which secrets.

Each change and the triggers that it takes are one transaction. Functions here raise
asyncpg.PostgresError or OSError when the connection or the statement fails; nothing was changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from db.references import AnyConnection
from db.times import Row, rows_of
from db.webhook_capture import arm

MOST_WEBHOOKS = 100  # each of them is a row more for every event that it wants
PREVIOUS_SECRET_HOURS = 24  # so long both sign after a rotation
ARM_TRIES, ARM_PAUSE_S = 5, 0.3

_COLUMNS = """w.id, w.url, w.description, w.event_types, w.organization_id, w.enabled,
    w.disabled_reason, w.created_at, w.created_by, w.failures, w.failing_since, w.cool_until,
    w.last_error, w.last_delivered_at,
    CASE WHEN w.previous_secret_until > now() THEN w.previous_secret_until END
        AS previous_secret_until"""
# What waits is counted as far as it is told: of a receiver that is down it may be a million.
MOST_COUNTED = 10_000
READ_WEBHOOKS_SQL = f"""
SELECT {_COLUMNS}, COALESCE(d.waiting, 0) AS waiting, d.oldest_waiting_at
FROM mail_webhooks AS w
LEFT JOIN LATERAL (
    SELECT count(*) AS waiting, min(occurred_at) AS oldest_waiting_at FROM (
        SELECT occurred_at FROM mail_webhook_deliveries
        WHERE webhook_id = w.id AND status = 'waiting' ORDER BY next_retry_at LIMIT {MOST_COUNTED}
    ) AS counted
) AS d ON true
WHERE ($1::text IS NULL OR w.organization_id = $1) AND ($2::bigint IS NULL OR w.id = $2)
ORDER BY w.id
"""


async def read_webhooks(
    pool: asyncpg.Pool, *, organization_id: str | None = None, webhook_id: int | None = None
) -> list[Row]:
    """Return webhooks without their secrets, and how many deliveries wait, up to MOST_COUNTED.

    Args:
        organization_id: Only this one's; None: all.
    """
    return rows_of(await pool.fetch(READ_WEBHOOKS_SQL, organization_id, webhook_id))


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """What a webhook is added with; None for event_types: all of them."""

    url: str
    secret: str
    event_types: Sequence[str] | None
    organization_id: str | None
    description: str | None
    created_by: str


ADD_WEBHOOK_SQL = f"""
INSERT INTO mail_webhooks (url, secret, event_types, organization_id, description, created_by)
SELECT $1, $2, $3, $4, $5, $6 WHERE (SELECT count(*) FROM mail_webhooks) < {MOST_WEBHOOKS}
RETURNING id
"""


async def add_webhook(pool: asyncpg.Pool, new: NewWebhook) -> int | None:
    """Store a webhook. Returns its id; None when there are MOST_WEBHOOKS already."""

    async def change(conn: AnyConnection) -> int | None:
        webhook_id: int | None = await conn.fetchval(
            ADD_WEBHOOK_SQL, new.url, new.secret, new.event_types, new.organization_id,
            new.description, new.created_by,
        )  # fmt: skip
        return webhook_id

    return await _changed(pool, change)


REMOVE_WEBHOOK_SQL = 'DELETE FROM mail_webhooks WHERE id = $1 RETURNING id'


async def remove_webhook(pool: asyncpg.Pool, webhook_id: int) -> bool:
    """Remove a webhook; its deliveries that wait are dead within a day.

    Returns:
        Whether there was such a webhook.
    """

    async def change(conn: AnyConnection) -> int | None:
        found: int | None = await conn.fetchval(REMOVE_WEBHOOK_SQL, webhook_id)
        return found

    return await _changed(pool, change) is not None


ENABLE_WEBHOOK_SQL = """
UPDATE mail_webhooks SET enabled = $2, disabled_reason = $3, failures = 0, failing_since = NULL,
    cool_until = NULL
WHERE id = $1 RETURNING id
"""


async def enable_webhook(
    pool: asyncpg.Pool, webhook_id: int, *, enabled: bool, reason: str | None = None
) -> bool:
    """Let events go there, or not any more. Returns whether there is such a webhook.

    Args:
        reason: Why it is disabled.
    """

    async def change(conn: AnyConnection) -> int | None:
        found: int | None = await conn.fetchval(ENABLE_WEBHOOK_SQL, webhook_id, enabled, reason)
        return found

    return await _changed(pool, change) is not None


ROTATE_SECRET_SQL = f"""
UPDATE mail_webhooks SET previous_secret = secret, secret = $2,
    previous_secret_until = now() + interval '{PREVIOUS_SECRET_HOURS} hours'
WHERE id = $1 RETURNING id
"""


async def rotate_secret(pool: asyncpg.Pool, webhook_id: int, secret: str) -> bool:
    """Sign with another secret, and for a day with the one before as well.

    Returns:
        Whether there is such a webhook.
    """
    return await pool.fetchval(ROTATE_SECRET_SQL, webhook_id, secret) is not None


Change = Callable[[AnyConnection], Awaitable[int | None]]


async def _changed(pool: asyncpg.Pool, change: Change) -> int | None:
    """Make a change and the triggers that it takes, in one transaction, tried several times.

    Writers wait behind a trigger that is made for as long as that waits for others: not long.
    """
    for left in reversed(range(ARM_TRIES)):
        try:
            async with pool.acquire() as conn, conn.transaction():
                found = await change(conn)
                await arm(conn)
                return found
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if not left:
                raise
        await asyncio.sleep(ARM_PAUSE_S)
    return None
