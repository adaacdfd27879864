"""Waking the workers from an application: Redis first, PostgreSQL when Redis refuses."""

import asyncio
from typing import Literal

import asyncpg
import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.pools import DATABASE_DOWN
from db.troubles import words_of
from db.wakeups import notify
from fleet.wording import redis_said

log = structlog.get_logger()

ENQUEUE_TIMEOUT_S = 2.0


async def wake_workers(
    redis: ArqRedis, pg: asyncpg.Connection | asyncpg.Pool, email_id: int, *, queue_name: str | None = None
) -> Literal['redis', 'notify', 'sweep']:
    """Have a committed e-mail sent at once; never fails, because the sweep delivers it anyway.

    Call it after the commit: a worker that is woken earlier finds no row.

    Args:
        queue_name: 'high_priority' when the workers run with QUEUE_ROUTING; by default the client's own default queue.
    Returns:
        What will wake a worker: the job in Redis, a PostgreSQL NOTIFY, or nothing before the next sweep.
    """
    try:
        async with asyncio.timeout(ENQUEUE_TIMEOUT_S):  # a frozen Redis must not hold up a request
            await redis.enqueue_job('send_email', email_id, _queue_name=queue_name)
    except (RedisError, OSError) as error:
        said = redis_said(error, queue_name or redis.default_queue_name)
        log.warning('redis refused the job', email_id=email_id, error=said)
    else:
        return 'redis'
    try:
        await notify(pg)
    except DATABASE_DOWN as error:
        log.warning('left to the sweep', email_id=email_id, error=words_of(error))
        return 'sweep'
    return 'notify'
