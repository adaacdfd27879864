"""Waking the workers from an application: Redis first, PostgreSQL when Redis refuses."""

import asyncio
from typing import Literal

import asyncpg
import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

log = structlog.get_logger()

ENQUEUE_TIMEOUT_S = 2.0
CHANNEL = 'outbound_emails_due'

NOTIFY_SQL = f"SELECT pg_notify('{CHANNEL}', '')"


async def notify(conn: asyncpg.Connection | asyncpg.Pool) -> None:
    """Wake the workers when the caller's transaction commits, or now when it has none open."""
    await conn.execute(NOTIFY_SQL)


async def wake_workers(
    redis: ArqRedis,
    pg: asyncpg.Connection | asyncpg.Pool,
    email_id: int,
    *,
    queue_name: str | None = None,
) -> Literal['redis', 'notify', 'sweep']:
    """Have a committed e-mail sent at once; never fails, because the sweep delivers it anyway.

    Call it after the commit: a worker that is woken earlier finds no row.

    Args:
        queue_name: 'high_priority' when the workers run with QUEUE_ROUTING; by default the client's
            own default queue.
    Returns:
        What will wake a worker: the job in Redis, a PostgreSQL NOTIFY, or nothing before the next
            sweep.
    """
    try:
        async with asyncio.timeout(ENQUEUE_TIMEOUT_S):  # a frozen Redis must not hold up a request
            await redis.enqueue_job('send_email', email_id, _queue_name=queue_name)
    except (RedisError, OSError) as error:
        log.warning(
            'redis refused the job', email_id=email_id, error=str(error) or type(error).__name__
        )
    else:
        return 'redis'
    try:
        await notify(pg)
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        log.warning(
            'left to the sweep', email_id=email_id, error=str(error) or type(error).__name__
        )
        return 'sweep'
    return 'notify'
